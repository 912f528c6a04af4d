"""What is computed of a frozen model once per content and kept on disk, shared by every run that needs it.

One SQLite file per `StoreKey`; in it a row per (prompt ids, response ids). Nothing in the key depends
on a file's name or age, on a learning rate or on an output folder, so a sweep pays once. Each file also keeps the token
ids of one response of every ballot, so that `doctor` can compute stored values anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..console import say
from ..data import TokenBallot
from ..errors import UserError
from .places import cache_folder

ELSEWHERE = "PREFTUNE_CACHE names another folder for what is kept between runs"
# Raise it when log-probs come out differently: what was stored before is not read again. 3: with LoRA, values of an
# arithmetic before 3 may be a policy's.
ARITHMETIC = 3
TABLES = """
CREATE TABLE IF NOT EXISTS about (record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS witnesses (key BLOB PRIMARY KEY, prompt BLOB NOT NULL, response BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS logprobs (key BLOB PRIMARY KEY, value REAL NOT NULL);
CREATE TABLE IF NOT EXISTS features (key BLOB, layer INTEGER, value BLOB NOT NULL, PRIMARY KEY (key, layer));
"""


@dataclass(frozen=True)
class StoreKey:
    """What a stored value depends on beside its token ids: the weights' hash, how and on which machine it is computed.

    `model` is where the weights were found, and `base` how they are kept; these identify nothing: the hash has seen it.
    """

    model: str
    weights: str
    precision: str
    layout: str
    machine: str
    arithmetic: int = ARITHMETIC
    base: str = "fp32"

    @property
    def name(self) -> str:
        """The name of the file."""
        parts = (self.weights, self.precision, self.layout, self.machine, str(self.arithmetic))
        return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Witness:
    """The token ids of one stored response."""

    key: bytes
    prompt: tuple[int, ...]
    response: tuple[int, ...]


def stores_folder() -> Path:
    """Where the stores are."""
    return cache_folder() / "stores"


def response_keys(ballot: TokenBallot) -> list[bytes]:
    """What identifies each response of a ballot in the store: its prompt's ids and its own."""
    prompt = hashlib.sha256(repr(ballot.prompt).encode()).digest()
    return [hashlib.sha256(prompt + repr(response).encode()).digest() for response in ballot.responses]


class Store:
    """Reference log-probs and features of one frozen model, by content. Exact: float32 values come back bit for bit.

    A log-prob is log π_ref(y|x) in nats, summed over the response; a feature is the mean of a layer's states over the
    response, `[D]`.
    """

    def __init__(self, folder: Path, key: StoreKey) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be made ({error.strerror}); {ELSEWHERE}") from None
        self.key = key
        self.path = folder / f"{key.name}.sqlite"
        set_aside(self.path)
        with self._open() as database:
            database.executescript(TABLES)
            if not database.execute("SELECT 1 FROM about").fetchone():
                database.execute("INSERT INTO about VALUES (?)", (json.dumps(asdict(key)),))
                database.commit()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
                yield database
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path}: the store cannot be used ({error}); delete it, or {ELSEWHERE}") from None

    def logprobs(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """The log-probs that are there."""
        with self._open() as database:
            query = "SELECT value FROM logprobs WHERE key = ?"
            rows = ((key, database.execute(query, (key,)).fetchone()) for key in keys)
            return {key: row[0] for key, row in rows if row is not None}

    def features(self, keys: Sequence[bytes], layers: Sequence[int]) -> dict[tuple[bytes, int], bytes]:
        """The features that are there, float32."""
        with self._open() as database:
            query = "SELECT value FROM features WHERE key = ? AND layer = ?"
            rows = ((key, layer, database.execute(query, (key, layer)).fetchone()) for key in keys for layer in layers)
            return {(key, layer): row[0] for key, layer, row in rows if row is not None}

    def add_logprobs(self, ballots: Sequence[TokenBallot], values: Sequence[float]) -> None:
        """Add the log-probs of all responses of the ballots, in order.

        One that is there already stays as it is, so that runs side by side see the same.
        """
        rows = zip([key for ballot in ballots for key in response_keys(ballot)], values, strict=True)
        with self._open() as database:
            database.executemany("INSERT OR IGNORE INTO logprobs VALUES (?, ?)", rows)
            _add_witnesses(database, ballots)

    def add_features(self, ballots: Sequence[TokenBallot], layers: Sequence[int], values_LBD: Tensor) -> None:
        """Add the features of all responses of the ballots, in order; one that is there already stays."""
        keys = [key for ballot in ballots for key in response_keys(ballot)]
        rows = [
            (key, layer, value.tobytes())
            for layer, value_BD in zip(layers, values_LBD.cpu().numpy(), strict=True)
            for key, value in zip(keys, value_BD, strict=True)
        ]
        with self._open() as database:
            database.executemany("INSERT OR IGNORE INTO features VALUES (?, ?, ?)", rows)
            _add_witnesses(database, ballots)

    def witnesses(self) -> list[Witness]:
        """The first response of every ballot that filled the store, in order of their keys."""
        with self._open() as database:
            rows = database.execute("SELECT key, prompt, response FROM witnesses ORDER BY key").fetchall()
        return [Witness(key, _ids(prompt), _ids(response)) for key, prompt, response in rows]

    def layers(self, key: bytes) -> list[int]:
        """The layers of which there are features of a response."""
        with self._open() as database:
            rows = database.execute("SELECT layer FROM features WHERE key = ? ORDER BY layer", (key,)).fetchall()
        return [layer for (layer,) in rows]

    def sizes(self) -> dict[str, int]:
        """How many log-probs and features there are."""
        with self._open() as database:
            tables = ("logprobs", "features")
            return {table: database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables}


def set_aside(path: Path) -> None:
    """Put a file that is no store, or one that was cut, out of the way; what it held is computed anew."""
    try:
        problem = "is a folder" if path.is_dir() else _broken(path) if path.exists() else ""
        if problem:
            os.replace(path, path.with_name(path.name + ".broken"))
            say(f"{path}: {problem}; set aside as {path.name}.broken, and what it held is computed anew")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {ELSEWHERE}") from None


def _broken(path: Path) -> str:
    """Why a file is no whole SQLite file, in words; "" if it is one, or empty."""
    with path.open("rb") as file:
        header = file.read(32)
    if not header:
        return ""
    if len(header) < 32 or not header.startswith(b"SQLite format 3\0"):
        return "is no store"
    return "" if _is_whole(path, header) or _is_whole_between_changes(path) else "is cut"


def _is_whole(path: Path, header: bytes) -> bool:
    page = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    return path.stat().st_size >= pages * (65536 if page == 1 else page)


def _is_whole_between_changes(path: Path) -> bool:
    """Whether all is there when nobody writes: the first page of a change is written first. One that was cut short is
    undone here."""
    try:
        with closing(sqlite3.connect(path, timeout=60)) as database:
            database.execute("BEGIN IMMEDIATE")
            with path.open("rb") as file:
                return _is_whole(path, file.read(32))
    except sqlite3.DatabaseError:
        return False


def read_key(path: Path) -> StoreKey | None:
    """What a store's file says of itself; None if it is no store of this version."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            (record,) = database.execute("SELECT record FROM about").fetchone()
        values: dict[str, Any] = json.loads(record)
        return StoreKey(**values)
    except (sqlite3.Error, TypeError, ValueError):
        return None


def _add_witnesses(database: sqlite3.Connection, ballots: Sequence[TokenBallot]) -> None:
    rows = [(response_keys(b)[0], _blob(b.prompt), _blob(b.responses[0])) for b in ballots]
    database.executemany("INSERT OR IGNORE INTO witnesses VALUES (?, ?, ?)", rows)


def _blob(ids: Sequence[int]) -> bytes:
    return np.array(ids, dtype="<i4").tobytes()


def _ids(blob: bytes) -> tuple[int, ...]:
    return tuple(np.frombuffer(blob, dtype="<i4").tolist())
