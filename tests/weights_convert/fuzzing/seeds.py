"""Small good files of every format, from which the corpus grows."""

import json
import pickle
import struct

import ml_dtypes
import numpy as np
import safetensors.numpy

from tests.weights_convert.readers.files import (
    module_state,
    nested_tensor,
    persistent_class,
    stream_file,
    zip_entries,
    zip_file,
)
from tests.weights_convert.readers.onnx_files import beside, model, node, tensor
from tests.weights_convert.readers.pickles import Call, Name, dumps, ordered

Files = dict[str, bytes]
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"


def _arrays() -> dict[str, np.ndarray]:
    source = np.random.default_rng(0)
    weight = source.normal(size=(4, 3)).astype(np.float32)
    return {
        "conv.weight": weight,
        "conv.transposed": weight.T,
        "conv.bias": source.normal(size=4).astype(np.float16),
        "norm.scale": np.arange(5).astype(ml_dtypes.bfloat16),
        "steps": np.array(7),
        "mask": np.array([True, False]),
    }


def _training_state() -> dict:
    namespace = Call(Name("argparse", "Namespace"), state={"lr": 0.1, "name": "run"})
    return {
        "epoch": 3,
        "args": namespace,
        "state_dict": ordered({f"module.{k}": v for k, v in _arrays().items()}),
        "ema": ordered(_arrays()),
        "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}, "param_groups": [{}]},
    }


def _averages() -> dict:
    """Return a checkpoint of score_sde: its averages have no names."""
    shadow = {"decay": 0.999, "shadow_params": list(_arrays().values())}
    return {"model": ordered(_arrays()), "ema": shadow}


def _snapshot() -> dict:
    arrays = _arrays()
    names = ("conv.weight", "conv.bias")
    parameters = {name[5:]: nested_tensor(arrays[name]) for name in names}
    buffers = {"filter": nested_tensor(arrays["norm.scale"])}
    conv = persistent_class("Conv2d", module_state(parameters, buffers, {}))
    options = {"_init_args": (64,), "_init_kwargs": {"sigma_data": 0.5}}
    whole = module_state({}, {}, {"model": conv}, **options)
    return {"ema": persistent_class("EDMPrecond", whole), "loss_fn": None}


def _safetensors() -> bytes:
    arrays = {k: np.ascontiguousarray(v) for k, v in _arrays().items()}
    return safetensors.numpy.save(arrays, {"format": "pt"})


def _shards() -> Files:
    arrays = {k: np.ascontiguousarray(v) for k, v in _arrays().items()}
    names = list(arrays)
    parts = {"1.safetensors": names[:3], "2.safetensors": names[3:]}
    places = {name: file for file, part in parts.items() for name in part}
    return {
        INDEX: json.dumps({"metadata": {}, "weight_map": places}).encode(),
        **{
            file: safetensors.numpy.save({name: arrays[name] for name in part})
            for file, part in parts.items()
        },
    }


def _onnx() -> Files:
    """Return an ONNX file with every way to hold numbers and to lose names."""
    arrays = {k: np.ascontiguousarray(v) for k, v in _arrays().items() if "." in k}
    place = beside("w.data", offset=4, length=10)
    tensors = [
        *(tensor(name, array) for name, array in arrays.items()),
        tensor("onnx::MatMul_1", arrays["conv.weight"]),
        tensor("conv.other", arrays["norm.scale"], place),
    ]
    nodes = [
        node("MatMul", ("x", "onnx::MatMul_1"), "y", "/conv/to_q/MatMul"),
        node("Identity", ("conv.bias",), "conv.twin", scopes="['', 'a', 'b']"),
    ]
    return {"model.onnx": model(tensors, nodes), "w.data": bytes(20)}


def seed_files() -> dict[str, Files]:
    """Return the good files; the first of each is the one to open."""
    return {
        "zip": {"model.pt": zip_file(ordered(_arrays()))},
        "zip_big_endian": {"model.pt": zip_file(ordered(_arrays()), "big")},
        "zip_training": {"last.ckpt": zip_file(_training_state())},
        "stream": {"model.pt": stream_file(ordered(_arrays()))},
        "stream_training": {"model.bin": stream_file(_training_state(), 4)},
        "safetensors": {"model.safetensors": _safetensors()},
        "shards": _shards(),
        "pickle": {"network.pkl": dumps(_snapshot(), 4)},
        "arrays": {"network.pkl": pickle.dumps({"ema": _arrays()}, 4)},
        "arrays_text": {"network.pkl": pickle.dumps({"ema": _arrays()}, 2)},
        "onnx": _onnx(),
        "averages": {"last.ckpt": zip_file(_averages())},
    }


def zip_seed() -> Files:
    """Return the entries of a training state, whose pickle can be changed."""
    return zip_entries(_training_state())


def wide_header(text: bytes, body: bytes = b"") -> bytes:
    """Return a safetensors file with any text for a header."""
    return struct.pack("<Q", len(text)) + text + body
