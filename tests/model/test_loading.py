"""Loading, saving and adapting models: what a user gets wrong in one line, and what must stay the same to the bit."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, WINDOW, tiny_config, tiny_llama, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GptOssConfig,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from preftune.data.branches import branch_layout
from preftune.data.tokens import TokenBallot, text_format
from preftune.errors import UserError
from preftune.model.attention import use_branch_attention
from preftune.model.loading import Base, awake, load_base, no_dropout, rest, weights_hash
from preftune.model.logprobs import response_logprobs
from preftune.model.policy import Reference, active_adapter, adapted_layers, closed_on_error, start_policy
from preftune.model.saving import save_policy

CPU = torch.device("cpu")
WORDS = list("abcdefg")
IDS = torch.tensor([[3, 4, 5, 6, 7, 8, 9, 3]])
BATCH = [TokenBallot((3, 4, 5, 6), ((7, 8), (9, 3, 4)), ()), TokenBallot((5,), ((6,), (8, 9)), ())]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(tiny_llama(tmp_path / "model", WORDS))


def base_of(architecture: str) -> Base:
    config = tiny_config(architecture, 10)
    no_dropout(config)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    use_branch_attention(model)
    return Base(model, text_format(tiny_tokenizer(WORDS)), architecture, "")


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(IDS, use_cache=False).logits


@torch.no_grad()
def scores(model: Any) -> Tensor:
    return response_logprobs(model, branch_layout(BATCH))


def train_a_little(policy: Any) -> None:
    """Two real gradient steps, so that policy and reference differ."""
    optimizer = torch.optim.AdamW(policy.trainable().values(), lr=1e-2)
    for _ in range(2):
        response_logprobs(policy.model, branch_layout(BATCH)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


# --- a user's mistakes -----------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def other_task(folder: Path) -> None:
    LlamaForSequenceClassification(tiny_config("llama", 10)).save_pretrained(folder)


def encoder_decoder(folder: Path) -> None:
    config = T5Config(vocab_size=20, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(folder)


SPOIL: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "no model there"),
    "broken config": (lambda f: (f / "config.json").write_text("{nope"), "not a valid JSON"),
    "empty config": (lambda f: (f / "config.json").write_text("{}"), "model_type"),
    "unknown architecture": (lambda f: edit_json(f / "config.json", model_type="zzz"), "zzz"),
    "encoder and decoder": (encoder_decoder, "not a causal language model"),
    "another task": (other_task, "lack lm_head.weight"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "cut weights": (lambda f: cut(f / "model.safetensors"), "header"),
    "no safetensors at all": (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 999), "header"),
    "a layer missing": (lambda f: edit_json(f / "config.json", num_hidden_layers=3), "lack model.layers.2"),
    "another width": (lambda f: edit_json(f / "config.json", intermediate_size=32), "not a causal language model"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "tokenizer cannot be loaded"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer cannot be loaded"),
    "an end of text that is no text": (
        lambda f: edit_json(f / "tokenizer_config.json", eos_token=5),
        "tokenizer cannot be loaded",
    ),
    "no end of text": (lambda f: edit_json(f / "tokenizer_config.json", eos_token=None), "no end-of-text token"),
    "a token beyond the embedding": (
        lambda f: edit_json(f / "config.json", vocab_size=10) or tiny_tokenizer([*WORDS, "h"]).save_pretrained(f),
        "tokenizer has 'h' with the id 10, and the embedding has 10 rows",
    ),
    "a template that does not compile": (
        lambda f: (f / "chat_template.jinja").write_text("{% for m in messages %}\n{% oops %}"),
        r"chat template does not compile \(line 2: .*oops",
    ),
    "a template of another kind": (lambda f: edit_json(f / "tokenizer_config.json", chat_template=7), "chat template"),
    "code of its own": (
        lambda f: edit_json(f / "config.json", model_type="zzz", auto_map={"AutoConfig": "x.Y"}),
        "custom code",
    ),
}


@pytest.mark.parametrize("spoil", SPOIL)
def test_a_spoilt_model_folder_is_one_line_that_names_it(
    folder: Path, spoil: str, capfd: pytest.CaptureFixture[str]
) -> None:
    change, reason = SPOIL[spoil]
    change(folder)
    capfd.readouterr()
    with pytest.raises(UserError, match=reason) as error:
        load_base(str(folder), device=CPU)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"--model {folder}: ")
    assert capfd.readouterr() == ("", ""), "nothing but that line reaches the screen, and nothing is asked"


def test_a_file_an_absent_gguf_and_an_unreachable_hub_name_are_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name, reason in [
        (str(tmp_path / "file"), "no model there"),
        (str(tmp_path / "absent.gguf"), "no such file"),
        ("some-one/some-model", "no local folder"),
        (str(tmp_path / "absent"), "no local folder"),
    ]:
        with pytest.raises(UserError, match=reason) as error:
            load_base(name, device=CPU)
        assert "\n" not in str(error.value) and name in str(error.value)


# --- loading and saving ----------------------------------------------------------------------------------------------


def test_a_loaded_model_is_float32_without_dropout_and_gives_the_stock_logits(tmp_path: Path) -> None:
    saved = tiny_model("gpt2", 10).to(torch.bfloat16)
    assert saved.config.attn_pdrop > 0 and saved.config.resid_pdrop > 0 and saved.config.embd_pdrop > 0
    saved.save_pretrained(tmp_path)
    tiny_tokenizer(WORDS).save_pretrained(tmp_path)
    base = load_base(str(tmp_path), device=CPU)
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.float32}
    base.model.train()
    assert torch.equal(logits(base.model), logits(base.model))
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.allclose(logits(base.model), logits(stock), atol=1e-6)


def test_the_hash_of_the_weights_tells_weights_and_settings_apart_and_not_folders(folder: Path, tmp_path: Path) -> None:
    base = load_base(str(folder), device=CPU)
    again = load_base(shutil.copytree(folder, tmp_path / "elsewhere").__str__(), device=CPU)
    assert base.sha256 == again.sha256 == weights_hash(again.model)
    with torch.no_grad():
        next(again.model.parameters())[0, 0] += 1e-6
    assert weights_hash(again.model) != base.sha256
    edit_json(folder / "config.json", rms_norm_eps=1e-3)
    assert load_base(str(folder), device=CPU).sha256 != base.sha256


def test_the_hash_takes_a_parameter_that_is_a_single_number(folder: Path) -> None:
    model = load_base(str(folder), device=CPU).model
    before = weights_hash(model)
    model.register_parameter("temperature", torch.nn.Parameter(torch.tensor(1.0)))
    assert weights_hash(model) != before


COMMON = {
    "vocab_size": 10,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": WINDOW,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "bos_token_id": None,
}
SAVED = {
    **{name: lambda name=name: tiny_config(name, 10) for name in ARCHITECTURES},
    "gemma2": lambda: Gemma2Config(**COMMON),
    "gpt-oss": lambda: GptOssConfig(**COMMON, num_local_experts=4, rope_parameters={"rope_type": "default"}),
}


@pytest.mark.parametrize("architecture", SAVED)
def test_a_saved_policy_loads_in_transformers_and_knows_nothing_of_us(architecture: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(SAVED[architecture](), dtype=torch.float32).eval()
    wanted = logits(model)
    assert use_branch_attention(model)
    save_policy(model, tiny_tokenizer(WORDS), tmp_path)
    assert not any("preftune" in path.read_text() for path in tmp_path.glob("*.json"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config._attn_implementation in ("sdpa", "eager")
    assert torch.equal(logits(loaded), wanted)
    assert AutoTokenizer.from_pretrained(tmp_path)("a b")["input_ids"] == [3, 4]


def test_saving_in_the_middle_of_training_leaves_the_attention_as_it_was(tmp_path: Path) -> None:
    policy = start_policy(base_of("llama"), lora=0, seed=0)
    before = scores(policy.model)
    policy.save(tmp_path)
    assert torch.equal(scores(policy.model), before)


# --- policies --------------------------------------------------------------------------------------------------------


def test_full_fine_tuning_trains_a_copy(tmp_path: Path) -> None:
    base = base_of("llama")
    before, frozen = copy.deepcopy(base.model.state_dict()), scores(base.model)
    policy = start_policy(base, lora=0, seed=0)
    assert policy.model.training and set(policy.trainable()) == {name for name, _ in base.model.named_parameters()}
    assert torch.equal(scores(policy.model), frozen), "step 0: the log-ratio is exactly 0"
    train_a_little(policy)
    assert not torch.equal(scores(policy.model), frozen)
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())
    with Reference(base).alone() as reference:
        assert torch.equal(scores(reference), frozen)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_an_adapter_starts_at_the_reference_and_switched_off_stays_there_to_the_bit(architecture: str) -> None:
    base = base_of(architecture)
    before, frozen = copy.deepcopy(base.model.state_dict()), scores(base.model)
    policy = start_policy(base, lora=4, seed=0)
    assert policy.trainable() and all(".lora_" in name for name in policy.trainable())
    assert torch.equal(scores(policy.model), frozen), "step 0: the log-ratio is exactly 0"
    train_a_little(policy)
    trained = scores(policy.model)
    assert float((trained - frozen).abs().max()) > 1e-3
    with Reference(base).alone() as reference:
        assert torch.equal(scores(reference), frozen)
    assert torch.equal(scores(policy.model), trained)
    policy.close()
    assert base.model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())


def test_switching_between_adapters_touches_no_parameter_and_one_backward_pass_reaches_both() -> None:
    """peft's own switches would freeze the adapter that is not active, and the policy would get no gradient."""
    base = base_of("llama")
    frozen = scores(base.model)
    policy = start_policy(base, lora=4, seed=0)
    assert policy.adapter is not None
    policy.adapter.add_adapter("value", policy.adapter.peft_config["default"])
    for name, parameter in policy.model.named_parameters():
        if ".lora_" in name:
            parameter.data.normal_(0, 0.1)
            parameter.requires_grad_(True)
    both = {name: p.requires_grad for name, p in policy.model.named_parameters()}
    own = scores(policy.model)
    with active_adapter(policy.model, "value"):
        value = scores(policy.model)
        with active_adapter(policy.model, None):
            assert torch.equal(scores(policy.model), frozen)
        assert torch.equal(scores(policy.model), value)
    assert torch.equal(scores(policy.model), own)
    assert min(float((a - b).abs().max()) for a, b in ((own, value), (own, frozen), (value, frozen))) > 1e-3
    assert {name: p.requires_grad for name, p in policy.model.named_parameters()} == both
    loss = response_logprobs(policy.model, branch_layout(BATCH)).sum()
    with active_adapter(policy.model, "value"):
        loss = loss + response_logprobs(policy.model, branch_layout(BATCH)).sum()
    loss.backward()
    grads = {name: p.grad for name, p in policy.model.named_parameters() if ".lora_" in name}
    assert all(grad is not None and grad.any() for grad in grads.values())
    with pytest.raises(ValueError, match="stop"), active_adapter(policy.model, "value"):
        raise ValueError("stop")
    assert torch.equal(scores(policy.model), own)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_a_merged_adapter_is_the_same_policy_and_unmerging_leaves_no_rounding(architecture: str) -> None:
    policy = start_policy(base_of(architecture), lora=4, seed=0)
    train_a_little(policy)
    before, trained = copy.deepcopy(policy.model.state_dict()), scores(policy.model)
    with policy.merged():
        assert float((scores(policy.model) - trained).abs().max()) < 3e-5
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())
    assert torch.equal(scores(policy.model), trained)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_the_reference_is_the_start_to_the_bit_whatever_is_done_around_it(architecture: str) -> None:
    """With an adapter trained, folded in, another one active, in training mode: whoever asks the reference gets it."""
    base = base_of(architecture)
    frozen, reference = scores(base.model), Reference(base)
    policy = start_policy(base, lora=4, seed=0)
    train_a_little(policy)
    policy.model.train()
    trained = scores(policy.model)
    with policy.merged():
        folded = scores(policy.model)
        with reference.alone() as model:
            assert not any(module.training for module in model.modules()) and not torch.is_grad_enabled()
            assert torch.equal(scores(model), frozen)
        assert torch.equal(scores(policy.model), folded)
    with active_adapter(policy.model, "value"), reference.alone() as model:
        assert torch.equal(scores(model), frozen)
    with pytest.raises(ValueError, match="stop"), reference.alone():
        raise ValueError("stop")
    assert policy.model.training and torch.is_grad_enabled()
    assert torch.equal(scores(policy.model), trained)


