"""Tiny random models and word-level tokenizers, made on the spot: what the tests train and score."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

SPECIAL = ("<eos>", "<pad>", "<unk>")
WORDS = [f"w{i}" for i in range(20)]
WINDOW = 6  # of the sliding attention: shorter than the tests' prompts

ARCHITECTURES = ("llama", "qwen3", "gemma3", "mistral", "gpt2", "gpt-neox")


def tiny_tokenizer(words: Sequence[str], chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word (split at white space), `<eos>` 0, `<pad>` 1 and `<unk>` 2."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_config(architecture: str, vocab: int) -> PretrainedConfig:
    """Two layers, four heads, hidden size 32."""
    ends = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    if architecture == "gpt2":
        return GPT2Config(vocab_size=vocab, n_embd=32, n_layer=2, n_head=4, n_positions=128, **ends)
    common = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        **ends,
    }
    shared_heads = {**common, "num_key_value_heads": 2}
    makers = {
        "llama": lambda: LlamaConfig(**shared_heads),
        "qwen3": lambda: Qwen3Config(**shared_heads, head_dim=8),
        "gemma3": lambda: Gemma3TextConfig(
            **shared_heads, head_dim=8, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"]
        ),
        "mistral": lambda: MistralConfig(**shared_heads, sliding_window=WINDOW),
        "gpt-neox": lambda: GPTNeoXConfig(**common),
    }
    return makers[architecture]()


def tiny_model(architecture: str, vocab: int, seed: int = 0, std: float = 0.25) -> PreTrainedModel:
    """A random model whose weights are large enough that a wrong mask or position shows in its log-probs."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(architecture, vocab), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, std)
    return model.eval()


def tiny_llama(folder: Path, words: Sequence[str], seed: int = 0, std: float = 0.25) -> str:
    """Save a tiny Llama with a tokenizer of those words; returns the folder's name, as `--model` takes it."""
    tokenizer = tiny_tokenizer(words)
    tiny_model("llama", len(tokenizer), seed, std).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
