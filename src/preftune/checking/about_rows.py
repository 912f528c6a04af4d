"""Findings about rows, prompts and texts."""

from __future__ import annotations

from .checked import Checked
from .finding import ERROR, NOTE, WARNING, Finding, Found, by_share, percent, plural
from .tally import ROLES
from .texts import CONTROL, DAMAGE, Spot

ADVICE = {  # by a word of the reason
    "empty": "find out why it is empty; a refusal to answer must be written out to be learned",
    "identical": "nothing can be learned from them; delete them, and look for what copied one side over the other",
    "differs between": "both responses must answer the same prompt; look for turns that were edited on one side",
    "role": "rename the role, or take the turn out",
    "tool": "they need a template that renders tools",
    "reasoning": "put the reasoning into the text, or take it out",
    "no prompt": "put what the model sees under `prompt`",
    "no votes": "say who was preferred, or take the row out",
    "Unicode": "write the file again as UTF-8",
    "assistant": "the last turn of each side must be the assistant's",
}


def unusable(checked: Checked) -> Found:
    reading = checked.tally.reading
    if reading.ballots:
        return
    if reading.prompts_alone == reading.rows:
        do = "all of them hold a prompt: the file serves as --prompts"
    else:
        do = (reading.broken or reading.skipped).most_common(1)[0][0]
    yield Finding("no-ballots", ERROR, "No row can be used as a ballot.", do, reading.rows, reading.rows)


def broken(checked: Checked) -> Found:
    reading = checked.tally.reading
    if reading.ballots and (count := reading.broken.total()):
        reason, times = reading.broken.most_common(1)[0]
        says = f"{plural(count, 'row')} cannot be read: {times:,} × {reason}"
        spots = tuple(spot for reason in reading.broken for spot in reading.spots[reason])[:3]
        do = "mend or delete them: training stops at the first"
        yield Finding("broken", ERROR, says, do, count, reading.rows, spots)


def skipped(checked: Checked) -> Found:
    reading = checked.tally.reading
    for reason, count in reading.skipped.most_common():
        do = next((advice for word, advice in ADVICE.items() if word in reason), "")
        says = f"{plural(count, 'row')} ({percent(count, reading.rows)}) will be skipped: {reason}."
        severity = by_share(count, reading.rows)
        yield Finding("skipped", severity, says, do, count, reading.rows, tuple(reading.spots[reason]))
    if reading.dropped:
        says = (
            f"{plural(reading.dropped, 'response')} will be left out of ballots that stay: empty, or a copy of another."
        )
        yield Finding("dropped", NOTE, says, "", reading.dropped, reading.ballots)


def leaks(checked: Checked) -> Found:
    found = checked.leak
    if found and found.alike:
        says = (
            f"Also in {checked.eval_file}: {plural(found.alike, 'prompt')} of its {found.prompts:,} "
            f"({found.same:,} to the letter)."
        )
        do = "take them out of one of the two: what is measured on them is not held out"
        spots = tuple(Spot(row, "in the evaluation file") for row in found.rows)
        yield Finding("leak", ERROR, says, do, found.alike, found.prompts, spots)
    elif found:
        yield Finding("leak", NOTE, f"No prompt of {checked.eval_file} is in this file.", "", 0, found.prompts)
    for first, second, shared in checked.contests.split_leaks:
        says = f"The splits {first!r} and {second!r} share {plural(shared, 'prompt')}."
        yield Finding("split-leak", ERROR, says, "take them out of one of the two", shared, checked.contests.prompts)


def roles(checked: Checked) -> Found:
    prompts = checked.tally.prompts
    advice = {
        "two_users": "many chat templates refuse it: join the turns",
        "two_assistants": "many chat templates refuse it: join the turns",
        "late_system": "many chat templates refuse it: move it to the beginning",
        "assistant_first": "many chat templates refuse it: put the user's turn before it",
        "not_asked": "the response continues whatever stands last: is a turn missing?",
        "empty_turn": "was something lost there?",
    }
    for problem, count in prompts.roles.most_common():
        says = f"{plural(count, 'prompt')} of {prompts.chats:,} chats: {ROLES[problem]}."
        spots = tuple(prompts.spots[problem])
        yield Finding("roles", by_share(count, prompts.chats), says, advice[problem], count, prompts.chats, spots)


def texts(checked: Checked) -> Found:
    found, rows = checked.tally.texts, checked.tally.reading.rows
    for kind, count in found.rows.most_common():
        says = f"{plural(count, 'row')} ({percent(count, rows)}) hold {kind}."
        if kind == CONTROL.name:
            tokens = ", ".join(f"{token} in {times:,}" for token, times in found.tokens.most_common(6))
            severity, do = WARNING, "what a template writes must not stand in a text: cut it out, with what follows it"
            says = f"{says[:-1]}: {tokens}."
        elif kind in DAMAGE:
            severity, do = (
                by_share(count, rows),
                "find the step that damaged the text, and run it again from the source",
            )
        else:
            severity, do = WARNING, "a model can learn it by heart: take it out, and revoke it if it is real"
            says = f"{plural(count, 'row')} hold what looks like a secret: {kind}."
        yield Finding("texts", severity, says, do, count, rows, tuple(found.spots[kind]))
