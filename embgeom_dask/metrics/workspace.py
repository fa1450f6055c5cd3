"""Memory for products, used again from one product to the next."""

from __future__ import annotations

from weakref import ref

import torch


class Workspace:
    """Memory on the CPU for the products of one thread, and for points that are made for one product.

    A product takes the memory of an earlier one, unless something still refers to that one: then it gets memory of its
    own. Used again, memory saves time: the first touch of fresh pages costs about as much as the product itself.

    Examples
    --------
    >>> workspace = Workspace()
    >>> first = workspace.empty(2, 3, torch.float32)
    >>> address = first.data_ptr()
    >>> workspace.empty(2, 3, torch.float32).data_ptr() == address  # `first` is still held
    False
    """

    def __init__(self) -> None:
        self._memories: dict[torch.dtype, list[tuple[torch.Tensor, ref[torch.Tensor]]]] = {}
        self._points: dict[int, tuple[ref[torch.Tensor], torch.Tensor, tuple[torch.dtype, float]]] = {}

    def empty(self, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialised tensor (rows, columns) of `dtype`.

        It lies in the smallest free memory that is large enough. Where there is none, all that is free is given up for
        new memory. Two are kept at most: that of a tile's product, and that of finer products of some of its pairs.
        """
        size = rows * columns
        memories = self._memories.get(dtype, [])
        free = [memory for memory, product in memories if product() is None]
        memory = min((each for each in free if each.numel() >= size), key=torch.Tensor.numel, default=None)
        others = [each for each in memories if each[0] is not memory and (memory is not None or each[1]() is not None)]
        if memory is None:
            memory = torch.empty(size, dtype=dtype)
        product = memory[:size].view(rows, columns)
        self._memories[dtype] = [*others[-1:], (memory, ref(product))]
        return product

    def widened(self, points: torch.Tensor, side: int, dtype: torch.dtype, scale: float) -> torch.Tensor:
        """Return points (n, d) in `dtype` times `scale`, until that is asked of others for a side, 0 or 1.

        It lies in memory that is used again. Of the points that were asked for last it is there already.
        """
        source, memory, known = self._points.get(side, (None, None, None))
        size, asked = points.numel(), (dtype, scale)
        if memory is None or memory.dtype != dtype or memory.numel() < size:
            memory = torch.empty(size, dtype=dtype)
        wide = memory[:size].view(points.shape)
        if source is None or source() is not points or known != asked:
            wide.copy_(points)
            if scale != 1:
                wide.mul_(scale)
        self._points[side] = ref(points), memory, asked
        return wide
