"""Answers of endpoints, kept on disk by content: what was paid for once is not asked again.

One SQLite file, a row for each answer with a verdict, written when it is there. A failure is never kept. Nothing in a
row is a text or a key to a server: a digest of what was asked, and a number.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError

TABLES = """
CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value REAL NOT NULL, read TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ways (server BLOB PRIMARY KEY, way TEXT NOT NULL);
"""


def digest(*parts: Any) -> bytes:
    """What identifies a question, or a server: JSON in one spelling, hashed."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


class Kept:
    """The answers that are there: Pr(first ≻ second) of a question, and what it was read from.

    Beside them, in which way each server is asked, so that whoever goes on asks in the same way.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "answers.sqlite"
        folder.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(TABLES)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
                yield database
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path}: cannot be used ({error}); where it is damaged, move it away") from None

    def answer(self, key: bytes) -> tuple[float, str] | None:
        """The answer to a question."""
        with self._open() as database:
            found: tuple[float, str] | None = database.execute(
                "SELECT value, read FROM answers WHERE key = ?", (key,)
            ).fetchone()
        return found

    def add(self, key: bytes, value: float, read: str) -> None:
        """Add an answer. One that is there already stays, so that all see the same."""
        with self._open() as database:
            database.execute("INSERT INTO answers VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING", (key, value, read))

    def way(self, server: bytes) -> str | None:
        """In which way a server is asked, if it was."""
        with self._open() as database:
            found = database.execute("SELECT way FROM ways WHERE server = ?", (server,)).fetchone()
        return found[0] if found else None

    def settle(self, server: bytes, way: str) -> None:
        """Remember in which way a server is asked."""
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO ways VALUES (?, ?)", (server, way))
