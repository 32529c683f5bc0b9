"""ONNX files of U-Nets convert to the very parameters of the checkpoint they came from.

By hand on every machine, and by PyTorch's exporter where PyTorch is.
"""

import contextlib
import io
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from tests.weights_convert.fuzzing.networks import NETWORKS
from tests.weights_convert.fuzzing.seeds import CONFIG
from tests.weights_convert.readers.onnx_files import model, node, tensor
from weights_convert.cli import main
from weights_convert.readers import open_checkpoint

GOOD = NETWORKS.seeds["diffusers"]


def _converted(file: Path, config: Path) -> bytes:
    """Return the parameters that a file becomes."""
    out = file.parent / f"{file.stem}-out"
    assert main([str(file), "--config", str(config), "--out", str(out)]) == 0
    return (out / "weights.safetensors").read_bytes()


def _exported(arrays: dict[str, np.ndarray]) -> bytes:
    """Return a file in which constants were folded: weights of attention transposed."""
    tensors, nodes = [], []
    for number, (name, array) in enumerate(arrays.items()):
        if ".to_" in name and name.endswith("weight"):
            renamed, array = f"onnx::MatMul_{number}", np.ascontiguousarray(array.T)
            path = f"/{name.removesuffix('.weight').replace('.', '/')}/MatMul"
            nodes.append(node("MatMul", ("x", renamed), "y", path))
            name = renamed
        tensors.append(tensor(name, array))
    return model(tensors, nodes)


def test_a_file_written_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arrays = safetensors.numpy.load(GOOD["model.safetensors"])
    assert any(".to_q.weight" in name for name in arrays)
    for name, data in (GOOD | {"exported.onnx": _exported(arrays)}).items():
        (tmp_path / name).write_bytes(data)
    files = (tmp_path / "exported.onnx", tmp_path / "model.safetensors")
    first, second = (_converted(file, tmp_path / CONFIG) for file in files)
    assert first == second
    capsys.readouterr()
    assert main(["inspect", str(files[0])]) == 0
    said = capsys.readouterr().out
    assert "format: ONNX" in said and "family: diffusers" in said
    assert "no further settings" in said and "onnx::" not in said


SETTINGS = {
    "block_out_channels": [4],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 2,
    "sample_size": 8,
    "scheduler": {"beta_schedule": "linear", "num_train_timesteps": 10},
}


@pytest.mark.parametrize("options", [{}, {"do_constant_folding": False}], ids=str)
def test_a_file_that_pytorch_exports(
    options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Folded and not; a fresh network has equal parameters, which are stored once."""
    torch = pytest.importorskip("torch")
    from tests.weights_convert.torch_unet import UNet

    # At its end the exporter looks for functions of another package in its own file,
    # with `onnx`, and writes the bytes that it had before if there are none.
    graph = SimpleNamespace(node=[])
    reads = SimpleNamespace(
        load_model_from_string=lambda _: SimpleNamespace(graph=graph)
    )
    monkeypatch.setitem(sys.modules, "onnx", reads)
    net = UNet()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    inputs = torch.zeros(1, 1, 8, 8), torch.tensor([3])
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter warns of itself
        torch.onnx.export(net, inputs, tmp_path / "on.onnx", dynamo=False, **options)
    config = tmp_path / CONFIG
    config.write_text(json.dumps(SETTINGS))
    found, expected = map(open_checkpoint, (tmp_path / "on.onnx", tmp_path / "net.pt"))
    assert found.tensors.keys() == expected.tensors.keys()
    for name, stored in expected.tensors.items():
        np.testing.assert_array_equal(found.tensors[name].read(), stored.read())
    assert _converted(found.path, config) == _converted(expected.path, config)
