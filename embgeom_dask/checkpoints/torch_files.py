"""`pytorch_model.bin`: files of tensors that torch pickled, read without running what a pickle can say."""

from __future__ import annotations

import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from embgeom_dask.checkpoints.files import LocalFile, LocalFolder
from embgeom_dask.checkpoints.safetensors import Listing, Tensor, list_folder, read_index
from embgeom_dask.errors import InputError
from embgeom_dask.stores import DTYPES

_SINGLE, _INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


@dataclass(frozen=True)
class TorchTensor(Tensor):
    """A tensor of a file that torch maps into memory; `values` is the mapped tensor."""

    values: Any

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1. Raises EmbgeomError where the file changed since it was opened."""
        import torch

        self.source.read(0, 1)
        block = self.values[start:stop].detach().contiguous()
        if self.kind == "BF16":
            return np.asarray(block.view(torch.uint16).numpy()).view(ml_dtypes.bfloat16)
        return np.asarray(block.numpy())


def list_local(folder: LocalFolder) -> Listing:
    """List the tensors of a model folder: its safetensors files, else `pytorch_model.bin` or the shards of its index.

    Raises InputError as `list_folder` and `read_torch_file`.
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
    """Map a file of tensors, and return them by name.

    A file of the format before torch 1.6 is read into memory. Raises InputError where it holds anything else than
    tensors and plain values (nothing of it is run then), is compressed or is broken.
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
    except Exception as error:  # whatever a broken file leads to
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path} is not a file of tensors alone, nothing of it was run: {reason}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}, not tensors by name")
    tensors: dict[str, Tensor] = {}
    for name, value in values.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided:
            dtype = str(value.dtype).removeprefix("torch.")
            tensors[name] = TorchTensor(source, name, DTYPES.get(dtype, dtype), tuple(value.shape), 0, value)
    return tensors
