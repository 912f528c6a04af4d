"""Break the objectives one operator, constant or name at a time, and see whether test_objectives notices.

`python tests/mutate_objectives.py` prints the mutants that no test catches; there should be none.
"""

import ast
import copy
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import hypothesis
import pytest

import preftune.objectives

SOURCE = Path(preftune.objectives.__file__).parent
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}
COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt}


def mutants_of(node: ast.AST, parameters: list[str]) -> Iterator[ast.AST]:
    """Wrong versions of one node."""
    match node:
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            yield ast.BinOp(node.left, OPERATORS[type(op)](), node.right)
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                yield ast.Compare(node.left, [*ops[:i], COMPARISONS[type(op)](), *ops[i + 1 :]], node.comparators)
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=float() | int() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value / 2 - 1)
        case ast.Name(id=name, ctx=ast.Load()) if name in parameters:
            yield from (ast.Name(other, ast.Load()) for other in parameters if other != name)
        case ast.Call(func=ast.Attribute(value=value), args=[]):
            yield value
        case ast.Call(func=function, args=args, keywords=keywords) if keywords:
            for i in range(len(keywords)):
                yield ast.Call(function, args, keywords[:i] + keywords[i + 1 :])
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Return(value=value) if value is not None:
            yield ast.Return(ast.UnaryOp(ast.USub(), value))


def mutants(tree: ast.Module) -> Iterator[tuple[str, ast.Module]]:
    """(what was done, the module with it) for every single change inside a function."""
    for i, function in enumerate(tree.body):
        if not isinstance(function, ast.FunctionDef):
            continue
        parameters = [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]
        annotations = {id(n) for a in ast.walk(function.args) if isinstance(a, ast.arg) for n in ast.walk(a)}
        for j, node in enumerate(ast.walk(function)):
            if id(node) in annotations:
                continue
            for changed in mutants_of(node, parameters):
                broken = copy.deepcopy(tree)
                place = list(ast.walk(broken.body[i]))[j]
                broken.body[i] = _Replace(place, changed).visit(broken.body[i])
                yield (
                    f"line {node.lineno}: {ast.unparse(node)} -> {ast.unparse(changed)}",
                    ast.fix_missing_locations(broken),
                )


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, copy.deepcopy(new)

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def load(sources: dict[str, str], folder: Path, name: str) -> ModuleType:
    """Import a package made of those sources under a name of its own."""
    package = folder / name
    package.mkdir()
    for file, text in sources.items():
        (package / file).write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, package / "__init__.py")
    assert spec and spec.loader
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def cases(check: Callable[[], None]) -> list[Callable[[], None]]:
    """A test as plain calls: a property becomes the examples drawn for it, so that no mutant has to draw its own."""
    if not hasattr(check, "hypothesis"):
        return [check]
    inner, calls = check.hypothesis.inner_test, []
    with patch.object(
        check.hypothesis, "inner_test", lambda *args, **named: calls.append(partial(inner, *args, **named))
    ):
        hypothesis.seed(0)(check)()
    return calls


def is_caught(package: ModuleType, calls: list[Callable[[], None]], tests: ModuleType) -> bool:
    """Whether a test fails with the package's functions in the place of the real ones."""
    with patch.multiple(tests, **{name: getattr(package, name) for name in package.__all__}):
        for call in calls:
            try:
                call()
            except (Exception, pytest.fail.Exception):
                return True
    return False


def survivors(tests: ModuleType) -> list[str]:
    """The mutants that no fast test of the module catches. Raises AssertionError if the real code fails one."""
    checks = [value for name, value in vars(tests).items() if name.startswith("test_")]
    rounds = zip_longest(*(cases(check) for check in checks if not hasattr(check, "pytestmark")))
    calls = [call for one_of_each in rounds for call in one_of_each if call]
    sources = {path.name: path.read_text(encoding="utf-8") for path in SOURCE.glob("*.py*")}
    broken = [(file, *m) for file, text in sources.items() if file.endswith(".py") for m in mutants(ast.parse(text))]
    alive = []
    with tempfile.TemporaryDirectory() as folder:
        assert not is_caught(load(sources, Path(folder), "unbroken"), calls, tests)
        for number, (file, change, tree) in enumerate(broken):
            package = load({**sources, file: ast.unparse(tree)}, Path(folder), f"mutant_{number}")
            if not is_caught(package, calls, tests):
                alive.append(f"{file} {change}")
    print(f"{len(broken)} mutants, {len(alive)} not caught")
    return alive


if __name__ == "__main__":
    from objectives import test_objectives

    left = survivors(test_objectives)
    print("\n".join(left))
    sys.exit(bool(left))
