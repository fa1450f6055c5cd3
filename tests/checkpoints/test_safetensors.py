"""The parser of safetensors headers, compared with the library."""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import event, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from embgeom_dask.checkpoints import safetensors as own
from embgeom_dask.checkpoints.files import LocalFile
from embgeom_dask.errors import InputError
from tests.checkpoints.test_convert import header, tensor

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def read_header(path: Path) -> dict[str, own.Tensor]:
    return own.read_header(LocalFile.open(path))


GOOD = header({"a": tensor("F32", [2, 1], 0, 8), "b": tensor("U8", [3], 8, 11)}, bytes(11))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"1234", "it is 4 bytes long"),
        (GOOD[:-1], "is truncated: its tensors take 11 bytes, and 10 are left"),
        (GOOD[:40], "is truncated: its header takes"),
        (GOOD + b"\0", "has 1 bytes after its last tensor"),
        (struct.pack("<Q", 1 << 60) + b"x" * 99, "past 100000000"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>Access denied</body></html>", "is a web page"),
        (b"\n <html><body>Access denied</body></html>", "is a web page"),
        (b"GGUF\3\0\0\0" + bytes(99), "is a GGUF file"),
        (pickle.dumps({"a": list(range(99))}), "is a Python pickle"),
        (header(b"{"), "is not JSON|broken header"),
        (header(b'{"a": \xff}'), "broken header: 'utf-8'"),
        (header(b"[]"), "not a JSON object"),
        (header(b"[" * 50_000), "nested too deep"),
        (header(b'{"a": NaN}'), "NaN is not JSON"),
        (header(b'{"\\ud800": 1}'), "broken header: 'utf-8'"),
        (header(b'{"a": {}, "a": {}}'), "'a' stands twice"),
        (header({"a": 3}), "has not the fields"),
        (header({"a": {**tensor("F32", [1], 0, 4), "x": 1}}, bytes(4)), "has not the fields"),
        (header({"__metadata__": {"a": 1}}), "__metadata__"),
        (header({"a": tensor("F33", [1], 0, 4)}, bytes(4)), "unknown dtype 'F33'"),
        (header({"a": tensor("F32", [-1], 0, 4)}, bytes(4)), "-1 is negative"),
        (header({"a": tensor("F32", [1.0], 0, 4)}, bytes(4)), "has shape"),
        (header({"a": tensor("F32", [True], 0, 4)}, bytes(4)), "has shape"),
        (header({"a": tensor("F32", [1], 0, "4")}, bytes(4)), "has data_offsets"),
        (header({"a": tensor("F32", [1], 4, 0)}, bytes(4)), "begins at byte 4, after its end 0"),
        (header({"a": tensor("F32", [2], 0, 4)}, bytes(4)), "has 4 bytes, but F32 of shape .* takes 8"),
        (header({"a": tensor("F4", [3], 0, 1)}, bytes(1)), r"takes 1\.5"),
        (header({"a": tensor("F32", [1 << 63, 4, 0], 0, 0)}), "overflows"),
        (header({"a": tensor("F32", [1 << 62], 0, 1 << 64)}), "overflows"),
        (header({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, bytes(6)), "'b' overlaps"),
        (header({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 6, 10)}, bytes(10)), "'b' leaves a hole of 2"),
        (header({"a": tensor("U8", [4], 2, 6)}, bytes(6)), "'a' leaves a hole of 2"),
    ],
)
def test_broken_files_are_refused_in_their_own_words(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words) as refused:
        read_header(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_torch_archive_under_the_wrong_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.safetensors", "w") as archive:
        archive.writestr("data.pkl", b"x" * 100)
    with pytest.raises(InputError, match="is a PyTorch archive"):
        read_header(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="cannot read"):
        read_header(tmp_path)


NUMPY = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "U8": "u1", "BOOL": "?"}
SHAPES = st.lists(st.integers(0, 4), max_size=3)
FILES = st.dictionaries(st.text(max_size=6), st.tuples(st.sampled_from([*NUMPY, "BF16"]), SHAPES), max_size=4)


@st.composite
def broken_files(draw: st.DrawFn) -> bytes:
    """Files that the library wrote, with up to three bytes of them replaced, inserted or cut."""
    arrays = {
        name: np.zeros(shape, dtype=NUMPY.get(kind, BFLOAT16))
        for name, (kind, shape) in draw(FILES).items()
        if name.isprintable() and name != "__metadata__"
    }
    data = bytearray(save(arrays, {"format": "np"} if draw(st.booleans()) else None))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        action = draw(st.sampled_from(["replace", "insert", "delete", "cut"]))
        if action == "cut":
            data = data[: at + 1]
            continue
        data[at : at + (action != "insert")] = (
            b""
            if action == "delete"
            else draw(st.sampled_from([b"0", b"1", b"-", b'"', b" ", b"{", b"}", b"[", b",", b"\xff", b"\0", b"F"]))
        )
    return bytes(data)


# Headers of every kind, as text: what JSON can say, and a little more

