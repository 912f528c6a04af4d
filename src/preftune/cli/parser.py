"""The command line from its commands, and mistakes on it in one line."""

from __future__ import annotations

import re
from argparse import SUPPRESS, RawDescriptionHelpFormatter
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from ..errors import UserError
from ..methods import METHODS
from . import (
    arena,
    compare,
    data,
    demo,
    doctor,
    evaluate,
    judge,
    lab,
    label,
    people,
    plan,
    report,
    rounds,
    sample,
    train,
)
from .command import Command
from .flags import NARGS, all_flags, find_flag, option_flags, rate, settings_flags

LONG = 12  # letters of a flag; the name of its value would leave no room beside it
COMMANDS: Mapping[str, Command] = {
    "demo": demo.COMMAND,
    "compare": compare.COMMAND,
    "plan": plan.COMMAND,
    "train": train.COMMAND,
    "evaluate": evaluate.COMMAND,
    "judge": judge.COMMAND,
    "label": label.COMMAND,
    "arena": arena.COMMAND,
    "people": people.COMMAND,
    "rounds": rounds.COMMAND,
    "sample": sample.COMMAND,
    "lab": lab.COMMAND,
    "report": report.COMMAND,
    "doctor": doctor.COMMAND,
    "data": data.COMMAND,
}


class Formatter(RawDescriptionHelpFormatter):
    """Help with room for long flags beside what they are for."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


class Parser(ArgumentParser):
    """Raises UserError in one line, with the nearest name for a flag or command that does not exist."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise UserError(_one_line(message))


def _one_line(message: str) -> str:
    text = " ".join(message.split())
    if found := re.search(r"unrecognized arguments:.*?--([\w-]+)", text):
        return f"unknown flag --{found[1]}{_nearest(found[1], all_flags(), '--')}"
    if found := re.search(r"does not accept option '([\w.-]+)'", text):
        return f"--config: unknown setting {found[1]}{_nearest(found[1].replace('_', '-'), all_flags())}"
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


def _nearest(name: str, known: Collection[str], prefix: str = "") -> str:
    if name in known:
        return " to this command; see --help"
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else "; see --help"


def build_parser(arguments: Sequence[str] = ()) -> ArgumentParser:
    """The command line: a subcommand for every entry of `COMMANDS`.

    `arguments` are those that it is about to read: help shows the options of the method that they name, and no other's.
    """
    about = "Align a language model with human preferences, and find out which method earned it."
    parser = Parser(prog="preftune", description=about, allow_abbrev=False, formatter_class=Formatter)
    commands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        method = method_in(arguments) if command.of_method else ""
        commands.add_subcommand(name, _command_parser(name, command, method), help=command.help)
    return parser


def method_in(arguments: Sequence[str]) -> str:
    """The method that is named among the arguments; "" if there is none."""
    flags = {f"--{name}" for name in all_flags() if not find_flag(name).switch} | {"--config"}
    values = {place + 1 for place, word in enumerate(arguments) if word in flags}
    return next((word for place, word in enumerate(arguments) if word in METHODS and place not in values), "")


def _command_parser(name: str, command: Command, method: str) -> ArgumentParser:
    text = f"{command.help[0].upper()}{command.help[1:]}.\n\nexample:\n  {command.example}"
    usage = None
    if command.of_method:
        each = f"{text}\n\nmethods, each with options of its own:\n{_methods(name)}"
        text = _about_method(method, command) if method else each
        beta = " --beta BETA" * (bool(method) and METHODS[method].uses_reference)
        required = " ".join(f"--{flag} {flag.upper()}" for flag in command.required) + beta
        usage = f"preftune {name} {method or 'METHOD'} {required} [flags]"
    parser = Parser(description=text, usage=usage, allow_abbrev=False, formatter_class=Formatter, print_config=None)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of settings; flags after it win")
    for argument, what in (command.positional or {}).items():
        parser.add_argument(argument, help=SUPPRESS if method else what, nargs=NARGS.get(argument))
    for flag in (*command.required, *command.flags):
        _add_flag(parser, flag, required=flag in command.required, hidden=command.hides(flag, method))
    if command.of_method:
        _add_group(parser, "what all methods share", settings_flags(), "")
        own = [flag for flag in (option_flags([method]) if method else []) if flag not in command.flags]
        _add_group(parser, f"options of {method}", own, method)
        for flag in option_flags(METHODS):  # read, so that whoever has it can be named; not shown
            if flag not in (*own, *command.flags):
                _add_flag(parser, flag, required=False, hidden=True)
    return parser


def _about_method(method: str, command: Command) -> str:
    example = command.example.replace(" ipo ", f" {method} ")
    if not METHODS[method].uses_reference:
        example = example.replace(" --beta 0.1", "")
    return f"{method}: {METHODS[method].about}.\n\nexample:\n  {example}"


def _methods(name: str) -> str:
    hidden = ("best-of-n",) if name == "train" else ("best-of-n", "reward")
    rows = (f"  {one:<15}{method.about}" for one, method in METHODS.items() if one not in hidden)
    return "\n".join(rows) + f"\n\npreftune {name} METHOD --help shows a method's own options."


def _add_group(parser: ArgumentParser, title: str, flags: Sequence[str], method: str) -> None:
    group = parser.add_argument_group(title)
    for flag in flags:
        _add_flag(group, flag, required=False, method=method)


def _add_flag(parser: Any, name: str, *, required: bool, method: str = "", hidden: bool = False) -> None:
    flag = find_flag(name, method)
    text = SUPPRESS if hidden else flag.text
    if flag.switch:
        parser.add_argument(f"--{name}", action="store_true", help=text)
    elif flag.many:
        parser.add_argument(
            f"--{name}", action="append", type=flag.kind, required=required, help=text, metavar=name.upper()
        )
    else:
        metavar = {int: "N", float: "X", rate: "X"}.get(flag.kind) or ("VALUE" if len(name) > LONG else None)
        parser.add_argument(f"--{name}", type=flag.kind, required=required, help=text, metavar=metavar)


def given(namespace: Namespace) -> dict[str, Any]:
    """What the user set: flags that were left out are not among them, so that the library's defaults hold."""
    values = vars(namespace[namespace.command])
    return {name: value for name, value in values.items() if name != "config" and not _left_out(name, value)}


def _left_out(name: str, value: Any) -> bool:
    flag = name.replace("_", "-")
    return value is None or (value is False and flag in all_flags() and find_flag(flag).switch)
