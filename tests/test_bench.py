"""The data and the table of scripts/bench; nothing here is timed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import data, memory, overhead, peers, run
from embgeom_dask.execution.callbacks import PanelCallback


def _vocabulary(rows: int = 5000, width: int = 512) -> tuple[np.ndarray, np.ndarray]:
    made = data.Vocabulary(rows, width)
    return made.read(0, rows).astype(np.float64), made.kind


def test_ordinary_rows_have_the_norms_and_the_mean_of_a_vocabulary() -> None:
    rows, kind = _vocabulary()
    ordinary = rows[kind == 0]
    norms = np.linalg.norm(ordinary, axis=1)
    assert norms.mean() == pytest.approx(1.04, abs=0.02)
    assert norms.std() == pytest.approx(0.19, abs=0.01)
    assert np.linalg.norm(ordinary.mean(axis=0)) == pytest.approx(0.3, abs=0.02)


def test_spectrum_of_ordinary_rows_decays() -> None:
    rows, kind = _vocabulary()
    variance = np.sort(rows[kind == 0].var(axis=0))[::-1]
    assert variance[0] / variance[9] == pytest.approx(10, rel=0.3)
    assert variance[0] / variance[99] == pytest.approx(100, rel=0.3)


def test_clustered_rows_are_near_their_centre() -> None:
    rows, kind = _vocabulary(rows=20_000)
    cluster = rows[kind == 1]
    away = np.linalg.norm(cluster - cluster.mean(axis=0), axis=1)
    assert len(cluster) == 2000
    assert np.linalg.norm(cluster.mean(axis=0)) == pytest.approx(0.37, abs=0.005)
    assert 5e-4 < np.median(away) < away.max() < 1.5e-3


def test_identical_rows_come_in_three_groups_and_no_other_row_repeats() -> None:
    rows, kind = _vocabulary()
    groups = [np.unique(rows[kind == group], axis=0, return_counts=True) for group in (2, 3, 4)]
    assert [counts.tolist() for _, counts in groups] == [[300], [150], [50]]
    assert len(np.unique(rows[kind == 0], axis=0)) == np.count_nonzero(kind == 0)


def test_sphere_has_equal_norms_and_no_mean() -> None:
    rows = data.Sphere(3000, 128).read(0, 3000).astype(np.float64)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(3000), abs=2e-3)  # bfloat16
    assert np.linalg.norm(rows.mean(axis=0)) < 0.03


@pytest.mark.parametrize("kind", [data.Sphere, data.Vocabulary])
def test_rows_are_the_same_however_they_are_read(kind: type[data.Sphere]) -> None:
    source = kind(1300, 16)
    whole = source.read(0, 1300)
    parts = np.concatenate([source.read(start, min(start + 300, 1300)) for start in range(0, 1300, 300)])
    assert whole.shape == source.shape
    np.testing.assert_array_equal(whole.view(np.uint16), parts.view(np.uint16))


def test_data_is_stored_once_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = data.Data(tmp_path, "b", 600)
    np.testing.assert_array_equal(made.read().view(np.uint16), data.Sphere(600, 2560).read(0, 600).view(np.uint16))
    assert made.rows.shape == (600, 2560)
    assert data.Data(tmp_path, "b", 600).store == made.store
    assert capsys.readouterr().err.count("making") == 1


@pytest.mark.parametrize(
    ("kind", "limit", "ours", "other", "expected"),
    [
        ("most", 0.75, 3.0, 5.0, ["3 s", "reading the store, 5 s", "0.600", "at most 0.75", "yes"]),
        ("most", 0.4, 3.0, 5.0, ["3 s", "reading the store, 5 s", "0.600", "at most 0.4", "no"]),
        ("faster", 4, 2.0, 9.0, ["2 s", "reading the store, 9 s", "4.5 x faster", "at least 4 x", "yes"]),
        ("faster", 4, 3.0, 9.0, ["3 s", "reading the store, 9 s", "3.0 x faster", "at least 4 x", "no"]),
        ("percent", 60, 2.0, 1.0, ["2 s", "reading the store, 1 s", "50%", "at least 60%", "no"]),
        ("most", None, 3.0, 5.0, ["3 s", "reading the store, 5 s", "0.600", "", ""]),
    ],
)
def test_a_line_compares_medians(
    tmp_path: Path, kind: str, limit: float | None, ours: float, other: float, expected: list[str]
) -> None:
    line = run.Line("farthest", "b", "read", limit, kind)
    values = {("farthest", "b"): [ours, 100.0, 0.0], ("read", "b"): [0.0, other, 100.0]}
    assert run.cells(line, "b", data.Data(tmp_path, "b", 40), values, {})[2:] == expected


def test_a_job_that_failed_says_why(tmp_path: Path) -> None:
    line = run.Line("chebyshev", "a", "read", 2)
    cells = run.cells(line, "a", data.Data(tmp_path, "a", 40), {}, {("chebyshev", "a"): "no such metric"})
    assert cells[2:] == ["not measured: no such metric", "", "", "at most 2", ""]


def test_slow_peers_are_measured_once_and_the_others_in_every_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(name: str, made: data.Data) -> dict[str, float]:
        asked.append(f"{name} {made.name}")
        return {name: 1.0}

    asked: list[str] = []
    monkeypatch.setattr(run, "measure", measured)
    lines = [run.Line("neighbors", "ab", "square"), run.Line("neighbors", "b", "faiss")]
    values, errors = run.measure_all(lines, {"b": data.Data(tmp_path, "b", 40)}, 2)
    assert asked == ["square b", "neighbors b", "faiss b", "square b", "neighbors b"]
    assert len(values["neighbors", "b"]) == 2
    assert not errors


def test_section_is_replaced_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n\nMethod.\n")
    run.write(page, "one", run.table([["x"] * 7]))
    run.write(page, "two", "second\n")
    run.write(page, "one", "first\n")
    text = page.read_text()
    assert text.startswith("# Benchmarks\n\nMethod.\n\n<!-- begin one -->\nfirst\n<!-- end one -->\n")
    assert text.endswith("\n<!-- begin two -->\nsecond\n<!-- end two -->\n")


def test_command_of_a_table_leaves_places_out(tmp_path: Path) -> None:
    given, command = run.parse(["--data", str(tmp_path), "--only", "all,farthest", "--write", "x.md", "--full"])
    assert command == "scripts/bench --only all,farthest --full"
    assert given.only == ["all", "farthest"]
    assert given.data_set == ["a", "v"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data-set", "a,z"], "unknown job or data set: z"),
        (["--only", "memory", "--full"], "memory is not measured on data set a"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.parse(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_overhead_is_what_a_whole_scan_takes_besides_its_work(tmp_path: Path) -> None:
    found = run.measure("overhead", data.Data(tmp_path, "b", 300))
    assert 0 < found["work overhead"] < found["overhead"]


def test_tasks_are_measured_through_those_of_a_whole_scan(tmp_path: Path) -> None:
    found = run.ours_and_tasks("neighbors", data.Data(tmp_path, "b", 300))
    assert 0 < found["tasks neighbors"] < found["neighbors"]


def test_work_is_the_parts_of_a_plain_loop(tmp_path: Path) -> None:
    spent = overhead.measure(data.prepare(tmp_path, "b", 300), {"neighbors": 3})
    counts = {name: len(part) for name, part in spent.parts.items()}
    assert counts["panels"] == counts["journal"] == 1
    assert counts["planning"] == counts["naming"] == counts["labels"] == counts["saving"] == 1
    assert PanelCallback.active == []
    parts = {"planning": [2.0], "naming": [1.0], "panels": [3.0, 5.0], "journal": [7.0], "saving": [9.0]}
    assert overhead.Spent(30.0, 2, parts).work == 7


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the peak memory from")
def test_the_peak_of_a_command_is_what_it_held() -> None:
    code = "import sys; part = b'x' * (200 << 20); print('said', file=sys.stderr); sys.stdin.read(); del part"
    command = f"{sys.executable} -c {shlex.quote(code)}"
    _, peak, said = memory.measure(["sh", "-c", f"sleep 0.5 | {command}"])
    assert 200 << 20 < peak < 500 << 20
    assert said.startswith("said")


def test_wrong_answers_of_peers_are_counted() -> None:
    rows = np.array([[0.0], [1.0], [1.0], [3.0]], np.float32)
    ids = peers.without_self(np.array([[0, 1], [2, 1], [1, 2], [2, 3]]), np.zeros((4, 2)))[0]
    np.testing.assert_array_equal(ids[:, :1], [[1], [2], [1], [2]])
    exact = peers.true_distances(rows, ids[:, :1])
    np.testing.assert_array_equal(exact, [[1], [0], [0], [2]])
    assert peers.wrong(rows, exact, (ids[:, :1], exact)) == (0, 0, 0.0)
    equal = np.array([[2], [2], [1], [1]])  # of equals either
    assert peers.wrong(rows, exact, (equal, exact)) == (0, 0, 0.0)
    farther = np.array([[3], [2], [1], [0]])
    assert peers.wrong(rows, exact, (farther, np.array([[0.0], [0.0], [0.0], [4.5]]))) == (2, 1, 0.5)
