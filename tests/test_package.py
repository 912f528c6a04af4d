"""The package as a whole: what importing it costs, and what the built wheel does elsewhere."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest

import preftune

ROOT = Path(__file__).parents[1]


def run(*command: object, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What a command printed; fails with all it printed if it failed. The caller's PYTHONPATH stays out of it."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} if env is None else env
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


TORCH_FREE = (
    "",
    ".errors import UserError",
    ".evidence import read_study, verdict",
    ".evidence import *",
    ".report import *",
    ".lab import *",
    ".data.ballots import Ballot",
    ".data.reading import read_ballots",
    ".data.baselines import fit_baselines",
    ".data.tokens import text_format",
    ".checking import *",
    ".people import *",
    ".methods import METHODS, find_method, AmortizedOptions",
    ".training import make_recipe, parse_arm; parse_arm('ppo[rollouts=2]'); make_recipe('gpo', {'lr': 1e-3})",
    ".study import settle_run, settle_study; settle_study('dpo,ppo', rollouts=3)",
    ".study import settle_folders, settle_placement; settle_placement(workers=2)",
    ".cli.parser import build_parser; build_parser()",
)


@pytest.mark.parametrize("part", TORCH_FREE)
def test_what_needs_no_torch_loads_none(part: str, tmp_path: Path) -> None:
    """In a process of its own: data, evidence, reports, options, and the command line before it runs a command."""
    heavy = "{'torch', 'transformers', 'peft'}"
    code = f"import sys, preftune\nfrom preftune{part}\n" if part else "import sys, preftune\n"
    code += f"print(sorted({heavy} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    assert run(sys.executable, "-c", code, cwd=tmp_path, env=env).strip() == "[]"


@pytest.mark.parametrize("name", preftune.__all__)
def test_every_public_name_is_there_under_its_own_name(name: str) -> None:
    assert getattr(preftune, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="alignn"):
        _ = preftune.alignn


@pytest.fixture(scope="module")
def wheel_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a fresh environment with our built wheel, and this one's dependencies but not its preftune.

    A `.pth` line adds this environment's packages to the path without following the links among them, so that the
    source tree, installed as a link, stays out of sight.
    """
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, cwd=folder)
    (packages,) = (folder / "env" / "lib").glob("*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(here) + "\n")
    return python.parent


@pytest.mark.slow
def test_the_wheel_is_the_whole_package(wheel_environment: Path, tmp_path: Path) -> None:
    place = Path(
        run(wheel_environment / "python", "-c", "import preftune; print(preftune.__file__)", cwd=tmp_path).strip()
    )
    assert place.is_relative_to(wheel_environment.parent)
    source = ROOT / "src" / "preftune"
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert wanted <= {path.relative_to(place.parent) for path in place.parent.rglob("*")}


@pytest.mark.slow
def test_the_installed_command_works_from_another_folder(wheel_environment: Path, tmp_path: Path) -> None:
    assert "convert" in run(wheel_environment / "preftune", "data", "--help", cwd=tmp_path)
    row = {"prompt": "Which is warmer?", "chosen": "The sun.", "rejected": "The moon."}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    run(wheel_environment / "preftune", "data", "convert", "pairs.jsonl", "ballots.jsonl", cwd=tmp_path)
    (ballot,) = [json.loads(line) for line in (tmp_path / "ballots.jsonl").read_text().splitlines()]
    assert set(row.values()) - {row["prompt"]} <= set(ballot["responses"])
