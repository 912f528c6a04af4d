"""A tiny model as a GGUF file, written here from a model that we know."""

from pathlib import Path

import gguf
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

TOKENS = ["<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz.,AB", "Ġ", "ab", "Ġab"]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def gguf_model(positions: int = 64) -> PreTrainedModel:
    """A random model of those tokens."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
    )
    return Qwen2ForCausalLM(config).eval()


def write_gguf(model: PreTrainedModel, path: Path, *, without: str = "") -> Path:
    """The model in float32 under GGUF's names, with a byte-level tokenizer and a chat template."""
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(TOKENS) - 1))
    writer.add_token_merges(["a b", "Ġ ab"])
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name != without:
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
