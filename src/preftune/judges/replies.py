"""What an OpenAI-compatible server answered, as Pr(the first response ≻ the second), or why there is no verdict.

A text is a verdict where all of it is one: JSON with a `verdict`, or a last line that is a letter and nothing else. No
letter is looked for within prose. Log-probs of that letter's token, where they are served, say how sure the judge is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .wording import LETTERS

TIE = "TIE"
LEAST_MASS = 0.5  # both letters together; below, the judge would rather have said something else
AROUND = " \t\r\n\"'`*_()[]{}<>.!:,“”‘’▁Ġ"  # may stand around a letter within its token; ▁ and Ġ stand for a space
ALONE = re.compile(r"[\s\"'`*_(\[{<“‘]*(A|B|tie)[\s\"'`*_)\]}>”’.!]*", re.IGNORECASE | re.ASCII)
BOTH = re.compile(
    r"[^a-z]*(?:a[^a-z]*(?:and|or)?[^a-z]*b|b[^a-z]*(?:and|or)?[^a-z]*a)[^a-z]*", re.IGNORECASE | re.ASCII
)
VERSION = re.compile(r"@.*|:.*|-latest|-\d{3,}[\d-]*")
CUT, FILTERED = "the answer was cut off", "a content filter stopped the answer"
ANOTHER = "another model answered"
FINISHED = {"length": CUT, "content_filter": FILTERED}


@dataclass(frozen=True)
class Reply:
    """Pr(first ≻ second), and what it was read from; or None, and why."""

    value: float | None
    read: str | None = None
    why: str = ""


def read_reply(body: object, model: str) -> Reply:
    """The verdict of the body of one answer, which `model` was asked for."""
    if not _same_model(_at(body, "model"), model):
        return Reply(None, why=ANOTHER)
    choice = _at(body, "choices", 0)
    if not isinstance(choice, Mapping):
        return Reply(None, why="the answer has no text")
    if why := FINISHED.get(str(choice.get("finish_reason"))):
        return Reply(None, why=why)
    if _at(choice, "message", "refusal"):
        return Reply(None, why="the judge refused")
    verdict, read, why = _verdict(text_of(body))
    if verdict is None:
        return Reply(None, why=why)
    masses = _masses(_tokens(choice), verdict) if verdict in LETTERS else None
    if masses is None:
        return Reply({LETTERS[0]: 1.0, LETTERS[1]: 0.0, TIE: 0.5}[verdict], read)
    if sum(masses) < LEAST_MASS:
        return Reply(None, why="both letters are improbable")
    return Reply(masses[0] / sum(masses), "log-probs")


def text_of(body: object) -> str:
    """The text of an answer; empty where there is none."""
    text = _at(body, "choices", 0, "message", "content")
    return text if isinstance(text, str) else ""


def serves_logprobs(body: object) -> bool:
    """Whether an answer has the log-probs of more than the tokens that were chosen."""
    return any(_alternatives(token) for token in _tokens(_at(body, "choices", 0)))


def tokens_used(body: object) -> int | None:
    """What the answer says that it took, prompt and answer together."""
    total = _at(body, "usage", "total_tokens")
    return total if isinstance(total, int) and total >= 0 else None


def _at(value: object, *path: str | int) -> Any:
    """What lies there in what a stranger sent; None where nothing does."""
    for step in path:
        if isinstance(step, str) and isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(step, int) and isinstance(value, Sequence) and not isinstance(value, str) and len(value) > step:
            value = value[step]
        else:
            return None
    return value


def _same_model(answered: object, asked: str) -> bool:
    """Whether a name is the one that was asked for, but for an owner before it or a version behind it.

    `gpt-4o-2024-08-06` and `openai/gpt-4o` are `gpt-4o`; `gpt-4o-mini` is not. A server may leave the name out.
    """
    if answered is None:
        return True
    names = [str(name).lower().removesuffix(".gguf").rstrip("/") for name in (answered, asked)]
    if all("/" in name for name in names):
        short, long = sorted(names, key=len)
        return long.endswith(f"/{short.lstrip('/')}") or _is_version_of(long, short)
    short, long = sorted((name.rsplit("/", 1)[-1] for name in names), key=len)
    return _is_version_of(long, short)


def _is_version_of(long: str, short: str) -> bool:
    rest = long.removeprefix(short)
    return bool(short) and long.startswith(short) and (not rest or VERSION.fullmatch(rest) is not None)


def _verdict(text: str) -> tuple[str | None, str | None, str]:
    """The first letter, the second or a tie, what it was read from, and why it is none of them."""
    text = text.strip()
    if not text:
        return None, None, "the answer is empty"
    if text.startswith("{"):
        return _verdict_of_json(text)
    alone = [match[1].upper() for line in text.splitlines() if (match := ALONE.fullmatch(line))]
    last = text.splitlines()[-1]
    if len(set(alone)) > 1 or BOTH.fullmatch(last):
        return None, None, "the answer has both letters"
    if not ALONE.fullmatch(last):
        return None, None, "the last line is no letter alone"
    return alone[-1], "last line", ""


def _verdict_of_json(text: str) -> tuple[str | None, str | None, str]:
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None, None, "the verdict is no whole JSON"
    values = [value for key, value in pairs if key == "verdict"]
    match = ALONE.fullmatch(values[0]) if len(values) == 1 and isinstance(values[0], str) else None
    return (match[1].upper(), "JSON", "") if match else (None, None, "the JSON has no verdict")


def _tokens(choice: object) -> Sequence[Any]:
    tokens = _at(choice, "logprobs", "content")
    return tokens if isinstance(tokens, list) else []


def _alternatives(token: object) -> Sequence[Any]:
    """A token's most probable alternatives, itself among them."""
    tops = _at(token, "top_logprobs")
    if not isinstance(tops, list) or len(tops) < 2:
        return []
    return tops if any(_at(top, "token") == _at(token, "token") for top in tops) else [token, *tops]


def _masses(tokens: Sequence[Any], verdict: str) -> tuple[float, float] | None:
    """Probabilities of both letters where the verdict stands: the last token that is its letter. None if unknown."""
    for token in reversed(tokens):
        if _letter(token) == verdict and (tops := _alternatives(token)):
            first, second = (sum(_probability(top) for top in tops if _letter(top) == letter) for letter in LETTERS)
            return first, second
    return None


def _letter(token: object) -> str:
    text = _at(token, "token")
    return text.strip(AROUND).upper() if isinstance(text, str) else ""


def _probability(token: object) -> float:
    logprob = _at(token, "logprob")
    possible = isinstance(logprob, int | float) and logprob > -1e4  # false for NaN
    return math.exp(min(logprob, 0.0)) if possible else 0.0
