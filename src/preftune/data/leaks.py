"""Whether evaluation asks what training has shown: prompts compared by content, as digests that trained folders keep.

A digest is of what a prompt says: its turns with white space made even, text as a user's turn. It is short: among two
sets of a million prompts, two different ones have the same digest with a probability below 10⁻⁶.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from .ballots import Prompt

DIGESTS = "training_prompts.txt"  # in the folder of a policy or a reward model: a digest a line
TRAINED = ("policy", "adapter", "reward")  # what a run leaves


def prompt_digest(prompt: Prompt) -> str:
    """16 hexadecimal digits that stand for what a prompt says."""
    turns: list[tuple[str, ...]] = [("user", prompt)] if isinstance(prompt, str) else [tuple(turn) for turn in prompt]
    even = ["\x1f".join(" ".join(unicodedata.normalize("NFC", text).split()) for text in turn) for turn in turns]
    return hashlib.blake2b("\x1e".join(even).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def prompt_digests(prompts: Iterable[Prompt]) -> frozenset[str]:
    """The digests of some prompts."""
    return frozenset(map(prompt_digest, prompts))


def keep_digests(folder: Path, digests: Iterable[str]) -> None:
    """Leave the digests of what a run was trained on in all that the run leaves."""
    text = "".join(f"{digest}\n" for digest in sorted(digests))
    for place in (folder / name for name in TRAINED):
        if place.is_dir():
            (place / DIGESTS).write_text(text, encoding="ascii")


def kept_digests(folder: str | Path) -> frozenset[str] | None:
    """The digests that a run, a policy or a reward model keeps; None if it keeps none."""
    found = next((path for name in ("", *TRAINED) if (path := Path(folder) / name / DIGESTS).is_file()), None)
    return frozenset(found.read_text(encoding="ascii", errors="replace").split()) if found else None


def copy_digests(trained: Path, folder: Path) -> None:
    """Leave what was trained on in a folder that stands for what was trained; nothing, where that is not known."""
    if digests := kept_digests(trained):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DIGESTS).write_text("".join(f"{digest}\n" for digest in sorted(digests)), encoding="ascii")
