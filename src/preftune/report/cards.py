"""The answer for a reader in a hurry: a headline, and a card for every pair of arms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from ..evidence import (
    ACCURACY,
    REWARD,
    WIN_RATE,
    Comparison,
    StudyRecord,
    Verdict,
    better,
    judges_of,
    met_by_people,
    noise_in_words,
    number,
)
from .svg import line

MANY = 20  # times the runs, from which on "more runs" is no advice


class Card(NamedTuple):
    """One pair of arms: the verdict in a word, the interval as a bar, and what it rests on."""

    a: str
    b: str
    noise: str
    tone: str  # "told", "none" or "apart": how the card is coloured
    word: str
    bar: Markup
    difference: str
    seen: str
    rests: str
    settles: str


IN_SIGHT = 6  # cards before the rest is folded
ORDER = {"told": 0, "none": 1, "apart": 2}


def cards(study: StudyRecord, answer: Verdict) -> list[Card]:
    """A card for every pair, those that were told apart first; all bars have one scale."""
    several = len(study.noises()) > 1
    widest = max((abs(end) for pair in answer.comparisons for end in _ends(pair)), default=1.0) or 1.0
    found = [_card(pair, widest, noise_in_words(pair.noise) if several else "") for pair in answer.comparisons]
    return sorted(found, key=lambda card: ORDER[card.tone])


def in_sight(found: Sequence[Card]) -> int:
    """How many cards a reader sees first: of those that were compared the first few, or else two that were not."""
    return min(IN_SIGHT, sum(card.tone != "apart" for card in found) or 2)


def _ends(pair: Comparison) -> list[float]:
    found = [*pair.interval(), pair.detectable or 0.0]
    return [end for end in found if math.isfinite(end)]


def _card(pair: Comparison, widest: float, noise: str) -> Card:
    if pair.difference is None or pair.kl is None or pair.verdict == "not comparable":
        next_run = pair.next[:1].upper() + pair.next[1:]
        return Card(pair.a, pair.b, noise, "apart", "not comparable", Markup(""), pair.why, "", "", next_run)
    told = f"{_lead(pair)} at {pair.kl:.2g} nats of KL"
    seen = "" if pair.detectable is None else f"could have seen ≥ {pair.detectable:.2g}"
    ahead = pair.a if pair.difference.value > 0 else pair.b
    rests = f"{pair.runs} runs, {pair.prompts} prompts" if pair.prompts else f"{pair.runs} runs"
    tone, word = ("told", f"{ahead} is better") if pair.distinct else ("none", "no difference found")
    settles = "" if pair.distinct else settling(pair)
    return Card(pair.a, pair.b, noise, tone, word, bar(pair, widest), told, seen, rests, settles)


def _lead(pair: Comparison) -> str:
    """Which arm is ahead by how much, and the interval from its side."""
    assert pair.difference is not None
    value, se = pair.difference.value, pair.difference.se or math.nan
    low, high = sorted(math.copysign(1, value) * end for end in pair.interval())
    interval = f"{100 * pair.level:.3g}%: {number(low, se)} to {number(high, se)}"
    return f"{pair.a if value >= 0 else pair.b} leads by {number(abs(value), se)} ({interval})"


def settling(pair: Comparison) -> str:
    """How much more it would take to tell apart a difference as large as the one that was found."""
    if pair.next:
        return pair.next[:1].upper() + pair.next[1:]
    if not pair.detectable or pair.difference is None or not math.isfinite(pair.detectable):
        return ""
    size = abs(pair.difference.value)
    ratio = pair.detectable / max(size, pair.detectable / MANY)
    if ratio**2 > MANY:
        return f"If it is there, it is small: more than {MANY} times the runs and prompts would be needed to see it"
    shown = number(size, pair.difference.se or size)
    return f"About {max(ratio**2, 1.1):.2g} times the runs and prompts would settle whether {shown} is real"


def bar(pair: Comparison, widest: float) -> Markup:
    """The interval on a line with 0 in its middle; the band around 0 holds what could not have been seen."""
    if pair.difference is None:
        return Markup("")
    middle, reach = 160.0, 150 / widest
    low, high = (min(max(middle + reach * end, 4), 316) for end in pair.interval())
    unseen = reach * (pair.detectable or 0.0)
    at = middle + reach * pair.difference.value
    words = f"{pair.a} minus {pair.b}: the interval, with 0 in the middle"
    parts = [
        Markup('<svg class="chart bar" viewBox="0 0 320 30" role="img" aria-label="{}">').format(words),
        Markup('<rect class="unseen" x="{:.1f}" y="4" width="{:.1f}" height="22" rx="3"/>').format(
            middle - min(unseen, 156), 2 * min(unseen, 156)
        ),
        line([(middle, 1), (middle, 29)], "zero"),
        line([(low, 15), (high, 15)], "interval"),
        Markup('<circle class="middle" cx="{:.1f}" cy="15" r="5"/></svg>').format(at),
    ]
    return Markup("").join(parts)


# --- the headline -----------------------------------------------------------------------------------------------------


def progress(study: StudyRecord) -> str:
    """How much of the study there is yet; "" of a whole one."""
    expected, unfinished = len(study.expected()), len(study.unfinished())
    return f"So far {expected - unfinished} of {expected} runs have finished." if unfinished else ""


def headline(study: StudyRecord, answer: Verdict) -> str:
    """The answer in one sentence, or one for each rate of label noise; whether training went wrong is told first."""
    noises = study.noises()
    if not study.trained():
        return "Nothing has been evaluated yet."
    if answer.axis == ACCURACY:
        people = bool(met_by_people(study))
        why = "No judge scored the samples" if people else "Nothing scored the samples"
        if judges_of(study):
            why = "The first judge carries no axis"
        return f"{why}, so no method is called better here." + " What people said is below." * people
    told = [_of_pairs(answer.at_noise(noise)) for noise in noises]
    doubted = answer.axis == WIN_RATE and any(alarm.startswith(f"Judge {answer.judge} ") for alarm in answer.alarms)
    alarms = "Alarms were raised. " if answer.alarmed else "The judge is in doubt. " if doubted else ""
    if len(set(told)) == 1:
        return alarms + told[0]
    return alarms + " ".join(f"{noise_in_words(noise)}: {words}" for noise, words in zip(noises, told, strict=True))


def _of_pairs(answer: Verdict) -> str:
    pairs, by = answer.comparisons, "" if answer.axis == REWARD else f", by judge {answer.judge}"
    made = [pair for pair in pairs if pair.verdict != "not comparable"]
    found = [pair for pair in made if pair.distinct]
    if not pairs:
        return "One arm alone: there is nothing to compare it with but the reference."
    if not made:
        return f"{_named(pairs) or 'No two arms can'} be compared at the same KL yet."
    if not found:
        between = f"{made[0].a} and {made[0].b}" if len(made) == 1 else "any two arms that can be compared"
        return f"No difference was found between {between} at the same KL{by}."
    if len(pairs) > 1 and len(found) == len(pairs) and (winner := _winner(found)):
        return f"At the same KL {better(winner, 'every other arm', answer)}{by}."
    brief = "; ".join(better(*_ahead(pair), answer) for pair in found[:3])
    more = f"; and {len(found) - 3} more pairs differ" if len(found) > 3 else ""
    return f"At the same KL {brief}{more}{by}.{_rest(pairs)}"


def _rest(pairs: Sequence[Comparison]) -> str:
    """What became of the pairs that were not told apart."""
    none = [pair for pair in pairs if pair.verdict == "no difference"]
    apart = sum(pair.verdict == "not comparable" for pair in pairs)
    told = f" In {len(none)} of {len(pairs)} pairs no difference was found." if none else ""
    if len(none) == 1:
        told = f" No difference was found between {none[0].a} and {none[0].b}."
    return told + (f" {apart} of {len(pairs)} pairs cannot be compared yet." if apart else "")


def _named(pairs: Sequence[Comparison]) -> str:
    """`dpo and ipo cannot` of two arms; "" of more."""
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    return f"{' and '.join(names)} cannot" if len(names) == 2 else ""


def _ahead(pair: Comparison) -> tuple[str, str]:
    return (pair.a, pair.b) if pair.difference and pair.difference.value > 0 else (pair.b, pair.a)


def _winner(pairs: Iterable[Comparison]) -> str:
    """The arm that is ahead wherever it is compared, if every other arm is behind it."""
    names = {name for pair in pairs for name in (pair.a, pair.b)}
    beaten: dict[str, set[str]] = {}
    for pair in pairs:
        first, second = _ahead(pair)
        beaten.setdefault(first, set()).add(second)
    return next((name for name, others in beaten.items() if others == names - {name}), "")
