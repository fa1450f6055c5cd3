"""Ask a question about one matrix, like `survey`, at every step of a training: results over `step`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from time import perf_counter
from typing import Any, cast

import numpy as np
import xarray as xr
from distributed import Client

from embgeom_dask import tuning
from embgeom_dask.analyses.cluster import NoCluster
from embgeom_dask.analyses.duplicates import duplicates
from embgeom_dask.analyses.outliers import outliers, without_cluster
from embgeom_dask.analyses.spectrum import spectrum
from embgeom_dask.analyses.steps import Steps, attributes, matrices_of
from embgeom_dask.analyses.survey import survey
from embgeom_dask.analyses.tokens import tokens
from embgeom_dask.batches.step_records import Record, parts_of, remove_parts
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.execution.arrays import Given
from embgeom_dask.progress import bar, note, showing
from embgeom_dask.storage import paths, results
from embgeom_dask.storage.model_stores import Matrix
from embgeom_dask.storage.validation import REACHABILITY

ANALYSES: dict[str, Callable[..., xr.Dataset]] = {
    "survey": survey,
    "tokens": tokens,
    "duplicates": duplicates,
    "outliers": outliers,
    "spectrum": spectrum,
}
"""What can be asked of every step."""

_AT_ONCE = 4
"""Steps in work at a time, where they are small: one is written while another is computed."""

_LISTED = 8
"""Steps that a note lists."""

_TOKEN_BYTES = 128
"""About the bytes of what `tokens` says of a token at a step."""

_OF_TOKENS = ("token_id", "token", "text", "has_token", "is_added", "is_special", REACHABILITY, "script")
_CONSTANT = (
    *_OF_TOKENS,
    "vocab_size",
    "hidden_size",
    "dtype",
    "tied",
    "origin_token_id",
    "origin_token",
    "origin_text",
)
"""Variables that are the same at all steps."""

_DROPPED = ("model", "revision", "matrix", "group_model")
_FILL: dict[str, Any] = {"f": np.nan, "i": -1, "b": False}
"""What is where a step has fewer groups, members or outlier dimensions than another; of strings the empty one."""


def check_each(each: str | Sequence[str] | Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """What is to be asked of every step, with the settings of each. Raises InputError where that is none of these."""
    if each is not None and not isinstance(each, Iterable):
        raise InputError(f"`each` {each!r:.40}: choose of {', '.join(ANALYSES)}")
    given = {} if each is None else dict.fromkeys([each] if isinstance(each, str) else each, cast(Any, {}))
    for name in given:
        if name not in ANALYSES:
            raise InputError(f"`each` {name!r:.40}: choose of {', '.join(ANALYSES)}")
    return {name: dict(each[name]) if isinstance(each, Mapping) else {} for name in given}


def ask_each(
    asked: Mapping[str, Mapping[str, Any]], steps: Steps, client: Client, out: str | None, resume: str | None = None
) -> dict[str, xr.Dataset]:
    """Ask every step one question after the other; return the results over `step`, by what was asked.

    With `out`, a folder, each is saved there; `resume` is the command that goes on with it.
    """
    found = {}
    for name, settings in asked.items():
        started = perf_counter()
        target = None if out is None else paths.join(out, f"{name}.zarr")
        said = {key: _plain(value) for key, value in settings.items()}
        attrs = {**attributes(steps, {"each": name, **said}), "analysis": name}
        if target is not None and (done := results.existing(target, attrs)) is not None:
            found[name] = done
            remove_parts(target)
            continue
        record = None if target is None else Record(target, steps.shape[0], resume)
        dataset = _over_steps(name, steps, settings, attrs, client, target, record)
        found[name] = results.finish(dataset, attrs, started, target)
        if target is not None:
            found[name] = results.open_result(target)
            remove_parts(target)
    if "outliers" in found:
        _say_where_none(found["outliers"], steps)
    return found


def _say_where_none(found: xr.Dataset, steps: Steps) -> None:
    """Say at which steps no cluster stands apart."""
    places = np.flatnonzero(found["token_count"].to_numpy() == 0)
    if places.size:
        listed = ", ".join(map(str, steps.step[places[:_LISTED]])) + (", ..." if places.size > _LISTED else "")
        note(
            f"no cluster of {steps.name} stands apart at {places.size} of {len(steps.step)} steps ({listed}): they "
            "have no outliers, unless tokens are chosen"
        )


def _over_steps(
    name: str,
    steps: Steps,
    settings: Mapping[str, Any],
    attrs: Mapping[str, Any],
    client: Client,
    out: str | None,
    record: Record | None,
) -> xr.Dataset:
    """The results of every step as one. With `out` some steps at a time are saved beside it, and not computed again."""
    count, size, _ = steps.shape
    some = max(1, min(tuning.STEPS_SAVED, tuning.LOADED_BYTES // (size * _TOKEN_BYTES)))
    found = []
    with bar(count, f"{steps.name} {name}", "steps") as advance:
        for start in range(0, count, some):
            if record is not None:
                record.write(start)
            places = range(start, min(start + some, count))
            part = None if out is None else paths.join(parts_of(out), f"{start:08}.zarr")
            marked = {**attrs, "fingerprint": f"{attrs['fingerprint']}-{start}"}
            kept = None if part is None else results.existing(part, marked)
            if kept is not None:
                advance(len(places), fresh=False)
            else:
                each = list(_each(name, steps, places, settings, client, advance))
                kept = _together(each, steps.step[places.start : places.stop]).assign_attrs(marked)
                if part is not None:
                    results.save(kept, part)
            found.append(kept if part is None else _lazy(part, kept))
    return _joined(found)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else np.asarray(value).tolist()


def _each(
    name: str, steps: Steps, places: range, settings: Mapping[str, Any], client: Client, advance: Any
) -> Iterator[xr.Dataset]:
    """What is found at each of some steps, in their order; those of no store are read here, one after the other."""

    def ask(matrix: Matrix, place: int) -> xr.Dataset:
        rows = matrix if steps.token_id is None else Given(matrix, np.arange(matrix.vocab_size), steps.token_id)
        try:
            with showing(False):
                return ANALYSES[name](rows, client=client, **settings)
        except NoCluster:
            return without_cluster(matrix.hidden_size)
        except EmbgeomError as error:
            kind = InputError if isinstance(error, InputError) else EmbgeomError
            raise kind(f"step {steps.step[place]}: {error}") from error
        finally:
            drop(matrix)

    step_bytes = steps.shape[1] * steps.shape[2] * 8
    at_once = max(1, min(_AT_ONCE, tuning.STEPS_BYTES // step_bytes))
    waiting: deque[Future[xr.Dataset]] = deque()
    with matrices_of(steps) as (matrix_at, drop), ThreadPoolExecutor(at_once) as threads:
        try:
            for place in places:
                if len(waiting) == at_once:
                    yield waiting.popleft().result()
                    advance(1)
                waiting.append(threads.submit(copy_context().run, ask, matrix_at(place), place))
            while waiting:
                yield waiting.popleft().result()
                advance(1)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _together(found: Sequence[xr.Dataset], step: np.ndarray) -> xr.Dataset:
    """Put the results of some steps into one over `step`; shorter ones are filled up."""
    spread = []
    for dataset, number in zip(found, step, strict=True):
        whole = dataset.isel(model=0) if "model" in dataset.dims else dataset
        whole = whole.drop_vars([name for name in _DROPPED if name in whole.variables])
        varying = [str(name) for name in whole.variables if name not in _CONSTANT and name not in whole.dims]
        variables = {name: whole.variables[name].set_dims({"step": 1, **whole[name].sizes}) for name in varying}
        rest = {str(name): whole.variables[name] for name in _CONSTANT if name in whole.variables}
        spread.append(xr.Dataset({**variables, **rest}, {"step": [number]}))
    labels = [name for name in found[0].coords if name in spread[0].variables]
    return _joined(spread).set_coords(labels)


def _joined(found: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put datasets over `step` one behind the other; along other dimensions, shorter ones are filled up."""
    sizes: dict[Any, int] = {}
    for dataset in found:
        for dim, size in dataset.sizes.items():
            sizes[dim] = size if dim == "step" else max(size, sizes.get(dim, 0))
    variables = {}
    for name, variable in found[0].variables.items():
        if "step" not in variable.dims:
            if name not in variable.dims or name in _OF_TOKENS:  # ranks are numbered anew
                variables[name] = variable
            continue
        parts = [_filled(each.variables[name], sizes) for each in found]
        variables[name] = xr.Variable.concat(parts, "step")
    coords = [name for name in found[0].coords if name in variables]
    return xr.Dataset(variables).set_coords(coords).drop_encoding()


def _filled(variable: xr.Variable, sizes: Mapping[Any, int]) -> xr.Variable:
    """A variable with every dimension but `step` as long as in `sizes`."""
    lazy = variable.chunks is not None
    fill = _FILL.get(variable.dtype.kind, "")
    for dim, size in variable.sizes.items():
        if dim != "step" and size < sizes[dim]:
            shape = {**variable.sizes, dim: sizes[dim] - size}
            rest = xr.Variable(tuple(shape), np.full(tuple(shape.values()), fill, variable.dtype))
            variable = xr.Variable.concat([variable, rest], dim) if size else rest
    return variable.chunk() if lazy else variable


def _lazy(path: str, kept: xr.Dataset) -> xr.Dataset:
    """A part that is saved, as dask arrays, so that all together need not fit into memory."""
    stored = xr.open_zarr(cast(Any, paths.reader(paths.locate(path))), consolidated=True, chunks={})
    numbers = [name for name, each in kept.variables.items() if each.ndim > 1 and each.dtype.kind in "biuf"]
    return kept.assign({name: stored.variables[name] for name in numbers})
