"""What the caller of a scan asks for, checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any

from embgeom_dask.errors import InputError

Numbers = str | float | Iterable[float]

_KEEP = ("farthest", "nearest", "neighbors", "histogram", "within")


@dataclass(frozen=True)
class Settings:
    """The settings of a scan: these decide the result, and nothing else does.

    `within` ascends; `tokens` and `against` are digests of the rows that are compared, None for all.

    Raises
    ------
    InputError
        for a number out of range, or where nothing is to be kept.
    """

    metric: str
    farthest: int | None = None
    nearest: int | None = None
    neighbors: int | None = None
    histogram: int | None = None
    within: tuple[float, ...] | None = None
    tokens: str | None = None
    against: str | None = None

    def __post_init__(self) -> None:
        if not self.kept:
            options = [f"--{name}" for name in _KEEP]
            raise InputError(f"nothing to keep: ask for {', '.join(options[:-1])} or {options[-1]}")
        for name in ("farthest", "nearest", "neighbors", "histogram"):
            at_least_one(name, getattr(self, name))

    @property
    def kept(self) -> set[str]:
        """What is to be kept."""
        return {name for name in _KEEP if getattr(self, name) is not None}

    @property
    def double(self) -> bool:
        """Whether tiles are float64 products: in float32 too many pairs would lie near an edge or a radius."""
        return self.histogram is not None or self.within is not None

    def as_dict(self) -> dict[str, Any]:
        """The settings that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}


def at_least_one(name: str, number: int | None) -> None:
    """Refuse a number below 1."""
    if number is not None and number < 1:
        raise InputError(f"--{name} {number}: give a number of at least 1")


def parse_numbers(name: str, given: Numbers | None, largest: float = float("inf")) -> tuple[float, ...] | None:
    """Read numbers from 0 to `largest`: one, several, or text with commas between them; ascending.

    Raises
    ------
    InputError
        where there are none, one is given twice, or one is out of range.
    """
    if given is None:
        return None
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, Iterable) else [given]
    try:
        numbers = tuple(float(part) + 0.0 for part in parts)
    except (TypeError, ValueError) as error:
        raise InputError(f"--{name} {given}: give numbers, with commas between them") from error
    if not numbers:
        raise InputError(f"--{name}: give one number at least")
    for number in numbers:
        if not (isfinite(number) and 0 <= number <= largest):
            limit = "or more" if largest == float("inf") else f"to {largest:g}"
            raise InputError(f"--{name} {number:g}: give numbers of 0 {limit}")
        if numbers.count(number) > 1:
            raise InputError(f"--{name}: {number:.17g} is given more than once")
    return tuple(sorted(numbers))
