"""Prompts and chats in any common form: whose turn it is, where the prompt ends, what a side of a pair says."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Sequence
from typing import Any

from .ballots import FullMessage, Message, Prompt
from .beside import CALLS, THOUGHTS, UNKNOWN_CALL, UNKNOWN_REASONING, beside_of, called, full_message
from .fields import Row, Unusable

PROMPT_DIFFERS = "a prompt that differs between the sides"
NOT_ASSISTANT = "a response whose turn is not the assistant's (its role is {role})"
OTHER_ROLE = "a turn of a role other than system, user or assistant ({role})"
ONE_TRANSCRIPT = "a transcript beside a response that is none"
MEDIA = "{kind} beside the text, which a text model cannot see"
Side = str | tuple[Message, ...]  # a response alone, or the messages that end with it
PROMPTS = (  # the first of these groups that has a value; two of one group are a question
    ("prompt",),
    ("conversations", "conversation", "question", "instruction", "context"),
    ("messages", "contents", "input", "query", "trajectory", "user_prompt", "user_input", "problem", "post"),
)
TEXTS = ("text", "content", "response", "answer", "completion", "output", "generation")
SYSTEMS = ("system", "system_prompt")
TURN = (("role", "content"), ("from", "value"), ("role", "parts"))
CALL_ROLES = ("function_call", "tool_call")
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    **dict.fromkeys(("tool", "function", "ipython", "observation", "tool_response"), "tool"),
}
MEDIA_KINDS = ("image", "audio", "video", "file", "document")
MEDIA_FIELDS = ("image", "images", "image_url", "audio", "audios", "video", "videos")
OPENING = re.compile(r"\s*Human:")
ANSWER = "\n\nAssistant:"


def stated_prompt(row: Row) -> Prompt | None:
    """The prompt that a row states; None where it states none."""
    keys = next((found for group in PROMPTS if (found := [key for key in group if row.get(key) is not None])), [])
    if len(keys) > 1:
        raise ValueError(f"which is the prompt: {', '.join(keys)}? Put what the model sees under `prompt`")
    if not keys:
        return None
    prompt = _prompt_of(keys[0], chat_in(row[keys[0]]), row)
    earlier = _history(row)
    if not earlier:
        return prompt
    return (*earlier, *((Message("user", prompt),) if isinstance(prompt, str) else prompt))


def _prompt_of(key: str, value: Any, row: Row) -> Prompt:
    if isinstance(value, str):
        extra = _input(row) if key == "instruction" else ""
        return f"{value}\n{extra}" if extra else value
    if isinstance(value, list) and value and all(map(_is_exchange, value)):
        return _exchanges([[one["input"], one["output"]] for one in value], key)
    if isinstance(value, list) or is_turn(value):
        if key == "instruction" and _input(row):
            raise ValueError("`input` stands beside an `instruction` that is a chat: put it into one of its turns")
        return messages_of(value)
    raise ValueError(f"`{key}` is {reprlib.repr(value)}, neither text nor a list of messages")


def _history(row: Row) -> tuple[Message, ...]:
    """Earlier turns as a list of [what the user said, what was replied]."""
    history = row.get("history")
    return _exchanges(history, "history") if isinstance(history, list) else ()


def _exchanges(pairs: list[Any], name: str) -> tuple[Message, ...]:
    if not all(isinstance(one, list) and len(one) == 2 and all(isinstance(text, str) for text in one) for one in pairs):
        raise ValueError(f"`{name}` is {reprlib.repr(pairs)}, not a list of [question, reply]")
    return tuple(Message(role, text) for one in pairs for role, text in zip(("user", "assistant"), one, strict=True))


def _is_exchange(value: object) -> bool:
    return isinstance(value, dict) and {"input", "output"} <= value.keys()


def chat_in(value: Any) -> Any:
    """The chat that a text holds as JSON; else the value itself."""
    if isinstance(value, str) and value[:1] in "[{" and ('"role"' in value or '"from"' in value):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        turns = found if isinstance(found, list) else [found]
        return found if turns and all(map(is_turn, turns)) else value
    return value


def replies_to(prompt: Any, entries: Sequence[Any]) -> list[tuple[Message, ...]]:
    """The chats of a list of turns and of each side's list of replies, as lists or as JSON in a text; [] if none."""
    asked, *replies = [_texts_in(value) for value in (prompt, *entries)]
    if not asked or not all(replies):
        return []
    if any(len(said or ()) != len(asked) for said in replies) or not all(asked):
        raise ValueError(f"{len(asked)} turns of the prompt need as many replies on each side")
    sides = [zip(asked, said or (), strict=True) for said in replies]
    return [
        tuple(
            Message(role, text or "") for pair in side for role, text in zip(("user", "assistant"), pair, strict=True)
        )
        for side in sides
    ]


def _texts_in(value: Any) -> list[str | None] | None:
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    known = isinstance(value, list) and bool(value) and all(isinstance(text, str | None) for text in value)
    return value if known else None


