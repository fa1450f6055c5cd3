from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import typer
import xarray as xr
from distributed import LocalCluster

import embgeom_dask
from embgeom_dask import devices, testing, tuning
from embgeom_dask.cli import app
from embgeom_dask.cli.answers import as_options
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.metrics import METRICS

ROWS, WIDTH = 60, 8


def rows() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(ROWS, WIDTH)).astype(np.float32)


def pair_distances() -> tuple[np.ndarray, np.ndarray]:
    """Every pair i < j and its distance, in float64."""
    first, second = np.triu_indices(ROWS, 1)
    values = rows().astype(np.float64)
    return np.stack([first, second], 1), np.sqrt(((values[first] - values[second]) ** 2).sum(1))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder with the stores a (float32) and nan; gives code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    testing.make_store("stores/a.zarr", output=rows(), tokens=[f"tok{i}" for i in range(ROWS)], model="org/a")
    bad = rows()
    bad[5, 2] = np.nan
    testing.make_store("stores/nan.zarr", input=bad, model="org/nan")
    testing.make_store("stores/wide.zarr", output=np.eye(9, dtype=np.float32), model="org/wide")

    def call(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = app.main(list(args))
        return (code, *capsys.readouterr())

    return call


def tree() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


MISSING = next(name for name in ("mps", "cuda") if not getattr(torch, name).is_available())
A, NAN = "stores/a.zarr", "stores/nan.zarr"
REFUSALS = {
    "no arguments that it knows": (["scan", A, "--nearst", "3"], "No such option: --nearst"),
    "no such command": (["scann", A], "scann"),
    "a missing argument": (["survey"], "STORE"),
    "a missing option": (["components", A], "Missing option '--radius': embgeom components --help lists what"),
    "no neighbors": (["neighbors", A, "3", "-k", "0"], "-k 0: give a whole number of at least 1"),
    "a file in place of a result": (["survey", A, "--out", "notes/readme.txt"], "is not a result of embgeom"),
    "a mask that is there": (["cluster", A, "--mask", "notes/readme.txt"], "exists: --overwrite replaces it"),
    "a share that is none": (["scan", A, "--quantiles", "50%"], "--quantiles 50%: give numbers"),
    "a missing selection": (["outliers", A], "--tokens"),
    "not a number": (["scan", A, "--nearest", "few"], "'--nearest'"),
    "not a matrix": (["survey", A, "--role", "middle"], "'middle' is not one of 'input', 'output'"),
    "not a device": (["scan", A, "--nearest", "1", "--device", "tpu"], "'tpu' is not one of 'auto'"),
    "unknown path of a store": (["scan", "stores/b.zarr", "--nearest", "1"], "no store at stores/b.zarr"),
    "unknown path for survey": (["survey", "stores/b.zarr"], "no store at stores/b.zarr"),
    "unknown path of a checkpoint": (["convert", "nowhere"], "no checkpoint at nowhere"),
    "not a checkpoint": (["convert", "notes"], "notes"),
    "no folder of stores": (["list", "--stores", "nowhere"], "no folder of stores at nowhere"),
    "no such matrix there": (["scan", A, "--role", "input", "--nearest", "1"], "has no input_embedding"),
    "an id past the vocabulary": (["scan", A, "--tokens", "0:61", "--nearest", "1"], "token id 60 is past"),
    "an id past, for outliers": (["outliers", A, "--tokens", "3,60"], "token id 60 is past"),
    "an id file that is missing": (["scan", A, "--tokens", "@ids.txt", "--nearest", "1"], "ids.txt"),
    "unknown metric": (["scan", A, "--metric", "taxi", "--nearest", "1"], "no metric 'taxi'"),
    "a device that no worker has": (["scan", A, "--nearest", "1", "--device", MISSING], f"no device '{MISSING}' here"),
    "another width": (["scan", A, "--against", "stores/wide.zarr", "--nearest", "1"], "only matrices of one width"),
    "no such matrix against": (["scan", A, "--against", f"{A}:input", "--nearest", "1"], "has no input_embedding"),
    "unknown path against": (["scan", A, "--against", "stores/b.zarr", "--nearest", "1"], "no store at stores/b.zarr"),
    "more bins than can be": (["scan", A, "--histogram", "1000000000000"], "give at most 10,000,000 bins"),
    "bins beyond any integer": (["scan", A, "--histogram", "9223372036854775808"], "give at most 10,000,000 bins"),
    "credentials in a URL": (
        ["scan", "simplecache::https://SECRET@h/x.zarr", "--nearest", "1"],
        "simplecache::https://h",
    ),
    "credentials in a source": (["convert", "https://u:SECRET@h/x"], "https://h/x is given with a password"),
    "a number below one": (["scan", A, "--nearest", "0"], "--nearest 0"),
    "nothing to keep": (["scan", A], "--farthest, --nearest"),
    "NaN in a row, scan": (["scan", NAN, "--nearest", "1"], "(token ids 5)"),
    "NaN in a row, survey": (["survey", NAN], "(token ids 5)"),
    "NaN in a row, outliers": (["outliers", NAN, "--tokens", "0:9"], "(token ids 5)"),
    "existing store": (["convert", "org/b"], "--overwrite"),
    "result of other settings": (["scan", A, "--nearest", "2", "--out", "there.zarr"], "there.zarr"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_one_line_exit_2_and_leaves_everything_as_it_was(run, case):
    Path("notes").mkdir()
    Path("notes/readme.txt").write_text("no model")
    testing.make_checkpoint("org/b", {"model.embed_tokens.weight": rows()}, {"model_type": "llama"})
    testing.make_store("stores/org--b.zarr", input=rows(), model="org/b")
    if "there.zarr" in REFUSALS[case][0]:
        assert run("scan", A, "--nearest", "1", "--out", "there.zarr")[0] == 0
    before = tree()
    args, says = REFUSALS[case]
    for extra in ([], ["--json"], ["--json", "--out", "new.zarr"]):
        if "--out" in extra and (args[0] not in ("scan", "survey") or "--out" in args):
            continue
        code, out, err = run(*args, *extra)
        line = err.replace("\r", "\n").rstrip("\n").split("\n")[-1]
        assert (code, out) == (2, "")
        assert line.startswith("error: ")
        assert says in line
        assert "Traceback" not in err
        assert err.count("error: ") == 1
        assert tree() == before


def test_a_file_name_that_no_disk_takes_is_one_line(run):
    code, out, err = run("export", A, "-o", "a" * 300 + ".safetensors")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "File name too long" in err


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("convert", A, "--stores", ""), "--stores"),  # else the folder at hand
        (("convert", A, "--stores="), "--stores"),
        (("list", ""), "argument 2"),
        (("survey", A, ""), "argument 3"),
    ],
)
def test_what_is_empty_is_refused(run, args, what):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err == f"error: {what} is empty: give a value (is a variable of the shell not set?)\n"


