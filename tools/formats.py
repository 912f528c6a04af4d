"""Write docs/FORMATS.md from the table of layouts that the reader goes by.

PYTHONPATH=src:. python tools/formats.py
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path

from preftune.data.catalogue import ENDS, ORDERED, OWN, PUBLIC, SPREAD
from preftune.data.layout import Kind, Layout
from preftune.data.layouts import ROLES
from preftune.data.numbered import STEMS

PAGE = Path(__file__).parents[1] / "docs" / "FORMATS.md"
NAMED = 12  # variants that are written out; beyond that a rule is shorter
VERDICTS = {
    "label": "1: the first is better, 2: the second",
    "first_wins": "1: the first is better, 0: the second",
    "better_index": "0: the first is better, 1: the second; of a list of responses, the place of the best",
    "toward_second": "below 0: the first is better, above 0: the second, 0: a tie",
    "toward_first": "above 0: the first is better, below 0: the second, 0: a tie",
    "one_to_two": "1: the first is better, 2: the second, and what lies between",
    "winner": "a, b, tie, both_bad, or the name of a column or of a model",
    "score_a, score_b": "the higher one is better",
    "p": "the probability that the first is better",
    "votes": "counts under `a`, `b`, `tie` and `both_bad`",
}
HEAD = """# Preference files

`--data` takes a file, a folder of files, or a data set on the hub as `owner/name`, `owner/name:split`,
`owner/name:configuration` or `owner/name:configuration:split`. What a file is, is told by its content, not by its name:
first the container, then the layout of each row, by its columns. `preftune data convert FILE OUT` writes any of them as
canonical JSONL, and `preftune data convert FILE --preview 3` shows how its first rows are read. The examples below are
run by the tests, and this page is written by `tools/formats.py` from the table that the reader goes by.

**Containers.** JSON lines; JSON (a list of rows, an object that holds such a list, columns side by side as lists or as
pandas writes them, the `rows` of the data sets server); CSV (comma, semicolon or tab; the first line is the header);
Parquet and Arrow, of which only the columns that are read are looked at; each plain or gzipped. A folder is one that
`save_to_disk` wrote or a copy of a hub repository; where its files are of several splits, `FOLDER:SPLIT` chooses one.
Text is UTF-8. In CSV and Parquet, a missing value is a missing field. A CSV cell may hold a list or an object as JSON,
or as Python prints it; a cell that is neither is text. A number may be given as its text where that is a plain decimal
number (`3`, `0.5`, `1e-3`; not `1_000`, ` 3 ` or `nan`).

## What all layouts share

One row is one ballot: a prompt, its responses, and votes over them, but for the layouts that say otherwise. Ballots
are never merged, except by `data convert --merge-prompts`: one ballot per prompt, identical responses become one,
their votes are pooled.

The prompt is under `prompt`, else under `question`, `context`, `conversations` or `instruction` (with `input`, which
goes on a line below), else under `messages`, `input`, `query` and the like. It is a text or a chat: a list of
messages with `role` and `content`, or `from` and `value`, or such a list as JSON in a text. The content of a message
may be a list of parts, if all of them are text. A field `system` (or `system_prompt`; a text, or messages of the
system) makes the prompt a chat; beside a chat that has a system turn, it must say the same. `history` is a list of
earlier [question, reply].

A response is a text, a message, or messages that end with it; they may repeat the prompt, and then must repeat all of
it. Whole `Human: … Assistant: …` transcripts are split into turns: white space around turns goes, and successive turns
of one role become one. All responses of a row are transcripts or none is.

Any row may carry `id` (else the line or row number), `source`, `ended` (true or false for each response, in order:
whether it came to its own end), and `weight`, which multiplies its votes. Roles: `system` (`developer`), `user`
(`human`, `prompter`), `assistant` (`gpt`, `chatgpt`, `bot`, `model`).

Scores of one prompt that differ by no more than `--score-gap` (default 0) are a tie. Both responses bad is a tie that
is counted apart.

## Layouts

"""
TAIL = """## Other layouts: `--columns`

`--columns NAME=COLUMN,...` says which column is what; a column inside of another is `outer.inner`. What is named so
goes before what the reader would find by itself. An error about an unknown layout proposes such a line.

