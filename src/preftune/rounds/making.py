"""All rounds, one after the other, in a folder: made, or gone on with where they stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..console import say
from ..data import write_prompts
from ..errors import UserError
from ..evidence import read_record, write_json
from ..judges import Named
from ..stopping import LOCK, only_writer
from .settled import PEOPLE, Pages, Rounds, settle_rounds
from .stages import ROUND, STAGES
from .telling import Told, conclusions, read_told, record_of

ROUNDS, HELD_OUT = "rounds.json", "held-out.jsonl"


def run_rounds(
    method: str,
    *,
    model: str,
    prompts: str | Path,
    voter: Named,
    out: str | Path,
    rounds: int = 3,
    beta: float | None = None,
    reference: str | None = None,
    kind: str | None = None,
    samples: int = 2,
    max_new_tokens: int = 64,
    eval_fraction: float = 0.2,
    seed: int = 0,
    allow_overlap: bool = False,
    judging: Mapping[str, Any] | None = None,
    pages: Pages | None = None,
    **options: Any,
) -> tuple[tuple[Told, ...], tuple[str, ...]]:
    """Rounds of: sample from the policy, have every two samples compared, train on that, judge against the last round.

    Each round is a folder `out/round-N`, a run's that has its samples and votes too; `out/rounds.json` tells how they
    went. Going on where it stopped gives the same, bit for bit. The reference is the same in all rounds.

    Args:
        method: any that trains a policy.
        model: what the first round samples from, and starts from.
        prompts: the file of prompts; `eval_fraction` of them are held out to judge on.
        voter: `people`, or a judge as `judge_folders` takes one (but not `reward`, which has nothing to be fitted on).
        out: the folder to write, or to go on in.
        rounds: how many; more may be asked for later.
        beta, reference, kind, seed, options: as `train` takes them.
        samples, max_new_tokens: of each policy to each prompt; all pairs that differ are voted on.
        allow_overlap: hold out prompts that the start or the judge learned from, with a caveat.
        judging: `judge_template`, `judge_model` and `judge_budget` of a judge.
        pages: where people vote, and who does.

    Returns how each round went, and what may be concluded. Raises UserError for what the user can mend, and Interrupted
    where people stopped before all was answered.
    """
    settled = settle_rounds(
        method,
        model=model,
        prompts=prompts,
        voter=voter,
        out=out,
        rounds=rounds,
        beta=beta,
        reference=reference,
        kind=kind,
        samples=samples,
        max_new_tokens=max_new_tokens,
        eval_fraction=eval_fraction,
        seed=seed,
        allow_overlap=allow_overlap,
        judging=judging or {},
        pages=pages or Pages(),
        options=options,
    )
    told: list[Told] = []
    said: list[str] = []
    with only_writer(settled.folder):
        begin(settled, rounds)
        for number in range(1, rounds + 1):
            told.append(make_round(settled, number))
            said = conclusions(told, str(settled.settings["voter"]), settled.settings["voter"] == PEOPLE)
            write_json(settled.folder / ROUNDS, record_of(told, dict(settled.settings), said))
    return tuple(told), tuple(said)


def begin(rounds: Rounds, last: int) -> None:
    """Write down what the rounds are. Raises UserError for a folder of something else, or of other rounds."""
    path = rounds.folder / ROUNDS
    if not path.exists():
        if any(place.name != LOCK for place in rounds.folder.iterdir()):
            raise UserError(f"--out {rounds.folder}: is not empty, and holds no rounds; name another folder")
        write_json(path, record_of((), dict(rounds.settings), ()))
    before = read_record(path).get("settings")
    for name, value in rounds.settings.items():
        if not isinstance(before, dict) or before.get(name) != value:
            shown = "other prompts" if name == "prompts" else f"{name} {(before or {}).get(name)!r}, now {value!r}"
            raise UserError(f"--out {rounds.folder}: was begun with {shown}; use the same, or a new --out")
    if rounds.place(last + 1).exists():
        raise UserError(f"--rounds {last}: {rounds.folder} has more already; ask for as many, or more")
    if not (rounds.folder / HELD_OUT).exists():
        write_prompts(rounds.held_out, rounds.folder / HELD_OUT)  # for other judges, later


def make_round(rounds: Rounds, number: int) -> Told:
    """Make what is not there yet of a round."""
    folder = rounds.place(number)
    folder.mkdir(exist_ok=True)
    for file, stage in STAGES:
        if not (folder / file).exists():
            say(f"round {number}: {stage.__name__}")
            stage(rounds, number)
    return read_told(folder / ROUND)
