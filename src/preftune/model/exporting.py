"""What a policy is worth as it was written down: the weights in its files against the live ones, on a few ballots.

A policy beside a base in few bits is an adapter and that base. Written down as one plain model it is another
arithmetic: how far it is from what was trained is measured, and said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import linear

from ..console import say
from ..data import TokenBallot
from .frozen import FrozenLinear, base_of, frozen_layers
from .layout import Layout
from .logprobs import response_logprobs
from .policy import Policy, alone

BALLOTS = 4  # that the difference is measured on


def measure_export(
    policy: Policy, folder: Path, ballots: Sequence[TokenBallot], layout: Layout, merged_into: str
) -> dict[str, Any]:
    """How far the log-probs of `folder/policy` are from those of the policy that was trained, in nats a response, in
    float32; nothing for one that is written as it was trained.

    One layer at a time is read from the files: the plain model need not fit into memory.
    """
    base = base_of(policy.model)
    if base == "fp32" or not ballots:
        return {}
    found: dict[str, Any] = {"base": base, "merged_into": merged_into}
    device = next(policy.model.parameters()).device
    parts = [layout.lay_out([ballot]).to(device) for ballot in ballots[:BALLOTS]]
    try:
        with torch.no_grad():
            live = torch.cat([response_logprobs(policy.model, part) for part in parts])
            with as_written(policy.model, folder / "policy"):
                written = torch.cat([response_logprobs(policy.model, part) for part in parts])
    except KeyError as name:  # the architecture is written under other names than it has
        say(f"policy/ was not compared with the trained policy: it has no weight {name}")
        return found | {"responses": 0}
    apart = (written - live).abs()
    found |= {"responses": len(apart)}
    found |= {"mean_nats": float(apart.mean()), "most_nats": float(apart.max())}
    weights = f"the {base} base" if merged_into == "base" else "the original weights"
    distance = f"are {found['mean_nats']:.2g} nats (at most {found['most_nats']:.2g}) from those of the trained policy"
    told = distance if found["most_nats"] else "equal those of the trained policy"
    say(f"policy/ is {weights} and the adapter as float32: log-probs of {len(apart)} responses {told}")
    return found


@contextmanager
def as_written(model: Any, folder: Path) -> Iterator[None]:
    """Within it the model computes with the weights that lie in the folder, and without its adapters."""
    head = model.get_output_embeddings()
    layers = {path.removesuffix(".base_layer"): one for path, one in frozen_layers(model).items() if one is not head}
    inside = {id(parameter) for layer in layers.values() for parameter in layer.parameters()}
    plain = {name: p for name, p in model.named_parameters() if id(p) not in inside and ".lora_" not in name}
    before = {name: parameter.data for name, parameter in plain.items()}
    with ExitStack() as stack:
        homes = {name: file for file in _opened(folder, stack) for name in file.keys()}  # noqa: SIM118
        try:
            for name, parameter in plain.items():
                at = name.replace(".base_layer", "")
                parameter.data = homes[at].get_tensor(at).to(parameter.device)
            for name, layer in layers.items():
                layer.forward = partial(_read_product, layer, homes, name)  # type: ignore[method-assign]
            with alone(model):
                yield
        finally:
            for name, parameter in plain.items():
                parameter.data = before[name]
            for layer in layers.values():
                vars(layer).pop("forward", None)


def _opened(folder: Path, stack: ExitStack) -> list[Any]:
    return [stack.enter_context(safe_open(path, "pt")) for path in sorted(folder.glob("*.safetensors"))]


def _read_product(layer: FrozenLinear, homes: Mapping[str, Any], name: str, x: Tensor) -> Tensor:
    """The layer's product with the weight and the bias that lie in the file."""
    weight, bias = f"{name}.weight", f"{name}.bias"
    read = {at: homes[at].get_tensor(at).to(x.device) for at in (weight, bias) if at in homes}
    return linear(x, read[weight], read.get(bias))