```
preftune data convert FILE --preview 3 --columns prompt=question,chosen=best,rejected=worst
preftune data convert FILE OUT --columns prompt=info.title,a=left,b=right,winner=verdict
```

{roles}

| name | values |
|---|---|
{verdicts}

What may mean two things is an error that has both readings: a `label` of 0, say, is the second response where 1 is the
first, and the first where 1 is the second.

## What is skipped, and what is an error

*Skipped and counted by reason*, because it can be read but not used: an empty response; identical responses; a prompt
that differs between the sides; no prompt; no votes; fewer than two responses; a response in another role than the
assistant's; a turn of another role; broken Unicode; a transcript beside a response that is none; a single response
with no other one to its prompt. So are rows that would lose something: images, audio and video, and a tool call or
reasoning in a form that is not known. In a group, an empty response goes alone, with its votes, as does one without a
rank or score, and copies of a response become one with their votes pooled; the row goes only if fewer than two
remain. If no row is left, that is an error.

*Kept for the chat template*: tool calls (`tool_calls`, `function_call`, or a turn of that role), turns of a tool,
reasoning (`reasoning_content`, `reasoning` or `thinking` of a turn), and `tools` or `functions` of the row. When the
row becomes tokens, the model's chat template writes them, or the row is skipped with the reason.

*An error*, with file and line (row number where there are no lines), because it cannot be read: a missing, empty or
damaged file, broken JSON, a row that is no object or of no layout above, a response that is not text, a label other
than 1 and 2, a `p` outside [0, 1], negative votes, ranks or scores that are no finite numbers or of another number
than the responses, an `ended` that is no list of true and false, an `input` or `system` that is no text, two columns
of one title, a key that stands twice in an object; and because it says two things: winners, system texts or turns
that contradict each other. The error says how many more rows cannot be read; `--skip-bad` leaves them out and counts
them, with file, line and reason. What is ambiguous is never left out: the rows that remain would be a biased choice.

## Prompts for evaluation

`--prompts` takes any file above (its distinct prompts), rows with a prompt alone, MT-bench questions (their first
turn), chats (up to the assistant's last turn), and a `.txt` file with one prompt a line.

```json prompts
{{"prompt": "Name a river."}}
{{"turns": ["Name a river.", "Another one."]}}
{{"messages": [{{"role": "user", "content": "Name a river."}}, {{"role": "assistant", "content": "The Nile."}}]}}
```
"""


def page() -> str:
    """All of docs/FORMATS.md."""
    verdicts = "\n".join(f"| `{name.replace(', ', '`, `')}` | {text} |" for name, text in VERDICTS.items())
    roles = _wrapped(f"The names are {_listed(f'`{role}`' for role in ROLES)}. Who won is said by one of these:")
    layouts = "\n".join(map(section, (*OWN, *SPREAD, *ORDERED, *PUBLIC)))
    return HEAD + layouts + "\n" + TAIL.format(roles=roles, verdicts=verdicts)


def section(layout: Layout) -> str:
    """A layout: what it means, its columns, where it is documented, and its examples."""
    title = layout.name[:1].upper() + layout.name[1:]
    source = f" Source: {layout.source}." if layout.source else ""
    lines = [_wrapped(f"**{title}.** {layout.about} {_columns(layout)}{source}"), ""]
    single = [example for example in layout.examples if not isinstance(example, tuple)]
    if single:
        lines += ["```json", *map(json.dumps, single), "```", ""]
    for example in layout.examples:
        if isinstance(example, tuple):
            lines += ["```json together", *map(json.dumps, example), "```", ""]
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _columns(layout: Layout) -> str:
    if len(layout.kinds) > NAMED and layout.kinds[1].paths.keys() == {"a", "b"}:
        ends = _listed(f"`{one}`/`{two}`" for one, two in ENDS)
        stems = _listed(f"`{stem}`" for stem in STEMS)
        return f"Columns: `a` and `b`; or any of {stems} with {ends}."
    names = dict.fromkeys(", ".join(f"`{name}`" for name in _needed(kind)) for kind in layout.kinds)
    shown = list(names)[:NAMED]
    return f"Columns: {'; or '.join(shown)}{'; and the like' if len(names) > NAMED else ''}."


def _needed(kind: Kind) -> list[str]:
    firm = [path for role, path in kind.paths.items() if role not in kind.loose]
    return list(dict.fromkeys([*firm, *kind.layout.beside]))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
