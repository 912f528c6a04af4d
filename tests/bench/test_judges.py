"""What the benchmark of judges counts, on votes and opinions that a person can count."""

import pytest

from bench.judges import measure, measure_all
from preftune.data import Ballot
from preftune.data.ballots import Annotation
from preftune.judges import Caller, Opinion


def ballot(number: int, winners: str, a: str = "long answer", b: str = "short") -> Ballot:
    said = tuple(Annotation(0, 1, {"a": "a", "b": "b"}.get(one, "tie")) for one in winners)
    return Ballot(f"prompt {number}", (a, b), (), annotations=said)


BALLOTS = [ballot(0, "aab"), ballot(1, "bbb"), ballot(2, "ttt"), ballot(3, "aaa"), ballot(4, "aaa")]
OPINIONS = [
    Opinion(0.9, 0.8),  # a in either order, the longer: right
    Opinion(0.9, 0.2),  # whoever is first, a on the whole: wrong
    Opinion(0.1, 0.3),  # b, where people are undecided: half
    Opinion(0.5, 0.5),  # a tie, where people are not: half
    Opinion(None, None, "too long"),
]


def test_agreement_flips_slots_length_and_what_is_missing() -> None:
    found = measure(BALLOTS, OPINIONS)
    assert found["accuracy"] == {"value": (1 + 0 + 0.5 + 0.5) / 4, "se": None, "pairs": 4}
    assert found["flips"] == 1 / 4
    assert found["first_slot"] == (0.5 + 1 + 0.5 + 0.5) / 4
    assert found["longer"] == 2 / 3
    assert found["missing"] == {"too long": 1}
    without_one = [(0.5 + 0.5 + 1) / 3, 0, 0.5, 0.5]
    assert found["against_others"]["value"] == pytest.approx(sum(without_one) / 4)


def test_a_person_is_held_against_the_others_and_a_judge_is_asked_both_ways() -> None:
    people, judge = measure_all(BALLOTS[:2], [Caller("first", "the first", lambda prompt, a, b: 1.0)])
    assert people["against_others"]["value"] == pytest.approx(((0.5 + 0.5 + 0) / 3 + 1) / 2)
    assert (judge["judge"], judge["flips"], judge["first_slot"]) == ("first", 1.0, 1.0)


def test_with_enough_prompts_there_is_a_standard_error() -> None:
    many = [ballot(i, "aaa" if i % 2 else "bbb") for i in range(20)]
    opinions = [Opinion(1.0, 1.0)] * 20
    assert measure(many, opinions)["accuracy"]["se"] == pytest.approx((0.25 * 20 / 19 / 20) ** 0.5)
    assert measure(many[:19], opinions[:19])["accuracy"]["se"] is None
