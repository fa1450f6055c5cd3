"""The engine by which xarray opens a saved result like `open_result`: `xarray.open_dataset`, `open_mfdataset`.

xarray looks at every engine when it opens anything, so this module imports nothing else before it is used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xarray import Dataset
from xarray.backends import BackendEntrypoint


class ResultEngine(BackendEntrypoint):
    """Opens folders that embgeom has saved as results."""

    description = "Open results of embgeom"
    open_dataset_parameters = (
        *("filename_or_obj", "drop_variables", "group", "consolidated"),
        *("mask_and_scale", "decode_times", "decode_timedelta", "use_cftime", "concat_characters", "decode_coords"),
    )

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        **decoding: Any,  # noqa: ARG002 - nothing in a result is encoded
    ) -> Dataset:
        """Open a result; see `open_result`. Of a tree it is the table, or with `group` another node."""
        from embgeom_dask import open_result  # of the package, whose results have the accessor `embgeom`
        from embgeom_dask.storage import paths

        dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or [])
        where = os.fspath(filename_or_obj)
        if group is not None and (name := group.strip("/")):
            node = paths.join(where, name)  # of a folder, nodes are called without their .zarr
            where = next((each for each in (node, f"{node}.zarr") if paths.exists(paths.locate(each))), node)
        found = open_result(where)
        if not isinstance(found, Dataset):
            table = found.to_dataset()
            found = table.assign_coords({name: table[name] for name in table.coords if name in table.dims})  # indexes
        result: Dataset = found.drop_vars(dropped, errors="ignore")
        return result

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether a result is there."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        try:
            attributes = json.loads(Path(filename_or_obj, "zarr.json").read_bytes())["attributes"]
            return "result_format" in attributes or {"command", "fingerprint", "settings"} <= set(attributes)
        except (OSError, ValueError, KeyError, TypeError):
            return False
