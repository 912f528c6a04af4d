"""A Bradley–Terry reward model in use: a score of every response of a batch, whatever the model was fitted to.

Four kinds answer alike. `frozen`: a linear map of a middle layer of the base model. `lora`: an adapter and a head
beside the base model, which stays one in memory. `full` and `folder`: a sequence classifier with one label, ours or
anybody's. Scores are centred and never scaled, unless a folder asks for it: the Bradley–Terry scale is what makes β
mean the same in every method.

Shapes: B responses, D hidden size.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from ..console import track
from ..data import BranchBatch, TextFormat, TokenBallot, padded_layout
from ..errors import UserError
from ..evidence import write_json
from ..text import excerpt
from .attention import use_branch_attention, use_stock_attention
from .classifiers import check_tokenizer, load_classifier
from .engine import ranks
from .features import last_states, pooled_states
from .layout import Layout
from .loading import Base, check_vocabulary, load_form, reads_at_most, weights_hash
from .logprobs import check_finite
from .policy import Reference
from .saving import check_saved, whole_folder
from .starts import loading
from .workbench import Workbench

TENSORS, RECORD = "reward.safetensors", "reward.json"
SCORE = "score.weight"


class Reward(Protocol):
    """What scores sampled token ids: one number in nats for every response of a batch, and a hash of what it is."""

    @property
    def sha256(self) -> str: ...
    def scores(self, batch: BranchBatch) -> Tensor: ...


@dataclass(frozen=True)
class RewardModel:
    """Scores of responses under Pr(a ≻ b) = σ(score_a − score_b).

    `kind` is `frozen`, `lora`, `full` or `folder`; `sha256` identifies weights, head and centre; `center` is the mean
    score of samples of the reference, taken off every score; `info` is what was recorded when it was fitted. Of a
    `frozen` one `linear` is the layer and the weights `[D]`, for those who have stored that layer's features. `reads`
    is how many tokens one with weights of its own reads at most, where it has a limit.
    """

    kind: str
    sha256: str
    center: float
    info: Mapping[str, Any]
    form: TextFormat
    raw: Callable[[BranchBatch], Tensor]
    linear: tuple[int, Tensor] | None = None
    reads: int | None = None

    @torch.no_grad()
    def scores(self, batch: BranchBatch) -> Tensor:
        """Centred score of every response, in nats, float32, `[B]`; one forward pass over the batch as it is.

        Raises UserError, naming the response, for a score that is not finite.
        """
        scores_B = self.raw(batch) - self.center
        if not bool(scores_B.isfinite().all()):
            worst = int((~scores_B.isfinite()).nonzero()[0])
            text = self.form.text(batch.target_N[batch.branch_N == worst].tolist())
            raise UserError(f"--reward: the score of a response is {float(scores_B[worst])}: {excerpt(text)}")
        return scores_B


def load_reward(
    folder: str | Path, base: Base, *, layout: Layout, precision: str, device: torch.device, chats: bool = True
) -> RewardModel:
    """A reward model from a folder that `train reward` left, or that transformers loads as a sequence classifier.

    It scores batches of `base`'s tokens in either layout. A LoRA reward of this very base adds nothing but its adapter
    to memory; any other folder is a model of its own, run in `layout` where its architecture is the base's, else
    padded. Its config may say where 0 is (`score_center`, `mean`) and what the unit is (`std`).

    Raises UserError for no such folder, no linear score head or several labels, a tokenizer other than the base's, a
    chat template other than the base's where `chats` are to be scored, or frozen features of another model.
    """
    path = Path(folder)
    path = path / "reward" if (path / "reward").is_dir() else path
    if not (path / RECORD).is_file() and not (path / "config.json").is_file():
        raise UserError(f"--reward {folder}: no reward model there (train reward makes one, or name a local folder)")
    record = _read_record(path, f"--reward {path}")
    beside = record.get("model") == base.sha256
    if record.get("kind") == "frozen" and not beside:
        raise UserError(f"--reward {folder}: it reads the features of another model ({record.get('name')})")
    if record.get("kind") == "lora" and beside and not _is_scaled(path):
        check_tokenizer(path, base, chats=chats)
        with loading(f"--reward {folder}: {RECORD} or {TENSORS} is not whole"):
            return _load_lora(path, record, base, precision)
    if record.get("kind") == "frozen":
        with loading(f"--reward {folder}: {RECORD} or {TENSORS} is not whole"):
            return _load_frozen(path, record, base, precision)
    return _load_folder(path, record, base, layout, precision, device, chats)


def _read_record(path: Path, where: str) -> dict[str, Any]:
    if not (path / RECORD).is_file():
        return {}
    try:
        record: dict[str, Any] = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {RECORD} is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: {RECORD} should be a JSON object")
    return record


def made_from(folder: str | Path) -> str:
    """The SHA-256 of the model that a reward folder was fitted on, as its record has it; "" where there is none."""
    path = Path(folder)
    path = path / "reward" if (path / "reward").is_dir() else path
    return str(_read_record(path, f"--reward {path}").get("model", ""))


def _is_scaled(path: Path) -> bool:
    """Whether the folder of an adapter asks for another unit than that of its scores."""
    with loading(f"--reward {path}: config.json cannot be read"):
        return not {"mean", "std"}.isdisjoint(json.loads((path / "config.json").read_text(encoding="utf-8")))


def _content_hash(path: Path, record: Mapping[str, Any]) -> str:
    identity = json.dumps([record[key] for key in ("kind", "model", "center")])
    return hashlib.sha256(identity.encode() + (path / TENSORS).read_bytes()).hexdigest()


# --- frozen features -------------------------------------------------------------------------------------------------


def save_frozen(
    folder: Path, weight_D: Tensor, *, layer: int, center: float, base: Base, info: Mapping[str, Any]
) -> None:
    """Write a linear score of the features after `layer` blocks of the base model."""
    own = {"kind": "frozen", "model": base.sha256, "name": base.name, "layer": layer, "center": center}
    with whole_folder(folder) as place:
        save_file({SCORE: weight_D[None].contiguous()}, place / TENSORS)
        write_json(place / RECORD, {**own, "info": dict(info)})


def _load_frozen(path: Path, record: Mapping[str, Any], base: Base, precision: str) -> RewardModel:
    weight_D = load_file(path / TENSORS)[SCORE][0].to(base.device)
    layer = int(record["layer"])

    def raw(batch: BranchBatch) -> Tensor:
        with Reference(base).alone() as model:
            return pooled_states(model, batch, layer, precision) @ weight_D

    sha256, linear = _content_hash(path, record), (layer, weight_D)
    return RewardModel("frozen", sha256, record["center"], record["info"], base.form, raw, linear)


# --- an adapter beside the base --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Delta:
    """The change that a LoRA adapter makes to linear layers: y ← y + scale·(x Aᵀ) Bᵀ, by the layer's name.

    It is applied by hooks on the layers of the base model themselves, so it does not matter which adapters come and go
    around them.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]  # A [rank, in], B [out, rank]
    scale: float

    @contextmanager
    def on(self, reference: Reference) -> Iterator[PreTrainedModel]:
        """The model as it was loaded, with this adapter."""
        with reference.alone() as model, ExitStack() as hooks:
            for name, (a, b) in self.factors.items():
                layer = model.get_submodule(name)
                plain = layer.get_base_layer() if isinstance(layer, LoraLayer) else layer
                hook = plain.register_forward_hook(
                    lambda module, inputs, output, a=a, b=b: output + linear(linear(inputs[0], a), b) * self.scale
                )
                hooks.callback(hook.remove)
            yield model


