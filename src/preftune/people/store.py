"""What people said, in an SQLite file: a log that only grows, from which everything else follows.

The latest row of a person on a pair stands; an undo is a row, and so is it that a person's votes count no longer, or
again. A row has the id that its sender gave it, once: whoever got no answer sends it again. It is on the disk before it
is acknowledged. A person who wants to be removed is: those rows alone leave the log.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import astuple, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from types import TracebackType

from ..errors import UserError

VOTE, SKIP, UNDO, AGAIN, OUT, IN, CHOSEN = "vote", "skip", "undo", "again", "out", "in", "chosen"
BUSY = 10.0  # seconds to wait for another process that reads
SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS log (
    id TEXT NOT NULL, person TEXT NOT NULL, pair TEXT NOT NULL, kind TEXT NOT NULL, winner TEXT NOT NULL,
    left TEXT NOT NULL, ms INTEGER NOT NULL, at TEXT NOT NULL, seq INTEGER PRIMARY KEY AUTOINCREMENT,
    UNIQUE (person, id), CHECK (kind IN ('vote', 'skip', 'undo', 'again', 'out', 'in', 'chosen'))
) STRICT;
CREATE INDEX IF NOT EXISTS said ON log (pair, person, seq);
CREATE VIEW IF NOT EXISTS standing AS
    SELECT * FROM log WHERE kind IN ('vote', 'skip')
    AND seq IN (SELECT MAX(seq) FROM log WHERE kind IN ('vote', 'skip', 'undo') GROUP BY pair, person);
CREATE VIEW IF NOT EXISTS outside AS
    SELECT person FROM log WHERE kind = 'out'
    AND seq IN (SELECT MAX(seq) FROM log WHERE kind IN ('out', 'in') GROUP BY person);
"""


@dataclass(frozen=True)
class Said:
    """A row of the log: a vote for the response named `winner` (or tie, both_bad), a skip, or an undo; or a vote on a
    pair that was asked `again`, which tells something of the person and is no evidence; or that the person's votes
    count no longer (`out`), or again (`in`), which is on no pair; or that the pair was `chosen` to be asked next.

    `left` names the response that stood on the left, `ms` is how long the person looked, `at` when it came (UTC).
    """

    id: str
    person: str
    pair: str
    kind: str
    winner: str = ""
    left: str = ""
    ms: int = 0
    at: str = ""
    seq: int = 0


COLUMNS = ", ".join(field.name for field in fields(Said))
WRITTEN = COLUMNS.removesuffix(", seq")


class Store:
    """The file of votes, open; one process writes it at a time (`stopping.only_writer` of its folder sees to that)."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Raises UserError for a file that cannot be opened, or is none of ours."""
        if read_only and not path.is_file():
            raise UserError(f"{path}: there are no votes of people")
        self._file = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        self._lock = Lock()
        try:
            self._prepare(path, read_only)
        except sqlite3.Error as error:
            self._file.close()
            raise UserError(f"{path}: is no file of votes that can be opened ({error}); name another folder") from None

    def _prepare(self, path: Path, read_only: bool) -> None:
        self._file.execute("PRAGMA synchronous = FULL")
        if not read_only:
            os.chmod(path, 0o600)  # names, and the token of the link
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA secure_delete = ON")
            self._file.executescript(SCHEMA)
        self._file.execute("SELECT 1 FROM standing LIMIT 1")
        if self._file.execute("SELECT 1 FROM sqlite_master WHERE name = 'left_out'").fetchone():
            raise sqlite3.Error("an earlier version wrote it, which kept elsewhere whose votes do not count")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def append(self, said: Said) -> tuple[Said, bool]:
        """Write a row, unless this person sent one of this id before; the row that is there now, and whether it is new.

        When it returns, the row is on the disk. It has the time of now, unless it has one already.
        """
        values = astuple(replace(said, at=said.at or datetime.now(UTC).isoformat(timespec="milliseconds")))[:-1]
        with self._lock:
            marks = ", ".join("?" * len(values))
            done = self._file.execute(f"INSERT OR IGNORE INTO log ({WRITTEN}) VALUES ({marks})", values)
            query = f"SELECT {COLUMNS} FROM log WHERE person = ? AND id = ?"
            row = self._file.execute(query, (said.person, said.id)).fetchone()
            return Said(*row), done.rowcount == 1

    def log(self) -> list[Said]:
        """Every row, in the order in which they came."""
        return self._rows(f"SELECT {COLUMNS} FROM log ORDER BY seq")

    def standing(self) -> list[Said]:
        """What stands: one vote or skip at most of a person on a pair, in the order in which they came."""
        return self._rows(f"SELECT {COLUMNS} FROM standing ORDER BY seq")

    def repeats(self) -> list[Said]:
        """Votes on pairs that their person had voted on before."""
        return self._rows(f"SELECT {COLUMNS} FROM log WHERE kind = '{AGAIN}' ORDER BY seq")

    def chosen(self) -> list[Said]:
        """Which pairs were chosen to be asked of whom."""
        return self._rows(f"SELECT {COLUMNS} FROM log WHERE kind = '{CHOSEN}' ORDER BY seq")

    def _rows(self, query: str) -> list[Said]:
        with self._lock:
            return [Said(*row) for row in self._file.execute(query)]

    def fact(self, name: str, make: Callable[[], str]) -> str:
        """What the file says under that name; made and kept the first time."""
        with self._lock:
            found = self._file.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
            if found is None:
                found = (make(),)
                self._file.execute("INSERT INTO facts VALUES (?, ?)", (name, *found))
            return str(found[0])

    def left_out(self) -> frozenset[str]:
        """Whose votes count for nothing, though they are there."""
        with self._lock:
            return frozenset(row[0] for row in self._file.execute("SELECT person FROM outside"))

    def leave_out(self, person: str, out: bool = True, name: str = "") -> None:
        """Let a person's votes count for nothing, or count again, by a row of that id."""
        self.append(Said(name or secrets.token_hex(16), person, "", OUT if out else IN))

    def remove(self, person: str) -> int:
        """Remove a person: every row of theirs, overwritten on the disk; how many there were."""
        with self._lock:
            gone = self._file.execute("DELETE FROM log WHERE person = ?", (person,)).rowcount
            self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._file.execute("VACUUM")
            self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return gone

    def backup(self, path: Path) -> None:
        """A whole copy of the file as it is now, also while somebody votes. Raises UserError if `path` is there."""
        if path.exists():
            raise UserError(f"{path}: is there already; name another file")
        try:
            with closing(sqlite3.connect(path)) as copy, self._lock:
                os.chmod(path, 0o600)
                self._file.backup(copy)
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"{path}: cannot be written ({error})") from None
