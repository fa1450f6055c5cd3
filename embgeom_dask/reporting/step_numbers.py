"""The numbers of a training that plots and reports show, from the result of `series`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from embgeom_dask.errors import InputError

Array = NDArray[Any]

_NOT_OF_STEPS = "this result has no steps: take the result of series"


class StepPicture(NamedTuple):
    """A picture of a training: its axis and its lines by name; `band` are the names of what a line lies between."""

    axis: str
    lines: dict[str, str]
    band: tuple[str, str] | None = None
    counts: bool = False


KINDS = {
    "norms": StepPicture("L2 norm of rows", {"mean": "norm_mean"}, ("norm_min", "norm_max")),
    "centroid": StepPicture("L2 norm of the centroid", {"centroid": "centroid_l2"}),
    "groups": StepPicture("identical rows", {"groups": "group_count", "tokens in groups": "member_count"}, counts=True),
    "changes": StepPicture(
        "rows",
        {
            "change": "changed_count",
            "first change (born)": "born",
            "last change (die)": "died",
            "join a group (merge)": "joined_count",
            "leave one (part)": "left_count",
        },
        counts=True,
    ),
}
"""What is drawn, by name."""

COLORS = ("#4682b4", "#009e73", "#d55e00", "#cc79a7", "#e69f00")
"""Of the lines of a picture, in order: steelblue and four of Okabe and Ito's, which the colour blind tell apart."""


def of_series(result: xr.Dataset | xr.DataTree) -> xr.Dataset:
    """The result of `series`, or the root of its tree; InputError where it is none."""
    found = result if isinstance(result, xr.Dataset) else result.to_dataset()
    if "step" not in found.dims or not {"changed_count", "first_change_step"} <= set(found.data_vars):
        raise InputError(_NOT_OF_STEPS)
    return found


def name_of(result: xr.Dataset) -> str:
    """What the training is called."""
    named = np.atleast_1d(result.attrs.get("model", [])).tolist()  # netCDF makes a string of a list of one
    return str(named[0]) if named else ""


def values(result: xr.Dataset, name: str) -> Array:
    """The numbers over steps called so; `born` and `died` are counted from the steps of first and last changes.

    Which rows change for the last time at the last step is not known: NaN.
    """
    if name not in ("born", "died"):
        return result[name].to_numpy()
    steps = result["step"].to_numpy()
    changes = result["first_change_step" if name == "born" else "last_change_step"].to_numpy()
    known = dict(zip(*(each.tolist() for each in np.unique(changes, return_counts=True)), strict=True))
    counts = np.array([known.get(step, 0) for step in steps.tolist()])  # of these steps, which may be some of all
    return counts if name == "born" else np.where(steps == steps.max(initial=0), np.nan, counts)
