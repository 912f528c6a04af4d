"""Findings about votes: ties, agreement, contradictions, circles, repeats, who gave them."""

from __future__ import annotations

from .checked import Checked
from .finding import NOTE, WARNING, Finding, Found, by_share, percent, plural
from .texts import Spot

HARDLY = 0.2  # α below which annotators hardly agree


def ties(checked: Checked) -> Found:
    votes, reading = checked.tally.votes, checked.tally.reading
    if votes.rows_with_tie or votes.ties:
        says = (
            f"{plural(votes.rows_with_tie, 'row')} of {reading.rows:,} hold a vote for neither side; "
            f"{plural(votes.ties, 'vote')} of {votes.votes:,} used say ½ in all."
        )
        do = "a tie pulls both responses together: DPO and IPO aim at a margin of 0 there"
        yield Finding("ties", NOTE, says, do, votes.rows_with_tie, reading.rows)


def agreement(checked: Checked) -> Found:
    found = checked.contests.agreement
    if found:
        severity = WARNING if found.alpha.value < HARDLY else NOTE
        says = (
            f"Krippendorff's α is {found.alpha} on {plural(found.pairs, 'pair')} with two votes or more "
            f"({percent(found.unanimous, found.pairs)} of them unanimous)."
        )
        do = "votes are mostly noise: keep them as shares (p), and try --label-smoothing" if severity == WARNING else ""
        yield Finding("agreement", severity, says, do, found.pairs, checked.contests.pairs)


def contradictions(checked: Checked) -> Found:
    contests = checked.contests
    if contests.contradicted:
        says = f"{plural(contests.contradicted, 'pair')} of {contests.pairs:,} won in one row and lost in another."
        people = bool(checked.tally.votes.annotators)
        severity = NOTE if people else by_share(contests.contradicted, contests.pairs)
        keep = "" if people else "keep the right row; if both are real votes, "
        do = f"{keep}data convert --merge-prompts pools them"
        spots = tuple(Spot(row, "") for row in contests.contradicted_rows)
        yield Finding("contradictions", severity, says, do, contests.contradicted, contests.pairs, spots)


def circles(checked: Checked) -> Found:
    contests = checked.contests
    if contests.circles:
        says = (
            f"On {plural(contests.circles, 'prompt')} of {contests.prompts:,} majorities run in a circle "
            "(a over b, b over c, c over a)."
        )
        do = "no score explains them: a reward model and DPO average over them, IPO needs no score"
        severity = by_share(contests.circles, contests.prompts)
        spots = tuple(Spot(row, "") for row in contests.circle_rows)
        yield Finding("circles", severity, says, do, contests.circles, contests.prompts, spots)


def repeats(checked: Checked) -> Found:
    contests, votes = checked.contests, checked.tally.votes
    if contests.repeated_votes:
        says = f"{plural(contests.repeated_votes, 'vote')} of {votes.votes:,} say again what another row said."
        do = "" if votes.annotators else "if they are copies of a row, delete them; they count double"
        severity = NOTE if votes.annotators else by_share(contests.repeated_votes, votes.votes)
        yield Finding("repeats", severity, says, do, contests.repeated_votes, votes.votes)
    if contests.repeated_prompts:
        says = (
            f"{plural(contests.repeated_prompts, 'prompt')} of {contests.prompts:,} stand in several rows "
            f"(up to {contests.most_rows:,})."
        )
        do = "--eval-fraction keeps the rows of a prompt together; a split of your own must do so too"
        yield Finding("repeated-prompts", NOTE, says, do, contests.repeated_prompts, contests.prompts)
    if contests.nearly_same_prompts:
        says = f"{plural(contests.nearly_same_prompts, 'prompt')} differ from others in case or white space only."
        yield Finding("nearly-same-prompts", NOTE, says, "", contests.nearly_same_prompts, contests.prompts)


def place(checked: Checked) -> Found:
    votes = checked.tally.votes
    decided = votes.first_won + votes.second_won
    share = votes.first_won / decided if decided else 0.5
    if not checked.winner_first and decided and abs(share - 0.5) > max(2 * decided**-0.5, 0.05):
        says = f"The first response wins {percent(votes.first_won, decided)} of {decided:,} decided votes."
        do = "if responses were shown in this order, annotators may favour a place: shuffle the sides next time"
        yield Finding("place", WARNING if abs(share - 0.5) > 0.1 else NOTE, says, do, votes.first_won, decided)


def annotators(checked: Checked) -> Found:
    names = checked.tally.votes.annotators
    if names:
        most, total = max(names.values()), names.total()
        busiest = percent(most, total)
        says = f"{plural(len(names), 'annotator')} gave {plural(total, 'vote')}; the busiest {busiest} of them."
        yield Finding("annotators", NOTE, says, "", most, total)
