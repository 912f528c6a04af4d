"""The template has the last word: prompt and response are its own rendering, and no text becomes a control token.

The tokenizers have the settings of well-known families; every property is held against what the library makes of the
same chat in one piece.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from families import ENDS, FAMILIES, family, template
from hypothesis import given
from hypothesis import strategies as st
from properties import tried
from tiny import tiny_tokenizer
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from preftune.data.ballots import Ballot, FullMessage, Message, Vote
from preftune.data.formats import CONTROL, FORGOTTEN, NOT_CONTINUED, TextFormat, text_format
from preftune.data.reading import read_ballots
from preftune.data.templates import (
    LOST_CALL,
    LOST_REASONING,
    LOST_RESULT,
    LOST_TEXT,
    LOST_TOOLS,
    NO_TEMPLATE,
    Refused,
    template_options,
)
from preftune.data.tokens import TokenBallot, fit_prompts, tokenize
from preftune.errors import UserError

CASES = Path(__file__).parent / "chats"
FORMS = {name: text_format(family(name)) for name in FAMILIES}


def render(form: TextFormat, *messages: Message) -> str:
    """The template's own rendering of a whole chat, up to the token that ends it."""
    text = form.tokenizer.apply_chat_template([m._asdict() for m in messages], tokenize=False)
    end = form.tokenizer.convert_ids_to_tokens(form.end_chat)
    return text[: text.rindex(end) + len(end)]


def decoded(form: TextFormat, ids: Sequence[int]) -> str:
    return form.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def in_one_piece(form: TextFormat, text: str) -> list[int]:
    return list(form.tokenizer(text, add_special_tokens=False)["input_ids"])


def one(form: TextFormat, prompt: tuple[Message, ...], *responses: str) -> TokenBallot:
    votes = tuple(Vote(0, k, 1.0) for k in range(1, len(responses)))
    (kept,) = tokenize([Ballot(prompt, responses, votes)], form, max_length=10_000).ballots
    return kept


words = st.text(st.sampled_from("the film was good.\n é🙂<|[/>"), min_size=1, max_size=20)
plain = words.filter(lambda text: text.strip() and text[0].isalpha())


