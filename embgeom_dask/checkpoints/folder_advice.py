"""Explain why a folder is not a checkpoint: what it holds, and what to give instead."""

from __future__ import annotations

import re

from embgeom_dask.checkpoints.files import Folder, LocalFolder
from embgeom_dask.checkpoints.small_files import read_json
from embgeom_dask.errors import InputError, shorten

_WEIGHTS = re.compile(
    r"(?!.*(adapter|optimizer|scheduler|training_args|rng_state|scaler)).*\.(safetensors|bin|pth?|ckpt)"
)
_ADAPTER = re.compile(r"adapter_(config\.json|model\..*)")
_SHARD = re.compile(r"(.*)[-_.]\d+-of-\d+(\.safetensors|\.bin)")
_CONSOLIDATED = re.compile(r"consolidated.*")
_OTHER_FORMATS = {
    ".gguf": "GGUF, whose weights are quantised",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".ot": "Rust",
    ".zarr": "zarr",
}
_SHOWN = 5
_MOST_CONFIG = 1 << 20


def explain(folder: Folder) -> str:
    """Say in one line what a folder holds instead of `model.safetensors` or shards with an index, and what to do."""
    names = sorted(folder.names())
    own = [name for name in names if "/" not in name]
    weights = [name for name in own if _WEIGHTS.fullmatch(name)]
    if gone := [name for name in weights if not folder.has(name)]:
        return f"its {gone[0]} is a link to a file that is not there: download the model again"
    if any(_ADAPTER.fullmatch(name) for name in own) and not weights:
        return _adapter(folder, own)
    if found := [name for name in weights if _CONSOLIDATED.fullmatch(name)]:
        keys = "`input_key` tok_embeddings.weight `output_key` output.weight"
        return f"its {found[0]} is of the layout of the model's maker: {_give(folder, found[0])}, with {keys}"
    if shards := [found for found in map(_SHARD.fullmatch, weights) if found]:
        index = f"{shards[0][1]}{shards[0][2]}.index.json"
        return f"it has {_listed([each[0] for each in shards])} without their index: download {index} too"
    if weights:
        return f"it has {_listed(weights)}: {_give(folder, weights[0])}, or rename it where it is the whole model"
    inner = sorted({name.rpartition("/")[0] for name in names if _WEIGHTS.fullmatch(name)} - {""})
    if inner:
        return f"it has weights in {_listed(inner)}: {_give(folder, inner[0])}"
    if formats := [said for said in map(other_format, own) if said]:
        return f"its {formats[0]}"
    return f"it has {_listed(own)}" if own else "it is empty"


def other_format(name: str) -> str:
    """Say in one line which other format a file has by its name, and what to do; "" if its name tells none."""
    found = (kind for ending, kind in _OTHER_FORMATS.items() if name.endswith(ending))
    return "".join(f"{shorten(name)} is of {kind}: give the original model" for kind in found)


def weights_in(folder: Folder) -> str:
    """List the weight files of a folder in one line, a few at most."""
    return _listed([name for name in sorted(folder.names()) if _WEIGHTS.fullmatch(name)]) or "none"


def _adapter(folder: Folder, own: list[str]) -> str:
    """Say in one line which model a folder's adapter belongs to, and what to do."""
    base = None
    if "adapter_config.json" in own:
        try:
            config = read_json(folder.open("adapter_config.json"), "an adapter's config", _MOST_CONFIG)
            base = config.get("base_model_name_or_path")
        except InputError:  # then the base model is not known
            pass
    of = f" of {shorten(base)}" if isinstance(base, str) and base else ""
    held = next((name for name in own if name.startswith("adapter_model")), "adapter_config.json")
    return f"its {held} is an adapter{of}: merge it into that model and save the whole, or convert the model itself"


def _give(folder: Folder, name: str) -> str:
    """Say how to give the file or subfolder `name` of a checkpoint."""
    if isinstance(folder, LocalFolder):
        return f"give {shorten(folder.path / name, 300)}"
    return f"download it (hf download {folder.model}), then give its {shorten(name)}"


def _listed(names: list[str]) -> str:
    """List names in one line, a few at most."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shorten(name, 60) for name in names[:_SHOWN]) + more
