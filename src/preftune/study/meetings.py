"""Who meets whom before the judges of a study: run ends and controls the opponent, arms each other at about one KL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..evidence import (
    COPY,
    NULL,
    OPPONENT,
    OPPONENTS_FILE,
    Judgement,
    Result,
    Sample,
    append_records,
    read_samples,
)
from ..judges import Contest
from ..model import Workbench
from .evaluate import make_samples
from .questions import Questions
from .rewards import reference_rollouts

NOTHING = "I am not sure what to say."  # the null response
Meet = Callable[[Sequence[Result]], Iterable[tuple[Result, Result]]]
Asked = tuple[Judgement, Contest]  # what is to be asked, and where the answer goes


@dataclass(frozen=True)
class Judged:
    """What judging needs of a study: its folder, its models, and what its policies were asked."""

    folder: Path
    models: Workbench
    questions: Questions


def draw_opponents(judged: Judged) -> tuple[Sample, ...]:
    """The samples of the opponent and of the controls, also to prompts that came since; kept in `opponents.jsonl`."""
    path, questions = judged.folder / OPPONENTS_FILE, judged.questions
    known = read_samples(path) if path.exists() else ()
    for run in (OPPONENT, COPY, NULL):
        start = len({sample.prompt_id for sample in known if sample.run == run})
        left = questions.part(start)
        if left.prompts:
            append_records(path, _nothing(judged, left) if run == NULL else _of_reference(judged, left, run))
    return read_samples(path) if path.exists() else ()


def _of_reference(judged: Judged, questions: Questions, run: str) -> list[Sample]:
    drawn = reference_rollouts(judged.models, questions, questions.samples, run)
    kl = [[0.0] * questions.samples for _ in drawn]
    plain = replace(questions, judge=None, others={})
    return make_samples(drawn, kl, plain, judged.models.base.form, run=run, step=0)


def _nothing(judged: Judged, questions: Questions) -> list[Sample]:
    tokens = len(judged.models.base.tokenizer.encode(NOTHING, add_special_tokens=False))
    return [
        Sample(NULL, 0, questions.first + i, text, 0, NOTHING, tokens, True, 0.0)
        for i, text in enumerate(questions.texts)
    ]


def contests_of(
    judged: Judged, ends: Sequence[Result], pairs: Iterable[tuple[Result, Result]], samples: Sequence[Sample]
) -> list[Asked]:
    """Everything that a judge is asked of these run ends, and of pairs of them, told of no judge yet."""
    of: dict[tuple[str, int, int], dict[int, Sample]] = defaultdict(dict)
    for sample in samples:
        of[sample.run, sample.step, sample.prompt_id][sample.sample] = sample
    many = judged.questions.samples
    found: list[Asked] = []

    def meet(a: tuple[str, int], b: tuple[str, int], shift: int) -> None:
        for i, prompt in enumerate(judged.questions.asked):
            place = judged.questions.first + i
            others = of[*b, place]
            for k, own in of[*a, place].items():
                if (other := others.get((k + shift) % many)) is not None:
                    found.append(
                        _asked(own, other, Contest(prompt, own.response, other.response, own.ended, other.ended))
                    )

    for row in ends:
        meet((row.run, row.step), (OPPONENT, 0), 0)
    for control in (COPY, NULL):
        meet((control, 0), (OPPONENT, 0), 0)
    if many > 1:  # samples of one number share their luck
        for a, b in pairs:
            meet((a.run, a.step), (b.run, b.step), 1)
    return found


def _asked(own: Sample, other: Sample, contest: Contest) -> Asked:
    where = (own.run, own.step, own.prompt_id, own.sample, other.run, other.step, other.sample)
    return Judgement("", *where, None, None), contest
