"""The table of findings: every look at a checked file, each a pure function of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import about_rows, about_rules, about_votes
from .checked import Checked
from .finding import ERROR, SEVERITIES, WARNING, Finding, Found

LOOKS: Sequence[Callable[[Checked], Found]] = (
    about_rows.unusable,
    about_rows.broken,
    about_rows.skipped,
    about_rows.noted,
    about_rows.leaks,
    about_rows.texts,
    about_rows.roles,
    about_votes.contradictions,
    about_votes.circles,
    about_votes.agreement,
    about_votes.ties,
    about_votes.annotators,
    about_votes.place,
    about_rules.length_rule,
    about_rules.words,
    about_rules.tells,
    about_rules.one_model,
    about_rules.likenesses,
    about_rules.cuts,
    about_votes.repeats,
)


def findings_of(checked: Checked) -> tuple[Finding, ...]:
    """All findings, the worst first."""
    found = [finding for look in LOOKS for finding in look(checked)]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def fails_strictly(findings: Sequence[Finding]) -> bool:
    """Whether a file is not as it should be: an error or a warning."""
    return any(finding.severity in (ERROR, WARNING) for finding in findings)
