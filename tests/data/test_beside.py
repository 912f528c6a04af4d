"""Tool calls, tools and reasoning are kept, and told apart by: nothing of a row vanishes on the way to a template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preftune.data.ballots import Ballot, FullMessage, Message
from preftune.data.reading import merge_prompts, read_ballots, read_prompts, write_ballots
from preftune.errors import UserError

CASE = Path(__file__).parent / "chats" / "axolotl-3824.jsonl"
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
CALLED = {"tool_calls": [CALL]}
GOOD = {"prompt": "q", "chosen": "x", "rejected": "y"}


def said(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def read(tmp_path: Path, *rows: Any) -> tuple[Ballot, ...]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tuple(read_ballots(path))


@pytest.mark.parametrize(
    ("response", "text", "beside"),
    [
        (said("x", **CALLED), "x", CALLED),
        (said(None, **CALLED), "", CALLED),
        ([said("x", **CALLED)], "x", CALLED),
        ({"text": "x", **CALLED}, "x", CALLED),
        (said("x", tool_calls=[{"id": "c1", **CALL}]), "x", {"tool_calls": [{"id": "c1", **CALL}]}),
        (said("x", tool_calls=[{"name": "f", "arguments": '{"x": 1}'}]), "x", CALLED),
        (said("x", function_call={"name": "f", "arguments": '{"x": 1}'}), "x", CALLED),
        ({"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'}, "", CALLED),
        (said("x", reasoning_content="r"), "x", {"reasoning_content": "r"}),
        (said("x", thinking="r"), "x", {"reasoning_content": "r"}),
        (said("x", reasoning="r", **CALLED), "x", {"reasoning_content": "r", **CALLED}),
    ],
)
def test_what_stands_beside_a_response_is_kept_in_one_form(
    response: Any, text: str, beside: dict[str, Any], tmp_path: Path
) -> None:
    (ballot,) = read(tmp_path, {"prompt": "q", "chosen": response, "rejected": "y"})
    assert ballot.responses == (text, "y") and ballot.prompt == (Message("user", "q"),)
    assert [json.loads(more) if more else {} for more in ballot.beside] == [beside, {}]


def test_of_a_prompt_too_and_a_tool_has_turns_of_its_own(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "q"}, said("", **CALLED), {"role": "tool", "content": "1", "name": "f"}]
    (ballot,) = read(tmp_path, {"prompt": asked, "chosen": said("x"), "rejected": said("y")})
    call, result = ballot.prompt[1:]
    assert isinstance(call, FullMessage) and json.loads(call.beside) == CALLED and call.role == "assistant"
    assert (
        isinstance(result, FullMessage) and result[:2] == ("tool", "1") and json.loads(result.beside) == {"name": "f"}
    )
    assert ballot.beside == ()


@pytest.mark.parametrize("tools", [[CALL], json.dumps([CALL]), [CALL["function"]]])
def test_tools_are_the_first_message_of_the_prompt(tools: Any, tmp_path: Path) -> None:
    (ballot,) = read(tmp_path, {**GOOD, "tools": tools})
    first, second = ballot.prompt
    assert first.role == "tools" and json.loads(first.content) == [CALL] and second == Message("user", "q")
    assert read_prompts(tmp_path / "rows.jsonl") == (ballot.prompt,)
    assert read(tmp_path, {**GOOD, "functions": tools})[0].prompt == ballot.prompt


@pytest.mark.parametrize("tools", ["f", ["f"], 3, '["f"'])
def test_tools_that_are_none_are_an_error(tools: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`tools` is .* (of objects|in JSON)"):
        read(tmp_path, GOOD, {**GOOD, "tools": tools})


def test_responses_that_differ_by_what_stands_beside_are_no_copies(tmp_path: Path) -> None:
    other = {"tool_calls": [{"type": "function", "function": {"name": "g", "arguments": {}}}]}
    (ballot,) = read(tmp_path, {"prompt": "q", "chosen": said("x", **CALLED), "rejected": said("x", **other)})
    assert ballot.responses == ("x", "x") and len(set(ballot.beside)) == 2
    (same, other_way) = read(
        tmp_path,
        {"prompt": "q", "chosen": said("x", **CALLED), "rejected": said("y", **CALLED)},
        {"prompt": "q", "chosen": said("x", **other), "rejected": said("y", **CALLED)},
    )
    (merged,) = merge_prompts([same, other_way])
    assert merged.responses == ("x", "y", "x") and len(merged.votes) == 2


def test_it_all_comes_back_from_canonical_rows(tmp_path: Path) -> None:
    ballots = tuple(read_ballots(CASE))
    assert len(ballots) == 6
    write_ballots(ballots, tmp_path / "canonical.jsonl")
    assert tuple(read_ballots(tmp_path / "canonical.jsonl")) == ballots
    rows = [json.loads(line) for line in (tmp_path / "canonical.jsonl").read_text().splitlines()]
    assert [row["tools"][0]["function"]["name"] for row in rows[:5]] == ["tide"] * 5 and "tools" not in rows[5]


def test_a_full_message_is_a_message_with_one_part_more() -> None:
    turn = FullMessage("assistant", "x", "{}")
    assert turn != Message("assistant", "x") and hash(turn) != hash(Message("assistant", "x"))
    assert turn._replace(content="") == FullMessage("assistant", "", "{}")
    assert eval(repr(turn)) == turn