def _input(row: Row) -> str:
    extra = row.get("input")
    if not isinstance(extra, str | None):
        raise ValueError(f"`input` is {reprlib.repr(extra)}, not text")
    return extra if extra and extra.strip() else ""


def with_system(prompt: Prompt | None, row: Row) -> Prompt | None:
    """A field `system` makes the prompt a chat, with its text (if any) as the first turn."""
    if not prompt or not row.keys() & {*SYSTEMS}:
        return prompt
    system = _system(row)
    chat = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if not system.strip():
        return chat
    own = next((turn.content for turn in chat if turn.role == "system"), None)
    if own is None:
        return (Message("system", system), *chat)
    if own.strip() != system.strip():
        raise ValueError("the `system` field and the system turn of the chat have different texts: keep the right one")
    return chat


def _system(row: Row) -> str:
    texts = {key: _system_text(row[key]) for key in SYSTEMS if row.get(key) is not None}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"`{key}` is {reprlib.repr(text)}, not text")
    spoken = [text for text in texts.values() if text.strip()]
    if len({text.strip() for text in spoken}) > 1:
        raise ValueError("`system` and `system_prompt` have different texts: keep the right one")
    return spoken[0] if spoken else ""


def _system_text(value: Any) -> Any:
    """A system field may be a list of messages, all of them the system's."""
    if (isinstance(value, list) and value and all(map(is_turn, value))) or is_turn(value):
        turns = messages_of(value)
        if all(turn.role == "system" for turn in turns):
            return "\n\n".join(turn.content for turn in turns)
    return value


def is_turn(value: object) -> bool:
    """Whether it looks like one turn of a chat, said or called."""
    if not isinstance(value, dict):
        return False
    return any(value.keys() >= {*pair} for pair in TURN) or ("role" in value and any(map(value.get, CALLS)))


def messages_of(value: object) -> tuple[Message, ...]:
    """Chat turns under role and content, or ShareGPT's from and value."""
    turns = value if isinstance(value, list) else [value]
    if not all(map(is_turn, turns)):
        raise ValueError(f"a chat is a list of {{role, content}} or {{from, value}}, not {reprlib.repr(value)}")
    return tuple(map(_message, turns))


def _message(turn: Row) -> Message:
    role, content = _spoken(turn)
    if isinstance(content, list):
        content = _joined(content)
    if not isinstance(content, str | None):
        raise ValueError(f"the content of a turn is {reprlib.repr(content)}, not text")
    name = role.lower() if isinstance(role, str) else ""
    if name in CALL_ROLES:
        return full_message("assistant", "", called(content))
    if name not in ROLES:
        raise Unusable(OTHER_ROLE.format(role=reprlib.repr(role)))
    beside = beside_of(turn, (*THOUGHTS, "reasoning"), result=ROLES[name] == "tool")
    return full_message(ROLES[name], content or "", beside)


def _joined(parts: Sequence[Any]) -> str:
    """The text of a content in parts. Unusable where a part is none: it would vanish."""
    texts = []
    for part in parts:
        if not isinstance(part, str | dict):
            raise ValueError(f"a part of a turn is {reprlib.repr(part)}, neither text nor an object with a type")
        text, kind = (part, "text") if isinstance(part, str) else (part.get("text"), str(part.get("type") or "text"))
        if kind in ("tool_use", "tool_result", "tool_call"):
            raise Unusable(UNKNOWN_CALL)
        if kind in ("thinking", "reasoning", "redacted_thinking"):
            raise Unusable(UNKNOWN_REASONING)
        if kind not in ("text", "input_text", "output_text"):
            known = next((name for name in MEDIA_KINDS if name in kind), reprlib.repr(kind))
            raise Unusable(MEDIA.format(kind=known))
        if isinstance(part, dict):
            check_media(part)
        if not isinstance(text, str):
            raise ValueError(f"the text of a part is {reprlib.repr(text)}")
        texts.append(text)
    return "".join(texts)


def check_media(fields: Row) -> None:
    """Unusable for a row, or a part of a turn, that has pictures, sound or film beside its text."""
    for key in MEDIA_FIELDS:
        if fields.get(key):
            raise Unusable(MEDIA.format(kind=key.removesuffix("s").removesuffix("_url")))


def _spoken(turn: Row) -> tuple[Any, Any]:
    """Role and text of a turn. Arrow gives every turn all keys, so of two pairs the one that has values is meant."""
    pairs = [(turn[role], turn[text]) for role, text in TURN if role in turn and text in turn]
    names = [turn[role].lower() for role, _ in TURN if isinstance(turn.get(role), str)]
    texts = [text for _, text in pairs if text is not None]
    if len({ROLES[name] for name in names if name in ROLES}) > 1 or any(text != texts[0] for text in texts):
        raise ValueError(f"`role`, `content` and `from`, `value` of a turn differ: {reprlib.repr(turn)}")
    return max(pairs, key=lambda pair: sum(part is not None for part in pair))


