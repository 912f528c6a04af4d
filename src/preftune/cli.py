"""The commands. Flags are declared once, below, and mean the same wherever they occur."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from .errors import Interrupted, UserError
from .stopping import SIGNALS, is_ignored_hangup

Parsed = Mapping[str, Any]


def numbers(kind: type) -> Callable[[Any], list[Any]]:
    """A list of numbers from `0.05,0.1`, a YAML list or a single number."""

    def parse(value: Any) -> list[Any]:
        parts = value if isinstance(value, list) else str(value).split(",")
        return [kind(part) for part in parts]

    parse.__name__ = f"{kind.__name__},..."
    return parse


def arms(value: Any) -> str:
    """Arms as one text, from `dpo,ipo` or a YAML list."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


# name: (type, help); a flag that is left out takes the default of the library, which the help states
FLAGS: dict[str, tuple[Any, str]] = {
    "model": (str, "local folder, GGUF file or hub name of the model to start from"),
    "reference": (str, "model to stay close to (default: --model)"),
    "data": (str, "preference file (JSONL, JSON, CSV, Parquet, gz too) or hub data set"),
    "eval-data": (str, "preference file to evaluate on (default: part of --data)"),
    "eval-fraction": (
        float,
        "share of the prompts held out for evaluation (default: 0.1; train: none, but reward 0.1)",
    ),
    "prompts": (str, "file of prompts to sample from (default: held-out prompts)"),
    "eval-prompts": (int, "hold out, and sample from, at most so many prompts (default: 64)"),
    "out": (str, "folder to write (lab: file)"),
    "methods": (arms, "arms to compare, such as dpo,ipo,ipo[reduction=mean]"),
    "beta": (float, "strength of the KL term"),
    "betas": (numbers(float), "strengths of the KL term, such as 0.05,0.1"),
    "seeds": (numbers(int), "seeds, such as 0,1,2: one run of every arm and beta each (default: 0)"),
    "label-noise": (numbers(float), "rates at which training votes are flipped, such as 0,0.2 (default: 0)"),
    "votes-per-prompt": (int, "train on at most so many votes of each prompt (default: all)"),
    "validation-fraction": (float, "share of the training prompts that only measures a log-loss (default: 0)"),
    "seed": (int, "order of the data, first adapter, samples (default: 0)"),
    "reduction": (str, "log-ratios as the sum or the mean over tokens (default: sum)"),
    "label-smoothing": (float, "smooth preferences by this rate, as cDPO does (default: 0)"),
    "flip-rate": (float, "allow for votes that were flipped at this rate; dpo: as rDPO does (default: 0)"),
    "estimate-flips": (bool, "reward, amortized-ipo with --kind frozen: find that rate (default: false)"),
    "lr": (float, "peak learning rate (default: 5e-6; with --lora 1e-4)"),
    "epochs": (float, "passes over the ballots (default: 1)"),
    "steps": (int, "optimiser steps; goes over --epochs"),
    "batch-size": (int, "ballots per optimiser step (default: 32)"),
    "micro-tokens": (int, "tokens per forward pass; bounds memory, changes no result (default: 1024, on a GPU 4096)"),
    "grad-checkpointing": (bool, "less memory for more time (default: false)"),
    "compile": (bool, "faster steps but the first, half a minute longer; needs a C++ compiler (default: false)"),
    "max-length": (int, "tokens of a prompt and a response together (default: 1024)"),
    "max-new-tokens": (int, "tokens of a sampled response (default: 64)"),
    "samples": (int, "sampled responses per prompt (default: 1)"),
    "checkpoints": (int, "evaluations per run, evenly spaced (default: 3)"),
    "kind": (
        str,
        "reward model: full, lora, or frozen for small machines (default: full, with --lora R lora; for amortized-ipo "
        "frozen)",
    ),
    "reward": (str, "ppo, rloo, amortized-ipo: folder of a reward model (default: fit one on the same votes)"),
    "head": (str, "amortized-ipo: preference by a score, general, or unconstrained, an ablation (default: score)"),
    "pairs": (str, "amortized-ipo: targets on all pairs, or on those of votes, an ablation (default: all)"),
    "target": (str, "amortized-ipo: centred, or winner-loser, an ablation without the -1/2 (default: centred)"),
    "gamma": (float, "amortized-ipo: train the preference with the policy, its likelihood so weighted, an ablation"),
    "stop-gradient": (bool, "amortized-ipo with --gamma: false lets it follow the policy, an ablation (default: true)"),
    "extra-responses": (int, "amortized-ipo: sample so many more responses to each prompt (default: 0)"),
    "lora": (int, "rank of a LoRA adapter; 0 trains all weights (default: 0)"),
    "precision": (str, "fp32, or bf16 for matrix products (default: fp32)"),
    "device": (str, "cpu, cuda, ... (default: a GPU where there is one)"),
    "warmup": (float, "share of the steps over which the learning rate rises (default: 0.1)"),
    "clip-norm": (float, "largest norm of the gradient (default: 1)"),
    "rollouts": (int, "ppo, rloo: responses sampled to each prompt (default: 4)"),
    "inner-epochs": (int, "ppo: optimiser steps on each batch of samples (default: 4)"),
    "kl-target": (float, "ppo, rloo: let beta follow this KL, in nats per response"),
    "end-penalty": (float, "ppo, rloo: taken off the score of a response that does not end (default: 1)"),
    "whiten": (bool, "ppo: scale rewards, and scale and centre advantages, over each batch (default: true)"),
    "weight-decay": (float, "decoupled weight decay (default: 0)"),
    "prompt": (str, "a prompt, as text"),
    "size": (str, "default, or full for a larger grid"),
    "merge-prompts": (bool, "one ballot per prompt: responses joined, votes pooled (default: false)"),
    "quick": (bool, "fewer steps and seeds: a look, no result (default: false)"),
    "resume": (bool, "go on with an interrupted run (default: false)"),
    "stores": (bool, "stored reference log-probs and features, a sample computed anew (what is checked by default)"),
}
SWITCHES = {"resume", "estimate-flips", "merge-prompts", "grad-checkpointing", "compile", "quick", "stores"}
NARGS: dict[str, Any] = {"folders": "+", "what": "?"}  # positional arguments that may be many, or none
TRAINING = (
    *("reduction", "label-smoothing", "flip-rate", "lr", "epochs", "steps", "batch-size", "micro-tokens"),
    *("grad-checkpointing", "compile", "max-length", "lora", "precision", "device"),
    *("warmup", "clip-norm", "weight-decay"),
    *("rollouts", "max-new-tokens", "inner-epochs", "kl-target", "end-penalty", "whiten"),
    *("estimate-flips", "head", "pairs", "target", "gamma", "stop-gradient", "extra-responses"),
)


