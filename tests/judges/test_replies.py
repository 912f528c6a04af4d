"""An answer is read as a verdict where it is one, and as nothing where it is not."""

import json
import math

import pytest
from fake_endpoint import MODEL, chat, sure, token
from hypothesis import example, given
from hypothesis import strategies as st

from preftune.judges.replies import LEAST_MASS, Reply, read_reply, serves_logprobs, tokens_used


def read(body: object) -> Reply:
    return read_reply(body, MODEL)


def said(text: str | None) -> Reply:
    return read(chat(text))


@pytest.mark.parametrize(
    "text", ["A", "a", ' "A"', "'a'.", "A.", "**A**", "[[A]]", "(A)", "\nA\n", "`A`", "“A”", "<A>"]
)
def test_a_letter_alone_is_a_verdict(text: str) -> None:
    assert said(text) == Reply(1.0, "last line")
    assert said(text.replace("A", "B").replace("a", "b")) == Reply(0.0, "last line")


def test_only_the_last_line_counts_and_only_whole() -> None:
    assert said("The first is longer, the second is right.\n\nB") == Reply(0.0, "last line")
    assert said("B\nThe second is right.").why == "the last line is no letter alone"
    assert (
        said("A\nB").why
        == said("A or B").why
        == said("AB").why
        == said("**A**/**B**").why
        == "the answer has both letters"
    )
    assert said("Tie").value == 0.5


@pytest.mark.parametrize("text", ["", " \n ", None])
def test_an_empty_answer_is_no_verdict(text: str | None) -> None:
    assert said(text) == Reply(None, why="the answer is empty")


@pytest.mark.parametrize(
    "text", ["INCORRECT", "A good answer", "I cannot judge this.", "Answer: A", "C", "1", "A is better", "BA!D", "tied"]
)
def test_no_letter_is_looked_for_within_prose(text: str) -> None:
    assert said(text).value is None and said(text).why in (
        "the last line is no letter alone",
        "the answer has both letters",
    )


def test_an_answer_to_the_schema() -> None:
    for verdict, value in (("A", 1.0), ("b", 0.0), ("tie", 0.5)):
        assert said(json.dumps({"verdict": verdict})) == Reply(value, "JSON")
        assert said(json.dumps({"why": "B, A, B", "verdict": verdict}, indent=2)) == Reply(value, "JSON")
    assert said('{"verdict": "A"').why == said('{"verdict": ').why == "the verdict is no whole JSON"
    for text in (
        '{"verdict": "A", "verdict": "B"}',
        '{"verdict": "A or B"}',
        '{"verdict": 1}',
        '{"answer": "A"}',
        "{}",
    ):
        assert said(text).why == "the JSON has no verdict", text


def test_log_probs_of_the_letter_say_how_sure_it_is() -> None:
    tops = {"A": 0.5, " A": 0.05, "a": 0.05, "B": 0.25, ' "B': 0.05, "Answer": 0.1}
    for text in ("A", " A", "a"):
        assert read(sure(text, tops)) == Reply(pytest.approx(0.6 / 0.9), "log-probs")
    assert read(sure("B", tops)).value == pytest.approx(0.6 / 0.9), "it is no other probability where B was sampled"


def test_log_probs_are_those_of_the_token_where_the_verdict_stands() -> None:
    tops = {"A": 0.2, "B": 0.8}
    quoted = [token(' "', 0.0, {' "': 0.9, "A": 0.1}), token("B", 0.0, tops), token('"', 0.0, {'"': 0.9, "A": 0.1})]
    assert read(chat(' "B"', more={"logprobs": {"content": quoted}})).value == pytest.approx(0.2)
    thought = [token("B", 0.0, {"B": 0.9, "A": 0.1}), token(" is short.\n", 0.0), token("B", 0.0, tops)]
    assert read(chat("B is short.\nB", more={"logprobs": {"content": thought}})).value == pytest.approx(0.2)
    spelled = [token(part, 0.0, {part: 0.9, "A": 0.1}) for part in ('{"', "verdict", '":', ' "')]
    body = chat('{"verdict": "B"}', more={"logprobs": {"content": [*spelled, token("B", 0.0, tops), token('"}', 0.0)]}})
    assert read(body) == Reply(pytest.approx(0.2), "log-probs")


