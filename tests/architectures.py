"""Tiny checkpoints of every model type that transformers can build: `python -m tests.architectures` compares them all.

A configuration is the type's default one with its sizes made small by their names. The model is filled with random
bfloat16 values, saved in shards by `save_pretrained`, converted, and its embeddings' bytes compared with the store's.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto import configuration_auto, modeling_auto

from embgeom_dask.checkpoints import convert
from embgeom_dask.errors import InputError
from embgeom_dask.storage import model_stores

KINDS = {
    "causal": "FOR_CAUSAL_LM_",
    "masked": "FOR_MASKED_LM_",
    "seq2seq": "FOR_SEQ_TO_SEQ_CAUSAL_LM_",
    "multimodal": "FOR_IMAGE_TEXT_TO_TEXT_",
    "any-to-any": "FOR_MULTIMODAL_LM_",
    "speech": "FOR_SPEECH_SEQ_2_SEQ_",
    "pretraining": "FOR_PRETRAINING_",
    "base": "",
}
LARGEST = 8_000_000  # parameters

# What a size becomes, by its name: the first pattern that matches decides, and sizes only shrink.
_SIZES = {
    r".*vocab_size.*|n_vocab": 112,
    r".*(layers|depth|n_layer|num_blocks)": 2,
    r".*(kv|key_value)_heads|.*n_?groups?|num_query_groups": 2,
    r".*heads?": 4,
    r".*head_(dim|size)|d_kv|kv_channels": 8,
    r"(num|n)_.*experts?|.*num_experts": 4,
    r".*experts_per_tok|.*top_?k.*|moe_k": 2,
    r".*_rank": 8,
    r".*(image|crop)_size": 32,
    r".*patch_size": 8,
    r".*max_.*(positions?|len|seq).*|n_positions|n_ctx|.*context_length": 64,
    r".*ffn.*|.*intermediate.*|.*mlp_dim|d_ff|.*hidden_dim|n_inner|.*inner_dim": 48,
    r".*hidden_sizes?.*|.*d_model|n_embd|.*embed(ding)?_(dim|size)|dim|.*_dim|width|.*_channels": 32,
}
_RULES = [(re.compile(pattern), size) for pattern, size in _SIZES.items()]
# What a type needs besides, at any depth of its configuration.
_NEEDS: dict[str, dict[str, Any]] = {
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "reformer": {"is_decoder": True},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "esm": {"vocab_size": 112, "pad_token_id": 1, "mask_token_id": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
}


@dataclass(frozen=True)
class Case:
    """One checkpoint: a class of a model type, with the type's default ties or the opposite."""

    kind: str
    model_type: str
    flipped: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.model_type}{' flipped' if self.flipped else ''}"


def cases(kinds: dict[str, str] = KINDS) -> Iterator[Case]:
    """Every class of `kinds` once, both ways of tying."""
    seen = set()
    for kind, name in kinds.items():
        for model_type, class_names in getattr(modeling_auto, f"MODEL_{name}MAPPING_NAMES").items():
            if (model_type, str(class_names)) not in seen:
                seen.add((model_type, str(class_names)))
                yield from (Case(kind, model_type, flipped) for flipped in (False, True))


def build(case: Case) -> Any:
    """Build the tiny model of a case, filled with random bfloat16 values; raises what transformers raises."""
    config_class = configuration_auto.CONFIG_MAPPING[case.model_type]
    model_class = getattr(modeling_auto, f"MODEL_{KINDS[case.kind]}MAPPING")[config_class]
    model_class = model_class[0] if isinstance(model_class, tuple) else model_class
    values = _shrunk(config_class().to_dict(), _NEEDS.get(case.model_type, {}))
    config = config_class.from_dict(values)
    if case.flipped:
        tied = not getattr(config, "tie_word_embeddings", True)
        for part in {
            id(part): part for part in (config, config.get_text_config(), config.get_text_config(True))
        }.values():
            part.tie_word_embeddings = tied
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class(config).parameters())
    if size > LARGEST:
        raise OverflowError(f"{size} parameters")
    torch.manual_seed(0)
    model = model_class(config).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def _shrunk(values: dict[str, Any], needs: dict[str, Any]) -> dict[str, Any]:
    small: dict[str, Any] = {}
    layers = next((v for k, v in values.items() if re.fullmatch(r".*(hidden_layers|n_layers?|num_layers)", str(k))), 0)
    for name, value in values.items():
        if not isinstance(name, str):
            small[name] = value
            continue
        if name in ("per_layer_config", "transformers_version"):
            continue
        if isinstance(value, dict):
            small[name] = _shrunk(value, needs)
        elif re.search(r"token_(id|index)|_id$", name) and type(value) is int and value >= 0:
            small[name] = 3 + len([other for other in small if "token" in other])
        elif re.search(r"token_ids$", name) and isinstance(value, list):
            small[name] = [3]
        elif isinstance(value, list) and isinstance(layers, int) and 2 < len(value) == layers:
            small[name] = value[:2]
        elif type(value) is int:
            small[name] = min(value, next((size for rule, size in _RULES if rule.fullmatch(name)), value))
        else:
            small[name] = value
    return {**small, **{name: value for name, value in needs.items() if name in small}}


