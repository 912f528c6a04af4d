"""Ballots to token ids: the context in training is the context in sampling, and whatever is cut or skipped is counted.

The word-level tokenizer makes every length countable by hand; the byte-level and the space-prefixing (SentencePiece
style) ones make the traps of real vocabularies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import tried
from tiny import tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from preftune.data import tokens
from preftune.data.ballots import Ballot, Message, Prompt, Vote
from preftune.data.reading import read_ballots
from preftune.data.tokens import TextFormat, fit_prompt, text_format, tokenize
from preftune.errors import UserError

# words stand for themselves, so that a chat of w words takes bos + 3 tokens a message + w + 2 for the reply to come
WORD_TEMPLATE = (
    "<bos> {% for m in messages %}<start> {{ m.role }} {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<start> assistant {% endif %}"
)
WORDS = ("<bos>", "<start>", "<end>", "system", "user", "assistant", *(f"w{i}" for i in range(60)))
CHATML = (
    "{% for m in messages %}{{ '<start>' + m.role + '\n' + m.content + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start>assistant\n' }}{% endif %}"
)
CORPUS = [
    "the film was good, and a good day it was",
    "user assistant system hello there\n\n",
    "Human: the end. ",
    "good",
] * 5


@cache
def words() -> TextFormat:
    tokenizer = tiny_tokenizer(WORDS, WORD_TEMPLATE)
    tokenizer.add_special_tokens({"bos_token": "<bos>", "extra_special_tokens": ["<start>", "<end>"]})
    return text_format(tokenizer)


def byte_level_tokenizer(
    template: str | None = CHATML, eos: str = "<eos>", bos: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's, with `<eos>`, and `<start>` and `<end>` as special tokens without a role."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<eos>", "<start>", "<end>", "<bos>")])
    if bos:
        front = [("<bos>", backend.token_to_id("<bos>"))]
        backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=front)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos, bos_token="<bos>" if bos else None, chat_template=template
    )


def space_prefixing_tokenizer(scheme: str = "first", template: str | None = None) -> PreTrainedTokenizerFast:
    """A BPE with byte fallback as Llama's: a space before the first word of a text, and `<s>` before a prompt."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    trained.train_from_iterator(
        [text.strip() for text in CORPUS], trainers.BpeTrainer(vocab_size=120, show_progress=False)
    )
    learned = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *(p for p in learned if "\n" not in p)])}
    merges = [(a, b) for p in learned for a, b in splits(p) if {p, a, b} <= vocabulary.keys()]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=template
    )


def splits(piece: str) -> list[tuple[str, str]]:
    return [(piece[:i], piece[i:]) for i in range(1, len(piece))]


@cache
def byte_level() -> TextFormat:
    return text_format(byte_level_tokenizer())


@cache
def space_prefixing() -> TextFormat:
    return text_format(space_prefixing_tokenizer())


def ballot(prompt: Prompt, *responses: str, ended: Sequence[bool] = (), votes: Sequence[Vote] = ()) -> Ballot:
    pairs = tuple(Vote(0, k, 1.0) for k in range(1, len(responses)))
    return Ballot(prompt, responses, tuple(votes) or pairs, ended=tuple(ended))


def chat(*turns: str) -> tuple[Message, ...]:
    """Messages from `role: content` strings."""
    return tuple(Message(*turn.split(": ", 1)) for turn in turns)


texts = st.text(st.sampled_from("the film ws god\n.é🙂"), min_size=1, max_size=20)


# --- the boundary ----------------------------------------------------------------------------------------------------


def test_a_prompt_and_its_response_do_not_merge_into_one_token() -> None:
    form = byte_level()
    joint = form.tokenizer("go" + "od")["input_ids"]
    assert joint != form.prompt("go") + form.response("od", chat=False, ended=False), "or this test shows nothing"
    (kept,) = tokenize([ballot("go", "od", "ing")], form, max_length=64).ballots
    assert kept.prompt == tuple(form.prompt("go"))
    assert form.tokenizer.decode(kept.prompt) == "go"
    assert form.text(kept.responses[0]) == "od"


@given(texts, texts)
def test_the_prompt_of_training_is_the_prompt_of_sampling_whatever_the_response(prompt: str, response: str) -> None:
    for form in (byte_level(), space_prefixing()):
        tokenised = tokenize([ballot(prompt, response, response + "!")], form, max_length=10_000)
        assert tokenised.ballots[0].prompt == tuple(form.tokenizer(prompt)["input_ids"])
        assert not tokenised.skipped and not tokenised.shortened


