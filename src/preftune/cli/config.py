"""The YAML files of settings that a command line names, looked at before the parser takes them in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from ..errors import UserError

FLAG = "--config"
DEEPEST = 20  # lists within lists; settings have one
LARGEST = 1 << 20  # bytes


def check_configs(arguments: Sequence[str]) -> None:
    """Raises UserError for a file of settings that is no text, or that would grow without end when it is read.

    With `&` and `*` a file of a few lines can stand for more than memory holds, or for itself.
    """
    for name in _named(arguments):
        path = Path(name)
        if path.is_dir():
            raise UserError(f"{FLAG} {name}: is a folder; name a YAML file")
        if not path.is_file():
            raise UserError(f"{FLAG} {name}: no such file")
        if path.stat().st_size > LARGEST:
            raise UserError(f"{FLAG} {name}: is larger than 1 MiB; settings are a few lines")
        _check(name, path.read_bytes())


def _named(arguments: Sequence[str]) -> Iterator[str]:
    for place, word in enumerate(arguments):
        if word == FLAG and place + 1 < len(arguments):
            yield arguments[place + 1]
        elif word.startswith(f"{FLAG}="):
            yield word.removeprefix(f"{FLAG}=")


def _check(name: str, content: bytes) -> None:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{FLAG} {name}:{line}: is not UTF-8 text; save it as UTF-8") from None
    depth = 0
    try:
        for event in yaml.parse(text):
            if getattr(event, "anchor", None):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise UserError(f"{FLAG} {name}:{line}: has an anchor or alias (& or *); write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise UserError(f"{FLAG} {name}: is nested more than {DEEPEST} deep; settings are names and values")
    except yaml.YAMLError as error:
        raise UserError(f"{FLAG} {name}: is not YAML ({' '.join(str(error).split())})") from None
