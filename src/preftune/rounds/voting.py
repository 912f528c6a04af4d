"""Who votes on pairs, and who says which policy is better: a judge, or people on a page that ends by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..console import say
from ..data import Ballot, read_ballots
from ..errors import Interrupted, UserError
from ..evidence import JUDGEMENTS_FILE
from ..people import LABELLED_FILE, export_votes, labelling_of, open_arena, open_labelling, progress_of
from ..report import write_report
from ..study import Asking, Panel, ask_for_votes, meet_policies
from .settled import Pages, Rounds

LABEL, JUDGED, ARENA = "label", "judged", "arena/arms"
MEETING = 2  # samples of each policy to a held-out prompt: of one number they would share their luck


def voted(rounds: Rounds, ballots: Sequence[Ballot], folder: Path) -> Sequence[Ballot]:
    """The ballots with the votes of whoever votes. Raises UserError where there is none."""
    if rounds.voter is None:
        found: Sequence[Ballot] = ask_people(rounds.pages, ballots, folder / LABEL)
    else:
        settings = {"precision": rounds.common.precision, "device": rounds.common.device}
        found, missing = ask_for_votes(rounds.jury, ballots, folder / JUDGEMENTS_FILE, **settings)
        for reason, count in missing.items():
            say(f"{count} × {reason}")
    if not found:
        raise UserError(f"{folder}: no pair has a vote to train on")
    return found


def ask_people(pages: Pages, ballots: Sequence[Ballot], folder: Path) -> Sequence[Ballot]:
    """The ballots that people voted on."""
    labelling = labelling_of(ballots, str(folder))
    _serve(folder, lambda: open_labelling(labelling, folder, pages.address, ends=True, **pages.who), pages.enough)
    return read_ballots(folder / LABELLED_FILE) if (progress_of(folder) or (0, 0))[0] else ()


def _serve(folder: Path, open_page: Callable[[], object], enough: bool) -> None:
    """Have a page open until all of its pairs are answered, or there is `enough`. Raises Interrupted before that."""
    votes, left = progress_of(folder) or (0, 1)
    if left and not (enough and votes):
        open_page()
        _, left = progress_of(folder) or (0, 1)
        if left:
            raise Interrupted(f"{folder}: {left:,} pairs have no answer yet (--enough takes the votes that are there)")
    export_votes(folder)


def judge_policies(rounds: Rounds, number: int) -> Path:
    """The study in which the policy of a round meets that of the last one on held-out prompts; its folder."""
    common, folder = rounds.common, rounds.place(number) / JUDGED
    asking = Asking(
        rounds.reference,
        MEETING,
        rounds.max_new_tokens,
        common.max_length,
        common.micro_tokens,
        common.precision,
        common.device,
        common.template_options,
    )
    found = [rounds.policy(number), rounds.policy(number - 1)]
    caveats = [*rounds.caveats, *([TAUGHT] if rounds.voter else [])]
    meet_policies(found, rounds.held_out, asking, folder, Panel(rounds.jury), caveats=caveats)
    if rounds.voter is None:
        pages = rounds.pages
        page = folder / ARENA
        _serve(page, lambda: open_arena(folder, "arms", pages.address, ends=True, **pages.who), pages.enough)
        write_report(folder)
    return folder


TAUGHT = (
    "The judge here cast the votes that these policies learned from: its win rates say how far it was obeyed, and no "
    "more than that of what anybody else would say."
)


def weighted(ballot: Ballot, counts: Counter[str]) -> Ballot:
    """The ballot with each vote counted as often as its responses were drawn together, over all pairs of samples."""
    often = [counts[text] for text in ballot.responses]
    votes = (replace(vote, weight=vote.weight * often[vote.a] * often[vote.b]) for vote in ballot.votes)
    return replace(ballot, votes=tuple(votes))