def test_a_merge_that_kept_no_plain_weights_is_no_reference() -> None:
    base = base_of("llama")
    policy = start_policy(base, lora=4, seed=0)
    for layer in adapted_layers(policy.model):
        layer.merge()
    with pytest.raises(RuntimeError, match="lost"), Reference(base).alone():
        pass


def test_a_second_policy_does_not_start_inside_the_first() -> None:
    base = base_of("llama")
    policy = start_policy(base, lora=4, seed=0)
    with pytest.raises(RuntimeError, match="already"):
        start_policy(base, lora=4, seed=1)
    with pytest.raises(ValueError, match="stop"), closed_on_error(policy):
        raise ValueError("stop")
    start_policy(base, lora=4, seed=1).close()


@pytest.mark.parametrize("lora", [0, 4])
def test_a_policy_whose_file_is_not_what_was_trained_is_not_called_saved(
    lora: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of("llama")
    policy = start_policy(base, lora=lora, seed=0)
    train_a_little(policy)
    real = type(base.model).save_pretrained

    def lose_a_bit(model: Any, folder: Path) -> None:
        real(model, folder)
        weights = load_file(folder / "model.safetensors")
        weights[sorted(weights)[0]].flatten()[0] += 1e-6
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    def lose_a_tensor(model: Any, folder: Path) -> None:
        real(model, folder)
        weights = load_file(folder / "model.safetensors")
        weights.pop(sorted(weights)[-1])
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    policy.save(tmp_path / "right")
    for lossy in (lose_a_bit, lose_a_tensor):
        monkeypatch.setattr(type(base.model), "save_pretrained", lossy)
        with pytest.raises(RuntimeError, match="was not saved as it was trained"):
            policy.save(tmp_path / "wrong")


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_a_saved_adapter_policy_is_whole_beside_its_adapter(architecture: str, tmp_path: Path) -> None:
    base = base_of(architecture)
    base.model.generation_config.eos_token_id = [0, 2]
    policy = start_policy(base, lora=4, seed=0)
    train_a_little(policy)
    policy.save(tmp_path)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert torch.allclose(logits(loaded), logits(policy.model), atol=3e-5)
    assert loaded.generation_config.eos_token_id == [0, 2]
    assert not any("preftune" in path.read_text() for path in (tmp_path / "policy").glob("*.json"))


def test_the_first_adapter_weights_are_a_function_of_the_seed() -> None:
    base = base_of("llama")
    first = []
    for seed in (0, 0, 1):
        torch.manual_seed(123)
        policy = start_policy(base, lora=4, seed=seed)
        first.append(torch.cat([value.detach().flatten() for value in policy.trainable().values()]))
        policy.close()
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


@pytest.mark.parametrize("lora", [0, 4])
def test_checkpointed_training_has_the_same_gradients(lora: int) -> None:
    grads = []
    for checkpointing in (False, True):
        policy = start_policy(base_of("llama"), lora=lora, seed=0, grad_checkpointing=checkpointing)
        calls: list[int] = []
        attention = next(module for name, module in policy.model.named_modules() if name.endswith("layers.0.self_attn"))
        attention.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        response_logprobs(policy.model, branch_layout(BATCH)).sum().backward()
        assert len(calls) == 1 + checkpointing
        grads.append({name: parameter.grad for name, parameter in policy.trainable().items()})
    assert all(torch.equal(grad, grads[1][name]) for name, grad in grads[0].items())


def test_no_dropout_sets_every_rate_and_nothing_else() -> None:
    config = tiny_config("gpt2", 10)
    before = config.to_dict()
    no_dropout(config)
    changed = {key for key, value in config.to_dict().items() if value != before[key]}
    assert changed == {"attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_first_dropout"}
    assert {getattr(config, key) for key in changed} == {0.0}


def test_weights_rest_in_main_memory_and_are_copied_there_once() -> None:
    base = base_of("llama")
    rest(base)
    first = [parameter.data_ptr() for parameter in base.model.parameters()]
    with awake(base):
        pass
    rest(base)
    assert [parameter.data_ptr() for parameter in base.model.parameters()] == first
