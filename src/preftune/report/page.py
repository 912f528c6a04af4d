"""A study folder as one self-contained HTML page: the words and tables, and the template filled in."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import vl_convert
from jinja2.utils import htmlsafe_json_dumps

from ..evidence import REFERENCE, Result, Sample, StudyRecord, Verdict, read_study, run_names, verdict, write_json
from ..page import inline, script_policy
from ..text import harmless
from .charts import VEGA_LITE, dashes, frontier_panels, length_panel, looks, proxy_panels, training_panels
from .folding import Folded, fold
from .tables import (
    budget_rows,
    cells_of,
    columns_of,
    comparison_row,
    lines_of,
    preference_rows,
    reward_rows,
    search_rows,
)

REPORT_FILE = "report.html"
VERDICT_FILE = "verdict.json"
PROMPTS_SHOWN = 5
RUNS_SHOWN = 9

DRAW = """{
const specs = JSON.parse(document.getElementById("specs").textContent);
const options = {renderer: "svg", ast: true,
  actions: {export: true, source: false, compiled: false, editor: false}};
for (const [name, spec] of Object.entries(specs))
  vegaEmbed(document.getElementById(name), spec, options).catch(error => {
    document.getElementById(name).textContent = "This chart could not be drawn: " + error.message;
  });
}"""


@dataclass(frozen=True)
class Exchange:
    """One prompt and what the reference and the runs answered to it."""

    prompt: Folded
    answers: tuple[Mapping[str, Any], ...]


def write_report(folder: Path) -> Path:
    """Draw the report of a study folder, interrupted or not, to `report.html` in it, and write what it says as numbers
    to `verdict.json`; returns the path of the page.

    The page is one file that fetches nothing. Raises UserError if the folder is no study or a line of it is broken.
    """
    study = read_study(folder)
    answer = verdict(study)
    path = folder / REPORT_FILE
    partial = path.with_name(path.name + ".partial")
    partial.write_text(_page(study, answer), encoding="utf-8")
    write_json(folder / VERDICT_FILE, answer.record())
    partial.replace(path)
    return path


def _page(study: StudyRecord, answer: Verdict) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("preftune.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printed,
    )
    training, length = training_panels(study), length_panel(study)
    frontiers = frontier_panels(study, answer)
    proxies = proxy_panels(study, answer) if answer.points else []
    specs = {panel.name: panel.spec for panel in (*frontiers, *proxies, *training, length) if panel}
    scripts = [inline(_library()), inline(DRAW)]
    columns = columns_of(study)
    lines = lines_of(study, columns)
    return environment.get_template("page.html.j2").render(
        info=study.info,
        answer=answer,
        compared=_compared(study),
        looks=looks(study),
        dashes=dashes(study),
        training=training,
        length=length,
        frontiers=frontiers,
        proxies=proxies,
        several_noises=len(study.noises()) > 1,
        rewards=reward_rows(study.info.get("reward", {})),
        reward_kind=study.info.get("reward", {}).get("kind", ""),
        preferences=preference_rows(study),
        budgets=budget_rows(study),
        searched=search_rows(study),
        columns=columns,
        lines=list(zip(lines, cells_of(lines), strict=True)),
        several_seeds=len(study.info["seeds"]) > 1,
        comparisons=[comparison_row(pair, len(study.noises()) > 1) for pair in answer.comparisons],
        exchanges=_exchanges(study),
        exchanges_note=_exchanges_note(study),
        data=_facts(study.info["data"], DATA_WORDS),
        facts_of=_facts,
        rates=_rates(study.info["pilots"]),
        specs=htmlsafe_json_dumps(specs, allow_nan=False),
        scripts=scripts,
        policy="; ".join(script_policy(scripts)),
    )


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)


def _printed(value: Any) -> Any:
    """How the template prints a value: text without anything hidden, whole numbers with commas, None as a dash."""
    if type(value) is str:
        return harmless(value)
    if value is None:
        return "–"
    if type(value) is int:
        return f"{value:,}"
    return f"{value:g}" if type(value) is float else value


# --- words ------------------------------------------------------------------------------------------------------------


def _compared(study: StudyRecord) -> str:
    """What was compared, in a line."""
    info, data = study.info, study.info["data"]
    model = str(info["model"].get("name", "")).rstrip("/").rpartition("/")[2]
    parameters = info["model"].get("parameters")
    size = f" ({_rounded(parameters)} parameters)" if isinstance(parameters, int) else ""
    steps = max((row.step for row in study.trained()), default=0)
    batch = info["settings"].get("batch_size")
    return " · ".join(
        part
        for part in (
            f"{model}{size}" if model else "",
            ", ".join(info["arms"]),
            _betas(study),
            "label noise " + ", ".join(f"{noise:g}" for noise in study.noises()) if any(study.noises()) else "",
            ("seed " if len(info["seeds"]) == 1 else "seeds ") + ", ".join(map(str, info["seeds"])),
            _counted(data, "votes_train", "training votes on") + _counted(data, "ballots_train", "ballots"),
            f"{steps} steps" + (f" of {batch} ballots" if batch else "") if steps else "",
            _counted(data, "prompts_eval", "held-out prompts"),
        )
        if part
    )


def _betas(study: StudyRecord) -> str:
    """`β 0.1, 0.5`, or each arm's own where they differ: `β 0.1, 0.5 (dpo), 0.02, 0.1 (ipo)`."""
    own = {arm: [beta for beta in study.betas_of(arm) if beta is not None] for arm in study.info["arms"]}
    told = {arm: ", ".join(f"{beta:g}" for beta in sorted(betas)) for arm, betas in own.items() if betas}
    if len(set(told.values())) > 1:
        return "β " + ", ".join(f"{betas} ({arm})" for arm, betas in told.items())
    return "β " + next(iter(told.values())) if told else ""


