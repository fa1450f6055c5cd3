"""Tiny stores and checkpoints for tests."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from embgeom_dask.storage import model_stores, model_writing


@dataclass(frozen=True)
class ArrayRows:
    """A numpy matrix as the rows that a store is written from.

    Attributes
    ----------
    array : numpy.ndarray, (rows, columns)
        Its values.
    tensor : str
        The name of the tensor that the store says it comes from.

    Examples
    --------
    >>> source = ArrayRows(np.eye(3, 2))
    >>> source.shape
    (3, 2)
    >>> source.read(1, 2)
    array([[0., 1.]])
    """

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
    """Write a model's store from one or two numpy matrices, replacing a store that is there.

    Parameters
    ----------
    path : str or path
        Where; a URL too.
    output, input : numpy.ndarray, (V, d)
        Of float64, float32, float16 or ml_dtypes.bfloat16; at least one.
    tokens : sequence of str, optional
        The V pieces, which are their own text: `t0`, `t1`, ... by default.
    model, revision : str
        What the store says it was made from.
    tied : bool
        Whether the store says that its one matrix is both.

    Returns
    -------
    str
        The path of the store.

    Examples
    --------
    >>> import embgeom_dask as eg
    >>> store = make_store("tiny.zarr", output=np.eye(3, 2, dtype=np.float32), tokens=["a", "b", "c"])
    >>> eg.open_model(store)["output_embedding"].shape
    (3, 2)
    """
    given = {"input_embedding": input, "output_embedding": output}
    matrices = {name: ArrayRows(array, name) for name, array in given.items() if array is not None}
    rows = max(source.shape[0] for source in matrices.values())
    pieces = [f"t{i}" for i in range(rows)] if tokens is None else tokens
    labels = model_stores.make_labels(pieces, pieces, [True] * rows)
    attrs = {"model": model, "revision": revision}
    return model_writing.write_model(path, matrices, labels=labels, attrs=attrs, tied=tied, overwrite=True)


def make_checkpoint(
    directory: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any] | None = None,
    shards: int = 1,
) -> str:
    """Write a Hugging Face model folder.

    Parameters
    ----------
    directory : str or path
        A new folder.
    tensors : mapping of str to numpy.ndarray
        Of float64, float32, float16 or ml_dtypes.bfloat16: the contents of `model.safetensors`.
    config : mapping, optional
        The contents of `config.json`.
    shards : int
        The number of files that the tensors are written to in turn; several files get an index.

    Returns
    -------
    str
        The path of the folder.

    Examples
    --------
    >>> tensors = {"a": np.zeros(2, np.float32), "b": np.ones(3, np.float32)}
    >>> folder = make_checkpoint("org/tiny", tensors, {"model_type": "llama"}, shards=2)
    >>> sorted(path.name for path in Path(folder).glob("*.safetensors"))
    ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
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
