"""Find the input and the output embedding of a checkpoint by its model class in transformers.

The class is built from the config on the `meta` device, without weights and without code from the checkpoint. Its
`get_input_embeddings()` and `get_output_embeddings()` give the two modules. The renaming that `from_pretrained` uses
tells which tensor of the files is loaded into a module; if there is none, the class's tied weights tell. Only if
transformers does not know the model do names and shapes decide (`by_name`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from copy import deepcopy
from typing import Any

from embgeom_dask import private_apis, tuning
from embgeom_dask.checkpoints.by_name import check_sizes, choose_by_name
from embgeom_dask.checkpoints.decisions import Choice, Decision
from embgeom_dask.checkpoints.quiet import quiet
from embgeom_dask.checkpoints.safetensors import Listing, describe
from embgeom_dask.checkpoints.small_files import class_name, read_config
from embgeom_dask.errors import InputError, shorten

_MAPPINGS = ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "PRETRAINING", "")
_NUMBERED = re.compile(r"\.\d+\.")
_Landed = dict[str, tuple[str, ...]]


def find_embeddings(listing: Listing, judged: Collection[str] = ("input", "output")) -> Decision:
    """Find the embeddings of a model folder.

    Parameters
    ----------
    listing : Listing
        The tensors of the folder `listing.source`.
    judged : collection of str
        The roles whose embedding must be found; a choice for the other role is a by-product.

    Returns
    -------
    Decision

    Raises
    ------
    InputError
        If neither the class nor names and shapes determine an embedding (the message lists the candidates), if the
        model has no token embedding or a quantised one, or if its config is broken or has absurd sizes.
    """
    config = read_config(listing.source)
    check_sizes(listing.source / "config.json", config)
    try:
        with quiet():
            model, declared = _build(config)
            landed = _landing(model, list(listing))
    except Exception as error:  # for a config that it does not know, transformers raises any type
        return choose_by_name(listing, config, _reason(config, error), judged)
    return _by_class(listing, model, declared, landed, judged) or choose_by_name(
        listing, config, f"no tensor has the name of an embedding of {type(model).__name__}", judged
    )


def _reason(config: dict[str, Any], error: Exception) -> str:
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if kind in CONFIG_MAPPING:
        return f"transformers cannot build this {kind} ({shorten(error, 120)})"
    if not kind:
        return "it has no config that names a model type"
    named = f", nor the class {shorten(class_name(config))}" if class_name(config) else ""
    return f"transformers has no model type {shorten(repr(kind))}{named}"


def _by_class(
    listing: Listing, model: Any, declared: bool, landed: _Landed, judged: Collection[str]
) -> Decision | None:
    """Choose by the model's embedding modules; None if no tensor is loaded into one that is judged."""
    modules = {role: _module(model, role) for role in ("input", "output")}
    name = type(model).__name__
    if modules["input"] is None and "input" in judged:
        raise InputError(
            f"{name} of {listing.name} has no token embedding: choose `input_key`, `output_key` from "
            f"{describe(listing.matrices())}"
        )
    found: dict[str, Choice | None] = {}
    for role, module in modules.items():
        try:
            found[role] = _choice(listing, model, role, module, landed, declared)
        except InputError:  # quantised
            if role in judged:
                raise
            found[role] = None
    first, last = found["input"], found["output"]
    if first is None and ("input" in judged or last is None):
        return None
    warnings = [] if declared else list(_undeclared(listing, name))
    if last is None and modules["output"] is not None and declared and "output" in judged:
        warnings.append(f"the output embedding of {name} is neither in the checkpoint nor tied: none is stored")
    if first and "tied" in (first.how, last and last.how):
        warnings += _unmapped(listing, model, landed, first)
    biases = [f"{path}.bias" for path in _paths(model, modules["output"])]
    ties = private_apis.tied_parameters(model)
    bias = [landed[key][0] for own in biases for key in (own, ties.get(own)) if key in landed]
    return Decision(name, first, last, tuple(warnings), _scale(listing, model, modules), next(iter(bias), None))


def _undeclared(listing: Listing, name: str) -> Iterator[str]:
    """Warn if transformers does not have the class that the config names, or not for its model type."""
    if named := class_name(read_config(listing.source)):
        yield f"transformers has no class {shorten(named)} for this model type: its tensors are told by {name}"


def _scale(listing: Listing, model: Any, modules: dict[str, Any]) -> float | None:
    """Return the factor that the model multiplies its input embedding by; None if there is none, or it is 1."""
    scale = getattr(modules["input"], "scalar_embed_scale", getattr(modules["input"], "embed_scale", None))
    if not isinstance(scale, int | float):
        scale = getattr(model.config.get_text_config(), "embedding_multiplier", None)
    if scale is None or scale == 1:
        return None
    if not isinstance(scale, int | float) or not abs(scale) < math.inf:
        raise InputError(
            f"{listing.source / 'config.json'} multiplies the embeddings by {shorten(repr(scale), 40)}, no number: "
            "mend it, or give `input_key` and `output_key`"
        )
    return scale


