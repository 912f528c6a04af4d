"""What rounds depend on, settled before anything is loaded: who votes, what is trained how, which prompts are held out.

Every round has the same prompts, the same held-out ones and the same reference. What is random in a round follows from
the seed and the round's number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..console import say
from ..data import Prompt, prompt_digest, read_prompts
from ..errors import UserError
from ..judges import REWARD, JudgeSpec, Jury, Named, settle_judges
from ..methods import METHODS, names_of
from ..people import Address, check_installed
from ..study import PolicyFolder, check_drawing, check_overlap, find_policy, settle_run, trained_on
from ..training import Settings

PEOPLE = "people"  # who vote on a page
START = "start"  # what the policy of the round before the first is called


@dataclass(frozen=True)
class Pages:
    """Where people vote, and who does; `enough`: a page with votes is not opened again, whatever is left to answer."""

    address: Address = field(default_factory=Address)
    who: Mapping[str, Any] = field(default_factory=dict)
    enough: bool = False


@dataclass(frozen=True)
class Rounds:
    """Rounds about to be made, or gone on with; nothing in it can be a mistake of the user's any more.

    `jury` is the judge that votes; people do where it has none. `common` are the settings that all methods share.
    `prompts` are sampled from and `held_out` judged on. `settings` is what a folder of rounds must agree in to be gone
    on with.
    """

    method: str
    model: str
    reference: str
    jury: Jury
    pages: Pages
    prompts: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    beta: float | None
    kind: str | None
    samples: int
    max_new_tokens: int
    seed: int
    options: Mapping[str, Any]
    common: Settings
    folder: Path
    caveats: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def voter(self) -> JudgeSpec | None:
        """The judge that votes; None where people do."""
        return next(iter(self.jury.specs), None)

    def place(self, number: int) -> Path:
        """The folder of a round."""
        return self.folder / f"round-{number}"

    def policy(self, number: int) -> PolicyFolder:
        """The policy that a round ended with; before the first one, the start."""
        return find_policy(str(self.place(number))) if number else PolicyFolder(Path(self.model), START, {})

    def seed_of(self, number: int) -> int:
        """What is random in the training of a round starts from this."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}/round {number}".encode()).digest()[:4], "big") >> 1


def settle_rounds(
    method: str,
    *,
    model: str,
    prompts: str | Path,
    voter: Named,
    out: str | Path,
    rounds: int,
    beta: float | None,
    reference: str | None,
    kind: str | None,
    samples: int,
    max_new_tokens: int,
    eval_fraction: float,
    seed: int,
    allow_overlap: bool,
    judging: Mapping[str, Any],
    pages: Pages,
    options: Mapping[str, Any],
) -> Rounds:
    """Check everything about rounds that needs no model. Raises UserError for what the user can mend."""
    folder = Path(out)
    if rounds < 1:
        raise UserError(f"--rounds {rounds}: must be at least 1")
    if not 0 < eval_fraction < 1:
        raise UserError(f"--eval-fraction {eval_fraction}: must be above 0 and below 1; the rest is sampled from")
    if method == "reward":
        raise UserError("reward: trains no policy to sample from; name a method that does, such as ipo")
    if method in METHODS and "max_new_tokens" in names_of(METHODS[method].options):
        options = {**options, "max_new_tokens": max_new_tokens}  # what learns from samples draws as long ones
    run = settle_run(method, out=folder / "round", beta=beta, reference=reference, kind=kind, resume=True, **options)
    check_drawing(samples, max_new_tokens, run.recipe.settings.max_length)
    jury = settle_voter(voter, judging)
    asked, held_out = hold_out(read_prompts(prompts), eval_fraction, seed, prompts)
    seen = trained_on((), model, reference, *(spec.where for spec in jury.specs if spec.where))
    caveats = check_overlap({"--prompts, held out": held_out}, seen, allowed=allow_overlap)
    settings = {
        "method": method,
        "model": model,
        "reference": reference or model,
        "voter": jury.specs[0].name if jury.specs else PEOPLE,
        "judge_model": jury.model,
        "judge_template": jury.wording.version if jury.wording else "",
        "beta": beta,
        "kind": kind,
        "samples": samples,
        "max_new_tokens": max_new_tokens,
        "eval_fraction": eval_fraction,
        "seed": seed,
        "prompts": hashlib.sha256(repr((asked, held_out)).encode("utf-8", "replace")).hexdigest(),
    } | run.recipe.counting()
    return Rounds(
        method=method,
        model=model,
        reference=reference or model,
        jury=jury,
        pages=pages,
        prompts=asked,
        held_out=held_out,
        beta=beta,
        kind=kind,
        samples=samples,
        max_new_tokens=max_new_tokens,
        seed=seed,
        options=options,
        common=run.recipe.settings,
        folder=folder,
        caveats=tuple(caveats),
        settings=settings,
    )


def settle_voter(voter: Named, judging: Mapping[str, Any]) -> Jury:
    """Who votes; no judge where people do. Raises UserError for nobody who can."""
    if voter == PEOPLE:
        check_installed("rounds")
        return settle_judges(None, flag="voter", **judging)
    known = isinstance(voter, str) and voter.startswith(("reward:", "model:", "http://", "https://"))
    if isinstance(voter, str) and not known:
        raise UserError(
            f"--voter {voter}: must be people, reward:DIR, model:DIR, or the http address of an OpenAI-compatible "
            "endpoint" + "; train a reward model first, and name its folder" * (voter == REWARD)
        )
    jury = settle_judges(voter, flag="voter", **judging)
    if jury.gold or len(jury.specs) != 1:
        raise UserError("voter: name one who compares two responses; a reward of one response is none")
    return jury


def hold_out(
    prompts: Sequence[Prompt], fraction: float, seed: int, where: object
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """(prompts to sample from, held-out ones): by content and seed, and no prompt on both sides."""
    distinct = {prompt_digest(prompt): prompt for prompt in reversed(prompts)}
    if alike := len(prompts) - len(distinct):
        say(f"{where}: {alike} prompts say what another one says, and are asked once")
    if len(distinct) < 2:
        raise UserError(f"{where}: holds {len(distinct)} prompt; rounds need two or more, to hold some out")
    order = sorted(distinct, key=lambda digest: hashlib.sha256(f"{seed}/{digest}".encode()).digest())
    count = min(max(round(fraction * len(order)), 1), len(order) - 1)
    return tuple(distinct[digest] for digest in order[count:]), tuple(distinct[digest] for digest in order[:count])
