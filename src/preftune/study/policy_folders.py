"""Folders of policies: what lies there, what it was trained from, and how it is loaded again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evidence import read_record
from ..model import BASES, Base, Policy, Workbench, load_adapter, load_base, pick_device


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


def load_policy(folder: PolicyFolder, device: str) -> Base:
    """The policy of a folder, as it was written down."""
    return load_base(str(folder.path), device=pick_device(device), where=str(folder.path))


@contextmanager
def met(folder: PolicyFolder, bench: Workbench, device: str) -> Iterator[Policy]:
    """The policy of a folder: an adapter in the workbench's base, if it was trained beside that very base in few bits;
    else as it was written down. The reference is the base itself."""
    adapter = folder.path.parent / "adapter"
    beside = folder.is_adapter and folder.record.get("model", {}).get("sha256") == bench.base.sha256
    if folder.path == Path():
        yield Policy(bench.base.model, bench.base.form)
    elif beside and adapter.is_dir():
        with closing(load_adapter(bench.base, adapter)) as policy:
            policy.model.eval()
            yield policy
    else:
        base = load_policy(folder, device)
        check_tokenizer(base, bench, folder)
        yield Policy(base.model, bench.base.form)


def load_beside(folder: PolicyFolder, base: str, device: str) -> Base:
    """The policy of a folder in a base in few bits, which must be the one that it was trained beside; a plain model as
    such a base."""
    if not folder.record:
        return load_base(str(folder.path), device=pick_device(device), where=str(folder.path), base=base)
    if not folder.is_adapter or folder.base != base:
        kept = f"an {folder.base} base" if folder.is_adapter else "weights as they were written down"
        raise UserError(f"--base {base}: {folder.name} is a policy of {kept}; leave --base out")
    started = folder.record.get("model", {})
    name = started.get("name")
    if type(name) is not str:
        raise UserError(f"{folder.path.parent / 'run.json'}: does not say which model it started from")
    start = load_base(name, device=pick_device(device), where=f"{folder.name}: its base {name}", base=base)
    if start.sha256 != started.get("sha256"):
        raise UserError(f"{folder.name}: its base {name} has other weights now; leave --base out")
    load_adapter(start, folder.path.parent / "adapter").model.eval()
    return start


def check_tokenizer(base: Base, bench: Workbench, folder: PolicyFolder) -> None:
    if base.tokenizer.get_vocab() != bench.base.tokenizer.get_vocab():
        raise UserError(
            f"{folder.path}: its tokenizer differs from the reference's; they cannot be compared token by token"
        )
