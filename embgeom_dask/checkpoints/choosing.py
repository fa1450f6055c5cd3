"""Which matrices of a checkpoint are stored: those that the user names, else those that are found."""

from __future__ import annotations

from dataclasses import replace

from embgeom_dask.checkpoints.by_architecture import find_embeddings
from embgeom_dask.checkpoints.concatenated import matrix as chosen_matrix
from embgeom_dask.checkpoints.decisions import Choice, Decision, named
from embgeom_dask.checkpoints.safetensors import Listing, describe
from embgeom_dask.errors import InputError
from embgeom_dask.storage.fill import RowSource


def _decide(listing: Listing, matrix: str, keys: dict[str, str | None]) -> Decision:
    """Decide which tensors are wanted: those that the user names, and of the others those that are found."""
    if matrix not in ("input", "output", "both"):
        raise InputError(f"no matrix {matrix!r}: choose input, output or both")
    wanted = ["input", "output"] if matrix == "both" else [matrix]
    for role, key in keys.items():
        if key and role not in wanted:
            raise InputError(f"--{role}-key {key} was given with --matrix {matrix}: drop one of them")
    given = {role: named(key) for role, key in keys.items() if key}
    judged = [role for role in wanted if role not in given]
    if listing.source.is_dir():
        found = find_embeddings(listing, judged) if judged else Decision()
    else:
        found = Decision() if given else _only_matrix(listing, "input" if matrix == "input" else "output")
    chosen = {role: given.get(role, getattr(found, role)) for role in ("input", "output")}
    return replace(found, **chosen, roles=tuple(wanted))


def choose(listing: Listing, matrix: str, keys: dict[str, str | None]) -> tuple[Decision, dict[str, RowSource], bool]:
    """Choose the matrices to store: the decision, the matrices by their names in the store, whether they are one, tied.

    `matrix` is `both`, `input` or `output`; `keys` names tensors that are not to be looked for, by their role. Raises
    InputError where the tensors cannot be told or are no matrices.
    """
    decision = _decide(listing, matrix, keys)
    wanted = {role: getattr(decision, role) for role in ("input", "output") if matrix in (role, "both")}
    sources = {f"{role}_embedding": chosen_matrix(listing, choice) for role, choice in wanted.items() if choice}
    if not sources:
        raise InputError(f"{listing.name} has no {matrix} embedding: it has {describe(listing.matrices())}")
    tied = decision.input is not None and decision.output is not None and decision.input.key == decision.output.key
    return decision, ({"input_embedding": next(iter(sources.values()))} if tied else sources), tied


def _only_matrix(listing: Listing, role: str) -> Decision:
    matrices = listing.matrices()
    if not matrices:
        raise InputError(f"{listing.name} has no tensor of two dimensions in F64, F32, F16 or BF16")
    if len(matrices) > 1:
        advice = "choose one with --output-key or --input-key"
        if (listing.source.parent / "config.json").exists():
            advice += f", or give the model folder {listing.source.parent}"
        raise InputError(f"{listing.name} has {len(matrices)} matrices, {advice}: {describe(matrices)}")
    choice = Choice((matrices[0].tensor,), "", "name")
    return Decision(input=choice) if role == "input" else Decision(output=choice)
