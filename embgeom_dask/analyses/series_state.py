"""What `series` knows after some steps, and the copy of it that is saved so that an interrupted call can continue."""

from __future__ import annotations

import io
import zipfile
from hashlib import sha256
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.analyses.survey import summarize
from embgeom_dask.batches.step_records import Record
from embgeom_dask.errors import InputError
from embgeom_dask.execution import journal
from embgeom_dask.kernels.rationals import Rationals
from embgeom_dask.pairwise.rows import digest
from embgeom_dask.progress import note
from embgeom_dask.storage import paths, records

Array = NDArray[Any]

NUMBERS = (
    *("centroid_l2", "norm_mean", "norm_min", "norm_max", "unique_count", "group_count", "member_count"),
    *("changed_count", "joined_count", "left_count"),
)

_LARGEST = 1 << 40
_DAMAGE = (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile)


class SeriesState:
    """What `series` tells of `done` steps, and what the next one is compared with.

    `told` has the numbers (NUMBERS, steps), `centroid (steps, d)`, over rows `first`, `last`, `changes` and `grouped`,
    as the result names them, and of the steps before the digests of rows `start` and `before` (V, 16) and `was (V,)`,
    whether a row was in a group.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        count, size, width = shape
        self.done = 0
        # of all steps, as `open_steps` tells one array from another; not of a state that is loaded
        self.digest = sha256()
        self.told: dict[str, Array] = {
            "numbers": np.zeros((len(NUMBERS), count)),
            "centroid": np.empty((count, width)),
            "first": np.full(size, -1),
            "last": np.full(size, -1),
            "changes": np.zeros(size, np.int64),
            "grouped": np.zeros(size, np.int64),
            "start": np.zeros((size, 16), np.uint8),
            "before": np.zeros((size, 16), np.uint8),
            "was": np.zeros(size, bool),
        }

    def add(self, rows: Array, step: int, name: str) -> None:
        """Look at the rows (V, d) of the next step, of that number.

        Raises
        ------
        InputError
            where rows hold what cannot be computed with; `name` says of what.
        """
        told, place = self.told, self.done
        summary, digests = summarize(rows), digest(rows)
        self.digest.update(digests.tobytes())
        if summary.unfit.any():
            bad = np.flatnonzero(summary.unfit)[:5].tolist()
            raise InputError(f"step {step} of {name}: rows {bad} hold NaN, infinity or values out of range")
        middle, norms = summary.sums.mean(len(rows)), Rationals.of(summary.norms)
        told["centroid"][place] = middle.nearest()
        names = digests.view("V16").ravel()
        _, group, of_group = np.unique(names, return_inverse=True, return_counts=True)
        grouped = of_group[group] > 1
        if not place:
            told["start"], told["before"], told["was"] = digests, digests, grouped
        was, changed = told["was"], (digests != told["before"]).any(axis=1)
        told["numbers"][:, place] = (
            *(middle.l2, norms.mean, summary.norms.min(), summary.norms.max(), of_group.size),
            *(np.count_nonzero(of_group > 1), np.count_nonzero(grouped), np.count_nonzero(changed)),
            *(np.count_nonzero(grouped & ~was), np.count_nonzero(was & ~grouped)),
        )
        told["first"][(told["first"] < 0) & (digests != told["start"]).any(axis=1)] = step
        told["last"][changed] = step
        told["changes"] += changed
        told["grouped"] += grouped
        told["before"], told["was"] = digests, grouped
        self.done += 1


class SavedState:
    """A copy of what is known, saved now and then beside the result, from which the same command goes on."""

    def __init__(self, fingerprint: str, record: Record) -> None:
        self.path = paths.join(paths.locate(record.folder), f"{fingerprint[:16]}.npz")
        self.record = record
        self._saved = monotonic()

    def load(self, shape: tuple[int, int, int]) -> SeriesState:
        """What was saved last; nothing of any step where there is none, or it is damaged, which a note says."""
        found = SeriesState(shape)
        if not paths.exists(self.path):
            return found
        try:
            with np.load(io.BytesIO(records.read(self.path, _LARGEST)), allow_pickle=False) as saved:
                told = {name: saved[name] for name in found.told}
                done = int(saved["done"])
            if any(told[name].shape != each.shape for name, each in found.told.items()) or not 0 < done <= shape[0]:
                raise ValueError("it is of other steps")
        except _DAMAGE as error:
            note(f"{self.path} is damaged, and the steps are read again: {paths.explain(error)}")
            return found
        found.told, found.done = told, done
        return found

    def save(self, known: SeriesState) -> None:
        """Save what is known, if it is time."""
        if monotonic() - self._saved >= tuning.STEPS_KEPT_SECONDS:
            content = io.BytesIO()
            told: dict[str, Any] = {"done": known.done, **known.told}
            np.savez(content, **told)
            journal.put(self.path, content.getvalue())
            self.record.write(known.done)
            self._saved = monotonic()
