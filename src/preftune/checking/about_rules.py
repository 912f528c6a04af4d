"""Findings about responses: what simple rules make of the votes, whether one model wrote both sides, what is cut."""

from __future__ import annotations

from ..evidence import Estimate
from .checked import Checked
from .finding import NOTE, WARNING, Finding, Found, by_share, percent, plural
from .rules import FEWEST, WHITE_SPACE, Tell

SOLVED = 0.7  # of decided votes: a length rule that gets so many right has solved the data
WORDS_SOLVE = 0.8  # the same of a model of words
TOLD = 0.65  # the same of something that a response shows at a glance
APART = 0.75  # words that tell the first response from the second so often: two writers
MIXED = 0.1  # share of pairs in which one response has white space where the other has none
CUT = 0.05  # share of ballots that --max-length may shorten
SHOWS = 0.02  # a tell is worth a note from so far above or below ½ on


def sample_words(checked: Checked) -> str:
    """` (of a sample of 20,000)` where it is one."""
    sample = checked.tally.sample
    return f" (of a sample of {len(sample.ballots):,})" if sample.met > len(sample.ballots) else ""


def length_rule(checked: Checked) -> Found:
    lengths = checked.tally.lengths
    decided = lengths.longer_won + lengths.shorter_won + lengths.same_length
    if not decided:
        return
    name, wins = max((("longer", lengths.longer_won), ("shorter", lengths.shorter_won)), key=lambda one: one[1])
    says = f"The {name} response wins {percent(wins, decided)} of {decided:,} decided votes."
    fitted = checked.rules.fitted.get("length")
    if fitted:
        says += f" A fitted length rule agrees with {100 * fitted.value:.0f}% of held-out votes."
    if wins >= SOLVED * decided and decided >= FEWEST:
        do = f"a model will learn to write {name} responses: balance the lengths, or compare at equal length"
        yield Finding("length", WARNING, says, do, wins, decided)
    else:
        yield Finding("length", NOTE, says, "", wins, decided)


def words(checked: Checked) -> Found:
    rules = checked.rules
    found = rules.fitted.get("tfidf")
    if not found:
        return
    says = f"Words alone (TF-IDF) agree with {100 * found.value:.0f}% of {rules.held_out:,} held-out votes."
    if _low(found) >= WORDS_SOLVE:
        do = "the votes follow words rather than answers, or the sides come from two writers: read some"
        yield Finding("words", WARNING, says, do, 0, rules.held_out)
    else:
        yield Finding("words", NOTE, says, "", 0, rules.held_out)


def _low(found: Estimate) -> float:
    """What an estimate is at least."""
    return found.value - 2 * (found.se or 0.0)


def tells(checked: Checked) -> Found:
    rules = checked.rules
    for tell in rules.tells[:3]:
        away = abs(tell.agrees.value - 0.5)
        if away < max(SHOWS, 3 * (tell.agrees.se or 0.0)):
            continue
        strong = away >= TOLD - 0.5
        do = "a model will learn this instead of the answer: make both sides alike in it" if strong else ""
        yield Finding("tell", WARNING if strong else NOTE, _told(tell), do, 0, rules.decided)


def _told(tell: Tell) -> str:
    preferred, other = percent(tell.preferred, 1), percent(tell.other, 1)
    return (
        f"{tell.name[0].upper()}{tell.name[1:]}: in {preferred} of the preferred responses, in {other} of the others."
    )


def one_model(checked: Checked) -> Found:
    models, ballots = checked.tally.votes.models, checked.tally.reading.ballots
    two = sum(count for names, count in models.items() if names is None or len(set(names)) > 1)
    do = "IPO and DPO assume that both were sampled from one model: continue on samples of your own if you can"
    if two:
        says = f"In {plural(two, 'ballot')} of {ballots:,} different models wrote the responses, as the rows say."
        yield Finding("models", NOTE, says, do, two, ballots)
    for tell in checked.rules.tells:
        if tell.name in WHITE_SPACE and tell.mixed >= MIXED:
            says = f"In {percent(tell.mixed, 1)} of the pairs one response has {tell.name} and the other has not."
            do_so = f"one model's samples are alike in that. {do[0].upper()}{do[1:]}"
            yield Finding("mixed", NOTE, says, do_so, 0, checked.rules.decided)
    yield from _writers(checked, do)


def _writers(checked: Checked, do: str) -> Found:
    """Whether each side looks like a writer's own; where the first always wins, `words` tells what they say of both."""
    found = checked.rules.fitted.get("tfidf") if checked.winner_first else checked.rules.sides
    if not found:
        return
    sides = "preferred and other responses" if checked.winner_first else "the first and the second response"
    says = f"Words tell {sides} apart in {100 * found.value:.0f}% of held-out pairs"
    ballots = checked.tally.reading.ballots
    if _low(found) >= APART:
        yield Finding("two-writers", WARNING, f"{says}: they look like two writers'.", do, 0, ballots)
    else:
        yield Finding("one-writer", NOTE, f"{says}: no sign of two writers, one for each side.", "", 0, ballots)


def likenesses(checked: Checked) -> Found:
    rules, sample = checked.rules, sample_words(checked)
    for key, count, says, do in (
        ("same-words", rules.same_words, "differ in case, marks or white space only", "such votes teach punctuation"),
        ("near", rules.near, "have nine in ten pairs of words in common", ""),
        ("beginning", rules.beginnings, "are the beginning of the other", "was one of them cut?"),
    ):
        if count:
            what = f"{plural(count, 'compared pair')} of {rules.pairs:,}{sample}"
            says = f"{what} {says}." if key != "beginning" else f"In {what} one response is the beginning of the other."
            yield Finding(key, by_share(count, rules.pairs, 0.05), says, do, count, rules.pairs)


def cuts(checked: Checked) -> Found:
    tokens = checked.tokens
    if not tokens:
        return
    of = f"{plural(tokens.too_long, 'ballot')} of {tokens.ballots:,}{sample_words(checked)}"
    if tokens.too_long:
        says = f"{of} are longer than --max-length {tokens.max_length:,}; the longest has {tokens.whole[-1]:,} tokens."
        do = f"--max-length {tokens.whole[-2]:,} would hold 99% of them"
        yield Finding("cut", by_share(tokens.too_long, tokens.ballots, CUT), says, do, tokens.too_long, tokens.ballots)
    for reason, count in tokens.skipped.items():
        says = f"{plural(count, 'ballot')}{sample_words(checked)} will be skipped: {reason}."
        yield Finding("token-skip", by_share(count, tokens.ballots), says, "", count, tokens.ballots)
    if tokens.specials:
        named = ", ".join(f"{token} in {count:,}" for token, count in list(tokens.specials.items())[:6])
        says = f"Special tokens of the model stand in texts{sample_words(checked)}: {named}."
        do = "cut them out of the texts"
        yield Finding("specials", WARNING, says, do, max(tokens.specials.values()), tokens.ballots)
