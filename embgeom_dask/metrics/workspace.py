"""Memory that is used again for one product after the other."""

from __future__ import annotations

from weakref import ref

import torch


class Workspace:
    """Memory on the CPU for the products of one thread.

    A product takes the memory of the one before it, unless something still refers to that one: then it gets memory of
    its own. Used again, memory saves time: the first touch of fresh pages costs about as much as the product itself.

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
        """Return an uninitialised tensor (rows, columns) of `dtype`."""
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
