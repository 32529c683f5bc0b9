"""Files that lie: every one is refused at the door, with the reason."""

import struct
import zipfile

import numpy as np
import pytest

from tests.weights_convert.readers.files import (
    STORAGES,
    stream_file,
    zip_entries,
    zip_file,
    zipped,
)
from tests.weights_convert.readers.pickles import (
    Call,
    Name,
    Persistent,
    dumps,
    ordered,
)
from weights_convert.readers import CheckpointError, open_checkpoint

ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)
GOOD = zip_entries({"w": ARRAY})


def _tensor(offset=0, shape=(3, 4), strides=(4, 1), **storage) -> bytes:
    """Return an archive whose only tensor and storage make these claims."""
    claims = {"tag": "storage", "kind": Name("torch", "FloatStorage"), "key": "0"}
    claims |= {"device": "cpu", "size": 12} | storage
    rebuilt = (Persistent(tuple(claims.values())), offset, shape, strides, False, None)
    pickled = dumps({"w": Call(Name("torch._utils", "_rebuild_tensor_v2"), rebuilt)})
    return zipped(GOOD | {"archive/data.pkl": pickled})


def _repeated(count: int) -> bytes:
    """Return an archive whose tensors repeat one number, a million times each."""
    one = np.zeros(1, np.float32)
    tensors = {str(i): np.broadcast_to(one, (1 << 20,)) for i in range(count)}
    return zip_file(tensors)


def _twice(name: str) -> bytes:
    """Return an archive with two entries of one name, which zipfile would not write."""
    other = name.replace("a", "b")
    return zipped(GOOD | {other: b""}).replace(other.encode(), name.encode())


def _without(name: str) -> bytes:
    return zipped({key: data for key, data in GOOD.items() if key != name})


def _directory(**changes: int) -> bytes:
    """Return an archive with fields of its end record changed."""
    data = bytearray(zipped(GOOD))
    places = {"count": (10, "<H"), "start": (16, "<I")}
    for field, value in changes.items():
        place, layout = places[field]
        struct.pack_into(layout, data, len(data) - 22 + place, value)
    return bytes(data)


def _central(place: int, layout: str, value: int) -> bytes:
    """Return an archive with a field of its first directory entry changed."""
    data = bytearray(zipped(GOOD))
    struct.pack_into(layout, data, data.find(b"PK\1\2") + place, value)
    return bytes(data)


BOMB = zipped(GOOD | {"archive/data/0": bytes(1 << 26)}, zipfile.ZIP_DEFLATED)
STREAM = stream_file({"w": ARRAY})
STREAM_SIZE = struct.pack("<q", 12)

