"""The command line from its commands, and mistakes on it in one line."""

from __future__ import annotations

import re
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from ..errors import UserError
from . import compare, data, demo, doctor, evaluate, lab, report, sample, train
from .command import Command
from .flags import FLAGS, NARGS, SWITCHES, flag_of

COMMANDS: Mapping[str, Command] = {
    "demo": demo.COMMAND,
    "compare": compare.COMMAND,
    "train": train.COMMAND,
    "evaluate": evaluate.COMMAND,
    "sample": sample.COMMAND,
    "lab": lab.COMMAND,
    "report": report.COMMAND,
    "doctor": doctor.COMMAND,
    "data": data.COMMAND,
}


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
