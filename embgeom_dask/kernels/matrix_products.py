"""Products of matrices on workers, where numpy's threads would run beside those of other tasks and wait busily."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

Array = NDArray[Any]


def multiply(first: Array, second: Array) -> Array:
    """Return the product (m, n) of matrices (m, d) and (d, n) of one float type, in the threads that torch may use.

    Examples
    --------
    >>> import numpy as np
    >>> multiply(np.ones((2, 3)), np.arange(6.0).reshape(2, 3).T)
    array([[ 3., 12.],
           [ 3., 12.]])
    """
    found: Array = torch.mm(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    return found
