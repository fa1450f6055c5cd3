"""A series of steps: against survey and duplicates of each step, and births and merges that were planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tokenizers
import torch
import transformers
import xarray as xr
from distributed import Client
from safetensors.torch import save_file

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.analyses import over_steps
from embgeom_dask.cli import app
from embgeom_dask.cli.series_text import series_text
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.storage.model_stores import Matrix
from embgeom_dask.testing import make_checkpoint, make_store

Array = np.ndarray


def planted() -> Array:
    """8 steps of 60 rows: 5 never changes, 6 is born at step 3, 7 and 8 are one row from step 4 to 5, 9 dies at 2."""
    random = np.random.default_rng(0)
    found = np.cumsum(random.normal(size=(8, 60, 6)), axis=0).astype(ml_dtypes.bfloat16)
    found[:, 5] = found[0, 5]
    found[:3, 6] = found[0, 6]
    found[4:6, 8] = found[4:6, 7]
    found[3:, 9] = found[2, 9]
    return found


def saved(path: Path, steps: Array, *, as_bits: bool) -> str:
    bits = torch.from_numpy(steps.view(np.uint16).copy())
    save_file({"W": bits if as_bits else bits.view(torch.bfloat16), "loss": torch.zeros(8)}, path)
    return str(path)


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of the words t0 to t59."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"t{i}": i for i in range(60)}, unk_token="t0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)


def test_every_step_is_that_of_survey_and_duplicates(tmp_path: Path) -> None:
    steps = planted()
    found = eg.series(steps)
    for step in (0, 4, 7):
        survey, groups = eg.survey(steps[step]), eg.duplicates(steps[step])
        for name in ("norm_mean", "norm_min", "norm_max", "centroid_l2"):
            assert found[name].values[step] == survey[name].item(), name
        assert found["centroid"].values[step].tolist() == survey["centroid"].values[0].tolist()
        for name in ("unique_count", "group_count", "member_count"):
            assert found[name].values[step] == groups[name].item(), name
    changed = [0, *((steps[i] != steps[i - 1]).any(axis=1).sum() for i in range(1, 8))]
    assert found["changed_count"].values.tolist() == changed


def test_births_deaths_and_merges_are_found() -> None:
    found = eg.series(planted())
    assert found["first_change_step"].values[[5, 6, 7]].tolist() == [-1, 3, 1]
    assert found["last_change_step"].values[[5, 6, 9]].tolist() == [-1, 7, 2]
    assert found["change_count"].values[[5, 7, 9]].tolist() == [0, 7, 2]
    assert found["joined_count"].values.tolist() == [0, 0, 0, 0, 2, 0, 0, 0]
    assert found["left_count"].values.tolist() == [0, 0, 0, 0, 0, 0, 2, 0]
    assert found["grouped_step_count"].values[[7, 8, 9]].tolist() == [2, 2, 0]


def test_files_bits_arrays_and_stores_give_the_same(tmp_path: Path) -> None:
    steps = planted()
    expected = eg.series(steps)
    given: list[Any] = [saved(tmp_path / "a.safetensors", steps, as_bits=False)]
    given += [saved(tmp_path / "b.safetensors", steps, as_bits=True) + ":W", steps.view(np.uint16)]
    given.append([make_store(tmp_path / f"{i}.zarr", output=each, model=f"org/{i}") for i, each in enumerate(steps)])
    for each in given:
        found = eg.series(each)
        xr.testing.assert_equal(found.drop_vars(["token", "text", "step_model"], errors="ignore"), expected)
    assert found["token"].values[3] == "t3"
    assert found["step_model"].values.tolist() == [f"org/{i}" for i in range(8)]
    out = tmp_path / "r.zarr"
    kept = eg.series(given[0], out=out)
    xr.testing.assert_identical(eg.series(given[0], out=out), kept)
    assert kept.embgeom.to_frame("steps")["unique_count"].tolist() == kept["unique_count"].values.tolist()
    other = steps.copy()
    other[3, 3, 3] = 9
    eg.series(steps, out=tmp_path / "s.zarr")
    with pytest.raises(InputError, match="holds a result from other settings"):
        eg.series(other, out=tmp_path / "s.zarr")


def test_an_array_has_one_fingerprint_whether_its_result_is_saved_or_not(tmp_path: Path, client: Client) -> None:
    steps = planted().astype(np.float32)
    other = steps.copy()
    other[3, 3, 3] = 9
    given = [steps, other, xr.DataArray(steps, dims=("step", "token_id", "hidden")), xr.DataArray(other)]
    alone = [eg.series(each).attrs["fingerprint"] for each in given]
    assert len(set(alone)) == 4
    saved = [eg.series(each, out=tmp_path / f"{place}.zarr") for place, each in enumerate(given)]
    assert [each.attrs["fingerprint"] for each in saved] == alone
    trees = [eg.series(steps, each="survey", out=out, client=client) for out in (None, tmp_path / "tree")]
    assert trees[0].attrs["fingerprint"] == trees[1].attrs["fingerprint"] == alone[0]
    assert trees[0]["survey"].attrs["fingerprint"] == trees[1]["survey"].attrs["fingerprint"]


@pytest.mark.parametrize("chunks", [(1, 60, 6), (3, 7, 6), (8, 60, 1), None])
def test_hdf5_in_any_chunks_gives_the_same(chunks: tuple[int, ...] | None, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py, of the extra hdf5, is not installed")
    steps = planted()
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file.create_dataset("run/W", data=steps.view(np.uint16), chunks=chunks, compression="gzip" if chunks else None)
        file["run/step"] = np.arange(0, 80, 10)
        file["run/floats"] = steps.astype(">f4")
        file["loss"] = np.zeros(8)
    expected = eg.series(steps)
    found = eg.series(tmp_path / "run.h5:run/W")
    assert found["step"].values.tolist() == list(range(0, 80, 10))
    assert found["first_change_step"].values[[5, 6, 7]].tolist() == [-1, 30, 10]
    assert found["last_change_step"].values[[5, 6, 9]].tolist() == [-1, 70, 20]
    over_steps = [name for name in expected if "token_id" not in expected[name].dims]
    xr.testing.assert_equal(found[over_steps].drop_vars("step"), expected[over_steps].drop_vars("step"))
    floats = eg.series(f"{tmp_path}/run.h5:run/floats")
    assert floats["norm_mean"].values.tolist() == expected["norm_mean"].values.tolist()
    with pytest.raises(InputError, match=r"has 2 tensors of steps, rows and columns: name one.*run/W \[8, 60, 6\]"):
        eg.series(tmp_path / "run.h5")
    (tmp_path / "bad.h5").write_bytes(b"no hdf5")
    with pytest.raises(InputError, match=r"cannot read .*bad.h5"):
        eg.series(tmp_path / "bad.h5")


def test_a_folder_of_checkpoints_has_its_steps_and_tokens(tmp_path: Path) -> None:
    steps, run = planted(), tmp_path / "run"
    for step, rows in enumerate(steps):
        tensors = {"model.embed_tokens.weight": rows, "lm_head.weight": rows[::-1].copy()}
        make_checkpoint(run / f"checkpoint-{100 * step}", tensors, {"model_type": "llama"})
    save_tokenizer(run)
    (run / "runs").mkdir()
    expected = eg.series(steps)
    found = eg.series(run, role="input", out=tmp_path / "r.zarr")
    assert found["step"].values.tolist() == list(range(0, 800, 100))
    assert found["token"].values[[3, 59]].tolist() == ["t3", "t59"]
    assert found["first_change_step"].values[[5, 6, 7]].tolist() == [-1, 300, 100]
    assert found["joined_count"].values.tolist() == expected["joined_count"].values.tolist()
    other = eg.series(run)["first_change_step"].values
    assert other[::-1].tolist() == found["first_change_step"].values.tolist()
    save_file({"model.embed_tokens.weight": torch.zeros(60, 7)}, run / "step_900.safetensors")
    with pytest.raises(InputError, match=r"checkpoint-700 has 60 x 6 values and step_900.safetensors 60 x 7"):
        eg.series(run, role="input")
    with pytest.raises(InputError, match="run/runs has no steps: give a folder with checkpoint-100"):
        eg.series(run / "runs")
    (run / "step_300").mkdir()
    with pytest.raises(InputError, match="two of step 300: checkpoint-300 and step_300"):
        eg.series(run)


def test_the_command_prints_some_of_the_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "a.safetensors", planted(), as_bits=False)
    assert app.main(["series", f"{path}:W"]) == 0
    said = capsys.readouterr().out
    assert said.rstrip("\n") == series_text(eg.series(path)).replace("a:W", "a:W")
    assert max(map(len, said.splitlines())) <= 100
    assert ["rows", "that", "never", "change", "1"] in [line.split() for line in said.splitlines()]


def test_what_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", planted(), as_bits=False)
    with pytest.raises(InputError, match="has 0 tensors of steps, rows and columns: name one"):
        eg.series(f"{path}:loss")
    with pytest.raises(InputError, match=r"cannot read .*none.safetensors"):
        eg.series(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"the array given has the shape \[3, 4\]: give steps, rows and columns"):
        eg.series(np.zeros((3, 4)))
    stores = [make_store(tmp_path / f"{i}.zarr", output=np.eye(4 + i)) for i in range(2)]
    with pytest.raises(InputError, match="has 4 x 4 values and test/model 5 x 5: give one shape"):
        eg.series(stores)
    bad = planted()
    bad[3, 4, 0] = np.nan
    with pytest.raises(InputError, match=r"step 3 of array: rows \[4\] hold NaN"):
        eg.series(bad)


def test_a_series_store_is_read_whole_and_step_by_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = planted()
    given = [make_store(tmp_path / f"step-{10 * i}.zarr", output=each, model="org/run") for i, each in enumerate(steps)]
    store = eg.store_series(given, tmp_path / "stores", name="org/series")
    xr.testing.assert_equal(eg.series(store), eg.series(given).drop_vars("step_model"))
    with pytest.raises(InputError, match=r"org--series.zarr holds several steps: .* or of a list each step, .*:STEP"):
        eg.series([store, given[0]])
    two = eg.series([f"{store}:0", f"{store}:40"])
    assert two["step_model"].values.tolist() == ["org/series step 0", "org/series step 40"]
    assert two["step"].values.tolist() == [0, 40]
    assert eg.series([f"{store}:40", given[5]])["step"].values.tolist() == [40, 50]
    assert eg.series([f"{store}:40", f"{store}:0"])["step"].values.tolist() == [0, 1]  # they do not ascend
    opened = eg.open_series(store)
    assert opened["output_embedding"].dims == ("step", "token_id", "hidden")
    assert opened["step"].values.tolist() == list(range(0, 80, 10))
    at_40 = opened["output_embedding"].sel(step=40)
    assert (at_40.values == steps[4].astype("f4")).all()
    assert at_40.token.values[7] == "t7"
    for each in (f"{store}:40", at_40):
        found = eg.duplicates(each)
        assert found["member_token_id"].values.tolist() == [7, 8]
        assert found["member_token"].values.tolist() == ["t7", "t8"]
    assert eg.duplicates(f"{store}:40")["model"].values.tolist() == ["org/series step 40"]
    with pytest.raises(InputError, match=r"has no step 41: its 8 are 0, 10, 20, 30, \.\.\., 60, 70"):
        eg.survey(f"{store}:41")
    with pytest.raises(InputError, match=r"is a series of steps: name one, .*org--series.zarr:STEP"):
        eg.survey(store)
    assert app.main(["store-series", *given, "--stores", str(tmp_path / "stores"), "--name", "org/series"]) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    chunks = Path(store) / "output_embedding/c"
    (chunks / "4/0/0").write_bytes((chunks / "5/0/0").read_bytes())
    with pytest.raises(EmbgeomError, match=r"cannot read step 40 of .*: it holds other bytes than were converted"):
        eg.series(store)


def test_an_array_keeps_its_steps_ids_and_tokens(tmp_path: Path) -> None:
    steps = planted()
    given = [make_store(tmp_path / f"step-{10 * i}.zarr", output=each, model="org/run") for i, each in enumerate(steps)]
    store = eg.store_series(given, tmp_path / "stores", name="org/series")
    opened = eg.open_series(store)
    some = opened["output_embedding"].sel(token_id=slice(5, 20), step=slice(60, None))
    tree = eg.series(some, each="tokens", out=tmp_path / "out")
    others = [some.compute(), some.transpose("hidden", "token_id", "step"), some.rename(token_id="row")]
    for found in (tree, tree["tokens"], *map(eg.series, others)):
        assert found["step"].values.tolist() == [60, 70]
        assert found["token_id"].values.tolist() == list(range(5, 21))
        assert found["token"].values.tolist() == [f"t{i}" for i in range(5, 21)]
        assert found.attrs["model"] == ["org/series (array)"]
    assert tree["first_change_step"].values[:3].tolist() == [-1, 70, 70]
    norms = np.sqrt((steps[6:, 5:21].astype(float) ** 2).sum(axis=2))
    np.testing.assert_allclose(tree["tokens"]["norm_l2"], norms, rtol=1e-15)
    xr.testing.assert_equal(eg.series(opened), eg.series(store))
    with pytest.raises(InputError, match=r"do not ascend from 0 or more: give array.sortby\('step'\)"):
        eg.series(some[::-1])
    with pytest.raises(InputError, match="have the ids 5 to 20, and a series store numbers them from 0"):
        eg.store_series(some, tmp_path / "stores", name="org/some")
    again = eg.store_series(opened["output_embedding"].sel(step=slice(20, None)), tmp_path / "again")
    assert again == str(tmp_path / "again/org--series.zarr")
    xr.testing.assert_equal(eg.open_series(again).load(), opened.sel(step=slice(20, None)).load())


EACH: dict[str, Any] = {
    **{"survey": {}, "tokens": {}, "duplicates": {}},
    **{"outliers": {"tokens": "3,7,8,9"}, "spectrum": {"components": 2}},
}


def test_each_step_is_asked_what_one_matrix_is(client: Client) -> None:
    steps = planted()[[0, 4, 5, 7]]
    tree = eg.series(steps, each=EACH, client=client)
    assert [*tree.children] == [*EACH]
    xr.testing.assert_equal(tree.to_dataset(), eg.series(steps))
    for name, settings in EACH.items():
        found = tree[name].to_dataset()
        expected = getattr(eg, name)(steps[1], client=client, **settings)
        for variable, values in expected.data_vars.items():
            if variable != "group_model":
                one = found[variable].sel(step=1) if "step" in found[variable].dims else found[variable]
                each = values.isel(model=0).values if "model" in values.dims else values.values
                np.testing.assert_array_equal(one.values, each, err_msg=f"{name} {variable}")
    assert tree["duplicates/member_token_id"].values.tolist() == [[-1, -1], [7, 8], [7, 8], [-1, -1]]


def test_what_is_found_at_steps_is_saved_and_goes_on(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = saved(tmp_path / "run.safetensors", planted()[[0, 4, 5, 7]], as_bits=True)
    some = {name: EACH[name] for name in ("duplicates", "spectrum")}
    tree = eg.series(stack, each=some, client=client)
    monkeypatch.setattr(tuning, "STEPS_SAVED", 1)
    out = tmp_path / "out"
    asked: list[str] = []

    def stopping(rows: Matrix, **how: Any) -> xr.Dataset:
        asked.append(rows.model)
        if len(asked) == 3:
            raise EmbgeomError("the disk is full")
        return eg.spectrum(rows, **how)

    monkeypatch.setitem(over_steps.ANALYSES, "spectrum", stopping)
    with pytest.raises(EmbgeomError, match=r"step \d: the disk is full"):
        eg.series(stack, each=some, client=client, out=out)
    asked[:] = ["begun again"] * 3
    kept = eg.series(stack, each=some, client=client, out=out)
    assert len(asked) == 5  # two of four steps were saved
    saved_there = ["duplicates.zarr", "series.json", "spectrum.zarr", "table.zarr"]
    assert sorted(path.name for path in out.iterdir()) == saved_there
    for found in (kept, eg.open_result(out)):
        for name in some:
            expected = tree[name].to_dataset().drop_attrs(deep=False)
            xr.testing.assert_identical(found[name].to_dataset().drop_attrs(deep=False), expected)
    frame = kept["duplicates"].to_dataset().embgeom.to_frame("steps")
    assert frame["step"].tolist() == [0, 1, 2, 3]
    assert frame["member_count"].tolist() == [0, 2, 2, 0]
    assert len(kept["spectrum"].to_dataset().embgeom.to_frame("scores")) == 4 * 60 * 2
    with client.as_current():
        command = ["series", stack, "--each", "duplicates,spectrum", "--components", "2", "--out", str(out)]
        assert app.main(command) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 100
    assert app.main(["show", str(out / "spectrum.zarr")]) == 0
    assert capsys.readouterr().out.strip() in said
    assert app.main(["series", stack, "--each", "norms"]) == 2
    assert "--each 'norms': choose of survey, tokens," in capsys.readouterr().err
