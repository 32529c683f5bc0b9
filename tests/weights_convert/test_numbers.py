"""The numbers of weights: types that are kept, cast or refused, and values that are."""

import json
import struct
import time

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from diffctl.priors.storage import read_model
from weights_convert import report
from weights_convert.cli import main
from weights_convert.families.base import CLASSIFIER

SHAPES = {
    **{"conv1.weight": (2, 1, 3, 3), "conv1.bias": (2,), "conv2.weight": (2, 2, 3, 3)},
    **{"conv2.bias": (2,), "fc1.weight": (4, 8), "fc1.bias": (4,)},
    **{"fc2.weight": (3, 4), "fc2.bias": (3,)},
}
CODES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8": "I8"},
    **{"int64": "I64", "uint8": "U8", "bool": "BOOL", "complex64": "C64"},
}


def _type(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def _drawn(name="float32"):
    rng = np.random.default_rng(0)
    return {n: rng.normal(size=s).astype(_type(name)) for n, s in SHAPES.items()}


def _save(path, arrays):
    """Write a safetensors file of any types, also those that its library lacks."""
    header, start = {}, 0
    for name, array in arrays.items():
        stop = start + array.nbytes
        code = CODES[array.dtype.name]
        place = {"shape": list(array.shape), "data_offsets": [start, stop]}
        header[name] = {"dtype": code} | place
        start = stop
    text = json.dumps(header).encode()
    body = b"".join(array.tobytes() for array in arrays.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.fixture
def convert(tmp_path, capsys):
    """Return what converts arrays, and returns code, folder and what was said."""
    (tmp_path / "config.json").write_text('{"image_size": 8, "padding": 1}')
    number = iter(range(99))

    def run(arrays, *arguments, file="model.safetensors"):
        _save(tmp_path / file, arrays)
        out = tmp_path / f"out{next(number)}"
        code = main([str(tmp_path / file), "--out", str(out), *arguments])
        assert out.exists() == (code == 0 and "--dry-run" not in arguments)
        said = capsys.readouterr()
        return code, out, said.out + said.err

    return run


@pytest.mark.parametrize("dtype", ["stored", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", [n for n in CODES if "float" in n])
def test_every_type_is_kept_or_cast_as_asked(name, dtype, convert):
    arrays = _drawn(name)
    code, out, said = convert(arrays, "--dtype", dtype)
    assert code == 0
    kept = "bfloat16" if "float8" in name else name
    expected = _type(kept if dtype == "stored" else dtype)
    written = load_file(out / "weights.safetensors")
    assert {array.dtype for array in written.values()} == {expected}
    description = json.loads((out / "model.json").read_text())
    assert description["dtype"] == str(expected)
    same = arrays["fc1.weight"].T.astype(expected)
    np.testing.assert_array_equal(written["linear1.kernel"], same)
    told = "is kept as bfloat16" in said
    assert told == (dtype == "stored" and "float8" in name)
    assert told == any("bfloat16" in note for note in description["source"]["notes"])


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_is_kept_without_a_loss_and_computes(name, convert):
    numbers = np.arange(256, dtype=np.uint8).view(_type(name))
    numbers = numbers[np.isfinite(numbers.astype(np.float32))]
    arrays = _drawn(name) | {"fc1.weight": np.resize(numbers, (4, 8))}
    nets = []
    for dtype in ("stored", "float32"):
        _, out, _ = convert(arrays, "--dtype", dtype)
        nets.append(read_model(out, kind=CLASSIFIER)[0])
    for kept, cast in zip(*map(jax.tree.leaves, nets), strict=True):
        np.testing.assert_array_equal(kept.astype(np.float32), cast)
    x = jax.numpy.ones((8, 8, 1))
    np.testing.assert_array_equal(nets[0](x), nets[1](x))


def test_a_mixture_of_half_types_is_kept_in_one_that_holds_both():
    from weights_convert.values import kept_as

    half, brain, eight = map(_type, ("float16", "bfloat16", "float8_e5m2"))
    single, double = map(_type, ("float32", "float64"))
    assert kept_as([half, brain]) == single == kept_as([half, single, eight])
    assert kept_as([eight, brain]) == brain and kept_as([half, half]) == half
    assert kept_as([double, brain]) == double


@pytest.mark.parametrize("name", ["int8", "int64", "uint8", "bool", "complex64"])
@pytest.mark.parametrize("dtype", ["stored", "float32"])
def test_what_is_no_floating_point_number_is_refused_by_name(name, dtype, convert):
    wrong = {"conv2.weight": np.zeros(SHAPES["conv2.weight"], _type(name))}
    code, _, said = convert(_drawn() | wrong, "--dtype", dtype)
    assert code == 2
    assert f"conv2.weight ({name})" in said and "dequantize" in said


def _spoilt(value, name="float32", count=3):
    arrays = _drawn(name)
    arrays["fc1.weight"].reshape(-1)[:count] = value
    arrays["conv1.bias"][0] = value
    return arrays


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float8_e5m2"])
def test_weights_that_are_not_finite_are_named(value, name, convert, tmp_path, capsys):
    for arguments in ([], ["--dry-run"], ["--dtype", "float32"], ["--orbax"]):
        code, _, said = convert(_spoilt(value, name), *arguments)
        assert code == 2
        assert "conv1.bias (1 of 2), fc1.weight (3 of 32)" in said
    assert main(["inspect", str(tmp_path / "model.safetensors")]) == 0
    assert "fc1.weight (3 of 32)" in capsys.readouterr().out


def test_weights_that_a_cast_makes_infinite_are_named(convert):
    code, _, said = convert(_spoilt(1e6), "--dtype", "float16")
    assert code == 2 and "fc1.weight (3 too large for float16)" in said
    assert convert(_spoilt(1e6), "--dtype", "bfloat16")[0] == 0
    assert convert(_spoilt(1e6))[0] == 0
    code, _, said = convert(_spoilt(1e300, "float64"), "--dtype", "float32")
    assert code == 2 and "too large for float32" in said


@pytest.mark.parametrize("extra", ["empty", "scalar"])
def test_tens_of_thousands_of_other_tensors_are_told_quickly(extra, tmp_path, capsys):
    """0.8 s each on one core; the limit is for slow machines."""
    shape = (0,) if extra == "empty" else (1,)
    arrays = _drawn() | {f"fc1.t{i}": np.zeros(shape, "f4") for i in range(10_000)}
    _save(tmp_path / "m.safetensors", arrays)
    (tmp_path / "config.json").write_text('{"image_size": 8, "padding": 1}')
    start = time.perf_counter()
    assert main([str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert time.perf_counter() - start < 10
    assert "fc1.t0" in said and len(said) < 3000
    assert ("10000 tensors of the file are empty" in said) == (extra == "empty")


def test_tables_of_very_many_tensors_are_cut(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "_MAX_ROWS", 40)
    _save(tmp_path / "m.safetensors", {f"t{i}": np.zeros(0, "f4") for i in range(1040)})
    assert main(["inspect", str(tmp_path / "m.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "t39 " in said and "t40 " not in said and "and 1,000 more" in said