@tuning.override(SCHEDULER_PATIENCE=0.2)
def test_a_scheduler_that_does_not_answer_is_refused(run, monkeypatch):
    code, out, err = run("scan", A, "--nearest", "1", "--scheduler", "tcp://127.0.0.1:9")
    assert (code, out) == (2, "")
    assert err.startswith("error: no dask scheduler answers at 'tcp://127.0.0.1:9'")
    assert err.count("\n") == 1


def test_scan_prints_one_json_document_that_equals_brute_force(run):
    code, out, _ = run(
        "scan", A, "--farthest", "5", "--nearest", "4", "--neighbors", "2", "--histogram", "10", "--json"
    )
    assert code == 0
    found = json.loads(out)
    pairs, distances = pair_distances()
    order = np.argsort(distances)
    assert found["nearest_token_id"] == pairs[order[:4]].tolist()
    assert found["farthest_token_id"] == pairs[order[::-1][:5]].tolist()
    assert found["farthest_token"] == [[f"tok{i}", f"tok{j}"] for i, j in found["farthest_token_id"]]
    np.testing.assert_allclose(found["farthest_distance"], distances[order[::-1][:5]], rtol=1e-12)
    np.testing.assert_allclose(found["distance_mean"], distances.mean(), rtol=1e-6)
    assert found["histogram_count"] == np.histogram(distances, found["bin_edge"])[0].tolist()
    assert found["pair_count"] == distances.size
    assert np.shape(found["neighbor_distance"]) == (ROWS, 2)
    assert found["dims"]["token_id"] == ROWS
    assert found["attrs"]["model"] == ["org/a"]


def test_scan_table_names_the_pairs(run):
    code, out, err = run("scan", A, "--farthest", "3", "--tile", "16", "--neighbors", "2", "--histogram", "8")
    pairs, distances = pair_distances()
    (first, second), distance = pairs[distances.argmax()], distances.max()
    assert code == 0
    assert f"1  {distance:.9g}  {first:2}  tok{first}" in out
    assert f"tok{second}" in out
    assert f"pair_count {distances.size}" in " ".join(out.split())
    assert "scan: 100%" in err


