"""A study as one self-contained HTML page: what the template is filled with, and the page's own scripts and styles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from ..evidence import StudyRecord, Verdict
from ..page import inline, script_policy
from ..text import harmless
from .beside import Beside, across, of_same_arms
from .calibration import calibration_panels, reward_reliability
from .cards import cards, headline, in_sight, progress
from .curves import RATIOS, length_panel, training_panels
from .downloads import downloads
from .facts import DATA_WORDS, Fact, compared, duration, facts, look_rows, rate_rows
from .folding import cut
from .frontier import frontier_panels, proxy_panels
from .judging import opinions
from .jury import judging_of
from .looks import dashes, looks
from .matrix import Cell, Matrix, win_matrix
from .samples import IN_SIGHT, as_data, gallery, script_json
from .tables import (
    best_rows,
    budget_rows,
    cells_of,
    columns_of,
    comparison_row,
    fits_of_judges,
    judge_fits,
    lines_of,
    noise_rows,
    preference_rows,
    reward_rows,
    search_rows,
)

ALARMS_IN_SIGHT = 3
FEW_CARDS = 3  # up to which each has its numbers in sight
STYLES = ("theme.css", "chart.css", "report.css")
SECTIONS = {  # of the page, where it has them: place, and words in the navigation
    "conclude": "conclusions",
    "differ": "what differs",
    "results": "results",
    "wins": "wins",
    "judges": "judges",
    "over": "over-optimisation",
    "noise": "label noise",
    "calibration": "calibration",
    "training": "training",
    "length": "length",
    "samples": "samples",
    "data": "data",
    "costs": "costs",
    "reproduce": "reproduce",
}


def page_of(study: StudyRecord, answer: Verdict, beside: Beside | None = None) -> str:
    """The page; `beside` is what it says of two studies that were put beside each other as one."""
    shown = gallery(study)
    fill = (
        _answer(study, answer, beside)
        | _quality(study)
        | judging_of(study, answer)
        | _on_the_way(study)
        | _origin(study)
        | {"beside": beside}
    )
    fill |= _shell(downloads(study, answer), as_data(shown, study)) | {"gallery": shown, "in_sight": IN_SIGHT}
    sections = [(place, words) for place, words in SECTIONS.items() if _has(place, fill)]
    return _environment().get_template("page.html.j2").render(fill, sections=sections)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("preftune.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printed,
    )


def _printed(value: Any) -> Any:
    """How the template prints a value: text without anything hidden, whole numbers with commas, None as a dash."""
    if type(value) is str:
        return cut(harmless(value))
    if value is None:
        return "–"
    if type(value) is int:
        return f"{value:,}"
    if type(value) is float:
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:g}"
    return value


def _has(place: str, fill: Mapping[str, Any]) -> bool:
    judged = fill["info"]["gold"] or fill["rewards"] or fill["opinions"] or fill["judge_rows"] or fill["contests"]
    shown = {
        "differ": fill["beside"],
        "wins": fill["matrix"],
        "judges": judged,
        "over": fill["proxies"],
        "noise": fill["noise_rows"],
        "calibration": fill["calibration"],
        "training": fill["training"],
        "length": fill["length"],
        "samples": fill["gallery"].exchanges,
        "costs": fill["budgets"],
    }
    return bool(shown.get(place, True))


# --- what the template is filled with ---------------------------------------------------------------------------------


def _answer(study: StudyRecord, answer: Verdict, beside: Beside | None) -> dict[str, Any]:
    """The first screen, and the tables behind it; of two studies, first of all what lies between them."""
    columns = columns_of(study, answer)
    lines = lines_of(study, columns)
    frontiers = frontier_panels(study, answer)
    found = cards(study, across(answer) if beside else answer)
    return {
        "info": study.info,
        "answer": answer,
        "question": study.info["title"] or f"Which of {', '.join(study.info['arms'])} earns it?",
        "headline": headline(study, of_same_arms(answer) if beside else answer),
        "progress": progress(study),
        "compared": compared(study),
        "judge": str((study.info["gold"] or {}).get("name", "")),
        "cards": found,
        "cards_in_sight": in_sight(found),
        "compact": len(found) > FEW_CARDS,
        "alarms": (answer.alarms[:ALARMS_IN_SIGHT], answer.alarms[ALARMS_IN_SIGHT:]),
        "frontiers": frontiers,
        "brackets": answer.frontiers and len(looks(study)) <= 6,
        "proxies": proxy_panels(study, answer),
        "best": best_rows(study, answer),
        "chosen": any(best.among > 1 for best in answer.best),
        "comparisons": [comparison_row(pair, len(study.noises()) > 1) for pair in answer.comparisons],
        "columns": [(column.title, column.unit) for column in columns],
        "lines": list(zip(lines, cells_of(lines), strict=True)),
        "several_seeds": any(line.minor for line in lines),
        "noises": study.noises(),
        "noise_heads": [(f"{100 * noise:.3g}% flipped", "") for noise in study.noises()],
        "noise_rows": noise_rows(study),
    }


def _quality(study: StudyRecord) -> dict[str, Any]:
    """Who wins, who judges, and how good they are."""
    reward = study.info["reward"]
    return {
        "matrix": _matrix(win_matrix(study)),
        "opinions": opinions(study),
        "rewards": reward_rows(reward) + judge_fits(study),
        "reward_kind": reward.get("kind", ""),
        "reliability": reward_reliability({**reward, **fits_of_judges(study)}),
        "preferences": preference_rows(study),
        "calibration": calibration_panels(study),
    }


def _matrix(found: Matrix | None) -> Mapping[str, Any] | None:
    """The win matrix with the tint of its cells: the further from one half, the stronger."""
    if found is None:
        return None
    rows = [[cell and _tinted(cell) for cell in row] for row in found.rows]
    heads = [(entry.name, "") for entry in found.entries]
    return {"heads": heads, "lines": list(zip(found.entries, rows, strict=True)), "note": found.note}


def _tinted(cell: Cell) -> Mapping[str, Any]:
    weight = f"{min(abs(cell.share - 0.5) * 1.2, 0.4):.2f}"
    return cell._asdict() | {"weight": weight, "side": "high" if cell.share >= 0.5 else "low"}


def _on_the_way(study: StudyRecord) -> dict[str, Any]:
    """Training, lengths, and what the policies write."""
    panels = training_panels(study)
    return {
        "looks": looks(study),
        "dashes": dashes(study),
        "ratios": [panels[name] for name in RATIOS if name in panels],
        "training": [panel for name, panel in panels.items() if name not in RATIOS],
        "length": length_panel(study),
    }


def _origin(study: StudyRecord) -> dict[str, Any]:
    """Where it all comes from, and how to make it again."""
    info = study.info
    return {
        "data": facts(info["data"], DATA_WORDS),
        "budgets": budget_rows(study),
        "seconds": duration(info["seconds"]),
        "searched": search_rows(study),
        "rates": rate_rows(study),
        "looked": look_rows(study),
        "commands": [command for command in info["command"].split("\n") if command.strip()],
        "settings": [(title, rows) for title, rows in _settings(info) if rows],
    }


def _settings(info: Mapping[str, Any]) -> Sequence[tuple[str, list[Fact]]]:
    return (
        ("Settings, the same for every run", facts(info["settings"])),
        ("What the target means, in nats", facts(info["targets"])),
        ("Model and machine", facts(info["model"]) + facts({"reference": info["reference"]} | info["machine"])),
        ("Versions", facts(info["versions"])),
        ("Time, in seconds", facts(info["seconds"])),
    )


def _shell(offered: Mapping[str, str], data: Mapping[str, Any]) -> dict[str, Any]:
    """The page's style, its scripts and the policy that lets no other run, and the data that the scripts read."""
    scripts = [inline(own_file("report.js"))]
    return {
        "style": Markup("\n".join(map(own_file, STYLES))),
        "scripts": scripts,
        "policy": "; ".join(script_policy(scripts)),
        "downloads": list(offered),
        "page_data": Markup(script_json({"files": offered, **data})),
    }


def own_file(name: str) -> str:
    """A file of this folder, as text."""
    return files("preftune.report").joinpath(name).read_text(encoding="utf-8")
