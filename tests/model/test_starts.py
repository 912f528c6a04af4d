"""An adapter as the start: base and adapter together are the policy's start and its reference, and whole policies come
out. And models whose numbers are none, wherever they arise."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from preftune.cli.entry import main
from preftune.data.ballots import Ballot, Vote
from preftune.data.tokens import TokenBallot
from preftune.errors import UserError
from preftune.model.layout import Layout
from preftune.model.loading import Base, load_base
from preftune.model.sampling import sample_responses
from preftune.study.policies import evaluate_folders, sample_folders
from preftune.study.single import train
from preftune.training.votes import vote_table

WORDS = list("abcdefgh")
CPU = torch.device("cpu")
PROBE = torch.tensor([[3, 5, 4, 7, 6]])
# peft's own, while a plain transformers model is given an adapter
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


def run(model: str, out: Path, **options: Any) -> dict[str, Any]:
    ballots = [Ballot(f"{a} {b}", (f"{b} a", f"{a} h c"), (Vote(0, 1, 1),)) for a in WORDS for b in "aceg"]
    shared = {
        "method": "dpo",
        "beta": 0.5,
        "lr": 2e-2,
        "steps": 3,
        "batch_size": 8,
        "device": "cpu",
        "eval_fraction": 0.2,
    }
    train(ballots=ballots, model=model, out=out, **shared | options)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {"first": rows[0], "record": json.loads((out / "run.json").read_text())}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(PROBE).logits


def plain(folder: Path | str) -> Any:
    return AutoModelForCausalLM.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def first(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that left an adapter which moves the model by more than rounding."""
    out = tmp_path_factory.mktemp("first") / "run"
    run(model, out, lora=4)
    assert float((logits(plain(out / "policy")) - logits(plain(model))).abs().max()) > 0.05
    return out