@given(texts, texts)
def test_a_chat_prompt_is_the_templates_own_up_to_the_reply(user: str, response: str) -> None:
    form, messages = byte_level(), (Message("user", user),)
    (kept,) = tokenize([ballot(messages, response, response + "!")], form, max_length=10_000).ballots
    own = form.tokenizer.apply_chat_template([m._asdict() for m in messages], add_generation_prompt=True)
    assert kept.prompt == tuple(own["input_ids"])


@given(st.sampled_from(["first", "always"]), texts.filter(lambda text: text[0] != " "), texts)
def test_a_space_prefixing_tokenizer_puts_no_space_between_prompt_and_response(
    scheme: str, prompt: str, response: str
) -> None:
    form = text_format(prefixing(scheme))
    assert form.anchored
    (kept,) = tokenize([ballot(prompt, response, response + "!")], form, max_length=10_000).ballots
    assert form.tokenizer.decode([*kept.prompt, *kept.responses[0]], skip_special_tokens=True) == prompt + response


prefixing = cache(space_prefixing_tokenizer)


def test_a_space_prefixing_tokenizer_keeps_a_space_that_the_response_begins_with() -> None:
    form = space_prefixing()
    with_space, without = (form.response(text, chat=False, ended=False) for text in (" the", "the"))
    assert form.tokenizer.convert_ids_to_tokens(with_space)[0].startswith("▁")
    assert not form.tokenizer.convert_ids_to_tokens(without)[0].startswith("▁")


def test_a_byte_level_tokenizer_needs_no_anchor() -> None:
    assert not byte_level().anchored


@given(texts)
def test_the_text_of_response_ids_is_the_response(text: str) -> None:
    for form in (byte_level(), space_prefixing()):
        for ended in (False, True):
            assert form.text(form.response(text, chat=False, ended=ended)) == text


def test_an_anchor_that_merges_with_the_response_loses_nothing_of_it() -> None:
    """A vocabulary with a token for two newlines: the newline before the response must not swallow its first one."""
    tokenizer = prefixing_with("\n\n")
    form = text_format(tokenizer)
    assert form.anchored
    assert len(tokenizer("\n\n", add_special_tokens=False)["input_ids"]) == 2, (
        "a space, and one token for both newlines"
    )
    assert form.text(form.response("\nthe end", chat=False, ended=True)) == "\nthe end"


