"""The samples that a page holds: chosen by a stated rule, every text cut where it is very long, and nothing trusted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..evidence import REFERENCE, Result, Sample, StudyRecord, run_names
from ..text import harmless
from .folding import Folded, fold
from .looks import looks

ROOM = 2_000_000  # bytes of samples that a page holds
MOST_PROMPTS = 100
IN_SIGHT = 3  # prompts that stand in the page without a script

Answer = tuple[Folded, str]  # a text, and what is known of it


class Exchange(NamedTuple):
    """One prompt and what the reference and the runs answered to it; None where a run has no sample."""

    prompt: Folded
    answers: tuple[Answer | None, ...]


class Voice(NamedTuple):
    """Whose answers these are: the reference, or a run at its last checkpoint."""

    arm: str
    name: str
    run: str
    step: int
    first: bool  # shown before a reader chooses


class Gallery(NamedTuple):
    """Who answers, the exchanges, and the rule by which they were chosen."""

    voices: tuple[Voice, ...]
    exchanges: tuple[Exchange, ...]
    rule: str


def gallery(study: StudyRecord) -> Gallery:
    """Prompts spread evenly over the held-out ones, with the first sample of the reference and of every run."""
    voices = _voices(study)
    first = _first_samples(study, voices)
    prompts = sorted({prompt for prompt, _ in first})
    texts = {sample.prompt_id: sample.prompt for sample in study.samples}
    made = {prompt: _exchange(texts[prompt], [first.get((prompt, v.run)) for v in voices]) for prompt in prompts}
    kept = spread(prompts, how_many([_size(made[prompt]) for prompt in prompts]))
    return Gallery(voices, tuple(made[prompt] for prompt in kept), _rule(len(kept), len(prompts), study))


def _voices(study: StudyRecord) -> tuple[Voice, ...]:
    names, finals = run_names(study), study.finals()
    seeds = [row.seed for row in finals]
    shown = {row.run for row in _shown(finals, min(seeds, default=0))}
    runs = [Voice(row.arm, names[row.run], row.run, row.step, row.run in shown) for row in finals]
    return (Voice(REFERENCE, REFERENCE, REFERENCE, 0, True), *runs)


def _shown(finals: Sequence[Result], seed: int) -> list[Result]:
    """What a reader sees first: of each arm the run that went farthest, at the first seed; at most three."""
    first: dict[str, Result] = {}
    for row in finals:
        if row.seed == seed and (row.arm not in first or (row.kl or 0) > (first[row.arm].kl or 0)):
            first[row.arm] = row
    return list(first.values())[:3]


def _first_samples(study: StudyRecord, voices: Sequence[Voice]) -> dict[tuple[int, str], Sample]:
    steps = {voice.run: voice.step for voice in voices}
    found: dict[tuple[int, str], Sample] = {}
    for sample in study.samples:
        if steps.get(sample.run) == sample.step:
            key = sample.prompt_id, sample.run
            if key not in found or sample.sample < found[key].sample:
                found[key] = sample
    return found


def _exchange(prompt: str, samples: Sequence[Sample | None]) -> Exchange:
    answers = tuple(None if sample is None else _answer(sample) for sample in samples)
    return Exchange(fold(harmless(prompt), keep_end=True), answers)


def _answer(sample: Sample) -> Answer:
    reward = "" if sample.reward is None else f"reward {sample.reward:.2f}"
    opinions = [f"{harmless(other)} {value:.2f}" for other, value in sample.extra.items()]
    limit = "" if sample.ended else "cut at the limit"
    kl = "" if sample.run == REFERENCE else f"KL {sample.kl:.2f}"
    facts = [reward, *opinions, kl, f"{sample.tokens} tokens", limit]
    return fold(harmless(sample.response.strip())), " · ".join(fact for fact in facts if fact).replace("-", "−")


def _size(exchange: Exchange) -> int:
    return len(script_json(_listed(exchange)).encode())


def how_many(sizes: Sequence[int]) -> int:
    """How many of the prompts fit into a page's room, one at least: as many as if all were of the mean size."""
    if not sizes:
        return 0
    mean = sum(sizes) / len(sizes)
    return max(1, min(len(sizes), MOST_PROMPTS, int(ROOM / mean)))


def spread(items: Sequence[int], count: int) -> list[int]:
    """So many of the items, evenly spaced in their order."""
    return [items[i * len(items) // count] for i in range(count)]


def _rule(kept: int, prompts: int, study: StudyRecord) -> str:
    checkpoints = len({(row.run, row.step) for row in study.trained()}) > len(study.finals())
    which = "at its last checkpoint" if checkpoints else "at its end"
    every = (
        f"All {prompts} held-out prompts" if kept == prompts else f"{kept} of {prompts} held-out prompts, evenly spaced"
    )
    return (
        f"{every} in their order, and the first sample of each run {which}: nobody chose them by looking. A page holds "
        f"{MOST_PROMPTS} prompts and {ROOM / 1e6:g} MB of samples at most; all of them are in "
        "samples.jsonl."
    )


# --- for the page's script --------------------------------------------------------------------------------------------


def as_data(gallery: Gallery, study: StudyRecord) -> dict[str, Any]:
    """The same as lists of texts and numbers, for the page's script, which shows them as text and nothing else."""
    styles = looks(study)
    return {
        "voices": [
            {
                "name": harmless(voice.name),
                "arm": harmless(voice.arm),
                "look": styles[voice.arm].number if voice.arm in styles else -1,
                "first": voice.first,
            }
            for voice in gallery.voices
        ],
        "exchanges": [_listed(exchange) for exchange in gallery.exchanges],
    }


def _listed(exchange: Exchange) -> list[Any]:
    answers = [[*_triple(answer[0]), answer[1]] if answer else None for answer in exchange.answers]
    return [list(_triple(exchange.prompt)), answers]


def _triple(text: Folded) -> tuple[str, str, int]:
    return text.shown, text.rest, text.omitted


def script_json(value: object) -> str:
    """JSON fit to stand inside a script element, as short as it can be: nothing in it can end or open an element, and
    no character of it is hidden."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
