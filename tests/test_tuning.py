from __future__ import annotations

import ast
import doctest
import re
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest

from embgeom_dask import tuning

SOURCE = Path(tuning.__file__)
NAMES = [name for name in vars(tuning) if name.isupper()]


def test_its_example_holds() -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(tuning.override, "override")
    assert not doctest.DocTestRunner().run(example).failed


def test_a_value_is_overridden_in_every_thread_and_comes_back() -> None:
    seen: list[int] = []

    @tuning.override(LEAST_TILE=4)
    def fails() -> None:
        thread = Thread(target=lambda: seen.append(tuning.LEAST_TILE))
        thread.start()
        thread.join()
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fails()
    assert (seen, tuning.LEAST_TILE) == ([4, 4], 32)


@pytest.mark.parametrize("name", ["MISSING", "override", "Any", "__name__"])
def test_what_is_no_constant_is_refused_in_one_line(name: str) -> None:
    before = dict(vars(tuning))
    with pytest.raises(AttributeError, match=f"^embgeom_dask.tuning has no constant {name}: .*$"):
        tuning.override(LEAST_TILE=4, **{name: 1}).__enter__()
    assert vars(tuning) == before


def test_every_constant_says_what_it_decides() -> None:
    body = ast.parse(SOURCE.read_text()).body
    said = {}
    for node, after in pairwise(body):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            (target,) = node.targets if isinstance(node, ast.Assign) else (node.target,)
            assert isinstance(target, ast.Name)
            assert isinstance(after, ast.Expr)
            assert isinstance(after.value, ast.Constant)
            said[target.id] = after.value.value
    assert list(said) == NAMES
    assert all(isinstance(text, str) and text.endswith(".") for text in said.values())


def test_every_constant_is_read_when_it_is_used() -> None:
    texts = [path.read_text() for path in SOURCE.parent.rglob("*.py") if path != SOURCE]
    used = {name for text in texts for name in re.findall(r"\btuning\.([A-Z_]+)\b", text)}
    assert used == set(NAMES)
    assert not any(re.search(r"from embgeom_dask\.tuning import", text) for text in texts)
