"""BLAKE2b digests of rows, of eight at a time: what `hashlib.blake2b` gives, of each row by itself."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic
from numpy.typing import NDArray

from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]

_LANES = 8
"""Rows whose digests are made together, by vectors of 64-bit words."""

_BLOCK_BYTES = 128

_PARAMETERS = 0x01010000 ^ 16
"""Of digests of 16 bytes, without a key (RFC 7693, 2.5)."""

_START = np.array(
    [
        *(0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1),
        *(0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179),
    ],
    np.uint64,
)
"""The first state, which is also the second half of what is mixed (RFC 7693, 2.6)."""

_ORDER = [
    [int(digit, 16) for digit in line]
    for line in (
        *("0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d"),
        *("2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0"),
    )
]
"""In which order a round takes the words of a block (RFC 7693, 2.7)."""

_MIXED = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
_MIXED += [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]

_ROUNDS = 12


def digests(rows: Array) -> Array:
    """Return the BLAKE2b digest of each row (n, d) of unsigned integers, with the sign bit alone as 0: (n, 16) uint8.

    So -0 is 0, where these are the bits of numbers.
    """
    kind = rows.dtype.type
    sign, zero = kind(1 << (8 * rows.itemsize - 1)), kind(0)
    blocks = max(1, -(-rows.shape[1] * rows.itemsize // _BLOCK_BYTES))

    def work(start: int, stop: int) -> Array:
        words = np.zeros((_LANES, blocks * 16), np.uint64)
        return _digests(rows[start:stop], sign, zero, words, words.view(kind))

    return np.concatenate(share_out(work, len(rows))).view(np.uint8)


@numba.njit(nogil=True, cache=True)
def _digests(rows: Array, sign: Any, zero: Any, words: Array, lines: Array) -> Array:  # pragma: no cover (compiled)
    """Return the digests as two words each; `lines` (8, w) are eight rows, padded with 0, and `words` their bytes."""
    count, nbytes, blocks = rows.shape[0], rows.shape[1] * rows.itemsize, words.shape[1] // 16
    out, state, block = (
        np.empty((count, 2), np.uint64),
        np.empty((8, _LANES), np.uint64),
        np.empty((16, _LANES), np.uint64),
    )
    for first in range(0, count, _LANES):
        lanes = min(_LANES, count - first)
        for lane in range(lanes):
            row, line = rows[first + lane], lines[lane]
            for k in range(row.size):  # a vector loop
                line[k] = row[k] if row[k] != sign else zero
        for k in range(8):
            state[k] = _START[k]
        state[0] ^= np.uint64(_PARAMETERS)
        for number in range(blocks):
            for lane in range(_LANES):
                line_of_words = words[lane, 16 * number : 16 * number + 16]
                for k in range(16):
                    block[k, lane] = line_of_words[k]
            last = number + 1 == blocks
            seen, ending = (
                np.uint64(nbytes if last else _BLOCK_BYTES * (number + 1)),
                ~np.uint64(0) if last else np.uint64(0),
            )
            _compress(state.ctypes.data, block.ctypes.data, seen, ending)  # type: ignore[call-arg]
        for lane in range(lanes):
            out[first + lane, 0], out[first + lane, 1] = state[0, lane], state[1, lane]
    return out


@intrinsic
def _compress(typing_context: Any, state: Any, block: Any, seen: Any, ending: Any) -> Any:  # noqa: ARG001
    """Mix a block of 16 words into a state of 8, each a vector of lanes, at these addresses (RFC 7693, 3.2)."""
    word = ir.IntType(64)
    vector = ir.VectorType(word, _LANES)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        def at(address: Any, count: int) -> list[Any]:
            start = builder.inttoptr(address, vector.as_pointer())
            return [builder.gep(start, [ir.Constant(ir.IntType(32), number)]) for number in range(count)]

        def all_lanes(number: Any) -> Any:
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES))

        def turned(number: Any, bits: int) -> Any:
            right, left = (ir.Constant(vector, [each] * _LANES) for each in (bits, 64 - bits))
            return builder.or_(builder.lshr(number, right), builder.shl(number, left))

        kept = at(arguments[0], 8)
        before = [builder.load(each, align=8) for each in kept]
        words = [builder.load(each, align=8) for each in at(arguments[1], 16)]
        v = [*before, *(ir.Constant(vector, [each] * _LANES) for each in _START.tolist())]
        v[12], v[14] = builder.xor(v[12], all_lanes(arguments[2])), builder.xor(v[14], all_lanes(arguments[3]))
        for turn in range(_ROUNDS):
            order = iter(_ORDER[turn % len(_ORDER)])
            for a, b, c, d in _MIXED:
                for first, second in ((32, 24), (16, 63)):
                    v[a] = builder.add(builder.add(v[a], v[b]), words[next(order)])
                    v[d] = turned(builder.xor(v[d], v[a]), first)
                    v[c] = builder.add(v[c], v[d])
                    v[b] = turned(builder.xor(v[b], v[c]), second)
        for place, first, second, third in zip(kept, before, v[:8], v[8:], strict=True):
            builder.store(builder.xor(first, builder.xor(second, third)), place, align=8)
        return context.get_dummy_value()

    return numba.void(numba.uintp, numba.uintp, numba.uint64, numba.uint64), build
