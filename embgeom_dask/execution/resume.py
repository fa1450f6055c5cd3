"""Continue where an interrupted scan ended: from the result that is there, or from its journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import xarray as xr

from embgeom_dask.errors import EmbgeomError, parse_path
from embgeom_dask.execution.journal import Journal
from embgeom_dask.storage import paths, results
from embgeom_dask.storage.paths import PathLike


@contextmanager
def result_or_journal(
    out: PathLike | None, attrs: Mapping[str, Any], *, dry_run: bool
) -> Iterator[tuple[xr.Dataset | None, Journal | None]]:
    """Yield the result at `out` that `attrs` identify, or None and the journal that keeps its panels.

    While the journal is used nobody else has it. Without `out` there is neither. A dry run has the journal to read.

    Raises
    ------
    InputError
        where a result or a journal of other settings is there, or another command makes this one.
    """
    if out is None:
        yield None, None
        return
    paths.check_writable(paths.locate(parse_path("out", out)))
    journal = Journal(out)
    done = results.existing(journal.out, attrs)
    if done is not None:
        if not journal.is_settled:
            with suppress(EmbgeomError), journal.claimed(attrs):  # where nothing can be removed, nothing is
                journal.finish()
        yield done, None
    elif dry_run:
        journal.check(attrs)
        yield None, journal
    else:
        with journal.claimed(attrs):
            done = results.existing(journal.out, attrs)  # another command may have made it meanwhile
            if done is not None:
                journal.finish()
            else:
                journal.check(attrs)
            yield done, journal
