"""Which tensor of a checkpoint is the input embedding, and which the output embedding.

The checkpoint's class is built on the `meta` device from its config, without weights and without code from the
checkpoint. Its `get_input_embeddings()` and `get_output_embeddings()` say which modules are asked for; the renaming
that `from_pretrained` itself uses says which tensor of the files lands there, and the class's ties where none does.
Names and shapes decide only where transformers does not know the model.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from embgeom_dask.checkpoints.quiet import quiet
from embgeom_dask.checkpoints.safetensors import Listing, Tensor, describe
from embgeom_dask.errors import InputError

_MAPPINGS = ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "PRETRAINING", "")
_NUMBERED = re.compile(r"\.\d+\.")
_OTHER = re.compile(r"\.\d+\.|vision|visual|image|audio|pos|wpe|type|per_layer|rel_|router")
_OUTPUT = re.compile(r"head|output|embed_out|unembed|decoder\.weight|predictions")
_VOCABULARY_SLACK = 4096


@dataclass(frozen=True)
class Embeddings:
    """The tensors of the input and the output embedding. None: the model has none; equal names: they are tied."""

    input: str | None
    output: str | None


def find_embeddings(listing: Listing) -> Embeddings:
    """Find the embeddings of the model folder `listing.source`.

    Raises InputError, with the candidates, where neither transformers nor names and shapes tell, and where the output
    embedding is quantised.
    """
    return _by_class(listing) or _by_name(listing)


def _by_class(listing: Listing) -> Embeddings | None:
    """Ask transformers; None where it does not know the model or no tensor lands on its input embedding."""
    import torch
    from transformers import AutoConfig

    try:
        with quiet():
            config = AutoConfig.from_pretrained(listing.source, trust_remote_code=False, local_files_only=True)
            declared = _declared_class(config)
            model_class = declared or _mapped_class(config)
            with torch.device("meta"):
                model = model_class(config)
            landed = _landing(model, [name for name in listing if not _NUMBERED.search(name)])
    except Exception:  # transformers raises what it likes for configs that it does not understand
        return None
    found: dict[str, str | None] = {}
    for role in ("input", "output"):
        paths = _paths(model, role)
        direct = [landed[f"{path}.weight"] for path in paths if f"{path}.weight" in landed]
        parts = sorted(name for path in paths for name in landed if name.startswith(f"{path}.") and "bias" not in name)
        if parts and not direct:
            raise InputError(
                f"the {role} embedding of {listing.source} is quantised ({landed[parts[0]]}): not supported"
            )
        ties = _ties(model, paths) if role == "input" or declared else []
        found[role] = next(iter([*direct, *(landed[name] for name in ties if name in landed)]), None)
    return Embeddings(**found) if found["input"] else None


def _declared_class(config: Any) -> Any:
    """Return the class that the config names, where transformers has it and it takes this config."""
    import transformers

    named = getattr(transformers, (config.architectures or [""])[0] or "", None)
    fits = isinstance(named, type) and issubclass(named, transformers.PreTrainedModel)
    return named if fits and isinstance(config, getattr(named, "config_class", None) or ()) else None


def _mapped_class(config: Any) -> Any:
    from transformers.models.auto import modeling_auto

    for kind in _MAPPINGS:
        mapping = getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING" if kind else "MODEL_MAPPING")
        if type(config) in mapping:
            return mapping[type(config)]
    raise LookupError(f"no class for {type(config).__name__}")


def _landing(model: Any, names: list[str]) -> dict[str, str]:
    """Map each parameter of `model` to the tensor of the checkpoint that `from_pretrained` would load there."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    state = model.state_dict()
    prefix = model.base_model_prefix
    return {rename_source_key(name, renamings, converters, prefix, state)[0]: name for name in sorted(names)}


def _paths(model: Any, role: str) -> list[str]:
    """Return the paths of the embedding module, found by identity; it has several where a module is shared."""
    try:
        wanted = getattr(model, f"get_{role}_embeddings")()
    except NotImplementedError:
        wanted = None
    return [path for path, module in model.named_modules(remove_duplicate=False) if module is wanted]


def _ties(model: Any, paths: list[str]) -> list[str]:
    """Return the parameters that the class ties to the weight of the module at `paths`."""
    ties: dict[str, str] = model.all_tied_weights_keys
    roots = {ties.get(f"{path}.weight", f"{path}.weight") for path in paths}
    return sorted(roots) + sorted(name for name, root in ties.items() if root in roots)


def _by_name(listing: Listing) -> Embeddings:
    candidates = _candidates(listing)
    outputs = [tensor.tensor for tensor in candidates if _OUTPUT.search(tensor.tensor)]
    inputs = [tensor.tensor for tensor in candidates if tensor.tensor not in outputs]
    if len(inputs) > 1 or len(outputs) > 1 or not candidates:
        named = describe(candidates or listing.matrices())
        raise InputError(
            f"cannot tell the embeddings of {listing.source}: choose --input-key, --output-key from {named}"
        )
    return Embeddings(next(iter(inputs), None), next(iter(outputs), None))


def _candidates(listing: Listing) -> list[Tensor]:
    try:
        config = json.loads((listing.source / "config.json").read_text())
        config = {**config, **(config.get("text_config") or {})}
    except (OSError, ValueError, TypeError, AttributeError):
        config = {}
    vocabulary = config.get("vocab_size")
    widths = {config[key] for key in ("hidden_size", "d_model", "n_embd", "dim") if isinstance(config.get(key), int)}
    return [
        tensor
        for tensor in listing.matrices()
        if not _OTHER.search(tensor.tensor)
        and (not widths or tensor.shape[1] in widths)
        and (not isinstance(vocabulary, int) or abs(tensor.shape[0] - vocabulary) <= _VOCABULARY_SLACK)
    ]