@dataclass(frozen=True)
class Command:
    """A command: what it does, its positional arguments, its flags (required ones first) and an example."""

    run: Callable[[Parsed], None]
    help: str
    example: str
    required: Sequence[str] = ()
    flags: Sequence[str] = ()
    positional: Mapping[str, str] | None = None


# --- the commands ----------------------------------------------------------------------------------------------------


def _demo(given: Parsed) -> None:
    from .demo import run_demo

    options = dict(given)
    _exit_if_failed(run_demo(Path(options.pop("out")), **options).failed)


def _exit_if_failed(failed: Mapping[str, str]) -> None:
    """A study that lacks runs is drawn all the same; whoever called it is told by exit code 1."""
    if failed:
        named = "; ".join(f"{run}: {reason}" for run, reason in failed.items())
        print(
            f"preftune: {len(failed)} of the runs failed ({named}); the same command tries them again", file=sys.stderr
        )
        sys.exit(1)


def _compare(given: Parsed) -> None:
    from .readers import read_ballots, read_prompts
    from .study import compare

    options = dict(given)
    ballots = read_ballots(options.pop("data"))
    if "eval_data" in options:
        options["eval_ballots"] = read_ballots(options.pop("eval_data"))
    if "prompts" in options:
        options["prompts"] = read_prompts(options.pop("prompts"))
    command = "preftune " + " ".join(map(shlex.quote, sys.argv[1:]))
    _exit_if_failed(compare(options.pop("methods"), ballots, command=command, **options).failed)


def _train(given: Parsed) -> None:
    from .readers import read_ballots
    from .training import train

    options = dict(given)
    ballots = read_ballots(options.pop("data"))
    if "eval_data" in options:
        options["eval_ballots"] = read_ballots(options.pop("eval_data"))
    run = train(options.pop("method"), ballots, **options)
    if run.record["method"] == "reward":
        from .rewards import quality_table

        print(f"{quality_table(run.record['reward'])}\n\nreward: {run.folder / 'reward'}")
    else:
        print(f"policy: {run.folder / 'policy'}")


def _evaluate(given: Parsed) -> None:
    from .policies import evaluate_folders

    evaluate_folders(**given)


def _sample(given: Parsed) -> None:
    from .policies import sample_folders

    sample_folders(**given)


def _report(given: Parsed) -> None:
    from .report import write_report

    print(f"report: {write_report(Path(given['folder']))}")


