"""The layout of the package: doors, lengths, the picture of the wings, and two script policies that are one."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from preftune import page
from preftune.lab import page as lab_page
from tools.wings import PACKAGE, ROOT, draw

WINGS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
LONGEST = 400


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(module from the package on, line) of every import of ours in a file."""
    package = ["preftune", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*start, *filter(None, [node.module])]), node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_is_entered_by_its_door(wing: str) -> None:
    others = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != wing]
    inside = f"preftune.{wing}."
    assert [f"{path}:{line}" for path in others for name, line in imports(path) if name.startswith(inside)] == []


@pytest.mark.parametrize("wing", WINGS)
def test_a_door_hands_on_what_is_there_and_says_what_the_wing_is_for(wing: str) -> None:
    door = import_module(f"preftune.{wing}")
    assert door.__doc__ and len(door.__doc__.strip()) > 20
    assert all(getattr(door, name) is not None for name in door.__all__)
    modules = {path.stem for path in (PACKAGE / wing).glob("*.py")}
    assert not modules & set(door.__all__), "a name that is a file too would be the one or the other by turns"


@pytest.mark.parametrize("wing", WINGS)
def test_a_door_hands_on_nothing_that_nobody_uses(wing: str) -> None:
    """In the package, the tests or the benchmarks; what `preftune` itself hands on counts."""
    stub = (PACKAGE / wing / "__init__.pyi").read_text(encoding="utf-8")
    handed = {alias.name for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom) for alias in node.names}
    outside = [path for folder in ("src", "tests", "bench", "tools") for path in (ROOT / folder).rglob("*.py*")]
    outside = [path for path in outside if path.parent != PACKAGE / wing and path.suffix in (".py", ".pyi")]
    used = {name for path in outside for name in handed if name in path.read_text(encoding="utf-8")}
    assert handed - used == set()


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in PACKAGE.rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length > LONGEST} == {}


def test_the_tests_stand_in_the_same_wings() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert folders - {"bench"} <= set(WINGS) and set(WINGS) - folders <= {"judges"}


def test_the_picture_is_of_the_contract_as_it_is() -> None:
    assert (ROOT / "docs" / "wings.svg").read_text(encoding="utf-8") == draw(), "run tools/wings.py"


def test_architecture_names_every_wing_and_every_file_of_it() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `") and line.count("|") == 3}
    unnamed = ("objectives", "methods")  # one file each, of the method's or the loss's own name
    for wing in set(WINGS) - set(unnamed):
        files = {path.stem for path in (PACKAGE / wing).glob("[!_]*.py")}
        commands = files if wing == "cli" else set()
        missing = {name for name in files - commands if f"`{name}`" not in rows[wing]}
        assert missing == set(), wing


def test_the_two_pages_run_only_their_own_scripts_and_fetch_nothing() -> None:
    """The lab, which imports nothing of ours, has the same policy."""
    scripts = ["let a = 1;", "</script><!-- 2"]
    ours, labs = page.script_policy(scripts), lab_page._policy(scripts)
    assert ours == labs
    assert ours[0] == "default-src 'none'" and ours[1].count("'sha256-") == 2 and "unsafe" not in ours[1]
    assert [page.inline(script) for script in scripts] == [lab_page._inline(script) for script in scripts]
