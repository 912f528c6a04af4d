"""A frozen base in few bits: what it stands for, what is computed with it, and what is written down of it."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from properties import tried
from running import PowerCut, assert_equal_runs, ballots_of_run, run, watch_steps
from safetensors.torch import load_file, save_file
from tiny import WORDS, tiny_model, tiny_tokenizer
from tiny_gguf import gguf_model, write_gguf
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from preftune.data.branches import padded_layout
from preftune.data.reading import write_ballots
from preftune.data.tokens import TokenBallot
from preftune.errors import UserError
from preftune.model import bits, frozen, layout, saving, workbench
from preftune.model.adapters import AdaptedLinear
from preftune.model.doctor import check_stores
from preftune.model.engine import remembered_casts
from preftune.model.exporting import as_written
from preftune.model.frozen import BLOCK, freeze_in, frozen_layers, pack, parameter_count, round_to, unpack
from preftune.model.layout import probe_layout
from preftune.model.loading import Base, load_any, load_base, weights_hash
from preftune.model.logprobs import response_logprobs
from preftune.model.policy import Policy, Reference, active_adapter, load_adapter, start_policy
from preftune.model.rewards import load_reward, load_scorer
from preftune.model.stored import fill_store
from preftune.model.stores import read_key
from preftune.model.workbench import open_workbench
from preftune.study import describing
from preftune.study.plan import settle_study
from preftune.study.policies import evaluate_folders, sample_folders

CPU = torch.device("cpu")
needs_bits = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (the extra bits)"
)
FEW = ["bf16", "int8", pytest.param("nf4", marks=needs_bits)]
PAIR = TokenBallot((3, 4, 7), ((5, 9, 0), (6, 0)), ())
# the values of NF4, written out from QLoRA's appendix E
LEVELS = torch.tensor(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ]
)


def frozen_model(base: str, architecture: str = "llama") -> PreTrainedModel:
    model = tiny_model(architecture, len(WORDS) + 3)
    freeze_in(model, base, "here")
    return model


def with_adapter(base: Base, size: float = 0.05) -> Policy:
    """A policy whose adapter does something."""
    policy = start_policy(base, lora=4, seed=0)
    torch.manual_seed(1)
    for name, parameter in policy.trainable().items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=size)
    return policy


@pytest.fixture(params=FEW)
def base(request: pytest.FixtureRequest, model: str) -> Base:
    return load_base(model, device=CPU, base=request.param)


def logprobs(model: Any, precision: str = "fp32") -> Tensor:
    batch = probe_layout(model).lay_out([PAIR])
    return response_logprobs(model, batch, precision=precision)


# --- numbers ----------------------------------------------------------------------------------------------------------


@needs_bits
@tried(30)
@given(rows=st.integers(1, 9), width=st.integers(1, 200), seed=st.integers(0, 99))
def test_nf4_is_the_nearest_level_times_the_largest_of_its_block_at_any_width(rows: int, width: int, seed: int) -> None:
    """The library's own kernel is wrong on a CPU where the width is no multiple of a block."""
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    packed, scale = pack(weight, "nf4")
    assert scale is not None
    flat = nn.functional.pad(weight.flatten(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
    largest = flat.abs().amax(1, keepdim=True)
    levels = (flat / largest.clamp_min(1e-30))[..., None]
    wanted = LEVELS[(levels - LEVELS).abs().argmin(-1)] * largest
    found = unpack(packed, scale, (rows, width), torch.float32)
    assert torch.allclose(found, wanted.flatten()[: rows * width].view(rows, width), atol=1e-6)
    assert packed.nbytes + scale.nbytes == len(flat) * (BLOCK // 2 + 4)  # .5625 bytes a weight


@given(rows=st.integers(1, 5), width=st.integers(1, 40), seed=st.integers(0, 99), zero=st.booleans())
def test_int8_is_off_by_half_a_step_of_its_row_at_most(rows: int, width: int, seed: int, zero: bool) -> None:
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    weight[0] *= 0.0 if zero else 1e-3
    packed, scale = pack(weight, "int8")
    assert scale is not None and packed.dtype == torch.int8
    found = unpack(packed, scale, (rows, width), torch.float32)
    assert bool(((found - weight).abs() <= 0.5001 * weight.abs().amax(1, keepdim=True) / 127).all())


@pytest.mark.parametrize("kept", FEW)
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral", "gpt-neox", "gemma3"])
def test_a_model_in_few_bits_is_the_plain_model_of_rounded_weights(architecture: str, kept: str) -> None:
    plain, few = tiny_model(architecture, 23), tiny_model(architecture, 23)
    round_to(plain, kept, "here")
    freeze_in(few, kept, "here")
    ids = torch.arange(9)[None] + 3
    assert torch.allclose(few(ids).logits, plain(ids).logits, atol=1e-5)
    assert not torch.allclose(few(ids).logits, tiny_model(architecture, 23)(ids).logits, atol=1e-5)
    assert parameter_count(few) == parameter_count(plain) == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize("kept", FEW)
def test_read_from_a_folder_weights_are_packed_as_a_loaded_model_is(model: str, kept: str) -> None:
    """Read one after the other: never whole in float32, and the same to the last bit."""
    whole, _ = load_any(model, "here")
    freeze_in(whole, kept, "here")
    read = load_base(model, device=CPU, base=kept)
    assert read.kept_as == kept and read.sha256 == weights_hash(whole)


# --- what was broken --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_policy_that_has_not_moved_has_log_ratio_0_bit_for_bit(base: Base, precision: str) -> None:
    reference = Reference(base)
    with reference.alone() as alone:
        wanted = logprobs(alone, precision)
    policy = start_policy(base, lora=4, seed=0)
    assert torch.equal(logprobs(policy.model, precision), wanted)
    assert {p.dtype for p in policy.trainable().values()} == {torch.float32}, "adapters stay float32"
    assert all("lora" in name for name in policy.trainable())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_our_layer_beside_packed_weights_is_the_one_beside_the_same_plain_weights(base: Base, precision: str) -> None:
    layer = next(iter(frozen_layers(base.model).values()))
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False).requires_grad_(False)
    plain.weight.data = layer.dense()
    x, found = torch.randn(5, layer.in_features), []
    for inside in (layer, plain):
        lora = AdaptedLinear(inside, "default", config=LoraConfig(r=2, lora_alpha=3), r=2, lora_alpha=3)
        torch.manual_seed(0)
        for factors in (lora.lora_A, lora.lora_B):
            factors["default"].weight = nn.Parameter(torch.randn(factors["default"].weight.shape))
        own = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            y = lora(own)
        weighted = (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()
        found.append([y, *torch.autograd.grad(weighted, [lora.lora_A["default"].weight, own])])
    assert found[0][0].dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_in_bf16_no_part_of_a_small_change_is_lost_where_weights_are_bf16_numbers() -> None:
    """Added to such a weight, most of a change below half of its last digit would be."""
    torch.manual_seed(0)
    inside = nn.Linear(256, 256, bias=False).requires_grad_(False)
    inside.weight.data = inside.weight.data.bfloat16().float()
    lora = AdaptedLinear(inside, "default", config=LoraConfig(r=8, lora_alpha=8), r=8, lora_alpha=8)
    a, b = lora.lora_A["default"].weight, lora.lora_B["default"].weight
    nn.init.normal_(b, std=1e-4)
    x = torch.randn(512, 256).bfloat16()
    change = ((x.float() @ a.T) @ b.T).detach()
    assert 1e-4 < float((b @ a).detach().abs().mean() / inside.weight.abs().mean()) < 1e-3
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = lora(x).float() - inside(x).float()
    assert float((found * change).sum() / change.square().sum()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mistral", "gpt-neox"])
def test_a_layout_is_found_for_every_base_and_it_is_the_plain_models(architecture: str) -> None:
    wanted = probe_layout(tiny_model(architecture, 23))
    for kept in ("bf16", "int8"):
        found = probe_layout(frozen_model(kept, architecture))
        assert (found.name, found.reason) == (wanted.name, wanted.reason)


def test_the_probe_of_a_base_in_few_bits_sees_a_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(model: Any, batch: Any, **options: Any) -> Tensor:
        values = response_logprobs(model, batch, **options)
        return 2 * values - values.detach() if batch.plan is not None else values

    monkeypatch.setattr(layout, "response_logprobs", doubled)
    assert probe_layout(frozen_model("int8")).name == "padded"


def test_nothing_is_folded_into_packed_weights_and_samples_are_the_live_adapters(base: Base) -> None:
    policy = with_adapter(base)
    live, before = logprobs(policy.model), weights_hash(policy.model)
    with policy.merged():
        assert torch.equal(logprobs(policy.model), live)
    assert torch.equal(logprobs(policy.model), live) and weights_hash(policy.model) == before


def test_the_hash_sees_scales_base_and_what_reads_it(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bases = {kept: load_base(model, device=CPU, base=kept) for kept in ("fp32", "bf16", "int8")}
    assert len({base.sha256 for base in bases.values()}) == 3
    few = bases["int8"].model
    next(iter(frozen_layers(few).values())).scale.data[0] *= 2
    assert weights_hash(few) != bases["int8"].sha256


@needs_bits
def test_the_hash_of_4_bits_is_of_the_library_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = frozen_model("nf4")
    before = weights_hash(model)
    monkeypatch.setattr(frozen, "version", lambda name: "0.0")
    assert weights_hash(model) != before


def test_a_forward_pass_changes_no_weight_whether_or_not_gradients_are_wanted(base: Base) -> None:
    """The library's own layer repacks its weights in place where a CPU has AVX512-BF16; none of it is used."""
    before = {name: parameter.clone() for name, parameter in base.model.named_parameters()}
    ids = torch.arange(6)[None] + 3
    found = []
    for training in (False, True):
        base.model.train(training)
        with torch.no_grad():
            found.append(base.model(ids).logits)
        found.append(base.model(ids).logits.detach())
    assert all(torch.equal(logits, found[0]) for logits in found)
    assert all(torch.equal(parameter, before[name]) for name, parameter in base.model.named_parameters())
    assert not any("bitsandbytes" in type(module).__module__ for module in base.model.modules())


def test_casts_are_remembered_of_what_can_have_a_gradient(base: Base) -> None:
    with remembered_casts(base.model), torch.no_grad():
        kinds = {p.is_floating_point() for p in base.model.parameters() if p.requires_grad}
    assert kinds == {True}
    assert not any(p.requires_grad for p in base.model.parameters())


# --- what is trained and written down ---------------------------------------------------------------------------------


def trained(model: str, out: Path, **options: Any) -> Any:
    defaults = {"method": "dpo", "lora": 4, "base": "int8", "steps": 4, "lr": 2e-2}
    return run(model, out, **defaults | options)


@pytest.fixture(scope="module")
def finished(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run beside a base in 8 bits, with votes held out."""
    return Path(trained(model, tmp_path_factory.mktemp("runs") / "few", eval_fraction=0.3).folder)


def test_what_is_written_down_is_what_was_trained(base: Base, tmp_path: Path) -> None:
    policy = with_adapter(base)
    live = logprobs(policy.model)
    policy.save(tmp_path)
    found = [load_base(str(tmp_path / name), device=CPU) for name in ("policy", "adapter")]
    assert found[0].sha256 == found[1].sha256, "as a start, an adapter is folded into what its base stands for"
    assert torch.allclose(logprobs(found[0].model), live, atol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    assert torch.equal(plain(torch.tensor([[3, 4]])).logits, found[0].model(torch.tensor([[3, 4]])).logits)


def test_the_weights_of_the_files_are_those_that_are_measured(base: Base, tmp_path: Path) -> None:
    policy = with_adapter(base)
    policy.save(tmp_path)
    path = tmp_path / "policy" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1.5
    save_file(tensors, path, metadata={"format": "pt"})
    live = logprobs(policy.model)
    with as_written(policy.model, tmp_path / "policy"):
        written = logprobs(policy.model)
    changed = load_base(str(tmp_path / "policy"), device=CPU)
    assert torch.allclose(written, logprobs(changed.model), atol=1e-5)
    assert not torch.allclose(written, live, atol=1e-2)
    assert torch.equal(logprobs(policy.model), live), "afterwards it is as before"


def test_a_policy_is_written_in_parts_of_bounded_size(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = with_adapter(base)
    policy.save(tmp_path / "one")
    monkeypatch.setattr(saving, "PART", 20_000)
    policy.save(tmp_path / "many")
    files = sorted((tmp_path / "many" / "policy").glob("*.safetensors"))
    assert len(files) > 2 and all(path.stat().st_size < 25_000 for path in files)
    one, many = (load_base(str(tmp_path / name / "policy"), device=CPU) for name in ("one", "many"))
    assert one.sha256 == many.sha256


def test_merged_into_the_original_it_is_another_policy_which_is_said(
    model: str, tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads((finished / "run.json").read_text())["exported"]
    assert found["base"] == "int8" and found["merged_into"] == "base" and found["most_nats"] < 1e-4
    other = trained(model, tmp_path / "run", merge_into="original")
    said = capsys.readouterr().err
    away = other.record["exported"]
    assert away["merged_into"] == "original" and away["most_nats"] >= away["mean_nats"] > 100 * found["most_nats"]
    assert "the original weights and the adapter" in said and f"{away['mean_nats']:.2g} nats" in said
    original = load_base(model, device=CPU)
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    wanted = original.model.get_submodule(name).weight + 2 * b @ a
    merged = load_base(str(tmp_path / "run" / "policy"), device=CPU).model.get_submodule(name).weight
    assert torch.allclose(merged, wanted, atol=1e-6)


def test_an_adapter_is_loaded_beside_the_base_that_it_was_trained_beside(finished: Path, model: str) -> None:
    base = load_base(model, device=CPU, base="int8")
    policy = load_adapter(base, finished / "adapter")
    written = load_base(str(finished / "policy"), device=CPU)
    assert torch.allclose(logprobs(policy.model), logprobs(written.model), atol=1e-5)
    with active_adapter(policy.model, None):
        assert not torch.allclose(logprobs(policy.model), logprobs(written.model), atol=1e-3)
    policy.close()
    assert weights_hash(base.model) == base.sha256


def test_evaluated_and_sampled_a_policy_is_what_training_measured(
    finished: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((finished / "run.json").read_text())
    ballots = tmp_path / "ballots.jsonl"
    write_ballots(ballots_of_run(), ballots)
    options: dict[str, Any] = {"data": str(ballots), "samples": 2, "max_new_tokens": 4, "device": "cpu"}
    options |= {"allow_overlap": True, "micro_tokens": 40}
    rows = {base: evaluate_folders([str(finished)], base=base, **options)[1] for base in (None, "int8", "fp32")}
    assert rows[None] == rows["int8"], "as it was trained"
    assert rows["fp32"].kl != pytest.approx(rows["int8"].kl, abs=1e-6), "from the original, rounding is a distance too"
    assert record["reference"]["sha256"] == load_base(model, device=CPU, base="int8").sha256
    capsys.readouterr()
    texts = []
    for base in ("fp32", "int8"):
        sample_folders([str(finished)], prompt="w1 w2", samples=3, max_new_tokens=6, device="cpu", base=base)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1], "as it was written down, and as an adapter beside its base"
    with pytest.raises(UserError, match="--base bf16: few is a policy of an int8 base; leave --base out"):
        sample_folders([str(finished)], prompt="w1", device="cpu", base="bf16")


def test_a_run_that_was_stopped_goes_on_bit_for_bit_and_with_no_other_base(model: str, tmp_path: Path) -> None:
    def stop(step: int) -> None:
        if step == 2:
            raise PowerCut

    options: dict[str, Any] = {"save_every": 0}
    with pytest.MonkeyPatch.context() as patch:
        watch_steps(patch, after=stop)
        with pytest.raises(PowerCut):
            trained(model, tmp_path / "cut", **options)
    with pytest.raises(UserError, match=r"started with base 'int8', now 'bf16'"):
        trained(model, tmp_path / "cut", **options, resume=True, base="bf16")
    trained(model, tmp_path / "cut", **options, resume=True)
    trained(model, tmp_path / "whole", **options)
    assert_equal_runs(tmp_path / "cut", tmp_path / "whole")


def test_policy_reference_reward_and_value_share_one_base(model: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        loaded = []
        real = workbench.load_base
        patch.setattr(workbench, "load_base", lambda *a, **o: loaded.append(real(*a, **o)) or loaded[-1])
        found = trained(model, tmp_path / "run", method="ppo", rollouts=2, max_new_tokens=4, steps=2, lr=1e-3)
    (only,) = loaded
    assert only.kept_as == "int8"
    assert found.record["reward"]["sha256"]
    place, fp32 = tmp_path / "run" / "reward-model", {"precision": "fp32", "device": CPU}
    reward = load_reward(place, only, layout=probe_layout(only.model), **fp32)
    whole = load_scorer(place, where="here", **fp32)
    assert reward.kind == whole.kind == "lora"
    batch = padded_layout([PAIR])
    assert torch.allclose(reward.raw(batch), whole.raw(batch), atol=1e-4), "as a classifier it scores alike"


@pytest.mark.parametrize("kept", FEW)
def test_every_base_has_a_store_of_its_own_which_a_fresh_model_agrees_with(
    kept: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path))
    bench, plain = (open_workbench(model, device="cpu", base=name) for name in (kept, "fp32"))
    assert bench.store.path != plain.store.path
    fill_store(bench.store, bench.reference, [[PAIR]], layout=bench.layout, precision="fp32")
    checked = {found.entries: found for found in check_stores(device="cpu")}
    assert checked[2].checked and not checked[2].wrong and not checked[2].unchecked
    assert read_key(bench.store.path) == bench.store.key and bench.store.key.base == kept


def test_a_gguf_file_is_put_into_few_bits_too(tmp_path: Path) -> None:
    path = write_gguf(gguf_model(), tmp_path / "model.gguf")
    few, plain = (load_base(str(path), device=CPU, base=name) for name in ("int8", "fp32"))
    ids = torch.tensor([[3, 4, 5]])
    assert few.kept_as == "int8" and few.model.name_or_path == str(path)
    round_to(plain.model, "int8", "here")
    assert torch.allclose(few.model(ids).logits, plain.model(ids).logits, atol=1e-5)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, options, told",
    [
        ("dpo", {"lora": 0}, r"--base int8: weights in few bits are frozen.*add --lora R"),
        ("dpo", {"base": "nf3"}, r"--base nf3: must be one of fp32, bf16, int8, nf4"),
        ("reward", {"lora": 0, "beta": None}, r"--base int8: --kind full trains all weights.*--kind lora"),
        ("ppo", {"kind": "full"}, r"--base int8: --kind full trains all weights"),
        ("dpo", {"base": "fp32", "merge_into": "original"}, r"--merge-into original: .* leave it out"),
        ("dpo", {"merge_into": "both"}, r"--merge-into both: must be one of base, original"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_loaded(
    method: str, options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        run("no model", tmp_path / "run", method=method, **{"lora": 4, "base": "int8"} | options)
    assert not (tmp_path / "run").exists()


def test_an_arm_without_an_adapter_is_refused_beside_a_base_in_few_bits() -> None:
    with pytest.raises(UserError, match="add --lora R"):
        settle_study("dpo[lora=4],ipo", betas=[0.1], base="int8", samples=0)


def test_a_study_does_not_go_on_with_another_base(tmp_path: Path) -> None:
    then, now = {"base": "int8", "lr": 1}, {"base": "bf16", "lr": 1}
    before = {"runs": "exchangeable", "settings": then, "looks": {}, "arms": ["dpo"], "model": {}, "data": {}}
    (tmp_path / "study.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(describing, "read_study", lambda folder: SimpleNamespace(info=before))
        patch.setattr(describing, "measured_against_a_policy", lambda info: False)
        info = {**before, "settings": now, "model": {"sha256": "y"}, "reference": {"sha256": "y"}, "data": {}}
        info["data"] = {"tokens_sha256": ""}
        with pytest.raises(UserError, match=r"another --base \('int8', now 'bf16'\)"):
            describing.continued(tmp_path, info)


def test_a_missing_library_is_named_with_the_command_that_brings_it(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bits, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"--base nf4: needs bitsandbytes; .*pip install 'preftune\[bits\]'"):
            run("no model", tmp_path / "run", method="dpo", lora=4, base="nf4")
        for name in ("bf16", "int8"):
            bits.check_library(name)


def test_an_architecture_whose_layers_are_of_another_kind_is_refused(tmp_path: Path) -> None:
    tiny_model("gpt2", len(WORDS) + 3).save_pretrained(tmp_path)
    tiny_tokenizer(WORDS).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"GPT2LMHeadModel keeps weights in layers that are no plain linear ones.*fp32"):
        load_base(str(tmp_path), device=CPU, base="int8")


def test_a_layer_whose_weight_is_read_past_it_is_refused() -> None:
    model = tiny_model("llama", 23)
    layer = model.model.layers[0].mlp.up_proj
    model.model.layers[0].mlp.forward = lambda x: nn.functional.linear(x, layer.weight)
    with pytest.raises(UserError, match="here: LlamaForCausalLM cannot be kept in int8"):
        freeze_in(model, "int8", "here")


def test_weights_that_are_quantized_already_are_refused(model: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="quantised already; take the original"):
        load_base(str(folder), device=CPU)


def test_a_weight_that_is_not_finite_is_named_when_it_is_packed(tmp_path: Path) -> None:
    broken = tiny_model("llama", len(WORDS) + 3)
    broken.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    broken.save_pretrained(tmp_path)
    tiny_tokenizer(WORDS).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds values that are not finite"):
        load_base(str(tmp_path), device=CPU, base="int8")


def test_all_weights_of_a_base_in_few_bits_are_not_trained(base: Base) -> None:
    with pytest.raises(RuntimeError, match="cannot be trained"):
        start_policy(base, lora=0, seed=0)
