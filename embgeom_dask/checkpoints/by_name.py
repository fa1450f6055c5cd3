"""Find the embeddings of a checkpoint by names and shapes: for models that transformers does not know."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from embgeom_dask.checkpoints.decisions import Choice, Decision
from embgeom_dask.checkpoints.safetensors import Listing, Tensor, describe
from embgeom_dask.checkpoints.small_files import class_name
from embgeom_dask.errors import InputError, shorten

_OTHER = re.compile(
    r"\.\d+\.|vision|visual|image|audio|speech|pos|wpe|type|per_layer|rel_|router|pooler|classifier|score|codebook|lora_"
)
_INPUT = re.compile(r"emb|wte|tok|word|vocab|shared")
_OUTPUT = re.compile(r"head|output|embed_out|unembed|decoder\.weight|predictions")
_GENERATES = re.compile(r"LM|ForConditionalGeneration|Generator|Seq2Seq")
_ROWS = ("vocab_size", "padded_vocab_size", "n_vocab", "vocabulary_size", "num_embeddings")
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim", "model_dim", "embedding_size", "word_embed_proj_dim")
_VOCABULARY_SLACK = 4096
_SIZE = re.compile(r"size|layers|depth|heads|experts|blocks|positions|length|width|dim$|channels|n_|num_|d_|groups")
_MOST = {  # the largest value of each kind of size; transformers makes an object, or a row of a table, for each
    re.compile(r"layers|depth|heads|experts|blocks|groups|labels|n_layer|n_head"): 1 << 16,
    re.compile(r"position"): 1 << 24,
    re.compile(r""): 1 << 31,
}


def check_sizes(path: Path, config: dict[str, Any]) -> None:
    """Raise InputError if building a model from the config at `path` would take minutes, or all memory."""
    left: list[Any] = [config]
    while left:
        part = left.pop()
        values = part.items() if isinstance(part, dict) else [("", value) for value in part]
        for name, value in values:
            if isinstance(value, dict | list):
                left.append(value)
            elif isinstance(value, int) and _SIZE.search(name):
                most = next(most for kind, most in _MOST.items() if kind.search(name))
                if not -most <= value <= most:
                    absurd = f"{shorten(name)} {shorten(value, 40)}"
                    raise InputError(f"{path} has the absurd {absurd}: give `input_key` and `output_key`")


def choose_by_name(listing: Listing, config: dict[str, Any], reason: str, judged: Collection[str]) -> Decision:
    """Choose the embeddings of a checkpoint by names and shapes.

    Candidates are the matrices that are not in numbered layers and do not embed images, sound or positions. If the
    config has the width, a candidate must have so many columns; if it has the size of the vocabulary, about so many
    rows.

    Parameters
    ----------
    listing : Listing
        The tensors of the checkpoint.
    config : dict
        The config of the model; may be empty.
    reason : str
        Why transformers could not decide; part of the warning and of the error.
    judged : collection of str
        The roles that must have one candidate.

    Returns
    -------
    Decision

    Raises
    ------
    InputError
        If there is no candidate, or more than one for a role in `judged`; the message lists them.
    """
    config = {**config, **(config["text_config"] if isinstance(config.get("text_config"), dict) else {})}
    candidates = _candidates(listing, config)
    outputs = [tensor.tensor for tensor in candidates if _OUTPUT.search(tensor.tensor)]
    inputs = [tensor.tensor for tensor in candidates if tensor.tensor not in outputs]
    tied = config.get("tie_word_embeddings") is True and _GENERATES.search(class_name(config))
    told = {"input": inputs, "output": outputs or (inputs if tied else [])}
    if not candidates or any(len(told[role]) > 1 for role in judged):
        listed = describe(candidates or listing.matrices())
        raise InputError(
            f"cannot tell the embeddings of {listing.name}, {reason}: choose `input_key`, `output_key` from {listed}"
        )
    found = {
        role: Choice((names[0],), "", "tied" if role == "output" and not outputs else "name")
        for role, names in told.items()
        if len(names) == 1
    }
    chosen = ", ".join(f"{role} {choice.key}" for role, choice in found.items())
    return Decision("", found.get("input"), found.get("output"), (f"{reason}: chosen by name and shape, {chosen}",))


def _candidates(listing: Listing, config: dict[str, Any]) -> list[Tensor]:
    rows = {config[key] for key in _ROWS if isinstance(config.get(key), int)}
    widths = {config[key] for key in _WIDTHS if isinstance(config.get(key), int)}
    matrices = listing.matrices()
    if len(matrices) == 1 and not config:
        return matrices
    plausible = [
        tensor
        for tensor in matrices
        if not _OTHER.search(tensor.tensor)
        and (not widths or tensor.shape[1] in widths)
        and (rows or _INPUT.search(tensor.tensor) or _OUTPUT.search(tensor.tensor))
    ]
    if not rows:
        return plausible
    return [tensor for tensor in plausible if any(_near(tensor.shape[0], size) for size in rows)]


def _near(rows: int, vocabulary: int) -> bool:
    return abs(rows - vocabulary) <= min(_VOCABULARY_SLACK, max(64, vocabulary // 8))
