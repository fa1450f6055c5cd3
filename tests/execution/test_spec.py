"""Numbers as people write them."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embgeom_dask.errors import InputError
from embgeom_dask.execution.spec import parse_number, parse_numbers


@given(st.integers(-1000, 1000))
def test_powers_of_two_are_exact(exponent: int) -> None:
    for text in (f"2^{exponent}", f"2**{exponent}", f"0x1p{exponent}", f" 2^{exponent} "):
        assert parse_number("within", text) == float(Fraction(2) ** exponent)


@given(st.floats(0, 2.0**120, allow_subnormal=True, width=32), st.integers(1, 9))
def test_units_in_the_last_place_are_those_of_bfloat16(value: float, count: int) -> None:
    stored = np.float32(value).view(np.uint32) & np.uint32(0xFFFF0000)  # rounded towards zero, to stay in its binade
    below = stored.view(np.float32).astype(ml_dtypes.bfloat16)
    above = (below.view(np.uint16) + np.uint16(1)).view(ml_dtypes.bfloat16)
    unit = float(above) - float(below)
    assert parse_number("within", f"{count}ulp@{value!r}") == count * unit


def test_several_numbers_ascend() -> None:
    assert parse_numbers("within", "1,2^-14,1ulp@1") == (2.0**-14, 2.0**-7, 1.0)


@pytest.mark.parametrize(
    "text", ["2ulp", "2^", "^2", "2^x", "0^-1", "2^99999", "ulp@1", "1ulp@", "0x", "two", "2^9999"]
)
def test_what_is_no_number_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(InputError, match=r"`within`.*give numbers"):
        parse_numbers("within", text)
