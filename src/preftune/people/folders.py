"""A folder of votes: what is asked in it, served, shown, exported, backed up; a person left out or removed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ..console import say
from ..data import Ballot, write_ballots
from ..errors import UserError
from ..evidence import StudyRecord, arms_met, read_study, write_json, write_records
from ..stopping import only_writer
from .arena import Arena, Meeting, arena_of, as_ballots, keep_as_evidence, telling, with_the_judge
from .choosing import Choose, choosing
from .desk import Desk
from .exports import counted, pseudonyms, vote_lines, why_asked
from .figures import LEVEL, standing_of
from .labels import Labelling, labelled, read_labelling
from .pairs import Pair
from .serving import Address, check_installed, serve
from .store import Said, Store

VOTES_FILE = "votes.sqlite"
BALLOTS_FILE = "ballots.jsonl"  # what is labelled
ARENA_FILE = "arena.json"  # who meets in an arena; the study is two folders up
LABELLED_FILE = "labelled.jsonl"  # ballots with the votes of people
LINES_FILE = "votes.jsonl"
PLANNED = 200  # votes, where the interval of people and judge together is narrowest
AGAINST = ("arms", "reference")

Content = Labelling | Arena
Written = list[tuple[Path, str]]  # files, and what is in them


# --- what is asked ----------------------------------------------------------------------------------------------------


def open_labelling(
    labelling: Labelling, folder: Path, address: Address, choose: Choose | None = None, **who: Any
) -> tuple[int, int]:
    """Have people label these ballots until somebody stops it; how many votes stand, on how many ballots.

    Pairs come at random, unless there is somebody to `choose` most of them from the votes so far.
    """
    check_installed("label")
    _check_ours(folder)
    with only_writer(folder), Store(folder / VOTES_FILE) as store:
        _check_same(store, labelling, folder)
        write_ballots(labelling.ballots, folder / BALLOTS_FILE)
        if choose is not None:
            who["beside"] = lambda desk: choosing(desk, folder / VOTES_FILE, labelling, choose)
        _serve(store, labelling, folder, address, who)
        votes, ballots, _ = _export(store, labelling, folder)
    return len(votes), len(ballots)


def open_arena(folder: Path, against: str, address: Address, **who: Any) -> Written:
    """Have people judge the study in `folder` until somebody stops it; the files that their votes are in then."""
    check_installed("arena")
    study = read_study(folder)
    found = arena_of(study, meetings_of(study) if against == AGAINST[0] else ())
    for reason, count in found.skipped.items():
        say(f"not asked about: {count:,} {reason}")
    if count := telling(found):
        say(f"{count:,} pairs have a response that names an arm or the model: it may tell whose it is")
    place = folder / "arena" / against
    with only_writer(place), Store(place / VOTES_FILE) as store:
        _check_same(store, found, place)
        write_json(place / ARENA_FILE, {"against": against, "meetings": found.meetings})
        _serve(store, found, place, address, who)
        return _export(store, found, place)[2]


def meetings_of(study: StudyRecord) -> list[Meeting]:
    """Who meets whom: two arms at each seed where they are nearest in KL; of policies that were there already, every
    two. Raises UserError if nobody does."""
    ends = study.ends()
    met = arms_met(ends) if study.info["betas"] else combinations(ends, 2)
    found = [((a.run, a.step), (b.run, b.step)) for a, b in met]
    if not found:
        raise UserError(
            f"{study.folder}: no two arms meet at about the same KL; --against reference has each meet the reference"
        )
    return found


def _check_ours(folder: Path) -> None:
    """Raises UserError for a folder with files of somebody else that would be written over."""
    there = [name for name in (BALLOTS_FILE, LABELLED_FILE, LINES_FILE) if (folder / name).exists()]
    if there and not (folder / VOTES_FILE).exists():
        raise UserError(f"--out {folder}: has a {there[0]} that `label` did not write; name another folder")


def _check_same(store: Store, content: Content, folder: Path) -> None:
    known = {pair.id for pair in content.pairs}
    if lost := sum(said.pair not in known for said in store.standing()):
        raise UserError(f"{folder}: holds {lost} votes on pairs that are not asked about now; move it, or name another")


def _serve(store: Store, content: Content, folder: Path, address: Address, who: Mapping[str, Any]) -> None:
    blind = {question: f"comparison {k + 1}" for k, question in enumerate(_questions(content))}
    store.fact("planned votes", lambda: str(PLANNED))  # before the first one
    serve(store, content.pairs, lambda: _standing(store, content, blind), address, **who)


def _questions(content: Content) -> Mapping[str, str]:
    return content.questions if isinstance(content, Arena) else {}


def _standing(store: Store, content: Content, names: Mapping[str, str]) -> Mapping[str, Any]:
    """All figures, each question under a name; of run ends also what people and a judge say together."""
    pairs = {pair.id: pair for pair in content.pairs}
    found = standing_of(store, pairs, names)
    if isinstance(content, Arena):
        planned = int(store.fact("planned votes", lambda: str(PLANNED)))
        told = with_the_judge(content, counted(store, pairs), planned, LEVEL / len(names))
        for question, one in zip(names, found["questions"], strict=True):
            one["judged"] = told[question]._asdict() if question in told else None
    return found


# --- afterwards -------------------------------------------------------------------------------------------------------


def _content(folder: Path) -> Content:
    """What the folder asks about. Raises UserError if it is no such folder."""
    if (folder / BALLOTS_FILE).is_file():
        return read_labelling(folder / BALLOTS_FILE)
    try:
        known = json.loads((folder / ARENA_FILE).read_text(encoding="utf-8"))
        meetings = tuple(((str(a[0]), int(a[1])), (str(b[0]), int(b[1]))) for a, b in known["meetings"])
    except FileNotFoundError:
        raise UserError(f"{folder}: holds no votes; name what `label` wrote, or STUDY/arena/arms") from None
    except (ValueError, TypeError, KeyError, IndexError):
        raise UserError(f"{folder / ARENA_FILE}: cannot be read; `preftune arena` writes it anew") from None
    return arena_of(read_study(folder.parent.parent), meetings)


def figures_of(folder: Path) -> Mapping[str, Any]:
    """How the votes stand, also while people vote."""
    content = _content(folder)
    with Store(folder / VOTES_FILE, read_only=True) as store:
        return _standing(store, content, _questions(content))


def export_votes(folder: Path) -> Written:
    """Write the votes as ballots and as lines, those of an arena into its study too; the files, and what they hold."""
    content = _content(folder)
    with Store(folder / VOTES_FILE) as store:
        return _export(store, content, folder)[2]


def _export(
    store: Store, content: Content, folder: Path, also: frozenset[str] = frozenset()
) -> tuple[Sequence[Said], Sequence[Ballot], Written]:
    """`also`: people who were here before, whose votes are to be replaced by nothing."""
    pairs: Mapping[str, Pair] = {pair.id: pair for pair in content.pairs}
    votes = counted(store, pairs)
    names = pseudonyms(store, {said.person for said in store.log()} | also)
    asked = why_asked(store)
    evidence: Written = []
    if isinstance(content, Arena):
        ballots = as_ballots(content, votes, names)
        evidence = [(keep_as_evidence(content, votes, names), "the same votes, for preftune report")]
    else:
        ballots = labelled(content, votes, names, asked)
    write_ballots(ballots, folder / LABELLED_FILE)
    write_records(folder / LINES_FILE, vote_lines(votes, pairs, names, asked))
    written = [(folder / LABELLED_FILE, f"{len(ballots):,} ballots"), (folder / LINES_FILE, f"{len(votes):,} votes")]
    return votes, ballots, written + evidence


def progress_of(folder: Path) -> tuple[int, int] | None:
    """(votes that count, pairs still to be answered), also while people vote; None before anybody was asked."""
    if not any((folder / name).is_file() for name in (BALLOTS_FILE, ARENA_FILE)):
        return None
    content = _content(folder)
    with Store(folder / VOTES_FILE, read_only=True) as store:
        votes = counted(store, {pair.id: pair for pair in content.pairs})
        return len(votes), Desk(store, content.pairs).unanswered()


def back_up(folder: Path, path: Path) -> None:
    """A whole copy of the votes, also while people vote."""
    with Store(folder / VOTES_FILE, read_only=True) as store:
        store.backup(path)


def leave_out_person(folder: Path, name: str, out: bool) -> None:
    """Let a person's votes count for nothing, or count again; exports are written anew."""
    content = _content(folder)
    with only_writer(folder), Store(folder / VOTES_FILE) as store:
        _check_known(store, name)
        store.leave_out(name, out)
        _export(store, content, folder)


def remove_person(folder: Path, name: str) -> int:
    """Remove all that a person said, from exports too; how many rows there were."""
    content = _content(folder)
    with only_writer(folder), Store(folder / VOTES_FILE) as store:
        _check_known(store, name)
        count = store.remove(name)
        _export(store, content, folder, frozenset({name}))
        return count


def _check_known(store: Store, name: str) -> None:
    known = sorted({said.person for said in store.log()})
    if name not in known:
        raise UserError(f"nobody by the name {name!r} voted here; known are {', '.join(known) or 'none'}")
