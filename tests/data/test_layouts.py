"""Layouts of public data sets and trainers: each small file gives what its makers say that it means.

The files of `cases` are made after public reports and data cards; all of their content is invented.
"""

import json
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
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


ASKED = [{"role": "user", "content": "q"}]
SIDE = {text: {"role": "assistant", "content": text} for text in "stxyz"}
GOOD = {"prompt": "q", "chosen": "x", "rejected": "y"}
X, Y, TIE = {"x > y"}, {"y > x"}, {"x = y"}
NUMBERS = {"prompt": "q", "response_1": "x", "response_2": "y", "response_3": "z"}
PARTS = [[{"type": "text", "text": text, "image": None}] for text in ("q", "x", "y")]
RECORD = {"prompt": "q", "response-1": "x", "response-2": "y"}
ORDER = {"rank": [1, 2], "value": ["response-2", "response-1"]}
READ: dict[str, tuple[list[set[str]], dict[str, int]]] = {
    "axolotl-3824.jsonl": (
        [
            {"At 06:10 and 18:40. > At noon."},
            {"Let me look. > I cannot know."},
            {"Let me look. > Let me look."},
            {" > At noon."},
            {"Hello! > No."},
            {"4 > 5"},
        ],
        {},
    ),
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


@pytest.mark.parametrize(
    ("row", "nearest", "columns"),
    [
        (
            {"question": "q", "best": "x", "worst": "y"},
            "chosen and rejected",
            "prompt=question,chosen=best,rejected=worst",
        ),
        (
            {"id": 1, "ask": "q", "answer_x": "x", "answer_y": "y", "verdict": "x"},
            "two responses",
            "prompt=ask,a=answer_x",
        ),
        (
            {"prompt": "q", "reply_texts": ["x", "y"], "stars": [2, 1]},
            "ranked or scored",
            "responses=reply_texts,scores=stars",
        ),
        ({"prompt": "q", "response": "x", "is_safe": True}, "unpaired feedback", "response=response,desirable=is_safe"),
        ({"prompt": "q", "my_answer": "x", "stars": 3}, "rated responses", "response=my_answer,score=stars"),
    ],
)
def test_an_unknown_layout_is_told_the_nearest_one_and_the_columns_that_would_read_it(
    tmp_path: Path, row: dict[str, Any], nearest: str, columns: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    message = error_of(lambda: read_ballots(path))
    assert f"the nearest is '{nearest}" in message
    proposed = message.partition("--columns ")[2].partition(" ")[0]
    assert columns in proposed and "…" not in proposed
    if "response=" not in proposed:  # else one row is no ballot
        assert votes_of(read_ballots(path, columns=proposed)) == [X]


def test_an_ambiguous_row_is_never_left_out_as_bad() -> None:
    """Leaving out the rows with label 0 would keep only those in which the first response wins."""
    assert ":2: `label` is 0" in error_of(lambda: read_ballots(CASES / "layouts" / "shp_renamed.jsonl", skip_bad=True))


# ---------------------------------------------------------------------------------------------- relatives


def chat(*replies: str) -> list[dict[str, str]]:
    return [turn for reply in replies for turn in (ASKED[0], SIDE[reply])]


@pytest.mark.parametrize(
    ("row", "votes"),
    [
        ({"history": "q", "human_ref_A": "x", "human_ref_B": "y", "labels": 0, "score_A": 1, "score_B": 2}, Y),
        ({"question": {"full_text": "q"}, "answer_0": "x", "score_0": 0.5, "answer_1": "y", "score_1": -0.5}, X),
        ({"question": {"full_text": "q"}, "answer_0": "x", "score_0": 0.0, "answer_1": "y", "score_1": 0.0}, TIE),
        ({"context": ASKED, "response1": "x", "response2": "y", "overall_preference": -1}, X),
        ({"context": ASKED, "response1": "x", "response2": "y", "overall_preference": 0}, TIE),
        ({"prompt": "q", "chosen": chat("x"), "rejected": chat("y"), "chosen-rating": 4.0, "rejected-rating": 4.0}, X),
        (
            {"conversation": [{"input": "q", "output": "x"}], "chosen": chat("x"), "rejected": chat("y")},
            X,
        ),
        ({"messages": chat("x"), "chosen": chat("x"), "rejected": chat("y")}, X),
        ({"prompt": "q", "candidates_completions": ["x", "y"], "ranks": [2, 1]}, Y),
        ({"prompt": "q", "all_generated_responses": ["x", "y"], "all_rm_scores": [0.2, 0.1]}, X),
        ({"prompt": "q", "chosen": ["x"], "rejected": ["y", "z"]}, {"x > y", "x > z"}),
        ({"question": "q", "response_A": "x", "response_B": "y", "label": "B>A"}, Y),
        ({"question": "q", "response_A": "x", "response_B": "y", "label": "A=B"}, TIE),
        ({"input": "q", "output_1": "x", "output_2": "y", "label": 2}, Y),
        ({"trajectory": [{"from": "user", "value": "q"}], "chosen": "x", "rejected": "y"}, X),
        ({"messages": chat("x"), "rejected_response": "y"}, X),
        ({"messages": chat("x"), "rejected_messages": chat("y")}, X),
        ({"query": "q", "response": "x", "rejected_response": "y"}, X),
        ({"query": "q", "history": [["a", "b"]], "response": "x", "rejected_response": "y"}, X),
        ({"instruction": "q", "output_1": "x", "output_2": "y", "preference": 1.0}, X),
        ({"instruction": "q", "output_1": "x", "output_2": "y", "preference": 0}, TIE),
        ({"prompt": "q", "response_a": "x", "response_b": "y", "preference": "response_b"}, Y),
        ({"prompt": "q", "response_a": "x", "response_b": "y", "chosen": "A"}, X),
        ({"prompt": "q", "response_a": "x", "response_b": "y", "preferred": "y"}, Y),
        ({"prompt": "q", "response_a": "x", "response_b": "y", "model_a": "m", "model_b": "n", "winner": "n"}, Y),
        ({"prompt": "q", "response_0": "x", "response_1": "y", "winner": "response_1"}, Y),
        ({"prompt": "q", "response_a": "x", "response_b": "y", "score_a": 3, "score_b": 4}, Y),
        ({"prompt": "q", "a": "x", "b": "y", "winner": "[[A]]"}, X),
        ({"prompt": "q", "a": "x", "b": "y", "winner": "Tie (bothbad)"}, TIE),
        ({**NUMBERS, "ranking": [2, 1, 3]}, {"y > x", "x > z", "y > z"}),
        ({**NUMBERS, "rating_1": 1, "rating_2": 2, "rating_3": 2}, {"y > x", "z > x", "y = z"}),
        ({**NUMBERS, "winner": "response_3"}, {"z > x", "z > y"}),
        ({"prompt": "q", "response_1": "x", "response_2": "y", "scores": [1, 2]}, Y),
        ({"prompt": "q", "response_1": "x", "response_2": "y", "label": 1, "score_1": 1, "score_2": 2}, X),
        ({"prompt": "q", "response_1": "x", "response_2": "y", "rank_1": 1, "rank_2": 2}, X),
        ({"prompt": "q", "answer_a": "x", "answer_b": "y", "answer_c": "z", "best": "C"}, {"z > x", "z > y"}),
        ({"prompt": "q", "responses": ["x", "y", "z"], "better_index": 1}, {"y > x", "y > z"}),
        ({"prompt": json.dumps(ASKED), "chosen": json.dumps([SIDE["x"]]), "rejected": json.dumps([SIDE["y"]])}, X),
        ({"prompt": "q", "responses": '["x", "y"]', "scores": "[1, 2]"}, Y),
        ({"prompt": "q", "completions": ["x", "y", "z"], "rewards": ["5", "N/A", "1"]}, {"x > z"}),
        ({"fields": RECORD, "responses": {"best": [{"value": "response-1", "user_id": "u"}]}}, X),
        ({"fields": RECORD, "responses": [{"user_id": "u", "values": {"order": {"value": ORDER["value"]}}}]}, Y),
        ({"fields": RECORD, "responses": {}, "suggestions": {"best": {"value": "response-2", "agent": "m"}}}, Y),
        ({**RECORD, "order": [{"user_id": "u", "value": ORDER, "status": "submitted"}]}, Y),
        (
            {
                **RECORD,
                "response-1-rating": [{"user_id": "u", "value": 2}, {"user_id": "v", "value": 3}],
                "response-2-rating": [{"user_id": "u", "value": 4}],
            },
            Y,
        ),
        ({"input": "q", "targets": {"choices": ["x", "y"], "labels": [1, 0]}}, X),
        ({"instruction": "q", "input": "", "output": ["x", "y"]}, X),
        (
            {
                "contents": [{"role": "user", "parts": [{"text": "q"}]}],
                "completions": [
                    {"score": score, "completion": {"role": "model", "parts": [{"text": text}]}}
                    for score, text in ((0.0, "x"), (1.0, "y"))
                ],
            },
            Y,
        ),
        ({"prompt": "q", "responses": ["x", "y"], "scores": [1, 2], "annotations": [{"rating": "3"}]}, Y),
        ({**RECORD, "best.responses": ["response-1"], "best.responses.users": ["u"]}, X),
    ],
)
def test_relatives_of_the_layouts_mean_what_they_say(tmp_path: Path, row: dict[str, Any], votes: set[str]) -> None:
    path = tmp_path / "row.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (ballot,) = ballots = read_ballots(path)
    assert votes_of(ballots) == [votes]
    assert last(ballot) == "q"
    with suppress(pyarrow.ArrowException):  # a column is of one type there
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "row.parquet")
        assert votes_of(read_ballots(tmp_path / "row.parquet")) == [votes], "the columns that are read are enough"


def test_turns_that_come_after_what_was_judged_are_cut_off(tmp_path: Path) -> None:
    """MT-bench has both turns of each chat in a row on the first one."""
    row = {"conversation_a": chat("x", "s"), "conversation_b": chat("y", "t"), "winner": "model_a", "judge": "j"}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({**row, "turn": turn}) + "\n" for turn in (1, 2)))
    ballots = read_ballots(path)
    assert votes_of(ballots) == [X] and ballots.skipped == {DIFFERS: 1}
    assert [(one.winner, one.by) for one in ballots[0].annotations] == [("a", "j")]


