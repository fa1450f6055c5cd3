"""Memory for products, so that each does not ask the system for its own."""

from __future__ import annotations

from weakref import ref

import torch


class Workspace:
    """Memory on the CPU that the products of one thread take in turn: each once nobody holds the one before.

    The first pages of fresh memory cost about as much as a product that fills them. A product that is still held when
    the next one is made keeps its memory, and the next one takes other memory.

    Examples
    --------
    >>> workspace = Workspace()
    >>> first = workspace.empty(2, 3, torch.float32)
    >>> address = first.data_ptr()
    >>> workspace.empty(2, 3, torch.float32).data_ptr() == address  # `first` is still held
    False
    """

    def __init__(self) -> None:
        self._last: dict[torch.dtype, tuple[torch.Tensor, ref[torch.Tensor]]] = {}

    def empty(self, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory for a product (rows, columns)."""
        size = rows * columns
        memory = self._free(dtype)
        if memory is None or memory.numel() < size:
            memory = torch.empty(size, dtype=dtype)
        product = memory[:size].view(rows, columns)
        self._last[dtype] = memory, ref(product)
        return product

    def _free(self, dtype: torch.dtype) -> torch.Tensor | None:
        memory, product = self._last.pop(dtype, (None, None))
        return memory if product is None or product() is None else None
