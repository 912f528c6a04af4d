"""The Bradley–Terry reward model: what it must recover, where it reads its score, and what other programs make of it.

The judge of a score is plain transformers: one sequence at a time, or a padded batch through
`AutoModelForSequenceClassification`. The judge of a fit is the lab.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import expit, logit
from tiny import ARCHITECTURES, tiny_config, tiny_llama, tiny_model, tiny_tokenizer
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2ForSequenceClassification,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from preftune.cli.entry import main
from preftune.data.ballots import Ballot, Vote
from preftune.data.branches import BranchBatch, branch_layout, padded_layout
from preftune.data.logistic import fit_linear
from preftune.data.tokens import TokenBallot, text_format, tokenize
from preftune.errors import UserError
from preftune.evidence.agreement import VoteTable, bt_log_loss, reliability
from preftune.lab import optima, worlds
from preftune.model import stored
from preftune.model.engine import state_record
from preftune.model.features import last_states, pooled_layers, pooled_states, score_head
from preftune.model.layout import Layout, probe_layout
from preftune.model.loading import Base, load_base, weights_hash
from preftune.model.policy import start_policy
from preftune.model.rewards import RewardModel, load_reward, pad_token, save_classifier, save_frozen
from preftune.model.workbench import open_workbench
from preftune.preference import trained
from preftune.preference.fitting import Fitting
from preftune.preference.rewards import fit_reward, quality_table
from preftune.study.single import train
from preftune.training import session
from preftune.training.arms import make_recipe

CPU = torch.device("cpu")
WORDS = ["x", "y", "z", "a", "b", "c", "d", "e", "f", "g", "h"]
RESPONSES = ("a", "b", "c", "d", "e", "f", "g", "h")
BALLOTS = [
    TokenBallot((3, 4, 5, 6, 7, 8, 9, 3), ((7, 8, 0), (9, 3, 4, 4, 6), (0,)), ()),
    TokenBallot((5,), ((6,), (8, 9, 0)), ()),
]
FAST = {"lr": 1e-2, "clip_norm": 1e9, "warmup": 0.05, "device": "cpu"}
KINDS: dict[str, dict[str, Any]] = {
    "frozen": {"kind": "frozen", "device": "cpu"},
    "lora": {"lora": 8, **FAST},
    "full": {**FAST},
}
Floats = npt.NDArray[np.float64]


@pytest.fixture
def base(model: str) -> Base:
    return load_base(model, device=CPU)


def base_of(architecture: str, folder: Path, *, pad_is_eos: bool = False) -> tuple[Base, Layout]:
    tokenizer = tiny_tokenizer(WORDS)
    if pad_is_eos:
        tokenizer.pad_token = tokenizer.eos_token
    tiny_model(architecture, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    base = load_base(str(folder), device=CPU)
    return base, probe_layout(base.model)


def load(folder: Path, base: Base) -> RewardModel:
    return load_reward(folder, base, layout=probe_layout(base.model), precision="fp32", device=CPU)


def sequences(ballots: Sequence[TokenBallot]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(ballot.prompt, response) for ballot in ballots for response in ballot.responses]


# --- where the score is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lay_out", [branch_layout, padded_layout])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_states_are_those_of_each_sequence_on_its_own(
    architecture: str, lay_out: Callable[..., BranchBatch], tmp_path: Path
) -> None:
    base, layout = base_of(architecture, tmp_path)
    assert layout.name == "branch"
    plain = tiny_model(architecture, len(WORDS) + 3)  # the same weights, without our attention
    last, pooled = [], []
    for prompt, response in sequences(BALLOTS):
        ids = torch.tensor([[*prompt, *response]])
        with torch.no_grad():
            states = plain(ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states
        last.append(states[-1][0, -1])
        pooled.append(states[1][0, len(prompt) :].mean(0))
    with torch.no_grad():
        torch.testing.assert_close(
            last_states(base.model, lay_out(BALLOTS), "fp32"), torch.stack(last), rtol=0, atol=1e-4
        )
    found = pooled_states(base.model, lay_out(BALLOTS), 1, "fp32")
    torch.testing.assert_close(found, torch.stack(pooled), rtol=0, atol=1e-4)


def test_several_layers_come_from_one_pass_that_ends_at_the_last_of_them(base: Base) -> None:
    ran: list[str] = []
    for name, block in (("first", base.model.model.layers[0]), ("second", base.model.model.layers[1])):
        block.register_forward_hook(lambda *_, name=name: ran.append(name))
    batch = branch_layout(BALLOTS)
    single = pooled_states(base.model, batch, 1, "fp32")
    assert ran == ["first"]
    both = pooled_layers(base.model, batch, (2, 1), "fp32")
    assert ran == ["first", "first", "second"]
    torch.testing.assert_close(both[1], single, rtol=0, atol=0)
    torch.testing.assert_close(both[0], pooled_states(base.model, batch, 2, "fp32"), rtol=0, atol=0)


def test_the_head_starts_at_one_over_the_root_of_its_width_and_is_a_function_of_the_seed() -> None:
    head = score_head(10_000, seed=3)
    assert head.bias is None and head.weight.shape == (1, 10_000)
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.03)
    assert torch.equal(head.weight, score_head(10_000, seed=3).weight)
    assert not torch.equal(head.weight, score_head(10_000, seed=4).weight)


# --- the folder, and what transformers makes of it -------------------------------------------------------------------


def padded_scores(folder: Path, ballots: Sequence[TokenBallot]) -> Tensor:
    """Scores of a padded batch as transformers itself gives them: its pad token, its last token, its attention."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = [[*prompt, *response] for prompt, response in sequences(ballots)]
    batch = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        scores: Tensor = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    return scores


