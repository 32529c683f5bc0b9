"""Small good files that convert: networks of four families, and their settings.

From these grows the corpus for the whole converter. Every seed has its `config.json`.
"""

import json
import pickle
from random import Random
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from diffctl.nets import Architecture
from tests.weights_convert.fuzzing.corpus import Ground, strange_json
from tests.weights_convert.fuzzing.mutations import mutated
from tests.weights_convert.fuzzing.seeds import CONFIG, INDEX, Files
from tests.weights_convert.readers.files import (
    module_state,
    nested_tensor,
    persistent_class,
    stream_file,
    zip_entries,
    zip_file,
)
from tests.weights_convert.readers.onnx_files import onnx_file
from tests.weights_convert.readers.pickles import Call, Name, dumps, ordered
from weights_convert import export
from weights_convert.families import FAMILIES

SETTINGS = b'{"image_size": 8, "padding": 1}'
_DIFFUSERS = {
    "block_out_channels": [4, 4],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 2,
    "sample_size": 8,
    "scheduler": {"beta_schedule": "linear", "num_train_timesteps": 10},
}
_EDM = {"class_name": "EDMPrecond", "img_resolution": 8, "label_dim": 3}
_GUIDED = {"image_size": 8, "num_heads": 2, "diffusion_steps": 30}


def _exported(family: str, name: str, **arguments: Any) -> dict[str, np.ndarray]:
    """Return the tensors of a network with random parameters, as a project has them."""
    architecture = Architecture.of(name, **arguments)
    leaves, structure = jax.tree.flatten(architecture.abstract())
    source = np.random.default_rng(0)
    drawn = [source.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    net = jax.tree.unflatten(structure, drawn)
    arrays = export.tensors(net, architecture, FAMILIES[family])
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _digits() -> dict[str, np.ndarray]:
    return _exported(
        "digits",
        "digit_classifier",
        size=8,
        widths=[1, 2, 2, 4, 3],
        kernel=3,
        padding=1,
    )


def _unet() -> dict[str, np.ndarray]:
    """Return the tensors of a small UNet2DModel, planned from its settings."""
    level = {"width": 4, "blocks": 1, "resample": None}
    down = [level | {"resample": "convolution"}, level | {"heads": 2}]
    up = [spec | {"blocks": 2} for spec in (level | {"heads": 2}, level)]
    up[0]["resample"] = "convolution"
    return _exported(
        "diffusers",
        "ddpm_unet",
        channels=[1, 4, 1],
        down=down,
        up=up,
        middle={"heads": 2, "gain": 1.0, "norm": True},
        style={"groups": 2, "epsilon": 1e-5, "modulation": "additive"},
        time={"shift": 0, "sines_first": False},
    )


def _song() -> dict[str, np.ndarray]:
    return _exported(
        "edm",
        "song_unet",
        size=8,
        channels=[1, 4, 1],
        levels=[{"width": 4, "blocks": 1, "attention": True}],
        embedding={"kind": "positional", "features": 4, "width": 8},
        inputs={"classes": 3, "augment": 0},
        encoder="standard",
        taps=[1, 1],
    )


def _adm() -> dict[str, np.ndarray]:
    levels = [{"width": 32, "blocks": 1, "heads": 2, "heads_up": 2}]
    return _exported(
        "guided-diffusion",
        "adm_unet",
        channels=[1, 2],
        width=32,
        levels=levels,
        middle_heads=2,
    )


def _shards(arrays: dict[str, np.ndarray]) -> Files:
    names = list(arrays)
    parts = {"1.safetensors": names[:3], "2.safetensors": names[3:]}
    places = {name: file for file, part in parts.items() for name in part}
    index = json.dumps({"metadata": {}, "weight_map": places}).encode()
    return {INDEX: index} | {
        file: safetensors.numpy.save({name: arrays[name] for name in part})
        for file, part in parts.items()
    }


def _training_state(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return a checkpoint with averages that have no names."""
    namespace = Call(Name("argparse", "Namespace"), state={"lr": 0.1})
    averages = {"decay": 0.999, "shadow_params": list(arrays.values())}
    wrapped = ordered({f"module.{name}": array for name, array in arrays.items()})
    return {"step": 3, "args": namespace, "model": wrapped, "ema": averages}


def _snapshot(arrays: dict[str, np.ndarray]) -> bytes:
    """Return a pickle as EDM writes it: modules within modules."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, last = name.split(".")
        here = tree
        for part in path:
            here = here.setdefault(part, {})
        here[last] = nested_tensor(array)
    options = {"_init_args": (), "_init_kwargs": {"sigma_data": 0.5}}
    return dumps({"ema": _module(tree, "EDMPrecond", **options)}, 4)


def _module(tree: dict[str, Any], class_name: str, **attributes: Any) -> Call:
    children = {k: _module(v, "Part") for k, v in tree.items() if isinstance(v, dict)}
    own = {name: v for name, v in tree.items() if not isinstance(v, dict)}
    buffers = {name: own.pop(name) for name in list(own) if name == "resample_filter"}
    state = module_state(own, buffers, children, **attributes)
    return persistent_class(class_name, state)


def _seeds() -> dict[str, Files]:
    digits, edm, unet = _digits(), json.dumps(_EDM), json.dumps(_DIFFUSERS)
    snapshot, guided = _snapshot(_song()), json.dumps(_GUIDED)
    seeds = {
        "zip": {"model.pt": zip_file(ordered(digits))},
        "zip_training": {"last.ckpt": zip_file(_training_state(digits))},
        "stream": {"model.pt": stream_file(ordered(digits))},
        "safetensors": {"model.safetensors": safetensors.numpy.save(digits)},
        "shards": _shards(digits),
        "arrays": {"arrays.pkl": pickle.dumps({"ema": digits}, 4)},
        "arrays_text": {"arrays.pkl": pickle.dumps({"ema": digits}, 2)},
        "edm": {"network.pkl": snapshot, CONFIG: edm.encode()},
        "diffusers": {
            "model.safetensors": safetensors.numpy.save(_unet()),
            CONFIG: unet.encode(),
        },
        "onnx": {"model.onnx": onnx_file(digits)},
        "guided": {"model.pt": zip_file(ordered(_adm())), CONFIG: guided.encode()},
    }
    return {
        name: files | {CONFIG: files.get(CONFIG, SETTINGS)}
        for name, files in seeds.items()
    }


def _settings(source: Random, ground: Ground) -> Files:
    """Return a good network with settings that are false in one place, or damaged."""
    files = dict(ground.seeds[source.choice(list(ground.seeds))])
    if not source.randrange(4):
        return files | {CONFIG: mutated(source, files[CONFIG])}
    settings = json.loads(files[CONFIG])
    inner = source.choice((settings, settings, settings.get("scheduler", settings)))
    inner[source.choice(list(inner))] = strange_json(source)
    return files | {CONFIG: json.dumps(settings).encode()}


NETWORKS = Ground(_seeds(), zip_entries(_training_state(_digits())), {_settings: 20})