def prefixing_with(piece: str) -> PreTrainedTokenizerFast:
    vocabulary = {text: i for i, text in enumerate(["<unk>", "<s>", "</s>", "▁", *"thend\n:", piece])}
    backend = Tokenizer(models.BPE(vocabulary, [tuple(piece)], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


def test_an_end_of_text_that_the_tokenizer_puts_after_every_text_is_taken_off_the_prompt() -> None:
    tokenizer = byte_level_tokenizer(None)
    end = [("<eos>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=end)
    form = text_format(tokenizer)
    for prompt in ("the film", chat("user: the film")):
        assert form.prompt(prompt)[-1] != tokenizer.eos_token_id
        assert form.prompt(prompt)


# --- the end of a response -------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=2, max_size=4), st.booleans())
def test_the_end_token_is_there_exactly_when_the_response_ended(ended: list[bool], is_chat: bool) -> None:
    form = byte_level()
    prompt: Prompt = chat("user: hello") if is_chat else "hello"
    responses = [f"good day {k}" for k in range(len(ended))]
    (kept,) = tokenize([ballot(prompt, *responses, ended=ended)], form, max_length=200).ballots
    end = form.end_chat if is_chat else form.end_text
    assert [ids.count(end) for ids in kept.responses] == [int(e) for e in ended]
    assert all(ids[-1] == end for ids, e in zip(kept.responses, ended, strict=True) if e)


def test_an_end_token_that_the_data_already_wrote_is_not_doubled() -> None:
    form = byte_level()
    assert form.response("good<eos>", chat=False, ended=True) == form.response("good", chat=False, ended=True)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<end>"),
        (CHATML.replace("<end>", "<eos>"), "<eos>"),
        ("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}", "<eos>"),
        ("{% for m in messages %}{{ m.content | trim }} <end><start>{% endfor %}", "<end>"),
        (None, "<eos>"),
    ],
    ids=["its own token", "end of text", "none", "the first of two", "no template"],
)
def test_the_end_of_a_reply_is_what_the_template_writes_after_one(template: str | None, end: str) -> None:
    form = text_format(byte_level_tokenizer(template))
    assert form.end_text == form.tokenizer.convert_tokens_to_ids("<eos>")
    assert form.end_chat == form.tokenizer.convert_tokens_to_ids(end)
    assert set(form.stops) == {form.end_text, form.end_chat}


def test_a_special_token_without_a_role_ends_a_reply_also_after_saving_and_loading(tmp_path: Path) -> None:
    """As Gemma's `<end_of_turn>`: marked special in tokenizer.json and named nowhere else."""
    saved = byte_level_tokenizer()
    assert saved.convert_tokens_to_ids("<end>") not in saved.all_special_ids
    saved.save_pretrained(tmp_path)
    form = text_format(PreTrainedTokenizerFast.from_pretrained(tmp_path))
    assert form.tokenizer.convert_ids_to_tokens(form.end_chat) == "<end>"


def test_a_tokenizer_without_an_end_of_text_is_a_users_mistake() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="eos_token"):
        text_format(tokenizer)


# --- chats -----------------------------------------------------------------------------------------------------------


def test_a_chat_without_a_template_becomes_a_transcript() -> None:
    form = text_format(byte_level_tokenizer(None))
    prompt = chat("system: Be good.", "user: hello", "assistant: hi", "user: the end")
    (kept,) = tokenize([ballot(prompt, "good", "day")], form, max_length=500).ballots
    text = form.tokenizer.decode(kept.prompt)
    assert text == "\n\nBe good.\n\nHuman: hello\n\nAssistant: hi\n\nHuman: the end\n\nAssistant:"
    assert form.text(kept.responses[0]) == " good"


def test_an_empty_system_message_leaves_no_trace_in_a_transcript() -> None:
    form = text_format(byte_level_tokenizer(None))
    assert form.prompt((Message("system", ""), Message("user", "hello"))) == form.prompt((Message("user", "hello"),))


def test_a_chat_that_ends_with_a_reply_asks_for_another_one() -> None:
    prompt = chat("user: w1", "assistant: w2")
    (kept,) = tokenize([ballot(prompt, "w3", "w4")], words(), max_length=50).ballots
    assert words().tokenizer.decode(kept.prompt) == (
        "<bos> <start> user w1 <end> <start> assistant w2 <end> <start> assistant"
    )


def test_a_chat_of_a_system_message_alone_is_kept() -> None:
    (kept,) = tokenize([ballot(chat("system: w1"), "w3", "w4")], words(), max_length=50).ballots
    assert words().tokenizer.decode(kept.prompt) == "<bos> <start> system w1 <end> <start> assistant"


def test_a_chat_that_the_template_refuses_is_skipped_with_the_templates_own_reason() -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    form = text_format(byte_level_tokenizer(refusing))
    good, bad = chat("user: hello"), chat("system: Be good.", "user: hello")
    tokenised = tokenize([ballot(good, "a", "b"), ballot(bad, "a", "b")], form, max_length=100)
    assert len(tokenised.ballots) == 1
    ((reason, count),) = tokenised.skipped.items()
    assert count == 1 and "no system role" in reason


# --- cutting, against an oracle on lists of words --------------------------------------------------------------------


def rendered(messages: Sequence[Message]) -> list[str]:
    body = [w for m in messages for w in ("<start>", m.role, *m.content.split(), "<end>")]
    return ["<bos>", *body, "<start>", "assistant"]


def fitted(messages: list[Message], budget: int) -> tuple[list[str], list[str]]:
    """The rules in words: whole turns go, oldest first, while one stays; then single words from the front of it."""
    system = [m for m in messages if m.role == "system"]
    turns: list[list[Message]] = []
    for m in messages[len(system) :]:
        if m.role == "user" or not turns:
            turns.append([])
        turns[-1].append(m)
    reasons = []
    while len(turns) > 1 and len(rendered([*system, *chain(*turns)])) > budget:
        turns.pop(0)
        reasons = [tokens.DROPPED_TURNS]
    last = [[m.role, m.content.split()] for m in turns[-1]]
    too_many = len(rendered([*system, *chain(*turns)])) - budget
    if too_many > 0:
        reasons.append(tokens.CUT_PROMPT)
    for _, content in last:
        while too_many > 0 and content:
            content.pop(0)
            too_many -= 1
    kept = [Message(role, " ".join(content)) for role, content in last]
    return rendered([*system, *chain(*turns[:-1]), *kept]), reasons


word_lists = st.lists(st.sampled_from([f"w{i}" for i in range(60)]), min_size=1, max_size=7).map(" ".join)


@st.composite
def chats(draw: st.DrawFn) -> tuple[Message, ...]:
    messages = [Message("system", draw(word_lists))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        messages.append(Message("user", draw(word_lists)))
        messages += [Message("assistant", draw(word_lists)) for _ in range(draw(st.integers(0, 2)))]
    return tuple(messages)


@tried(200)
@given(chats(), st.lists(word_lists, min_size=2, max_size=4, unique=True), st.integers(2, 60), st.data())
def test_cutting_follows_the_rules_word_for_word_and_counts_by_reason(
    prompt: tuple[Message, ...], responses: list[str], max_length: int, data: st.DataObject
) -> None:
    ended = data.draw(st.lists(st.booleans(), min_size=len(responses), max_size=len(responses)))
    votes = [Vote(a, b, 0.5) for a in range(len(responses)) for b in range(a)]
    tokenised = tokenize([ballot(prompt, *responses, ended=ended, votes=votes)], words(), max_length=max_length)
    whole = [[*r.split(), "<end>"] if e else r.split() for r, e in zip(responses, ended, strict=True)]
    reasons: Counter[str] = Counter()
    wanted_prompt = rendered(prompt)
    if len(wanted_prompt) + max(map(len, whole)) > max_length:
        system, users = [m for m in prompt if m.role == "system"], [i for i, m in enumerate(prompt) if m.role == "user"]
        bare = [m._replace(content="") for m in prompt[users[-1] :]]
        room = max_length - len(rendered([*system, *bare])) - 1
        if room <= 0:
            assert tokenised.skipped == {tokens.NO_ROOM: 1} and not tokenised.ballots and not tokenised.shortened
            return
        reasons[tokens.CUT_RESPONSE] = sum(len(r) > room for r in whole)
        whole = [r[:room] for r in whole]
        wanted_prompt, why = fitted(list(prompt), max_length - max(map(len, whole)))
        reasons.update(why)
    alike = sum(whole[v.a] == whole[v.b] for v in votes)
    if alike == len(votes):
        assert tokenised.skipped == {tokens.SAME_TOKENS: 1} and not tokenised.ballots
        return
    reasons[tokens.SAME_TOKENS] = alike
    (kept,) = tokenised.ballots
    assert words().tokenizer.convert_ids_to_tokens(kept.prompt) == wanted_prompt
    assert [words().tokenizer.convert_ids_to_tokens(ids) for ids in kept.responses] == whole
    assert Counter(tokenised.shortened) == +reasons
    assert not tokenised.skipped
    assert len(kept.votes) == len(votes) - alike
    assert len(kept.prompt) + max(map(len, kept.responses)) <= max_length


wild = st.text(max_size=30)


@tried(100)
@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), wild), min_size=1, max_size=5),
    st.lists(wild, min_size=2, max_size=3),
    st.integers(1, 80),
    st.sampled_from(["byte-level", "space-prefixing", "transcript"]),
)
def test_no_text_and_no_tokenizer_gets_past_the_length_and_every_ballot_is_kept_or_counted(
    turns: list[tuple[str, str]], responses: list[str], max_length: int, kind: str
) -> None:
    form = {"byte-level": byte_level, "space-prefixing": space_prefixing, "transcript": without_template}[kind]()
    prompt = tuple(Message(role, content) for role, content in turns)
    plain = "".join(content for _, content in turns)
    tokenised = tokenize([ballot(p, *responses) for p in (prompt, plain)], form, max_length=max_length)
    assert len(tokenised.ballots) + sum(tokenised.skipped.values()) == 2
    for kept in tokenised.ballots:
        assert kept.prompt and all(kept.responses)
        assert len(kept.prompt) + max(map(len, kept.responses)) <= max_length
        assert all(kept.responses[v.a] != kept.responses[v.b] for v in kept.votes) and kept.votes