@pytest.mark.parametrize("pad_is_eos", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_reward_gives_transformers_the_same_scores_also_where_pad_is_end_of_text(
    architecture: str, pad_is_eos: bool, tmp_path: Path
) -> None:
    base, layout = base_of(architecture, tmp_path / "model", pad_is_eos=pad_is_eos)
    head_D = score_head(32, seed=0).weight.detach()[0]
    decoder = base.model.get_decoder().state_dict()
    save_classifier(tmp_path / "reward", decoder, head_D, base=base, center=0.25, kind="full", info={"note": 1})
    reward = load_reward(tmp_path, base, layout=layout, precision="fp32", device=CPU)
    assert (reward.kind, reward.center, reward.info) == ("full", 0.25, {"note": 1})
    wanted = padded_scores(tmp_path / "reward", BALLOTS) - 0.25
    for lay_out in (branch_layout, padded_layout):
        torch.testing.assert_close(reward.scores(lay_out(BALLOTS)), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("words", "wanted"), [(["ÿ", "z"], "ÿ"), (["<0xFF>", "ÿ"], "<0xFF>"), (["y", "z"], "z")])
def test_a_tokenizer_with_one_special_token_pads_with_what_ends_no_text(words: list[str], wanted: str) -> None:
    vocabulary = {word: i for i, word in enumerate(("<eos>", *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    form = text_format(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<eos>"))
    assert pad_token(form) == vocabulary[wanted]


def test_somebody_elses_classifier_scores_both_layouts_also_of_another_architecture(base: Base, tmp_path: Path) -> None:
    config = tiny_config("gpt2", len(WORDS) + 3)
    config.num_labels = 1
    torch.manual_seed(0)
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    reward = load(tmp_path, base)
    assert (reward.kind, reward.center) == ("folder", 0.0)
    for lay_out in (branch_layout, padded_layout):
        found = reward.scores(lay_out(BALLOTS))
        torch.testing.assert_close(found, padded_scores(tmp_path, BALLOTS), rtol=0, atol=1e-5)


# --- an adapter beside the policy's ----------------------------------------------------------------------------------


def lora_reward(model: str, out: Path) -> None:
    train("reward", toy_ballots(), model=model, out=out, lora=4, eval_fraction=0.0, **FAST, steps=5)


def toy_ballots(prompts: Sequence[str] = ("x", "y", "z", "x y", "y z", "z z")) -> list[Ballot]:
    """Earlier letters win."""
    votes = (Vote(0, 1, 1.0), Vote(1, 2, 0.8, 2.0), Vote(2, 0, 0.1))
    return [Ballot(prompt, ("a", "c d", "h"), votes) for prompt in prompts]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_a_lora_reward_shares_the_base_with_a_policy_whatever_its_adapter_does(
    architecture: str, out: Path, tmp_path: Path
) -> None:
    base, _ = base_of(architecture, tmp_path / "model")
    lora_reward(base.name, out)
    reward, batch = load(out, base), branch_layout(BALLOTS)
    assert reward.kind == "lora"
    before = reward.scores(batch)
    merged = padded_scores(out / "reward", BALLOTS) - reward.center
    torch.testing.assert_close(before, merged, rtol=0, atol=1e-5)
    policy = start_policy(base, lora=2, seed=0)
    trainable = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.normal_()
    assert torch.equal(reward.scores(batch), before)
    late = load(out, base)  # loaded while the policy's adapter is there
    assert torch.equal(late.scores(batch), before) and late.sha256 == reward.sha256
    assert {name for name, p in policy.model.named_parameters() if p.requires_grad} == trainable
    with policy.merged():
        assert torch.equal(reward.scores(batch), before)
    policy.close()
    assert torch.equal(reward.scores(batch), before)
    assert not any(module._forward_hooks for module in base.model.modules())


def test_a_lora_reward_beside_another_model_is_its_merged_weights(model: str, out: Path, tmp_path: Path) -> None:
    lora_reward(model, out)
    other = load_base(tiny_llama(tmp_path / "other", WORDS, seed=9), device=CPU)
    reward = load(out, load_base(model, device=CPU))
    torch.testing.assert_close(
        load(out, other).scores(branch_layout(BALLOTS)), reward.scores(branch_layout(BALLOTS)), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_leaves_the_base_model_as_it_was_and_returns_what_is_in_the_folder(
    kind: str, model: str, out: Path
) -> None:
    bench, recipe = (
        open_workbench(model, device="cpu"),
        make_recipe("reward", {"lr": 1e-2, "lora": 4 * (kind == "lora")}),
    )
    before = copy.deepcopy(bench.base.model.state_dict())
    tokens = tokenize(toy_ballots(), bench.base.form, max_length=64)
    reward = fit_reward(Fitting(bench, tokens, tokens.ballots[:2], recipe, kind, 0, out))
    after = bench.base.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], value) for name, value in before.items())
    assert weights_hash(bench.base.model) == bench.base.sha256
    again = load(out, load_base(model, device=CPU))
    assert (again.sha256, again.info, again.kind) == (reward.sha256, reward.info, kind)
    assert torch.equal(again.scores(branch_layout(BALLOTS)), reward.scores(branch_layout(BALLOTS)))
    assert reward.info["held_out"]["votes"] == 6


# --- what a fit must recover -----------------------------------------------------------------------------------------


def scores_of(reward: RewardModel, model: str, prompts: Sequence[str], responses: Sequence[str]) -> Floats:
    """Scores of single responses `[X, K]`, each in a batch of its own."""
    tokenizer = AutoTokenizer.from_pretrained(model)

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text)["input_ids"])

    return np.array(
        [
            [float(reward.scores(padded_layout([TokenBallot(ids(x), (ids(y),), ())]))[0]) for y in responses]
            for x in prompts
        ]
    )


def ballots_of(wins: Floats, prompts: Sequence[str], responses: Sequence[str]) -> list[Ballot]:
    """One ballot a prompt; a soft vote for every pair that was compared."""
    return [
        Ballot(
            prompt,
            tuple(responses),
            tuple(
                Vote(a, b, won[a, b] / (won[a, b] + won[b, a]), won[a, b] + won[b, a])
                for a in range(len(responses))
                for b in range(a)
                if won[a, b] + won[b, a] > 0
            ),
            ended=(False,) * len(responses),
        )
        for prompt, won in zip(prompts, wins, strict=True)
    ]


def centred(scores: Floats) -> Floats:
    return np.asarray(scores - scores.mean(1, keepdims=True))


def linear_scores(model: str, prompts: Sequence[str], rng: np.random.Generator) -> Floats:
    """Scores that are a random direction in the states of the first layer, of standard deviation 1, `[X, K]`."""
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    states = []
    for x in prompts:
        for y in RESPONSES:
            ids = torch.tensor([tokenizer(x)["input_ids"] + tokenizer(y)["input_ids"]])
            with torch.no_grad():
                states.append(plain(ids, output_hidden_states=True).hidden_states[1][0, -1].numpy())
    scores = centred((np.array(states) @ rng.normal(size=32)).reshape(len(prompts), -1))
    return np.asarray(scores / scores.std())


@pytest.mark.parametrize("kind", KINDS)
def test_votes_drawn_from_known_scores_give_them_back(kind: str, model: str, out: Path) -> None:
    """20,000 votes. A frozen layer can hold only scores that are linear in it, and learns across prompts."""
    rng = np.random.default_rng(0)
    if kind == "frozen":
        prompts = [f"{a} {b} {c}" for a in "xyz" for b in "xyz" for c in "xyz"]
        truth = linear_scores(model, prompts, rng)
    else:
        prompts, truth = ["x", "y", "z"], centred(rng.normal(size=(3, 8)))
    wins = worlds.draw_wins(worlds.bradley_terry(truth), 20_000 // len(prompts), rng)
    options = KINDS[kind] if kind == "frozen" else {**KINDS[kind], "steps": 150}
    ballots = ballots_of(wins, prompts, RESPONSES)
    run = train("reward", ballots, model=model, out=out, eval_fraction=0.0, **options)
    found = centred(scores_of(run.policy, model, prompts, RESPONSES))
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] >= 0.99
    assert (found * truth).sum() / (truth**2).sum() == pytest.approx(1, abs=0.06)  # the scale, not only the order


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", ["cycle", "arbitrary"])
def test_preferences_that_no_score_explains_give_the_borda_score(world: str, kind: str, model: str, out: Path) -> None:
    """Under pairs from μ × μ the fit has E_{y'~μ} σ(r(y) − r(y')) = E_{y'~μ} p(y ≻ y') for every response."""
    rng = np.random.default_rng(1)
    responses = RESPONSES[:4]
    drawn = np.array([0.4, 0.3, 0.2, 0.1])
    preference = worlds.cycle(4, 0.9) if world == "cycle" else worlds.arbitrary(rng).preference[0]
    truth = worlds.world(preference, sampler=drawn)
    wanted = optima.borda(truth.preference[0], drawn)
    assert np.ptp(wanted) > 0.1
    ballots = ballots_of(1000 * worlds.expected_wins(truth), ["x"], responses)
    options = KINDS[kind] if kind == "frozen" else {**KINDS[kind], "steps": 100}
    run = train("reward", ballots, model=model, out=out, eval_fraction=0.0, **options)
    (r,) = scores_of(run.policy, model, ["x"], responses)
    found = (expit(r[:, None] - r[None, :]) * drawn).sum(1)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.01)


