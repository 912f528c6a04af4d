"""Preference files in any known layout to ballots, ballots to canonical JSONL, and prompts from any of these.

First what `--data` names becomes numbered rows (`sources`, `containers`), then the layout of each row, told by its
columns, gives it our names (`layouts`), then it becomes one ballot (`forms`), or a part of one (`grouping`).
docs/FORMATS.md shows every layout by an example.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..files import write_named
from .ballots import Annotation, Ballot, BallotSet, FullMessage, Prompt, Vote, renumbered
from .beside import split_tools, turn_row
from .containers import whole_text
from .documents import Broken
from .fields import Ambiguous, Unusable, fields_of
from .forms import Read, ballot_of, prompt_alone
from .grouping import Waiting, nested
from .layouts import How, kind_of, parse_columns, plain_of
from .sources import open_tables

UNREADABLE = "rows that cannot be read"
HOPELESS = 1000  # unreadable rows, and no other one, after which nobody needs to know how many more there are


class Outcome(NamedTuple):
    """What became of a row, or of rows that make a ballot together: a ballot, or the reason why there is none.

    `bad` is true where the row could not be read, and false where it could be read and not used. `row` is as it stands
    in the file; of several that make a ballot together there is none.
    """

    place: str
    ballot: Ballot | None = None
    reason: str = ""
    bad: bool = False
    left_out: Mapping[str, int] | None = None
    noted: Mapping[str, int] | None = None
    row: Mapping[str, Any] | None = None


def stream_ballots(
    source: str | Path, *, columns: str | Mapping[str, str] = "", score_gap: float = 0.0
) -> Iterator[Outcome]:
    """What becomes of every row of a preference file, one after the other, without keeping any.

    Rows that make ballots together come last; until then they wait on disk. Arguments are those of `read_ballots`.
    Raises UserError for a file that cannot be read at all, and for rows that may mean two things.
    """
    if not 0 <= score_gap < float("inf"):
        raise UserError(f"--score-gap {score_gap:g}: must be 0 or more")
    how = How(parse_columns(columns) if columns else {}, score_gap)
    tables = open_tables(source, frozenset(path.split(".")[0] for path in how.columns.values()))
    try:
        with closing(Waiting()) as waiting:
            for table in tables:
                before = f"{Path(table.name).stem}:" if len(tables) > 1 else ""
                for number, row in table.rows:
                    yield from _outcomes(row, table.where(number), f"{before}{number}", how, waiting)
            for place, found in waiting.ballots():
                yield _outcome(place, found)
    except sqlite3.Error as error:
        where = "rows that make ballots together wait in a temporary file, which cannot be kept"
        raise UserError(f"{source}: {where} ({error}); SQLITE_TMPDIR names another folder for it") from None


def _outcomes(row: object, place: str, number: str, how: How, waiting: Waiting) -> Iterator[Outcome]:
    if isinstance(row, Broken):
        yield Outcome(place, reason=row.why, bad=True)
        return
    try:
        layout, plain = plain_of(fields_of(row), how)
        if layout.rows in ("prompt", "tree"):
            waiting.add(layout.rows, plain, place, number)
        elif layout.rows == "nested":
            yield from (_outcome(place, found) for found in nested(fields_of(plain.fields["tree"])))
        else:
            yield _outcome(place, ballot_of(plain, number), plain.given)
    except (Unusable, ValueError, RecursionError) as reason:
        yield _outcome(place, reason, row if isinstance(row, dict) else None)


def _outcome(place: str, found: Read | Exception, row: Mapping[str, Any] | None = None) -> Outcome:
    if isinstance(found, Ambiguous):
        raise UserError(f"{place}: {found}")
    if isinstance(found, Unusable):
        return Outcome(place, reason=str(found), row=row)
    if isinstance(found, Exception):
        return Outcome(place, reason=str(found), bad=True, row=row)
    return Outcome(place, found.ballot, left_out=found.left_out, noted=found.noted, row=row)


def read_ballots(
    source: str | Path,
    *,
    columns: str | Mapping[str, str] = "",
    score_gap: float = 0.0,
    skip_bad: bool = False,
) -> BallotSet:
    """The ballots of a preference file, of a folder of them, or of a hub data set.

    Container and layout are told by content; `columns` says what is what in a layout that is not known, as
    `prompt=question,chosen=best`. Scores of one prompt that differ by no more than `score_gap` are a tie. `skipped`
    counts the rows that cannot be used, `dropped` the responses left out of groups that stayed. A row that cannot be
    read at all is an error that says how many there are, unless `skip_bad`: then they are skipped and counted, and
    `bad` has place and reason of each. A row without an `id` gets its line (JSONL) or row number. `sha256` is that of
    the content that trains (prompts, responses, votes), whatever the container, compression or name. Raises UserError,
    with file and line, for what cannot be read, and when nothing is left.
    """
    ballots: list[Ballot] = []
    bad: list[Outcome] = []
    counts: dict[str, Counter[str]] = {"skipped": Counter(), "dropped": Counter(), "noted": Counter()}
    rows = 0
    for one in stream_ballots(source, columns=columns, score_gap=score_gap):
        rows += 1
        if one.ballot:
            ballots.append(one.ballot)
            counts["dropped"].update(one.left_out or {})
            counts["noted"].update(one.noted or {})
        elif one.bad:
            bad.append(one)
        else:
            counts["skipped"][one.reason] += 1
        if bad and not skip_bad and len(bad) == rows == HOPELESS:
            break
    if bad and not skip_bad:
        raise UserError(_first_of(bad, more=len(bad) == rows == HOPELESS))
    if bad:
        counts["skipped"][UNREADABLE] = len(bad)
    name = str(source)
    if not rows:
        raise UserError(f"{name}: holds no rows")
    if not ballots:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in counts["skipped"].items())
        raise UserError(f"{name}: none of its {rows} rows can be used ({reasons})")
    places = tuple(f"{one.place}: {one.reason}" for one in bad)
    return BallotSet(tuple(ballots), rows, source=name, sha256=_fingerprint(ballots), bad=places, **counts)


def _first_of(bad: Sequence[Outcome], more: bool) -> str:
    """The first row that cannot be read, and how many more there are."""
    first = f"{bad[0].place}: {bad[0].reason}"
    if len(bad) == 1:
        return f"{first}; --skip-bad leaves such rows out and counts them"
    others = len(bad) - 1
    count = f"at least {others} more rows" if more else f"{others} more row{'s' if others > 1 else ''}"
    return f"{first}; {count} cannot be read; --skip-bad leaves them out and counts them"


def read_prompts(source: str | Path, *, columns: str | Mapping[str, str] = "") -> tuple[Prompt, ...]:
    """The distinct prompts of a file, in file order: for evaluation.

    Takes every layout of preferences (its prompt), `{prompt}` as text or messages, a chat under `messages` or
    `conversations` (up to the assistant's last turn), MT-bench `turns` (the first), and a `.txt` file with one prompt
    a line. Raises UserError, with file and line, for a row without a prompt.
    """
    name = str(source)
    if re.search(r"\.txt(\.gz)?$", name, re.IGNORECASE):
        lines = whole_text(Path(source), name).split("\n")
        return tuple(dict.fromkeys(line.removesuffix("\r") for line in lines if line.strip()))
    how = How(parse_columns(columns) if columns else {})
    prompts: dict[Prompt, None] = {}
    for table in open_tables(source, frozenset(path.split(".")[0] for path in how.columns.values())):
        for number, row in table.rows:
            try:
                prompts[_prompt_of(row, how)] = None
            except (ValueError, RecursionError, Unusable) as error:
                raise UserError(f"{table.where(number)}: {error}; mend or delete the row") from None
    if not prompts:
        raise UserError(f"{name}: holds no rows")
    return tuple(prompts)


def _prompt_of(row: object, how: How) -> Prompt:
    if isinstance(row, Broken):
        raise ValueError(row.why)
    fields = how.renamed(fields_of(row))
    kind = kind_of(fields)
    if kind and not kind.layout.rows:
        with suppress(ValueError, Unusable):  # of what is said of responses, which a prompt may do without
            return prompt_alone(kind.plain(fields, stated=how.columns).fields)
    return prompt_alone(fields)


def prompt_in(row: Mapping[str, Any], *, columns: str | Mapping[str, str] = "") -> Prompt | None:
    """The prompt of a row, whether or not it makes a ballot; None where it has none."""
    try:
        return _prompt_of(row, How(parse_columns(columns) if columns else {}))
    except (ValueError, RecursionError, Unusable):
        return None


def unvoted_ballot(row: Mapping[str, Any], number: str = "") -> Ballot | None:
    """The ballot of a row with a prompt and `responses`, or `a` and `b`, that nobody voted on; None if it is none."""
    fields = {name: value for name, value in row.items() if name not in ("a", "b", "votes", "annotations")}
    fields.setdefault("responses", [row.get("a"), row.get("b")])
    if not isinstance(fields["responses"], list):
        return None
    both = combinations(range(len(fields["responses"])), 2)
    with suppress(ValueError, RecursionError, Unusable):
        _, plain = plain_of(fields_of({**fields, "votes": [{"a": a, "b": b, "p": 0.5} for a, b in both]}), How({}))
        return replace(ballot_of(plain, number).ballot, votes=())
    return None


def write_ballots(ballots: Iterable[Ballot], path: str | Path) -> None:
    """Write canonical JSONL, one ballot a line, gzipped if the name ends in `.gz`: all of the file or nothing of it.

    The same ballots give the same bytes. Raises UserError if the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    data = _lines(_row(ballot) for ballot in ballots)
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    write_named(path, data)


def write_prompts(prompts: Iterable[Prompt], path: Path) -> None:
    """Write prompts as JSONL that `read_prompts` reads as the same ones."""
    rows = ({"prompt": said} | ({"tools": tools} if tools else {}) for said, tools in map(_prompt_row, prompts))
    write_named(path, _lines(rows))


def _lines(rows: Iterable[object]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def merge_prompts(ballots: Iterable[Ballot]) -> tuple[Ballot, ...]:
    """One ballot per prompt, in order of first appearance: identical responses become one, their votes are pooled.

    It keeps the first id and names every source. Responses are identical if text, `ended` and what stands beside are.
    """
    together: dict[Prompt, list[Ballot]] = {}
    for ballot in ballots:
        together.setdefault(ballot.prompt, []).append(ballot)
    return tuple(_merge(group) for group in together.values())


# --- canonical form ---------------------------------------------------------------------------------------------------


def _row(ballot: Ballot) -> dict[str, object]:
    prompt, tools = _prompt_row(ballot.prompt)
    replies: Sequence[object] = ballot.responses
    if ballot.beside:
        both = zip(ballot.responses, ballot.beside, strict=True)
        replies = [turn_row(FullMessage("assistant", text, more)) if more else text for text, more in both]
    votes = [{"a": v.a, "b": v.b, "p": float(v.p), "weight": float(v.weight)} for v in ballot.votes]
    row = {
        "id": ballot.id,
        "source": ballot.source,
        "prompt": prompt,
        "responses": list(replies),
        "votes": votes,
        "ended": list(ballot.ended),
    }
    row |= {"tools": tools} if tools else {}
    return row | ({"annotations": [_said(one) for one in ballot.annotations]} if ballot.annotations else {})


def _said(one: Annotation) -> dict[str, object]:
    return {name: value for name, value in asdict(one).items() if name != "asked" or value}


def _prompt_row(prompt: Prompt) -> tuple[object, list[object]]:
    """(a prompt, the tools that it offers) as a row has them."""
    if isinstance(prompt, str):
        return prompt, []
    tools, turns = split_tools(prompt)
    return [turn_row(turn) for turn in turns], tools


def _fingerprint(ballots: Iterable[Ballot]) -> str:
    digest = hashlib.sha256()
    for ballot in ballots:
        digest.update(json.dumps(_row(replace(ballot, id="", source="", annotations=()))).encode() + b"\n")
    return digest.hexdigest()


def _merge(group: Sequence[Ballot]) -> Ballot:
    responses: list[str] = []
    ended: list[bool] = []
    beside: list[str] = []
    votes: list[Vote] = []
    annotations: list[Annotation] = []
    for ballot in group:
        base = len(responses)
        votes += [replace(vote, a=vote.a + base, b=vote.b + base) for vote in ballot.votes]
        annotations += [replace(one, a=one.a + base, b=one.b + base) for one in ballot.annotations]
        responses += ballot.responses
        ended += ballot.ended
        beside += ballot.beside or ("",) * len(ballot.responses)
    source = ", ".join(dict.fromkeys(ballot.source for ballot in group if ballot.source))
    said = tuple(votes), tuple(annotations)
    more = tuple(beside) if any(beside) else ()
    whole = Ballot(group[0].prompt, tuple(responses), said[0], group[0].id, source, tuple(ended), said[1], more)
    index: dict[tuple[str, bool, str], int] = {}
    places = [index.setdefault(key, len(index)) for key in zip(responses, ended, beside, strict=True)]
    return renumbered(whole, places).pooled()
