"""What stands beside texts: a turn's tool calls and reasoning, and the tools that a prompt offers; kept as JSON.

A chat template reads them under the names of the OpenAI format, with a call's arguments as an object.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable
from typing import Any

from .ballots import TOOLS, FullMessage, Message, Prompt
from .fields import Row, Unusable

UNKNOWN_CALL = "a tool call in a form that is not known"
UNKNOWN_REASONING = "reasoning that is no text"
CALLS = ("tool_calls", "function_call")
THOUGHTS = ("reasoning_content", "thinking")
RESULT = ("tool_call_id", "name")  # of a tool's turn


def full_message(role: str, content: str, beside: dict[str, Any]) -> Message:
    """A message with what stands beside its text, if anything does."""
    return FullMessage(role, content, json.dumps(beside, ensure_ascii=False)) if beside else Message(role, content)


def beside_of(turn: Row, thoughts: Iterable[str], *, result: bool = False) -> dict[str, Any]:
    """What a turn has beside its text: calls, thoughts (under those names), and whose result it is if it is a tool's.

    Raises Unusable for calls or thoughts in a form that cannot be kept.
    """
    beside: dict[str, Any] = {}
    said = [turn[key] for key in thoughts if turn.get(key)]
    if not all(isinstance(text, str) for text in said):
        raise Unusable(UNKNOWN_REASONING)
    if spoken := [text for text in said if text.strip()]:
        beside["reasoning_content"] = spoken[0]
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    if calls:
        beside["tool_calls"] = [_call(call) for call in (calls if isinstance(calls, list) else [calls])]
    if result:
        beside |= {key: turn[key] for key in RESULT if isinstance(turn.get(key), str)}
    return beside


def called(text: object) -> dict[str, Any]:
    """What a turn that is a call has beside its empty text. Raises Unusable if it is none in JSON."""
    try:
        return {"tool_calls": [_call(json.loads(str(text)))]}
    except ValueError:
        raise Unusable(UNKNOWN_CALL) from None


def _call(call: object) -> dict[str, Any]:
    """A call as templates read it: {type, function: {name, arguments}}, its arguments an object where they are one."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unusable(UNKNOWN_CALL)
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _object(arguments)
    own = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return own | {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _object(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict) else text


def with_tools(prompt: Prompt | None, row: Row) -> Prompt | None:
    """The prompt with the row's tools as its first message; text becomes a user's message then."""
    tools = _tools(row)
    if not tools or not prompt:
        return prompt
    chat = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return (Message(TOOLS, json.dumps(tools, ensure_ascii=False)), *chat)


def _tools(row: Row) -> list[Any]:
    """The tools that a row offers, as templates read them."""
    given = row.get("tools") or row.get("functions")
    if isinstance(given, str):
        if not given.strip():
            return []
        try:
            given = json.loads(given)
        except ValueError:
            raise ValueError(f"`tools` is {reprlib.repr(given)}, neither a list nor one in JSON") from None
    if not given:
        return []
    if not isinstance(given, list) or not all(isinstance(tool, dict) for tool in given):
        raise ValueError(f"`tools` is {reprlib.repr(given)}, not a list of objects")
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in given]


def split_tools(prompt: tuple[Message, ...]) -> tuple[list[Any], tuple[Message, ...]]:
    """(the tools that a prompt offers, its turns)."""
    if prompt and prompt[0].role == TOOLS:
        return json.loads(prompt[0].content), prompt[1:]
    return [], prompt


def turn_row(message: Message) -> dict[str, Any]:
    """A message as chat templates and files have it."""
    more = json.loads(message.beside) if isinstance(message, FullMessage) else {}
    return {"role": message.role, "content": message.content, **more}
