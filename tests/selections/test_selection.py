from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from embgeom_dask.errors import InputError
from embgeom_dask.selections.selection import in_order, parse_tokens, read_cluster

VOCAB = 40


@st.composite
def pieces(draw: st.DrawFn) -> tuple[str, list[int]]:
    """One piece of a selection, and the ids that Python's own slice or index gives."""
    ids = range(VOCAB)
    if draw(st.booleans()):
        token = draw(st.integers(0, VOCAB - 1))
        return str(token), [ids[token]]
    start = draw(st.none() | st.integers(0, VOCAB - 1))
    stop = draw(st.none() | st.integers(0, VOCAB))
    text = f"{'' if start is None else start}:{'' if stop is None else stop}"
    return text, list(ids[start:stop])


@given(st.lists(pieces(), min_size=1), st.sampled_from([",", ", ", " ,"]))
def test_ranges_are_python_slices(drawn: list[tuple[str, list[int]]], comma: str) -> None:
    expected = sorted({token for _, ids in drawn for token in ids})
    text = comma.join(text for text, _ in drawn)
    if expected:
        found = parse_tokens(text, VOCAB)
        assert found.tolist() == expected
        assert found.dtype == np.int64
    else:
        with pytest.raises(InputError, match="selects no token"):
            parse_tokens(text, VOCAB)


