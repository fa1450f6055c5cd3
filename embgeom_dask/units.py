"""Numbers of bytes and of things as text, and numbers rounded up."""

from __future__ import annotations

import re
from math import ceil, floor, log10

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?\s*")


def bytes_text(count: int) -> str:
    """Return a number of bytes for a person.

    Examples
    --------
    >>> bytes_text(3 << 29), bytes_text(220 << 20), bytes_text(24 << 10)
    ('1.50 GiB', '220 MiB', '24 KiB')
    >>> bytes_text((1 << 30) - 1), bytes_text((1 << 20) - 1), bytes_text((1 << 10) - 1)
    ('1.00 GiB', '1 MiB', '1023 B')
    """
    if count < 1 << 10:
        return f"{count} B"
    kib, mib = round(count / (1 << 10)), round(count / (1 << 20))
    if mib >= 1 << 10:
        return f"{count / (1 << 30):.2f} GiB"
    return f"{mib} MiB" if kib >= 1 << 10 else f"{kib} KiB"


def rounded_up(value: float, digits: int) -> float:
    """Return a positive number rounded up to so many decimal digits.

    Examples
    --------
    >>> rounded_up(2.7123, 3), rounded_up(3.0, 1), rounded_up(9.1e-5, 1)
    (2.72, 3.0, 0.0001)
    """
    exponent = floor(log10(value)) - digits + 1
    return float(f"{ceil(value / 10.0**exponent)}e{exponent}")


def noun(count: int, one: str, more: str = "") -> str:
    """Return what so many things are called: `one`, or `more`, by default `one` with an s.

    Examples
    --------
    >>> noun(1, "tile"), noun(0, "tile"), noun(2, "matrix", "matrices")
    ('tile', 'tiles', 'matrices')
    """
    return one if count == 1 else more or f"{one}s"


def bytes_of(text: str) -> int | None:
    """Return the number of bytes that a text says, with a unit or without; None where it says none.

    Examples
    --------
    >>> bytes_of("1.5GiB"), bytes_of("16 MB"), bytes_of("8192"), bytes_of("much")
    (1610612736, 16000000, 8192, None)
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        return None
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))