def delta_of(model: nn.Module, name: str = "default") -> Delta:
    """The adapter of that name inside a model, as tensors."""
    layers: dict[str, Any] = {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer)}
    factors = {
        path: (layer.lora_A[name].weight.detach().clone(), layer.lora_B[name].weight.detach().clone())
        for path, layer in layers.items()
    }
    return Delta(factors, float(next(iter(layers.values())).scaling[name]))


def _load_lora(path: Path, record: Mapping[str, Any], base: Base, precision: str) -> RewardModel:
    tensors = {name: value.to(base.device) for name, value in load_file(path / TENSORS).items()}
    weight_D = tensors.pop(SCORE)[0]
    names = sorted({name.rpartition(".")[0] for name in tensors})
    delta = Delta({name: (tensors[f"{name}.lora_A"], tensors[f"{name}.lora_B"]) for name in names}, record["scale"])

    def raw(batch: BranchBatch) -> Tensor:
        with delta.on(Reference(base)) as model:
            return last_states(model, batch, precision) @ weight_D

    return RewardModel("lora", _content_hash(path, record), record["center"], record["info"], base.form, raw)


# --- a folder that transformers loads --------------------------------------------------------------------------------


def classifier_class(base: Base) -> Any:
    """The sequence classifier of the base's architecture. Raises UserError if transformers has none."""
    found = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(base.model.config), None)
    if found is None:
        name = type(base.model).__name__
        raise UserError(f"--model: transformers has no sequence classifier for {name}; use --kind frozen")
    return found


