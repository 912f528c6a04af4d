"""Preference files in any common form to ballots, ballots to canonical JSONL, and prompts from any of these.

First the *container* (JSONL, JSON, CSV, Parquet, gzip, a hub data set) becomes numbered rows, then the *form* of each
row, told by its fields, becomes one ballot. docs/FORMATS.md shows every form by an example. A row that cannot be read
stops the reading with a UserError that names its place; one that can be read but not used is counted by reason.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from ..errors import UserError
from .ballots import Annotation, Ballot, BallotSet, Prompt, Vote, renumbered
from .containers import decode_text, read_bytes, read_table
from .fields import Unusable, fields_of
from .layouts import ballot_of, prompt_alone


def read_ballots(source: str | Path) -> BallotSet:
    """The ballots of a preference file, or of a hub data set (`owner/name` or `owner/name:split`).

    Container and form are told by content. One row becomes one ballot, in file order; `skipped` counts the rows that
    cannot be used, `dropped` the responses left out of groups that stayed. A row without an `id` gets its line
    (JSONL) or row number. `sha256` is that of the content that trains (prompts, responses, votes), whatever the
    container, compression or name. Raises UserError, with file and line, for what cannot be read, and when nothing
    is left.
    """
    table = read_table(source)
    ballots: list[Ballot] = []
    skipped: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for number, fields in table.rows:
        try:
            ballot, left_out = ballot_of(fields_of(fields), str(number))
        except Unusable as reason:
            skipped[str(reason)] += 1
        except (ValueError, RecursionError) as error:
            raise UserError(f"{table.where(number)}: {error}") from None
        else:
            ballots.append(ballot)
            dropped += left_out
    if not ballots:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in skipped.items())
        raise UserError(f"{table.name}: none of its {len(table.rows)} rows can be used ({reasons})")
    return BallotSet(tuple(ballots), len(table.rows), dict(skipped), table.name, _fingerprint(ballots), dict(dropped))


def read_prompts(source: str | Path) -> tuple[Prompt, ...]:
    """The distinct prompts of a file, in file order: for evaluation.

    Takes every preference form (its prompt), `{prompt}` as text or messages, a chat under `messages` or
    `conversations` (up to the assistant's last turn), MT-bench `turns` (the first), and a `.txt` file with one prompt
    a line. Raises UserError, with file and line, for a row without a prompt.
    """
    name = str(source)
    if re.search(r"\.txt(\.gz)?$", name, re.IGNORECASE):
        lines = decode_text(name, read_bytes(Path(source), name)).split("\n")
        return tuple(dict.fromkeys(line.removesuffix("\r") for line in lines if line.strip()))
    table = read_table(source)
    prompts: dict[Prompt, None] = {}
    for number, fields in table.rows:
        try:
            prompts[prompt_alone(fields_of(fields))] = None
        except (ValueError, RecursionError, Unusable) as error:
            raise UserError(f"{table.where(number)}: {error}; mend or delete the row") from None
    return tuple(prompts)


def write_ballots(ballots: Iterable[Ballot], path: str | Path) -> None:
    """Write canonical JSONL, one ballot a line, gzipped if the name ends in `.gz`: all of the file or nothing of it.

    The same ballots give the same bytes. Raises UserError if the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    data = "".join(json.dumps(_row(ballot), ensure_ascii=False) + "\n" for ballot in ballots).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def merge_prompts(ballots: Iterable[Ballot]) -> tuple[Ballot, ...]:
    """One ballot per prompt, in order of first appearance: identical responses become one, their votes are pooled.

    It keeps the first id and names every source. Responses are identical if text and `ended` are.
    """
    together: dict[Prompt, list[Ballot]] = {}
    for ballot in ballots:
        together.setdefault(ballot.prompt, []).append(ballot)
    return tuple(_merge(group) for group in together.values())


# --- canonical form ---------------------------------------------------------------------------------------------------


def _row(ballot: Ballot) -> dict[str, object]:
    prompt = ballot.prompt if isinstance(ballot.prompt, str) else [turn._asdict() for turn in ballot.prompt]
    votes = [{"a": v.a, "b": v.b, "p": float(v.p), "weight": float(v.weight)} for v in ballot.votes]
    row = {
        "id": ballot.id,
        "source": ballot.source,
        "prompt": prompt,
        "responses": list(ballot.responses),
        "votes": votes,
        "ended": list(ballot.ended),
    }
    return row | ({"annotations": [asdict(one) for one in ballot.annotations]} if ballot.annotations else {})


def _fingerprint(ballots: Iterable[Ballot]) -> str:
    digest = hashlib.sha256()
    for ballot in ballots:
        digest.update(json.dumps(_row(replace(ballot, id="", source="", annotations=()))).encode() + b"\n")
    return digest.hexdigest()


def _merge(group: Sequence[Ballot]) -> Ballot:
    responses: list[str] = []
    ended: list[bool] = []
    votes: list[Vote] = []
    annotations: list[Annotation] = []
    for ballot in group:
        base = len(responses)
        votes += [replace(vote, a=vote.a + base, b=vote.b + base) for vote in ballot.votes]
        annotations += [replace(one, a=one.a + base, b=one.b + base) for one in ballot.annotations]
        responses += ballot.responses
        ended += ballot.ended
    source = ", ".join(dict.fromkeys(ballot.source for ballot in group if ballot.source))
    said = tuple(votes), tuple(annotations)
    whole = Ballot(group[0].prompt, tuple(responses), said[0], group[0].id, source, tuple(ended), said[1])
    index: dict[tuple[str, bool], int] = {}
    places = [index.setdefault(key, len(index)) for key in zip(responses, ended, strict=True)]
    return renumbered(whole, places).pooled()