def _convert(given: Parsed) -> None:
    if given["action"] != "convert":
        raise UserError(f"data {given['action']}: unknown; did you mean data convert?")
    from .console import say
    from .readers import merge_prompts, read_ballots, write_ballots

    ballots = read_ballots(given["file"])
    kept = merge_prompts(ballots) if given.get("merge_prompts") else tuple(ballots)
    write_ballots(kept, given["out_file"])
    for reason, count in ballots.skipped.items():
        say(f"skipped: {count} × {reason}")
    print(f"{given['out_file']}: {len(kept)} ballots from {ballots.rows} rows")


def _doctor(given: Parsed) -> None:
    from .doctor import check_stores, show_stores

    checked = check_stores(device=given.get("device", "auto"))
    show_stores(checked)
    if any(one.wrong for one in checked):
        sys.exit(1)


def _lab(given: Parsed) -> None:
    from .console import track
    from .results import write_json

    what, quick, seed = given.get("what", "page"), given.get("quick", False), given.get("seed", 0)
    out = Path(given["out"]) if "out" in given else None
    if what not in ("page", "study"):
        raise UserError(f"lab {what}: unknown; lab writes the page, lab study runs the simulations")
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise UserError(f"--out {out}: " + ("is a folder; name a file" if out.is_dir() else "there is no such folder"))
    if what == "page":
        from .lab.page import QUICK_STEPS, write_page

        steps = {"steps": QUICK_STEPS} if quick else {}
        page = write_page(out or Path("lab.html"), seed=seed, track=partial(track, description="bandits"), **steps)
        print(f"lab: {page}")
        return
    from .lab.study import as_rows, as_text, run_study

    cells = run_study(quick=quick, seed=seed, track=partial(track, description="simulations"))
    print(as_text(cells))
    if out:
        write_json(out, {"seed": seed, "quick": quick, "cells": as_rows(cells)})


EVALUATION = ["eval-prompts", "samples"]
COMMANDS = {
    "demo": Command(
        _demo,
        "the embedded experiment: a real model, real human ratings, DPO against IPO, and the report",
        "preftune demo --out demo-study",
        ["out"],
        ["size", "methods"],
    ),
    "compare": Command(
        _compare,
        "train every arm at every beta and seed on the same votes, evaluate them alike, draw the report",
        "preftune compare --model MODEL --data FILE --methods dpo,ipo --betas 0.05,0.1 --seeds 0,1,2 --out DIR",
        ["model", "data", "methods", "out"],
        [
            "betas",
            "seeds",
            "reference",
            "eval-data",
            "eval-fraction",
            "prompts",
            *EVALUATION,
            "label-noise",
            "votes-per-prompt",
            "validation-fraction",
            "checkpoints",
            "kind",
            *TRAINING,
        ],
    ),
    "train": Command(
        _train,
        "train one policy with one method, or a reward model",
        "preftune train ipo --model MODEL --data FILE --beta 0.1 --out DIR",
        ["model", "data", "out"],
        ["beta", "reference", "reward", "kind", "eval-data", "eval-fraction", "seed", "resume", *TRAINING],
        {"method": "dpo, ipo, amortized-ipo, sft, ppo, rloo or reward"},
    ),
    "evaluate": Command(
        _evaluate,
        "compare trained policies on prompts and on held-out votes",
        "preftune evaluate RUN1 RUN2 --prompts PROMPTS --out DIR",
        [],
        [
            "data",
            "prompts",
            "reference",
            *EVALUATION,
            "max-new-tokens",
            "seed",
            "max-length",
            "micro-tokens",
            "precision",
            "device",
            "out",
        ],
        {"folders": "folders that train or compare left, or plain models"},
    ),
    "sample": Command(
        _sample,
        "the same prompt through several policies, side by side",
        "preftune sample RUN1 RUN2 --prompt 'Movie review: \"I came'",
        ["prompt"],
        ["samples", "max-new-tokens", "seed", "precision", "device"],
        {"folders": "folders that train or compare left, or plain models"},
    ),
    "lab": Command(
        _lab,
        "the exact finite worlds, as a page with sliders; lab study: when a learned target beats the bare label",
        "preftune lab --out lab.html",
        flags=["out", "seed", "quick"],
        positional={"what": "page (the default) or study"},
    ),
    "report": Command(
        _report, "draw the report of a study again", "preftune report DIR", positional={"folder": "a study's folder"}
    ),
    "doctor": Command(
        _doctor,
        "compute a sample of what earlier runs stored anew, and say what differs",
        "preftune doctor --stores",
        flags=["stores", "device"],
    ),
    "data": Command(
        _convert,
        "any accepted preference file to canonical JSONL",
        "preftune data convert FILE OUT",
        flags=["merge-prompts"],
        positional={"action": "convert", "file": "the file to read", "out_file": "the file to write"},
    ),
}