@pytest.fixture(scope="module")
def both(model: str, first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and, beside it, an adapter of it."""
    folder = tmp_path_factory.mktemp("both") / "both"
    shutil.copytree(model, folder)
    for file in (first / "adapter").iterdir():
        shutil.copy(file, folder)
    return folder


def test_an_adapter_folder_names_its_base_and_is_loaded_with_it(model: str, first: Path, both: Path) -> None:
    wanted = logits(plain(first / "policy"))
    for start in (first / "adapter", both):
        base = load_base(str(start), device=CPU)
        assert torch.allclose(logits(base.model), wanted, atol=1e-5)
        assert not any("lora" in name for name in base.model.state_dict())
    assert json.loads((first / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == model


@pytest.mark.parametrize("lora", [0, 4])
def test_a_run_starts_at_base_and_adapter_and_leaves_a_whole_policy(
    lora: int, first: Path, both: Path, tmp_path: Path
) -> None:
    start = logits(load_base(str(both), device=CPU).model)
    for number, model in enumerate((str(first / "adapter"), str(both))):
        out = tmp_path / str(number)
        told = run(model, out, lora=lora)
        assert told["first"]["loss"] == pytest.approx(math.log(2), abs=1e-7)
        assert told["first"]["log_ratio_preferred"] == 0 == told["first"]["log_ratio_other"]
        assert told["record"]["model"]["sha256"] == told["record"]["reference"]["sha256"]
        weights = load_file(out / "policy" / "model.safetensors")
        assert weights.keys() == load_file(both / "model.safetensors").keys()
        moved = (logits(plain(out / "policy")) - start).abs().max()
        assert 0.01 < float(moved) < 20
    first_policy, second = (load_file(tmp_path / n / "policy" / "model.safetensors") for n in "01")
    assert all(torch.allclose(first_policy[name], value, atol=1e-5) for name, value in second.items())


def test_an_adapter_on_an_adapter_is_found_again_with_all_below_it(first: Path, tmp_path: Path) -> None:
    run(str(first / "adapter"), tmp_path / "second", lora=4)
    again = load_base(str(tmp_path / "second" / "adapter"), device=CPU)
    assert torch.allclose(logits(again.model), logits(plain(tmp_path / "second" / "policy")), atol=1e-5)


def test_another_reference_than_the_start_is_said_with_its_distance(
    model: str, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(str(first / "adapter"), tmp_path / "out", lora=2, reference=model)
    assert "nats from the reference" in capsys.readouterr().err


def test_an_adapter_can_be_evaluated_and_sampled_like_a_run(
    model: str, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("a b\nc d\n")
    asked = {"reference": model, "prompts": str(tmp_path / "prompts.txt"), "max_new_tokens": 4, "device": "cpu"}
    rows = evaluate_folders([str(first), str(first / "adapter")], **asked)
    assert rows[1].kl == pytest.approx(rows[2].kl, abs=1e-5) and rows[1].kl > 1e-3
    sample_folders([str(first / "adapter")], prompt="a b", max_new_tokens=4, device="cpu")
    assert "adapter" in capsys.readouterr().out


def test_peft_itself_makes_the_policy_of_base_and_adapter(model: str, first: Path) -> None:
    adapted = PeftModel.from_pretrained(plain(model), str(first / "adapter"))
    assert torch.allclose(logits(adapted), logits(plain(first / "policy")), atol=1e-5)
    keys = load_file(first / "adapter" / "adapter_model.safetensors").keys()
    assert keys and all(key.count("base_model.model.") == 1 for key in keys)


def change(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_adapter_that_cannot_be_folded_in_is_refused_in_one_line(first: Path, model: str, tmp_path: Path) -> None:
    def refused(reason: str, folder: Path) -> None:
        with pytest.raises(UserError, match=reason) as caught:
            load_base(str(folder), device=CPU)
        assert "\n" not in str(caught.value)

    def copied(name: str) -> Path:
        return Path(shutil.copytree(first / "adapter", tmp_path / name))

    change(gone := copied("gone"), base_model_name_or_path=str(tmp_path / "nowhere"))
    refused("base .*nowhere is not there", gone)
    change(unnamed := copied("unnamed"), base_model_name_or_path=None)
    refused("does not name its base", unnamed)
    change(own := copied("own"), base_model_name_or_path=str(own))
    refused("names itself", own)
    (pickled := copied("pickled")).joinpath("adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    refused("no adapter_model.safetensors", pickled)
    weights = load_file((strange := copied("strange")) / "adapter_model.safetensors")
    renamed = {name.replace("layers.0", "layers.9"): value for name, value in weights.items()}
    save_file(renamed, strange / "adapter_model.safetensors")
    refused("does not fit its base", strange)
    (broken := copied("broken")).joinpath("adapter_config.json").write_text("{")
    refused("adapter_config.json cannot be read", broken)
    soft = tmp_path / "soft"
    get_peft_model(plain(model), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)).save_pretrained(soft)
    refused("PROMPT_TUNING adapter cannot be folded", soft)


# --- numbers that are none --------------------------------------------------------------------------------------------


def spoiled(model: str, folder: Path, name: str, value: float) -> Path:
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    weights[name][5] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("command", ["evaluate", "sample", "train", "compare"])
def test_a_model_with_a_weight_that_is_no_number_is_refused_by_every_command(
    command: str,
    value: float,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = str(spoiled(model, tmp_path / "bad", "lm_head.weight", value))
    data = tmp_path / "data.jsonl"
    data.write_text(
        '{"prompt": "a b", "chosen": "c", "rejected": "d"}\n{"prompt": "a", "chosen": "c", "rejected": "d"}\n'
    )
    arguments = {
        "evaluate": ["evaluate", bad, "--reference", model, "--data", str(data)],
        "sample": ["sample", bad, "--prompt", "a b"],
        "train": ["train", "dpo", "--beta", ".1", "--model", bad, "--data", str(data), "--out", str(tmp_path / "o")],
        "compare": ["compare", "--methods", "dpo", "--model", bad, "--data", str(data), "--out", str(tmp_path / "o")],
    }
    monkeypatch.setattr("sys.argv", ["preftune", *arguments[command], "--device", "cpu"])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    assert stop.value.code == 2 and "weight lm_head.weight holds values that are not finite" in captured.err
    assert "0.5" not in captured.out and not (tmp_path / "o").exists()


def overflowing(model: str) -> Base:
    """A model whose weights are finite and whose logits are not."""
    base = load_base(model, device=CPU)
    with torch.no_grad():
        base.model.get_output_embeddings().weight.fill_(3e38)
    return base


def test_log_probs_and_samples_that_are_no_numbers_are_refused_where_they_arise(model: str) -> None:
    base = overflowing(model)
    ballots = [TokenBallot((3, 4), ((5,), (6, 7)), (Vote(0, 1, 1),))]
    with pytest.raises(UserError, match=r"2 of 2 log-probs are not finite"):
        vote_table(base.model, ballots, {}, layout=Layout("branch", ""), precision="fp32", micro_tokens=9)
    with pytest.raises(UserError, match="sampling: next-token probabilities are not finite"):
        sample_responses(base.model, [(3, 4)], stops=[0], samples=1, max_new_tokens=2, seed=0, precision="fp32")


def test_training_that_leaves_the_numbers_stops_and_says_so(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finite"):
        run(model, tmp_path / "out", lr=1e30, steps=5)
    assert not (tmp_path / "out" / "run.json").exists()