def save_classifier(
    folder: Path,
    decoder: Mapping[str, Tensor],
    head_D: Tensor,
    *,
    base: Base,
    center: float,
    kind: str,
    info: Mapping[str, Any],
    delta: Delta | None = None,
) -> None:
    """Write a score as a folder that `AutoModelForSequenceClassification` loads; its output is the raw score.

    `decoder` are the weights of the trunk, an adapter already folded in; `delta` is that adapter, for those who have
    the base model in memory. The centre is `score_center` in the config.
    """
    config = copy.deepcopy(base.model.config)
    config.num_labels, config.score_center = 1, center
    config.pad_token_id = pad_token(base.form)
    model = classifier_class(base)(config)
    model.get_decoder().load_state_dict(decoder)
    with torch.no_grad():
        model.score.weight.copy_(head_D[None])
    with whole_folder(folder) as place:
        model.save_pretrained(place)
        prefix = next(name for name, module in model.named_modules() if module is model.get_decoder())
        check_saved(place, {f"{prefix}.{name}": value for name, value in decoder.items()}, type(model))
        tokenizer = copy.deepcopy(base.tokenizer)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
        tokenizer.save_pretrained(place)
        own: dict[str, Any] = {"kind": kind, "model": base.sha256, "name": base.name, "center": center}
        if delta is not None:
            parts = {f"{name}.lora_{x}": v for name, ab in delta.factors.items() for x, v in zip("AB", ab, strict=True)}
            save_file({SCORE: head_D[None].contiguous(), **parts}, place / TENSORS)
            own["scale"] = delta.scale
        write_json(place / RECORD, {**own, "info": dict(info)})


def pad_token(form: TextFormat) -> int:
    """A token that ends no response: transformers' classifier reads the score before the padding, told by its id.

    The tokenizer's pad token, unless that is also its end-of-text; else another special token; else the byte 0xFF,
    which text in UTF-8 never holds; else the last of the vocabulary.
    """
    tokenizer, vocabulary = form.tokenizer, form.tokenizer.get_vocab()
    named = [tokenizer.pad_token_id, tokenizer.unk_token_id, *sorted(form.specials())]
    byte = [vocabulary.get("<0xFF>"), vocabulary.get("ÿ"), max(vocabulary.values())]
    return int(next(token for token in (*named, *byte) if token is not None and token not in form.stops))


def _load_folder(
    path: Path, record: Mapping[str, Any], base: Base, layout: Layout, precision: str, device: torch.device, chats: bool
) -> RewardModel:
    model, center, scale = load_classifier(path, f"--reward {path}")
    check_tokenizer(path, base, chats=chats)
    model.to(device).requires_grad_(False)
    as_base = _attends_alike(model.config, base.model.config) and layout.name != "padded"
    if not (as_base and layout.name == "branch" and use_branch_attention(model)):
        use_stock_attention(model)
    weight_D: Tensor = model.score.weight.detach()[0]

    def raw(batch: BranchBatch) -> Tensor:
        mine = (batch if batch.plan is None or as_base else padded(batch)).to(device)
        return last_states(model, mine, precision) @ weight_D / scale

    kind, info = record.get("kind", "folder"), record.get("info", {})
    return RewardModel(kind, weights_hash(model), center / scale, info, base.form, raw, reads=reads_at_most(model))


