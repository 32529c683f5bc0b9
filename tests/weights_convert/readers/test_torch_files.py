"""What torch.save wrote, in both formats, with every type and layout."""

import struct
import tracemalloc

import chex
import ml_dtypes
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
from weights_convert.readers import CheckpointError

WRITERS = {
    "zip": zip_file,
    "zip_big_endian": lambda value: zip_file(value, "big"),
    "stream": stream_file,
    "stream_protocol_4": lambda value: stream_file(value, 4),
}


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


def _typed(dtype: str) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(3, 5)) * 50
    return values.astype(getattr(ml_dtypes, dtype, dtype))


BASE = np.arange(48, dtype=np.float32).reshape(6, 8)
LAYOUTS = {
    "rows": BASE[2:5],
    "window": BASE[1:4, 2:7],
    "every_third": BASE[:, ::3],
    "transposed": BASE.T,
    "repeated": np.broadcast_to(BASE[0], (4, 8)),
    "scalar": np.array(2.5, np.float32),
    "empty": np.empty((0, 512), np.float32),
    "channels_last": np.random.default_rng(1)
    .normal(size=(2, 4, 5, 3))
    .transpose(0, 3, 1, 2),
}


def assert_holds(checkpoint, arrays: dict[str, np.ndarray]) -> None:
    """Assert that a checkpoint holds these arrays, in this order, bit for bit."""
    assert list(checkpoint.tensors) == list(arrays)
    for name, tensor in checkpoint.tensors.items():
        found = tensor.read()
        assert (found.dtype, found.shape) == (arrays[name].dtype, arrays[name].shape)
        assert (tensor.name, tensor.dtype, tensor.shape) == (
            *(name, found.dtype, found.shape),
        )
        assert found.flags.c_contiguous and found.dtype.isnative and found.flags.owndata
        assert found.tobytes() == arrays[name].tobytes()


@pytest.mark.parametrize("dtype", STORAGES)
def test_every_type(write, dtype, opened):
    arrays = {"x": _typed(dtype)}
    assert_holds(opened(write(ordered(arrays))), arrays)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(write, layout, opened):
    arrays = {"x": LAYOUTS[layout]}
    assert_holds(opened(write(ordered(arrays))), arrays)


def test_tensors_share_a_storage(write, opened):
    arrays = {"first": BASE[:3], "second": BASE.T}
    data = write(ordered(arrays))
    checkpoint = opened(data)
    assert_holds(checkpoint, arrays)
    first, second = checkpoint.tensors.values()
    assert first.storage is second.storage
    assert len(data) < 2 * BASE.nbytes + 1500


def test_only_what_is_read_takes_memory(write, opened):
    arrays = {str(i): np.full(1 << 18, i, np.float32) for i in range(8)}
    data = write(ordered(arrays))
    tracemalloc.start()
    checkpoint = opened(data)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    read = checkpoint.tensors["3"].read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert before < 1 << 18
    assert peak - before < 1.1 * read.nbytes


def _swapped_entry(entries: dict[str, bytes], name: str, data: bytes) -> bytes:
    """Return an archive in which an entry was changed after its checksum was taken."""
    before = zipped(entries)
    assert before.count(entries[name]) == 1
    return before.replace(entries[name], data)


def test_a_changed_weight_is_noticed(opened):
    array = np.random.default_rng(2).normal(size=100)
    entries = zip_entries(ordered({"x": array}))
    changed = array.copy()
    changed[7] += 1
    data = _swapped_entry(entries, "archive/data/0", changed.tobytes())
    tensor = opened(data).tensors["x"]
    for _ in range(2):
        with pytest.raises(CheckpointError, match="checksum"):
            tensor.read()


def test_a_file_without_checksums_is_read(opened):
    """torch.serialization.set_crc32_options(False) writes zeros for them."""
    arrays = {"x": BASE}
    data = bytearray(zip_file(ordered(arrays)))
    for magic, place in ((b"PK\3\4", 14), (b"PK\1\2", 16)):
        start = data.find(magic)
        while start >= 0:
            data[start + place : start + place + 4] = bytes(4)
            start = data.find(magic, start + 4)
    assert_holds(opened(bytes(data)), arrays)


def test_untyped_storages_carry_the_type_in_the_tensor(opened):
    """_rebuild_tensor_v3 serves the types that have no storage of their own."""
    values = np.arange(6).astype(ml_dtypes.float8_e4m3fn)
    storage = Persistent(
        ("storage", Name("torch.storage", "UntypedStorage"), "0", "cpu", 6)
    )
    args = (storage, 0, (2, 3), (3, 1), False, ordered({}))
    function = Name("torch._utils", "_rebuild_tensor_v3")
    dtype = Name("torch", "float8_e4m3fn")
    pickled = dumps({"x": Call(function, (*args, dtype, None))})
    entries = {"a/data.pkl": pickled, "a/data/0": values.tobytes()}
    assert_holds(opened(zipped(entries)), {"x": values.reshape(2, 3)})


def test_parameters_and_tensors_with_attributes(write, opened):
    array = Call(Name("torch._utils", "_rebuild_parameter"), (BASE, True, ordered({})))
    with_state = Call(
        Name("torch._utils", "_rebuild_parameter_with_state"),
        (BASE.T, True, ordered({}), {"note": 1}),
    )
    checkpoint = opened(write({"a": array, "b": with_state}))
    assert_holds(checkpoint, {"a": BASE, "b": BASE.T})


def test_a_tensor_with_attributes(opened):
    storages_of = ("storage", Name("torch", "FloatStorage"), "0", "cpu", 48)
    args = (Persistent(storages_of), 0, (6, 8), (8, 1), False, ordered({}))
    inner = Name("torch._utils", "_rebuild_tensor_v2")
    whole = (inner, Name("torch", "Tensor"), args, {"foo": 3})
    pickled = dumps({"x": Call(Name("torch._tensor", "_rebuild_from_type_v2"), whole)})
    entries = {"a/data.pkl": pickled, "a/data/0": BASE.tobytes()}
    assert_holds(opened(zipped(entries)), {"x": BASE})


def test_streams_with_views_of_storages(opened):
    """Before 0.4 a persistent id could name a part of a storage."""
    identity = ("storage", Name("torch", "FloatStorage"), "0", "cpu", 48)
    part = Persistent((*identity, ("0v", 8, 16)))
    function = Name("torch._utils", "_rebuild_tensor")
    pickled = dumps({"x": Call(function, (part, 0, (2, 8), (8, 1)))})
    head = stream_file({}).split(dumps({}), 1)[0]
    data = head + pickled + dumps(["0"]) + struct.pack("<q", 48) + BASE.tobytes()
    assert_holds(opened(data), {"x": BASE[1:3]})


@pytest.mark.parametrize("view", (("v", 40, 9), ("v", -1, 2), (0, 0, 1), (), 3))
def test_views_outside_of_a_storage(view, opened):
    identity = ("storage", Name("torch", "FloatStorage"), "0", "cpu", 48)
    head = stream_file({}).split(dumps({}), 1)[0]
    with pytest.raises(CheckpointError, match="outside its storage"):
        opened(head + dumps({"x": Persistent((*identity, view))}))


def test_sources_of_classes_in_streams_are_passed_over(opened):
    """Streams with whole modules add the source code to the class."""
    key = ("module", Name("project", "Net"), "net.py", "raise SystemExit")
    checkpoint = opened(stream_file({"x": BASE, "net": Call(Persistent(key), ())}))
    chex.assert_trees_all_equal(checkpoint.choices["."].tensors["x"].read(), BASE)
