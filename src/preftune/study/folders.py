"""Folders of policies that exist already: what they say of themselves, and whether they can be met together.

No torch: a mistake is answered at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evidence import read_record
from ..model import BASES
from .limits import check_asked, check_precision


@dataclass(frozen=True)
class PolicyFolder:
    """Where a policy lies, what to call it, and what it was trained from (nothing, for a plain model)."""

    path: Path
    name: str
    record: dict[str, Any]

    @property
    def base(self) -> str:
        """How the base was kept that it was trained beside."""
        return str(self.record.get("settings", {}).get("base", "fp32"))

    @property
    def is_adapter(self) -> bool:
        """Whether it is what was trained only beside such a base in few bits; else as it was written down."""
        return self.base != "fp32" and self.record["settings"].get("merge_into", "base") == "base"


def find_policy(folder: str) -> PolicyFolder:
    """A run's folder, or any model folder. Raises UserError if it is neither."""
    path = Path(folder)
    if (path / "run.json").is_file() and (path / "policy" / "config.json").is_file():
        return PolicyFolder(path / "policy", path.name, _record(path / "run.json"))
    if (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
        return PolicyFolder(path, path.name, {})
    raise UserError(f"{folder}: no trained policy there (a run leaves policy/ and run.json); name a run's folder")


def _record(path: Path) -> dict[str, Any]:
    """What a run says of itself. Raises UserError where it does not say what evaluation goes by."""
    record = read_record(path)
    start: Any = record.get("reference")
    settings: Any = record.get("settings", {})
    told = isinstance(start, dict) and isinstance(settings, dict) and isinstance(record.get("model", {}), dict)
    told = told and all(type(start.get(name)) is str for name in ("name", "sha256"))
    told = told and type(settings.get("template_options", "")) is str and settings.get("base", "fp32") in BASES
    told = told and settings.get("reduction", "sum") in ("sum", "mean")
    kinds = {"arm": (str,), "method": (str,), "beta": (int, float, type(None)), "seed": (int,), "chat": (bool,)}
    if not told or any(type(record[name]) not in kinds[name] for name in kinds.keys() & record.keys()):
        raise UserError(f"{path}: is no record of a run; name a folder that train or compare left")
    return record


def common_reference(folders: Sequence[PolicyFolder], named: str | None, command: str = "evaluate") -> str:
    """The reference that is named, or the one that all policies were trained from. Raises UserError without one."""
    if named:
        return named
    models = {
        folder.record["reference"]["sha256"]: folder.record["reference"]["name"] for folder in folders if folder.record
    }
    if len(models) != 1:
        why = (
            "they were trained from different models"
            if models
            else "the folders do not say what they were trained from"
        )
        raise UserError(f"{command}: which reference? {why}; name one with --reference")
    return str(next(iter(models.values())))


def common_options(folders: Sequence[PolicyFolder]) -> str:
    """The options of the chat template that the policies were trained with."""
    options = {folder.record.get("settings", {}).get("template_options", "") for folder in folders if folder.record}
    if len(options) > 1:
        told = " and ".join(sorted(repr(one) for one in options))
        raise UserError(f"evaluate: the policies were trained with {told}; name one of them with --template-options")
    return next(iter(options), "")


def common_base(folders: Sequence[PolicyFolder], command: str = "evaluate") -> str:
    """How the base was kept that the policies were trained beside."""
    bases = {folder.base for folder in folders if folder.record}
    if len(bases) > 1:
        told = " and ".join(sorted(bases))
        raise UserError(f"{command}: the policies were trained beside {told} bases; name the reference's with --base")
    return next(iter(bases), "fp32")


def settle_folders(
    command: str,
    folders: Sequence[str],
    *,
    reference: str | None = None,
    template_options: str | None = None,
    precision: str = "fp32",
    base: str | None = None,
    samples: int = 1,
    max_new_tokens: int = 1,
    eval_prompts: int = 1,
) -> None:
    """Check what is asked of policies that exist, before anything is loaded. Raises UserError for what the user can
    mend."""
    side_by_side = command == "sample"
    check_asked(samples=samples, max_new_tokens=max_new_tokens, eval_prompts=eval_prompts, least=int(side_by_side))
    check_precision(precision, base or "fp32")
    found = [find_policy(folder) for folder in folders]
    if not side_by_side:
        common_reference(found, reference, command)
        if template_options is None:
            common_options(found)
        if base is None:
            common_base(found, command)
