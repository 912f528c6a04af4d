"""A study folder as one self-contained HTML page: the words and tables, and the template filled in."""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jinja2
import vl_convert
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from ..results import REFERENCE, Result, Sample, StudyRecord, read_study
from ..stats import Estimate, clustered_mean, number, over_seeds
from ..verdict import PROXY, Comparison, Verdict, run_names, told_name, verdict
from .charts import VEGA_LITE, dashes, frontier_panels, length_panel, looks, proxy_panels, training_panels
from .text import Folded, fold, harmless

REPORT_FILE = "report.html"
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


BASELINES = {"tfidf": "TF-IDF, logistic", "length": "length alone"}


class Column(NamedTuple):
    """A column of the table of results: a mean with its standard error, read from a row."""

    title: str
    unit: str
    read: Callable[[Result], Estimate | None]


class Line(NamedTuple):
    """A row of the table: who, at which step, and an estimate per column, None where there is none."""

    arm: str
    name: str
    step: str
    values: tuple[Estimate | None, ...]
    minor: bool = False


@dataclass(frozen=True)
class Exchange:
    """One prompt and what the reference and the runs answered to it."""

    prompt: Folded
    answers: tuple[Mapping[str, Any], ...]


def write_report(folder: Path) -> Path:
    """Draw the report of a study folder, interrupted or not, to `report.html` in it; returns that path.

    The page is one file that fetches nothing. Raises UserError if the folder is no study or a line of it is broken.
    """
    study = read_study(folder)
    path = folder / REPORT_FILE
    partial = path.with_name(path.name + ".partial")
    partial.write_text(_page(study, verdict(study)), encoding="utf-8")
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
    scripts = [_inline(_library()), _inline(DRAW)]
    columns = _columns(study)
    lines = _lines(study, columns)
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
        rewards=_reward_rows(study.info.get("reward", {})),
        reward_kind=study.info.get("reward", {}).get("kind", ""),
        preferences=_preference_rows(study),
        budgets=_budget_rows(study),
        columns=columns,
        lines=list(zip(lines, _cells(lines), strict=True)),
        several_seeds=len(study.info["seeds"]) > 1,
        comparisons=[_comparison(pair, len(study.noises()) > 1) for pair in answer.comparisons],
        exchanges=_exchanges(study),
        exchanges_note=_exchanges_note(study),
        data=_facts(study.info["data"], DATA_WORDS),
        facts_of=_facts,
        specs=htmlsafe_json_dumps(specs, allow_nan=False),
        scripts=scripts,
        policy="; ".join(_policy(scripts)),
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


