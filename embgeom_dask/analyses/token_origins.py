"""The point that `tokens` measures distances from: the row of a token, a given point, or the centre of a cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from distributed import Client
from numpy.typing import ArrayLike, NDArray

from embgeom_dask.analyses.cluster import CLUSTER, members_of
from embgeom_dask.checkpoints.bare_files import read_vector
from embgeom_dask.checkpoints.matrix_files import find_matrix_file
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Given, is_array
from embgeom_dask.kernels.rationals import Rationals
from embgeom_dask.kernels.row_checks import unfit
from embgeom_dask.selections.origins import row_of
from embgeom_dask.statistics.means import mean_of
from embgeom_dask.storage import fill

Origin = int | str | os.PathLike[str] | ArrayLike | None


@dataclass(frozen=True)
class Chosen:
    """What distances are asked from.

    Attributes
    ----------
    kind : {"token", "point", "cluster"}
    row : int, optional
        The number of the token's row.
    values : (d,) float64, optional
        The point.
    """

    kind: str
    row: int | None = None
    values: NDArray[np.float64] | None = None

    def setting(self, given: Given) -> int | str:
        """What tells it from others: the id of the token, the digest of the point, or that the cluster is sought."""
        if self.row is not None:
            return int(given.ids[self.row])
        return CLUSTER if self.values is None else fill.sha256(self.values)

    def place(self, client: Client, given: Given) -> tuple[Rationals, dict[str, Any]]:
        """Where it lies, exactly, with what a result says of it.

        Raises
        ------
        InputError
            where no cluster stands apart.
        """
        if self.row is not None:
            point = Rationals.of(given.matrix.take(np.array([self.row])).astype(np.float64)[0])
            return point, {"origin_kind": self.kind, "origin_token_id": int(given.ids[self.row])}
        found: dict[str, Any] = {"origin_kind": self.kind}
        if self.values is not None:
            point = Rationals.of(self.values)
        else:
            rows = members_of(client, given, "give a token or a file as `origin`")
            point = mean_of(client, "centre", given.matrix, rows)
            found["cluster_count"] = rows.size
        return point, found | {"origin_point": ("hidden", point.nearest())}


def choose_origin(origin: Origin, given: Given) -> Chosen | None:
    """What is asked for; None where nothing is.

    Parameters
    ----------
    origin : int, str, path or array (d,)
        A token by id or by name; `FILE.npy`, `FILE.safetensors` or `FILE.safetensors:KEY`; numbers; or "cluster".

    Raises
    ------
    InputError
        where it is not one token with one row, or no list of as many fit numbers as a row has.
    """
    if origin is None:
        return None
    if isinstance(origin, str) and origin == CLUSTER:
        return Chosen(CLUSTER)
    if isinstance(origin, int | np.integer):
        return Chosen("token", row_of(int(origin), given))
    if isinstance(origin, str | os.PathLike):
        name = os.fspath(origin)
        file = find_matrix_file(name)
        if file is None:
            return Chosen("token", row_of(name, given))
        return Chosen("point", values=_checked(read_vector(*file), f"`origin` {name}", given))
    if not is_array(origin) and not isinstance(origin, list | tuple):
        raise InputError(f"`origin` is a {type(origin).__name__}: give a token, a file, or a list of numbers")
    try:
        values = np.asarray(origin).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("`origin`: give numbers, one a column of the matrix") from error
    return Chosen("point", values=_checked(values, "`origin`", given))


def _checked(values: NDArray[Any], called: str, given: Given) -> NDArray[np.float64]:
    width = given.matrix.hidden_size
    if values.shape != (width,):
        raise InputError(
            f"{called} has the shape {values.shape}, {given.matrix.name} of {given.matrix.label} has {width} columns"
        )
    if unfit(values[None])[0]:
        raise InputError(f"{called} holds NaN, infinity, or values under 2^-400 or over 2^400 in size")
    return values
