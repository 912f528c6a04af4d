"""A checked file as one self-contained HTML page without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from ..data import Ballot, Prompt
from ..evidence import Estimate
from ..files import write_named
from ..masking import mask
from ..page import script_policy
from ..report import Folded, fold
from ..text import harmless
from .charts import lengths_chart
from .checked import Checked
from .finding import SEVERITIES, Finding, percent, plural
from .record import fields_of
from .tally import ROLES

BALLOTS_SHOWN = 3
ANSWERS_SHOWN = 6
COLOURS = 6
RULES = {"length": "a fitted length rule", "tfidf": "words (TF-IDF)"}


def write_page(checked: Checked, findings: Sequence[Finding], path: Path) -> None:
    """Write the page: all of it or nothing. Raises UserError if the file cannot be written."""
    write_named(path, page_of(checked, findings).encode(), flag="--html")


def page_of(checked: Checked, findings: Sequence[Finding]) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("preftune.checking", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printed,
    )
    tally = checked.tally
    return environment.get_template("page.html.j2").render(
        title=Path(checked.file).name or checked.file,
        unit="line " if tally.reading.unit == ":" else "row ",
        counts=counts_line(checked),
        verdict=verdict_line(findings),
        findings=findings,
        rows=_rows(checked),
        votes=_parts([("preferred", tally.votes.hard), ("a share", tally.votes.soft), ("ties", tally.votes.ties)]),
        vote_facts=_vote_facts(checked),
        models=[(mask(" / ".join(names or ("others",))), count) for names, count in tally.votes.models.most_common(12)],
        chart=lengths_chart(tally.lengths) if checked.contests.prompts else None,
        tokens=asdict(checked.tokens) if checked.tokens else None,
        cuts=_cuts(checked),
        rules=_rules(checked),
        rules_note=_rules_note(checked),
        prompt_facts=_prompt_facts(checked),
        texts=[(kind, count) for kind, count in tally.texts.rows.most_common()],
        fields=[field | {"share": percent(field["filled"], tally.reading.rows)} for field in fields_of(checked)],
        ballots=_ballots(checked),
        how=_how(checked),
        policy="; ".join(script_policy([])),
    )


def _printed(value: Any) -> Any:
    """Text without anything hidden, whole numbers with commas, None as a dash."""
    if type(value) is str:
        return harmless(value)
    if value is None:
        return "–"
    return f"{value:,}" if type(value) is int else value


def counts_line(checked: Checked) -> str:
    """`2,354 rows · 2,339 ballots · 2,339 votes · 2,354 prompts`."""
    reading, votes = checked.tally.reading, checked.tally.votes
    counts = [(reading.rows, "row"), (reading.ballots, "ballot"), (votes.votes, "vote")]
    counts.append((checked.contests.prompts, "distinct prompt"))
    return " · ".join(plural(count, name) for count, name in counts)


def verdict_line(findings: Sequence[Finding]) -> str:
    """`1 error, 2 warnings, 4 notes`."""
    counts = [sum(finding.severity == severity for finding in findings) for severity in SEVERITIES]
    return ", ".join(plural(count, severity) for count, severity in zip(counts, SEVERITIES, strict=True))


def _parts(counts: Sequence[tuple[str, int]]) -> list[Mapping[str, Any]]:
    total = sum(count for _, count in counts)
    return [
        {"name": name, "count": count, "grow": str(count), "share": percent(count, total), "colour": place % COLOURS}
        for place, (name, count) in enumerate(counts)
        if count
    ]


def _rows(checked: Checked) -> list[Mapping[str, Any]]:
    reading = checked.tally.reading
    if not reading.ballots:
        alone = reading.prompts_alone
        return _parts([("a prompt and no ballot", alone), ("neither", reading.rows - alone)])
    skipped = [(f"skipped: {reason}", count) for reason, count in reading.skipped.most_common()]
    return _parts([("ballots", reading.ballots), *skipped, ("not readable", reading.broken.total())])


def _vote_facts(checked: Checked) -> list[tuple[str, Any]]:
    votes, contests = checked.tally.votes, checked.contests
    sizes = sorted(votes.responses.items())
    facts: list[tuple[str, Any]] = [
        ("responses in a ballot", ", ".join(f"{size} in {count:,}" for size, count in sizes[:12])),
        ("votes, and their weight", f"{votes.votes:,}, {votes.weight:,.6g}"),
        ("rows with a vote for neither side", votes.rows_with_tie),
        ("pairs compared", contests.pairs),
        ("pairs that won in one row and lost in another", contests.contradicted),
        ("prompts on which majorities run in a circle", contests.circles),
        ("votes that repeat another row's", contests.repeated_votes),
    ]
    if contests.agreement:
        found = contests.agreement
        unanimous = percent(found.unanimous, found.pairs)
        facts.append(("Krippendorff's α (nominal: a, b, neither)", f"{found.alpha}"))
        facts.append(("pairs with two votes or more", f"{found.pairs:,}, {unanimous} of them unanimous"))
    if votes.annotators:
        facts.append(("annotators", len(votes.annotators)))
    if votes.ended:
        facts.append(("responses that did not come to their own end", votes.ended))
    decided = votes.first_won + votes.second_won
    if decided:
        facts.append(("decided votes won by the response listed first", percent(votes.first_won, decided)))
    return facts


def _prompt_facts(checked: Checked) -> list[tuple[str, Any]]:
    prompts, contests = checked.tally.prompts, checked.contests
    turns = ", ".join(f"{size} in {count:,}" for size, count in sorted(prompts.turns.items())[:12])
    facts: list[tuple[str, Any]] = [
        ("distinct prompts", contests.prompts),
        ("of these, in several rows", contests.repeated_prompts),
        ("differ from another in case or white space only", contests.nearly_same_prompts),
        ("as plain text", prompts.plain),
        ("as chats", prompts.chats),
    ]
    if prompts.chats:
        facts += [("with a system turn", prompts.systems), ("turns in a chat", turns)]
    facts += [(ROLES[problem], count) for problem, count in prompts.roles.most_common()]
    if checked.leak:
        facts.append((f"prompts of {Path(checked.eval_file).name} that are here too", checked.leak.alike))
    return facts


def _cuts(checked: Checked) -> list[tuple[str, Any]]:
    tokens = checked.tokens
    if not tokens:
        return []
    longer = (f"ballots longer than --max-length {tokens.max_length:,}", tokens.too_long)
    return [longer, *tokens.cut.items(), *((f"skipped: {reason}", n) for reason, n in tokens.skipped.items())]


def _rules(checked: Checked) -> list[Mapping[str, Any]]:
    rules, lengths = checked.rules, checked.tally.lengths
    decided = lengths.longer_won + lengths.shorter_won + lengths.same_length
    if not rules.decided:
        return []
    longer = (lengths.longer_won + lengths.same_length / 2) / decided
    rows = [_rule("prefer the longer one", Estimate(longer, None), "all decided votes of the file")]
    held_out = f"fitted; {rules.held_out:,} held-out votes"
    rows += [_rule(RULES[name], found, held_out) for name, found in rules.fitted.items()]
    if rules.sides:
        rows.append(_rule("words tell the first from the second", rules.sides, "of the sides, not of the votes"))
    for tell in rules.tells:
        if tell.preferred or tell.other:
            shares = f"{percent(tell.preferred, 1)} of the preferred, {percent(tell.other, 1)} of the others"
            rows.append(_rule(f"prefer {tell.name}", tell.agrees, shares))
    return rows


def _rule(name: str, found: Estimate, about: str) -> Mapping[str, Any]:
    half = 2 * (found.se or 0.0)
    error = "–" if found.se is None else f"{100 * found.se:.1f}%"
    low, high = max(found.value - half, 0.0), min(found.value + half, 1.0)
    return {"name": name, "value": found.value, "error": error, "low": low, "high": high, "about": about}


def _rules_note(checked: Checked) -> str:
    rules = checked.rules
    shown = f"{plural(rules.decided, 'decided vote')} on {plural(rules.ballots, 'ballot')}"
    return (
        f"What a response shows is asked of {shown}; length and words are fitted to "
        f"{plural(rules.fitted_ballots, 'ballot')}, a fifth of the prompts held out. Errors are clustered by prompt; "
        "the broad line is two of them either way."
    )


def _ballots(checked: Checked) -> list[Mapping[str, Any]]:
    sample = checked.tally.sample.ballots
    count = min(BALLOTS_SHOWN, len(sample))
    chosen = [sample[(2 * i + 1) * len(sample) // (2 * count)] for i in range(count)]
    return [{"row": row, "prompt": _folded(_prompt(b.prompt), end=True), "answers": _answers(b)} for row, b in chosen]


def _answers(ballot: Ballot) -> list[Mapping[str, Any]]:
    won = [0.0] * len(ballot.responses)
    for vote in ballot.votes:
        won[vote.a] += vote.p * vote.weight
        won[vote.b] += (1 - vote.p) * vote.weight
    order = sorted(range(len(won)), key=lambda k: -won[k])[:ANSWERS_SHOWN]
    return [{"name": f"{won[k]:g} won", "text": _folded(ballot.responses[k])} for k in order]


def _prompt(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in prompt)


def _folded(text: str, *, end: bool = False) -> Folded:
    return fold(harmless(mask(text)), keep_end=end)


def _how(checked: Checked) -> str:
    sample = checked.tally.sample
    asked = "of all ballots"
    if sample.met > len(sample.ballots):
        asked = f"of {len(sample.ballots):,} ballots drawn by chance (seed {checked.seed})"
    rows = plural(checked.tally.reading.rows, "row")
    return (
        "Rows, votes, prompts and texts are counted over the whole file; likeness, rules and tokens are asked "
        f"{asked}. Strings that look like secrets are masked. {rows} in {checked.seconds:.1f} s."
    )
