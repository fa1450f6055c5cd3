"""Make text from outside safe to show on a terminal: names of tensors, models and tokens may hold anything."""

from __future__ import annotations

import re

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What stands for a space at the ends of a token, and everywhere in SentencePiece's pieces."""

_PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
ALPHABET = [chr(b if b in _PRINTABLE else 256 + sum(o not in _PRINTABLE for o in range(b))) for b in range(256)]
"""The characters that byte-level BPE (GPT-2's) writes for the bytes 0 to 255."""

_BYTES = {character: byte for byte, character in enumerate(ALPHABET)}
_ENDS = re.compile("^ +| +$")
_ODD = re.compile("[\udc80-\udcff]")


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


def readable(piece: str, text: str | None = None) -> str:
    """Return what tables call a token: what its bytes say where they are told, else its piece, with its spaces seen.

    Parameters
    ----------
    piece : str
        The raw piece.
    text : str, optional
        What the tokenizer decodes it to. A piece of byte-level BPE, which stands for bytes, is known by it: its bytes
        are those of the text. Each byte that is part of no whole character is written as `<0xE6>`.

    Examples
    --------
    >>> readable("\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}the", " the"), readable("##ing", "ing")
    ('▁the', '##ing')
    """
    if not text or piece == text:
        return _ENDS.sub(lambda spaces: SPACE * len(spaces[0]), piece)
    try:
        raw = bytes([_BYTES[character] for character in piece])
    except KeyError:
        return _ENDS.sub(lambda spaces: SPACE * len(spaces[0]), piece)
    if raw.decode(errors="replace") != text:
        return piece
    said = raw.decode(errors="surrogateescape").replace(" ", SPACE)
    return _ODD.sub(lambda odd: f"<0x{ord(odd[0]) - 0xDC00:02X}>", said)