NUMBERS = ["-1", "-0", "1.0", "1e2", "1E400", "01", "NaN", "Infinity", "-Infinity", "0x1", "true", "null", '"4"', "[1]"]
NUMBERS += [str(size) for size in (1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**30)] + ["9" * 5000]
NAMES = [
    '"a"',
    '"b"',
    '"é"',
    '"\\u00e9"',
    '"\\u0061"',
    '""',
    '"\\n"',
    '"\\ud800"',
    '"\\ud83d\\ude00"',
    '"\x7f"',
    '"\n"',
]
VALUES = ["{}", "[]", "3", "0", "null", "false", '""', '"\\ud800"', "{" * 200, "[" * 5000, "[" * 150 + "]" * 150]
VALUES += ['{"a": ' * 2000 + "1" + "}" * 2000]


def members(fields: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in fields) + "}"


@st.composite
def written_headers(draw: st.DrawFn) -> bytes:
    """Tensors that follow each other, with up to two of the faults that text can have; the data they say, or not."""
    kinds, faults = sorted(own._BITS), draw(st.integers(0, 2))
    end, entries = 0, []
    names = draw(st.lists(st.sampled_from(NAMES[:5]), max_size=3, unique_by=json.loads))
    for name in names:
        kind, shape = draw(st.sampled_from(kinds)), draw(st.lists(st.integers(0, 4), max_size=3))
        begin, end = end, end + int(np.prod(shape, dtype=int)) * own._BITS[kind] // 8
        entry = [[f'"{kind}"'], list(map(str, shape)), [str(begin), str(end)]]
        fields = [('"dtype"', entry[0]), ('"shape"', entry[1]), ('"data_offsets"', entry[2])]
        entries.append((name, draw(st.permutations(fields))))
    change = draw(st.integers(-2, 2)) if faults else 0
    for _ in range(faults if entries else 0):
        at = draw(st.integers(0, len(entries) - 1))
        name, fields = entries[at]
        field, numbers = draw(st.sampled_from(fields))
        match draw(st.sampled_from(["number", "number", "more", "less", "twice", "field twice", "no field", "name"])):
            case "number" if numbers:
                numbers[draw(st.integers(0, len(numbers) - 1))] = draw(
                    st.sampled_from(NUMBERS) | st.integers(0, 40).map(str)
                )
            case "more":
                numbers.append(draw(st.sampled_from(["0", "1", *NUMBERS])))
            case "less" if numbers:
                numbers.pop()
            case "twice":
                entries.append(entries[at])
            case "field twice":
                entries[at] = name, [*fields, (field, numbers)]
            case "no field":
                entries[at] = name, [other for other in fields if other[0] != field]
            case "name":
                entries[at] = draw(st.sampled_from(NAMES)), fields
    text = [
        (
            name,
            members(
                [
                    (field, said[0] if field == '"dtype"' and len(said) == 1 else f"[{','.join(said)}]")
                    for field, said in fields
                ]
            ),
        )
        for name, fields in entries
    ]
    if draw(st.booleans()):
        plain = st.sampled_from(['{"format": "pt"}', "{}", "null"])
        odd = st.sampled_from([*VALUES, *(f'{{"a": {value}}}' for value in VALUES), '{"a": "1", "a": "2"}'])
        text.insert(draw(st.integers(0, len(text))), ('"__metadata__"', draw(odd if faults else plain)))
    if faults and draw(st.booleans()):
        text.append((draw(st.sampled_from(NAMES)), draw(st.sampled_from(VALUES))))
    around = st.sampled_from(["", "", " ", "\n\t", "\ufeff", "\0", "{}", ","]) if faults else st.just("")
    data = (draw(around) + members(text) + draw(around) + " " * draw(st.integers(0, 8))).encode()
    length = len(data) + (draw(st.sampled_from([0, 0, -1, 1, 1 << 40])) if faults else 0)
    return struct.pack("<Q", length) + data + bytes(max(0, end + change))


def agrees(path: Path, data: bytes) -> None:
    """What the library reads ours reads as well, or it refuses what it alone refuses; it reads nothing else."""
    path.write_bytes(data)
    try:
        with safetensors.safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in list(file.keys())}
            expected = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except (safetensors.SafetensorError, OverflowError):
        expected = {}
        words = ""
    else:
        words = "stands twice|has not the fields"
    try:
        found = {name: (tensor.kind, list(tensor.shape)) for name, tensor in read_header(path).items()}
    except InputError as refused:
        event("refused")
        assert re.search(words, str(refused))  # noqa: PT017
        assert "\n" not in str(refused)  # noqa: PT017
    else:
        event("read")
        assert words
        assert found == expected


@settings(max_examples=120, deadline=None)
@given(data=broken_files())
def test_the_parser_agrees_with_the_library_on_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    agrees(tmp_path_factory.getbasetemp() / "fuzzed.safetensors", data)


@settings(max_examples=150, deadline=None)
@given(data=written_headers())
def test_the_parser_agrees_with_the_library_on_text(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    agrees(tmp_path_factory.getbasetemp() / "fuzzed.safetensors", data)
