"""Numbers of bytes as text."""

from __future__ import annotations


def bytes_text(count: int) -> str:
    """Return a number of bytes for a person.

    Examples
    --------
    >>> bytes_text(3 << 29), bytes_text(220 << 20)
    ('1.50 GiB', '220 MiB')
    """
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"
