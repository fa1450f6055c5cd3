"""Write the steps of a training, in whatever form they are given, into one series store."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from hashlib import sha256

from embgeom_dask.analyses.steps import Steps, open_steps
from embgeom_dask.checkpoints.name_and_tokenizer import check_name
from embgeom_dask.errors import EmbgeomWarning, InputError, parse_path
from embgeom_dask.execution.arrays import Data, is_array
from embgeom_dask.progress import showing
from embgeom_dask.storage import model_stores, paths
from embgeom_dask.storage.model_stores import Role
from embgeom_dask.storage.paths import PathLike
from embgeom_dask.storage.series_stores import SERIES_FORMAT, write_series


def store_series(
    data: Data | Iterable[Data],
    stores: PathLike = "stores",
    role: Role | None = None,
    *,
    name: str | None = None,
    tokenizer: PathLike | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> str:
    """Write one matrix at all steps of a training into one store, with the dimensions (step, token_id, hidden).

    A folder is written under another name and renamed when it is complete. If the call is interrupted or killed, the
    same call continues at the step where it was; for arrays it begins again.

    Parameters
    ----------
    data : path, array, or list of these
        The steps, as `series` takes them.
    stores : path or URL
        The folder that the store is written into.
    role : {"input", "output"}, optional
        The matrix of stores and checkpoints; by default output, or input if there is no output matrix.
    name : str, optional
        What the series is called, `organisation/name`. By default the name of the folder or the file.
    tokenizer : path, optional
        The folder of the tokenizer that labels the rows of checkpoints. By default it is looked for in the first of
        them, and beside it.
    overwrite : bool
        Replace the series store of the same name as soon as the new one is complete.
    progress : bool, optional
        Whether to show a progress bar; by default only in a notebook.

    Returns
    -------
    str
        The path of the store. `open_series` opens it, `series` reads it, and every command takes a step of it, as
        `STORE.zarr:100`.

    Raises
    ------
    InputError
        If the steps cannot be read, as `series` says, if an array has token ids that are not 0, 1, 2, ..., or if
        something else is at the path of the store.
    EmbgeomError
        If the store cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> store_series(np.zeros((3, 4, 2), np.float32), name="org/run")
    'stores/org--run.zarr'
    """
    with showing(progress), open_steps(data, role, identified=False, tokenizer=tokenizer) as steps:
        if steps.token_id is not None:
            raise InputError(
                f"the rows of the array given have the ids {steps.token_id[0]} to {steps.token_id[-1]}, and a series "
                "store numbers them from 0: give all rows, or array.drop_vars('token_id')"
            )
        called = check_name(name or steps.name.removesuffix(" (array)").replace(":", "-"))
        if steps.labels is None:
            warnings.warn(f"{called}: no row has a token", EmbgeomWarning, stacklevel=2)
        target = paths.join(parse_path("stores", stores), model_stores.file_name(called))
        attrs = {"model": called, "source": steps.name}
        return write_series(
            target,
            steps.matrix,
            steps.read,
            steps.shape,
            steps.step,
            attrs=attrs,
            labels=steps.labels,
            overwrite=overwrite,
            resume=None if is_array(data) else _resumable(steps, attrs),
        )


def _resumable(steps: Steps, attrs: Mapping[str, str]) -> str:
    """The digest of what is to be written: an interrupted writer of the same digest goes on."""
    stored = [each.sha256 for each in steps.matrices]
    facts = [SERIES_FORMAT, attrs, steps.matrix, steps.shape, steps.step.tolist(), steps.settings, stored]
    return sha256(json.dumps(facts).encode()).hexdigest()[:12]
