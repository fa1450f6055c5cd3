"""The rows that a scan compares, of one side or of two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Data, Given, given_rows
from embgeom_dask.execution.cluster import ClientLike
from embgeom_dask.selections.selection import Selection, parse_tokens
from embgeom_dask.storage.model_stores import Matrix, Role


@contextmanager
def sides_of(
    data: Data, role: Role | None, tokens: Selection, against: Data | None, client: ClientLike | None
) -> Iterator[list[Given]]:
    """The rows to compare, and those that they are compared `against`."""
    with ExitStack() as stack:
        given = stack.enter_context(given_rows(data, role, client))
        sides = [given if tokens is None else given.select(parse_tokens(tokens, given.vocab_size, given.labels))]
        if against is not None:
            sides.append(stack.enter_context(given_rows(against, role, client)))
            check_widths(sides[0].matrix, sides[1].matrix)
        for given in sides:
            given.stored_labels()  # before the first tile, not when the result is labelled
        yield sides


def check_widths(first: Matrix, second: Matrix) -> None:
    """Refuse matrices of different widths."""
    if first.hidden_size != second.hidden_size:
        raise InputError(
            f"{first.model} {first.name} has {first.hidden_size} columns and {second.model} {second.name} has "
            f"{second.hidden_size}: only matrices of one width can be compared"
        )