@pytest.fixture
def zeros(run):
    """Two stores with rows of zeros: c with 12 of 40, d with both matrices and 1 of 30; gives their output rows."""
    random = np.random.default_rng(8)
    c, d, other = (random.normal(size=(count, WIDTH)).astype(np.float32) for count in (40, 30, 30))
    c[20:32] = 0
    d[7] = -0.0
    testing.make_store("stores/c.zarr", output=c, tokens=[f"c{i}" for i in range(40)], model="org/c")
    testing.make_store("stores/d.zarr", output=d, input=other, tokens=[f"d{i}" for i in range(30)], model="org/d")
    return c, d


def test_scan_against_another_store_says_whose_rows_are_whose(run, zeros):
    wanted = ("--metric", "cosine", "--nearest", "2", "--farthest", "1", "--neighbors", "1")
    code, out, _ = run("scan", "stores/c.zarr", "--against", "stores/d.zarr:output", *wanted)
    x, y = (rows.astype(float) for rows in zeros)
    with np.errstate(invalid="ignore"):
        distance = 1 - (x @ y.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)
    assert code == 0
    title, farthest, nearest, neighbors = out.split("\n\n")
    assert title.splitlines() == [
        "org/c, output_embedding against org/d, output_embedding",
        f"left out of org/c, output_embedding, rows of zeros: 12 (token ids {', '.join(map(str, range(20, 30)))}, ...)",
        "left out of org/d, output_embedding, rows of zeros: 1 (token ids 7)",
    ]
    for table, flat in ((farthest, np.nanargmax(distance)), (nearest, np.nanargmin(distance))):
        header, best = (line.split() for line in table.splitlines()[:2])
        assert header[1:] == ["distance", "org/c", "id", "org/c", "token", "org/d", "id", "org/d", "token"]
        i, j = np.unravel_index(flat, distance.shape)
        assert best[2:] == [str(i), f"c{i}", str(j), f"d{j}"]
        assert float(best[1]) == pytest.approx(distance[i, j], rel=1e-8)
    header, first, *_ = (line.split() for line in neighbors.splitlines())
    assert header == ["org/c", "id", "org/c", "token", "neighbor", "distance", "org/d", "id", "org/d", "token"]
    i = int(first[0])
    assert first[4:] == [str(np.nanargmin(distance[i])), f"d{np.nanargmin(distance[i])}"]
    code, out, _ = run("scan", "stores/c.zarr", "--against", "stores/d.zarr:output", "--json", *wanted)
    found = json.loads(out)
    assert code == 0
    assert found["left_out_token_id"] == [*range(20, 32)]
    assert found["left_out_token"] == [f"c{i}" for i in range(20, 32)]
    assert (found["against_left_out_token_id"], found["against_left_out_token"]) == ([7], ["d7"])
    assert found["attrs"]["model"] == ["org/c", "org/d"]


def test_a_scan_of_a_few_rows_lists_what_each_has(run):
    np.save("point.npy", rows()[[7]] + 0.01)
    near = np.argsort(np.linalg.norm(rows() - rows()[7] - 0.01, axis=1))[:3].tolist()
    code, out, _ = run("scan", "point.npy", "--against", A, "--neighbors", "3")
    header, *lines = out.strip().split("\n\n")[1].splitlines()
    assert code == 0
    assert header.split("  ")[-2:] == ["org/a id", "org/a token"]
    assert [line.split()[-2:] for line in lines] == [[str(i), f"tok{i}"] for i in near]
    out = run("scan", A, "--metric", "dot", "--tokens", "3,8", "--top", "1")[1]
    assert [line.split()[:3] for line in out.strip().split("\n\n")[1].splitlines()] == [
        ["id", "token", "top"],
        ["3", "tok3", "1"],
        ["8", "tok8", "1"],
    ]
    assert "least distance" in run("scan", A, "--neighbors", "3")[1]


