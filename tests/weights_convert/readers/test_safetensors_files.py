"""The safetensors format against its own library, alone and in shards."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tests.weights_convert.readers.files import zip_file
from tests.weights_convert.readers.test_torch_files import assert_holds
from weights_convert.readers import CheckpointError

TYPES = (
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"),
    *("uint64", "uint32", "uint16", "uint8", "bool", "complex64"),
)


def _arrays() -> dict[str, np.ndarray]:
    source = np.random.default_rng(0)
    arrays = {
        name: (source.normal(size=(3, 5)) * 50).astype(getattr(ml_dtypes, name, name))
        for name in TYPES
    }
    return arrays | {"scalar": np.array(2.5), "empty": np.empty((0, 7), np.float32)}


def test_every_type(opened):
    arrays = _arrays()
    data = safetensors.numpy.save(arrays, {"format": "pt"})
    checkpoint = opened(data, "model.safetensors")
    in_order = {name: arrays[name] for name in checkpoint.tensors}
    assert in_order.keys() == arrays.keys()
    assert_holds(checkpoint, in_order)
    assert (checkpoint.format, checkpoint.extra) == ("safetensors", {"format": "pt"})


def _file(header, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def _entry(begin: int = 0, end: int = 8, shape=(2,), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_a_header_whose_length_begins_like_a_pickle(opened):
    text = json.dumps({"a": _entry()})
    data = _file(text.ljust(128).encode(), bytes(8))
    assert data[0] == 0x80
    assert_holds(opened(data), {"a": np.zeros(2, np.float32)})


DAMAGED = {
    "header_longer_than_the_file": (
        _file({"a": _entry()}, bytes(8), 1 << 31),
        "claims",
    ),
    "header_of_some_megabytes": (_file(b"{" + b" " * (9 << 20) + b"}"), "JSON"),
    "no_json": (_file(b"{]"), "JSON"),
    "nested_json": (_file(b'{"a":' * 100_000), "JSON"),
    "long_number": (_file(b'{"a":' + b"9" * 10_000 + b"}"), "JSON"),
    "no_text": (_file(b'{"\xff":1}'), "JSON"),
    "key_twice": (_file(b'{"a":1,"a":2}'), "twice"),
    "no_entry": (_file({"a": 3}), "place"),
    "no_offsets": (_file({"a": {"dtype": "F32", "shape": [2]}}), "place"),
    "negative": (_file({"a": _entry(-8, 0)}, bytes(8)), "place"),
    "reversed": (_file({"a": _entry(8, 0)}, bytes(8)), "place"),
    "fraction": (_file({"a": _entry(0, 8.0)}, bytes(8)), "place"),
    "truth": (_file({"a": _entry(False, 8)}, bytes(8)), "place"),
    "gap": (_file({"a": _entry(4, 12)}, bytes(12)), "gap"),
    "overlap": (_file({"a": _entry(), "b": _entry(4, 12)}, bytes(12)), "overlap"),
    "cut_short": (_file({"a": _entry()}, bytes(7)), "take 8 bytes"),
    "trailing_bytes": (_file({"a": _entry()}, bytes(9)), "take 8 bytes"),
    "huge_claim": (_file({"a": _entry(0, 1 << 43, [1 << 41])}, bytes(8)), "take"),
    "wrong_shape": (_file({"a": _entry(shape=[3])}, bytes(8)), "shape and type"),
    "huge_shape": (_file({"a": _entry(shape=[1 << 62] * 9)}, bytes(8)), "shape"),
    "many_axes": (_file({"a": _entry(shape=[1] * 99)}, bytes(8)), "shape"),
    "empty_but_huge": (_file({"a": _entry(0, 0, [0, 1 << 40])}), "claims"),
    "unknown_type": (_file({"a": _entry(dtype="F4")}, bytes(8)), "F4"),
    "type_is_a_list": (_file({"a": _entry() | {"dtype": []}}, bytes(8)), "type"),
    "name_for_the_terminal": (_file({"\x1b[2J": _entry()}, bytes(8)), "printed"),
    "long_name": (_file({"a" * 600: _entry()}, bytes(8)), "512"),
    "nothing": (_file({}), "no dictionary"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_a_clear_error(case, opened):
    data, message = DAMAGED[case]
    with pytest.raises(CheckpointError, match=message):
        opened(data, "model.safetensors")


@pytest.fixture
def folder(tmp_path):
    """Write two shards and return what writes an index for them."""
    arrays = {name: _arrays()[name] for name in ("float32", "bfloat16", "int64")}
    names = list(arrays)
    first = {name: arrays[name] for name in names[:2]}
    safetensors.numpy.save_file(first, tmp_path / "a.safetensors")
    (tmp_path / "b.bin").write_bytes(zip_file({names[2]: arrays[names[2]]}))
    places = dict(zip(names, ("a.safetensors", "a.safetensors", "b.bin"), strict=True))

    def index(**changes) -> bytes:
        whole = places | changes
        left = {name: place for name, place in whole.items() if place != "none"}
        text = {"metadata": {"total_size": 1}, "weight_map": left}
        return json.dumps(text).encode()

    index.arrays = arrays
    return index


INDEX = "model.safetensors.index.json"


def test_shards(folder, opened):
    checkpoint = opened(folder(), INDEX)
    assert_holds(checkpoint, folder.arrays)
    assert checkpoint.extra == {"total_size": 1}


WRONG = {
    "path_up": ({"float32": "../a.safetensors"}, "beside"),
    "absolute": ({"float32": "/etc/hostname"}, "beside"),
    "backslash": ({"float32": "..\\a.safetensors"}, "beside"),
    "drive": ({"float32": "C:a.safetensors"}, "beside"),
    "here": ({"float32": "."}, "beside"),
    "folder_above": ({"float32": ".."}, "beside"),
    "nothing": ({"float32": ""}, "beside"),
    "number": ({"float32": 3}, "beside"),
    "null_byte": ({"float32": "a\0b"}, "beside"),
    "missing_file": ({"float32": "c.bin"}, "cannot read"),
    "other_file": ({"float32": "b.bin"}, "lacks it"),
    "missing_tensor": ({"more": "b.bin"}, "lacks it"),
    "unlisted": ({"float32": "none"}, "does not list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_index_and_files_must_agree(case, folder, opened):
    changes, message = WRONG[case]
    with pytest.raises(CheckpointError, match=message):
        opened(folder(**changes), INDEX)


@pytest.mark.parametrize("text", (b"{}", b'{"weight_map": {}}', b"[]", b"", b"{"))
def test_an_index_without_a_map(text, opened):
    with pytest.raises(CheckpointError):
        opened(text, INDEX)
