"""Tokens by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from scipy.spatial.distance import cdist

import embgeom_dask as eg
from embgeom_dask.cli import app
from embgeom_dask.errors import InputError
from embgeom_dask.escaping import ALPHABET, readable
from embgeom_dask.selections.selection import in_order, parse_tokens
from embgeom_dask.selections.token_names import find_token
from embgeom_dask.storage import labels, model_writing
from embgeom_dask.storage.model_stores import make_labels
from embgeom_dask.storage.validation import Metadata
from embgeom_dask.testing import ArrayRows, make_store

PIECES = ["▁king", "king", "▁queen", "Ġman", "##ing", "Apple", "apple", "7", "12", ",", "▁", "", ""]
TEXTS = [" king", "king", " queen", " man", "ing", "Apple", "apple", "7", "12", ",", " ", "", ""]
LABELS = make_labels(PIECES, TEXTS, [bool(piece) for piece in PIECES])


@pytest.mark.parametrize(
    ("name", "token_id"),
    [
        ("▁king", 0),
        ('"king"', 1),
        ("queen", 2),
        ("▁queen", 2),
        (" queen", 2),
        ("man", 3),
        ("Ġman", 3),
        ("##ing", 4),
        ("ing", 4),
        ("Apple", 5),
        ('"7"', 7),
        ('","', 9),
        ("▁", 10),
    ],
)
def test_a_token_has_a_piece_and_a_text(name: str, token_id: int) -> None:
    assert find_token(name, LABELS) == token_id


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("king", "'king' could be 0 '▁king', 1 'king': give the id, or the piece in double quotes"),
        ("QUEEN", "no token is called 'QUEEN': alike are 2 '▁queen'"),
        ("quee", "no token is called 'quee': alike are 2 '▁queen'"),
        ("zebra", "no token is called 'zebra' or alike (`embgeom tokens` lists all of them)"),
        ('"queen"', "no token is called '\"queen\"': alike are 2 '▁queen'"),
        ("e\x1b[0m", r"no token is called 'e\\x1b[0m'"),
    ],
)
def test_a_name_that_is_none_or_several_is_refused_with_candidates(name: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        find_token(name, LABELS)
    assert words in str(refused.value)
    assert "\x1b" not in str(refused.value)


def test_without_tokens_a_name_is_refused_and_ids_are_asked_for() -> None:
    with pytest.raises(InputError, match="no token is called 'king': no row has a token, give ids"):
        find_token("king", make_labels(["", ""], ["", ""], [False, False]))


@pytest.mark.parametrize(
    ("piece", "text", "said"),
    [
        ("the", "the", "the"),
        ("\u2581the", " the", "\u2581the"),
        ("##ing", "ing", "##ing"),
        ("Ġthe", " the", "\u2581the"),
        ("Ġ", "Ġ", "Ġ"),  # a letter of Malta, where pieces are text
        ("Ġ", " ", "\u2581"),
        ("ĠĠof", "  of", "\u2581\u2581of"),
        ("æĹ¥", "日", "日"),
        ("Ċ", "\n", "\n"),
        ("æĹ", "\ufffd", "<0xE6><0x97>"),
        ("Ġéð", " \ufffd\ufffd", "\u2581<0xE9><0xF0>"),
        ("<0xE6>", "\ufffd", "<0xE6>"),
        ("   ", "   ", "\u2581\u2581\u2581"),
        ("New York", "New York", "New York"),
        ("the</w>", "the ", "the</w>"),
        ("[PAD7]", "", "[PAD7]"),
    ],
)
def test_tables_say_what_the_bytes_of_a_piece_are_where_these_are_known(piece: str, text: str, said: str) -> None:
    assert readable(piece, text) == said
    assert find_token(said, make_labels([piece, "x"], [text, "x"], [True, True])) == 0


def test_a_file_holds_ids_ranges_and_names(tmp_path: Path) -> None:
    file = tmp_path / "tokens.txt"

    def parse(lines: str) -> list[int]:
        file.write_text(lines)
        return parse_tokens(f"@{file}", len(PIECES), lambda: LABELS).tolist()

    assert parse('# chosen\nqueen # with a crown\n"7"\n7\n##ing\n\n,\n0:2\n') == [0, 1, 2, 4, 7, 9]
    with pytest.raises(InputError) as refused:
        parse("queen\nquee\nzebra\nking\n")
    assert str(refused.value) == (
        f"line 2 of the token file '{file}': no token is called 'quee': alike are 2 '▁queen'; "
        f"line 3 of the token file '{file}': no token is called 'zebra' or alike (`embgeom tokens` lists all of them); "
        f"line 4 of the token file '{file}': token 'king' could be 0 '▁king', 1 'king': give the id, or the piece in "
        "double quotes"
    )
    with pytest.raises(InputError, match=r"zebra.*; and 2 more$"):
        parse("zebra\n" * 7)


def test_selections_hold_ids_ranges_and_names() -> None:
    def parse(selection: Any) -> list[int]:
        return parse_tokens(selection, len(PIECES), lambda: LABELS).tolist()

    assert parse('queen, 7,"7",1:3,","') == [1, 2, 7, 9]
    assert parse(["queen", 7, "man", "12"]) == [2, 3, 7, 12]
    assert parse(np.array([5, 3])) == [3, 5]
    assert in_order("man,queen,0,man", len(PIECES), lambda: LABELS).tolist() == [3, 2, 0, 3]
    for empty in ("", "1,,2", "1,"):
        with pytest.raises(InputError, match="cannot read '' in the token selection"):
            parse(empty)
    with pytest.raises(InputError, match="cannot read 'queen'"):
        parse_tokens("queen", len(PIECES))


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    found = np.random.default_rng(0).normal(size=(len(PIECES), 4)).astype(np.float32)
    found[6] = found[5]
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray) -> str:
    return make_store(tmp_path_factory.mktemp("names") / "m.zarr", rows, tokens=PIECES, model="org/m")


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "cityblock"])
def test_neighbors_of_words_are_those_of_brute_force(store: str, rows: np.ndarray, metric: str, client: Client) -> None:
    found = eg.neighbors(store, ["Apple", 2, "man", "Apple"], k=3, metric=metric, client=client)
    ids = [5, 2, 3, 5]
    assert found["token_id"].values.tolist() == ids
    assert found["token"].values.tolist() == [PIECES[i] for i in ids]
    distance = cdist(rows.astype(np.float64), rows.astype(np.float64), metric)
    np.fill_diagonal(distance, np.inf)
    distance[5, 6] = 0
    order = np.argsort(distance[ids], axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(found["neighbor_token_id"], order)
    assert found["neighbor_token_id"].values[0, 0] == 6
    np.testing.assert_allclose(
        found["neighbor_distance"], np.take_along_axis(distance[ids], order, 1), rtol=1e-12, atol=1e-15
    )
    assert found["neighbor_token"].values.tolist() == [[PIECES[i] for i in each] for each in order]


def test_neighbors_among_many_identical_rows_leave_the_word_out(tmp_path: Path, client: Client) -> None:
    store = make_store(tmp_path / "same.zarr", np.ones((6, 2), np.float32), tokens=list("abcdef"))
    found = eg.neighbors(store, "f,a", k=2, client=client)
    assert found["neighbor_token"].values.tolist() == [["a", "b"], ["b", "c"]]
    assert (found["neighbor_distance"].values == 0).all()
    everything = eg.neighbors(store, "a", k=50, client=client)
    assert everything["neighbor_token"].values.tolist() == [list("bcdef")]


def test_neighbors_of_an_array_have_its_labels(store: str, client: Client) -> None:
    matrix = eg.open_model(store)["output_embedding"]
    some = matrix[2:8].assign_coords(token_id=np.arange(6) + 40)
    found = eg.neighbors(some, "Apple", k=1, client=client)
    assert (found["token_id"].item(), found["neighbor_token_id"].item()) == (43, 44)
    alone = eg.neighbors(matrix[2:8], "Apple,7", k=5, client=client)
    assert set(alone["neighbor_token_id"].values.ravel().tolist()) <= set(range(2, 8))


def test_rows_that_share_a_token_id_have_a_line_each(store: str, rows: np.ndarray, client: Client) -> None:
    matrix = eg.open_model(store)["output_embedding"]
    shared = (
        matrix[[0, 2, 3, 4, 7]]
        .assign_coords(token_id=[9, 4, 4, 1, 9])
        .assign_coords(token=("token_id", ["a", "b", "b", "c", "d"]))
    )
    found = eg.neighbors(shared, [9, 1, "b"], k=2, client=client)
    assert found["token_id"].values.tolist() == [9, 9, 1, 4, 4]
    places = [0, 4, 3, 1, 2]
    some = rows[[0, 2, 3, 4, 7]].astype(np.float64)
    distance = cdist(some, some)
    np.fill_diagonal(distance, np.inf)
    order = np.argsort(distance[places], axis=1)[:, :2]
    np.testing.assert_array_equal(found["neighbor_token_id"], np.array([9, 4, 4, 1, 9])[order])
    np.testing.assert_allclose(found["neighbor_distance"], np.take_along_axis(distance[places], order, 1), rtol=1e-12)
    with pytest.raises(InputError, match="token 3 is no row of the array given"):
        eg.neighbors(shared, [9, 3], client=client)


def test_a_saved_result_is_shown_again(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "n.zarr")
    assert app.main(["neighbors", store, "queen", "man", "-k", "2", "--out", out]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("org/m, output_embedding\n\n")
    assert [line.split()[:3] for line in printed.splitlines()[3:]] == [
        ["2", "▁queen", "1"],
        ["2", "▁queen", "2"],
        ["3", "Ġman", "1"],
        ["3", "Ġman", "2"],
    ]
    assert app.main(["show", out]) == 0
    assert capsys.readouterr().out == printed
    assert app.main(["neighbors", store, "king"]) == 2
    assert "could be 0" in capsys.readouterr().err


def test_scans_and_outliers_take_names(store: str, client: Client) -> None:
    by_name = eg.scan(store, tokens="queen,man,Apple", nearest=1, client=client)
    assert by_name.equals(eg.scan(store, tokens="2,3,5", nearest=1, client=client))
    pair = eg.outliers(store, ["queen", "man", "##ing"], client=client)
    assert set(pair["farthest_token_id"].values.tolist()) <= {2, 3, 4}


@pytest.mark.parametrize(
    "asked",
    [
        ["neighbors", "STORE", "5", "-k", "3"],
        ["duplicates", "STORE"],
        ["scan", "STORE", "STORE2", "--nearest", "1"],
        ["tokens", "STORE", "--from", "日"],
        ["spectrum", "STORE", "--components", "1"],
        ["compare", "STORE", "STORE2"],
    ],
    ids=lambda asked: f"{asked[0]}-{len(asked)}",
)
def test_tables_and_pages_show_what_byte_level_pieces_mean(
    asked: list[str], tmp_path: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [b" king", "日".encode(), b"\xe6\x97", b"\n", b"king", b"queen"]
    pieces = ["".join(ALPHABET[byte] for byte in raw) for raw in texts]
    rows = np.array([[9, 0], [9, 0], [-9, 1], [-9, 1], [8, 1], [8, 3]], np.float32)
    named = make_labels(pieces, [raw.decode(errors="replace") for raw in texts], [True] * 6)
    for name, values in (("STORE", rows), ("STORE2", rows[[2, 3, 0, 1, 4, 5]])):
        matrices: Any = {"output_embedding": ArrayRows(values)}
        model_writing.write_model(str(tmp_path / name), matrices, attrs={"model": name, "revision": ""}, labels=named)
    given = [str(tmp_path / each) if each.startswith("STORE") else each for each in asked]
    out = tmp_path / "out"
    with client.as_current():
        assert app.main([*given, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    page = Path(eg.report(str(out), tmp_path / "page.html")).read_text()
    assert "\u2581king" in printed
    assert "日" in printed
    for said in (printed, page):
        assert not any(piece in said for piece in pieces[:4])
    with client.as_current():
        assert app.main([*given, "--out", str(out), "--json"]) == 0
    assert json.dumps("Ġking") in capsys.readouterr().out


@pytest.mark.parametrize("command", ["scan", "tokens", "duplicates", "cluster", "outliers", "spectrum", "undertrained"])
def test_labels_are_read_once(command: str, store: str, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, dict[str, Any]] = {
        "scan": {"nearest": 1, "neighbors": 1},
        "outliers": {"tokens": [0, 2]},
        "cluster": {"least": 2},
        "undertrained": {"unused": "0,1", "indicator": "cosine"},
    }
    read, honest = list[str](), labels.read_labels

    def counted(metadata: Metadata) -> Mapping[str, np.ndarray]:
        read.append(metadata.path)
        return honest(metadata)

    monkeypatch.setattr(labels, "read_labels", counted)
    getattr(eg, command)(store, client=client, **asked.get(command, {}))
    assert len(read) == 1
