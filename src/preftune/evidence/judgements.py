"""What judges said of samples: a line per judge and contest in a study's `judgements.jsonl`.

A run is judged by contests of its samples with those of the opponent: the reference, sampled under a seed that no
policy shares. Two controls meet the opponent too: the reference under a third seed, and a response that says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

OPPONENT = "opponent"
COPY = "copy of the reference"
NULL = "null response"
CONTROLS = (COPY, NULL)
JUDGEMENTS_FILE = "judgements.jsonl"
OPPONENTS_FILE = "opponents.jsonl"  # samples of the opponent and of the controls
PEOPLE_JUDGE = "people"  # who judged two runs that met, in an arena
PEOPLE_FILE = "human-votes.jsonl"
IDENTICAL = "the texts are identical"  # a tie, and nobody was asked

Sampled = tuple[str, int]  # a run and the step that its samples are of


@dataclass(frozen=True)
class Judgement:
    """What one judge thinks of `sample` of a run beside sample `other` of `against`, to the same prompt.

    `first` is Pr(the run's is preferred) where the run's was shown first, `second` where it was shown second; one that
    is None is no verdict, and `why` says why. `again`: asked a second time, which tells whether a judge drifts. Of
    people `first` and `second` are the mean of all votes, and `earliest` is the vote that came first.
    """

    judge: str
    run: str
    step: int
    prompt_id: int
    sample: int
    against: str
    against_step: int
    other: int
    first: float | None
    second: float | None
    why: str = ""
    again: bool = False
    earliest: float | None = None

    @property
    def preference(self) -> float | None:
        """F, the mean of both orders; None where there is no verdict."""
        return None if self.first is None or self.second is None else (self.first + self.second) / 2

    @property
    def contest(self) -> tuple[str, str, int, int, int, str, int, int, bool]:
        """What was judged, by whom."""
        where = (self.judge, self.run, self.step, self.prompt_id, self.sample)
        return (*where, self.against, self.against_step, self.other, self.again)


@dataclass(frozen=True)
class HumanVote:
    """What a person thinks of sample `sample` of a run beside sample `other` of the opponent: `win` is 1, ½ or 0."""

    run: str
    step: int
    prompt_id: int
    sample: int
    other: int
    win: float
    by: str = ""
    both_bad: bool = False

    @property
    def where(self) -> tuple[str, str, int, int, int, int]:
        """What was voted on, by whom."""
        return self.by, self.run, self.step, self.prompt_id, self.sample, self.other
