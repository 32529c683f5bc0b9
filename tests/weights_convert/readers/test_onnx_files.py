"""ONNX files: every way to store numbers and lose names; each other one is refused."""

import re
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.weights_convert.readers.onnx_files import (
    CODES,
    RAW,
    beside,
    constant,
    field,
    model,
    node,
    onnx_file,
    packed,
    pair,
    tensor,
    varint,
)
from weights_convert.readers import (
    Checkpoint,
    CheckpointError,
    companions,
    open_checkpoint,
)
from weights_convert.readers.onnx_file import MAX_TENSORS

SOURCE = np.random.default_rng(0)
WEIGHT = SOURCE.normal(size=(3, 4)).astype(np.float32)
SCALE = SOURCE.normal(size=5).astype(np.float32)
KNOWN = tensor("mid.norm.conv.weight", WEIGHT)

Opened = Callable[..., Checkpoint]


def _bits(array: np.ndarray) -> list[int]:
    """Return numbers as int32_data and int64_data hold them."""
    if array.dtype.kind in "iub":
        return [int(number) for number in array.ravel()]
    return array.ravel().view(f"u{array.itemsize}").tolist()


@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_raw_bytes_of_every_type(dtype, opened: Opened):
    array = (SOURCE.normal(size=(2, 3)) * 4).astype(dtype)
    found = opened(onnx_file({"a.w": array, "a.none": array[:0], "a.one": array[0, 0]}))
    assert found.format == "ONNX" and found.notes == {
        "producer": "pytorch",
        "beside": [],
    }
    for name, expected in {"a.w": array, "a.none": array[:0]}.items():
        read = found.tensors[name].read()
        assert read.dtype == dtype and read.shape == expected.shape
        np.testing.assert_array_equal(read, expected)
    assert found.tensors["a.one"].shape == ()


@pytest.mark.parametrize(
    ("dtype", "number"),
    [
        *((kind, 5) for kind in ("int32", "int16", "int8", "uint16", "uint8", "bool")),
        *((kind, 5) for kind in ("float16", ml_dtypes.bfloat16)),
        *(("int64", 7), ("uint64", 11), ("uint32", 11)),
    ],
    ids=str,
)
def test_numbers_in_seven_bits_of_each_byte(dtype, number, opened: Opened):
    """More than are decoded together, of all lengths, negative ones among them."""
    array = np.concatenate([[0, 1, -1], SOURCE.normal(size=40_000) * 100]).astype(dtype)
    place = field(number, packed(_bits(array)))
    found = opened(model([tensor("a.w", array, place)])).tensors["a.w"].read()
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("dtype", "number"),
    [("float32", 4), ("complex64", 4), ("float64", 10), ("complex128", 10)],
)
def test_numbers_in_a_row(dtype, number, opened: Opened):
    array = SOURCE.normal(size=(2, 3)).astype(dtype)
    found = opened(model([tensor("a.w", array, field(number, array.tobytes()))]))
    np.testing.assert_array_equal(found.tensors["a.w"].read(), array)


def test_shapes_may_be_packed(opened: Opened):
    data = field(1, packed((3, 4))) + field(2, 1) + field(8, "a.w")
    found = opened(model([data + field(RAW, WEIGHT.tobytes())])).tensors["a.w"]
    np.testing.assert_array_equal(found.read(), WEIGHT)


def test_bytes_in_a_file_beside(tmp_path: Path):
    places = {"a.w": beside("w.data", offset=5, length=48), "a.b": beside("w.data")}
    tensors = [tensor(name, WEIGHT, place) for name, place in places.items()]
    (tmp_path / "model.onnx").write_bytes(model(tensors))
    (tmp_path / "w.data").write_bytes(b"12345" + WEIGHT.tobytes() + bytes(43))
    assert companions(tmp_path / "model.onnx") == [tmp_path / "w.data"]
    found = open_checkpoint(tmp_path / "model.onnx").tensors
    np.testing.assert_array_equal(found["a.w"].read(), WEIGHT)
    assert found["a.b"].read().tobytes() == (b"12345" + WEIGHT.tobytes())[:48]


