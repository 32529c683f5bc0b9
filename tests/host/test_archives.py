"""Archives and documents that were damaged, or made to do harm."""

import contextlib
import io
import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from diffctl.host import parse_json, read_arrays, read_json


def _npy(header, data=b""):
    text = repr(header).encode() if isinstance(header, dict) else header
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def _archive(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


_HEADER = {"descr": "<f4", "fortran_order": False, "shape": (2,)}


def test_arrays_of_every_kind_are_read(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {
        "scalar": np.float64(3.0),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i2"),
        "none": np.zeros((0, 4), np.uint8),
        "text": np.array(["a", "bc"]),
        "flags": np.array([True, False]),
    }
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays)
        found = read_arrays(path)
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "nowhere.npz")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (_npy(_HEADER | {"shape": (10**12,)}), r"claims to be float32 of shape \(10"),
        (_npy(_HEADER, b"1234"), r"which is not what its \d+ bytes hold"),
        (_npy(_HEADER | {"shape": (-2,)}, b"12345678"), "which is not what|damaged"),
        (_npy(_HEADER | {"descr": "|O"}, b"12345678"), "x holds Python objects"),
        (_npy(_HEADER | {"descr": "nonsense"}, b"12345678"), "damaged"),
        (_npy(_HEADER | {"shape": "ab"}, b"12345678"), "damaged"),
        (_npy({}, b"12345678"), "damaged"),
        (_npy(b"(" * 9000), "damaged"),
        (_npy(b"\xff\xfe"), "damaged"),
        (b"\x93NUMPY\x09\x00", "damaged"),
        (b"", "damaged"),
        (b"text", "damaged"),
    ],
)
def test_members_that_are_no_arrays_are_refused(tmp_path, member, message):
    path = tmp_path / "a.npz"
    _archive(path, {"x.npy": member})
    with pytest.raises(ValueError, match=message) as caught:
        read_arrays(path)
    assert str(path) in str(caught.value) and "Error" not in str(caught.value)


def test_objects_are_not_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"x holds Python objects \(pickled\), which"):
        read_arrays(tmp_path / "a.npz", ["x"])


def _patched(path, field, value, members=("x.npy",)):
    """Write `value` at a field of the local header and of the directory."""
    local, central = {"flags": (6, 8), "method": (8, 10)}[field]
    data = bytearray(path.read_bytes())
    for start, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        place = data.index(start) + offset
        data[place : place + 2] = struct.pack("<H", value)
    path.write_bytes(bytes(data))


def test_encrypted_and_unknown_ways_to_pack_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(3))
    _patched(path, "flags", 1)
    with pytest.raises(ValueError, match="encrypted; save it without a password"):
        read_arrays(path)
    np.savez(path, x=np.arange(3))
    _patched(path, "method", 97)
    with pytest.raises(ValueError, match="damaged"):
        read_arrays(path)


def test_other_members_are_not_arrays(tmp_path):
    path = tmp_path / "with_text.npz"
    np.savez(path, x=np.arange(3))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "what this is")
    assert list(read_arrays(path)) == ["x"]


def test_a_small_file_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros(35 << 20, np.uint8))  # to a thousandth of it
    with pytest.raises(ValueError, match=r"would take \d+ bytes, and at most 33554432"):
        read_arrays(path)
    np.savez_compressed(path, x=np.zeros(1 << 20, np.uint8))
    assert read_arrays(path)["x"].size == 1 << 20


def test_every_cut_and_every_flipped_byte_is_read_or_refused(tmp_path):
    path, whole = tmp_path / "a.npz", io.BytesIO()
    np.savez_compressed(whole, x=np.arange(5.0), y=np.arange(3))
    data = whole.getvalue()
    rng = np.random.default_rng(0)
    damaged = [data[:cut] for cut in range(0, len(data), 7)]
    for _ in range(150):
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        damaged.append(bytes(flipped))
    refused = 0
    for sample in damaged:
        path.write_bytes(sample)
        try:
            read_arrays(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > len(damaged) // 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 100_000, "levels"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "more than 64 levels"),
        (b"[" * 900 + b"]" * 900, "more than 64 levels"),
        (b"[" + b"{}," * 200_000 + b"{}]", "some 50 MiB of memory"),
        (b"\xff\xfe\x00", "is no text"),
        (b"1" * 5000, "a whole number has 5000 digits"),
        (b'{"a": 1', "not valid JSON"),
        (b" \n", "it is empty"),
    ],
)
def test_documents_that_would_do_harm_are_refused(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    for read in (lambda: read_json(path), lambda: parse_json(text, str(path))):
        with pytest.raises(ValueError, match=message) as caught:
            read()
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("unit", ["{}", '{"":0}', "[0]", "[[0]]", '"ab"', "1.5"])
def test_the_memory_of_a_document_is_bounded(unit):
    """Of whatever is not refused: 32 MB, or ten times the text."""
    for count in (33_000, 300_000):
        text = ("[" + ",".join([unit] * count) + "]").encode()
        tracemalloc.start()
        with contextlib.suppress(ValueError):
            parse_json(text, "it")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < max(32 << 20, 10 * len(text))


def test_documents_as_they_are_written_are_read(tmp_path):
    path = tmp_path / "a.json"
    for document in ([[0.25] * 4] * 15_000, {"a": "," * 90_000}, -3):
        path.write_text(json.dumps(document))
        assert read_json(path) == document
    with path.open("wb") as file:
        file.truncate((1 << 26) + 1)  # sparse
    with pytest.raises(ValueError, match="67108865 bytes; at most 67108864"):
        read_json(path)
