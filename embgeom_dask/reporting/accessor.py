"""The accessor `embgeom` of results: converts them for pandas, scipy, UMAP and matplotlib, and writes files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr
from numpy.typing import NDArray

from embgeom_dask.reporting import files, graphs, masks, tables
from embgeom_dask.reporting.plots import Plots

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_array


@xr.register_dataset_accessor("embgeom")
class Report:
    """The accessor `result.embgeom`: a result as tables, graphs, plots and files, with its distances bit for bit.

    Examples
    --------
    >>> import numpy as np
    >>> import embgeom_dask as eg
    >>> result = eg.scan(np.array([[0.0], [3.0], [4.0]]), nearest=1, neighbors=1)
    >>> result.embgeom.tables
    ['nearest', 'neighbors']
    >>> result.embgeom.to_frame("nearest")[["distance", "token_id_a", "token_id_b"]]
       distance  token_id_a  token_id_b
    0       1.0           1           2
    >>> result.embgeom.to_csr().toarray()
    array([[0., 3., 0.],
           [0., 0., 1.],
           [0., 1., 0.]])
    """

    def __init__(self, result: xr.Dataset) -> None:
        self._result = result

    @property
    def tables(self) -> list[str]:
        """The names of the tables that this result has."""
        return tables.names(self._result)

    @property
    def plot(self) -> Plots:
        """The plots of this result: `plot.histogram()`, `cdf`, `norms`, `ranks`, `heatmap`, `skymap`,
        `spectrum`, `components`."""
        return Plots(self._result)

    def to_frame(self, name: str) -> pd.DataFrame:
        """A table of the result, one observation a line. `tables` lists the names that this result has.

        Parameters
        ----------
        name : str
            - The command (`scan`, `survey`, `duplicates`, `spectrum`, `outliers`, `cluster`): all numbers that the
              result has one of, like the mean of all distances; a line for each model.
            - `tokens`: a line for each token; `numbers`: what `tokens` has one of.
            - `farthest`, `nearest`, `pairs`: `rank` (not for `pairs`), `distance`, `token_id_a`, `token_a`,
              `token_id_b`, `token_b`; `largest` and `smallest` likewise, with `product` in place of `distance`.
            - `neighbors`: `token_id`, `token`, `rank`, `neighbor_token_id`, `neighbor_token`, `distance`; `top` and
              `bottom` likewise, with `product` and ids `top_token_id`. A short list of neighbors has fewer lines.
            - `row_moments`: a line for each row.
            - `groups` of identical rows: `model`, `group`, `group_population`; `members`: these, `token_id`, `token`.
            - Others, whose columns are named like the variables: `histogram`, `within`, `degrees`, `quantiles`,
              `left_out`, `against_left_out`, `centroid`, `token_to_group`; of a spectrum `eigenvalues`, `components`,
              `component_error`, `scores`, `sky`, `columns`, `outlier_dimensions`; of outliers `sides`, `segments`,
              `vertices`; of components `connected_components`, `token_to_component`, `diameters`, `radii`, `numbers`;
              of a cluster `in_cluster`, `cluster_tokens`, `iterations`, `gaps`.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        InputError
            where the result has no table `name`; the message lists those that it has.
        """
        return tables.frame(self._result, name)

    def to_csr(self, name: Literal["neighbors", "pairs"] = "neighbors") -> csr_array:
        """Distances as a sparse matrix, whose rows and columns are the n compared tokens, in the order of `token_id`.

        Parameters
        ----------
        name : {"neighbors", "pairs"}
            With `neighbors`, row i holds the neighbors of token i. With `pairs`, the matrix holds (i, j) and (j, i) for
            every pair within the radius. A token is not paired with itself. Identical rows are explicit zeros.

        Returns
        -------
        scipy.sparse.csr_array of float64, (n, n)
            The entries of each row come nearest first, as scikit-learn wants them.

        Raises
        ------
        InputError
            where the result has no such distances, or compares two matrices.
        """
        return graphs.csr(self._result, name)

    def to_umap(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The neighbors of every token as umap-learn takes them (`precomputed_knn`).

        Returns
        -------
        positions : numpy.ndarray of int64, (V, k + 1)
        distances : numpy.ndarray of float64, (V, k + 1)
            The first column is the token itself, at distance 0. umap-learn counts it: `n_neighbors` may be k + 1. A
            short list of neighbors ends with position -1 and distance infinity.

        Raises
        ------
        InputError
            where the result has no neighbors, or compares two matrices.
        """
        return graphs.umap(self._result)

    def to_parquet(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a parquet file with a row for each token, which Embedding Atlas can read.

        Its columns are `token_id`, `token`, `text`, and each variable along `token_id`; for each radius R
        `within_degree_R`, `token_to_component_R` and `degree_R`; for each component C `score_C`; `neighbors`, a struct
        of the lists `ids` and `distances`; `top` and `bottom`, structs of the lists `ids` and `products`; and `near`, a
        struct of the lists `ids` and `csls`.

        Parameters
        ----------
        path : path
            The file to write.
        overwrite : bool
            Whether to replace a file that exists.

        Raises
        ------
        InputError
            where the result has nothing for each token, or `path` exists and `overwrite` is not given.
        EmbgeomError
            where the file cannot be written; nothing is left behind.
        """
        files.parquet(self._result, path, overwrite=overwrite)

    def to_csv(self, path: str | os.PathLike[str], name: str, *, overwrite: bool = False) -> None:
        """Write a table of the result as CSV: UTF-8, strings quoted, numbers with all their digits.

        Each column of tokens, which holds raw pieces, is followed by one of their texts: `text_a` after `token_a`. A
        token like NA is a string: read the file with `pandas.read_csv(path, keep_default_na=False)`.

        Parameters
        ----------
        path : path
            The file to write.
        name : str
            The table, as `to_frame` takes it.
        overwrite : bool
            Whether to replace a file that exists.

        Raises
        ------
        InputError
            where there is no such table, or `path` exists and `overwrite` is not given.
        EmbgeomError
            where the file cannot be written; nothing is left behind.
        """
        files.csv(self._result, path, name, overwrite=overwrite)

    def report(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write a report of this result as one HTML file, as `embgeom_dask.report` does of several."""
        from embgeom_dask.reporting import page

        return page.report(self._result, path, overwrite=overwrite)

    def to_masks(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the masks of a result as a safetensors file, with the names and types that notebooks exchange.

        - Of `cluster`: `cluster_mask` (V,) uint8, `cluster_token_ids` (n,) int32, `centroid` (d,) bfloat16, and
          `spatial_mask` (V,) uint8, the tokens that refining began with. Each (1,) int32: `n_cluster`, `n_spatial`,
          `n_filtered`, those of `spatial_mask` that are not in the cluster, and `n_iterations` of refining. Each (1,)
          float32: `center_lat`, `center_lon` and `angular_diameter`, which are NaN since no box is drawn.
        - Of `tokens`: the masks `has_token`, `is_added` and `is_special`, (V,) bool.
        - Of `tokens` and `duplicates`: `token_to_black_hole` (V,) int64, the group of identical rows, -1 for none.

        Commands take the file as a selection of tokens, as `FILE` or `FILE:KEY`.

        Parameters
        ----------
        path : path
            The file to write.
        overwrite : bool
            Whether to replace a file that exists.

        Raises
        ------
        InputError
            where the result has no mask or is not of a whole vocabulary, or `path` exists and `overwrite` is not given.
        EmbgeomError
            where the file cannot be written; nothing is left behind.
        """
        masks.write(self._result, path, overwrite=overwrite)


@xr.register_datatree_accessor("embgeom")
class ReportOfTree:
    """Results of several models as tables and as plots on shared axes."""

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree = tree

    @property
    def tables(self) -> list[str]:
        """The names of the tables that any of these results has."""
        return sorted({name for each in self._results() for name in tables.names(each)})

    def to_frame(self, name: str) -> pd.DataFrame:
        """The table `name` of all results that have it, one below the other, with the column `model` first.

        Parameters
        ----------
        name : str
            The table, as for a single result.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        InputError
            where no result has it; the message lists the tables that there are.
        """
        return tables.frame_of_all(self._results(), name)

    def _results(self) -> list[xr.Dataset]:
        return [node.to_dataset() for node in self._tree.children.values()]

    @property
    def plot(self) -> Plots:
        """The plots of these results: `plot.histogram()`, `cdf`, `norms`, `ranks`, `heatmap`, `skymap`,
        `spectrum`, `components`."""
        return Plots(self._tree)

    def report(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write a report of these results as one HTML file, as `embgeom_dask.report` does of several."""
        from embgeom_dask.reporting import page

        return page.report(self._tree, path, overwrite=overwrite)
