"""The accessor `embgeom` of results: what they are to pandas, scipy, UMAP, matplotlib and in files."""

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
    """A result as tables, graphs and files. Distances are those of the result, bit for bit."""

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
        """A tidy table of the result.

        `scan`, `survey`, `duplicates`, `spectrum`, `outliers`, as the command: what the result has one of, a line for
        each model, like the mean of all distances. `tokens`: a line a token, and `numbers`. `farthest`, `nearest`,
        `pairs`: `rank` (not of `pairs`), `distance`, `token_id_a`, `token_a`, `token_id_b`, `token_b`. `neighbors`:
        `token_id`, `token`, `rank`, `neighbor_token_id`, `neighbor_token`, `distance`. `largest`, `smallest` as
        `farthest`, and `top`, `bottom` as `neighbors`, with a column `product` and ids `top_token_id`; `row_moments`, a
        line a row. `groups` of identical rows: `model`, `group`, `group_population`; `members`: these and `token_id`,
        `token`. `histogram`, `within`, `degrees`, `quantiles`, `left_out`, `against_left_out`, `centroid`,
        `token_to_group`, of a spectrum `eigenvalues`, `components`, `component_error`, `scores`, `sky`, `columns`,
        `outlier_dimensions`, of outliers `sides`, `segments`, `vertices`, and of components `connected_components`,
        `token_to_component`, `diameters`, `radii`, `numbers`, of a cluster `in_cluster`, `cluster_tokens`,
        `iterations`, `gaps`, `cluster`: columns named as the variables. A list of neighbors that is short has fewer
        lines.

        Raises
        ------
        InputError
            where the result has no table `name`; it lists those that there are.
        """
        return tables.frame(self._result, name)

    def to_csr(self, name: Literal["neighbors", "pairs"] = "neighbors") -> csr_array:
        """Distances as a `scipy.sparse.csr_array` (n, n) of the n rows compared, in the order of `token_id`.

        `neighbors`: row i holds the neighbors of token i. `pairs`: both (i, j) and (j, i). Tokens themselves are out;
        identical rows are explicit zeros. Each row is nearest first, as scikit-learn wants it.

        Raises
        ------
        InputError
            where the result has no such distances, or compares two matrices.
        """
        return graphs.csr(self._result, name)

    def to_umap(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """What umap-learn takes as `precomputed_knn`: positions and distances (V, k + 1).

        The first column is the token itself at 0, which umap-learn counts: `n_neighbors` may be k + 1. A list of
        neighbors that is short ends with -1 and infinity.

        Raises
        ------
        InputError
            where the result has no neighbors, or compares two matrices.
        """
        return graphs.umap(self._result)

    def to_parquet(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a parquet file with a row for each token, as Embedding Atlas takes it.

        `token_id`, `token`, `text`, each variable along `token_id`, `within_degree_R`, `token_to_component_R` and
        `degree_R` for each radius R, `score_C` for each component C, and `neighbors`, a struct of the lists `ids` and
        `distances`.

        Raises
        ------
        InputError
            where the result has nothing for each token, or `path` exists and `overwrite` is not given.
        EmbgeomError
            where the file cannot be written; nothing is left behind.
        """
        files.parquet(self._result, path, overwrite=overwrite)

    def to_csv(self, path: str | os.PathLike[str], name: str, *, overwrite: bool = False) -> None:
        """Write the table `name` of `to_frame` as CSV: UTF-8, strings quoted, numbers with all their digits.

        After each column of tokens, their raw pieces, comes one of their texts: `text_a` after `token_a`. Tokens like
        NA are strings too: `pandas.read_csv(path, keep_default_na=False)` reads them so.

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
        """Write the masks of a result, as notebooks exchange them.

        Of `cluster`: `cluster_mask` (V,) uint8, `cluster_token_ids` (n,) int32, `centroid` (d,) bfloat16,
        `spatial_mask` (V,) uint8, the tokens that refining began with, `n_cluster`, `n_spatial`, `n_filtered`, those of
        them that are not in the cluster, and `n_iterations`, of refining, (1,) int32, and `center_lat`, `center_lon`
        and `angular_diameter` (1,) float32, NaN: no box is drawn. Of `tokens` each mask (V,) bool, `has_token`,
        `is_added`, `is_special`; of these and of `duplicates` `token_to_black_hole` (V,) int64, the group of identical
        rows, -1 for a unique row. `FILE` and `FILE:KEY` select the tokens of each.

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
        """The tables `name` of all results that have it, one below the other, with the column `model` first.

        Raises
        ------
        InputError
            where none has it; it lists those that there are.
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
