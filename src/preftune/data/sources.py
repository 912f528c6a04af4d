"""What `--data` names becomes tables: a file, a folder of files, or a data set on the hub.

A folder is one that `datasets` saved, or a copy of a hub repository: its files are shards of splits, which are chosen
by `FOLDER:SPLIT` where there are several.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from .containers import Table, one_line, open_table, wanted

HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+){0,2}")
FILE_NAME = re.compile(r"\.(jsonl|ndjson|json|csv|tsv|parquet|arrow|txt)(\.gz)?$|\.gz$", re.IGNORECASE)
SHARD = re.compile(r"[-_.]?\d{4,}(-of-\d+)?(-[0-9a-f]{8,})?$")
BESIDE = {"state.json", "dataset_info.json", "dataset_dict.json", "dataset_infos.json", "metadata.json", "config.json"}
SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")


def open_tables(source: str | Path, also: frozenset[str] = frozenset()) -> list[Table]:
    """The rows of a file, of each file of a folder, or of a hub data set; `also` are columns to read in any case."""
    name = str(source)
    if isinstance(source, str) and _names_a_data_set(source):
        return [_from_hub(source, also)]
    path, choice = Path(source), ""
    if not os.path.exists(name) and ":" in name and os.path.isdir(name.split(":")[0]):
        name, _, choice = name.partition(":")
        path = Path(name)
    if not _is_folder(path):
        return [open_table(path, name, also)]
    return [open_table(file, str(file), also) for file in _shards(path, name, choice)]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except ValueError:
        return False


def _shards(folder: Path, name: str, choice: str) -> list[Path]:
    """The files of the split that was chosen, or of the only one."""
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if FILE_NAME.search(file.name) and file.name not in BESIDE and not _is_hidden(file.relative_to(folder))
    ]
    files = [file for file in files if file.suffix.lower() != ".txt" and not file.name.startswith("cache-")]
    if not files:
        raise UserError(f"{name}: is a folder without a data file (JSONL, JSON, CSV, Parquet or Arrow); name a file")
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_split_of(file.relative_to(folder)), []).append(file)
    if choice not in splits and (choice or len(splits) > 1):
        options = ", ".join(f"{name}:{split}" for split in splits)
        raise UserError(f"{name}: {f'has no {choice!r}; ' if choice else 'holds several parts; '}choose one: {options}")
    return splits[choice] if choice else next(iter(splits.values()))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _split_of(file: Path) -> str:
    """The name of the split that a shard is of, after that of its configuration if it has one."""
    stem = SHARD.sub("", re.sub(FILE_NAME, "", file.name))
    stem = stem if stem not in ("data", "dataset", "part", "shard") else ""
    folders = [part for part in file.parts[:-1] if part not in ("data", "default")]
    known = next((split for split in SPLITS if re.search(rf"(^|[-_.]){split}($|[-_.])", stem)), "")
    parts = [*folders, known or stem]
    return ":".join(part for part in parts if part) or "train"


def _names_a_data_set(source: str) -> bool:
    """Whether it reads `owner/name`, with `:configuration` or `:split` or both, and nothing here goes by that name."""
    if not HUB_NAME.fullmatch(source) or FILE_NAME.search(source):
        return False
    bare = source.split(":")[0]
    return not os.path.exists(source) and not os.path.exists(bare) and not os.path.isdir(source.split("/")[0])


def _from_hub(source: str, also: frozenset[str]) -> Table:
    """The rows of a hub data set. Cached ones are read without a network when HF_HUB_OFFLINE=1."""
    import huggingface_hub

    name, *chosen = source.split(":")
    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            huggingface_hub.dataset_info(name, timeout=10)  # fails at once where load_dataset retries for long
        splits = _loaded(name, chosen)
    except UserError:
        raise
    except Exception as error:  # the libraries below raise of their own, OSError, ValueError and more
        raise UserError(
            f"{source}: neither a file here nor a data set that the hub gives ({one_line(error)}); without a network, "
            "HF_HUB_OFFLINE=1 reads a cached copy"
        ) from None
    if len(splits) != 1:
        raise UserError(f"{source}: choose a split: {', '.join(f'{source}:{split}' for split in splits)}")
    return Table(source, ", row ", _numbered(source, next(iter(splits.values())), also))


def _loaded(name: str, chosen: list[str]) -> dict[str, Any]:
    """The splits that were chosen, as NAME, NAME:SPLIT, NAME:CONFIGURATION or NAME:CONFIGURATION:SPLIT."""
    import datasets

    try:
        data = _load(datasets, name, chosen)
    except ValueError as error:
        configurations = re.findall(r"'([\w.-]+)'", str(error).partition("available config")[2])
        if "Config name is missing" in str(error) and configurations and not chosen:
            options = ", ".join(f"{name}:{one}" for one in configurations)
            raise UserError(f"{name}: holds several configurations; choose one: {options}") from None
        if len(chosen) != 1:
            raise
        data = datasets.load_dataset(name, chosen[0], split=None)  # it was no split: a configuration
    return dict(data) if isinstance(data, dict) else {"": data}


def _load(datasets: Any, name: str, chosen: list[str]) -> Any:
    if len(chosen) == 2:
        return datasets.load_dataset(name, chosen[0], split=chosen[1])
    return datasets.load_dataset(name, split=chosen[0] if chosen else None)


def _numbered(source: str, data: Any, also: frozenset[str]) -> Iterator[tuple[int, object]]:
    yield from enumerate(data.select_columns(wanted(source, data.features.arrow_schema, also)), 1)
