"""What the digests of rows say together, against a reading of the votes themselves."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import tried

from preftune import Ballot, Vote
from preftune.checking.contests import krippendorff, leak, weigh
from preftune.checking.digests import Kept, exact
from preftune.checking.facts import Counted, counted_votes
from preftune.data import Annotation, Message
from preftune.data.ballots import FullMessage

PAIRS = st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0]))
VOTES = st.lists(PAIRS.filter(lambda vote: vote[1] != vote[2]), max_size=14)


def kept_of(votes: Sequence[tuple[int, int, int, float]]) -> Kept:
    """Each vote in a row of its own: (prompt, the two responses, p)."""
    kept = Kept()
    for number, (prompt, a, b, p) in enumerate(votes, 1):
        kept.add_prompt(number, f"prompt {prompt}")
        ballot = Ballot("", (f"response {a}", f"response {b}"), (Vote(0, 1, p),))
        kept.add_votes(ballot.responses, ballot.votes, counted_votes({}, ballot))
    return kept


def majorities(votes: Sequence[tuple[int, int, int, float]]) -> dict[int, set[tuple[int, int]]]:
    """(winner, loser) of each pair with a majority, by prompt."""
    net: Counter[tuple[int, int, int]] = Counter()
    for prompt, a, b, p in votes:
        low, high = min(a, b), max(a, b)
        net[prompt, low, high] += round((2 * p - 1) * (1 if a < b else -1))
    found = defaultdict(set)
    for (prompt, low, high), sign in net.items():
        if sign:
            found[prompt].add((low, high) if sign > 0 else (high, low))
    return found


@tried(150)
@given(votes=VOTES)
def test_repeats_contradictions_and_circles_are_those_of_the_votes(votes: list[tuple[int, int, int, float]]) -> None:
    found = weigh(kept_of(votes), named=False, winner_first=False)
    ways: dict[tuple[int, int, int], Counter[float]] = defaultdict(Counter)
    for prompt, a, b, p in votes:
        ways[prompt, min(a, b), max(a, b)][p if a < b else 1 - p] += 1
    assert found.pairs == len(ways)
    assert found.prompts == len({vote[0] for vote in votes})
    assert found.contradicted == sum(1.0 in way and 0.0 in way for way in ways.values())
    assert found.repeated_votes == sum(max(way[p] - 1, 0) for way in ways.values() for p in (0.0, 1.0))
    circles = sum(
        any(
            all((x, y) in beats for x, y in zip(ring, (*ring[1:], ring[0]), strict=True))
            for size in (3, 4)
            for ring in permutations(range(4), size)
        )
        for beats in majorities(votes).values()
    )
    assert found.circles == circles


def test_a_circle_names_its_rows_and_no_others() -> None:
    votes = [(0, 0, 3, 1.0), (0, 0, 1, 1.0), (0, 1, 2, 1.0), (0, 2, 0, 1.0), (1, 0, 1, 1.0)]
    found = weigh(kept_of(votes), named=False, winner_first=False)
    assert found.circles == 1 and found.circle_rows == (2, 3, 4)


def alpha_of_pairs(units: Sequence[Sequence[int]]) -> float:
    """1 − observed/expected disagreement, pair of values by pair of values, as it is defined."""
    values = [[value for value, count in enumerate(unit) for _ in range(count)] for unit in units]
    values = [unit for unit in values if len(unit) >= 2]
    everything = [value for unit in values for value in unit]
    n = len(everything)
    observed = sum(sum(x != y for x, y in permutations(unit, 2)) / (len(unit) - 1) for unit in values) / n
    expected = sum(x != y for x, y in permutations(everything, 2)) / (n * (n - 1))
    return 1 - observed / expected if expected else 0.0


@tried(100)
@given(units=st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=2, max_size=8))
def test_alpha_is_its_definition(units: list[tuple[int, int, int]]) -> None:
    counts = np.array(units)
    if (counts.sum(axis=1) >= 2).sum() >= 1:
        found = krippendorff(counts, np.ones(len(units), np.int64))
        assert found == pytest.approx(alpha_of_pairs(units))


def test_alpha_of_krippendorffs_own_example() -> None:
    """Two observers, ten units, two values (Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011, A)."""
    a, b = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    units = np.array([[2 - x - y, x + y, 0] for x, y in zip(a, b, strict=True)])
    assert krippendorff(units, np.ones(10, np.int64)) == pytest.approx(0.095, abs=5e-4)


def test_votes_that_list_the_winner_first_are_judged_from_both_sides() -> None:
    """Nine of ten say `chosen` each time: told from one side that looks like one value given nearly always."""
    units, times = np.array([[9, 1, 0]]), np.array([50])
    assert krippendorff(units, times) < 0.05
    assert krippendorff(units, times, symmetric=True) > 0.6


def test_votes_are_counted_where_the_row_says_how_many() -> None:
    ballot = Ballot("x", ("a", "b"), (Vote(0, 1, 0.625, 4),))
    assert counted_votes({"votes": {"a": 2, "b": 1, "tie": 1}}, ballot) == [Counted(2, 1, 1)]
    said = (Annotation(0, 1, "a", "x"), Annotation(1, 0, "a", "y"), Annotation(0, 1, "both_bad", "z"))
    assert counted_votes({}, replace(ballot, annotations=said)) == [Counted(1, 1, 1)]
    assert counted_votes({}, ballot) == [Counted()]  # .625 of four may be 2, 1, 1 or five half votes
    assert counted_votes({}, Ballot("x", ("a", "b"), (Vote(1, 0, 0.0, 3),))) == [Counted(0, 3, 0)]


def test_rows_of_one_pair_are_several_people_where_rows_name_them() -> None:
    """Four people, each in a row of theirs, on two pairs: three agree on the first, all on the second."""
    kept = kept_of([(0, 0, 1, 1.0)] * 3 + [(0, 1, 0, 1.0)] + [(1, 0, 1, 1.0)] * 4)
    assert weigh(kept, named=False, winner_first=False).agreement is None
    found = weigh(kept, named=True, winner_first=True).agreement
    assert found and (found.pairs, found.votes, found.unanimous) == (2, 8, 1)
    units = np.array([[3, 1, 0], [4, 0, 0]])
    assert found.alpha.value == pytest.approx(krippendorff(units, np.ones(2, np.int64), symmetric=True))


def test_a_leak_is_found_by_what_a_prompt_says() -> None:
    training, evaluation = Kept(), Kept()
    for prompt in ("Name a river.", "Name a sea."):
        training.add_prompt(1, prompt)
    for number, prompt in enumerate(["Name a  RIVER.", "Name a sea.", "Name a sea.", "Name a lake."], 5):
        evaluation.add_prompt(number, prompt)
    found = leak(training, evaluation)
    assert (found.prompts, found.same, found.alike, found.rows) == (3, 1, 2, (5, 6))


def test_splits_that_share_prompts_are_named() -> None:
    kept = Kept()
    for split, prompt in (("train", "a"), ("train", "b"), ("test", "b"), ("valid", "c"), ("", "a")):
        kept.add_prompt(1, prompt, split)
    assert weigh(kept, named=False, winner_first=False).split_leaks == (("train", "test", 1),)


def test_what_is_kept_of_a_row_is_less_than_64_bytes() -> None:
    kept = kept_of([(i % 7, i % 3, 3, 1.0) for i in range(500)])
    assert kept.bytes <= 64 * 500


def test_turns_that_differ_in_their_calls_alone_are_two_prompts() -> None:
    asked, plain = FullMessage("assistant", "", '{"tool_calls": []}'), Message("assistant", "")
    assert len({exact((asked,)), exact((plain,)), exact("assistant")}) == 3
    assert exact((asked,)) == exact((FullMessage("assistant", "", '{"tool_calls": []}'),))