def test_a_judge_that_would_rather_have_said_something_else_has_no_verdict() -> None:
    other = 1.01 - LEAST_MASS
    body = sure("A", {"A": (1 - other) * 0.9, "B": (1 - other) * 0.1, "Both": other})
    assert read(body) == Reply(None, why="both letters are improbable")


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"content": None},
        {"content": []},
        {"content": [None, 3]},
        {"content": [token("A", -0.1)]},
        {"content": [token("A", -0.1, {})]},
        {"tokens": ["A"], "token_logprobs": [-0.1]},
    ],
)
def test_without_log_probs_a_letter_is_read_as_it_is(logprobs: object) -> None:
    body = chat("A", more={"logprobs": logprobs})
    assert read(body) == Reply(1.0, "last line")
    assert not serves_logprobs(body)
    assert serves_logprobs(sure("A", {"A": 0.9, "B": 0.1}))


def test_a_letter_in_log_probs_does_not_mend_an_answer_that_is_none() -> None:
    body = sure("A", {"A": 0.9, "B": 0.1})
    body["choices"][0]["message"]["content"] = "A good question"
    assert read(body).value is None


def test_what_ended_an_answer_early_is_the_reason() -> None:
    assert read(chat("A", finish="length")).why == "the answer was cut off"
    assert read(chat("A", finish="content_filter")).why == "a content filter stopped the answer"
    assert read(chat(None, refusal="I would rather not.")).why == "the judge refused"


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("gpt-4", "gpt-4-0613"),
        ("openai/gpt-4o", "gpt-4o-2024-08-06"),
        ("Qwen2.5-7B", "Qwen/qwen2.5-7b"),
        ("/models/SmolLM", "/models/SmolLM@main"),
        ("SmolLM", "/models/SmolLM.gguf"),
        ("llama3", "llama3:latest"),
        ("any", None),
    ],
)
def test_the_same_model_by_another_spelling(asked: str, answered: str | None) -> None:
    assert read_reply({**chat("A"), "model": answered}, asked).value == 1.0


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("gpt-4o", "gpt-4o-mini"),
        ("gpt-4", "gpt-4.1"),
        ("claude-3", "claude-3-5-sonnet"),
        ("meta/llama", "mine/llama"),
        ("judge", ""),
        ("judge", "other"),
        ("judge", 7),
    ],
)
def test_another_model(asked: str, answered: object) -> None:
    assert read_reply({**chat("A"), "model": answered}, asked) == Reply(None, why="another model answered")


def test_tokens_that_an_answer_took() -> None:
    assert tokens_used(chat("A")) == 100
    assert tokens_used({"usage": {"total_tokens": "many"}}) is tokens_used({}) is tokens_used(None) is None


WORDS = st.sampled_from(
    ["correct", "better", "CORRECT", "the", "both", "good", "I", "cannot", "answer", "response", "is"]
)
LETTERS = st.sampled_from(["A", "B", "a", "b", "A.", "**B**", '"A"'])


@given(st.lists(WORDS, min_size=1), st.lists(LETTERS | WORDS), st.lists(WORDS))
@example(["INCORRECT"], [], [])
def test_prose_is_no_verdict_whatever_letters_it_has(before: list[str], middle: list[str], after: list[str]) -> None:
    for words in ([*before, *middle, *after], [*after, *middle, *before]):
        assert said(" ".join(words)).value is None


@given(st.text() | st.text("AaBbTtIiEe .\n*\"'") | st.text("AB \n"))
@example("A\u2028B")
@example("Ａ")
@example("tıe")
def test_what_is_a_verdict_has_a_letter_alone_on_its_last_line_and_no_other_letter_alone(text: str) -> None:
    if (reply := said(text)).value is not None:
        lines = ["".join(filter(str.isalnum, line)).upper() for line in text.strip().splitlines()]
        assert lines[-1] == {1.0: "A", 0.0: "B", 0.5: "TIE"}[reply.value]
        assert not {"A": {"B"}, "B": {"A"}, "TIE": {"A", "B"}}[lines[-1]] & {line.strip() for line in text.splitlines()}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.just(-(10**400))
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["A", "stop", MODEL]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "logprobs", "top_logprobs", "token", "logprob", "model", "usage"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON, JSON, JSON)
def test_whatever_a_server_sends_is_read_without_an_error(body: object, choice: object, tokens: object) -> None:
    tops = [{"token": "A", "logprob": tokens}, {"token": "B", "logprob": choice}]
    shapes = (
        body,
        {"choices": body},
        {"choices": [choice]},
        chat("A", more={"logprobs": tokens}),
        chat("A", more={"logprobs": {"content": tokens}}),
        chat("A", more={"logprobs": {"content": [{"token": "A", "logprob": body, "top_logprobs": tops}]}}),
    )
    for shape in shapes:
        reply = read(shape)
        assert (reply.value is None) == bool(reply.why)
        assert reply.value is None or (math.isfinite(reply.value) and 0 <= reply.value <= 1)
        tokens_used(shape), serves_logprobs(shape)
