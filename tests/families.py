"""Tokenizers with the settings of well-known families, made small, each with a template of the same structure."""

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from tiny import tiny_config
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "data" / "templates"
FAMILIES = ("llama_3", "qwen_3", "gemma_3", "mistral", "mistral_v1", "smollm")
CORPUS = [
    "the film was good, and a good day it was\n\n",
    "user assistant model system hello there",
    "think about it: call a tool, name, arguments. ",
    "start header end turn INST im",
] * 5
SPECIALS = {
    "llama_3": ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "qwen_3": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "gemma_3": ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    "mistral": ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
    "mistral_v1": ("<unk>", "<s>", "</s>"),
    "smollm": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
}
ENDS = {
    "llama_3": "<|eot_id|>",
    "qwen_3": "<|im_end|>",
    "gemma_3": "<eos>",
    "mistral": "</s>",
    "mistral_v1": "</s>",
    "smollm": "<|im_end|>",
}
BEGINS = {"llama_3": "<|begin_of_text|>", "gemma_3": "<bos>", "mistral": "<s>", "mistral_v1": "<s>"}
CONTENT = ("<think>", "</think>", "<tool_call>", "</tool_call>")  # Qwen's: added, not special
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def template(name: str) -> str:
    """The text of a template in the tests' folder."""
    return (TEMPLATES / f"{name.removesuffix('_v1')}.jinja").read_text(encoding="utf-8")


@cache
def family(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer of that family with its template."""
    backend = _sentencepiece(name) if name in ("gemma_3", "mistral", "mistral_v1") else _byte_level(name)
    if name == "qwen_3":
        backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in CONTENT])
    begin = BEGINS.get(name)
    if begin:
        front = [(begin, backend.token_to_id(begin))]
        backend.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=front)
    unknown = "<unk>" if "<unk>" in SPECIALS[name] else None
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=ENDS[name],
        bos_token=begin,
        unk_token=unknown,
        chat_template=template(name),
        clean_up_tokenization_spaces=False,
    )


def _byte_level(name: str) -> Tokenizer:
    backend = Tokenizer(models.BPE(ignore_merges=name == "llama_3"))
    if name == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
        steps = [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    if name == "qwen_3":
        backend.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS[name]])
    return backend


def _sentencepiece(name: str) -> Tokenizer:
    learned, merges = _learned()
    pieces = [*SPECIALS[name], *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if name == "gemma_3":
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    else:
        steps.append(decoders.Strip(" ", 1, 0))
    if name == "mistral":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    elif name == "mistral_v1":  # a space before every text between control tokens
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS[name]])
    return backend


@cache
def _learned() -> tuple[Sequence[str], Sequence[tuple[str, str]]]:
    """Pieces and merges of a BPE with `▁` for a space."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    trainer = trainers.BpeTrainer(vocab_size=120, show_progress=False)
    trained.train_from_iterator([text.strip() for text in CORPUS], trainer)
    pieces = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    cuts = [(piece[:i], piece[i:], piece) for piece in pieces for i in range(1, len(piece))]
    return pieces, [(a, b) for a, b, piece in cuts if {a, b, piece} <= set(pieces)]


def save_model(folder: Path, name: str, chat_template: str | None = None) -> str:
    """Save a tiny Llama with a family's tokenizer, perhaps with another template; returns the folder's name."""
    tokenizer = copy.deepcopy(family(name))
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    config = tiny_config("llama", len(tokenizer))
    config.max_position_embeddings = 512
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