def _build(given: dict[str, Any]) -> tuple[Any, bool]:
    """Build the model of a config on the meta device; return it, and whether the config itself names its class."""
    import torch
    import transformers
    from torch.nn.modules.module import register_module_module_registration_hook
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    config = CONFIG_MAPPING[given["model_type"]].from_dict(deepcopy(given))
    mapped = _mapped_classes(config, modeling_auto)
    named = getattr(transformers, (config.architectures or [""])[0] or "", None)
    fits = isinstance(named, type) and issubclass(named, transformers.PreTrainedModel)
    declared = fits and (named in mapped or isinstance(config, getattr(named, "config_class", None) or ()))
    if not declared and not mapped:
        raise LookupError(f"no class for {type(config).__name__}")
    modules = 0

    def count(*_: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > tuning.MOST_MODULES:
            raise MemoryError(f"more than {tuning.MOST_MODULES} modules")

    counting = register_module_module_registration_hook(count)
    try:
        with torch.device("meta"):
            model_class: Any = named if declared else mapped[0]
            return model_class(config), declared
    finally:
        counting.remove()


def _mapped_classes(config: Any, modeling_auto: Any) -> list[Any]:
    """Return the model classes of a config, those that generate text first."""
    names = [f"MODEL_FOR_{kind}_MAPPING" if kind else "MODEL_MAPPING" for kind in _MAPPINGS]
    names += [name for name in vars(modeling_auto) if name.startswith("MODEL_") and name.endswith("_MAPPING")]
    mappings = [getattr(modeling_auto, name) for name in names]
    found = [mapping[type(config)] for mapping in mappings if type(config) in mapping]
    return [each for entry in found for each in (entry if isinstance(entry, tuple | list) else [entry])]


def _landing(model: Any, names: list[str]) -> _Landed:
    """Map each parameter of `model` to the tensors that `from_pretrained` would load into it.

    Several tensors are concatenated along their rows.
    """
    find = private_apis.tensor_names(model)
    landed: dict[str, dict[int, str]] = {}
    for name in sorted(names):
        if _NUMBERED.search(name):  # of a layer, never an embedding: 90,000 of DeepSeek's 91,000 tensors
            continue
        if (found := find(name)) is None:
            continue
        target, part = found
        landed.setdefault(target, {}).setdefault(part, name)
    return {target: tuple(parts[i] for i in sorted(parts)) for target, parts in landed.items()}


def _module(model: Any, role: str) -> Any:
    """Return the embedding module of a role; None if the class has none, or one that embeds images or sound."""
    from torch.nn import Linear

    try:
        module = getattr(model, f"get_{role}_embeddings")()
    except (NotImplementedError, AttributeError):
        return None
    weight = getattr(module, "weight", None)
    if getattr(weight, "ndim", None) != 2 or (role == "input" and isinstance(module, Linear)):
        return None
    return module


def _paths(model: Any, wanted: Any) -> list[str]:
    """Return the paths of a module in the model; a shared module has several."""
    named = model.named_modules(remove_duplicate=False)
    return [path for path, module in named if wanted is not None and module is wanted]


def _choice(listing: Listing, model: Any, role: str, module: Any, landed: _Landed, declared: bool) -> Choice | None:
    """Choose the tensor of a role's module: its own weight, else a weight that the class ties to it."""
    paths = _paths(model, module)
    weights = [f"{path}.weight" for path in paths]
    for path, weight in zip(paths, weights, strict=True):
        if weight in landed:
            return Choice(landed[weight], path, "direct")
    parts = sorted(
        name for path in paths for to, names in landed.items() if to.startswith(f"{path}.") for name in names
    )
    if any("bias" not in part for part in parts):
        kinds = ", ".join(f"{part} {listing.kind(part)}" for part in parts)
        other = "input" if role == "output" else "output"
        raise InputError(
            f"the {role} embedding of {listing.name} is quantised ({kinds}): "
            f"convert the original model, or only the {other} embedding with `role` {other}"
        )
    ties = private_apis.tied_parameters(model)
    roots = {ties.get(weight, weight) for weight in weights}
    if role == "input" or declared:
        for name in [*sorted(roots), *sorted(name for name, root in ties.items() if root in roots)]:
            if name in landed:
                return Choice(landed[name], paths[0], "tied")
    return None


def _unmapped(listing: Listing, model: Any, landed: _Landed, chosen: Choice) -> Iterator[str]:
    """Warn of tensors that the class does not load, but that have the shape of an embedding chosen by a tie."""
    state = model.state_dict()
    shape = listing.matrix(chosen.tensors[0]).shape
    strangers = [name for target, names in landed.items() if target not in state for name in names]
    for name in strangers:
        try:
            same = listing.matrix(name).shape == shape
        except InputError:  # not a matrix
            continue
        if same:
            yield f"{name} has the shape of an embedding, but {type(model).__name__} has no place for it"
