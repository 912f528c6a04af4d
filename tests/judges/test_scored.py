"""A reward model as a judge. Of somebody else's, plain transformers says what the scores are."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import family, template
from tiny import WORDS, tiny_config, tiny_llama, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaForSequenceClassification

from preftune.data import Message
from preftune.data.ballots import Ballot, Vote
from preftune.errors import UserError
from preftune.judges import Contest, Opinion, Scored, judge_by_reward, made_from, open_classifier
from preftune.judges.batches import TOO_LONG
from preftune.judges.scored import EMPTY_PROMPT, EMPTY_RESPONSE
from preftune.model.layout import Layout
from preftune.model.rewards import load_reward
from preftune.model.workbench import Workbench, open_workbench
from preftune.study.single import train

CHAT = (Message("user", "hello there"), Message("assistant", "good day"), Message("user", "call a film é"))
CONTESTS = [
    Contest("the film was", "good", "a good day it was, and good"),
    Contest(CHAT, "it was\n\nthe film", "and a day"),
    Contest("the film was", "a tool", "good"),
]


def classifier(folder: Path, name: str = "smollm", chat_template: str | None = None, **config: Any) -> str:
    """A random classifier with a family's tokenizer, its weights large enough that every token counts."""
    tokenizer = copy.deepcopy(family(name))
    tokenizer.chat_template = chat_template or tokenizer.chat_template
    settings = tiny_config("llama", len(tokenizer))
    settings.num_labels, settings.max_position_embeddings = 1, 512
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return str(folder)


def open_one(folder: str, **options: int) -> Scored:
    return open_classifier(folder, device="cpu", **options)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    return open_one(classifier(tmp_path_factory.mktemp("judge")))


# --- somebody else's -------------------------------------------------------------------------------------------------