@cache
def without_template() -> TextFormat:
    return text_format(byte_level_tokenizer(None, bos=True))


@given(st.integers(2, 30), st.integers(1, 40))
def test_a_plain_prompt_is_cut_at_its_beginning_and_keeps_its_bos(length: int, max_length: int) -> None:
    form = without_template()
    text = "".join(chr(ord("a") + i % 26) for i in range(length))
    tokenised = tokenize([ballot(text, "x", "y")], form, max_length=max_length)
    whole = form.tokenizer(text)["input_ids"]
    if max_length < 4:  # bos, one token, and a response with its end: a response may lose its end, but no more
        assert tokenised.ballots == () or tokenised.shortened[tokens.CUT_RESPONSE] == 2
        return
    (kept,) = tokenised.ballots
    if len(whole) + 2 <= max_length:
        assert list(kept.prompt) == whole and not tokenised.shortened
    else:
        assert list(kept.prompt) == [whole[0], *whole[len(whole) - (max_length - 3) :]]
        assert tokenised.shortened == {tokens.CUT_PROMPT: 1}


def test_a_response_that_loses_only_its_end_token_is_counted_as_cut() -> None:
    tokenised = tokenize([ballot(chat("user: w1"), "w2 w3", "w4")], words(), max_length=9)
    (kept,) = tokenised.ballots  # the frame and one word of the prompt leave two tokens
    assert [len(ids) for ids in kept.responses] == [2, 2]
    assert words().end_chat not in kept.responses[0] and kept.responses[1][-1] == words().end_chat
    assert tokenised.shortened == {tokens.CUT_RESPONSE: 1}


