from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
import xarray as xr

from embgeom_dask.cli.as_json import json_pieces, to_json
from embgeom_dask.cli.scan_text import scan_text
from embgeom_dask.cli.text_tables import align


def test_numbers_stand_to_the_right_and_text_to_the_left():
    said = align(["id", "token", "distance", "tied"], [[7, "a", 2.0 / 3, True], [101, "[CLS]", 1e-20, False]])
    assert said.splitlines() == [
        " id  token     distance  tied",
        "  7  a      0.666666667  yes",
        "101  [CLS]        1e-20  no",
    ]


def test_wide_joining_and_control_characters_keep_their_columns():
    rows = [["日本", 1], ["e\u0301t", 2], ["a\nb", 3], ["plain", 4]]
    lines = align(["token", "n"], rows).splitlines()
    assert lines[1:] == ["日本   1", "e\u0301t     2", "a\\nb   3", "plain  4"]


def test_what_a_terminal_is_too_narrow_for_goes_on_below():
    assert align(["id", "token"], [[1, "[bold]abcdef"], [20, "b"]], width=10).splitlines() == [
        "id  token",
        " 1  [bold]",
        "    abcdef",
        "20  b",
    ]


def test_columns_that_a_terminal_is_too_narrow_for_follow_with_the_first_again():
    header = ["model", *(f"number_{i}" for i in range(12)), "quantiles", "text"]
    numbers = np.random.default_rng(5).normal(size=(5, 12)).tolist()
    names = [f"sentence-transformers/all-MiniLM-L{i}-v2" for i in range(5)]
    several = " ".join(f"{value:.9g}" for value in numbers[0])
    said = align(header, ([name, *row, several, "ü"] for name, row in zip(names, numbers, strict=True)), width=80)
    assert max(map(len, said.splitlines())) <= 80
    words = said.split()
    assert all(words.count(f"{value:.9g}") == 1 for row in numbers[1:] for value in row)
    assert all(words.count(f"{value:.9g}") == 6 for value in numbers[0])  # its own and in each row of several
    assert words.count("model") == len(said.split("\n\n"))
    assert all(words.count(name) == 1 for name in header[1:])
    assert said.count("more columns:") == len(said.split("\n\n")) - 1
    assert all(name in said for name in names)  # whole: a name takes half a line


def test_a_table_without_rows_is_its_header():
    assert align(["model", "bytes"], []) == "model  bytes"


def test_json_has_the_names_and_every_digit():
    dataset = xr.Dataset(
        {
            "distance": ("pair", [0.1 + 0.2, np.nan, np.inf]),
            "count": np.int64(2**62),
            "centroid": ("hidden", np.array([1.5, -2.0], dtype=ml_dtypes.bfloat16).astype(np.float32)),
        },
        {"token": (("pair",), np.array(["ä", "", "x"], dtype=np.dtypes.StringDType())), "tied": True},
        {
            "command": "scan",
            "seconds": np.float64(0.5),
            "devices": ("cpu",),
            "sizes": np.arange(2),
            "none": float("nan"),
        },
    )
    found = json.loads("".join(json_pieces(to_json(dataset))))
    assert found == {
        "attrs": {"command": "scan", "seconds": 0.5, "devices": ["cpu"], "sizes": [0, 1], "none": None},
        "dims": {"pair": 3, "hidden": 2},
        "distance": [0.1 + 0.2, None, None],
        "count": 2**62,
        "centroid": [1.5, -2.0],
        "token": ["ä", "", "x"],
        "tied": True,
    }


@pytest.mark.parametrize("shape", [(40_000,), (3, 9_000), (9_000, 3), (2, 0), (0, 2), (5,), ()])
def test_large_arrays_are_written_in_pieces_of_the_same_text(shape):
    values = np.random.default_rng(4).normal(size=shape)
    for array in (values, (values * 100).astype(np.int64), values.astype(np.dtypes.StringDType())):
        pieces = [*json_pieces({"a": array, "b": [{"c": array}]})]
        plain = array.tolist()
        assert "".join(pieces) == json.dumps({"a": plain, "b": [{"c": plain}]})
        assert max(map(len, pieces)) < 500_000


@pytest.mark.parametrize("bins", [1, 5, 16, 17, 512])
def test_the_histogram_shows_every_pair_once(bins):
    distances = np.abs(np.random.default_rng(bins).normal(5.0, 1.0, 4000))
    counts, edges = np.histogram(distances, bins=bins, range=(0.0, 20.0))
    moments = {"pair_count": 4000, "distance_mean": 5.0, "distance_std": 1.0, "distance_min": 1.0, "distance_max": 9.0}
    moments |= {"distance_mean_error": 0.0, "distance_std_error": 0.0}
    dataset = xr.Dataset(
        {"histogram_count": ("bin", counts), "bin_edge": ("edge", edges), **moments},
        attrs={"model": ["m"], "revision": [""], "matrix": ["output_embedding"]},
    )
    lines = scan_text(dataset).split("\n\n")[-1].splitlines()[1:]
    cells = [line.split()[:3] for line in lines]
    assert sum(int(count) for _, _, count in cells) == 4000
    assert len(cells) <= 16
    for low, high, count in cells:
        inside = (distances >= float(low) - 1e-8) & (distances < float(high) + 1e-8)
        assert inside.sum() == int(count)