def matrix(module: Any) -> torch.Tensor | None:
    """The weight of an embedding module, or None where it is not one of tokens (the patches of a picture, say)."""
    weight = getattr(module, "weight", None)
    return weight.detach() if isinstance(weight, torch.Tensor) and weight.ndim == 2 else None


def expected(model: Any) -> dict[str, bytes]:
    """The bytes of the live model's matrices, by their role."""
    found = {}
    for role in ("input", "output"):
        try:
            module = getattr(model, f"get_{role}_embeddings")()
        except (NotImplementedError, AttributeError):
            continue
        weight = matrix(module)
        if weight is not None and not (role == "input" and isinstance(module, nn.Linear)):
            found[role] = weight.contiguous().view(torch.uint8).numpy().tobytes()
    return found


def compare(model: Any, folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Save and convert a model; return the bytes of its matrices and of those of the store."""
    source = folder / "checkpoint"
    model.save_pretrained(source, max_shard_size="100KB")
    live = expected(model)
    try:
        store = convert.convert(source, folder / "stores")
    except InputError as refused:
        return live, {"refused": str(refused).encode()}
    opened = model_stores.open_model(store)
    found = {}
    for role in ("input", "output"):
        if f"{role}_embedding" in opened:
            array = model_stores.find_matrix(store, role)
            found[role] = array.read(0, array.vocab_size).tobytes()
    return live, found


def verdict(live: dict[str, bytes], found: dict[str, bytes]) -> str:
    """`same`, `none` (the model has no token embedding, and was refused), or what is wrong."""
    if "refused" in found:
        return f"missing: {found['refused'].decode()}" if "input" in live else "none"
    wrong = [role for role in found if found[role] != live.get(role)]
    missing = [role for role in live if role not in found]
    return " ".join([*(f"wrong: {role}" for role in wrong), *(f"missing: {role}" for role in missing)]) or "same"


def outcome(case: Case) -> str:
    """Build, convert and compare one case; say in one line what came of it."""
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)  # type: ignore[attr-defined]
    transformers.logging.disable_progress_bar()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        try:
            model = build(case)
        except Exception as error:  # a default config that transformers cannot build, or not this small
            return f"cannot be built: {type(error).__name__} {' '.join(str(error).split())[:100]}"
        try:
            return verdict(*compare(model, Path(folder)))
        except Exception as error:
            return f"failed: {type(error).__name__} {' '.join(str(error).split())[:200]}"


def main() -> int:
    """Compare every case, or those of the types given; the exit code is 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="model types; default: all")
    parser.add_argument("--kind", nargs="*", default=list(KINDS), choices=list(KINDS))
    wanted = parser.parse_args()
    found: dict[str, list[Case]] = {}
    for case in cases({kind: KINDS[kind] for kind in wanted.kind}):
        if not wanted.types or case.model_type in wanted.types:
            said = outcome(case)
            found.setdefault(said.partition(":")[0], []).append(case)
            if said not in ("same", "none"):
                print(f"{case}: {said}", flush=True)
    for name, those in found.items():
        print(f"{name}: {len(those)} checkpoints of {len({case.model_type for case in those})} model types")
    return int(not set(found) <= {"same", "none", "cannot be built"})


if __name__ == "__main__":
    raise SystemExit(main())
