"""A model behind an OpenAI-compatible endpoint as a judge.

The first question settles the way to ask: with log-probs if the server has them, else for JSON, else for a letter.
Every answer with a verdict is kept on disk when it is there: who goes on after an interruption pays for nothing twice.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2

from ..console import bar, say
from ..errors import UserError
from ..model import cache_folder
from .budgets import Budget, Meter, parse_budget
from .calls import KEY, PATH, REFUSED, USED_UP, Answer, Patience, ask, is_loopback, open_client, read_key, shown
from .kept import Kept, digest
from .opinions import Contest, Opinion
from .replies import ANOTHER, Reply, read_reply, serves_logprobs, text_of
from .ways import BY_NAME, PARAMETERS, WAYS, Way
from .wording import SYSTEM, Wording, read_wording

SILENT = 16  # questions in a row without an answer, after which no further one is asked
BARREN = 40  # first answers without a verdict among them, after which none is expected
ANSWER_TOKENS = 8


@dataclass(frozen=True)
class Question:
    """A contest in one order, as it is sent. Equal ones are asked once."""

    text: str

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": self.text}]

    @property
    def tokens(self) -> int:
        """About how many tokens the question and its answer have: one for three bytes, rather too many than too few."""
        return len((SYSTEM + self.text).encode("utf-8", "replace")) // 3 + ANSWER_TOKENS


@dataclass(frozen=True)
class Estimate:
    """What is still to be asked: calls and roughly tokens; `kept` questions are answered already."""

    calls: int
    tokens: int
    kept: int

    def __str__(self) -> str:
        return f"{self.calls:,} calls of about {self.tokens:,} tokens in all; {self.kept:,} answers are kept already"


class Endpoint:
    """A model behind an OpenAI-compatible endpoint, asked in both orders at temperature 0.

    Make one with `open_endpoint`. A budget is of this object, whatever is asked of it.
    """

    def __init__(
        self,
        url: httpx2.URL,
        model: str,
        wording: Wording,
        meter: Meter,
        kept: Kept,
        *,
        at_once: int,
        patience: Patience,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        self.url, self.model, self.wording = url, model, wording
        self.meter, self.kept, self.at_once, self.patience = meter, kept, at_once, patience
        self.read: Counter[str] = Counter()  # answers, by what they were read from
        self._stop = threading.Event()
        self._pause = pause or self._stop.wait
        self._lock, self._settling = threading.Lock(), threading.Lock()
        self._server = digest(self._place, model)
        self._way = BY_NAME.get(kept.way(self._server) or "")
        self._announced = self._heard = False
        self._silent = 0
        self._said: Counter[str] = Counter()  # reasons of answers that came; a verdict has the empty one

    @property
    def name(self) -> str:
        return f"endpoint:{self.model}"

    @property
    def description(self) -> str:
        template = f"by template {self.wording.name} ({self.wording.version})"
        return f"{self.model} behind {self._place}, asked in both orders {template}"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "endpoint": self._place,
            "model": self.model,
            "template": self.wording.name,
            "template_version": self.wording.version,
            **PARAMETERS,
        }

    @cached_property
    def _place(self) -> str:
        """Host and path: what identifies a server."""
        port = f":{self.url.port}" if self.url.port else ""
        return f"{self.url.host}{port}{self.url.path}"

    def announce(self) -> str:
        """Which texts leave for where."""
        texts = "prompts, and the two responses of every pair in both orders"
        key = f"with the key from {KEY}" if read_key() else f"without a key ({KEY} is not set)"
        if is_loopback(self.url.host):
            return f"judge {self.name}: {texts}, go to {self.url} on this machine, {key}"
        open_ = "" if self.url.scheme == "https" else ", unencrypted"
        return f"judge {self.name}: {texts}, leave this machine for {self.url.host} ({self.url}){open_}, {key}"

    def estimate(self, contests: Sequence[Contest]) -> Estimate:
        """What an opinion of these contests takes, retries not counted."""
        questions = self._questions(contests)
        missing = [question for question in questions if self._known(question) is None]
        tokens = sum(question.tokens for question in missing)
        return Estimate(len(missing), tokens, len(questions) - len(missing))

    def again(self, contests: Sequence[Contest]) -> list[Opinion]:
        """`prefer` without the answers that are kept."""
        return self.prefer(contests, fresh=True)

    def prefer(self, contests: Sequence[Contest], *, fresh: bool = False) -> list[Opinion]:
        """An opinion of every contest, in their order. What is kept is not asked, unless it is to be `fresh`.

        A fresh answer is not kept. Raises UserError where no question can be answered: a server that is down, that
        knows neither key nor model, or that redirects.
        """
        questions = self._questions(contests)
        replies = {} if fresh else {question: known for question in questions if (known := self._known(question))}
        self._said[""] += len(replies)
        missing = [question for question in questions if question not in replies]
        if missing:
            if not self._announced:
                say(self.announce())
                self._announced = True
            replies |= self._ask_all(missing, fresh)
        self.read.update(reply.read for reply in replies.values() if reply.read)
        pairs = ((replies[self._question(one)], replies[self._question(one.swap())]) for one in contests)
        return [_opinion(first, second) for first, second in pairs]

    def _question(self, contest: Contest) -> Question:
        return Question(self.wording.ask(contest))

    def _questions(self, contests: Iterable[Contest]) -> list[Question]:
        """The distinct questions, both orders of a contest side by side."""
        return list(dict.fromkeys(self._question(one) for contest in contests for one in (contest, contest.swap())))

    def _key(self, question: Question, way: Way) -> bytes:
        return digest(self._place, self.model, self.wording.version, question.messages, way.parameters)

    def _known(self, question: Question) -> Reply | None:
        found = self.kept.answer(self._key(question, self._way)) if self._way else None
        return Reply(found[0], found[1]) if found else None

    def _ask_all(self, questions: Sequence[Question], fresh: bool) -> dict[Question, Reply]:
        """Ask many at once, each answer kept when it is there; a mistake that concerns all ends it."""
        self._stop.clear()
        replies = {}
        with open_client(self.url, self.patience, self.at_once) as client, bar(transient=True) as progress:
            pool = ThreadPoolExecutor(self.at_once, thread_name_prefix="judge")
            try:
                asked = {pool.submit(self._reply, client, question, fresh): question for question in questions}
                for done in progress.track(as_completed(asked), total=len(asked), description=self.name):
                    replies[asked[done]] = done.result()
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
        return replies

    def _reply(self, client: httpx2.Client, question: Question, fresh: bool) -> Reply:
        try:
            return self._asked(client, question, fresh)
        except UserError:
            self._stop.set()  # the others need not find out the same
            raise

    def _asked(self, client: httpx2.Client, question: Question, fresh: bool) -> Reply:
        if self._way is None:
            with self._settling:  # one question settles the way, the others wait for it
                if self._way is None:
                    return self._settle(client, question, fresh)
        return self._taken(question, self._way, self._answer(client, question, self._way), fresh)

    def _settle(self, client: httpx2.Client, question: Question, fresh: bool) -> Reply:
        """Ask in one way after the other, until the server takes one and gives what it is for."""
        without = False
        for way in WAYS:
            if way.logprobs and without:
                continue
            answer = self._answer(client, question, way)
            if answer.status in REFUSED:
                continue
            if not text_of(answer.body):  # tells nothing of the server
                break
            without = way.logprobs and not serves_logprobs(answer.body)
            if not without:
                self._way = way
                self.kept.settle(self._server, way.name)
                break
        return self._taken(question, way, answer, fresh)

    def _answer(self, client: httpx2.Client, question: Question, way: Way) -> Answer:
        if self._stop.is_set():
            return Answer(why="it was not asked")
        return ask(
            client,
            self.url.copy_with(path=self.url.path + PATH),
            {"model": self.model, "messages": question.messages, **way.parameters},
            meter=self.meter,
            tokens=question.tokens,
            patience=self.patience,
            heard=self._heard,
            pause=self._pause,
        )

    def _taken(self, question: Question, way: Way, answer: Answer, fresh: bool) -> Reply:
        """What an answer says; kept where it has a verdict."""
        reply = Reply(None, why=answer.why) if answer.why else read_reply(answer.body, self.model)
        if not self._stop.is_set():
            self._note(answer, reply)
        if reply.value is not None and reply.read and not fresh:
            self.kept.add(self._key(question, way), reply.value, reply.read)
        return reply

    def _note(self, answer: Answer, reply: Reply) -> None:
        """Count what came to nothing. Raises UserError where it makes no sense to go on."""
        with self._lock:
            if answer.body is not None and reply.why != ANOTHER:
                self._heard, self._silent = True, 0
                self._said[reply.why] += 1
            elif reply.why != USED_UP and not (self._heard and answer.status in REFUSED):
                self._silent += 1
            if why := self._hopeless(answer, reply):
                raise UserError(f"--judge {self.url}: {why}")

    def _hopeless(self, answer: Answer, reply: Reply) -> str:
        """Why no further question should be asked, and what to do; empty where there is no such reason."""
        if answer.down and not self._heard:
            return f"cannot be reached{answer.says}; start the server or mend the URL"
        if self._silent >= SILENT:
            return (
                f"{SILENT} questions in a row without a usable answer, the last of them: {reply.why}{answer.says}. "
                "What was answered is kept; run the same again to go on"
            )
        if self._said.total() >= BARREN and not self._said[""]:
            why, count = self._said.most_common(1)[0]
            return (
                f"none of its first {BARREN} answers is a verdict (in {count}, {why}); try another model, or a "
                "--judge-template that it answers with a letter alone"
            )
        return ""


def open_endpoint(
    url: str,
    model: str,
    *,
    wording: Wording | None = None,
    budget: str | Budget | None = None,
    at_once: int = 8,
    patience: Patience | None = None,
    folder: Path | None = None,
    pause: Callable[[float], object] | None = None,
) -> Endpoint:
    """The model `model` behind `url`, such as `https://host/v1`, as a judge; nothing is sent yet.

    budget: calls or tokens, as `parse_budget` reads them; what is over it has no verdict. at_once: calls at one time.
    folder: where answers are kept; `judge` in the cache folder if not given. Raises UserError for a URL that is none
    or holds a key, and where the key would be sent in the clear.
    """
    where = _base(url)
    if at_once < 1:
        raise UserError(f"at_once={at_once}: at least one call at a time")
    if not model:
        raise UserError("--judge-model: name the model that the endpoint is to ask")
    return Endpoint(
        where,
        model,
        wording or read_wording(),
        Meter(parse_budget(budget) if isinstance(budget, str) else budget),
        Kept(folder or cache_folder() / "judge"),
        at_once=at_once,
        patience=patience or Patience(),
        pause=pause,
    )


def _base(url: str) -> httpx2.URL:
    """The URL before `/chat/completions`, fit to be asked and shown."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise UserError(f"--judge: not a URL ({error})") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"--judge {shown(parsed)}: give the URL of an endpoint, such as https://host/v1")
    if parsed.userinfo or parsed.query:
        raise UserError(f"--judge {shown(parsed)}: a URL is shown and saved, so no key may stand in it; set {KEY}")
    if read_key() and parsed.scheme == "http" and not is_loopback(parsed.host):
        raise UserError(f"--judge {shown(parsed)}: {KEY} would be sent unencrypted; use https://, or unset it")
    path = parsed.path.rstrip("/").removesuffix(PATH)
    return parsed.copy_with(path=path, fragment=None)


def _opinion(first: Reply, second: Reply) -> Opinion:
    """Both orders together; one that failed takes the verdict with it."""
    told = None if second.value is None else 1 - second.value
    return Opinion(first.value, told, first.why or second.why)
