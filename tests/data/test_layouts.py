"""Layouts of public data sets and trainers: each small file gives what its makers say that it means.

The files of `cases` are made after public reports and data cards; all of their content is invented.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftune.data.ballots import Ballot, Vote
from preftune.data.catalogue import LAYOUTS
from preftune.data.layout import BREAD, NILE, Layout
from preftune.data.layouts import kind_of
from preftune.data.reading import read_ballots
from preftune.errors import UserError
from tools.formats import PAGE, page

CASES = Path(__file__).parent / "cases"
DIFFERS = "a prompt that differs between the sides"
CALL = "a tool call, which cannot be rendered yet"
PAIR = {"Bowline. > Fish."}
THREE = {"Bowline. > A knot.", "Bowline. > Fish.", "A knot. > Fish."}


def told(vote: Vote, ballot: Ballot) -> str:
    """A vote in words."""
    a, b = ballot.responses[vote.a], ballot.responses[vote.b]
    return f"{a} = {b}" if vote.p == 0.5 else f"{a} > {b}" if vote.p > 0.5 else f"{b} > {a}"


def votes_of(ballots: Any) -> list[set[str]]:
    assert all(vote.p in (0, 0.5, 1) and vote.weight == 1 for ballot in ballots for vote in ballot.votes)
    return [{told(vote, ballot) for vote in ballot.votes} for ballot in ballots]


def last(ballot: Ballot) -> str:
    """What was asked last."""
    return ballot.prompt if isinstance(ballot.prompt, str) else ballot.prompt[-1].content


def error_of(read: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


READ: dict[str, tuple[list[set[str]], dict[str, int]]] = {
    "axolotl-2415.jsonl": (
        [{"Bowline. > I know many knots, and all of them are lovely."}, {"Jib. > Anchor."}],
        {},
    ),
    "axolotl-1645.jsonl": ([{"Bowline. > Anchor."}, {"Jib. > There are very many sails."}], {}),
    "trl-2385.jsonl": ([{"Jib. > Keel."}], {"a response whose turn is not the assistant's (its role is user)": 1}),
    "trl-6472.jsonl": ([{"Hello! > Go away."}], {"no prompt": 1, DIFFERS: 2}),
    "LlamaFactory-6509.json": (
        [{f"{good} > {bad}" for good in ("Bowline.", "Reef knot.") for bad in ("Anchor.", "Boat.", "Fish.")}],
        {},
    ),
    "LlamaFactory-6509b.jsonl": ([{"Bowline. > Anchor.", "Bowline. > Boat."}], {}),
    "ms-swift-6830.jsonl": ([{"Jib. > Anchor."}, PAIR, {"Reef. > Fish."}], {}),
    "ms-swift-10125.jsonl": ([PAIR, {"Jib. > Keel."}], {}),
    "LlamaFactory-9771c.jsonl": ([{"A gull. > A car."}, PAIR], {}),
    "HALOs-12.json": ([{"Hello! > Go away."}, PAIR], {}),
    "minimind-719.jsonl": ([{"Hello! > Go away."}], {}),
    "LlamaFactory-4717b.jsonl": ([{"A Monday. > A Friday."}], {}),
    "distilabel-343.jsonl": ([PAIR, PAIR], {}),
    "LlamaFactory-5521-save_to_disk": ([PAIR, {"Jib. > Keel."}], {}),
    "LlamaFactory-5521-snapshot": ([PAIR, {"Jib. > Keel."}], {}),
    "layouts/ultrafeedback_binarized.jsonl": (
        [PAIR, {"Jib. = Keel."}],
        {"identical responses": 1, "an empty response": 1},
    ),
    "layouts/helpsteer2_preference.jsonl": ([PAIR, {"Jib. > Keel."}], {}),
    "layouts/helpsteer2_ratings.jsonl": ([PAIR], {}),
    "layouts/arena_55k.csv": ([PAIR, {"Gull. = Tern."}], {DIFFERS: 1, "an empty response": 1}),
    "layouts/arena_55k_with_p.csv": ([PAIR, {"Gull. = Tern."}], {DIFFERS: 1, "an empty response": 1}),
    "layouts/chatbot_arena_conversations.jsonl": ([PAIR, {"Jib. > Keel."}, {"Gull. = Tern."}, {"Cat. = Dog."}], {}),
    "layouts/pku_saferlhf.jsonl": (
        [{"With a plan and lights, yes. > Sure, no lights needed."}, PAIR, {"Jib. > Keel."}],
        {},
    ),
    "layouts/nectar.jsonl": (
        [
            THREE,
            {"Jib. > Keel.", "Jib. > Fish.", "Keel. > Fish."},
            {"Gull. > Tern.", "Gull. > Cat.", "Tern. > Cat."},
        ],
        {},
    ),
    "layouts/summarize_from_feedback.jsonl": (
        [{"Boat leaks. > Cat."}, {"Boat sold. > Cat."}, {"Boat sails. > Boat."}],
        {},
    ),
    "layouts/orca_dpo_pairs.jsonl": ([PAIR, {"Jib. > There are many."}, {"Gull. > Car."}], {}),
    "layouts/distilabel_intel_orca.jsonl": ([PAIR, {"Jib. = Sail."}, {"Gull. > Car."}], {}),
    "layouts/distilabel_ultrafeedback.jsonl": (
        [{"Bowline. > Fish.", "Bowline. > Reef.", "Reef. > Fish."}, {"Gull. = Tern."}],
        {"a response without a rank or score": 1},
    ),
    "layouts/ultrafeedback_raw.jsonl": ([PAIR, {"Jib. > Keel.", "Jib. > Sail.", "Keel. = Sail."}], {}),
    "layouts/kto.jsonl": (
        [PAIR],
        {"a single response, with no other one to the same prompt to compare it with": 1},
    ),
    "layouts/argilla_dpo_mix.jsonl": ([PAIR, {"Jib. > Keel."}], {}),
    "layouts/argilla_ultrafeedback_v1.jsonl": ([PAIR], {}),
    "layouts/py_dpo.jsonl": (
        [
            {"```python\ndef f(x):\n    return x + 1\n``` > def f(x): x + 1"},
            {"def g(): pass > g"},
            {"    def h():\n        return 0\n > h"},
        ],
        {},
    ),
    "layouts/stack_exchange_preferences.jsonl": (
        [{"Rabbit, hole, tree. > Buy a shackle."}, {"Main. = Jib."}],
        {},
    ),
    "layouts/oasst1_messages.jsonl": ([PAIR], {}),
    "layouts/openai_preference_one_row.jsonl": ([PAIR], {}),
    "layouts/alpaca_farm_human.json": ([PAIR, {"Jib. > Keel."}], {}),
    "layouts/halos_feedback.json": ([PAIR], {}),
    "layouts/skywork_reward.jsonl": ([PAIR], {}),
}
REFUSED: dict[str, tuple[str, ...]] = {
    "axolotl-3824.jsonl": (f"5 × {CALL}", "1 × reasoning beside a turn's text"),
    "LlamaFactory-4717.jsonl": (
        ":1: no known layout",
        "--columns prompt=question,chosen=pos_answer,rejected=neg_answer",
    ),
    "layouts/shp_renamed.jsonl": (":2: `label` is 0", "--columns first_wins=label", "--columns better_index=label"),
    "layouts/prm800k.jsonl": ("1 × ratings of single steps, not of whole responses",),
}


@pytest.mark.parametrize("name", READ)
def test_a_file_gives_the_votes_that_its_makers_mean(name: str) -> None:
    votes, skipped = READ[name]
    ballots = read_ballots(CASES / name)
    assert votes_of(ballots) == votes
    assert ballots.skipped == skipped
    assert ballots.rows == len(ballots) + sum(ballots.skipped.values())


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_holds_nothing_to_train_on_is_refused_with_the_reason(name: str) -> None:
    message = error_of(lambda: read_ballots(CASES / name))
    assert str(CASES / name) in message
    for part in REFUSED[name]:
        assert part in message


def test_every_case_has_an_expected_outcome() -> None:
    found = {str(path.relative_to(CASES)) for folder in (CASES, CASES / "layouts") for path in folder.iterdir()}
    assert found - {"layouts"} == {*READ, *REFUSED}


def test_earlier_turns_and_system_texts_are_in_the_prompt() -> None:
    brief = ("system", "Be brief.")
    first, second = read_ballots(CASES / "axolotl-1645.jsonl")
    assert first.prompt == (("user", "Hi"), ("assistant", "Hello!"), ("user", "Name a knot."))
    assert second.prompt == (brief, ("user", "Name a sail."))
    assert read_ballots(CASES / "axolotl-2415.jsonl")[0].prompt == (brief, ("user", "Name a knot."))
    assert read_ballots(CASES / "ms-swift-6830.jsonl")[0].prompt == (
        brief,
        ("user", "Name the part.\nIt points to the bow."),
    )
    assert read_ballots(CASES / "layouts" / "nectar.jsonl")[1].prompt == (
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "Name a sail."),
    )
    assert (
        last(read_ballots(CASES / "layouts" / "alpaca_farm_human.json")[1]) == "Name the part.\nIt points to the bow."
    )
    assert last(read_ballots(CASES / "layouts" / "summarize_from_feedback.jsonl")[0]).startswith("Long post number 1")


def test_a_tie_in_which_both_are_bad_is_counted_apart_and_the_judges_are_kept() -> None:
    ballots = read_ballots(CASES / "layouts" / "chatbot_arena_conversations.jsonl")
    assert ballots.noted == {"both bad: read as a tie": 1}
    assert [one.winner for ballot in ballots for one in ballot.annotations] == ["a", "b", "tie", "both_bad"]
    assert {one.by for ballot in ballots for one in ballot.annotations} == {"arena_user_1"}


def test_a_chosen_response_with_an_equal_score_is_a_tie_that_is_counted() -> None:
    ballots = read_ballots(CASES / "layouts" / "ultrafeedback_binarized.jsonl")
    assert ballots.noted == {"`chosen` is no better by the scores beside it: read as a tie": 1}


def test_what_decides_an_ambiguous_file_is_in_its_error() -> None:
    path = CASES / "layouts" / "shp_renamed.jsonl"
    assert votes_of(read_ballots(path, columns="first_wins=label")) == [{"Good A. > Bad B."}, {"Good B. > Bad A."}]
    assert votes_of(read_ballots(path, columns="better_index=label")) == [{"Bad B. > Good A."}, {"Bad A. > Good B."}]
    columns = "prompt=question,chosen=pos_answer,rejected=neg_answer"
    assert votes_of(read_ballots(CASES / "LlamaFactory-4717.jsonl", columns=columns)) == [{"A Monday. > A Friday."}]
    safer = read_ballots(CASES / "layouts" / "pku_saferlhf.jsonl", columns="better_index=safer_response_id")
    assert votes_of(safer)[1] == {"Fish. > Bowline."}


def test_an_ambiguous_row_is_never_left_out_as_bad() -> None:
    """Leaving out the rows with label 0 would keep only those in which the first response wins."""
    assert ":2: `label` is 0" in error_of(lambda: read_ballots(CASES / "layouts" / "shp_renamed.jsonl", skip_bad=True))


# ---------------------------------------------------------------------------------------------- the table, the page

EXAMPLES = [(layout, example) for layout in LAYOUTS for example in layout.examples]


@pytest.mark.parametrize(
    ("layout", "example"), EXAMPLES, ids=[f"{one.name}-{k}" for k, (one, _) in enumerate(EXAMPLES)]
)
def test_every_example_of_a_layout_is_one_ballot_whose_better_response_names_a_river_or_bread(
    tmp_path: Path, layout: Layout, example: Any
) -> None:
    rows = example if isinstance(example, tuple) else (example,)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (ballot,) = read_ballots(path)
    assert {kind.layout.name for row in rows if (kind := kind_of(row))} == {layout.name}
    better = {told(vote, ballot).partition(" > ")[0] for vote in ballot.votes}
    assert better & {NILE, "Nile.", "bread"} and BREAD not in better


def test_the_page_of_formats_is_the_table_as_it_is() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run tools/formats.py"


def test_no_layout_hides_another() -> None:
    """Of every set of columns that the table has, a row with just those is of that layout."""
    hidden = [
        (layout.name, sorted(kind.needs))
        for layout in LAYOUTS
        for kind in layout.kinds
        if (found := kind_of(dict.fromkeys(kind.needs))) is None or found.needs != kind.needs
    ]
    assert hidden == []