HOSTILE = {
    "outside_the_storage": (_tensor(offset=1), "reaches element 12"),
    "strides_outside": (_tensor(strides=(400, 1)), "reaches element 803"),
    "negative_strides": (_tensor(strides=(-4, 1)), "whole numbers"),
    "negative_offset": (_tensor(offset=-1), "whole numbers"),
    "fractional_shape": (_tensor(shape=(3.0, 4)), "whole numbers"),
    "shape_of_text": (_tensor(shape="ab"), "no tuple"),
    "shape_of_bytes": (_tensor(shape=b"\3\4"), "no tuple"),
    "shape_of_truth": (_tensor(shape=(True, 4)), "whole numbers"),
    "fewer_strides": (_tensor(strides=(1,)), "whole numbers"),
    "many_axes": (_tensor(shape=(1,) * 40, strides=(1,) * 40), "40 axes"),
    "eight_terabytes": (_tensor(shape=(1 << 41,), strides=(0,)), "contiguous"),
    "empty_but_huge": (_tensor(shape=(0, 1 << 60), strides=(1, 1)), "contiguous"),
    "repeated_too_often": (_repeated(20), "contiguous"),
    "large_storage": (_tensor(size=1 << 41), "needs 8796093022208 bytes"),
    "negative_storage": (_tensor(size=-1), "damaged"),
    "storage_of_truth": (_tensor(size=True), "damaged"),
    "quantised_storage": (_tensor(kind=Name("torch", "QInt8Storage")), "QInt8"),
    "storage_of_another": (_tensor(kind=Name("os", "FloatStorage")), "os.FloatSt"),
    "storage_without_key": (_tensor(key=0), "persistent id"),
    "storage_with_a_path": (_tensor(key="../data.pkl"), "lacks storage"),
    "not_a_storage": (_tensor(tag="module"), "persistent id"),
    "zip_bomb": (BOMB, "compressed"),
    "entry_twice": (_twice("archive/data.pkl"), "two entries"),
    "path_up": (zipped(GOOD | {"archive/../../x": b""}), "leaves its folder"),
    "absolute_path": (zipped(GOOD | {"/etc/x": b""}), "leaves its folder"),
    "drive": (zipped(GOOD | {"C:x": b""}), "leaves its folder"),
    "no_pickle": (_without("archive/data.pkl"), "data.pkl"),
    "no_storage": (_without("archive/data/0"), "lacks storage"),
    "two_pickles": (zipped(GOOD | {"b/data.pkl": b""}), "has 2"),
    "script": (zipped(GOOD | {"archive/constants.pkl": b""}), "TorchScript"),
    "byte_order": (zipped(GOOD | {"archive/byteorder": b"middle"}), "byte order"),
    "directory_outside": (_directory(start=1 << 30), "outside the file"),
    "more_entries": (_directory(count=9), "damaged"),
    "no_wide_directory": (_directory(count=0xFFFF), "damaged"),
    "size_of_an_entry": (_central(24, "<I", 1 << 30), "compressed"),
    "start_of_an_entry": (_central(42, "<I", 1 << 30), "outside the file"),
    "wide_size_missing": (_central(42, "<I", 0xFFFFFFFF), "outside the file"),
    "encrypted": (_central(8, "<H", 1), "encrypted"),
    "pickle_checksum": (_central(16, "<I", 1), "checksum of data.pkl"),
    "stream_cut_short": (STREAM[:-1], "claimed"),
    "stream_of_another_size": (STREAM.replace(STREAM_SIZE, b"\x0b" + bytes(7)), "11"),
    "stream_of_negative_size": (STREAM.replace(STREAM_SIZE, b"\xff" * 8), "-1"),
    "stream_without_keys": (STREAM.replace(dumps(["0"]), dumps([])), "lists 0"),
    "stream_with_a_wrong_key": (STREAM.replace(dumps(["0"]), dumps(["1"])), "lists 1"),
    "stream_of_another_version": (STREAM.replace(dumps(1001), dumps(1002)), "version"),
    "empty": (b"", "cannot read"),
    "web_page": (b"<!DOCTYPE html>", "web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    "unknown": (b"GIF89a", "none of the known formats"),
    "short": (b"PK", "none of the known formats"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_lie_is_a_clear_error(case, opened):
    data, message = HOSTILE[case]
    with pytest.raises(CheckpointError, match=message):
        opened(data)


def test_the_unharmed_files_open(opened):
    """Otherwise the errors above might have another cause."""
    for data in (_tensor(), zipped(GOOD), STREAM, _directory(), _repeated(2)):
        assert opened(data).tensors


def test_entries_that_overlap(opened):
    """Two names for the same bytes: a bomb without compression."""
    data = bytearray(zipped({"a/data.pkl": dumps({}), "a/x": bytes(100)}))
    first = data.find(b"PK\1\2")
    second = data.find(b"PK\1\2", first + 4)
    offset = struct.unpack_from("<I", data, second + 42)
    many = bytes(data[second : data.find(b"PK\5\6")])
    names = [many.replace(b"a/x", f"a/{i}".encode()) for i in range(9)]
    body = bytes(data[:first]) + bytes(data[first:second]) + b"".join(names)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 10, 10, 0, first, 0)
    assert offset[0] < first
    with pytest.raises(CheckpointError, match="overlap"):
        opened(body + end)


def _wide_entry(length: int) -> bytes:
    """Return an archive whose last entry has its sizes and place in 64 bits."""
    data = zipped(GOOD)
    entry, end = data.rfind(b"PK\1\2"), data.rfind(b"PK\5\6")
    header = bytearray(data[entry : entry + 46])
    size, start = struct.unpack_from("<I", header, 24)[0], data.rfind(b"PK\3\4")
    for place, layout, value in ((20, "<2I", 2), (42, "<I", 1)):
        struct.pack_into(layout, header, place, *(0xFFFFFFFF,) * value)
    extra = struct.pack("<2HI", 0xCAFE, 4, 0)
    extra += struct.pack("<2H3Q", 1, length, size, size, start)[: 4 + length]
    struct.pack_into("<H", header, 30, len(extra))
    name = data[entry + 46 : end]
    return data[:entry] + bytes(header) + name + extra + data[end:]


def test_entries_with_wide_sizes(opened):
    """Those of more than 4 GiB, and those that begin beyond."""
    tensors = opened(_wide_entry(24)).tensors
    assert tensors["w"].read().tobytes() == ARRAY.tobytes()
    with pytest.raises(CheckpointError, match="64-bit size"):
        opened(_wide_entry(16))


def test_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError, match="give the path"):
            open_checkpoint(path)


def test_storages_described_in_two_ways(opened):
    first, second = (
        Persistent(("storage", Name("torch", kind), "0", "cpu", 12))
        for kind in (STORAGES["float32"], STORAGES["int32"])
    )
    function = Name("torch._utils", "_rebuild_tensor_v2")
    tensors = {
        str(i): Call(function, (storage, 0, (12,), (1,), False, ordered({})))
        for i, storage in enumerate((first, second))
    }
    head = stream_file({}).split(dumps({}), 1)[0]
    with pytest.raises(CheckpointError, match="two ways"):
        opened(head + dumps(tensors) + dumps(["0"]))


def test_a_wide_directory(opened):
    """Archives of more than 4 GiB have 64-bit fields; torch writes them early."""
    data = zipped(GOOD)
    end = data.rfind(b"PK\5\6")
    _, _, _, _, count, size, start, _ = struct.unpack("<4s4H2IH", data[end:])
    wide = struct.pack(
        "<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start
    )
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    narrow = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0
    )
    tensors = opened(data[:end] + wide + locator + narrow).tensors
    assert tensors["w"].read().tobytes() == ARRAY.tobytes()