def _inline(script: str) -> Markup:
    """A script of ours fit to stand inside a page: the only two strings that could end or derail it are escaped."""
    return Markup(script.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


def _policy(scripts: Sequence[str]) -> list[str]:
    """What the page may do: run exactly these scripts and fetch nothing, whatever a model wrote into it."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return ["default-src 'none'", f"script-src {hashes}", "style-src 'unsafe-inline'", "img-src data: blob:"]


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


def _rounded(count: int) -> str:
    return f"{count / 1e6:,.0f} million" if count >= 1e6 else f"{count:,}"


def _counted(data: Mapping[str, Any], name: str, words: str) -> str:
    return f"{data[name]:,} {words} " if isinstance(data.get(name), int) else ""


def _comparison(pair: Comparison, several_noises: bool) -> Mapping[str, str]:
    arms = f"{pair.a} − {pair.b}" + (f", noise {pair.noise:g}" if several_noises else "")
    row = {"pair": arms, "kl": "", "difference": "", "interval": "", "p": "", "answer": pair.why_not}
    if pair.difference is None or pair.kl is None:
        return row
    se = pair.difference.se or math.nan
    low, high = (number(end, se) for end in pair.difference.interval())
    told = "told apart" if pair.distinct else "not told apart"
    return row | {
        "kl": f"{pair.kl:.2g}",
        "difference": str(pair.difference),
        "interval": f"{low} to {high}",
        "p": "< 0.001" if pair.p_value < 0.001 else f"{pair.p_value:.3f}",
        "answer": told,
    }


def _reward_rows(reward: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, accuracy, log-loss) on held-out votes: of each seed's reward model, then of the baselines."""
    seeds = {seed: info for seed, info in reward.items() if isinstance(info, Mapping) and "held_out" in info}
    several = len(seeds) > 1
    rows = [(f"reward model, seed {n}" if several else "reward model", info["held_out"]) for n, info in seeds.items()]
    first = next(iter(seeds.values()), {})
    rows += [(BASELINES.get(name, name), info) for name, info in first.get("baselines", {}).items()]
    return [(name, _told(info["accuracy"], 100), _told(info["log_loss"], 1)) for name, info in rows]


def _preference_rows(study: StudyRecord) -> list[tuple[str, str, str, str]]:
    """(arm, whose preference, accuracy, log-loss) on held-out votes of what amortized-ipo was told by, told once."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for row in study.finals():
        held = study.info.get("preferences", {}).get(row.run, {}).get("held_out")
        if held:
            name = told_name(study, row.arm, None, row.seed, row.noise)
            found[row.arm, name] = (_told(held["accuracy"], 100), _told(held["log_loss"], 1))
    return [(*who, *values) for who, values in found.items()]


def _told(estimate: Mapping[str, float | None], times: float) -> str:
    value, se = estimate["value"], estimate["se"]
    return str(Estimate(times * (value or 0.0), None if se is None else times * se))


def _budget_rows(study: StudyRecord) -> list[tuple[str, str, Mapping[str, float]]]:
    """(arm, run, what it cost in three currencies) of every run that says so."""
    names, budgets = run_names(study), study.info.get("budgets", {})
    return [(row.arm, names[row.run], budgets[row.run]) for row in study.finals() if row.run in budgets]


# --- the table of results ---------------------------------------------------------------------------------------------


def _columns(study: StudyRecord) -> list[Column]:
    """A column for every quantity that some row has."""
    ended = _ended(study.samples)
    extras = dict.fromkeys(name for row in study.results for name in row.extra if not name.endswith("_se"))
    columns = [
        Column("gain", "over the reference", _mean("gain")),
        Column("reward", "", _mean("reward")),
        Column("KL", "nats", _mean("kl")),
        Column("win rate", "% against the reference", _mean("win_rate", 100)),
        *(Column(name, "learned reward" if name == PROXY else "second opinion", _opinion(name)) for name in extras),
        Column("accuracy", "% of held-out votes", _mean("accuracy", 100)),
        Column("log-loss", "nats per vote", _mean("log_loss")),
        Column("validation", "log-loss, nats per training vote", _mean("validation")),
        Column("length", "tokens", _mean("length")),
        Column("ended", "% within the limit", lambda row: ended.get((row.run, row.step))),
    ]
    return [column for column in columns if any(column.read(row) for row in study.results)]


def _mean(name: str, times: float = 1) -> Callable[[Result], Estimate | None]:
    def read(row: Result) -> Estimate | None:
        value, se = getattr(row, name), getattr(row, f"{name}_se")
        return None if value is None else Estimate(times * value, None if se is None else times * se)

    return read


def _opinion(name: str) -> Callable[[Result], Estimate | None]:
    return lambda row: Estimate(row.extra[name], row.extra.get(f"{name}_se")) if name in row.extra else None


def _ended(samples: Sequence[Sample]) -> dict[tuple[str, int], Estimate]:
    """Per cent of the samples of each run and step that ended by themselves."""
    groups: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.run, sample.step].append(sample)
    return {
        key: clustered_mean([100.0 * s.ended for s in group], [s.prompt_id for s in group])
        for key, group in groups.items()
    }


def _lines(study: StudyRecord, columns: Sequence[Column]) -> list[Line]:
    """The reference, then the last checkpoint of every run; with several seeds their mean comes before them."""
    reference, names = study.reference(), run_names(study)
    lines = [Line(REFERENCE, REFERENCE, "0", _read(reference, columns))] if reference else []
    groups: dict[tuple[str, float | None, float], list[Result]] = defaultdict(list)
    for row in study.finals():
        groups[row.arm, row.beta, row.noise].append(row)
    for (arm, beta, noise), rows in groups.items():
        minor = len(rows) > 1
        each = [
            Line(arm, f"seed {row.seed}" if minor else names[row.run], f"{row.step:,}", _read(row, columns), minor)
            for row in rows
        ]
        if minor:
            means = tuple(_over_seeds(values) for values in zip(*(line.values for line in each), strict=True))
            lines.append(Line(arm, told_name(study, arm, beta, None, noise), f"{len(rows)} seeds", means))
        lines += each
    return lines


def _read(row: Result, columns: Sequence[Column]) -> tuple[Estimate | None, ...]:
    return tuple(column.read(row) for column in columns)


def _over_seeds(estimates: Sequence[Estimate | None]) -> Estimate | None:
    values = [estimate.value for estimate in estimates if estimate]
    return over_seeds(values) if values else None


def _cells(lines: Sequence[Line]) -> list[list[tuple[str, str]]]:
    """(number, error) in print for each line and column; a column has one number of decimals, by its largest error."""
    columns = list(zip(*(line.values for line in lines), strict=True))
    largest = [max((estimate.se or 0.0 for estimate in column if estimate), default=0.0) for column in columns]
    return [[_cell(estimate, error) for estimate, error in zip(line.values, largest, strict=True)] for line in lines]


def _cell(estimate: Estimate | None, error: float) -> tuple[str, str]:
    if estimate is None:
        return "–", ""
    return number(estimate.value, error), "" if estimate.se is None else number(estimate.se, error)


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
