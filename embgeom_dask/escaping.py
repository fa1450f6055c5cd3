"""Text from outside, as a terminal may be given it: names, tensors, keys, shards, models and tokens hold anything."""

from __future__ import annotations


def shown(text: object) -> str:
    r"""Return `text` as one line in which what a terminal acts on or hides can be read: `\x1b`, `\n`, `\u202e`.

    Control characters, escape sequences, bidi marks, spaces of no width, surrogates: whatever is not printable.
    """
    said = str(text)
    if said.isprintable():
        return said
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in said)


def shown_lines(text: str) -> str:
    """Return `text` with each of its lines as `shown` gives it."""
    return "\n".join(map(shown, text.split("\n")))