def test_responses_that_are_equal_after_cutting_lose_their_vote_and_it_is_counted() -> None:
    votes = (Vote(0, 1, 1.0), Vote(0, 2, 1.0))
    tokenised = tokenize([ballot(chat("user: w1"), "w2 w3 w4", "w2 w3 w5", "w6", votes=votes)], words(), max_length=9)
    (kept,) = tokenised.ballots
    assert kept.votes == (votes[1],)
    assert tokenised.shortened == {tokens.CUT_RESPONSE: 2, tokens.SAME_TOKENS: 1}


def test_a_ballot_without_a_usable_vote_a_prompt_or_a_response_is_skipped_by_reason() -> None:
    ballots = [
        ballot("w1", "w2", "w2"),
        Ballot("w1", ("w2", "w3"), ()),
        ballot("", "w2", "w3"),
        Ballot("w1", ("w2", ""), (Vote(0, 1, 1.0),), ended=(False, False)),
    ]
    tokenised = tokenize(ballots, words(), max_length=50)
    assert not tokenised.ballots and not tokenised.shortened
    assert tokenised.skipped == {
        tokens.SAME_TOKENS: 1,
        tokens.NO_VOTES: 1,
        tokens.NO_PROMPT: 1,
        tokens.NO_RESPONSE: 1,
    }


def test_the_order_and_the_ids_of_the_ballots_stay() -> None:
    ballots = [Ballot(f"w{i}", ("w1", "w2"), (Vote(0, 1, 0.25, 2.0),), id=str(i)) for i in range(5)]
    kept = tokenize(ballots, words(), max_length=50).ballots
    assert [b.id for b in kept] == list("01234")
    assert all(b.votes == (Vote(0, 1, 0.25, 2.0),) for b in kept)


@pytest.mark.parametrize("prompt", ["w1 w2", chat("system: w1 w2 w3", "user: w4")])
def test_a_prompt_that_cannot_be_made_to_fit_is_a_users_mistake(prompt: Prompt) -> None:
    with pytest.raises(UserError, match="--max-length"):
        fit_prompt(prompt, words(), 0)


def test_real_chats_fit_within_the_length_and_all_are_accounted_for(shared_data: Path) -> None:
    ballots = read_ballots(shared_data / "hh-rlhf" / "helpful-base.test.jsonl.gz")[:150]
    for form in (byte_level(), without_template()):
        tokenised = tokenize(ballots, form, max_length=300)
        assert len(tokenised.ballots) + sum(tokenised.skipped.values()) == len(ballots)
        assert tokenised.shortened[tokens.DROPPED_TURNS] > 10 and tokenised.shortened[tokens.CUT_RESPONSE] > 10
        by_id = {b.id: b for b in ballots}
        for kept in tokenised.ballots:
            original = by_id[kept.id]
            assert len(kept.prompt) + max(map(len, kept.responses)) <= 300
            whole = form.prompt(original.prompt)
            if len(kept.prompt) < len(whole):
                assert tuple(whole[-5:]) == kept.prompt[-5:], "the reply is still asked for in the same words"
            else:
                assert list(kept.prompt) == whole
            for ids, text in zip(kept.responses, original.responses, strict=True):
                ended = ids[-1] == form.end_chat
                assert ended == (list(ids) == form.response(text, chat=True, ended=True))
                assert text.strip().startswith(form.text(ids).strip().removesuffix("�").rstrip("�"))
