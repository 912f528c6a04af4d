"""What a user gets wrong in `train`: one line that names the setting and what to do, and nothing written."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_llama

from preftune.data.ballots import Ballot, Vote
from preftune.errors import UserError
from preftune.study.single import train
from preftune.training.arms import make_recipe, parse_arm, split_arms
from preftune.training.settings import make_settings

WORDS = ["a", "b", "c", "d", "x"]
GOOD = [Ballot("x", ("a", "b"), (Vote(0, 1, 1),)), Ballot("x x", ("a", "c"), (Vote(0, 1, 0.5),))]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))


def refused(reason: str, tmp_path: Path, **change: Any) -> None:
    """`train` with that change is refused for that reason, in one line, and leaves no folder."""
    out = tmp_path / "out"
    right = {"method": "ipo", "ballots": GOOD, "beta": 0.1, "out": out, "steps": 1, "device": "cpu"}
    with pytest.raises(UserError, match=reason) as caught:
        train(**right | change)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method": "ip"}, "unknown method 'ip'; did you mean 'ipo'?"),
        ({"method": "zzz"}, "unknown method 'zzz'; known are dpo, ipo, amortized-ipo, gpo, sft"),
        *(({"beta": beta}, f"--beta {beta}: ipo needs a β greater than 0") for beta in (None, 0, -0.1)),
        *(({"beta": float(beta)}, f"--beta {beta}") for beta in ("nan", "inf")),
        ({"batchsize": 3}, "unknown setting 'batchsize'; did you mean 'batch_size'?"),
        ({"label_smoothing": 0.5}, "--label-smoothing 0.5: must be at least 0 and below 0.5"),
        ({"flip_rate": -0.1}, "--flip-rate -0.1: must be at least 0 and below 0.5"),
        ({"lr": 0.0}, "--lr 0.0: must be greater than 0"),
        ({"lr": float("nan")}, "--lr nan: must be greater than 0"),
        ({"steps": 0}, "--steps 0: must be greater than 0"),
        ({"batch_size": 0}, "--batch-size 0: must be greater than 0"),
        ({"max_length": -4}, "--max-length -4: must be greater than 0"),
        ({"reduction": "avg"}, "--reduction avg: must be one of sum, mean"),
        ({"precision": "fp16"}, "--precision fp16: must be one of fp32, bf16"),
        ({"lora": -1}, "--lora"),
        ({"warmup": 1.5}, "--warmup"),
        ({"eval_fraction": 1.5}, "--eval-fraction 1.5: must be at least 0 and below 1"),
        ({"eval_fraction": -0.5}, "--eval-fraction -0.5"),
    ],
)
def test_a_wrong_setting_is_named_before_the_model_is_even_looked_at(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    refused(reason, tmp_path, **{"model": str(tmp_path / "nowhere"), **change})


def test_a_model_that_is_none_is_refused(model: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused("empty: no model there", tmp_path, model=str(tmp_path / "empty"))
    refused("nowhere", tmp_path, model=str(tmp_path / "nowhere"))
    refused("no such file", tmp_path, model=str(tmp_path / "nowhere.gguf"))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{nonsense")
    refused("broken: not a causal language model", tmp_path, model=str(broken))
    (broken / "config.json").write_text(json.dumps({"model_type": "no-such-architecture"}))
    refused("broken: not a causal language model", tmp_path, model=str(broken))
    for file in Path(model).iterdir():
        if not file.name.endswith(".safetensors"):
            (broken / file.name).write_bytes(file.read_bytes())
    refused("broken: not a causal language model", tmp_path, model=str(broken))
    (broken / "model.safetensors").write_bytes((Path(model) / "model.safetensors").read_bytes()[:5000])
    refused("broken: not a causal language model", tmp_path, model=str(broken))


def test_a_device_that_is_not_there_is_refused(model: str, tmp_path: Path) -> None:
    refused("--device cuda:99: not available", tmp_path, model=model, device="cuda:99")
    refused("--device abacus: not available", tmp_path, model=model, device="abacus")


def test_a_reference_with_another_tokenizer_is_refused(model: str, tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other", [*reversed(WORDS)])
    refused(f"--reference {other}: its tokenizer differs", tmp_path, model=model, reference=other)


def test_data_with_nothing_to_train_on_are_refused_with_the_reasons(model: str, tmp_path: Path) -> None:
    refused("nothing is left to train ipo on.*there are no ballots", tmp_path, model=model, ballots=[])
    refused("a ballot without a vote", tmp_path, model=model, ballots=[Ballot("x", ("a", "b"), ())])
    refused("nothing is left to train sft on.*1 × vote: a tie", tmp_path, model=model, method="sft", ballots=GOOD[1:])
    refused("nothing of the prompt fits", tmp_path, model=model, max_length=1)


def test_a_folder_in_use_is_left_alone(model: str, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="used: is not empty; add --resume"):
        train("ipo", GOOD, model=model, beta=0.1, out=used)
    with pytest.raises(UserError, match="is a file"):
        train("ipo", GOOD, model=model, beta=0.1, out=used / "thesis.txt")
    assert [path.name for path in used.iterdir()] == ["thesis.txt"]
    assert (used / "thesis.txt").read_text() == "precious"


# --- arms ------------------------------------------------------------------------------------------------------------


def test_an_arm_is_a_method_with_its_own_settings() -> None:
    assert split_arms("dpo, ipo[reduction=mean,lr=1e-5],sft") == ["dpo", "ipo[reduction=mean,lr=1e-5]", "sft"]
    arm = parse_arm("ipo[ reduction = mean, lr=1e-5,lora=4, label-smoothing=0.1]")
    assert arm.name == "ipo[label_smoothing=0.1,lora=4,lr=1e-05,reduction=mean]"
    told = {"reduction": "mean", "lr": 1e-5, "lora": 4, "label_smoothing": 0.1, "steps": 7, "flip_rate": 0.2}
    assert arm.recipe(make_settings({"lr": 1.0, "steps": 7}), {"flip_rate": 0.2}) == make_recipe("ipo", told)
    assert parse_arm("dpo").name == "dpo"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ipo[lr=fast]", "lr must be a number, got 'fast'"),
        ("ipo[lora=2.5]", "lora must be a whole number"),
        ("ipo[reduction=max]", "--reduction max"),
        ("ipo[reductoin=mean]", "unknown option 'reductoin'; did you mean 'reduction'?"),
        ("ipo[steps=5]", "unknown option 'steps'"),
        ("ipo[lr]", "option 'lr' has no value; write lr=VALUE"),
        ("ipoo", "unknown method 'ipoo'; did you mean 'ipo'?"),
        ("ipo[lr=1", "is no arm"),
        ("", "is no arm"),
    ],
)
def test_an_arm_that_is_none_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse_arm(text)