CONTINUE = dict.fromkeys(("demo", "compare"), "the same command goes on from here") | {"train": "--resume goes on"}


# --- parsing ---------------------------------------------------------------------------------------------------------


class Parser(ArgumentParser):
    """Raises UserError in one line, with the nearest name for a flag or command that does not exist."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise UserError(_one_line(message))


def _one_line(message: str) -> str:
    text = " ".join(message.split())
    if found := re.search(r"unrecognized arguments:.*?--([\w-]+)", text):
        return f"unknown flag --{found[1]}{_nearest(found[1], FLAGS, '--')}"
    if found := re.search(r"does not accept option '([\w.-]+)'", text):
        return f"--config: unknown setting {found[1]}{_nearest(found[1].replace('_', '-'), FLAGS)}"
    if found := re.search(r"invalid choice: '([^']*)'", text):
        return f"unknown command {found[1]!r}{_nearest(found[1], COMMANDS)}"
    if "it was not provided" in text:
        return "name a command; preftune --help lists them"
    if found := re.search(r"arguments are required: (.*)", text):
        return f"missing: {re.sub(r'[a-z]+[.]', '', found[1])}; see --help"
    if found := re.search(r'Parser key "([\w.]+)": (.*)', text):
        flag = found[1].split(".")[-1].replace("_", "-")
        wrong = re.fullmatch(r"Expected a <class '(int|float)'>. Got value: (.*)", found[2])
        kinds = {"int": "a whole number", "float": "a number"}
        return f"--{flag} {wrong[2]}: must be {kinds[wrong[1]]}" if wrong else f"--{flag}: {found[2]}"
    if found := re.search(r"argument (--[\w-]+): invalid .* value: '(.*)'", text):
        return f"{found[1]} {found[2]}: must be numbers with commas between them"
    return text


def _nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else "; see --help"


def build_parser() -> ArgumentParser:
    """The command line: a subcommand for every entry of `COMMANDS`."""
    about = "Align a language model with human preferences, and find out which method earned it."
    parser = Parser(prog="preftune", description=about, allow_abbrev=False, formatter_class=RawDescriptionHelpFormatter)
    commands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        about = f"{command.help[0].upper()}{command.help[1:]}.\n\nexample:\n  {command.example}"
        sub = Parser(description=about, allow_abbrev=False, formatter_class=RawDescriptionHelpFormatter)
        sub.add_argument("--config", action=ActionConfigFile, help="YAML file of settings; flags after it win")
        for argument, text in (command.positional or {}).items():
            sub.add_argument(argument, help=text, nargs=NARGS.get(argument))
        for flag in (*command.required, *command.flags):
            _add_flag(sub, flag, required=flag in command.required)
        commands.add_subcommand(name, sub, help=command.help)
    return parser


def _add_flag(parser: ArgumentParser, flag: str, *, required: bool) -> None:
    kind, text = FLAGS[flag]
    if flag in SWITCHES:
        parser.add_argument(f"--{flag}", action="store_true", help=text)
    else:
        metavar = {int: "N", float: "X"}.get(kind)
        parser.add_argument(f"--{flag}", type=kind, required=required, help=text, metavar=metavar)


def given(namespace: Namespace) -> dict[str, Any]:
    """What the user set: flags that were left out are not among them, so that the library's defaults hold."""
    values = vars(namespace[namespace.command])
    left_out = {
        name for name, value in values.items() if value is None or (value is False and flag_of(name) in SWITCHES)
    }
    return {name: value for name, value in values.items() if name != "config" and name not in left_out}


def flag_of(name: str) -> str:
    """A setting's flag, without its dashes."""
    return name.replace("_", "-")


def main() -> None:
    """Run the command line: exit 0, or 2 with one line for a user's mistake.

    1 for a study with runs that failed, 130 after an interruption (SIGINT, SIGTERM, SIGHUP).
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress is shown by our own bars
    parsed = Namespace(command="")
    for number in SIGNALS:
        if not is_ignored_hangup(number):
            signal.signal(number, signal.default_int_handler)
    try:
        parsed = build_parser().parse_args()
        COMMANDS[parsed.command].run(given(parsed))
    except UserError as error:
        print(f"preftune: {error}", file=sys.stderr)
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"preftune: {str(stop) or 'stopped'}; {CONTINUE.get(parsed.command, 'run it again')}", file=sys.stderr)
        sys.exit(130)
