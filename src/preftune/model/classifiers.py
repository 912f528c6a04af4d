"""A reward model that somebody else saved: its head as the checkpoint has it, its scale, its tokenizer and template."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from ..console import say
from ..data import Message, Refused, TextFormat, text_format
from ..errors import UserError
from .loading import Base, check_weights, no_dropout
from .starts import loading

HEAD = re.compile(r"(^|\.)(v_?head|value_?head|reward_?head|rm_?head|critic|value|regression_layer)\.", re.IGNORECASE)
LOOKS = (  # chats that two templates are compared on
    (Message("user", "x"),),
    (Message("system", "s"), Message("user", "x")),
    (Message("user", "x"), Message("assistant", "y"), Message("user", "z")),
)


def load_classifier(path: Path, where: str) -> tuple[PreTrainedModel, float, float]:
    """The model of a reward folder, and the centre and scale of its scores: (score − centre) / scale is the reward.

    The head's shape is the checkpoint's, whatever the configuration says or leaves out. The centre is `score_center` of
    the configuration plus its `mean`, the scale its `std`. Raises UserError, beginning with `where`, for anything but
    one linear score.
    """
    with loading(f"{where}: not a model that can be loaded"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    _check_head(_shapes(path, where), where)
    no_dropout(config)
    config.num_labels = 1
    with loading(f"{where}: not a sequence classifier that can be loaded"):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    if report["missing_keys"] or not isinstance(getattr(model, "score", None), nn.Linear):
        raise UserError(f"{where}: no score head there (a decoder with a linear layer `score`)")
    if model.score.bias is not None:
        raise UserError(f"{where}: its score head has a bias; fold it into score_center in config.json")
    check_weights(model, where)
    model.eval()
    std = _number(config, "std", 1.0, where)
    if std <= 0:
        raise UserError(f"{where}: `std` in config.json is {std:g}; it must be greater than 0")
    return model, _number(config, "score_center", 0.0, where) + _number(config, "mean", 0.0, where), std


def _shapes(path: Path, where: str) -> dict[str, list[int]]:
    """The shapes of the checkpoint's weights, by name."""
    shapes: dict[str, list[int]] = {}
    with loading(f"{where}: its weights cannot be read"):
        for file in path.glob("model*.safetensors"):
            with safe_open(file, "pt") as tensors:
                shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return shapes


def _check_head(shapes: dict[str, list[int]], where: str) -> None:
    """Raises UserError for a head that tells labels apart, or that is one of another kind."""
    if "score.weight" in shapes:
        if (labels := shapes["score.weight"][0]) != 1:
            raise UserError(f"{where}: it tells {labels} labels apart; a reward has one")
        return
    other = next((name for name in shapes if HEAD.search(name)), None)
    if other:
        raise UserError(
            f"{where}: no score head there: its head is `{other}`, a value head; save it as a sequence "
            "classifier with one label (a linear layer `score`)"
        )


def _number(config: Any, name: str, default: float, where: str) -> float:
    value = getattr(config, name, None)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}: `{name}` in config.json is {value!r}, not a finite number")
    return float(value)


def check_tokenizer(path: Path, base: Base, *, chats: bool) -> None:
    """Raises UserError for a reward model that would not read the base's token ids as it was trained to.

    Where it is to score replies in `chats`, its chat template must render them as the base's does.
    """
    with loading(f"--reward {path}: its tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if tokenizer.get_vocab() != base.tokenizer.get_vocab():
        raise UserError(f"--reward {path}: its tokenizer differs from the one of {base.name}; they must share one")
    if tokenizer.chat_template == base.tokenizer.chat_template:
        return
    own = text_format(tokenizer, where=f"--reward {path}")
    if _looks(own) == _looks(base.form):
        return
    if chats:
        raise UserError(
            f"--reward {path}: its chat template renders a chat otherwise than the one of {base.name}, so it would "
            "score text that it was not trained on; take a reward model of the same template, or train one"
        )
    say(f"--reward {path}: its chat template differs from the one of {base.name}; none is used for plain prompts")


def _looks(form: TextFormat) -> list[object]:
    """Ids of some chats and of a reply to each; None for one that the template refuses."""
    looks: list[object] = []
    for chat in LOOKS:
        try:
            looks.append((form.prompt(chat), form.responses(chat, ["y"], [True])))
        except Refused:
            looks.append(None)
    return looks
