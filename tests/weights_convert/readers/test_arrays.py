"""NumPy arrays inside pickles, as NumPy itself writes them."""

import io
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from tests.weights_convert.readers.files import (
    module_state,
    persistent_class,
    stream_file,
    zipped,
)
from tests.weights_convert.readers.pickles import Call, Name, Raw, dumps, opcodes
from tests.weights_convert.readers.test_torch_files import assert_holds
from weights_convert.readers import CheckpointError

SOURCE = np.random.default_rng(0)
LONG = SOURCE.normal(size=(300, 1000)).astype(np.float32)  # 1.2 MB
ARRAYS = {
    "weight": SOURCE.normal(size=(4, 3)).astype(np.float32),
    "transposed": np.asfortranarray(SOURCE.normal(size=(4, 3, 2))),
    "half": SOURCE.normal(size=70).astype(np.float16),
    "brain": np.arange(3).astype(ml_dtypes.bfloat16),
    "big_endian": np.arange(4, dtype=">f4"),
    "steps": np.array(7),
    "none": np.zeros((2, 0), np.float32),
    "mask": np.array([True, False]),
    "long": LONG,
}
# Beside the tensors, and not one of them.
OTHERS = {"best": np.float64(0.5), "names": np.array(["a", None], object), "n": 3}


def _old(data: bytes) -> bytes:
    """Return the pickle as NumPy 1 wrote it; at protocol 2 names end with a line."""
    return data.replace(b"numpy._core.", b"numpy.core.")


def _expected() -> dict[str, np.ndarray]:
    native = ARRAYS["big_endian"].astype(np.float32)
    return ARRAYS | {"big_endian": native}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_dictionaries_of_arrays(protocol, opened):
    data = pickle.dumps({"ema": ARRAYS | OTHERS}, protocol)
    checkpoint = opened(data, "network.pkl")
    assert checkpoint.container == "ema"
    assert_holds(checkpoint, _expected())
    assert checkpoint.extra["n"] == 3


def test_files_of_older_releases(opened):
    assert_holds(opened(_old(pickle.dumps(ARRAYS, 2)), "network.pkl"), _expected())


def test_archives_and_streams(opened):
    """As torch.save writes a dictionary that holds no tensor of its own."""
    root = pickle.dumps({"state_dict": ARRAYS}, 2)
    entries = {"archive/data.pkl": root, "archive/version": b"3\n"}
    assert_holds(opened(zipped(entries)), _expected())
    head = stream_file({}).split(dumps({}), 1)[0]
    assert_holds(opened(head + root + dumps([])), _expected())


def test_arrays_are_parts_of_modules(opened):
    raw = {name: Raw(pickle.dumps(array, 2)[2:-1]) for name, array in ARRAYS.items()}
    parts = {"weight": raw["weight"]}, {"filter": raw["half"]}
    state = module_state({}, parts[1], {}) | {"_parameters": parts[0]}
    checkpoint = opened(dumps({"ema": persistent_class("Net", state)}), "network.pkl")
    expected = {"weight": ARRAYS["weight"], "filter": ARRAYS["half"]}
    assert_holds(checkpoint, expected)


def test_bytes_of_an_array_stay_in_the_file(opened):
    tensor = opened(pickle.dumps({"long": LONG}, 4), "network.pkl").tensors["long"]
    assert type(tensor.storage.data.obj).__name__ == "mmap"


def _array(shape=(2,), data=b"\0" * 8, code="f4", state=None) -> Call:
    dtype = Call(Name("numpy", "dtype"), (code, False, True), None, (3, "<"))
    make = Name("numpy.core.multiarray", "_reconstruct")
    state = (1, shape, dtype, False, data) if state is None else state
    return Call(make, (Name("numpy", "ndarray"), (0,), b"b"), None, state)


DAMAGED = {
    "too few bytes": _array(data=b"\0" * 7),
    "other shape": _array(shape=(3,)),
    "negative": _array(shape=(-2, -1)),
    "huge": _array(shape=(1 << 40, 1 << 40), data=b""),
    "empty but huge": _array(shape=(0, 1 << 62, 1 << 62), data=b""),
    "text for a shape": _array(shape="ab"),
    "text in a shape": _array(shape=("a",)),
    "many axes": _array(shape=(1,) * 40 + (2,)),
    "no bytes": _array(data=3),
    "no state": _array(state=3),
    "no dtype": _array(state=(1, (2,), "f4", False, b"\0" * 8)),
    "a call for a code": _array(code=Call(Name("os", "system"), ("true",))),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_arrays_are_refused(case, opened):
    with pytest.raises(CheckpointError):
        opened(dumps({"w": DAMAGED[case]}), "network.pkl")


@pytest.mark.parametrize("code", ["O8", "U4", "S3", "V7", "M8", "x"])
def test_arrays_of_other_things_are_no_tensors(code, opened):
    value = {"w": _array(code=code), "v": _array()}
    assert list(opened(dumps(value), "network.pkl").tensors) == ["v"]


def test_subclasses_and_other_functions_are_no_tensors(opened):
    """Nothing is called by name: only the record of NumPy's own array is read."""
    other = _array()
    matrix = Call(other.function, (Name("numpy", "matrix"),), None, other.state)
    value = {"w": matrix, "x": Call(Name("evil", "_reconstruct"), other.args)}
    with pytest.raises(CheckpointError, match="no dictionary of tensors"):
        opened(dumps(value), "network.pkl")


ENCODE = Name("_codecs", "encode")


@pytest.mark.parametrize(
    "call",
    [
        Call(ENCODE, ("a", "rot13")),
        Call(ENCODE, (3, "latin1")),
        Call(ENCODE, ("\u0100", "latin1")),
        Call(ENCODE, ("a",)),
        Call(Name("builtins", "bytes"), (1 << 40,)),
    ],
)
def test_bytes_are_made_of_latin1_only(call, opened):
    with pytest.raises(CheckpointError):
        opened(dumps({"w": call}), "network.pkl")


def test_encoding_a_text_again_and_again_is_refused(opened):
    """A megabyte encoded ten thousand times would take ten gigabytes."""
    text = opcodes("a" * (1 << 20)) + b"q\0"
    again = b"".join(
        opcodes(ENCODE) + b"h\0" + opcodes("latin1") + b"\x86R" for _ in range(10_000)
    )
    with pytest.raises(CheckpointError, match="operations"):
        opened(dumps([Raw(text), Raw(b"(" + again + b"t")]), "network.pkl")


def test_npz_files_are_refused_by_name(opened):
    file = io.BytesIO()
    np.savez(file, weight=ARRAYS["weight"])
    assert zipfile.is_zipfile(file)
    with pytest.raises(CheckpointError, match=r"torch\.save"):
        opened(file.getvalue(), "weights.npz")
