"""The examples of docstrings."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from distributed import Client

import embgeom_dask as eg
from embgeom_dask.reporting.accessor import Report

TESTING = ("checkpoints", "faults", "references", "strategies")


@pytest.fixture(autouse=True)
def _beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client) -> Iterator[None]:
    """Examples write into the folder that they run in, and use the client that is active."""
    monkeypatch.chdir(tmp_path)
    with client.as_current():
        yield


def run(test: doctest.DocTest) -> None:
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not runner.run(test, out=told.append, clear_globs=False).failed, "".join(told)


@pytest.mark.parametrize("name", TESTING)
def test_every_name_of_testing_has_an_example_that_holds(name: str) -> None:
    module = importlib.import_module(f"embgeom_dask.testing.{name}")
    examples = {test.name.removeprefix(f"{module.__name__}."): test for test in doctest.DocTestFinder().find(module)}
    for public in [key for key, each in vars(module).items() if getattr(each, "__module__", "") == module.__name__]:
        if callable(getattr(module, public)) and not public.startswith("_"):
            assert examples[public].examples, f"{name}.{public} has no example"
            run(examples[public])


@pytest.mark.parametrize("name", eg.__all__)
def test_every_public_name_has_an_example_that_holds(name: str) -> None:
    public = getattr(eg, name)
    whole = {name: public, "np": np, "xr": xr}
    found = [each for each in doctest.DocTestFinder(recurse=False).find(public, name, globs=whole) if each.examples]
    assert found, f"{name} has no example"
    run(found[0])


def test_the_example_of_the_accessor_holds() -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(Report, "Report", globs={})
    assert example.examples
    run(example)
