"""A GGUF file becomes the same model as a plain folder. The file is written here, from a model that we know."""

from pathlib import Path

import pytest
import torch
from tiny_gguf import TEMPLATE, TOKENS, gguf_model, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from preftune.errors import UserError
from preftune.model.gguf import convert_model, load_gguf


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return gguf_model()


@pytest.fixture(scope="module")
def gguf_file(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(model, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


def test_the_loaded_model_gives_the_logits_of_the_one_that_was_written(model: PreTrainedModel, gguf_file: Path) -> None:
    loaded, tokenizer = load_gguf(gguf_file)
    ids = tokenizer("ab, cab abba.", return_tensors="pt").input_ids
    assert tokenizer.convert_ids_to_tokens(ids[0])[:4] == ["ab", ",", "Ġ", "c"]
    torch.testing.assert_close(logits(loaded, ids), logits(model, ids), rtol=0, atol=1e-6)
    assert not loaded.training
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_the_converted_folder_is_a_plain_model_with_tokenizer_and_chat_template(
    model: PreTrainedModel, gguf_file: Path, tmp_path: Path
) -> None:
    folder = convert_model(gguf_file, tmp_path / "plain")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(len(TOKENS))[None]
    torch.testing.assert_close(logits(plain, ids), logits(model, ids), rtol=0, atol=1e-6)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.eos_token_id == 0
    assert not hasattr(plain.config, "quantization_config")
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_a_second_conversion_leaves_the_folder_as_it_is(gguf_file: Path, tmp_path: Path) -> None:
    folder = convert_model(gguf_file, tmp_path / "plain")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    convert_model(tmp_path / "gone.gguf", folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_an_interrupted_conversion_is_done_again(gguf_file: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.partial").mkdir()
    (tmp_path / "plain.partial" / "model.safetensors").write_bytes(b"half")
    folder = convert_model(gguf_file, tmp_path / "plain")
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_what_cannot_be_loaded_is_told_in_one_line(gguf_file: Path, tmp_path: Path) -> None:
    whole = gguf_file.read_bytes()
    other = whole.replace(b"qwen2", b"qwenX")
    for name, content in {"text": b"hello", "empty": b"", "short": whole[: len(whole) // 2], "other": other}.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.gguf.*GGUF") as caught:
            load_gguf(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        load_gguf(tmp_path / "missing.gguf")


def test_a_file_without_all_weights_is_refused_rather_than_filled_at_random(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    path = write_gguf(model, tmp_path / "holes.gguf", without="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(UserError, match=r"holes\.gguf.*lacks weights.*up_proj"):
        load_gguf(path)