def _rates(pilots: Mapping[str, Any]) -> str:
    """The learning rates that pilots chose, in a line; "" where there were none."""
    if not pilots:
        return ""
    count = sum(len(chosen["tried"]) for chosen in pilots.values())
    told = "; ".join(f"{arm} {chosen['lr']:g} ({chosen['reason']})" for arm, chosen in pilots.items())
    return f"Learning rates, chosen on validation prompts in {count} short pilots, none of them a run: {told}."


def _rounded(count: int) -> str:
    return f"{count / 1e6:,.0f} million" if count >= 1e6 else f"{count:,}"


def _counted(data: Mapping[str, Any], name: str, words: str) -> str:
    return f"{data[name]:,} {words} " if isinstance(data.get(name), int) else ""


# --- samples and counts -----------------------------------------------------------------------------------------------


def _exchanges(study: StudyRecord) -> list[Exchange]:
    """Prompts spread evenly over the held-out ones, with the first sample of the reference and of each shown run."""
    first: dict[tuple[str, int, int], Sample] = {}
    for sample in sorted(study.samples, key=lambda sample: sample.sample):
        first.setdefault((sample.run, sample.step, sample.prompt_id), sample)
    who = [(REFERENCE, REFERENCE, 0), *((row.run, row.arm, row.step) for row in _shown_runs(study))]
    names, exchanges = run_names(study), []
    for prompt in _chosen_prompts(study):
        drawn = [(run, arm, first.get((run, step, prompt))) for run, arm, step in who]
        answers = tuple(_answer(names[run], arm, sample) for run, arm, sample in drawn if sample)
        text = next(sample.prompt for sample in study.samples if sample.prompt_id == prompt)
        exchanges.append(Exchange(fold(harmless(text), keep_end=True), answers))
    return exchanges


def _chosen_prompts(study: StudyRecord) -> list[int]:
    prompts = sorted({sample.prompt_id for sample in study.samples})
    shown = min(PROMPTS_SHOWN, len(prompts))
    return [prompts[i * len(prompts) // shown] for i in range(shown)]


def _answer(name: str, arm: str, sample: Sample) -> Mapping[str, Any]:
    reward = "" if sample.reward is None else f"reward {sample.reward:.2f}"
    opinions = [f"{other} {value:.2f}" for other, value in sample.extra.items()]
    limit = "" if sample.ended else "not ended"
    kl = "" if sample.run == REFERENCE else f"KL {sample.kl:.2f}"
    facts = [reward, *opinions, kl, f"{sample.tokens} tokens", limit]
    told = [fact.replace("-", "−") for fact in facts if fact]
    return {"name": name, "arm": arm, "text": fold(harmless(sample.response.strip())), "told": told}


def _shown_runs(study: StudyRecord) -> list[Result]:
    """The last checkpoints of the first seed; of many, the first and the last β of each arm."""
    seed = min((row.seed for row in study.finals()), default=0)
    finals = [row for row in study.finals() if row.seed == seed]
    if len(finals) <= RUNS_SHOWN:
        return finals
    ends = {arm: sorted(row.beta or 0.0 for row in finals if row.arm == arm) for arm in {row.arm for row in finals}}
    return [row for row in finals if (row.beta or 0.0) in (ends[row.arm][0], ends[row.arm][-1])]


def _exchanges_note(study: StudyRecord) -> str:
    prompts = len({sample.prompt_id for sample in study.samples})
    shown, all_runs = _shown_runs(study), study.finals()
    some = "" if len(shown) == len(all_runs) else f" Shown are {len(shown)} of {len(all_runs)} runs: one seed, and if "
    some += "there are many, the smallest and the largest β of each arm." if some else ""
    return (
        f"{min(PROMPTS_SHOWN, prompts)} of {prompts} held-out prompts, evenly spaced in their order, and the first "
        f"sample of each policy at its last checkpoint. Nobody chose them by looking.{some}"
    )


DATA_WORDS = {
    "source": "source",
    "sha256": "content hash (SHA-256)",
    "tokens_sha256": "hash of the tokens",
    "rows": "rows read",
    "ballots_train": "ballots to train on",
    "votes_train": "votes on them",
    "ballots_reached": "of these, reached by the budget",
    "ballots_eval": "held-out ballots",
    "votes_eval": "votes on them",
    "prompts_eval": "held-out prompts sampled from",
}


def _facts(mapping: Mapping[str, Any], words: Mapping[str, str] = MappingProxyType({})) -> list[tuple[str, Any]]:
    """(what, value) of every entry, those in `words` first and so named; counts by reason get a line for each."""
    known = [(name, words[name]) for name in words if name in mapping]
    others = [(name, name.replace("_", " ")) for name in mapping if name not in words]
    return [line for name, label in known + others for line in _flat(label, mapping[name])]


def _flat(label: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [line for name, item in value.items() for line in _flat(f"{label}: {name}", item)] or [(label, "none")]
    return [(label, ", ".join(map(str, value)) if isinstance(value, list) else value)]
