"""Requests to stop (SIGINT, SIGTERM, SIGHUP), obeyed where nothing is lost; folders with one writer at a time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from .console import say
from .errors import UserError

LOCK = ".lock"
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopRequests:
    """Whether somebody asked to stop. Asked, it says so when called; a second request stops at once.

    While nothing is `held`, a request interrupts what is going on (KeyboardInterrupt): it is not lost, or can be made
    again. While work is held, as in the middle of a step, the request waits until the one who holds it asks.
    """

    def __init__(self) -> None:
        self.asked = False
        self.held = False

    def __call__(self) -> bool:
        return self.asked

    def ask(self, number: int = 0, frame: FrameType | None = None) -> None:
        """What a signal does."""
        if self.asked or not self.held:
            self.asked = True
            raise KeyboardInterrupt
        self.asked = True
        say("stopping after this step (again to stop at once, losing what is not saved)")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within it a request interrupts, also one that waits already."""
        held = self.held
        try:
            self.held = False
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self.held = held


def is_ignored_hangup(number: int) -> bool:
    """Whether somebody has seen to it that the end of the terminal is not the end of the process."""
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN


_current: list[StopRequests] = []


@contextmanager
def stop_requests(*, hand_on: bool = False) -> Iterator[StopRequests]:
    """Turn signals into requests. Within another one it is the same one, which goes on after it.

    What is held inside is held no longer after it, unless it is to `hand_on` that to the one around it. A SIGHUP that
    is ignored, as by nohup, stays so. Outside the main thread nothing is ever asked.
    """
    if _current:
        held = _current[0].held
        try:
            yield _current[0]
        finally:
            if not hand_on:
                _current[0].held = held
        return
    requests = StopRequests()
    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield requests
        return
    before = {number: signal.getsignal(number) for number in SIGNALS if not is_ignored_hangup(number)}
    try:
        _current.append(requests)
        for number in before:
            signal.signal(number, requests.ask)
        yield requests
    finally:
        _current.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def only_writer(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the folder, made if it is not there, against other processes; one in which nothing was left goes again.

    Raises UserError if another process holds it, unless this is to `wait` for it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be made ({error.strerror}); name a folder") from None
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise UserError(
            f"--out {folder}: another process is writing there; let it finish, or name another folder"
        ) from None
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written to ({error.strerror}); name another folder") from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        for path in made:
            with suppress(OSError):  # not empty: something was left
                path.rmdir()


def check_writable(folder: Path) -> None:
    """Raises UserError, as `only_writer` does, before work whose result would have no place in the folder."""
    with only_writer(folder):
        pass