def as_hard(ballot: Ballot) -> Ballot:
    """Each vote of weight n as n hard ones: n·p for a, the others for b."""
    votes = []
    for vote in ballot.votes:
        won = round(vote.p * vote.weight)
        votes += [Vote(vote.a, vote.b, 1.0)] * won + [Vote(vote.b, vote.a, 1.0)] * round(vote.weight - won)
    return Ballot(ballot.prompt, ballot.responses, tuple(votes))


@pytest.mark.parametrize("kind", KINDS)
def test_a_soft_vote_is_so_many_hard_ones_and_the_order_of_a_pair_says_nothing(
    kind: str, model: str, tmp_path: Path
) -> None:
    votes = (Vote(0, 1, 0.75, 4.0), Vote(1, 2, 0.5, 2.0), Vote(2, 0, 1.0, 3.0))
    soft = [Ballot(prompt, ("a", "c d", "h"), votes) for prompt in ("x", "y", "z")]
    options = KINDS[kind] if kind == "frozen" else {**KINDS[kind], "steps": 5}
    runs = [
        train("reward", ballots, model=model, out=tmp_path / name, eval_fraction=0.0, **options)
        for name, ballots in {
            "soft": soft,
            "hard": [as_hard(ballot) for ballot in soft],
            "swapped": [ballot.swap() for ballot in soft],
        }.items()
    ]
    first, *others = (run.policy.scores(branch_layout(BALLOTS)) for run in runs)
    for scores in others:
        torch.testing.assert_close(scores, first, rtol=0, atol=1e-3)
    assert float(first.std()) > 1e-2


