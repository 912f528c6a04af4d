"""The four stages of a round, each of which ends with a file: what is there is not made again.

samples.jsonl    responses of the last round's policy to each prompt, as they were drawn
ballots.jsonl    the votes on every two of them that differ
run.json         the run that learned from these, from the last round's policy on
round.json       how its policy did against the last round's, on held-out prompts
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ..console import say
from ..data import Ballot, prompt_in, read_ballots, write_ballots
from ..errors import UserError
from ..evidence import write_json
from ..model import load_base, pick_device
from ..study import distinct, draw_responses, train
from ..training import describe_counts
from .settled import Rounds
from .telling import tell
from .voting import judge_policies, voted, weighted

SAMPLES, BALLOTS, RUN, ROUND = "samples.jsonl", "ballots.jsonl", "run.json", "round.json"


def draw(rounds: Rounds, number: int) -> None:
    """Responses of the last round's policy: the μ that this round's pairs are drawn from."""
    last, common = rounds.policy(number - 1), rounds.common
    base = load_base(
        str(last.path), device=pick_device(common.device), where=str(last.path), template=common.template_options
    )
    drawn, counts = draw_responses(
        rounds.prompts,
        base,
        source=last.name,
        samples=rounds.samples,
        max_new_tokens=rounds.max_new_tokens,
        max_length=common.max_length,
        seed=f"{rounds.seed}/round {number}",
        precision=common.precision,
    )
    say(f"round {number}: {len(drawn)} prompts; skipped or shortened: {describe_counts(counts)}")
    write_ballots(drawn, rounds.place(number) / SAMPLES)


def vote(rounds: Rounds, number: int) -> None:
    """Votes on every two responses to a prompt that differ."""
    folder = rounds.place(number)
    drawn = [distinct(ballot) for ballot in read_drawn(folder / SAMPLES)]
    counts = {ballot.prompt: often for ballot, often in drawn if ballot is not None}
    ballots = [ballot for ballot, _ in drawn if ballot is not None]
    say(f"round {number}: {len(drawn) - len(ballots)} of {len(drawn)} prompts have no two different responses")
    if not ballots:
        raise UserError(
            f"{folder}: no prompt has two different responses of {rounds.policy(number - 1).name} to compare; draw "
            "more --samples, or keep the policy nearer to the reference by a larger --beta"
        )
    found = voted(rounds, ballots, folder)
    write_ballots([weighted(ballot, counts[ballot.prompt]) for ballot in found], folder / BALLOTS)


def read_drawn(path: Path) -> list[Ballot]:
    """Responses as they were drawn, alike or not. Raises UserError for a file that is none of ours."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), start=1):
        try:
            row = json.loads(line)
            prompt = prompt_in({name: row[name] for name in ("prompt", "tools") if name in row})
            found.append(
                Ballot(prompt or "", tuple(row["responses"]), (), row["id"], row["source"], tuple(row["ended"]))
            )
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{path}, line {number}: cannot be read; remove the file, and it is drawn again") from None
    return found


def learn(rounds: Rounds, number: int) -> None:
    """A run on the votes of this round, from the last round's policy on, held to the reference of all rounds."""
    folder = rounds.place(number)
    train(
        rounds.method,
        read_ballots(folder / BALLOTS),
        model=str(rounds.policy(number - 1).path),
        reference=rounds.reference,
        out=folder,
        beta=rounds.beta,
        kind=rounds.kind,
        seed=rounds.seed_of(number),
        resume=True,
        **rounds.options,
    )


def judge(rounds: Rounds, number: int) -> None:
    """The new policy against the last round's on held-out prompts, by whoever voted."""
    study = judge_policies(rounds, number)
    folder = rounds.place(number)
    told = tell(number, rounds.policy(number - 1).name, read_ballots(folder / BALLOTS), study)
    write_json(folder / ROUND, vars(told))


STAGES: tuple[tuple[str, Callable[[Rounds, int], None]], ...] = (
    (SAMPLES, draw),
    (BALLOTS, vote),
    (RUN, learn),
    (ROUND, judge),
)
