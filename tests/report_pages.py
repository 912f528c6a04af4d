"""A report as a test reads it, studies spoilt by a hostile hand, and a synthetic study at its largest."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from preftune.evidence.results import Result, Sample, read_results, read_samples, read_study
from preftune.evidence.rows import write_json, write_records
from preftune.report import write_report

MARKUP = '</script><script>alert(1)</script><!--<img src=x onerror="alert(2)">'
EVIL = MARKUP + "'\"&amp;{{ 7*7 }}\u202egnp.exe\x1b[31m\x00\ud800\u2028"

PAYLOADS = (  # what each would do where it was trusted: run, load, close an element, hide, reorder, overflow
    "<script>window.pwned=1</script>",
    "<img src=x onerror='window.pwned=1'>",
    "<svg/onload=window.pwned=1>",
    "<iframe src=javascript:parent.pwned=1></iframe>",
    "<a href=javascript:window.pwned=1>x</a>",
    "<style>*{display:none}</style>",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<details open ontoggle=window.pwned=1>",
    "{{ 7*7 }}{% raw %}${7*7}<%= 7*7 %>",
    "__proto__",
    "\u202egnp.exe\u2066\u200b",
    "\x1b[31m\x00\x07",
    "\ud800\u2028\u2029",
    "=HYPERLINK(\"//evil.example\")",
    "][(`*_|~#@everyone https://evil.example",
    "&lt;script&gt;&#60;b&#62;&quot;",
    "\U0001f9e8" * 30 + "e\u0301" * 30,
    "W" * 400,
)  # fmt: skip
WRAPPERS = ("{}", '"{}', "'{}", "</script>{}", "<!--{}", "--></svg>{}", "</style>{}", "]]>{}", "</title>{}", "\\{}")
HOSTILE = tuple(wrapper.format(payload) for payload, wrapper in itertools.product(PAYLOADS, WRAPPERS))


class Page(HTMLParser):
    """What a browser would find in a page: its tags, its scripts, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.rows: list[list[str]] = []  # of all tables, cell by cell
        self.text = ""
        self._inside, self._cell = "", False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        self.text += " "
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        elif self._inside != "style":
            self.text += data
            if self._cell:
                self.rows[-1][-1] += data

    @property
    def words(self) -> str:
        """The text with single spaces."""
        return " ".join(self.text.split())

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        (text,) = (text for attrs, text in self.scripts if attrs.get("id") == "page-data")
        return json.loads(text)

    @property
    def tips(self) -> list[str]:
        """What the marks of all charts say."""
        return [attrs["data-tip"] or "" for _, attrs in self.tags if "data-tip" in attrs]


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def change(folder: Path, name: str, read: Callable[[Path], Any], edit: Callable[[Any], Any]) -> Path:
    write_records(folder / name, [edit(row) for row in read(folder / name)])
    return folder


def change_info(folder: Path, **fields: Any) -> Path:
    info = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    # as a hostile hand would write it: halves of surrogate pairs as their escapes
    (folder / "study.json").write_text(json.dumps(info | fields), encoding="utf-8")
    return folder


def spoil(folder: Path) -> Path:
    """Every text that a stranger may have written tries to act."""

    def spoil_sample(row: Sample) -> Sample:
        return replace(row, prompt=EVIL, response=EVIL, extra={EVIL: 1.0})

    def spoil_result(row: Result) -> Result:
        return replace(row, arm=row.arm if row.arm == "reference" else row.arm + EVIL, extra={EVIL: 1.0})

    change(folder, "samples.jsonl", read_samples, spoil_sample)
    change(folder, "results.jsonl", read_results, spoil_result)
    return change_info(folder, **hostile_info(folder, EVIL, lambda arm: arm + EVIL))


def hostile_info(folder: Path, text: str, name: Callable[[str], str]) -> dict[str, Any]:
    """Every text of study.json replaced, and every arm named anew."""
    arms = read_study(folder).info["arms"]
    return {
        "title": text,
        "command": text,
        "notes": [text],
        "arms": [name(arm) for arm in arms],
        "steps": {},
        "opinions": {text: text},
        "failed": {text: text},
        "settings": {text: text},
        "targets": {text: text},
        "versions": {text: text},
        "seconds": {text: 1.0},
        "model": {"name": text, text: text},
        "data": {"source": text, "skipped": {text: 1}},
        "gold": {"name": text, "description": text},
        "search": {"tried": [{"arm": text, "beta": text, "kl": None, "why": text}, 7]},
        "reward": {"kind": text, text: {"reliability": [text, {"predicted": text}], "held_out": text}},
        "budgets": {text: text},
        "preferences": {text: text},
        "calibration": {text: [text]},
    }


def write_hostile_study(folder: Path) -> Path:
    """200 hostile texts, each a prompt and a response; every other text and name of the study hostile too."""
    from synthetic_study import write_synthetic_study

    write_synthetic_study(folder, prompts=len(HOSTILE), samples=1, steps=(16, 32))

    def sample(row: Sample) -> Sample:
        text, other = HOSTILE[row.prompt_id], HOSTILE[(row.prompt_id + 1) % len(HOSTILE)]
        return replace(row, prompt=text, response=other, extra={text: 1.0} if row.prompt_id < 3 else {})

    def result(row: Result) -> Result:
        return row if row.arm == "reference" else replace(row, arm=f"{row.arm}[{EVIL}]")

    change(folder, "samples.jsonl", read_samples, sample)
    change(folder, "results.jsonl", read_results, result)
    info = hostile_info(folder, EVIL, lambda arm: f"{arm}[{EVIL}]")
    return change_info(folder, **info | {"notes": list(HOSTILE), "settings": {text: text for text in HOSTILE}})


def set_info(folder: Path, **fields: Any) -> Path:
    info = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    write_json(folder / "study.json", info | fields)
    return folder
