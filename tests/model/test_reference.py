"""Reference log-probs: computed once per content, bit for bit, and exactly what the policy starts from."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from properties import tried
from tiny import tiny_llama, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM

from preftune.data.ballots import Ballot, Vote
from preftune.data.tokens import TokenBallot, tokenize
from preftune.errors import UserError
from preftune.model import stored
from preftune.model.layout import Layout, probe_layout
from preftune.model.loading import Base, load_base
from preftune.model.logprobs import response_logprobs
from preftune.model.policy import Reference, start_policy
from preftune.model.stored import fill_store
from preftune.model.stores import Store, StoreKey, read_key, response_keys
from preftune.study.single import train
from preftune.training.records import Run

WORDS = [f"w{i}" for i in range(30)]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))


def text(length: int, seed: int) -> str:
    draws = torch.randint(len(WORDS), (length,), generator=torch.Generator().manual_seed(seed))
    return " ".join(WORDS[i] for i in draws.tolist())


def many_ballots(count: int = 12) -> list[Ballot]:
    """Ballots of two or three responses, with prompts and responses of many lengths."""
    return [
        Ballot(
            text(1 + 5 * n % 13, 1000 + n),
            tuple(text(1 + (3 * n + 7 * k) % 11, 10 * n + k) for k in range(2 + n % 2)),
            (Vote(0, 1, 1), *((Vote(2, 0, 1),) if n % 2 else ())),
        )
        for n in range(count)
    ]


@contextmanager
def counted_passes(monkeypatch: pytest.MonkeyPatch, fail_at: int = 0) -> Iterator[list[int]]:
    """Counts the micro-batches that go through the reference; the `fail_at`-th one is cut short."""
    passes: list[int] = []
    real: Callable[..., Tensor] = stored.response_logprobs

    def count(*args: Any, **options: Any) -> Tensor:
        passes.append(1)
        if len(passes) == fail_at:
            raise KeyboardInterrupt
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(stored, "response_logprobs", count)
        yield passes


def run(model: str, out: Path, ballots: Sequence[Ballot] | None = None, *, method: str = "ipo", **options: Any) -> Run:
    defaults = {"beta": 0.3, "batch_size": 100, "micro_tokens": 60, "steps": 1, "device": "cpu"}
    return train(method, ballots or many_ballots(), model=model, out=out, **defaults | options)


# --- the store -------------------------------------------------------------------------------------------------------


KEY = StoreKey("name", "w", "fp32", "branch", "machine")
PAIR = TokenBallot((3, 4), ((5,), (6,)), (Vote(0, 1, 1),))


@tried(50)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2))
def test_values_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    store, keys = Store(tmp_path_factory.mktemp("store"), KEY), response_keys(PAIR)
    assert store.logprobs(keys) == {}
    store.add_logprobs([PAIR], values)
    assert store.logprobs([*keys, b"of nobody" * 9]) == dict(zip(keys, values, strict=True))
    states = torch.tensor([values]).reshape(1, 2, 1)
    store.add_features([PAIR], [7], states)
    assert store.features(keys, [7, 8]) == {
        (key, 7): state.numpy().tobytes() for key, state in zip(keys, states[0], strict=True)
    }


def test_a_value_that_is_there_stays_so_that_runs_side_by_side_see_the_same(tmp_path: Path) -> None:
    store, other = Store(tmp_path, KEY), replace(PAIR, responses=((6,), (7,)))
    store.add_logprobs([PAIR], [-1.5, -2.5])
    store.add_logprobs([other], [-9.0, -3.5])
    assert list(store.logprobs([*response_keys(PAIR), response_keys(other)[1]]).values()) == [-1.5, -2.5, -3.5]


def test_each_of_weights_precision_layout_machine_and_arithmetic_has_a_store_of_its_own(tmp_path: Path) -> None:
    Store(tmp_path, KEY).add_logprobs([PAIR], [-1.0, -2.0])
    assert Store(tmp_path, replace(KEY, model="under another name")).logprobs(response_keys(PAIR))
    for name in ("weights", "precision", "layout", "machine"):
        assert not Store(tmp_path, replace(KEY, **{name: "other"})).logprobs(response_keys(PAIR))
    assert not Store(tmp_path, replace(KEY, arithmetic=2)).logprobs(response_keys(PAIR))


def test_a_store_says_what_it_is_of_and_keeps_a_witness_of_every_ballot(tmp_path: Path) -> None:
    store, other = Store(tmp_path, KEY), TokenBallot((7,), ((8, 9), (10,)), ())
    store.add_logprobs([PAIR, other], [-1.0, -2.0, -3.0, -4.0])
    assert read_key(store.path) == KEY
    found = {witness.key: (witness.prompt, witness.response) for witness in store.witnesses()}
    assert found == {response_keys(PAIR)[0]: ((3, 4), (5,)), response_keys(other)[0]: ((7,), (8, 9))}
    (tmp_path / "none.sqlite").write_bytes(b"no database")
    assert read_key(tmp_path / "none.sqlite") is None


def test_the_store_of_one_model_is_not_filled_by_another(model: str, tmp_path: Path) -> None:
    base = load_base(model, device=CPU)
    with pytest.raises(RuntimeError, match="another model"):
        fill_store(Store(tmp_path, KEY), Reference(base), [[PAIR]], layout=Layout("branch", ""), precision="fp32")


def test_a_response_is_told_by_its_prompts_tokens_and_its_own() -> None:
    pairs = [((1, 2), (3,)), ((1,), (2, 3)), ((1, 2), (3, 0)), ((1, 23), (3,)), ((12,), (3,))]
    keys = [response_keys(TokenBallot(prompt, (response, (7,)), ()))[0] for prompt, response in pairs]
    assert len(set(keys)) == len(keys)
    assert response_keys(TokenBallot((1, 2), ((9,), (3,)), (Vote(0, 1, 1),), id="other"))[1] == keys[0]


def test_an_interrupted_fill_ends_in_the_values_of_an_uninterrupted_one(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(model, device=CPU)
    layout = probe_layout(base.model)
    ballots = tokenize(many_ballots(), base.form, max_length=64).ballots
    groups = [ballots[i : i + 3] for i in range(0, len(ballots), 3)]

    def fill(name: str) -> dict[bytes, float]:
        store = Store(tmp_path / name, replace(KEY, weights=base.sha256))
        filled = fill_store(store, Reference(base), groups, layout=layout, precision="fp32")
        assert filled.computed <= filled.logprobs.keys()
        return filled.logprobs

    with counted_passes(monkeypatch, fail_at=3), pytest.raises(KeyboardInterrupt):
        fill("interrupted")
    with counted_passes(monkeypatch) as passes:
        resumed = fill("interrupted")
    assert len(passes) == 2
    assert resumed == fill("whole")
    assert len(resumed) == sum(len(ballot.responses) for ballot in ballots)


def test_the_values_are_the_models_own_log_probs(model: str, tmp_path: Path) -> None:
    base = load_base(model, device=CPU)
    ballots = tokenize(many_ballots(4), base.form, max_length=64).ballots
    store, layout = Store(tmp_path / "s", replace(KEY, weights=base.sha256)), probe_layout(base.model)
    found, computed = fill_store(store, Reference(base), [ballots], layout=layout, precision="fp32")
    assert computed == found.keys()
    assert fill_store(store, Reference(base), [ballots], layout=layout, precision="fp32") == (found, frozenset())
    plain = AutoModelForCausalLM.from_pretrained(model)
    for ballot in ballots:
        for key, response in zip(response_keys(ballot), ballot.responses, strict=True):
            with torch.no_grad():
                logits = plain(torch.tensor([ballot.prompt + response])).logits[0].double().log_softmax(-1)
            rows = range(len(ballot.prompt) - 1, len(ballot.prompt) + len(response) - 1)
            assert found[key] == pytest.approx(float(logits[rows, response].sum()), abs=1e-4)


def test_a_value_that_some_micro_batch_reads_is_not_held_to_exactly_0(model: str, tmp_path: Path) -> None:
    """Runs that see the ballots in other orders: what was stored in another micro-batch may be rounded otherwise."""
    base = load_base(model, device=CPU)
    one, two, new = tokenize(many_ballots(3), base.form, max_length=64).ballots
    store, layout = Store(tmp_path / "s", replace(KEY, weights=base.sha256)), probe_layout(base.model)

    def fill(*groups: list[TokenBallot]) -> frozenset[bytes]:
        return fill_store(store, Reference(base), groups, layout=layout, precision="fp32").computed

    assert fill([one], [two]) == {*response_keys(one), *response_keys(two)}
    # the same ballot twice: its value is read in the first micro-batch, and computed again, alike, in the second
    assert fill([one], [one, new]) & {*response_keys(one)} == set()
    assert fill([new]) == set()


def test_log_probs_that_are_not_finite_are_refused_and_not_kept(model: str, tmp_path: Path) -> None:
    base = load_base(model, device=CPU)
    with torch.no_grad():
        base.model.get_output_embeddings().weight[5] = math.nan
    store = Store(tmp_path / "s", replace(KEY, weights=base.sha256))
    with pytest.raises(UserError, match="not finite"):
        fill_store(store, Reference(base), [[PAIR]], layout=Layout("branch", ""), precision="fp32")
    assert store.logprobs(response_keys(PAIR)) == {}


# --- what a run computes ---------------------------------------------------------------------------------------------


def test_a_sweep_pays_for_the_reference_once(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted_passes(monkeypatch) as passes:
        run(model, tmp_path / "first")
        assert len(passes) > 2
        passes.clear()
        for number, options in enumerate(
            ({}, {"beta": 1.0}, {"lr": 1e-3}, {"seed": 5}, {"lora": 2}, {"reduction": "mean"}, {"micro_tokens": 999})
        ):
            for method in ("ipo", "dpo"):
                run(model, tmp_path / f"again-{number}-{method}", method=method, **options)
        assert passes == []


def test_other_weights_precision_or_tokens_are_computed_anew(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_llama(tmp_path / "other", WORDS, seed=1)
    renamed = tiny_llama(tmp_path / "same-weights-elsewhere", WORDS)
    with counted_passes(monkeypatch) as passes:
        run(model, tmp_path / "first")
        all_of_them = len(passes)
        for number, (name, options, share) in enumerate(
            (
                (renamed, {}, 0),
                (other, {}, all_of_them),
                (model, {"precision": "bf16"}, all_of_them),
                (model, {"ballots": [*many_ballots(), Ballot("w1", ("w2", "w3 w4"), (Vote(0, 1, 1),))]}, 1),
            )
        ):
            passes.clear()
            run(name, tmp_path / str(number), **options)
            assert len(passes) == share or 0 < len(passes) <= share, name


def test_sft_needs_no_reference(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted_passes(monkeypatch) as passes:
        run(model, tmp_path / "out", method="sft")
    assert passes == []


def test_only_ballots_that_the_budget_reaches_are_computed(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted_passes(monkeypatch) as passes:
        run(model, tmp_path / "out", batch_size=1, steps=3)
    assert len(passes) == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize(("method", "loss"), [("dpo", math.log(2)), ("ipo", 0.25)])
def test_before_the_first_step_every_log_ratio_is_exactly_0(
    method: str, loss: float, lora: int, precision: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted_passes(monkeypatch) as passes:
        found = run(model, tmp_path / "out", method=method, lora=lora, precision=precision).metrics[0]
    assert len(passes) > 2  # several micro-batches
    assert (found["margin"], found["log_ratio_preferred"], found["log_ratio_other"]) == (0, 0, 0)
    assert found["accuracy"] == 0.5
    assert found["loss"] == pytest.approx(loss, rel=1e-6)


def test_a_policy_that_does_not_move_stays_at_0_for_the_whole_epoch(model: str, tmp_path: Path) -> None:
    for lora in (0, 4):
        found = run(model, tmp_path / str(lora), lora=lora, lr=1e-38, batch_size=3, steps=None).metrics
        assert len(found) == 4
        assert {(step["margin"], step["log_ratio_preferred"]) for step in found} == {(0, 0)}


# --- adapters --------------------------------------------------------------------------------------------------------


def scramble(parameters: Sequence[torch.nn.Parameter]) -> None:
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(0, 0.1)


def logprobs(model: Any, base: Base) -> Tensor:
    ballots = tokenize(many_ballots(), base.form, max_length=64).ballots
    with torch.no_grad():
        return response_logprobs(model, Layout("branch", "").lay_out(ballots))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_adapter_switched_off_merged_or_taken_out_leaves_the_base_bit_for_bit(
    architecture: str, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer(WORDS)
    tokenizer.save_pretrained(tmp_path)
    tiny_model(architecture, len(tokenizer)).save_pretrained(tmp_path)
    base = load_base(str(tmp_path), device=CPU)
    wanted, weights = logprobs(base.model, base), {k: v.clone() for k, v in base.model.state_dict().items()}
    policy = start_policy(base, lora=4, seed=0)
    assert torch.equal(logprobs(policy.model, base), wanted)

    scramble(list(policy.trainable().values()))
    adapted = logprobs(policy.model, base)
    assert (adapted - wanted).abs().max() > 0.1
    with Reference(base).alone() as reference:
        assert torch.equal(logprobs(reference, base), wanted)
    assert torch.equal(logprobs(policy.model, base), adapted)
    with pytest.raises(RuntimeError, match="stop"), policy.merged():
        torch.testing.assert_close(logprobs(policy.model, base), adapted, atol=1e-4, rtol=0)
        raise RuntimeError("stop")
    assert torch.equal(logprobs(policy.model, base), adapted)
    with Reference(base).alone() as reference:
        assert torch.equal(logprobs(reference, base), wanted)

    policy.close()
    assert torch.equal(logprobs(base.model, base), wanted)
    after = base.model.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], value) for name, value in weights.items())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft's, while it loads
def test_the_saved_policy_of_an_adapter_is_the_adapter_folded_in(model: str, tmp_path: Path) -> None:
    run(model, tmp_path / "out", lora=4, lr=0.02, steps=5)
    base = load_base(model, device=CPU)
    start = logprobs(base.model, base)
    merged = load_base(str(tmp_path / "out" / "policy"), device=CPU)
    found = logprobs(merged.model, merged)
    assert (found - start).abs().max() > 0.1
    adapted = PeftModel.from_pretrained(base.model, str(tmp_path / "out" / "adapter"))
    torch.testing.assert_close(logprobs(adapted.get_base_model(), base), found, atol=1e-4, rtol=0)