def test_a_preference_between_two_values_is_a_probability_and_a_missing_one_no_vote(tmp_path: Path) -> None:
    row = {"instruction": "q", "output_1": "x", "output_2": "y", "annotator": "j"}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({**row, "preference": said}) + "\n" for said in (1.25, None)))
    ballots = read_ballots(path)
    assert ballots[0].votes == (Vote(0, 1, 0.75),) and ballots.skipped == {"no votes": 1}


@pytest.mark.parametrize("gap", [0, 0.5, 1, 2])
def test_scores_that_differ_by_no_more_than_the_gap_are_a_tie(tmp_path: Path, gap: float) -> None:
    rows = [
        {"prompt": "q", "responses": ["x", "y"], "scores": [2, 1]},
        {"prompt": "q", "a": "x", "b": "y", "score_a": 2, "score_b": 1},
        {"prompt": "q", "chosen": "x", "rejected": "y", "score_chosen": 2, "score_rejected": 1},
        {"prompt": "q", "response_1": "x", "response_2": "y", "preference_strength": -1},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert votes_of(read_ballots(path, score_gap=gap)) == [TIE if gap >= 1 else X] * 4


@pytest.mark.parametrize("gap", [-1, float("nan"), float("inf")])
def test_a_gap_that_is_none_is_refused(gap: float) -> None:
    assert f"--score-gap {gap:g}" in error_of(lambda: read_ballots(CASES / "layouts" / "nectar.jsonl", score_gap=gap))


TREE = [
    *(("m1", None, "q", "prompter", None), ("m2", "m1", "x", "assistant", 0), ("m3", "m1", "y", "assistant", 1)),
    *(("m4", "m2", "r", "prompter", 0), ("m5", "m2", "s", "prompter", 1), ("m6", "m4", "z", "assistant", None)),
    *(("m7", "m4", "t", "assistant", 1), ("m8", "m4", "x", "assistant", 0), ("m9", "m3", "w", "prompter", None)),
]


@pytest.mark.parametrize("backward", [False, True])
def test_every_message_with_two_ranked_replies_is_a_ballot(tmp_path: Path, backward: bool) -> None:
    """Wherever a reply stands: its parent may come after it."""
    keys = ("message_id", "parent_id", "text", "role", "rank")
    rows = [dict(zip(keys, message, strict=True)) for message in (reversed(TREE) if backward else TREE)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ballots = read_ballots(path)
    first, second = sorted(ballots, key=lambda ballot: len(ballot.prompt))
    assert (first.prompt, votes_of([first])) == ((("user", "q"),), [X])
    assert second.prompt == (("user", "q"), ("assistant", "x"), ("user", "r")) and votes_of([second]) == [{"x > t"}]
    assert ballots.dropped == {"a reply without a ranked one beside it": 1}
    assert ballots.skipped == {
        "a response whose turn is not the assistant's (its role is user)": 1,
        "a reply without a ranked one beside it": 1,
    }


def test_rows_of_one_prompt_are_a_ballot_wherever_they_stand(tmp_path: Path) -> None:
    said = [("q", "x", 2), ("r", "s", 1), ("q", "y", 1), ("r", "t", 3), ("q", "z", 2), ("p", "x", 1)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "response": r, "helpfulness": s}) + "\n" for p, r, s in said))
    ballots = read_ballots(path)
    assert [ballot.prompt for ballot in ballots] == ["q", "r"]
    assert votes_of(ballots) == [{"x > y", "x = z", "z > y"}, {"t > s"}]
    assert ballots.skipped == {"a single response, with no other one to the same prompt to compare it with": 1}


def test_a_full_disk_under_waiting_rows_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "q", "response": "x", "helpfulness": 1}))

    def full(*row: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("preftune.data.grouping.Waiting.add", full)
    assert f"{path}: rows that make ballots together wait in a temporary file" in error_of(lambda: read_ballots(path))


def test_two_ratings_of_a_response_are_a_question(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "q", "response": "x", "score": 1, "reward": 2}))
    assert "score or reward? Say so: --columns score=score" in error_of(lambda: read_ballots(path))


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
