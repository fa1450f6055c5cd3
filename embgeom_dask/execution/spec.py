"""What a scan is asked for: its settings, checked."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import pairwise
from math import frexp, inf, isfinite
from typing import Any, cast

import ml_dtypes
import numpy as np

from embgeom_dask import tuning
from embgeom_dask.errors import InputError, shorten
from embgeom_dask.metrics import METRICS

Numbers = str | float | Iterable[float | str]

MAX_PAIRS = 10_000_000
MOST_BINS = 10_000_000

_OF_DISTANCES = (
    "farthest",
    "nearest",
    "neighbors",
    "histogram",
    "histogram_edges",
    "quantiles",
    "within",
    "pairs_within",
)
_OF_OTHER_ROWS = ("nearest", "neighbors", "within", "pairs_within")
_OF_PRODUCTS = ("largest", "smallest", "top", "bottom")
_OF_BOTH = ("moments_per_row",)
_KEEP = (*_OF_DISTANCES, *_OF_PRODUCTS, *_OF_BOTH)
_COUNTS = ("farthest", "nearest", "neighbors", "histogram", "max_pairs", *_OF_PRODUCTS)


@dataclass(frozen=True)
class ScanSpec:
    """The settings of a scan: these decide the result, and nothing else does. `max_pairs` may only refuse it.

    `histogram_edges`, `quantiles`, `within` and `components` (radii, too) ascend; `tokens` and `against` are digests of
    the rows compared, None for all. With `distinct` pairs of identical rows are not kept among the nearest and the
    neighbors, nor counted or kept within radii.

    Raises
    ------
    InputError
        for a number out of range, or where nothing is to be kept, or what the metric does not have.
    """

    metric: str
    farthest: int | None = None
    nearest: int | None = None
    neighbors: int | None = None
    largest: int | None = None
    smallest: int | None = None
    top: int | None = None
    bottom: int | None = None
    histogram: int | None = None
    histogram_scale: str = "linear"
    histogram_edges: tuple[float, ...] | None = None
    quantiles: tuple[float, ...] | None = None
    exact_quantiles: bool = False
    exact_moments: bool = False
    within: tuple[float, ...] | None = None
    pairs_within: float | None = None
    max_pairs: int = MAX_PAIRS
    tokens: str | None = None
    against: str | None = None
    distinct: bool = False
    moments_per_row: bool = False
    components: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        self._check_kept()
        for name in _COUNTS:
            object.__setattr__(self, name, parse_count(name, getattr(self, name)))
        if self.histogram is not None and self.histogram > MOST_BINS:
            raise InputError(f"`histogram` {self.histogram}: give at most {MOST_BINS:,} bins")
        if self.histogram_scale not in ("linear", "log"):
            raise InputError(f"no scale {self.histogram_scale!r} of bins: choose linear or log")
        if self.histogram is None and self.histogram_scale != "linear":
            raise InputError("`histogram_scale` log: give the number of bins with `histogram`")
        if self.histogram_edges is not None:
            if self.histogram is not None:
                raise InputError("give bins as a number with `histogram` or as edges with `histogram_edges`, not both")
            if len(self.histogram_edges) < 2:
                raise InputError("`histogram_edges`: give two edges at least")
        if self.exact_quantiles and self.quantiles is None:
            raise InputError("`exact_quantiles`: say which with `quantiles`")
        if self.exact_moments and not self.summed:
            raise InputError("`exact_moments`: ask for `histogram` or `quantiles`, which mean and deviation come with")
        if self.distinct and not self.kept & set(_OF_OTHER_ROWS):
            *names, last = (f"`{name}`" for name in _OF_OTHER_ROWS)
            raise InputError(
                f"`distinct` leaves identical rows out of {', '.join(names)} and {last}: ask for one of them"
            )

    def _check_kept(self) -> None:
        """Refuse to keep nothing, products of a distance, and distances of a product."""
        is_product = METRICS[self.metric].is_product
        distances = (*_OF_DISTANCES, "components")
        there, other = (_OF_PRODUCTS, distances) if is_product else (_OF_DISTANCES, _OF_PRODUCTS)
        options = [f"`{name}`" for name in (*there, *_OF_BOTH)]
        choice = f"ask for {', '.join(options[:-1])} or {options[-1]}"
        for name in other:
            if name in self.kept and is_product:
                raise InputError(f"`{name}` is of distances, and `metric` dot is none: {choice}")
            if name in self.kept:
                raise InputError(f"`{name}` is of inner products: choose `metric` dot, or {choice}")
        if not self.kept:
            raise InputError(f"nothing to keep: {choice}")

    @property
    def binned(self) -> bool:
        """Whether the histogram is kept."""
        return self.histogram is not None or self.histogram_edges is not None

    @property
    def bins(self) -> int:
        """The number of bins, where no edges are given."""
        return self.histogram or (tuning.FINE_BINS if self.exact_quantiles else 4096)

    @property
    def summed(self) -> bool:
        """Whether all distances are counted in bins and summed."""
        return self.binned or self.quantiles is not None

    @property
    def kept(self) -> set[str]:
        """What is to be kept."""
        asked = {name: getattr(self, name) for name in (*_KEEP, "components")}
        return {name for name, value in asked.items() if value is not None and value is not False}

    @property
    def radii(self) -> tuple[float, ...]:
        """The radii that pairs are compared with."""
        return (
            *(self.within or ()),
            *(self.components or ()),
            *(() if self.pairs_within is None else (self.pairs_within,)),
        )

    @property
    def is_by_l2(self) -> bool:
        """Whether L2 distances may rule pairs out: radii alone are asked for, in a metric that these bound."""
        return METRICS[self.metric].by_l2 is not None and self.kept <= {"within", "pairs_within", "components"}

    def as_dict(self) -> dict[str, Any]:
        """The settings that were given."""
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "max_pairs"}
        return {name: value for name, value in given.items() if value != type(self).__dict__.get(name)}


def parse_count(name: str, given: Any) -> Any:
    """Read a whole number of at least 1, of Python or numpy, as an int; None stays None.

    Raises
    ------
    InputError
        for anything else.
    """
    if given is None:
        return None
    try:
        number = 0 if isinstance(given, bool | np.bool_) else operator.index(given)
    except TypeError:
        number = 0
    if number < 1:
        raise InputError(f"`{name}` {given!r}: give a whole number of at least 1")
    return number


_POWER = re.compile(r"(\d+(?:\.\d*)?)(?:\^|\*\*)([-+]?\d{1,4})")
_ULP = re.compile(r"(\d+(?:\.\d*)?) ?ulps?")
_ULP_AT = re.compile(rf"{_ULP.pattern}@([-+]?\d*\.?\d*(?:e[-+]?\d+)?)")


def parse_numbers(
    name: str, given: Numbers | None, *, largest: float = inf, in_order: bool = False, ulp: Fraction | None = None
) -> tuple[float, ...] | None:
    """Read different numbers from 0 to `largest`: one, several, or text with commas between them; they come ascending.

    Text may be a power, `2^-14`, a hexadecimal float, `0x1p-14`, `2ulp@0.037`: so many units in the last place of that
    value in bfloat16, or `2ulp`: so many of `ulp`, where there is one.

    Raises
    ------
    InputError
        where there are none, one is given twice or out of range, or, with `in_order`, they do not ascend.
    """
    if given is None:
        return None
    parts = _parts(given)
    try:
        numbers = tuple(_number(part, ulp) for part in parts)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        shown = parts if isinstance(given, Iterable) and not isinstance(given, str) else given
        of_distances = ", 2^-14, or 2ulp@0.037 for two units in the last place of that value in bfloat16"
        raise InputError(
            f"`{name}` {shorten(shown)}: give numbers, with commas between them: 0.5{of_distances * (largest == inf)}"
        ) from error
    if not numbers:
        raise InputError(f"`{name}`: give one number at least")
    for number in numbers:
        if not (isfinite(number) and 0 <= number <= largest):
            limit = "0 or more" if largest == inf else f"0 to {largest:g}"
            raise InputError(f"`{name}` {number:g}: give numbers of {limit}")
    ascending = tuple(sorted(numbers))
    for number, following in pairwise(ascending):
        if number == following:
            raise InputError(f"`{name}`: {number!r} is given more than once")
    if in_order and numbers != ascending:
        raise InputError(f"`{name}`: give numbers that ascend")
    return ascending


def parse_number(name: str, given: float | str | None, ulp: Fraction | None = None) -> float | None:
    """Read one number, 0 or more, as `parse_numbers`."""
    numbers = parse_numbers(name, given, ulp=ulp) or (None,)
    if len(numbers) > 1:
        raise InputError(f"`{name}` {shorten(given)}: give one number")
    return numbers[0]


def counts_ulps(given: object) -> bool:
    """Whether numbers as `parse_numbers` takes them count in units in the last place of no value: `2ulp`."""
    return any(isinstance(part, str) and _ULP.fullmatch(part.strip().lower()) for part in _parts(given))


def _parts(given: object) -> list[Any]:
    """Each of the numbers given: one, text with commas, a list or set, an array of any library."""
    if isinstance(given, str):
        return given.split(",")
    if hasattr(given, "__array__"):
        return np.asarray(given).ravel().tolist()
    return list(given) if isinstance(given, Iterable) else [given]


def _number(given: Any, ulp: Fraction | None) -> float:
    if isinstance(given, bool | np.bool_):
        raise TypeError(f"{given} is no number")
    if not isinstance(given, str):
        return float(given) + 0.0
    text = given.strip().lower()
    if power := _POWER.fullmatch(text):
        return float(Fraction(power[1]) ** int(power[2]))
    if units := _ULP_AT.fullmatch(text):
        return float(Fraction(units[1]) * unit_in_last_place(float(units[2])))
    if ulp is not None and (units := _ULP.fullmatch(text)):
        return float(Fraction(units[1]) * ulp)
    return float.fromhex(text) if text.startswith("0x") else float(given) + 0.0


def unit_in_last_place(value: float, dtype: str = "bfloat16") -> Fraction:
    """That of a value in a type; in bfloat16 2^(E - 134) for the biased exponent E, of 1 at least."""
    facts = cast(Any, ml_dtypes).finfo(dtype)
    bits, least = int(facts.nmant), int(facts.minexp)
    exponent = frexp(value)[1] - 1 if value else least
    return Fraction(2) ** (max(exponent, least) - bits)
