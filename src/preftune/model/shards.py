"""Tensors that several processes hold parts of, on disk: each writes its own part, as safetensors, and any number of
processes reads them again, one too. PyTorch's distributed checkpoint does it (`torch.distributed.checkpoint`)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

WEIGHTS, MOMENTS = "weights/", "moments/"  # what the names of tensors begin with


def write_shards(folder: Path, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
    """Write each process's part. Raises OSError, on all of them, if one of them could not."""
    tensors = {WEIGHTS + name: value for name, value in weights.items()}
    tensors |= {MOMENTS + name: value for name, value in moments.items()}
    try:
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        reasons = [str(failure[0]) for failure in error.failures.values()]
        raise OSError(reasons[0].splitlines()[0] if reasons else str(error)) from None


def read_shards(folder: Path, likes: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights by name and moments by `name/moment`, spread as `likes` are, by however many they were written."""
    reader = HuggingFaceStorageReader(str(folder))
    found: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
    tensors = {key: _room(key, metadata.size, likes) for key, metadata in found.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process reads it: as is meant
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not dist.is_initialized())
    return _named(WEIGHTS, tensors), _named(MOMENTS, tensors)


def _room(key: str, size: torch.Size, likes: Mapping[str, Tensor]) -> Tensor:
    """Where a tensor is read to: spread as the parameter that it belongs to, if it is of its shape."""
    name = key.removeprefix(WEIGHTS) if key.startswith(WEIGHTS) else key.removeprefix(MOMENTS).rpartition("/")[0]
    like = likes[name].detach()
    return torch.zeros_like(like) if like.shape == size else like.new_zeros(size)


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
