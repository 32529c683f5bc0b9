"""Files of other programs are told by name, and what would be needed instead."""

import json

import numpy as np
import pytest

from tests.weights_convert.readers.files import (
    module_state,
    nested_tensor,
    persistent_class,
    zip_entries,
    zip_file,
    zipped,
)
from tests.weights_convert.readers.pickles import Raw, dumps
from weights_convert.cli import main
from weights_convert.readers import CheckpointError, open_checkpoint

GOOD = zip_entries({"w": np.ones((2, 3), np.float32)})
MERGE, SCRIPT, EXPORT = "dcp_to_torch", r"torch\.jit\.load", r"torch\.export\.load"

# Name, bytes, what it is, what to do.
FILES = {
    "distributed": ("__0_0.distcp", zip_file({"w": np.ones(3)}), "distributed", MERGE),
    "metadata": (".metadata", b"\x80\x04N.", "distributed", MERGE),
    "deepspeed": (
        "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
        zip_file({"w": np.ones(3)}),
        "DeepSpeed",
        "zero_to_fp32",
    ),
    "script": (
        "s.pt",
        zipped(
            GOOD | {"archive/code/__torch__/net.py": b"", "archive/constants.pkl": b""}
        ),
        "TorchScript",
        SCRIPT,
    ),
    "script_without_constants": (
        "s.pt",
        zipped({"s/code/net.py": b"", "s/model.json": b"{}", "s/tensors/0": b""}),
        "TorchScript",
        SCRIPT,
    ),
    "exported": (
        "e.pt2",
        zipped({"e/archive_format": b"pt2", "e/data/sample_inputs/model.pt": b""}),
        r"torch\.export",
        EXPORT,
    ),
    "exported_before": (
        "e.pt2",
        zipped({"serialized_exported_program.json": b"{}", "version": b"5.1"}),
        r"torch\.export",
        EXPORT,
    ),
    "package": (
        "p.pt",
        zipped({"p/.data/extern_modules": b""}),
        "package",
        "state_dict",
    ),
    "keras": ("n.keras", zipped({"model.weights.h5": b""}, 8), "Keras", "PyTorch"),
    "hdf5": ("n.h5", b"\x89HDF\r\n\x1a\n" + bytes(9), "Keras", "PyTorch"),
    "tensorflow": ("model.ckpt.index", bytes(48), "TensorFlow", "from_tf"),
    "tensorflow_data": ("m.data-00000-of-00001", bytes(9), "TensorFlow", "from_tf"),
    "saved_model": ("saved_model.pb", b"\x08\x01\x12\x03", "TensorFlow", "PyTorch"),
    "lite": ("net.bin", b"\x1c\0\0\0TFL3" + bytes(9), "TensorFlow", "PyTorch"),
    "flax": ("flax_model.msgpack", b"\x82\xa6params\x80", "Flax", "from_flax"),
    "gguf": ("unet.gguf", b"GGUF\3\0\0\0" + bytes(20), "GGUF", "made from"),
    "gguf_unnamed": ("unet.bin", b"GGUF\3\0\0\0" + bytes(20), "GGUF", "made from"),
    "tar": ("n.nemo", bytes(257) + b"ustar\0" + bytes(300), "tar archive", "unpack"),
    "zip_of_files": (
        "n.zip",
        zipped({"a/model.ckpt": b""}, 8),
        "whole files",
        "unpack",
    ),
    "one_array": ("a.npy", b"\x93NUMPY\1\0" + bytes(20), "NumPy array", "state dict"),
    "compressed": ("m.pt.xz", b"\xfd7zXZ\0" + bytes(9), "xz", "unpack"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_of_other_programs(case, opened):
    name, data, what, cure = FILES[case]
    with pytest.raises(CheckpointError, match=f"(?s){what}.*{cure}"):
        opened(data, name)


@pytest.mark.parametrize(
    "name", ["net.h5", "net.pb", "net.xml", "n.msgpack", "n.ckpt.index", "n.gguf"]
)
def test_good_files_are_read_whatever_they_are_called(name, opened):
    assert list(opened(zipped(GOOD), name).tensors) == ["w"]


FOLDERS = {
    "distributed": (["__0_0.distcp", ".metadata"], MERGE),
    "deepspeed": (["zero_pp_rank_0_mp_rank_00_optim_states.pt"], "zero_to_fp32"),
    "saved_model": (["saved_model.pb", "variables/variables.index"], "TensorFlow"),
    "flax": (["flax_model.msgpack", "config.json"], "Flax"),
    "orbax": (["_METADATA", "manifest.ocdbt"], "Orbax"),
    "ours": (["model.json", "weights.safetensors"], "model of diffctl"),
    "gguf": (["unet-q4.gguf"], "GGUF"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_of_other_programs(case, tmp_path, capsys):
    names, cure = FOLDERS[case]
    for name in names:
        (tmp_path / "it" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "it" / name).write_bytes(b"{}")
    assert main([str(tmp_path / "it"), "--out", str(tmp_path / "out")]) == 2
    assert cure in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("variant", ["script", "export"])
def test_what_pytorch_itself_writes(tmp_path, variant):
    torch = pytest.importorskip("torch")
    net, path = torch.nn.Linear(2, 2), tmp_path / "net.pt2"
    if variant == "script":
        torch.jit.trace(net, torch.zeros(1, 2)).save(path)
    else:
        torch.export.save(torch.export.export(net, (torch.zeros(1, 2),)), path)
    with pytest.raises(
        CheckpointError, match=SCRIPT if variant == "script" else EXPORT
    ):
        open_checkpoint(path)


DEEP = {depth: '{"a":' * depth + "1" + "}" * depth for depth in (60, 70, 900, 100_000)}


@pytest.mark.parametrize("depth", [70, 900, 100_000])
@pytest.mark.parametrize("name", ["w.index.json", "w.safetensors", "config.json"])
def test_deep_json_is_refused_wherever_it_is_read(name, depth, tmp_path, capsys):
    text = DEEP[depth].encode()
    files = {
        "w.index.json": {"w.index.json": text},
        "w.safetensors": {"w.safetensors": len(text).to_bytes(8, "little") + text},
        "config.json": {"w.pt": zipped(GOOD), "config.json": text},
    }[name]
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    assert main(["inspect", str(tmp_path / next(iter(files)))]) == 2
    message = capsys.readouterr().err
    assert name in message and "nested more than 64 deep" in message


def test_json_that_is_not_too_deep_is_read(tmp_path):
    (tmp_path / "w.pt").write_bytes(zipped(GOOD))
    (tmp_path / "config.json").write_text(json.dumps({"a": json.loads(DEEP[60])}))
    assert main(["inspect", str(tmp_path / "w.pt")]) == 0


@pytest.mark.parametrize("depth", [70, 50_000])
@pytest.mark.parametrize("name", ["sharpness", "label_dim", "C_1", "dropout"])
def test_deep_settings_in_a_pickle_are_refused(depth, name, tmp_path, capsys):
    deep = Raw(b"]" * depth + b"a" * (depth - 1))
    state = module_state(
        {"w": nested_tensor(np.ones(2))}, {}, {}, _init_kwargs={name: deep}
    )
    (tmp_path / "net.pkl").write_bytes(dumps(persistent_class("EDMPrecond", state), 4))
    for command in (["inspect"], ["convert", "--dry-run"]):
        assert main([*command, str(tmp_path / "net.pkl")]) == 2
        assert "net.pkl are nested too deeply" in capsys.readouterr().err


# A list that holds itself twice; a list of 3000 times the same of 3000 numbers.
ENDLESS = b"]q\xf0(h\xf0h\xf0e"
WIDE = b"](](" + b"K\0" * 3000 + b"eq\xf1" + b"h\xf1" * 2999 + b"e"


@pytest.mark.parametrize("value", [ENDLESS, WIDE])
def test_settings_in_a_pickle_that_hold_a_value_very_often(value, tmp_path, capsys):
    state = module_state(
        {"w": nested_tensor(np.ones(2))}, {}, {}, _init_kwargs={"a": Raw(value)}
    )
    (tmp_path / "net.pkl").write_bytes(dumps(persistent_class("EDMPrecond", state), 4))
    assert main(["inspect", str(tmp_path / "net.pkl")]) == 2
    assert "nested too deeply" in capsys.readouterr().err