@pytest.mark.parametrize(
    ("place", "said"),
    {
        "out": (beside("../w.data"), "only files beside it"),
        "absolute": (beside("/etc/passwd"), "only files beside it"),
        "windows": (beside("..\\w.data"), "only files beside it"),
        "nowhere": (beside(""), "only files beside it"),
        "missing": (beside("v.data"), "cannot read"),
        "beyond": (beside("w.data", offset=60), "has no 48 bytes"),
        "negative": (beside("w.data", offset=-1), "has no 48 bytes"),
        "long": (beside("w.data", length=49), "has no 48 bytes"),
        "absurd": (beside("w.data", offset=10**30), "has no 48 bytes"),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_places_outside_a_file_beside(place, said, tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(model([tensor("a.w", WEIGHT, said[0])]))
    (tmp_path / "w.data").write_bytes(bytes(100))
    with pytest.raises(CheckpointError, match=re.escape(said[1])):
        open_checkpoint(tmp_path / "model.onnx")


def test_tensors_may_not_share_bytes_of_a_file_beside(tmp_path: Path):
    """A megabyte could be a thousand tensors otherwise."""
    tensors = [tensor(f"a.w{n}", WEIGHT, beside("w.data")) for n in range(3)]
    (tmp_path / "model.onnx").write_bytes(model(tensors))
    (tmp_path / "w.data").write_bytes(bytes(100))
    with pytest.raises(CheckpointError, match="overlap"):
        open_checkpoint(tmp_path / "model.onnx")


def _norm(name: str, module: str, **where: str) -> list[bytes]:
    """Return the nodes of a GroupNorm, as PyTorch writes them."""
    parts = (
        ("InstanceNormalization", "ones"),
        ("Mul", f"{name}w"),
        ("Add", f"{name}b"),
    )
    return [
        node(kind, ("x", taken), "y", name=f"/{module}/{kind}", **where)
        for kind, taken in parts
    ]


def test_names_come_back_from_the_modules_of_nodes(opened: Opened):
    """Transposed weights of MatMul, scales of GroupNorm, and what is stored once."""
    axes = SCALE[:, None, None]
    stored = {"onnx::MatMul_7": WEIGHT.T, "vw": axes, "vb": -axes, "ones": SCALE}
    tensors = [tensor(n, np.ascontiguousarray(a)) for n, a in stored.items()]
    nodes = [
        node("MatMul", ("x", "onnx::MatMul_7"), "y", "/mid/norm/to_q/MatMul"),
        *_norm("v", "mid/norm"),
        node("Identity", ("mid.norm.conv.weight",), "mid.norm.twin.weight"),
        node("Identity", ("vw",), "uw"),
        node("Identity", ("vb",), "ub"),
        *_norm("u", "ignored", scopes="['', 'mid.norm', 'mid.norm.inner', 'norm_1']"),
    ]
    found = opened(model([KNOWN, *tensors], nodes)).tensors
    expected = {
        "mid.norm.conv.weight": WEIGHT,
        "mid.norm.twin.weight": WEIGHT,
        "mid.norm.to_q.weight": WEIGHT,
        "mid.norm.weight": SCALE,
        "mid.norm.bias": -SCALE,
        "mid.norm.inner.weight": SCALE,
        "mid.norm.inner.bias": -SCALE,
    }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name].read(), array)


def test_weights_in_constants(opened: Opened):
    nodes = [
        constant("/mid/conv/Constant_output_0", WEIGHT),
        constant("/Constant_output_0", np.int64(3)),
        constant("/mid/to_q/Constant_output_0", np.ascontiguousarray(WEIGHT.T)),
        node("Conv", ("x", "/mid/conv/Constant_output_0"), "y", "/mid/conv/Conv"),
        node("MatMul", ("x", "/mid/to_q/Constant_output_0"), "", "/mid/to_q/MatMul"),
    ]
    found = opened(model([tensor("mid.a.weight", WEIGHT)], nodes)).tensors
    assert found.keys() == {"mid.a.weight", "mid.conv.weight", "mid.to_q.weight"}
    np.testing.assert_array_equal(found["mid.to_q.weight"].read(), WEIGHT)
    np.testing.assert_array_equal(found["mid.conv.weight"].read(), WEIGHT)


def _taking(*names: str) -> list[bytes]:
    return [node("MatMul", ("x", "val_1"), "y", name) for name in names]


LOST = {
    "no module": _taking("MatMul_3"),
    "a module that nobody knows": _taking("/block.0/to_q/MatMul"),
    "the name of another": _taking("/mid/norm/conv/MatMul"),
    "on the wrong side": [node("MatMul", ("val_1", "x"), "", "/mid/norm/to_q/MatMul")],
    "of Gemm": [node("Gemm", ("x", "val_1"), "", "/mid/norm/to_q/Gemm")],
    "two of one name": [
        *_taking("/mid/norm/to_q/MatMul"),
        node("MatMul", ("x", "val_2"), "y", "/mid/norm/to_q/MatMul_1"),
    ],
}


@pytest.mark.parametrize("nodes", LOST.values(), ids=LOST)
def test_lost_names_are_refused_with_the_cure(nodes, opened: Opened):
    made = [KNOWN, tensor("val_1", WEIGHT.T.copy()), tensor("val_2", 2 * WEIGHT.T)]
    with pytest.raises(CheckpointError, match=r"lost their names.*do_constant_folding"):
        opened(model(made, nodes), "model.onnx")


def test_a_file_without_names_is_refused(opened: Opened):
    with pytest.raises(CheckpointError, match="lost their names"):
        opened(onnx_file({"model/conv/kernel:0": WEIGHT, "val_1": WEIGHT}))


def _claiming(*dims: int, data: bytes = bytes(48)) -> bytes:
    shape = b"".join(field(1, length) for length in dims)
    return model([shape + field(2, 1) + field(8, "a.w") + field(RAW, data)])


HOSTILE = {
    "huge": (_claiming(1 << 62, 1 << 62), "bytes"),
    "negative": (_claiming(-3, -4), "bytes"),
    "empty and huge": (_claiming(0, 1 << 62, data=b""), "claims"),
    "axes": (_claiming(*[1] * 40, data=bytes(4)), "axes"),
    "many axes": (_claiming(*[1] * 5000, data=bytes(4)), "axes"),
    "too few bytes": (_claiming(3, 4, data=bytes(47)), "bytes"),
    "too many bytes": (_claiming(3, 4, data=bytes(49)), "too many"),
    "of text": (model([field(2, 8) + field(8, "a.w")]), "type 8"),
    "without type": (model([field(8, "a.w")]), "type 0"),
    "in parts": (model([KNOWN + field(3, b"")]), "in parts"),
    "no numbers": (model([tensor("a.w", WEIGHT, b"")]), "bytes"),
    "other numbers": (model([tensor("a.w", WEIGHT, field(7, bytes(12)))]), "another"),
    "few packed": (
        model([tensor("a.w", WEIGHT.astype(int), field(7, bytes(11)))]),
        "11 numbers",
    ),
    "endless number": (
        model([tensor("a.w", WEIGHT.astype(int), field(7, b"\xff" * 12))]),
        "too long",
    ),
    "twice": (model([KNOWN, KNOWN]), "two tensors"),
    "two graphs": (onnx_file({"a.w": WEIGHT}) + field(7, b""), "occurs twice"),
    "no graph": (field(1, 9) + field(2, "pytorch"), "lost"),
    "graph is a number": (field(1, 9) + field(2, "") + field(7, 3), "is a number"),
    "node is a number": (model([KNOWN], more=field(1, 3)), "a number"),
    "name of no text": (model([field(2, 1) + field(8, b"\xff")]), "no text"),
    "name of controls": (model([field(2, 1) + field(8, "a.\x1b[2J")]), "printed"),
    "past the end": (field(1, 9) + b"\x3a" + varint(1 << 40), "cut short"),
    "a group": (field(1, 9) + b"\x3a\x01\x0b", "no known kind"),
    "quantised": (
        model([KNOWN], [node("DequantizeLinear", ("mid.norm.conv.weight",))]),
        "quantised",
    ),
    "empty tensors": (
        model(field(1, 0) + field(2, 1) + field(8, f"a.{n}") for n in range(20_001)),
        f"over {MAX_TENSORS}",
    ),
    "repeats itself": (
        model([KNOWN], [node("Identity", ("mid.norm.conv.weight",), "a.b")] * 2),
        "two tensors",
    ),
}


@pytest.mark.parametrize(("data", "said"), HOSTILE.values(), ids=HOSTILE)
def test_damaged_and_hostile_files(data, said, opened: Opened):
    with pytest.raises(CheckpointError, match=f"model.onnx: .*{said}") as caught:
        opened(data, "model.onnx")
    assert str(caught.value).isprintable()


def test_endless_fields(opened: Opened, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("weights_convert.readers.onnx_file.MAX_FIELDS", 1000)
    with pytest.raises(CheckpointError, match="operations"):
        opened(model([KNOWN], more=field(13, 0) * 1000), "model.onnx")


def test_files_that_are_cut_short_anywhere(opened: Opened):
    whole = model([KNOWN], _norm("v", "mid/norm", scopes=repr(["", "a", "b"])))
    for length in range(3, len(whole)):
        with pytest.raises(CheckpointError):
            opened(whole[:length], "model.onnx")


def test_the_library_reads_what_is_written_here():
    onnx = pytest.importorskip("onnx")
    entry = field(14, pair("key", "value"))
    whole = onnx.load_from_string(model([KNOWN], [constant("c", WEIGHT)]) + entry)
    array = onnx.numpy_helper.to_array(whole.graph.initializer[0])
    np.testing.assert_array_equal(array, WEIGHT)
    held = whole.graph.node[0].attribute[0]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(held.t), WEIGHT)
