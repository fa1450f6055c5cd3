"""What a panel found, and its bytes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numcodecs import Blosc
from safetensors.numpy import load, save

State = dict[str, Any]

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
class PanelResult:
    """What one panel, or all of them, found: the state of each reduction, the devices used, how many pairs each
    level of exactness decided, and what products filtered pairs, like "cpu int8"; of one panel, its work."""

    states: dict[str, State]
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
            "states": {name: list(state) for name, state in self.states.items()},
        }
        columns = {
            f"{reduction}/{name}": np.asarray(column, order="C")
            for reduction, state in self.states.items()
            for name, column in state.items()
        }
        packed: bytes = _PACKING.encode(save(columns))
        body = json.dumps(about).encode() + b"\n" + packed
        return sha256(body).digest() + body

    @classmethod
    def from_bytes(cls, stored: bytes) -> PanelResult | None:
        """What `to_bytes` wrote; None where that is not what is there."""
        body = stored[32:]
        if sha256(body).digest() != stored[:32]:
            return None
        line, _, packed = body.partition(b"\n")
        about, columns = json.loads(line), load(_PACKING.decode(packed))
        states = {
            reduction: {name: columns[f"{reduction}/{name}"] for name in names}
            for reduction, names in about["states"].items()
        }
        work = PanelStats(**about["work"]) if about["work"] else None
        return cls(states, set(about["devices"]), Counter(about["counts"]), set(about["products"]), work)