@pytest.mark.parametrize(
    ("setting", "p", "wanted"), [("label_smoothing", 1.0, 0.8), ("flip_rate", 0.75, (0.75 - 0.2) / 0.6)]
)
def test_label_noise_moves_the_target(setting: str, p: float, wanted: float, model: str, out: Path) -> None:
    ballot = Ballot("x", ("a", "b"), (Vote(0, 1, p),), ended=(False, False))
    options = {**KINDS["full"], "steps": 100, setting: 0.2}
    run = train("reward", [ballot], model=model, out=out, eval_fraction=0.0, **options)
    ((a, b),) = scores_of(run.policy, model, ["x"], ["a", "b"])
    assert a - b == pytest.approx(float(logit(wanted)), abs=0.02)


def test_a_linear_fit_is_at_the_minimum_also_for_targets_outside_0_and_1() -> None:
    rng = np.random.default_rng(0)
    x, weight, target = rng.normal(size=(40, 3)), rng.uniform(0.5, 2, 40), rng.uniform(-0.3, 1.3, 40)
    w, _ = fit_linear(x, target, weight, penalty=0.05)
    slope = x.T @ (weight / weight.sum() * (expit(x @ w) - target)) + 0.05 * w
    assert abs(slope).max() < 1e-5


# --- the centre ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_the_training_responses_have_mean_0_and_the_scale_is_kept(kind: str, model: str, out: Path) -> None:
    prompts, responses = ["x", "y", "z"], ["a", "c d", "h"]
    ballots = [Ballot(x, tuple(responses), (Vote(0, 1, 0.8), Vote(1, 2, 0.6)), ended=(False,) * 3) for x in prompts]
    options = KINDS[kind] if kind == "frozen" else {**KINDS[kind], "steps": 5}
    reward = train("reward", ballots, model=model, out=out, eval_fraction=0.0, **options).policy
    assert scores_of(reward, model, prompts, responses).mean() == pytest.approx(0, abs=1e-5)
    batch = branch_layout(BALLOTS)
    raw = reward.raw(batch)
    torch.testing.assert_close(reward.scores(batch) + reward.center, raw.detach(), rtol=0, atol=1e-6)
    if kind != "frozen":
        torch.testing.assert_close(padded_scores(out / "reward", BALLOTS), raw.detach(), rtol=0, atol=1e-5)
        config = json.loads((out / "reward" / "config.json").read_text())
        assert config["score_center"] == reward.center and config["architectures"] == ["LlamaForSequenceClassification"]


