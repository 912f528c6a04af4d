"""What a person sees while work goes on: lines and progress bars, on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .text import harmless

T = TypeVar("T")
console = Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """Print one line of plain text; what looks like markup or a control character in it is shown, not obeyed."""
    console.print(harmless(message), markup=False, soft_wrap=True)


def bar(*, transient: bool = False) -> Progress:
    """A progress bar with a count and the time left; a transient one goes away when it is full."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
        disable=not console.is_terminal,
    )


def track(items: Iterable[T], description: str) -> Iterator[T]:
    """Iterate with a progress bar while a person watches; a sized iterable shows how much is left."""
    total = len(items) if isinstance(items, Sized) else None
    with bar(transient=True) as progress:
        yield from progress.track(items, total=total, description=description)
