"""The result of a panel and its serialization; the merged result of all panels of a pass."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, cast

import numpy as np
from numcodecs import Blosc
from safetensors.numpy import load, save

from embgeom_dask.pairwise.tables import NamedArrays
from embgeom_dask.reductions.base import Merged, MergedState, Reduction

_PACKING: Any = Blosc(cname="lz4", clevel=5, shuffle=Blosc.BITSHUFFLE, typesize=8)

LARGEST_BYTES: int = Blosc.max_buffer_size
"""No panel's bytes are more: its states are packed as one buffer."""


@dataclass(frozen=True)
class PanelStats:
    """Who computed a panel, and how.

    `start` and `end` are seconds since 1970, `worker` is its address, `read` the bytes of rows that it took from the
    store for this panel, `peak` the most memory that its process ever held, in bytes.
    """

    start: float
    end: float
    worker: str
    read: int
    peak: int


@dataclass
class PassResult:
    """What all panels of a pass found: the merged state of each reduction, and of the panels what `PanelResult` has."""

    states: dict[str, MergedState]
    devices: set[str]
    counts: Counter[str]
    products: set[str]

    def state(self, reduction: Reduction[Any, Any, Merged]) -> Merged:
        """The state of one of the reductions of the plan."""
        return cast(Merged, self.states[reduction.name])


@dataclass
class PanelResult:
    """What a panel found: the state of each reduction, the devices used, how many pairs each level of exactness
    decided, and what products filtered pairs, like "cpu int8"; and its work."""

    states: dict[str, NamedArrays]
    devices: set[str]
    counts: Counter[str]
    products: set[str]
    work: PanelStats | None = None

    def to_bytes(self) -> bytes:
        """The sha256 of what follows, and a line of JSON, and the states, packed; nothing in it is ever executed."""
        about = {
            "devices": sorted(self.devices),
            "counts": self.counts,
            "products": sorted(self.products),
            "work": asdict(self.work) if self.work else None,
        }
        arrays = {
            f"{reduction}/{name}": np.asarray(array, order="C")
            for reduction, state in self.states.items()
            for name, array in state.arrays().items()
        }
        packed: bytes = _PACKING.encode(save(arrays))
        body = json.dumps(about).encode() + b"\n" + packed
        return sha256(body).digest() + body

    @classmethod
    def from_bytes(cls, stored: bytes, state_types: Mapping[str, type[NamedArrays]]) -> PanelResult | None:
        """What `to_bytes` wrote of states of these types; None where that is not what is there."""
        body = stored[32:]
        if sha256(body).digest() != stored[:32]:
            return None
        line, _, packed = body.partition(b"\n")
        about, arrays = json.loads(line), load(_PACKING.decode(packed))
        schema = {
            f"{name}/{field}": dtype for name, kind in state_types.items() for field, dtype in kind.dtypes().items()
        }
        if {name: array.dtype for name, array in arrays.items()} != schema:
            return None
        states = {
            name: kind(**{field: arrays[f"{name}/{field}"] for field in kind.dtypes()})
            for name, kind in state_types.items()
        }
        work = PanelStats(**about["work"]) if about["work"] else None
        return cls(states, set(about["devices"]), Counter(about["counts"]), set(about["products"]), work)