def oracle(folder: str, contest: Contest, std: float) -> float:
    """σ(s_a − s_b) by whole chats in the model's own template, one at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [Message("user", contest.prompt)] if isinstance(contest.prompt, str) else contest.prompt
    scores = []
    for text in (contest.a, contest.b):
        chat = [*(turn._asdict() for turn in turns), {"role": "assistant", "content": text}]
        whole = tokenizer.apply_chat_template(chat, tokenize=False)
        with torch.no_grad():
            scores.append(
                float(model(tokenizer(whole, add_special_tokens=False, return_tensors="pt").input_ids).logits)
            )
    return 1 / (1 + math.exp((scores[1] - scores[0]) / std))


@pytest.mark.parametrize("name", ["llama_3", "qwen_3", "gemma_3", "mistral", "mistral_v1", "smollm"])
def test_a_folder_is_read_with_its_own_tokenizer_template_and_scale(name: str, tmp_path: Path) -> None:
    folder = classifier(tmp_path, name, mean=3.0, std=2.0)
    opinions = open_one(folder).prefer(CONTESTS)
    for contest, opinion in zip(CONTESTS, opinions, strict=True):
        assert opinion.first == opinion.second == pytest.approx(oracle(folder, contest, std=2.0), abs=1e-5)
    assert max(abs(opinion.first - 0.5) for opinion in opinions) > 0.01, "a difference must show, or nothing is tested"


def test_a_response_that_was_cut_off_is_scored_without_what_ends_a_reply(judge: Scored) -> None:
    whole, cut = (judge.read(replace(CONTESTS[1], ended_a=ended)).responses for ended in (True, False))
    tail = judge.reward.form.tokenizer("<|im_end|>\n", add_special_tokens=False)["input_ids"]
    assert whole[0] == (*cut[0], *tail) and whole[1] == cut[1] and len(tail) == 2
    first, second = judge.prefer([CONTESTS[1], replace(CONTESTS[1], ended_a=False)])
    assert first != second


# --- one of a study, and one that `train reward` left ----------------------------------------------------------------


def ballots() -> list[Ballot]:
    return [Ballot(f"w{i}", ("w1 w2", "w3"), (Vote(0, 1, 1.0),)) for i in range(6)]


def fit(model: str, out: Path, **options: Any) -> Path:
    fast = {"eval_fraction": 0.0, "device": "cpu", **options}
    return train("reward", ballots(), model=model, out=out, **fast).folder / "reward"


def of_study(bench: Workbench, folder: Path) -> Scored:
    place = bench.base.device
    reward = load_reward(folder, bench.base, layout=bench.layout, precision="fp32", device=place)
    return judge_by_reward(reward, bench, micro_tokens=64)


@pytest.mark.parametrize("kind", ["frozen", "full"])
def test_a_studys_reward_reads_the_tokens_that_it_was_trained_on(kind: str, model: str, out: Path) -> None:
    options = {} if kind == "frozen" else {"steps": 2, "lr": 1e-2}
    bench = open_workbench(model, device="cpu")
    judge = of_study(bench, fit(model, out, kind=kind, **options))
    vocabulary = bench.base.tokenizer.get_vocab()
    contest = Contest("w1 w2", "w3 w4", "w5", ended_b=False)
    ballot = judge.read(contest)
    ids = [tuple(vocabulary[word] for word in words.split()) for words in ("w1 w2", "w3 w4 <eos>", "w5")]
    assert (ballot.prompt, ballot.responses) == (ids[0], (ids[1], ids[2]))
    a, b = judge.reward.scores(bench.layout.lay_out([ballot])).tolist()
    (opinion,) = judge.prefer([contest])
    assert opinion.first == opinion.second == pytest.approx(1 / (1 + math.exp(b - a)), abs=1e-6)
    assert judge.identity["model"] == judge.reward.sha256 and judge.name == "reward"


def test_a_folder_of_train_reward_judges_alone_as_it_does_in_the_study(model: str, out: Path) -> None:
    path = fit(model, out, kind="full", steps=2, lr=1e-2)
    contests = [Contest("w1 w2", "w3 w4", "w5"), Contest("w7", "w7", "w8 w9", ended_b=False)]
    inside = of_study(open_workbench(model, device="cpu"), path).prefer(contests)
    for folder in (path, out):
        for one, other in zip(open_one(str(folder)).prefer(contests), inside, strict=True):
            assert one.preference == pytest.approx(other.preference, abs=1e-6)


def test_what_a_reward_was_made_from_is_told_where_it_is_recorded(model: str, out: Path, tmp_path: Path) -> None:
    base = open_workbench(model, device="cpu").base
    path = fit(model, out, kind="frozen")
    assert made_from(path) == made_from(out) == base.sha256
    assert made_from(classifier(tmp_path)) == made_from(tmp_path / "nowhere") == ""


# --- the order of things changes nothing -----------------------------------------------------------------------------


def test_a_contest_told_from_the_other_side_has_the_opinion_told_from_there_to_the_last_bit(judge: Scored) -> None:
    opinions = judge.prefer(CONTESTS)
    assert judge.prefer([contest.swap() for contest in CONTESTS]) == [opinion.swap() for opinion in opinions]
    assert judge.prefer(CONTESTS[::-1]) == opinions[::-1]
    assert judge.prefer([Contest("x", "good", "good")]) == [Opinion(0.5, 0.5)]


def test_the_micro_batches_depend_on_what_is_asked_and_not_on_its_order(
    judge: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a machine rounds by place, the order would show otherwise."""
    lay_out, seen = Layout.lay_out, []
    monkeypatch.setattr(Layout, "lay_out", lambda self, ballots: seen.append(ballots) or lay_out(self, ballots))
    cut = replace(judge, micro_tokens=50)
    cut.prefer(CONTESTS)
    once = [*seen]
    for contests in (CONTESTS[::-1], [contest.swap() for contest in CONTESTS], CONTESTS * 2):
        cut.prefer(contests)
    assert len(once) > 1 and seen == once * 4


def test_batches_change_rounding_only(judge: Scored) -> None:
    together = judge.prefer(CONTESTS)
    small = replace(judge, micro_tokens=1).prefer(CONTESTS)
    alone = [judge.prefer([contest])[0] for contest in CONTESTS]
    for others in (small, alone):
        for one, other in zip(together, others, strict=True):
            assert one.preference == pytest.approx(other.preference, abs=1e-5)


