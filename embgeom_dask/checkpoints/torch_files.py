"""Read files of tensors that torch pickled (`pytorch_model.bin`, `.pt`, `.ckpt`), without running their code."""

from __future__ import annotations

import math
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embgeom_dask.bfloat16 import BFloat16
from embgeom_dask.checkpoints.files import LocalFile, LocalFolder
from embgeom_dask.checkpoints.safetensors import Listing, Tensor, list_folder, read_index
from embgeom_dask.errors import InputError, shorten
from embgeom_dask.storage.model_stores import DTYPES

_CLASS = re.compile(r"GLOBAL ([\w.]+)")
_MOST_DEPTH = 8
_SINGLE, _INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


@dataclass(frozen=True)
class TorchTensor(Tensor):
    """A tensor of a file that torch maps into memory: `values` is the mapped torch.Tensor."""

    values: Any

    @property
    def missing_bytes(self) -> int:
        """Bytes of the values that no storage has: `torch.Tensor.expand` repeats one row without storing it again."""
        size = math.prod(self.shape) * int(self.values.element_size())
        return max(0, size - int(self.values.untyped_storage().nbytes()))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1: (stop - start, columns). Raises EmbgeomError if the file has changed since."""
        self.source.read(0, 1)
        return from_torch(self.values[start:stop])

    def integers(self) -> np.ndarray:
        """Return a vector of integers or bools, (n,) int64. Raises as `Tensor.integers` does."""
        if self.values.ndim != 1 or self.values.is_floating_point() or self.values.is_complex():
            raise InputError(
                f"{self.tensor} in {self.source.name} is {self.kind} {list(self.shape)}, no list of integers"
            )
        self.source.read(0, 1)
        return from_torch(self.values.long())


def list_local(folder: LocalFolder) -> Listing:
    """List the tensors of a model folder: its safetensors files, else `pytorch_model.bin` or the shards of its index.

    Raises InputError as `list_folder` and `read_torch_file` do.
    """
    torch_only = not any(folder.has(f"model.safetensors{end}") for end in ("", ".index.json"))
    if not torch_only or not (folder.has(_SINGLE) or folder.has(_INDEX)):
        return list_folder(folder)
    if folder.has(_SINGLE):
        headers = {_SINGLE: read_torch_file(folder.path / _SINGLE)}
        return Listing(folder.path, folder.name, folder, dict.fromkeys(headers[_SINGLE], _SINGLE), headers)
    files = read_index(folder, _INDEX, ".bin")
    headers = {file: read_torch_file(folder.path / file) for file in sorted(set(files.values())) if folder.has(file)}
    return Listing(folder.path, folder.name, folder, files, headers)


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """Map a file of tensors into memory, and return them by name.

    A tensor of a nested dict is named by its path, `state_dict.wte.weight`; a single tensor is named after the file. A
    file written before torch 1.6 is not mapped but read. Raises InputError if the file holds anything but tensors and
    plain values (no code of it is run), is compressed or is broken.
    """
    import torch

    source = LocalFile.open(path)
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise InputError(f"{path} is a compressed archive, which torch does not write: save the model again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # for a broken file, torch raises any type
        raise InputError(f"{path} is not a file of tensors alone, nothing of it was run: {_reason(error)}") from error
    if isinstance(values, torch.Tensor):
        values = {path.stem: values}
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}, not tensors by name")
    tensors: dict[str, Tensor] = {}
    for name, value in _tensors(values).items():
        dtype = str(value.dtype).removeprefix("torch.")
        tensors[name] = TorchTensor(source, name, DTYPES.get(dtype, dtype), tuple(value.shape), 0, value)
    return tensors


def _reason(error: Exception) -> str:
    """Return why torch refuses a file, without its advice to load it unsafely."""
    said = str(error)
    if needed := _CLASS.search(said):
        return f"it needs the class or function {needed[1]}: save the tensors, model.state_dict(), and convert these"
    return shorten(said.rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or "it is empty", 160)


def _tensors(values: dict[Any, Any]) -> dict[str, Any]:
    """Return the tensors of a dict and of the dicts inside it, by path; each dict is visited once, lists never."""
    import torch

    found: dict[str, Any] = {}
    seen, left = {id(values)}, [("", values, _MOST_DEPTH)]
    while left:
        prefix, part, depth = left.pop()
        for name, value in part.items():
            if not isinstance(name, str):
                continue
            if isinstance(value, dict) and depth and id(value) not in seen:
                seen.add(id(value))
                left.append((f"{prefix}{name}.", value, depth - 1))
            elif isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu":
                found.setdefault(f"{prefix}{name}", value)
    return found


def from_torch(tensor: Any) -> np.ndarray:
    """Return the values of a tensor of torch as a numpy array, those of bfloat16 as ml_dtypes'.

    They are copied where they lie on a device, are negated lazily or have gaps. TypeError for a type that numpy lacks.
    """
    import torch

    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    bits = plain.view(torch.uint16) if plain.dtype == torch.bfloat16 else plain
    values: np.ndarray = bits.numpy()
    return values if bits is plain else values.view(BFloat16().to_native_dtype())