# --- what is measured ------------------------------------------------------------------------------------------------


def table_of(difference: Sequence[float], p: Sequence[float], weight: Sequence[float]) -> VoteTable:
    prompts = tuple((i,) for i in range(len(p)))
    return VoteTable(np.array(difference), np.array(p), np.array(weight), prompts)


def test_log_loss_is_of_the_probabilities_as_they_are() -> None:
    table = table_of([2.0, -1.0], [1.0, 0.5], [1.0, 3.0])
    wanted = (-np.log(expit(2)) + 3 * (-0.5 * np.log(expit(-1)) - 0.5 * np.log(expit(1)))) / 4
    assert bt_log_loss(table).value == pytest.approx(wanted)


def test_reliability_tells_every_vote_from_the_side_that_the_score_prefers() -> None:
    rows = reliability(table_of([logit(0.72), -logit(0.72), logit(0.97)], [1.0, 1.0, 0.25], [1.0, 3.0, 2.0]))
    assert [(row["from"], row["votes"]) for row in rows] == [(pytest.approx(0.7), 4.0), (pytest.approx(0.95), 2.0)]
    assert rows[0]["predicted"] == pytest.approx(0.72) and rows[0]["observed"] == pytest.approx(0.25)
    assert rows[1]["observed"] == pytest.approx(0.25)


def test_votes_drawn_from_the_score_are_reliable() -> None:
    rng = np.random.default_rng(0)
    difference = rng.normal(scale=2, size=40_000)
    table = table_of(difference, rng.uniform(size=40_000) < expit(difference), np.ones(40_000))
    rows = reliability(table)
    assert len(rows) == 10
    for row in rows:
        assert row["observed"] == pytest.approx(row["predicted"], abs=4 * 0.5 / row["votes"] ** 0.5)
    swapped = table_of(-difference, 1 - table.p, np.ones(40_000))
    assert [row["observed"] for row in reliability(swapped)] == pytest.approx([row["observed"] for row in rows])


