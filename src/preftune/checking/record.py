"""A checked file as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..evidence import Estimate
from ..masking import mask
from .checked import Checked
from .finding import Finding
from .tally import ROLES
from .tokens import QUANTILES

SCHEMA = 1


def record_of(checked: Checked, findings: Sequence[Finding]) -> dict[str, Any]:
    """What was found out, as numbers; schema 1."""
    tally, contests = checked.tally, checked.contests
    reading, votes, prompts, lengths = tally.reading, tally.votes, tally.prompts, tally.lengths
    return {
        "schema": SCHEMA,
        "file": checked.file,
        "seconds": round(checked.seconds, 2),
        "seed": checked.seed,
        "sample": len(tally.sample.ballots),
        "rows": reading.rows,
        "ballots": reading.ballots,
        "prompts_alone": reading.prompts_alone,
        "skipped": dict(reading.skipped),
        "broken": dict(reading.broken),
        "dropped": reading.dropped,
        "noted": dict(reading.noted),
        "fields": fields_of(checked),
        "responses": {str(count): ballots for count, ballots in sorted(votes.responses.items())},
        "votes": {
            "votes": votes.votes,
            "weight": votes.weight,
            "hard": votes.hard,
            "soft": votes.soft,
            "ties": votes.ties,
            "rows_with_tie": votes.rows_with_tie,
            "first_won": votes.first_won,
            "second_won": votes.second_won,
            "annotators": len(votes.annotators),
            "models": {mask(" / ".join(names)): count for names, count in votes.models.most_common(50) if names},
        },
        "agreement": _plain(contests.agreement),
        "prompts": {
            "distinct": contests.prompts,
            "repeated": contests.repeated_prompts,
            "most_rows": contests.most_rows,
            "nearly_same": contests.nearly_same_prompts,
            "plain": prompts.plain,
            "chats": prompts.chats,
            "with_system": prompts.systems,
            "turns": {str(count): chats for count, chats in sorted(prompts.turns.items())},
            "roles": {ROLES[problem]: count for problem, count in prompts.roles.items()},
        },
        "contests": {
            "pairs": contests.pairs,
            "contradicted": contests.contradicted,
            "circles": contests.circles,
            "repeated_votes": contests.repeated_votes,
        },
        "lengths": {
            "longer_won": lengths.longer_won,
            "shorter_won": lengths.shorter_won,
            "same_length": lengths.same_length,
        },
        "rules": _plain(checked.rules),
        "texts": dict(tally.texts.rows),
        "control_tokens": dict(tally.texts.tokens.most_common(50)),
        "tokens": None if checked.tokens is None else {"quantiles": QUANTILES} | _plain(checked.tokens),
        "leak": None if checked.leak is None else {"file": checked.eval_file} | _plain(checked.leak),
        "split_leaks": [list(one) for one in contests.split_leaks],
        "findings": [
            asdict(finding) | {"spots": [{"row": spot.row, "text": spot.text} for spot in finding.spots]}
            for finding in findings
        ],
    }


def fields_of(checked: Checked) -> list[dict[str, Any]]:
    """Every field of the rows: how many rows fill it, with which types, and the first of it."""
    fields = checked.tally.fields
    kinds: dict[str, Counter[str]] = {name: Counter() for name in fields.first}
    for (name, kind), count in fields.filled.items():
        kinds[name][kind.__name__] += count
    return [
        {
            "name": mask(name),
            "filled": found.total(),
            "types": [kind for kind, _ in found.most_common()],
            "first": first,
        }
        for (name, found), first in zip(kinds.items(), fields.first.values(), strict=True)
    ]


def _plain(value: Any) -> Any:
    """Records as mappings, estimates as a value and its standard error."""
    if isinstance(value, Estimate):
        return {"value": value.value, "se": value.se}
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
