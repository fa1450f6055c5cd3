"""The public names."""

from __future__ import annotations

import subprocess
import sys

import embgeom_dask as eg


def test_dir_lists_the_public_names_and_nothing_else() -> None:
    names = [name for name in dir(eg) if not name.startswith("_")]
    assert names == sorted(eg.__all__)
    assert {"scan", "survey", "open_model", "open_result", "InputError"} <= set(names)
    assert all(getattr(eg, name).__name__ == name for name in names)
    code = "import embgeom_dask as eg, sys; dir(eg); import embgeom_dask.storage.paths; print(*dir(eg))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == sorted(eg.__all__)