def test_scan_of_input_against_output_names_the_matrices(run, zeros):
    args = ("scan", "stores/d.zarr", "--role", "input", "--against", "stores/d.zarr:output", "--nearest", "1")
    code, out, _ = run(*args)
    assert code == 0
    assert out.startswith("org/d, input_embedding against org/d, output_embedding\n\n")
    assert out.splitlines()[2].split("  ")[-4:] == ["input id", "input token", "output id", "output token"]
    assert run("scan", "stores/d.zarr:input", "--against", "stores/d.zarr:output", "--nearest", "1")[1] == out
    assert run("survey", "stores/d.zarr:input", "stores/d.zarr:output", "--out", "both")[0] == 0
    assert sorted(each.name for each in Path("both").glob("*.zarr")) == [
        "org--d-input.zarr",
        "org--d-output.zarr",
        "table.zarr",
    ]
    assert run("compare", "stores/d.zarr:input", "stores/d.zarr:output")[1].splitlines()[0] == out.splitlines()[0]
    code, out, _ = run("scan", "stores/c.zarr", "--against", "stores/d.zarr:input", "--nearest", "1")
    assert code == 0
    header = out.splitlines()[2]
    assert header.endswith("org/c output id  org/c output token  org/d input id  org/d input token")


def test_scan_alone_says_what_it_left_out(run, zeros):
    code, out, _ = run("scan", "stores/d.zarr", "--metric", "cosine", "--nearest", "1")
    assert code == 0
    assert out.splitlines()[:3] == ["org/d, output_embedding", "left out, rows of zeros: 1 (token ids 7)", ""]
    assert "left out" not in run("scan", "stores/d.zarr", "--nearest", "1")[1]


def test_help_of_scan_names_every_metric(run):
    code, out, _ = run("scan", "--help")
    assert code == 0
    assert all(name in out for name in METRICS)


def test_results_are_saved_and_open_with_xarray(run):
    assert run("scan", A, "--nearest", "3", "--out", "results/scan.zarr")[0] == 0
    code, out, _ = run("survey", A, "--out", "results/survey.zarr", "--json")
    assert code == 0
    saved = xr.open_zarr("results/survey.zarr", consolidated=False)
    assert json.loads(out)["norm_mean"] == saved["norm_mean"].values.tolist()
    assert xr.open_zarr("results/scan.zarr", consolidated=False)["nearest_distance"].size == 3


def test_survey_numbers(run):
    code, out, err = run("survey", A, "--json")
    found = json.loads(out)
    values = rows().astype(np.float64)
    assert code == 0
    np.testing.assert_allclose(found["centroid"], [values.mean(0)], rtol=1e-12)
    np.testing.assert_allclose(found["norm_median"], [np.median(np.linalg.norm(values, axis=1))], rtol=1e-12)
    assert " survey: 100%" in err
    code, out, _ = run("survey", A)
    assert f"norm_max        {np.linalg.norm(values, axis=1).max():.9g}" in out


def test_survey_of_many_models_has_a_line_for_each(run):
    stores = [testing.make_store(f"stores/m{i}.zarr", input=rows() * (i + 1), model=f"org/m{i}") for i in range(5)]
    code, out, _ = run("survey", *stores)
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines] == ["model", *(f"org/m{i}" for i in range(5))]


def test_tokens_names_the_farthest_from_the_centroid_and_the_nearest_to_a_token(run):
    code, out, _ = run("tokens", A, "--from", "tok7", "--json")
    found = json.loads(out)
    values = rows().astype(np.float64)
    away = np.linalg.norm(values - values.mean(0), axis=1)
    assert code == 0
    np.testing.assert_allclose(found["centroid_distance"], away, rtol=1e-12)
    np.testing.assert_allclose(found["origin_distance"], np.linalg.norm(values - values[7], axis=1), rtol=1e-12)
    code, out, err = run("tokens", A, "--from", "tok7")
    assert code == 0
    assert f"1  {away.argmax():2}  tok{away.argmax()}" in out
    assert "nearest to tok7" in out
    assert " distances: 100%" in err
    assert run("tokens", A, "--from", "1,2")[2] == "error: --from 1,2: give one token, not 2\n"


def test_controls_are_stores_like_others(run):
    code, out, _ = run("controls", A, "--seed", "7", "--like", "uniform")
    assert (code, out) == (0, "stores/org--a-uniform-7.zarr\n")
    code, out, _ = run("scan", "org/a-uniform-7", "--tokens", "tok1,tok2", "--nearest", "1", "--json")
    assert (code, json.loads(out)["nearest_token"]) == (0, [["tok1", "tok2"]])
    code, out, err = run("controls", A, "--seed", "7", "--like", "uniform", "--json")
    assert (code, out) == (2, "")
    assert "--overwrite" in err
    code, out, _ = run("controls", A, "stores/wide.zarr", "--match", "centroid", "--json")
    assert (code, len(json.loads(out)["stores"])) == (0, 2)


