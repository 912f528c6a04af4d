"""The command line run: what it exits with, and what it says then."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext

from jsonargparse import Namespace

from ..errors import Interrupted, UserError
from ..launch import Launch, launched
from ..stopping import SIGNALS, is_ignored_hangup
from ..text import harmless
from .config import check_configs
from .parser import COMMANDS, build_parser, given

CONTINUE = dict.fromkeys(("demo", "compare", "rounds"), "the same command goes on from here")
CONTINUE |= {"train": "--resume goes on"}


def main() -> None:
    """Run the command line: exit 0, or 2 with one line for a user's mistake.

    1 for a study with runs that failed, 130 after an interruption (SIGINT, SIGTERM, SIGHUP). Of several processes
    that torchrun started, one says why all end, and they exit alike.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress is shown by our own bars
    parsed = Namespace(command="")
    for number in SIGNALS:
        if not is_ignored_hangup(number):
            signal.signal(number, signal.default_int_handler)
    try:
        launch = launched()
        parsed = read_arguments(launch)
        with _joined(launch):
            COMMANDS[parsed.command].run(given(parsed))
            sys.stdout.flush()
    except UserError as error:
        print(f"preftune: {harmless(str(error))}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        print(f"preftune: {harmless(refused(error))}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"preftune: {str(stop) or 'stopped'}; {CONTINUE.get(parsed.command, 'run it again')}", file=sys.stderr)
        sys.exit(130)


def _joined(launch: Launch | None) -> AbstractContextManager[None]:
    if launch is None:
        return nullcontext()
    from ..model import joined  # which loads torch: before the files are read, whose mistakes end all processes

    return joined()


def read_arguments(launch: Launch | None) -> Namespace:
    """The command line, read. Raises UserError for a mistake in it, and for a command that is one process's work; what
    all processes would say alike, the first one says."""
    try:
        check_configs(sys.argv[1:])
        parsed = build_parser(sys.argv[1:]).parse_args()
        if launch and parsed.command != "train":
            raise UserError(f"{parsed.command}: is the work of one process; start it without torchrun")
    except UserError:
        if launch and launch.rank:
            sys.exit(2)
        raise
    return parsed


def refused(error: OSError) -> str:
    """What the system refused, in one line: a full disk, a folder that cannot be written to."""
    where = error.filename if error.filename is not None else "standard output or a file"
    return f"{where}: {error.strerror or error}; make room, or name another place"
