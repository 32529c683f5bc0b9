"""What is said of a damaged file is about the file, and names it."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.weights_convert.fuzzing.networks import NETWORKS
from tests.weights_convert.fuzzing.seeds import CONFIG, wide_header
from tests.weights_convert.readers.files import zip_file, zipped
from tests.weights_convert.readers.pickles import Call, Name, dumps, ordered
from weights_convert.cli import main
from weights_convert.readers import CheckpointError, open_checkpoint


def _archive(value: object) -> bytes:
    return zipped({"archive/data.pkl": dumps(value), "archive/version": b"3\n"})


PYTHONS_WORDS = {
    "arguments": (
        "model.pt",
        _archive({"w": Call(Name("torch._utils", "_rebuild_tensor_v3"), (1,))}),
        "its parts do not fit",
    ),
    "nothing": (
        "model.pt",
        _archive({"w": Call(Name("collections", "OrderedDict"), ([None],))}),
        "its parts do not fit",
    ),
    "a name without an end": (
        "model.pt",
        zipped({"archive/data.pkl": b"\x80\x02c" + b"x" * 300}),
        "a name without an end",
    ),
    "digits": (
        "model.safetensors",
        wide_header(b'{"w": ' + b"9" * 5000 + b"}"),
        "a number of thousands of digits",
    ),
}


@pytest.mark.parametrize(
    ("name", "data", "said"), PYTHONS_WORDS.values(), ids=PYTHONS_WORDS
)
def test_pythons_words_stay_inside(name, data, said, tmp_path: Path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name)) and said in message
    for word in ("argument", "NoneType", "subsection", "limit", "_rebuild", "object"):
        assert word not in message


CROWDS = {
    "empty tensors": b'"w%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}',
    "lists": b'"w%d":[[],[],[],[],[]]',
}


@pytest.mark.parametrize("entry", CROWDS.values(), ids=CROWDS)
def test_crowds_are_refused_before_they_are_parsed(entry, tmp_path: Path):
    """A megabyte of commas is ten of objects; commas in strings count for nothing."""
    path = tmp_path / "model.safetensors"
    whole = b",".join(entry % n for n in range(20_000))
    path.write_bytes(wide_header(b"{" + whole + b"}"))
    with pytest.raises(CheckpointError, match="do not trust"):
        open_checkpoint(path)
    tensor = b'"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    notes = b'{"__metadata__":{"tags":"' + b'\\"a\\",[' * 100_000 + b'"},' + tensor
    path.write_bytes(wide_header(notes + b"}", bytes(4)))
    assert open_checkpoint(path).tensors["w"].read() == 0


def test_a_tensor_that_is_damaged_names_its_file_when_it_is_read(tmp_path: Path):
    whole = zip_file(ordered({"w": np.arange(8, dtype=np.float32)}))
    place = whole.index(np.float32(7).tobytes())
    path = tmp_path / "model.pt"
    path.write_bytes(whole[:place] + b"\1" + whole[place + 1 :])
    tensor = open_checkpoint(path).tensors["w"]
    with pytest.raises(CheckpointError, match=r"model\.pt: the checksum"):
        tensor.read()


def test_a_setting_that_is_missing_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shapes = {
        "conv1": (2, 1, 3, 3),
        "conv2": (2, 2, 3, 3),
        "fc1": (4, 8),
        "fc2": (3, 4),
    }
    arrays = {f"{n}.weight": np.ones(s, np.float32) for n, s in shapes.items()}
    path = tmp_path / "digits.pt"
    path.write_bytes(zip_file(ordered(arrays)))
    assert main([str(path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{path}: the setting 'image_size' is needed" in said


@pytest.mark.parametrize("value", [[], {"a": 1}, [["linear"]]], ids=str)
@pytest.mark.parametrize(
    "name", ["beta_schedule", "prediction_type", "variance_type", "down_block_types"]
)
def test_a_setting_that_is_no_name_is_told(
    name: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    files = NETWORKS.seeds["diffusers"]
    settings = json.loads(files[CONFIG])
    holder = settings if name in settings else settings["scheduler"]
    holder[name] = [value, value] if name in settings else value
    for part, data in (files | {CONFIG: json.dumps(settings).encode()}).items():
        (tmp_path / part).write_bytes(data)
    out = str(tmp_path / "out")
    source = str(tmp_path / next(iter(files)))
    assert main([source, "--config", str(tmp_path / CONFIG), "--out", out]) == 2
    said = capsys.readouterr().err
    assert "cannot be converted; known are" in said and "unhashable" not in said
