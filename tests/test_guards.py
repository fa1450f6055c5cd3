from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.guards import NoFloat64


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.double(),
        lambda x: x.to(torch.float64).sum(),
        lambda x: torch.tensor(1.0, dtype=torch.float64),
        lambda x: torch.zeros(2, dtype=torch.float64),
        lambda x: torch.sum(x, dim=0, dtype=torch.float64),
        lambda x: torch.complex(x, x).to(torch.complex128),
        lambda x: torch.from_numpy(np.zeros(3)) + 1,
        lambda x: torch.empty_like(x, dtype=torch.float64),
    ],
)
def test_the_guard_catches_a_float64_tensor(make):
    with NoFloat64(), pytest.raises(AssertionError, match=r"float64|complex128"):
        make(torch.ones(3))


def test_the_guard_lets_narrower_work_pass():
    with NoFloat64():
        x = torch.ones(4, 4, dtype=torch.bfloat16)
        best = torch.topk((x @ x.T).float() * 0.1 + 2.0, 2)
        assert best.values.dtype == torch.float32
        assert best.indices.dtype == torch.int64
        assert best.values.sum().item() == pytest.approx(19.2, rel=1e-6)
