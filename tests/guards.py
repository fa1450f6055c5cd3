"""Guards that tests put around the code of a device."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WIDE = (torch.float64, torch.complex128)


class NoFloat64(TorchDispatchMode):
    """While entered, an operation that takes or gives a float64 tensor fails, as it does on Apple's mps."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, answer)):
            if isinstance(leaf, torch.Tensor) and leaf.dtype in _WIDE:
                raise AssertionError(f"{func} has a {leaf.dtype} tensor, which mps cannot hold")
        return answer