# --- no verdict, and no judge ----------------------------------------------------------------------------------------


def test_what_does_not_fit_has_no_verdict_and_is_not_shortened(judge: Scored) -> None:
    long = Contest("the film was", "good " * 100, "a day")
    ballot = judge.read(long)
    tokens = len(ballot.prompt) + len(ballot.responses[0])
    assert replace(judge, limit=tokens).prefer([long])[0].preference is not None
    cut = replace(judge, limit=tokens - 1)
    assert cut.prefer([long, CONTESTS[0], long.swap()]) == [
        Opinion(None, None, TOO_LONG),
        judge.prefer([CONTESTS[0]])[0],
        Opinion(None, None, TOO_LONG),
    ]
    assert (judge.limit, open_one(judge.name.removeprefix("reward:"), max_length=40).limit) == (512, 40)


def test_each_contest_without_a_verdict_has_its_reason(judge: Scored, model: str, out: Path, tmp_path: Path) -> None:
    own = of_study(open_workbench(model, device="cpu"), fit(model, out, kind="frozen"))
    empty = [Contest("", "w1", "w2"), Contest("w1", "", "w2", ended_a=False), Contest("w1", "", "w2")]
    assert [opinion.why for opinion in own.prefer(empty)] == [EMPTY_PROMPT, EMPTY_RESPONSE, ""]
    strict = open_one(classifier(tmp_path, "gemma_3", template("gemma_like")))
    system = Contest((Message("system", "x"), Message("user", "y")), "a", "b")
    (refused, taken) = strict.prefer([system, CONTESTS[1]])
    assert refused.preference is None and "refuses the chat (System role not supported)" in refused.why
    assert taken.preference is not None


def no_folder(folder: Path) -> Path:
    return folder / "nowhere"


def no_model(folder: Path) -> Path:
    tiny_tokenizer(WORDS).save_pretrained(folder)
    return folder


def no_tokenizer(folder: Path) -> Path:
    classifier(folder)
    for path in [*folder.glob("token*"), *folder.glob("*.jinja")]:
        path.unlink()
    return folder


def more_tokens_than_rows(folder: Path) -> Path:
    classifier(folder)
    tiny_tokenizer([f"w{i}" for i in range(500)]).save_pretrained(folder)
    return folder


def two_labels(folder: Path) -> Path:
    config = tiny_config("llama", 30)
    config.num_labels = 2
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return no_model(folder)


def a_language_model(folder: Path) -> Path:
    return Path(tiny_llama(folder, WORDS))


def frozen_features(folder: Path) -> Path:
    return fit(tiny_llama(folder / "base", WORDS), folder / "run", kind="frozen")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (no_folder, "no local folder, and the hub did not serve it"),
        (no_model, "no reward model there"),
        (no_tokenizer, "no tokenizer there"),
        (more_tokens_than_rows, "the embedding has 333 rows"),
        (two_labels, "2 labels"),
        (a_language_model, "no score head"),
        (frozen_features, "reads the features of a model"),
    ],
)
def test_a_folder_that_cannot_judge_is_refused_in_one_line(
    make: Callable[[Path], Path], says: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / "it")
    with pytest.raises(UserError, match=says) as caught:
        open_one(str(folder))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"--judge reward:{folder}: ")


def test_a_score_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    judge = open_one(classifier(tmp_path))
    spoilt = replace(judge, reward=replace(judge.reward, center=float("nan")))
    with pytest.raises(UserError, match="the score of a response is nan"):
        spoilt.prefer(CONTESTS)


def test_the_identity_says_what_opinions_depend_on_and_is_json(judge: Scored, tmp_path: Path) -> None:
    other = open_one(classifier(tmp_path, chat_template=template("default_system")))
    assert json.loads(json.dumps(judge.identity)) == judge.identity
    assert {key for key, value in judge.identity.items() if other.identity[key] != value} == {"tokens"}
    assert replace(judge, precision="bf16").identity != judge.identity
