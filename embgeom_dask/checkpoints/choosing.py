"""Choose the matrices of a checkpoint to store: those that the user names, else those that are found."""

from __future__ import annotations

from dataclasses import replace

from embgeom_dask.checkpoints.by_architecture import find_embeddings
from embgeom_dask.checkpoints.concatenated import matrix as chosen_matrix
from embgeom_dask.checkpoints.decisions import Choice, Decision, named
from embgeom_dask.checkpoints.safetensors import Listing, describe
from embgeom_dask.errors import InputError
from embgeom_dask.storage.fill import RowSource


def _decide(listing: Listing, role: str, keys: dict[str, str | None]) -> Decision:
    """Choose a tensor for each role: the one that the user names, else the one that is found."""
    if role not in ("input", "output", "both"):
        raise InputError(f"no role {role!r}: choose input, output or both")
    wanted = ["input", "output"] if role == "both" else [role]
    for each, key in keys.items():
        if key and each not in wanted:
            raise InputError(f"`{each}_key` {key} was given with `role` {role}: drop one of them")
    given = {each: named(key) for each, key in keys.items() if key}
    judged = [each for each in wanted if each not in given]
    if listing.source.is_dir():
        found = find_embeddings(listing, judged) if judged else Decision()
    else:
        found = Decision() if given else _only_matrix(listing, "input" if role == "input" else "output")
    chosen = {each: given.get(each, getattr(found, each)) for each in ("input", "output")}
    return replace(found, **chosen, roles=tuple(wanted))


def choose(listing: Listing, role: str, keys: dict[str, str | None]) -> tuple[Decision, dict[str, RowSource], bool]:
    """Choose the matrices to store.

    Parameters
    ----------
    listing : Listing
        The tensors of the checkpoint.
    role : {"both", "input", "output"}
        The embeddings to store.
    keys : dict of str to str or None
        The tensor that the user names for each role; None: look for it.

    Returns
    -------
    decision : Decision
        The tensors, and how they were chosen.
    matrices : dict of str to RowSource
        By their names in the store: `input_embedding` and `output_embedding`; only the first if they are tied.
    tied : bool
        Whether one matrix is both.

    Raises
    ------
    InputError
        If the tensors cannot be determined, or are not matrices that a store can hold.
    """
    decision = _decide(listing, role, keys)
    wanted = {each: getattr(decision, each) for each in ("input", "output") if role in (each, "both")}
    sources = {f"{each}_embedding": chosen_matrix(listing, choice) for each, choice in wanted.items() if choice}
    if not sources:
        raise InputError(f"{listing.name} has no {role} embedding: it has {describe(listing.matrices())}")
    tied = decision.input is not None and decision.output is not None and decision.input.key == decision.output.key
    return decision, ({"input_embedding": next(iter(sources.values()))} if tied else sources), tied


def _only_matrix(listing: Listing, role: str) -> Decision:
    matrices = listing.matrices()
    if not matrices:
        raise InputError(f"{listing.name} has no tensor of two dimensions in F64, F32, F16 or BF16")
    if len(matrices) > 1:
        advice = "choose one with `output_key` or `input_key`"
        if (listing.source.parent / "config.json").exists():
            advice += f", or give the model folder {listing.source.parent}"
        raise InputError(f"{listing.name} has {len(matrices)} matrices, {advice}: {describe(matrices)}")
    choice = Choice((matrices[0].tensor,), "", "name")
    return Decision(input=choice) if role == "input" else Decision(output=choice)