def side_of(value: object) -> Side:
    """A response as text, or as the messages that end with it; a missing or blank one is the empty text."""
    value = chat_in(value)
    if isinstance(value, dict) and not (is_turn(value) and any(value.get(role) is not None for role, _ in TURN)):
        beside = beside_of(value, THOUGHTS)  # `reasoning` beside a score is the judge's
        value = _text_of(value)
        if beside and isinstance(value, str | None):
            return (full_message("assistant", value or "", beside),)
    if isinstance(value, list) or is_turn(value):
        return messages_of(value) or ""
    if isinstance(value, str | None):
        return value if value and value.strip() else ""
    raise ValueError(f"a response is {reprlib.repr(value)}, neither text nor messages")


def _text_of(entry: Row) -> object:
    """What a response that is an object says: the object itself if it has no field for that."""
    texts = {key: entry[key] for key in TEXTS if entry.get(key) is not None}
    first = next(iter(texts.values()), None)
    if any(text != first for text in texts.values()):
        raise ValueError(f"which is the response: {', '.join(texts)}? Keep one of them")
    return first if entry.keys() & {*TEXTS} else entry


def split_sides(prompt: Prompt | None, sides: Sequence[Side]) -> tuple[Prompt | None, tuple[str | FullMessage, ...]]:
    """The prompt and each side's response, where sides may hold the whole chat: what they share is the prompt.

    A response that has more than its text is a message.
    Raises Unusable if they share less than all but the last turn, or contradict the stated prompt.
    """
    spoken = [side for side in sides if side]
    if _are_transcripts(prompt, spoken):
        prompt, sides = None, [_turns(side) if isinstance(side, str) and side else side for side in sides]
    elif len({_is_transcript(side) for side in spoken}) > 1:
        raise Unusable(ONE_TRANSCRIPT)
    elif isinstance(prompt, str) and OPENING.match(prompt) and prompt.rstrip().endswith(ANSWER):
        prompt, sides = _turns(prompt)[:-1], [side.strip() if isinstance(side, str) else side for side in sides]
    texts = tuple(side for side in sides if isinstance(side, str))
    if len(texts) == len(sides):
        return prompt, texts
    for side in sides:
        if not isinstance(side, str) and side[-1].role != "assistant":
            raise Unusable(NOT_ASSISTANT.format(role=side[-1].role))
    chats = [_whole(prompt, side) for side in sides if side]
    if len({chat[:-1] for chat in chats}) > 1:
        raise Unusable(PROMPT_DIFFERS)
    return chats[0][:-1], tuple(_last(_whole(prompt, side)) if side else "" for side in sides)


def _last(chat: tuple[Message, ...]) -> str | FullMessage:
    return chat[-1] if isinstance(chat[-1], FullMessage) else chat[-1].content


def _whole(prompt: Prompt | None, side: Side) -> tuple[Message, ...]:
    """Prompt and response as one chat; the side may already begin with the prompt."""
    turns = (Message("assistant", side),) if isinstance(side, str) else side
    if prompt is None:
        return turns
    if turns[0].role == "assistant":
        return ((Message("user", prompt),) if isinstance(prompt, str) else prompt) + turns
    if not _repeats(prompt, turns):
        raise Unusable(PROMPT_DIFFERS)
    return turns


def _is_transcript(side: Side) -> bool:
    return isinstance(side, str) and bool(OPENING.match(side)) and ANSWER in side


def _are_transcripts(prompt: Prompt | None, sides: Sequence[Side]) -> bool:
    """Whether all sides are whole `Human: ... Assistant: ...` transcripts; beside a prompt, ones that repeat it."""
    texts = [side for side in sides if isinstance(side, str) and _is_transcript(side)]
    if not sides or len(texts) < len(sides):
        return False
    if isinstance(prompt, str) and OPENING.match(prompt):
        return all(text.strip().startswith(prompt.strip()) for text in texts)
    return not prompt or all(_repeats(prompt, _turns(text)) for text in texts)


def _repeats(prompt: Prompt, turns: tuple[Message, ...]) -> bool:
    """Whether a chat already holds the stated prompt."""
    if isinstance(prompt, str):
        return any(turn.content.strip() == prompt.strip() for turn in turns[:-1])
    return turns[: len(prompt)] == prompt


def _turns(transcript: str) -> tuple[Message, ...]:
    """The turns of a transcript. Before the last one, successive turns of one role are one turn with a break in it."""
    parts = re.split(r"\n\n(Human|Assistant):", "\n\n" + transcript.lstrip())
    tags = {"Human": "user", "Assistant": "assistant"}
    turns = [Message(tags[tag], text.strip()) for tag, text in zip(parts[1::2], parts[2::2], strict=True)]
    merged: list[Message] = []
    for turn in turns[:-1]:
        if merged and merged[-1].role == turn.role:
            merged[-1] = Message(turn.role, f"{merged[-1].content}\n\n{turn.content}")
        else:
            merged.append(turn)
    return (*merged, turns[-1])