def test_the_baselines_find_what_they_can_see_and_nothing_else(model: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    prompts = [" ".join(rng.choice(list("xyz"), 5)) for _ in range(80)]
    longer = [Ballot(x, ("a b a b", "b a"), (Vote(0, 1, 1.0),)) for x in prompts]
    words = [Ballot(x, ("a b c", "d b c"), (Vote(0, 1, 1.0),)) for x in prompts]
    found = {}
    for name, ballots in {"longer": longer, "words": words}.items():
        run = train("reward", ballots, model=model, out=tmp_path / name, **KINDS["frozen"], eval_fraction=0.25)
        found[name] = run.record["reward"]
        assert found[name]["held_out"]["votes"] == len(ballots) - run.record["data"]["votes"]
        assert found[name]["held_out"]["accuracy"]["value"] == 1.0
    assert found["longer"]["baselines"]["length"]["accuracy"]["value"] == 1.0
    assert found["words"]["baselines"]["length"]["accuracy"] == {"value": 0.5, "se": 0.0}
    assert found["words"]["baselines"]["length"]["log_loss"]["value"] == pytest.approx(np.log(2))
    assert found["words"]["baselines"]["tfidf"]["accuracy"]["value"] == 1.0
    shown = quality_table(found["words"])
    assert all(word in shown for word in ("reward model", "TF-IDF", "length", "log-loss", "predicted"))
    assert quality_table({}) == "no held-out votes: nothing measured"


def test_features_are_computed_once_per_content(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ballots = toy_ballots(("z z z", "z z y"))
    first = train("reward", ballots, model=model, out=tmp_path / "a", eval_fraction=0.5, **KINDS["frozen"])

    def none(*args: Any) -> Tensor:
        raise AssertionError("computed again")

    monkeypatch.setattr(stored, "pooled_layers", none)
    again = train("reward", ballots, model=model, out=tmp_path / "b", eval_fraction=0.5, **KINDS["frozen"])
    assert again.policy.sha256 == first.policy.sha256
    assert again.record["reward"] == first.record["reward"]


def test_the_checkpoint_of_the_lowest_held_out_log_loss_is_kept(
    model: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, float] = {}
    real = trained.Best.consider

    def consider(self: Any, loss: float, step: int, parameters: Any) -> None:
        seen[step] = loss
        real(self, loss, step, parameters)

    monkeypatch.setattr(trained.Best, "consider", consider)
    rng = np.random.default_rng(0)
    prompts = [" ".join(rng.choice(list("xyz"), 6)) for _ in range(24)]
    noise = [Ballot(x, ("a b", "c d"), (Vote(0, 1, float(rng.integers(2))),)) for x in prompts]
    run = train("reward", noise, model=model, out=out, eval_fraction=0.3, **KINDS["full"], epochs=6, batch_size=4)
    info = run.record["reward"]
    best = min(seen, key=seen.__getitem__)
    assert len(seen) == info["evaluations"] == 24 and best < max(seen)
    assert info["step"] == best and info["chosen_on"] == "log-loss on held-out votes"
    assert info["held_out"]["log_loss"]["value"] == pytest.approx(seen[best])
    assert sorted(path.name for path in out.iterdir()) == ["metrics.jsonl", "reward", "run.json"]


# --- going on with an interrupted fit --------------------------------------------------------------------------------


class PowerCut(Exception):
    """What the test below stops a run with."""


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_fit_that_died_ends_like_one_that_did_not(
    kind: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**KINDS[kind], "batch_size": 2, "epochs": 4, "eval_fraction": 0.3}
    ballots = toy_ballots()
    whole = train("reward", ballots, model=model, out=tmp_path / "whole", **options)
    out = tmp_path / "out"
    real_loop, real_save = session.run_loop, session.save_state

    def loop(plan: Any, loss_of: Any, *, after_step: Any, **rest: Any) -> None:
        def watched(step: Any, metrics: Mapping[str, float]) -> None:
            after_step(step, metrics)
            if step.number == 6:
                raise PowerCut

        real_loop(plan, loss_of, after_step=watched, **rest)

    def save(folder: Path, parameters: Any, optimizer: Any, record: Mapping[str, Any]) -> None:
        if record["step"] <= 4:
            real_save(folder, parameters, optimizer, record)

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(session, "run_loop", loop)
        patch.setattr(session, "save_state", save)
        train("reward", ballots, model=model, out=out, save_every=0, **options)
    assert state_record(out / "state") is not None
    with pytest.raises(UserError, match="another data"):
        train("reward", ballots, model=model, out=out, resume=True, **{**options, "eval_fraction": 0.5})
    again = train("reward", ballots, model=model, out=out, resume=True, **options)
    assert again.policy.sha256 == whole.policy.sha256
    assert again.record["reward"] == whole.record["reward"]
    assert [row["loss"] for row in again.metrics] == [row["loss"] for row in whole.metrics]
    assert not (out / "state").exists() and not list(out.glob("state.*"))


# --- what cannot be used ---------------------------------------------------------------------------------------------


def classifier(folder: Path, labels: int = 1, words: Sequence[str] = WORDS) -> Path:
    tokenizer = tiny_tokenizer(words)
    config = tiny_config("llama", len(tokenizer))
    config.num_labels = labels
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def no_folder(folder: Path) -> Path:
    return folder / "nowhere"


def several_labels(folder: Path) -> Path:
    return classifier(folder, labels=2)


def another_tokenizer(folder: Path) -> Path:
    return classifier(folder, words=WORDS[::-1])


def a_language_model(folder: Path) -> Path:
    return Path(tiny_llama(folder, WORDS))


def a_value_head(folder: Path, name: str) -> Path:
    """As trl and OpenRLHF save a critic: a language model's weights and a head of another name."""
    tiny_llama(folder, WORDS)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {f"{name}.weight": torch.ones(1, 32)}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def a_scale_of_zero(folder: Path) -> Path:
    return configured(classifier(folder), std=0.0)


def a_scale_that_is_text(folder: Path) -> Path:
    return configured(classifier(folder), mean="high")


def configured(folder: Path, **values: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def no_decoder(folder: Path) -> Path:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForSequenceClassification(BertConfig(vocab_size=14, num_labels=1, **sizes)).save_pretrained(folder)
    tiny_tokenizer(WORDS).save_pretrained(folder)
    return folder


def no_tokenizer(folder: Path) -> Path:
    classifier(folder)
    for path in folder.glob("token*"):
        path.unlink()
    return folder


def features_of_another_model(folder: Path) -> Path:
    other = load_base(tiny_llama(folder / "other", WORDS, seed=5), device=CPU)
    save_frozen(folder / "reward", torch.ones(32), layer=1, center=0.0, base=other, info={})
    return folder


def half_a_record(folder: Path) -> Path:
    base = load_base(tiny_llama(folder / "base", WORDS), device=CPU)
    save_frozen(folder / "reward", torch.ones(32), layer=1, center=0.0, base=base, info={})
    record = json.loads((folder / "reward" / "reward.json").read_text())
    (folder / "reward" / "reward.json").write_text(json.dumps({k: record[k] for k in ("kind", "model")}))
    return folder


def cut_weights(folder: Path) -> Path:
    path = half_a_record(folder) / "reward" / "reward.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    return folder


def a_broken_record(folder: Path) -> Path:
    classifier(folder)
    (folder / "reward.json").write_text("{")
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (no_folder, "no reward model there"),
        (several_labels, "2 labels"),
        (another_tokenizer, "tokenizer differs"),
        (a_language_model, "no score head"),
        (partial(a_value_head, name="v_head.summary"), "`v_head.summary.weight`, a value head"),
        (partial(a_value_head, name="value_head"), "`value_head.weight`, a value head"),
        (a_scale_of_zero, "`std` in config.json is 0"),
        (a_scale_that_is_text, "`mean` in config.json is 'high'"),
        (no_decoder, "no score head"),
        (no_tokenizer, "tokenizer"),
        (features_of_another_model, "another model"),
        (a_broken_record, "not JSON"),
        (half_a_record, "not whole"),
        (cut_weights, "not whole"),
    ],
)
def test_a_folder_that_is_no_reward_of_this_model_is_refused_in_one_line(
    make: Callable[[Path], Path], says: str, base: Base, tmp_path: Path
) -> None:
    folder = make(tmp_path / "it")
    with pytest.raises(UserError, match=says) as caught:
        load(folder, base)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_head_of_one_score_is_known_by_the_checkpoint_where_the_configuration_leaves_it_out(
    base: Base, model: str, out: Path
) -> None:
    """Without `num_labels` the library takes a classifier to have two labels."""
    reward = train("reward", toy_ballots(), model=model, out=out, steps=2, **KINDS["full"]).policy
    folder = out / "reward"
    (folder / "reward.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    kept = {name: value for name, value in config.items() if name not in ("num_labels", "id2label", "label2id")}
    (folder / "config.json").write_text(json.dumps(kept))
    batch = branch_layout(BALLOTS)
    torch.testing.assert_close(load(folder, base).scores(batch), reward.scores(batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_mean_and_std_of_a_folder_say_where_0_is_and_what_the_unit_is(
    kind: str, base: Base, model: str, out: Path
) -> None:
    train("reward", toy_ballots(), model=model, out=out, steps=2, **KINDS[kind])
    batch, before = branch_layout(BALLOTS), load(out / "reward", base)
    after = load(configured(out / "reward", mean=5.0, std=2.0), base)
    torch.testing.assert_close(after.scores(batch), (before.scores(batch) - 5) / 2, rtol=0, atol=1e-5)
    assert after.sha256 != before.sha256


TURNS = "{% for m in messages %}{{ m.role + ' ' + m.content + ' ' }}{% endfor %}"
OTHER_TURNS = TURNS.replace("' ' + m.content", "' a ' + m.content")


@pytest.fixture
def chatting(tmp_path: Path) -> Base:
    folder = Path(tiny_llama(tmp_path / "chatting", [*WORDS, "user", "assistant", "system"]))
    (folder / "chat_template.jinja").write_text(TURNS)
    return load_base(str(folder), device=CPU)


def reward_with(template: str, folder: Path) -> Path:
    classifier(folder, words=[*WORDS, "user", "assistant", "system"])
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_a_reward_model_of_another_chat_template_is_refused_for_chats(chatting: Base, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its chat template renders a chat otherwise than the one of") as caught:
        load(reward_with(OTHER_TURNS, tmp_path / "reward"), chatting)
    assert "\n" not in str(caught.value)


def test_a_template_that_is_written_otherwise_and_renders_alike_is_none_the_worse(
    chatting: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(reward_with("{# of us #}" + TURNS, tmp_path / "reward"), chatting)
    assert capsys.readouterr().err == ""


def test_for_plain_prompts_another_template_is_only_told(
    chatting: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = reward_with(OTHER_TURNS, tmp_path / "reward")
    load_reward(folder, chatting, layout=probe_layout(chatting.model), precision="fp32", device=CPU, chats=False)
    assert "its chat template differs" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_names_the_response(value: float, model: str, base: Base, tmp_path: Path) -> None:
    weight_D = torch.ones(32)
    save_frozen(tmp_path / "reward", weight_D, layer=1, center=0.0, base=base, info={})
    reward = load(tmp_path, base)
    real = reward.raw

    def spoilt(batch: BranchBatch) -> Tensor:
        return torch.where(torch.arange(batch.branches) == 1, value, real(batch))

    broken = RewardModel(reward.kind, reward.sha256, 0.0, {}, reward.form, spoilt)
    with pytest.raises(UserError, match=rf"{value}: 'd x y y a'"):
        broken.scores(branch_layout(BALLOTS))


def test_weights_that_are_not_numbers_are_found_when_they_are_loaded(base: Base, tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"its weight score\.weight holds values that are not finite"):
        load(folder, base)


def test_scores_that_are_not_numbers_are_found_when_they_arise(base: Base, tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"][:] = 3e38
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="--reward: the score of a response is"):
        load(folder, base).scores(branch_layout(BALLOTS))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "frozn"}, "did you mean 'frozen'"),
        ({"kind": "lora"}, "--lora R"),
        ({"kind": "frozen", "lora": 4}, "no adapter"),
        ({"beta": 0.1}, "--beta: a reward model has none"),
        ({"reference": "m"}, "--reference: a reward model has none"),
        ({"reduction": "mean"}, "--reduction: is an option of dpo, ipo, amortized-ipo and gpo, not of reward"),
        ({"eval_fraction": 1.0}, "below 1"),
        ({"lrr": 1.0}, "did you mean 'lr'"),
    ],
)
def test_a_mistake_in_the_settings_is_one_line_and_nothing_is_written(
    options: dict[str, Any], says: str, model: str, out: Path
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        train("reward", toy_ballots(), model=model, out=out, **options)
    assert "\n" not in str(caught.value) and not out.exists()


def test_the_public_function_trains_a_reward_and_knows_its_name(model: str, out: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'reward'"):
        train("rewards", toy_ballots(), model=model, out=out)
    with pytest.raises(UserError, match="--kind"):
        train("dpo", toy_ballots(), model=model, out=out, beta=0.1, kind="frozen")
    run = train("reward", toy_ballots(), model=model, out=out, **KINDS["frozen"])
    assert run.record["method"] == "reward" and run.policy.kind == "frozen"
    assert json.loads((out / "run.json").read_text()) == json.loads(json.dumps(run.record))
    with pytest.raises(UserError, match="finished"):
        train("reward", toy_ballots(), model=model, out=out, **KINDS["frozen"])


def test_the_command_prints_the_table_and_where_the_reward_is(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"prompt": f"x {y}", "chosen": "a b", "rejected": "c d"} for y in ("x", "y", "z", "a", "b")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--model", model, "--data", str(data), "--out", str(tmp_path / "out"), "--eval-fraction", "0.4"]
    monkeypatch.setattr("sys.argv", ["preftune", "train", "reward", *flags, "--kind", "frozen", "--device", "cpu"])
    main()
    shown = capsys.readouterr().out
    assert "TF-IDF" in shown and f"reward: {tmp_path / 'out' / 'reward'}" in shown
    monkeypatch.setattr("sys.argv", ["preftune", "train", "reward", *flags, "--beta", "1"])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and "--beta" in error
