"""The size of modules and functions, and imports in circles, which import-linter sees between rooms only."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import embgeom_dask

ROOT = Path(embgeom_dask.__file__).parent
MODULES = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}
NAMES = {name.removesuffix(".__init__") for name in MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_no_module_is_longer_than_400_lines_and_no_function_body_than_60(name: str) -> None:
    text = MODULES[name].read_text()
    assert text.count("\n") <= 400
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            first = function.body[min(len(function.body) - 1, ast.get_docstring(function) is not None)]
            assert (function.end_lineno or 0) - first.lineno < 60, function.name


def imported_at_once(path: Path) -> set[str]:
    """Return the modules of the package that a module imports when it is imported itself: not those for types alone."""
    found: set[str] = set()
    left: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            left += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            left += ast.iter_child_nodes(node)
    return found & NAMES


def test_no_imports_run_in_a_circle() -> None:
    graph = {name.removesuffix(".__init__"): imported_at_once(path) for name, path in MODULES.items()}
    # `from room import module` in a module of the room needs nothing of the room itself
    graph = {name: {each for each in found if not f"{name}.".startswith(f"{each}.")} for name, found in graph.items()}
    TopologicalSorter(graph).prepare()
