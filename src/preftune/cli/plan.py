"""`preftune plan`: what a study would be, before it is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from . import compare
from .command import Command
from .flags import Parsed

if TYPE_CHECKING:
    from rich.table import Table

    from ..evidence import Comparison, Outlook
    from ..study import Forecast

GIB = 2**30


def run(given: Parsed) -> None:
    """Settle and read as `compare` does, measure one step of each kind of work, and print what it would come to."""
    from rich.console import Console

    options = compare.settled(given)
    from ..study import plan_study

    forecast = plan_study(**options)
    console = Console(highlight=False)
    console.print(runs_table(forecast))
    for paragraph in (shared_lines, time_lines, sight_lines):
        for line in paragraph(forecast):
            console.print(line, markup=False, soft_wrap=True)
        console.print()


def runs_table(forecast: Forecast) -> Table:
    """A row for the runs of every arm and β; what one of them takes is its training alone."""
    from rich import box
    from rich.table import Table

    columns = ("arm", "β", "seeds", "runs", "done", "steps", "tokens a step", "takes")
    table = Table(*columns, box=box.SIMPLE, caption="what one run takes: its training alone")
    for name in columns[3:]:
        table.columns[columns.index(name)].justify = "right"
    runs = sorted(forecast.runs, key=lambda run: (run.arm, run.beta or 0.0))
    for (arm, beta), group in groupby(runs, key=lambda run: (run.arm, run.beta)):
        own = list(group)
        steps, tokens = sum(run.steps for run in own), sum(run.tokens for run in own)
        seconds = forecast.probe.training.get(arm, 0.0) * sum(run.work for run in own) / len(own)
        table.add_row(
            arm,
            "" if beta is None else f"{beta:g}",
            ", ".join(str(seed) for seed in dict.fromkeys(run.seed for run in own)),
            str(len(own)),
            str(sum(run.done for run in own)),
            f"{steps / len(own):,.0f}",
            f"{'≤ ' * own[0].at_most}{tokens / steps:,.0f}" if steps else "",
            duration(seconds) if steps else "",
        )
    return table


def shared_lines(forecast: Forecast) -> Iterator[str]:
    """What there is to do, and what of it is done once."""
    runs, shared = forecast.runs, forecast.shared
    data = forecast.info["data"]
    done = [run.name for run in runs if run.done]
    yield (
        f"{len(runs)} runs on {data['ballots_train']:,} ballots ({data['votes_train']:,} votes); "
        f"{sum(run.evaluations for run in runs)} evaluations, each of {forecast.samples} responses to "
        f"{forecast.prompts} prompts and {data['votes_eval']:,} held-out votes"
    )
    if forecast.searching:
        yield f"β is still to be found by KL for {', '.join(forecast.searching)}; those above stand for what it will be"
    if forecast.piloted:
        yield f"the learning rate is still to be chosen in pilots for {', '.join(forecast.piloted)}"
    if done:
        yield f"done already, and not counted below: {', '.join(done)}"
    yield (
        f"shared by all runs: {shared.responses:,} reference log-probs, {shared.stored:,} of them stored already; "
        "the reference's own responses to the prompts"
    )
    if shared.rewards:
        yield (
            f"shared by the runs of a seed and rate of label noise: one reward model, {len(shared.rewards)} in all, "
            f"{shared.rewards_left} to be fitted ({', '.join(shared.rewards)})"
        )
    if shared.selected:
        yield f"shared by every n of best-of-n: {shared.selected:,} responses of the reference, once a run"


def time_lines(forecast: Forecast) -> Iterator[str]:
    """What was measured, and what it comes to."""
    probe, seconds = forecast.probe, forecast.seconds
    measured = []
    if probe.logprob:
        measured.append(f"{1 / probe.logprob:,.1f} reference log-probs a second")
    if probe.sampling:
        measured.append(f"{1 / probe.sampling:,.1f} sampled responses a second")
    yield f"measured on {probe.device}: {', '.join(measured) or 'one step of training each'}"
    model = forecast.info["model"]
    yield f"weights of the model, kept in {model['kept_as']}: {model['bytes'] / GIB:.2f} GiB"
    if probe.memory:
        yield f"peak memory with the probe: {probe.memory / GIB:.2f} GiB"
    parts = ", ".join(f"{name} {duration(of)}" for name, of in seconds.items() if of)
    yield f"left to do: {duration(sum(seconds.values()))} ({parts or 'nothing'})"
    yield from side_by_side(forecast)
    yield (
        "This is an extrapolation from one step of each kind of work. Loading, saving, judging and what else runs on "
        "the machine are not in it; policies that learn to write longer responses take longer to evaluate."
    )


def side_by_side(forecast: Forecast) -> Iterator[str]:
    """What several runs at a time make of it."""
    where, wall = forecast.placement, forecast.wall
    if where.here:
        return
    if where.executor != "local":
        yield f"{where.executor} makes as many runs at a time as it has room for: {_given(where.resources)} each"
        return
    memory = f"{where.workers + 1} × {forecast.probe.memory / GIB:.2f} GiB" if forecast.probe.memory else "its own"
    yield (
        f"{duration(wall)} by the clock with {where.workers} workers, threads a run: {where.threads}; each of them, "
        f"and the process that has them, holds the model: at most {memory} of memory"
    )


def _given(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in resources.items())


def sight_lines(forecast: Forecast) -> Iterator[str]:
    """What the plan could tell apart, in units of σ, or what it lacks."""
    for known in forecast.found:
        told = "are not comparable yet"
        if known.detectable is not None:
            told = f"would show a difference of {known.detectable:.2g} in four of five such studies"
        yield f"{_names(known)}: the runs that are there {told}"
    if not forecast.outlook:
        yield "this plan cannot tell arms apart: there is one arm; add another to --methods"
        return
    for pair in forecast.outlook:
        yield _sight(pair)
    lacking = [pair for pair in forecast.outlook if not pair.sure]
    if lacking:
        yield _remedy(forecast)
    if any(pair.difference is not None for pair in forecast.outlook):
        yield (
            "σ is the standard deviation of one response's score around what all policies have in common on its "
            "prompt and random numbers. Assumed: run ends evenly in √KL, twice as far at the smallest β as at the "
            "largest; all arms at the same KL; runs of one setting that differ by their prompts only. The larger "
            "figure is for noise that belongs to a prompt, which more responses do not average. Runs that scatter "
            "hide more."
        )
    if not forecast.scored:
        yield (
            "Nothing scores the responses here, and by held-out accuracy no frontiers are compared: name a "
            "--judge for an answer."
        )


def _names(pair: Outlook | Comparison) -> str:
    return f"{pair.a} and {pair.b}" + f" at noise {pair.noise:g}" * bool(pair.noise)


def _sight(pair: Outlook) -> str:
    if pair.difference is None or pair.alike is None:
        return f"this plan cannot tell arms apart: {_names(pair)}: {pair.why}"
    sizes = dict.fromkeys((f"{pair.difference:.2g}", f"{pair.alike:.2g}"))
    seen = f"a difference of {' to '.join(sizes)} σ is found in four of five such studies"
    return f"{_names(pair)}, {pair.runs} run ends: {seen}" + ", if the arms' runs scatter alike" * (not pair.sure)


def _remedy(forecast: Forecast) -> str:
    from ..evidence import seeds_needed

    if not forecast.samples:
        return "to change that: --samples 1 or more"
    if forecast.prompts < 2:
        return "to change that: more held-out prompts (--eval-prompts, --eval-fraction or --prompts)"
    count = seeds_needed(forecast.ends)
    seeds = f"{count} seeds of every run" if count else "more seeds of every run"
    return f"to be sure of an answer: {seeds}, or more β"


def duration(seconds: float) -> str:
    """`41 s`, `7 min`, `2 h 10 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


COMMAND = Command(
    run,
    "say what a study would take and what it could see: runs, time, memory; nothing is trained to its end",
    "preftune plan --model MODEL --data FILE --methods dpo,ipo --betas 0.05,0.1 --seeds 0,1,2 --out DIR",
    compare.COMMAND.required,
    [name for name in compare.COMMAND.flags if name not in ("until", "hours")],
)