def load_scorer(folder: Path, *, precision: str, device: torch.device, where: str) -> RewardModel:
    """A reward model on its own, from a folder that transformers loads as a sequence classifier: it reads the tokens of
    its own tokenizer, each response as a sequence of its own (`padded`).

    Raises UserError, beginning with `where`, as `load_reward` does, for frozen features, which are those of another
    model, and for a folder without a tokenizer, or with one that has more tokens than the model's embedding.
    """
    path = folder / "reward" if (folder / "reward").is_dir() else folder
    record = _read_record(path, where)
    if record.get("kind") == "frozen":
        raise UserError(f"{where}: it reads the features of a model ({record.get('name')}), and scores nothing alone")
    if not (path / "config.json").is_file():
        raise UserError(f"{where}: no reward model there (a folder that transformers loads as a sequence classifier)")
    model, center, scale = load_classifier(path, where)
    form = load_form(str(path), where=where)
    check_vocabulary(model, form.tokenizer, where)
    model.to(device).requires_grad_(False)
    use_stock_attention(model)
    weight_D: Tensor = model.score.weight.detach()[0]

    def raw(batch: BranchBatch) -> Tensor:
        return last_states(model, padded(batch).to(device), precision) @ weight_D / scale

    kind, info = record.get("kind", "folder"), record.get("info", {})
    return RewardModel(kind, weights_hash(model), center / scale, info, form, raw, reads=reads_at_most(model))


def _attends_alike(config: Any, other: Any) -> bool:
    """Whether what was found out about the layouts of one model holds for another."""
    mine, its = config.get_text_config(), other.get_text_config()
    return all(
        getattr(mine, name, None) == getattr(its, name, None)
        for name in ("model_type", "layer_types", "sliding_window")
    )


def padded(batch: BranchBatch) -> BranchBatch:
    """The same responses in the padded layout, for a model that cannot take the branch layout."""
    if batch.plan is None:
        return batch
    ids, segments = batch.ids_RT[0].tolist(), batch.plan.segment_T.tolist()
    ballots = []
    for start, middle, stop in batch.plan.spans:
        responses: list[list[int]] = [[] for _ in range(segments[stop - 1])]
        for token, segment in zip(ids[middle:stop], segments[middle:stop], strict=True):
            responses[segment - 1].append(token)
        ballots.append(TokenBallot(tuple(ids[start:middle]), tuple(map(tuple, responses)), ()))
    return padded_layout(ballots).to(batch.ids_RT.device)


@torch.no_grad()
def score_ballots(
    score: Callable[[BranchBatch], Tensor],
    ballots: Sequence[TokenBallot],
    bench: Workbench,
    micro_tokens: int,
    model: nn.Module | None = None,
) -> list[list[float]]:
    """Scores of the responses of each ballot, in micro-batches; `model` is what the score asks, by default the base.

    Raises UserError for one that is not finite.
    """
    found: dict[int, list[float]] = {}

    def scores_of(group: Sequence[int]) -> list[float]:
        scores_B = score(bench.layout.lay_out([ballots[i] for i in group]).to(bench.base.device))
        check_finite(scores_B, "scores", bench.base.model)
        scores: list[float] = scores_B.tolist()
        return scores

    groups = bench.layout.groups(ballots, micro_tokens)
    results = ranks().shared(model or bench.base.model, groups, scores_of)
    for group in track(groups, "scores"):
        values = iter(next(results))
        found |= {i: [next(values) for _ in ballots[i].responses] for i in group}
    return [found[i] for i in range(len(ballots))]
