"""Small stores and checkpoints for tests."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from embgeom_dask.storage import model_stores


@dataclass(frozen=True)
class ArrayRows:
    """A numpy matrix (rows, columns) as a `stores.RowSource`."""

    array: np.ndarray
    tensor: str = "array"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.array.shape[0], self.array.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The array's dtype."""
        return self.array.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1, C-contiguous."""
        return np.ascontiguousarray(self.array[start:stop])


def make_store(
    path: str | os.PathLike[str],
    output: np.ndarray | None = None,
    input: np.ndarray | None = None,  # noqa: A002
    tokens: Sequence[str] | None = None,
    model: str = "test/model",
    tied: bool = False,
    revision: str = "",
) -> str:
    """Write a model's store at `path` from one or two numpy matrices (V, d) and return the path.

    `tokens` are the V pieces (by default `t0`, `t1`, ...), which are their own text.
    """
    given = {"input_embedding": input, "output_embedding": output}
    matrices = {name: ArrayRows(array, name) for name, array in given.items() if array is not None}
    rows = max(source.shape[0] for source in matrices.values())
    pieces = [f"t{i}" for i in range(rows)] if tokens is None else tokens
    labels = model_stores.make_labels(pieces, pieces, [True] * rows)
    attrs = {"model": model, "revision": revision}
    return model_stores.write_model(path, matrices, labels=labels, attrs=attrs, tied=tied, overwrite=True)


def make_checkpoint(
    directory: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any] | None = None,
    shards: int = 1,
) -> str:
    """Write a Hugging Face model folder and return its path.

    `tensors` (float64, float32, float16 or ml_dtypes.bfloat16) go into `model.safetensors`, or in turn into `shards`
    files with their index; `config`, where given, becomes `config.json`.
    """
    folder = Path(directory)
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors")
        return str(folder)
    files = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return str(folder)
