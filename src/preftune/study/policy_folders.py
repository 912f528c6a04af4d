"""Policies loaded again from their folders: as they were written down, or as an adapter beside a base in few bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ..errors import UserError
from ..model import Base, Policy, Workbench, load_adapter, load_base, pick_device
from .folders import PolicyFolder


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