@st.composite
def chats(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> tuple[Message, ...]:
    """A chat that every family's template takes: perhaps a system turn, then user and assistant by turns."""
    turns = [Message("system", draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        turns += [Message("user", draw(texts)), Message("assistant", draw(texts))]
    return (*turns, Message("user", draw(texts)))


@tried(40)
@pytest.mark.parametrize("name", FAMILIES)
@given(prompt=chats(words), responses=st.lists(words, min_size=2, max_size=3, unique_by=str.strip))
def test_prompt_and_response_are_the_templates_own_rendering(
    name: str, prompt: tuple[Message, ...], responses: list[str]
) -> None:
    form = FORMS[name]
    kept = one(form, prompt, *responses, "an answer that differs")
    for ids, text in zip(kept.responses, responses, strict=False):
        whole = in_one_piece(form, render(form, *prompt, Message("assistant", text)))
        assert decoded(form, [*kept.prompt, *ids]) == decoded(form, whole)


@tried(40)
@pytest.mark.parametrize("name", FAMILIES)
@given(prompt=chats(plain), response=plain)
def test_their_tokens_are_those_of_the_rendering_in_one_piece(
    name: str, prompt: tuple[Message, ...], response: str
) -> None:
    """Where a response begins with a letter, so that no token could span the place where the prompt ends."""
    form = FORMS[name]
    kept = one(form, prompt, response, "an answer that differs")
    whole = in_one_piece(form, render(form, *prompt, Message("assistant", response)))
    assert [*kept.prompt, *kept.responses[0]] == whole


def spelling(name: str) -> st.SearchStrategy[str]:
    """Texts that spell the family's own control tokens among words."""
    controls = sorted(FORMS[name].controls.ids)
    return st.lists(st.one_of(st.sampled_from(controls), st.sampled_from(["the ", " film", "good\n", "<", "|"]))).map(
        lambda parts: "a" + "".join(parts) + "z"
    )


@tried(40)
@pytest.mark.parametrize("name", FAMILIES)
@given(data=st.data())
def test_no_text_becomes_a_control_token(name: str, data: st.DataObject) -> None:
    form, controls = FORMS[name], FORMS[name].controls
    prompt, response = data.draw(chats(spelling(name))), data.draw(spelling(name))
    harmless = tuple(m._replace(content="az") for m in prompt)
    spelled = [text for text in (*(m.content for m in prompt), response) if controls.pattern.search(text)]
    tokenised = tokenize([Ballot(prompt, (response, "other"), (Vote(0, 1, 1.0),))], form, max_length=10_000)
    (kept,) = tokenised.ballots
    own = Counter(id for id in one(form, harmless, "az", "other").prompt if id in controls.forbidden)
    assert Counter(id for id in kept.prompt if id in controls.forbidden) == own
    assert [id for id in kept.responses[0] if id in controls.forbidden] == [form.end_chat]
    whole = in_one_piece(form, render(form, *prompt, Message("assistant", response)))
    spaces = "" if name == "mistral_v1" else " "  # in one piece it has spaces behind what looks like a control token
    texts = (decoded(form, ids).replace(" ", spaces) for ids in ([*kept.prompt, *kept.responses[0]], whole))
    assert len(set(texts)) == 1
    assert tokenised.shortened == ({CONTROL: len(spelled)} if spelled else {})


@tried(40)
@pytest.mark.parametrize("name", FAMILIES)
@given(data=st.data())
def test_nor_does_text_of_a_plain_prompt_and_its_response(name: str, data: st.DataObject) -> None:
    form = FORMS[name]
    prompt, response = data.draw(spelling(name)), data.draw(spelling(name))
    ids, answer = form.prompt(prompt), form.response(response, chat=False, ended=True)
    front = [token for token in form.prompt("x") if token in form.controls.forbidden]
    assert [token for token in ids if token in form.controls.forbidden] == front
    assert [token for token in answer if token in form.controls.forbidden] == [form.end_text]
    assert decoded(form, [*ids, *answer[:-1]][len(front) :]) == prompt + response
    if not form.anchored and form.controls.pattern.search(response):
        assert answer[:-1] == form.tokenizer(response, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def test_nor_where_the_model_below_has_the_control_token_as_a_word() -> None:
    """Splitting special tokens is not enough where the vocabulary itself holds them, as a list of words does."""
    tokenizer = tiny_tokenizer(["w1", "<end>"])
    tokenizer.add_special_tokens({"extra_special_tokens": ["<end>"]})
    form, end = text_format(tokenizer), tokenizer.convert_tokens_to_ids("<end>")
    assert end in tokenizer("w1 <end> w1", split_special_tokens=True)["input_ids"], "or this test shows nothing"
    assert form.prompt("w1 <end> w1") == tokenizer("w1 unknown unknown w1")["input_ids"]


@pytest.mark.parametrize("name", ["mistral", "mistral_v1"])
def test_text_behind_a_control_token_is_what_it_is_in_one_piece_also_where_another_text_spells_one(name: str) -> None:
    """As soon as one text spells a control token the chat is encoded in pieces, which must not begin with a space."""
    tokenizer = copy.deepcopy(family(name))
    tokenizer.chat_template = "{% for m in messages %}</s>{{ m.content }}<s>{% endfor %}"
    form, end = text_format(tokenizer), tokenizer.convert_tokens_to_ids("<s>")
    plain, spelling = form.prompt((Message("user", "x"), *ASKED)), form.prompt((Message("user", "<s>"), *ASKED))
    assert spelling[len(spelling) - spelling[::-1].index(end, 1) :] == plain[len(plain) - plain[::-1].index(end, 1) :]


@pytest.mark.parametrize("name", ["mistral", "mistral_v1"])
def test_a_response_behind_a_control_token_is_what_it_is_in_one_piece(name: str) -> None:
    tokenizer = copy.deepcopy(family(name))
    tokenizer.chat_template = (
        "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
    )
    form = text_format(tokenizer)
    ids = [*form.prompt(ASKED), *form.responses(ASKED, ["good"], [True])[0]]
    assert ids == in_one_piece(form, "<s>2+2?</s><s>good</s>")


def test_a_control_token_of_one_character_does_not_hang() -> None:
    tokenizer = copy.deepcopy(family("smollm"))
    tokenizer.add_special_tokens({"extra_special_tokens": ["§"]})
    assert text_format(tokenizer).prompt((Message("user", "a § <|im_end|>"),))


def test_what_the_template_writes_before_the_end_of_a_reply_is_part_of_it() -> None:
    form = with_added(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ '\n\n' }}<|im_end|>{% endfor %}"
    )
    assert decoded(form, form.response("good", chat=True, ended=True)).endswith("good\n\n<|im_end|>")
    assert decoded(form, form.response("good", chat=True, ended=False)).endswith("good")


@pytest.mark.parametrize("name", FAMILIES)
def test_an_end_that_the_data_wrote_after_a_response_is_not_doubled(name: str) -> None:
    form = FORMS[name]
    end = form.tokenizer.convert_ids_to_tokens(form.end_chat)
    assert form.response(f"good{end}", chat=True, ended=True) == form.response("good", chat=True, ended=True)
    assert form.end_chat not in form.response(f"good{end}", chat=True, ended=False)


def with_added(chat_template: str, *added: str) -> TextFormat:
    """SmolLM's tokenizer with another template, and added tokens that are not special."""
    tokenizer = copy.deepcopy(family("smollm"))
    tokenizer.add_tokens([AddedToken(text, special=False) for text in added])
    tokenizer.chat_template = chat_template
    return text_format(tokenizer)


def test_tokens_that_frame_a_turn_are_control_tokens_and_those_of_thoughts_and_calls_are_content() -> None:
    """DeepSeek's `<｜User｜>` is an added token and not marked special; so are Qwen's `<think>` and `<tool_call>`."""
    assert {"<think>", "</think>", "<tool_call>"}.isdisjoint(FORMS["qwen_3"].controls.ids)
    body = "{% for m in messages %}{{ ('<｜User｜>' if m.role == 'user' else '<｜Bot｜>') + m.content }}{% endfor %}"
    form = with_added(body + "{% if add_generation_prompt %}<｜Bot｜>{% endif %}", "<｜User｜>", "<｜Bot｜>", "<other>")
    assert {"<｜User｜>", "<｜Bot｜>"} <= form.controls.ids.keys() and "<other>" not in form.controls.ids
    bot = form.tokenizer.convert_tokens_to_ids("<｜Bot｜>")
    assert form.prompt((Message("user", "say <｜Bot｜>no"),)).count(bot) == 1
    assert bot not in form.response("<｜Bot｜>no", chat=True, ended=True)
    thinks = template("think_like").replace("{{ m['content'] }}", "<think></think>{{ m['content'] }}")
    assert "<think>" not in with_added(thinks, "<think>", "</think>").controls.ids


def test_sampling_stops_where_the_template_ends_a_reply() -> None:
    for name in FAMILIES:
        assert family(name).convert_tokens_to_ids(ENDS[name]) in FORMS[name].stops
    assert family("gemma_3").convert_tokens_to_ids("<end_of_turn>") == FORMS["gemma_3"].end_chat


# --- tools, calls and reasoning --------------------------------------------------------------------------------------


def own_rendering(form: TextFormat, ballot: Ballot, k: int) -> str:
    """The template's own rendering of a ballot's k-th reply, made of what the ballot says in the plainest way."""
    tools = json.loads(ballot.prompt[0].content) if ballot.prompt[0].role == "tools" else None
    turns = [turn for turn in ballot.prompt if turn.role != "tools"]
    more = ballot.beside[k] if ballot.beside else ""
    chat = [{"role": t[0], "content": t[1], **json.loads("".join(t[2:]) or "{}")} for t in turns]
    chat.append({"role": "assistant", "content": ballot.responses[k], **json.loads(more or "{}")})
    text = form.tokenizer.apply_chat_template(chat, tools=tools, tokenize=False)
    end = form.tokenizer.convert_ids_to_tokens(form.end_chat)
    return text[: text.rindex(end) + len(end)]


@pytest.mark.parametrize(
    ("name", "kept", "skipped"),
    [
        ("qwen_3", ["t1", "t2", "t3", "t4", "t5", "t6"], {}),
        ("llama_3", ["t1", "t4", "t5"], {LOST_TEXT: 2, LOST_REASONING: 1}),
        ("smollm", [], {LOST_TOOLS: 5, LOST_REASONING: 1}),
    ],
)
def test_calls_tools_and_reasoning_are_in_the_rendering_or_the_row_is_skipped_with_the_reason(
    name: str, kept: list[str], skipped: dict[str, int]
) -> None:
    form, rows = FORMS[name], read_ballots(CASES / "axolotl-3824.jsonl")
    tokenised = tokenize(rows, form, max_length=10_000)
    assert [ballot.id[:2] for ballot in tokenised.ballots] == kept and tokenised.skipped == skipped
    by_id = {ballot.id: ballot for ballot in rows}
    for ballot in tokenised.ballots:
        for k, ids in enumerate(ballot.responses):
            assert decoded(form, [*ballot.prompt, *ids]) == own_rendering(form, by_id[ballot.id], k)


def test_without_a_template_there_is_nobody_to_write_them() -> None:
    tokenizer = copy.deepcopy(family("smollm"))
    tokenizer.chat_template = None
    tokenised = tokenize(read_ballots(CASES / "axolotl-3824.jsonl"), text_format(tokenizer), max_length=10_000)
    assert not tokenised.ballots and tokenised.skipped == {NO_TEMPLATE: 6}


def test_reasoning_goes_to_the_template_by_the_name_that_it_asks_for() -> None:
    asking = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.thinking %}[{{ m.thinking }}]{% endif %}"
    form = with_added(asking + "{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant{{ '\n' }}")
    ids = form.responses(ASKED, ["4"], [True], [json.dumps({"reasoning_content": "two"})])[0]
    assert decoded(form, ids) == "[two]4<|im_end|>"


def test_reasoning_of_an_earlier_turn_that_the_template_leaves_out_is_counted_and_no_reason_to_skip() -> None:
    thought = FullMessage("assistant", "4", json.dumps({"reasoning_content": "two and two"}))
    prompt = (*ASKED, thought, Message("user", "and 3+3?"))
    ballots = [Ballot(prompt, ("6", "7"), (Vote(0, 1, 1.0),))]
    tokenised = tokenize(ballots, FORMS["qwen_3"], max_length=1000)
    assert len(tokenised.ballots) == 1 and tokenised.shortened == {FORGOTTEN: 1}
    assert fit_prompts([prompt], FORMS["qwen_3"], 1000)[1] == {FORGOTTEN: 1}


def test_a_call_and_a_tools_turn_that_a_template_leaves_out_are_reasons_to_skip() -> None:
    bare = (
        "{% for m in messages if m.role != 'tool' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    form = with_added(bare + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    call = json.dumps({"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]})
    with pytest.raises(Refused, match=LOST_CALL):
        form.responses(ASKED, ["4"], [True], [call])
    with pytest.raises(Refused, match=LOST_RESULT):
        form.prompt((*ASKED, Message("tool", "4"), *ASKED))