@given(st.text(alphabet="0123456789:,- @#x.", max_size=30))
def test_any_text_is_ids_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        found = parse_tokens(text, VOCAB)
        assert found.size
        assert (np.diff(found) > 0).all()
        assert found[0] >= 0
        assert found[-1] < VOCAB


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:1000", "token id 999 is past the vocabulary of 40 tokens"),
        ("3,40", "token id 40 is past the vocabulary of 40 tokens"),
        ("50:,1", "token id 50 is past"),
        ("99999999999999999", "token id 99999999999999999 is past"),
        ("-1", "token id -1 is negative"),
        ("-5:10", "token id -5 is negative"),
        ("5:-1", "token id -1 is negative"),
        ("7:7", "selects no token"),
        ("1;2", "cannot read '1;2'"),
        ("1,,2", "cannot read ''"),
        ("0:9:2", "cannot read '0:9:2'"),
        ("", "cannot read ''"),
        ("ids.txt", "@FILE"),
        ("9" * 5000, "cannot read"),
    ],
)
def test_bad_text(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_tokens(text, VOCAB)


@pytest.mark.parametrize(
    "ids",
    [
        [5, 1, 5, 3],
        {1, 3, 5},
        range(1, 6, 2),
        (i for i in (1, 3, 5)),
        np.array([5, 3, 1], dtype=np.uint8),
        torch.tensor([1, 3, 5], dtype=torch.int32),
        [np.int16(1), 3, 5],
        np.isin(np.arange(VOCAB), [1, 3, 5]),
    ],
)
def test_integers(ids: Any) -> None:
    assert parse_tokens(ids, VOCAB).tolist() == [1, 3, 5]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "selects no token"),
        ([1, 40], "token id 40 is past"),
        ([2**70], "is past the vocabulary"),
        ([3, -2], "token id -2 is negative"),
        ([1.0], "token ids are integers"),
        ([None], "token ids are integers"),
        (7, "the token selection 7 is no list"),
        (np.ones(VOCAB + 1, dtype=bool), r"shape \(41,\), the vocabulary has 40"),
        (np.zeros(VOCAB, dtype=bool), "selects no token"),
    ],
)
def test_bad_integers(ids: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_tokens(ids, VOCAB)


def test_a_mask_selects_by_its_labels_and_is_refused_where_it_has_none_and_could_be_of_others() -> None:
    ids = np.array([3, 0, 2, 1])
    labels = xr.Dataset(coords={"token_id": ids, "token": ("token_id", list("dacb"))})
    shuffled = pd.Series([True, False, True, False], index=ids)
    for mask in (
        shuffled,
        shuffled.astype("boolean"),
        xr.DataArray(shuffled.to_numpy(), {"token_id": ids}, "token_id"),
    ):
        assert parse_tokens(mask, 4, lambda: labels).tolist() == [2, 3]
    tokens = [f"w{place}" for place in range(4)]
    named = xr.Dataset(coords=dict.fromkeys(("token", "text"), ("token_id", tokens)) | {"token_id": np.arange(4)})
    mask = pd.Series([True, False, True, False], index=["w3", "w0", "w2", "w1"])
    assert parse_tokens(mask, 4, lambda: named).tolist() == [2, 3]
    assert parse_tokens(mask.to_numpy(), 4, lambda: named).tolist() == [0, 2]
    assert parse_tokens(mask.reset_index(drop=True), 4, lambda: named).tolist() == [0, 2]
    with pytest.raises(InputError, match="the rows given have ids of their own: give the mask as a DataArray"):
        parse_tokens(mask.to_numpy(), 4, lambda: labels)
    with pytest.raises(InputError, match="booleans are given: give a mask as a boolean array"):
        parse_tokens(mask.tolist(), 4, lambda: labels)


def test_a_mask_of_a_series_is_read_by_its_index_unless_that_is_the_default_one() -> None:
    tokens = ["a", "b", "1", "0:2", '"""', '"', "\u2581a"]
    frame = pd.DataFrame({"token_id": range(7), "token": tokens})
    named = xr.Dataset(coords=dict.fromkeys(("token", "text"), ("token_id", tokens)) | {"token_id": np.arange(7)})
    assert parse_tokens(frame[::-1]["token_id"] < 3, 7, lambda: named).tolist() == [0, 1, 2]
    assert parse_tokens(frame[2:]["token_id"] < 4, 7, lambda: named).tolist() == [2, 3]
    by_token = frame.set_index("token")["token_id"]
    for ids in ([2, 3], [4], [0], [6]):
        assert parse_tokens(by_token.isin(ids), 7, lambda: named).tolist() == ids
    with pytest.raises(InputError, match="no token is called '2'"):
        parse_tokens(pd.Series([True], index=["2"]), 7, lambda: named)
    for index in (None, [6, 5, 4]):
        with pytest.raises(InputError, match="the mask holds NA, in 1 of 3 rows: fill it"):
            parse_tokens(pd.Series([True, None, False], index, "boolean"), 7, lambda: named)


def test_masks_select_in_their_order_where_order_matters() -> None:
    named = xr.Dataset(coords=dict.fromkeys(("token", "text"), ("token_id", list("abcd"))) | {"token_id": range(4)})
    mask = np.array([False, True, False, True])
    assert in_order(mask, 4, lambda: named).tolist() == [1, 3]
    assert in_order(pd.Series(mask)[::-1], 4, lambda: named).tolist() == [3, 1]
    with pytest.raises(InputError, match="the mask selects no token"):
        in_order(mask & False, 4, lambda: named)


def test_none_is_every_token() -> None:
    assert parse_tokens(None, VOCAB).tolist() == list(range(VOCAB))


def test_id_file(tmp_path: Path) -> None:
    path = tmp_path / "ids: 1,2.txt"
    path.write_text("# chosen by hand\n17\n\n  4 # four\n17\r\n0")
    assert parse_tokens(f"@{path}", VOCAB).tolist() == [0, 4, 17]
    path.write_bytes(b"\xef\xbb\xbf4\r\n17\r\n")  # as Windows writes it
    assert parse_tokens(f"@{path}", VOCAB).tolist() == [4, 17]
    path.write_text("3\n4:6\n4;6 # no token\n")
    with pytest.raises(InputError, match=r"line 3 of the token file .* cannot read '4;6'"):
        parse_tokens(f"@{path}", VOCAB)
    path.write_text("# nothing\n")
    with pytest.raises(InputError, match="selects no token"):
        parse_tokens(f"@{path}", VOCAB)
    path.write_bytes(b"\xff\xfe1")
    with pytest.raises(InputError, match="cannot read the token file"):
        parse_tokens(f"@{path}", VOCAB)
    with pytest.raises(InputError, match=r"cannot read the token file '/no/such.txt': No such file"):
        parse_tokens("@/no/such.txt", VOCAB)


@pytest.fixture
def cluster_file(tmp_path: Path) -> Path:
    path = tmp_path / "1.6a_cluster_mask.safetensors"
    mask = torch.zeros(VOCAB, dtype=torch.uint8)
    mask[[2, 3, 31]] = 1
    save_file(
        {
            "cluster_mask": mask,
            "cluster_token_ids": torch.tensor([31, 2, 3], dtype=torch.int32),
            "spatial_mask": (torch.arange(VOCAB) % 2).to(torch.uint8),
            "bools": torch.arange(VOCAB) < 3,
            "centroid": torch.arange(7).div(3).bfloat16(),
            "n_cluster": torch.tensor([3], dtype=torch.int32),
            "center_lat": torch.tensor([0.5]),
            "square": torch.zeros(VOCAB, 1, dtype=torch.uint8),
            "short": torch.ones(VOCAB - 1, dtype=torch.uint8),
            "token_to_black_hole": torch.full((VOCAB,), -1),
        },
        path,
    )
    return path


def test_cluster_file(cluster_file: Path) -> None:
    odd = list(range(1, VOCAB, 2))
    for selection in (cluster_file, f"{cluster_file}", f"@{cluster_file}", f"{cluster_file}:cluster_mask"):
        assert parse_tokens(selection, VOCAB).tolist() == [2, 3, 31]
    assert parse_tokens(f"{cluster_file}:spatial_mask", VOCAB).tolist() == odd
    assert parse_tokens(f"{cluster_file}:bools", VOCAB).tolist() == [0, 1, 2]
    assert parse_tokens(f"{cluster_file}:n_cluster", VOCAB).tolist() == [3]

    cluster = read_cluster(cluster_file, VOCAB)
    assert cluster.token_ids.tolist() == [2, 3, 31]
    assert cluster.centroid is not None
    assert cluster.centroid.dtype == np.float64
    rounded = (np.arange(7, dtype=np.float32) / 3).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(cluster.centroid, rounded.astype(np.float64))
    assert read_cluster("2,3", VOCAB).centroid is None


def test_mask_without_ids(tmp_path: Path) -> None:
    path = tmp_path / "mask.safetensors"
    save_file({"cluster_mask": (torch.arange(VOCAB) == 9)}, path)
    cluster = read_cluster(path, VOCAB)
    assert cluster.token_ids.tolist() == [9]
    assert cluster.centroid is None


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (":nothing", "has no nothing: name one with FILE:KEY of .*spatial_mask"),
        (":center_lat", r"center_lat of .* is F32 \(1,\): a vector of BOOL"),
        (":square", r"is U8 \(40, 1\)"),
        (":short", r"shape \(39,\), the vocabulary has 40 tokens"),
        (":token_to_black_hole", "token_to_black_hole of .* selects no token"),
    ],
)
def test_bad_key(cluster_file: Path, key: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_tokens(f"{cluster_file}{key}", VOCAB)


@pytest.mark.parametrize("size", [30, 50])
def test_a_file_of_another_vocabulary_is_refused_even_where_its_ids_exist(cluster_file: Path, size: int) -> None:
    said = rf"cluster_mask of .* has shape \(40,\), the vocabulary has {size} tokens: .*:cluster_token_ids to take"
    with pytest.raises(InputError, match=said):
        parse_tokens(cluster_file, size)
    with pytest.raises(InputError, match=rf"token_to_black_hole of .* \(40,\), the vocabulary has {size} tokens"):
        parse_tokens(f"{cluster_file}:token_to_black_hole", size)
    if size == 50:
        assert parse_tokens(f"{cluster_file}:cluster_token_ids", size).tolist() == [2, 3, 31]
    else:
        with pytest.raises(InputError, match="token id 31 is past the vocabulary of 30 tokens"):
            parse_tokens(f"{cluster_file}:cluster_token_ids", size)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"W": torch.zeros(2)},
            "has no cluster_token_ids or .* or token_to_black_hole: name one with FILE:KEY of W",
        ),
        ({"cluster_mask": torch.full((VOCAB,), 2, dtype=torch.uint8)}, "a mask holds only 0 and 1"),
        ({"cluster_token_ids": torch.tensor([1]), "centroid": torch.tensor([1, 2])}, "centroid of .* is I64"),
        ({"cluster_token_ids": torch.tensor([1]), "centroid": torch.tensor([float("nan")])}, "NaN or infinity"),
    ],
)
def test_bad_cluster_file(tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    path = tmp_path / "cluster.safetensors"
    save_file(tensors, path)
    with pytest.raises(InputError, match=message):
        read_cluster(path, VOCAB)


def test_not_a_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for content in (b"", b"junk" * 10):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot read the token file"):
            parse_tokens(path, VOCAB)
    with pytest.raises(InputError, match="No such file"):
        parse_tokens(tmp_path / "none.safetensors", VOCAB)