def test_spectrum_names_the_tokens_at_the_ends_of_components(run):
    code, out, err = run("spectrum", A, "--components", "2", "--json")
    found = json.loads(out)
    values = rows().astype(np.float64)
    assert code == 0
    np.testing.assert_allclose(found["eigenvalue"], np.linalg.eigvalsh(np.cov(values.T))[::-1], rtol=1e-12)
    assert " spectrum: 100%" in err
    assert " scores: 100%" in err
    code, out, _ = run("spectrum", A, "--components", "2")
    order = np.argsort(np.array(found["score"])[:, 0])
    assert code == 0
    assert " ".join(f"tok{each}" for each in order[:5]) in out
    assert " ".join(f"tok{each}" for each in order[::-1][:5]) in out
    assert run("spectrum", A, "--components", "9")[2].startswith("error: --components 9: give 0 to 8")


def test_components_at_many_radii(run):
    code, out, err = run("components", A, "--radius", "2.5,2", "--diameter", "--json")
    found = json.loads(out)
    values = rows().astype(np.float64)
    distances = np.linalg.norm(values[:, None] - values[None], axis=2)
    assert (code, found["radius"]) == (0, [2.0, 2.5])
    assert found["edge_count"] == [int((distances <= radius).sum() - ROWS) // 2 for radius in (2, 2.5)]
    assert " components: 100%" in err
    assert " diameters: 100%" in err
    code, out, _ = run("components", A, "--radius", "2.5")
    assert code == 0
    largest = found["component_token_count"][found["component_radius"].index(2.5)]
    assert re.search(rf"^0 +{largest} ", out.partition("within 2.5")[2], re.M)
    assert run("components", A, "--radius", "wide")[2].startswith("error: --radius wide: give numbers")
    assert run("components", A)[0] == 2


def test_the_cluster_is_what_outliers_and_masks_are_of(run):
    values = np.random.default_rng(1).normal(size=(100, 6))
    values[20:40] = 0.01 * values[20:40] + 0.1
    testing.make_store("stores/c.zarr", output=values, model="org/c")
    code, out, err = run("cluster", "stores/c.zarr", "--mask", "c.safetensors", "--out", "c.zarr")
    assert code == 0
    assert "cluster_count   20\n" in out
    assert re.search(r"^stands_apart +yes$", out, re.M)
    assert " distances: 100%" in err
    found = json.loads(run("outliers", "stores/c.zarr", "--json")[1])
    assert found["token_count"] == 20
    again = json.loads(run("outliers", "stores/c.zarr", "--tokens", "c.safetensors", "--json")[1])
    assert again["farthest_token_id"] == found["farthest_token_id"]
    assert run("to-masks", "c.zarr", "-o", "again.safetensors")[:2] == (0, "again.safetensors\n")
    assert Path("again.safetensors").read_bytes() == Path("c.safetensors").read_bytes()
    assert run("cluster", "stores/c.zarr", "--mask", "c.safetensors")[2].endswith("exists: --overwrite replaces it\n")
    assert "--mask is of one store" in run("cluster", "stores/c.zarr", A, "--mask", "d.safetensors")[2]
    assert run("cluster", "stores/c.zarr", "--least", "26")[2].endswith("among four times as many: give fewer\n")
    assert run("outliers", A)[2].endswith("output_embedding has 60: choose tokens with --tokens\n")


def test_stores_may_be_listed_in_a_file(run):
    testing.make_store("stores/b.zarr", output=rows() * 2, model="org/b")
    Path("some.txt").write_text("# models\nstores/b.zarr  # the second\n\nstores/a.zarr\n")
    code, out, _ = run("survey", "stores/a.zarr", "--from-file", "some.txt", "--json")
    assert (code, json.loads(out)["attrs"]["model"]) == (0, ["org/a", "org/b"])
    code, out, _ = run("scan", "--from-file", "some.txt", "--nearest", "1", "--json")
    assert (code, [one["attrs"]["model"] for one in json.loads(out)["results"]]) == (0, [["org/b"], ["org/a"]])
    assert run("survey") == (2, "", "error: no store: give STORE, or --from-file FILE with one a line\n")
    assert run("survey", "--from-file", "none.txt")[2] == "error: cannot read none.txt: No such file or directory\n"


def test_outliers(run):
    values = rows().astype(np.float64)[10:20]
    code, out, _ = run("outliers", A, "--tokens", "10:20", "--json")
    found = json.loads(out)
    distances = np.linalg.norm(values[:, None] - values[None], axis=2)
    first, second = np.unravel_index(distances.argmax(), distances.shape)
    assert code == 0
    assert found["farthest_token_id"] == [10 + first, 10 + second]
    np.testing.assert_allclose(found["farthest_distance"], distances.max(), rtol=1e-12)
    code, out, _ = run("outliers", A, "--tokens", "10:20")
    assert code == 0
    assert out.startswith("org/a, output_embedding\n\nselection\n")
    assert f"tok{10 + first}" in out
    assert f"{distances.max():.9g}" in out


def test_convert_then_list(run):
    matrix = rows().astype(ml_dtypes.bfloat16)
    testing.make_checkpoint(
        "org/b", {"model.embed_tokens.weight": matrix, "lm_head.weight": matrix}, {"model_type": "llama"}
    )
    code, out, _ = run("convert", "org/b", "--stores", "elsewhere", "--role", "output", "--json")
    assert code == 0
    (path,) = json.loads(out)["stores"]
    assert Path(path) == Path("elsewhere/org--b.zarr")
    assert run("convert", "org/b", "--stores", "elsewhere", "--overwrite")[0] == 0
    code, out, _ = run("list", "--stores", "elsewhere", "--json")
    assert code == 0
    assert json.loads(out)["model"] == ["org/b"]
    assert json.loads(out)["dtype"] == ["bfloat16"]
    listed = run("list", "--stores", "elsewhere")[1]
    assert listed.splitlines()[1].startswith("org/b  elsewhere/org--b.zarr  bfloat16")
    assert run("list", "elsewhere") == (0, listed, "")
    assert run("list", "elsewhere", "--stores", "stores")[2].startswith(
        "error: two folders, elsewhere and stores: give DIR"
    )


def test_a_tokenizer_that_cannot_be_loaded_is_warned_of_in_one_line(run):
    testing.make_checkpoint("org/b", {"model.embed_tokens.weight": rows()}, {"model_type": "llama"})
    Path("org/b/tokenizer.json").write_text("{broken\n")
    code, out, err = run("convert", "org/b", "--json")
    said = json.loads(out)
    assert (code, said["stores"], said["failed"]) == (0, ["stores/org--b.zarr"], {})
    warning, *bars = err.splitlines()
    assert warning.startswith("warning: org/b: no row has a token: it cannot be loaded: ")
    assert not any("arning" in line or "labels" in line for line in bars)


def test_doctor(run):
    code, out, _ = run("doctor", "--json")
    assert code == 0
    assert json.loads(out)["versions"] == devices.describe()["versions"]
    code, out, _ = run("doctor")
    assert code == 0
    assert "torch" in out
    assert "GiB" in out


def test_doctor_asks_the_workers_of_a_cluster(run):
    with LocalCluster(n_workers=1, processes=False, protocol="tcp", dashboard_address=":0") as cluster:
        address = cluster.scheduler_address
        code, out, _ = run("doctor", A, "--scheduler", address)
        (worker,) = (each.address for each in cluster.workers.values())
        assert code == 0
        assert out.count(worker) == 1
        assert out.endswith("every worker can read the store\n")
        code, out, _ = run("doctor", "nowhere", "--scheduler", address)
        assert (code, out.count(worker)) == (0, 2)
        assert "cannot read the store: " in out
        code, out, _ = run("doctor", "--scheduler", address, "--json")
        (found,) = json.loads(out)["workers"]
        assert (found["worker"], found["problem"]) == (worker, None)
    code, _, err = run("doctor", A)
    assert (code, err) == (2, "error: STORE is for workers to read: give --scheduler, too\n")


def test_a_command_on_a_cluster_writes_a_report_of_it(run):
    assert run("survey", A, "--performance-report", "report.html")[0] == 0
    assert "Dask Performance Report" in Path("report.html").read_text()
    code, _, err = run("survey", A, "--performance-report", "no/report.html")
    assert (code, err.splitlines()[-1][:35]) == (2, "error: cannot write no/report.html:")


def test_no_arguments_print_the_help(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert all(f"\n  {name} " in out for name in ("convert", "list", "survey", "scan", "outliers", "doctor"))


def raising(error: BaseException):
    def fail(*args, **kwargs):
        raise error

    return fail


def test_a_failure_while_running_exits_1_with_one_line(run, monkeypatch):
    monkeypatch.setattr("embgeom_dask.storage.listing.describe", raising(EmbgeomError("disk\nfull")))
    assert run("list") == (1, "", "error: disk\\nfull\n")


def test_an_interrupted_run_exits_130_with_one_line(run, monkeypatch):
    monkeypatch.setattr("embgeom_dask.storage.listing.describe", raising(KeyboardInterrupt()))
    assert run("list") == (130, "", "interrupted: the same command begins again: embgeom list\n")


@pytest.mark.parametrize(
    ("command", "then"),
    [
        (("scan", A, "--nearest", "1", "--out=r.zarr"), "goes on"),
        (("scan", A, "--nearest", "1"), "begins again (--out keeps what is done)"),
        (("readout", A, "--against", A, "--out", "r.zarr"), "goes on"),
        (("spectrum", A, "--out", "r.zarr"), "does what has no result yet"),
        (("spectrum", A), "begins again"),
    ],
)
def test_an_interrupted_run_says_that_it_goes_on_only_where_it_does(run, monkeypatch, command, then):
    monkeypatch.setattr(f"embgeom_dask.analyses.{command[0]}.{command[0]}", raising(KeyboardInterrupt()))
    code, _, err = run(*command)
    assert (code, err) == (130, f"interrupted: the same command {then}: embgeom {' '.join(command)}\n")


class Panic(BaseException):
    """As Rust's panics reach Python."""


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero\nhere"), Panic("by zero"), RecursionError("by zero")])
def test_a_failure_that_nobody_foresaw_is_one_line_and_a_traceback_on_request(run, monkeypatch, error):
    monkeypatch.setattr("embgeom_dask.storage.listing.describe", raising(error))
    said = f"error: {type(error).__name__}: by zero"
    assert run("list") == (1, "", f"{said}: EMBGEOM_TRACEBACK=1 shows where\n")
    monkeypatch.setenv("EMBGEOM_TRACEBACK", "1")
    code, out, err = run("list")
    first, *_, last = err.splitlines()
    assert (code, out, first, last) == (1, "", "Traceback (most recent call last):", said)


def test_memory_that_is_not_there_is_one_line_that_says_what_helps(run, monkeypatch):
    monkeypatch.setattr("embgeom_dask.storage.listing.describe", raising(MemoryError("Unable to allocate 7 TiB")))
    code, _, err = run("list")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: out of memory (Unable to allocate 7 TiB): give --memory-limit")


def test_help_loads_none_of_the_heavy_packages():
    code = (
        "import sys; from embgeom_dask.cli import app; app.main(['scan', '--help'])\n"
        "heavy = {'torch', 'dask', 'xarray', 'zarr', 'transformers', 'numba', 'numpy', 'pandas'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--histogram" in done.stdout


def test_help_is_what_one_types_and_cuts_nothing(run):
    _, out, _ = run("--help")
    assert "..." not in out.partition("Commands:")[2]
    _, out, _ = run("neighbors", "--help")
    assert out.startswith("Usage: embgeom neighbors [OPTIONS] STORE TOKEN...\n")
    assert "  STORE  A store: " in out


def test_messages_name_the_options():
    said = as_options("give one as `client`, or no `tile`", typer.main.get_command(app.app))
    assert said == "give one as --scheduler, or no --tile"


def test_list_loads_neither_xarray_nor_dask(tmp_path):
    testing.make_store(tmp_path / "stores" / "m.zarr", np.eye(3, dtype=np.float32), model="org/tiny")
    code = "import sys\nfrom embgeom_dask.cli import app\napp.main(['list'])\n"
    code += "print({'torch', 'dask', 'xarray', 'pandas'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("set()", "")
    assert "org/tiny" in done.stdout


@pytest.mark.parametrize("command", ["scan no.zarr --nearest 1", "survey org/no", "scan no --against no.zarr:input"])
def test_a_store_that_is_not_there_is_refused_before_heavy_packages_are_loaded(command, tmp_path):
    code = f"import sys\nfrom embgeom_dask.cli import app\ncode = app.main({command.split()!r})\n"
    code += "print(code, *{'torch', 'zarr', 'xarray', 'distributed'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "2\n"
    assert (
        done.stderr
        == f"error: no store at {command.split()[1]}: embgeom list shows those there are, embgeom convert makes one\n"
    )


def test_a_store_may_be_given_by_the_name_that_list_prints(run):
    model = testing.make_store("stores/org--b.zarr", output=rows(), model="org/b")
    Path("org/b").mkdir(parents=True)  # the checkpoint that it was made of
    by_name, by_path = (run("survey", store, "--json") for store in ("org/b", model))
    assert (by_name[0], json.loads(by_name[1])["norm_max"]) == (0, json.loads(by_path[1])["norm_max"])
    code, out, _ = run("scan", "org/b", "--against", "org/b:output", "--nearest", "2", "--json")
    assert (code, json.loads(out)["attrs"]["model"]) == (0, ["org/b"] * 2)
    assert run("survey", "org/b", "org/c")[2].endswith(
        "error: 1 of 2 stores failed: org/c: no store at org/c: "
        "embgeom list shows those there are, embgeom convert makes one\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        ("survey", A),
        ("duplicates", A),
        ("spectrum", A),
        ("tokens", A, "--from", "tok7"),
        ("compare", A, A),
        ("undertrained", A, "--unused", "3,5"),
        ("scan", A, "--nearest", "3", "--neighbors", "2", "--histogram", "9", "--quantiles", "0.5", "--within", "2"),
        ("scan", A, "--metric", "chebyshev", "--pairs-within", "2", "--against", A),
        ("components", A, "--radius", "2,2.5", "--diameter"),
        ("cluster", A, "--least", "4"),
    ],
)
def test_a_saved_result_is_shown_as_it_was_printed(run, command):
    _, printed, _ = run(*command, "--out", "r.zarr")
    assert run("show", "r.zarr") == (0, printed, "")
    found = json.loads(run("show", "r.zarr", "--json")[1])
    assert found["attrs"]["command"] == command[0]


@pytest.mark.parametrize(
    "command",
    [
        *(("survey",), ("duplicates",), ("spectrum",), ("tokens",), ("scan", "--nearest", "2")),
        ("components", "--radius", "2,3"),
        ("cluster", "--least", "4"),
    ],
)
def test_the_table_of_many_models_is_shown_as_it_was_printed(run, command):
    testing.make_store("stores/b.zarr", output=2 * rows(), model="org/b")
    _, printed, _ = run(*command, A, "stores/b.zarr", "--out", "r")
    assert run("show", "r/table.zarr") == (0, printed, "")


def test_what_is_no_result_is_not_shown(run):
    assert run("show", A)[2] == f"error: {A} is not a result of embgeom: name another path, or move it away\n"


def test_the_examples_of_every_help_run(run):
    testing.make_checkpoint("acme/tiny", {"model.embed_tokens.weight": rows()}, {"model_type": "llama"})
    names = [f"tok{i}" for i in range(ROWS - 2)] + ["king", "queen"]
    np.save("directions.npy", rows()[:3].astype(np.float32))
    for name in ("base", "tuned"):
        testing.make_store(f"stores/acme--{name}.zarr", output=rows(), model=f"acme/{name}")
    half = rows().astype(ml_dtypes.bfloat16)
    testing.make_store("stores/acme--half.zarr", output=half, model="acme/half")
    for command in re.findall(r"^  ([a-z-]+) ", run("--help")[1].partition("Commands:")[2], re.M):
        examples = re.findall(r"^ +(embgeom .*)$", run(command, "--help")[1].partition("Examples:")[2], re.M)
        assert examples, command
        for example in examples:
            args = example.replace("stores/*.zarr", "acme/tiny").split()[1:]
            code, _, err = run(*args)
            assert code == 0, (example, err)
        if command == "convert":
            shutil.rmtree("acme")  # as one converted from the hub: the name is that of the store alone
            shutil.rmtree("stores/acme--tiny.zarr")
            testing.make_store("stores/acme--tiny.zarr", input=rows(), tokens=names, model="acme/tiny")
    shutil.rmtree("scan.zarr")
    Path("report.html").unlink()
    first, *others = re.findall(r"^ +(embgeom .*)$", run("--help")[1], re.M)
    assert first == "embgeom convert acme/tiny"
    for example in others:
        code, _, err = run(*example.split()[1:])
        assert code == 0, (example, err)


def test_the_short_help_and_the_version(run):
    assert run("-h") == run("--help")
    assert run("--version") == (0, f"embgeom {embgeom_dask.__version__}\n", "")


def test_the_installed_command_keeps_stdout_clean(tmp_path):
    store = testing.make_store(tmp_path / "a.zarr", output=rows().astype(ml_dtypes.bfloat16), model="org/a")
    command = [Path(sys.executable).with_name("embgeom"), "survey", store, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == ["org/a"]
    assert "Warning" not in done.stderr