def test_a_control_token_in_a_call_or_a_tool_stays_text() -> None:
    form = FORMS["qwen_3"]
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": "<|im_end|>"}}}
    tools = Message("tools", json.dumps([{"type": "function", "function": {"name": "<|im_start|>"}}]))
    end, start = form.end_chat, form.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert form.responses(ASKED, ["4"], [True], [json.dumps({"tool_calls": [call]})])[0].count(end) == 1
    assert form.prompt((tools, *ASKED)).count(start) == form.prompt((Message("system", "s"), *ASKED)).count(start)


# --- templates that do not go on from their own prompt ---------------------------------------------------------------


THINK = with_added(template("think_like"), "<think>", "</think>")
ASKED = (Message("user", "2+2?"),)


def test_a_response_follows_a_prompt_that_opens_a_thinking_block_without_opening_it_again() -> None:
    kept = one(THINK, ASKED, "<think>\ntwo\n</think>\n\n4", "<think>\nhm\n</think>\n\n5")
    think = THINK.tokenizer.convert_tokens_to_ids("<think>")
    assert [*kept.prompt, *kept.responses[0]].count(think) == 1
    assert decoded(THINK, [*kept.prompt, *kept.responses[0]]) == render(
        THINK, *ASKED, Message("assistant", "<think>\ntwo\n</think>\n\n4")
    )


def test_a_response_that_does_not_go_on_from_the_prompt_is_skipped_and_counted() -> None:
    rows = read_ballots(CASES / "trl-6433.jsonl")
    tokenised = tokenize(rows, THINK, max_length=1000)
    assert [ballot.id for ballot in tokenised.ballots] == ["both-think"]
    assert tokenised.skipped == {NOT_CONTINUED: 1}


def test_an_option_of_the_template_decides_and_is_saved_with_it(tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(family("qwen_3"))
    thinking, answer = FORMS["qwen_3"], Message("assistant", "good")
    form = text_format(tokenizer, options=template_options("enable_thinking=false"))
    ids = [*form.prompt(ASKED), *form.responses(ASKED, ["good"], [True])[0]]
    assert decoded(form, form.prompt(ASKED)).endswith("<think>\n\n</think>\n\n")
    assert decoded(form, ids) == render(form, *ASKED, answer) == render(thinking, *ASKED, answer)
    assert not decoded(thinking, thinking.prompt(ASKED)).endswith("</think>\n\n")
    tokenizer.save_pretrained(tmp_path)
    again = text_format(PreTrainedTokenizerFast.from_pretrained(tmp_path))
    assert again.prompt(ASKED) == form.prompt(ASKED)


@pytest.mark.parametrize(
    ("options", "reason"),
    [("enable_thinking", "name=value"), ("a-b=1", "name=value"), ("depth=3", "depth: .* does not read it")],
)
def test_an_option_that_the_template_has_no_use_for_is_a_users_mistake(options: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"--template-options.*{reason}"):
        text_format(copy.deepcopy(family("qwen_3")), options=template_options(options))


def test_options_are_json_or_text() -> None:
    read = template_options('a=false, b=False,c=3,d="x",e=26 Jul 2024')
    assert read == {"a": False, "b": False, "c": 3, "d": "x", "e": "26 Jul 2024"}
    assert template_options("") == {}


def test_a_default_system_turn_is_there_once() -> None:
    form = with_added(template("default_system"))
    for ballot in read_ballots(CASES / "distilabel-343.jsonl"):
        prompt = ballot.prompt if isinstance(ballot.prompt, tuple) else (Message("user", ballot.prompt),)
        kept = one(form, prompt, *ballot.responses)
        text = decoded(form, [*kept.prompt, *kept.responses[0]])
        assert text == render(form, *prompt, Message("assistant", ballot.responses[0]))
        assert text.count("<|im_start|>system") == 1


@pytest.mark.parametrize("case", ["alignment-handbook-93.jsonl", "alignment-handbook-123.jsonl"])
def test_a_chat_that_the_template_refuses_is_counted_for_training_and_for_sampling_alike(case: str) -> None:
    form, rows = with_added(template("gemma_like")), read_ballots(CASES / case)
    tokenised = tokenize(rows, form, max_length=1000)
    fitted, counts = fit_prompts([ballot.prompt for ballot in rows], form, 1000)
    assert len(tokenised.ballots) == len(fitted) == 6
    assert sum(tokenised.skipped.values()) == 6 and counts == tokenised.skipped
    assert [ids for _, ids in fitted] == [ballot.prompt for ballot in tokenised.ballots]


def test_whatever_goes_wrong_inside_a_template_is_a_refusal() -> None:
    form = with_added("{{ messages[5].content + 1 }}")
    with pytest.raises(Refused, match="refuses the chat"):
        form.prompt(ASKED)


def test_a_template_that_does_not_compile_is_a_users_mistake_at_once() -> None:
    with pytest.raises(UserError, match=r"--model.*does not compile \(line 2: .*mend it"):
        with_added("{% for m in messages %}\n{% if %}")
