"""Good folders and files of this package's own formats, and how each is read."""

import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.cli.images import read_picture
from diffctl.cli.unfinished import Unfinished
from diffctl.diffusion.grids import karras
from diffctl.host import claimed
from diffctl.nets import Architecture
from diffctl.operators import GaussianNoise, Identity, Problem
from diffctl.priors import (
    ConsistencyNetworkPrior,
    EDMPreconditioning,
    GaussianPrior,
    KLAutoencoder,
    LatentDiffusionPrior,
    NetworkPrior,
)
from diffctl.priors.preconditioning import ConsistencyPreconditioning
from diffctl.priors.storage import write_model
from diffctl.solvers import DPS, SolveState
from diffctl.solvers.stepwise import start
from diffctl.training import Dataset
from tests.priors.generative import test_networks as small
from tests.priors.test_latent import ARCHITECTURE as STAGE
from tests.weights_convert.fuzzing.networks import NETWORKS
from tests.weights_convert.fuzzing.seeds import CONFIG, Files
from weights_convert.cli import main

SHAPE = (8, 8, 1)
_UNET = Architecture.of(
    "unet", channels=1, widths=[4], blocks=[1], embedding=8, groups=2, heads=1
)
_PRIORS = {kind.__name__: kind for kind in small.ARCHITECTURES}


def _files(folder: Path) -> Files:
    """Return what lies in a folder, by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _written(write: Callable[[Path], Any]) -> Files:
    """Return the files that are written to a folder."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return _files(Path(folder))


def _net(architecture: Architecture) -> Any:
    """Return a network with random parameters, which need not be compiled."""
    source = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * source.normal(size=leaf.shape), leaf.dtype),
        architecture.abstract(),
    )


@cache
def _prior(rule: Any = None, shape: tuple[int, ...] = SHAPE) -> NetworkPrior:
    return NetworkPrior(
        net=_net(_UNET),
        preconditioning=rule or EDMPreconditioning(),
        architecture=_UNET,
        shape=shape,
        sigma_max=10.0,
    )


def _works(prior: Any) -> None:
    """Check that what was restored can be used at all, without computing anything."""
    if not 0 < float(prior.sigma_min) < float(prior.sigma_max) < np.inf:
        raise AssertionError(f"noise from {prior.sigma_min} to {prior.sigma_max}")
    x = jax.ShapeDtypeStruct(prior.shape, jnp.float32)
    if jax.eval_shape(prior.denoise, x, jnp.float32(1)).shape != prior.shape:
        raise AssertionError("the prior changes the shape of its images")


def pipelines() -> list[Files]:
    """Folders as huggingface/diffusers writes them: whole, as variants, in shards."""
    good = NETWORKS.seeds["diffusers"]
    config = json.loads(good[CONFIG])
    scheduler = json.dumps(config.pop("scheduler")).encode()
    rest = {
        "pipe/unet/config.json": json.dumps(config).encode(),
        "pipe/scheduler/scheduler_config.json": scheduler,
        "pipe/model_index.json": b'{"_class_name": "DDPMPipeline"}',
    }
    place, weights = "pipe/unet/diffusion_pytorch_model", good["model.safetensors"]
    names = list(json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")]))
    shard = "diffusion_pytorch_model.fp16-00001-of-00001.safetensors"
    index = {"weight_map": {n: shard for n in names if n != "__metadata__"}}
    return [
        {f"{place}.safetensors": weights} | rest,
        {f"{place}.fp16.safetensors": weights} | rest,
        {
            f"{place}.safetensors.index.fp16.json": json.dumps(index).encode(),
            f"pipe/unet/{shard}": weights,
        }
        | rest,
    ]


@cache
def converted() -> tuple[Files, ...]:
    """Folders that the converter wrote: one of every family and format."""
    found = []
    for name in ("zip", "edm", "diffusers", "guided"):

        def convert(folder: Path, files: Files = NETWORKS.seeds[name]) -> None:
            for part, data in files.items():
                (folder / part).write_bytes(data)
            config, out = str(folder / CONFIG), str(folder / "model")
            source = str(folder / next(iter(files)))
            assert main([source, "--config", config, "--out", out]) == 0
            for part in files:
                (folder / part).unlink()

        found.append(_written(convert))
    return tuple(found)


def references() -> list[Files]:
    """A converted folder and what it is compared with, not its own numbers."""
    source = np.random.default_rng(0)
    shapes = dict.fromkeys(("x", "tan", "vjp"), (2, 1, 8, 8))
    shapes |= dict.fromkeys(("out", "jvp", "ct"), (2, 3))
    arrays = {n: source.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    return [converted()[0] | {"io.npz": _npz(np.savez, **arrays)}]


def _npz(save: Callable[..., None], **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


@cache
def image_priors() -> tuple[Files, ...]:
    """Priors of images that were trained here, and that were converted."""
    written = _written(lambda folder: _prior().save(folder / "model", notes={"a": 1}))
    return (written, written, *converted()[1:])


def restore_image_prior(folder: Path) -> None:
    _works(NetworkPrior.restore(folder / "model"))


def consistency() -> list[Files]:
    prior = _prior(ConsistencyPreconditioning())
    return [_written(lambda folder: prior.save(folder / "model"))]


def restore_consistency(folder: Path) -> None:
    _works(ConsistencyNetworkPrior.restore(folder / "model").network)


def latent_priors() -> list[Files]:
    """The two networks of a latent diffusion model."""

    def write(folder: Path) -> None:
        units = {"scaling_factor": 0.2, "shift": [0.1, 0.3]}
        about = {"kind": "autoencoder", "architecture": STAGE.to_json()} | units
        write_model(folder / "autoencoder", _net(STAGE), about)
        architecture = Architecture.of(
            "unet", channels=2, widths=[4], blocks=[1], embedding=8, groups=2, heads=1
        )
        NetworkPrior(
            net=_net(architecture),
            preconditioning=EDMPreconditioning(),
            architecture=architecture,
            shape=(4, 4, 2),
            sigma_max=10.0,
        ).save(folder / "model")
        path = folder / "model" / "model.json"
        text = path.read_text()
        kind = json.loads(text)["kind"]
        path.write_text(text.replace(f'"{kind}"', f'"{NetworkPrior.OF_LATENTS}"'))

    return [_written(write)]


def restore_latent(folder: Path) -> None:
    prior = LatentDiffusionPrior.restore(folder / "model", folder / "autoencoder")
    x = jax.ShapeDtypeStruct(prior.shape, jnp.float32)
    z = jax.eval_shape(prior.encode, x)
    if jax.eval_shape(prior.decode, z).shape != prior.shape:
        raise AssertionError("the autoencoder changes the shape of its images")
    KLAutoencoder.restore(folder / "autoencoder")


def generative() -> list[Files]:
    """A folder for every kind of generative prior, named after it."""
    found = []
    for name, kind in _PRIORS.items():
        architecture = small.ARCHITECTURES[kind]
        prior = kind(
            net=_net(architecture), architecture=architecture, shape=small.SHAPE
        )
        found.append(_written(lambda folder, n=name, p=prior: p.save(folder / n)))
    return found


def restore_generative(folder: Path) -> None:
    (found,) = [name for name in _PRIORS if (folder / name).exists()] or ["FlowPrior"]
    prior = _PRIORS[found].restore(folder / found)
    if hasattr(prior, "latent_shape") and hasattr(prior, "decode"):
        z = jax.ShapeDtypeStruct(prior.latent_shape, jnp.float32)
        if jax.eval_shape(prior.decode, z).shape != prior.shape:
            raise AssertionError("the prior makes images of another shape")


def data_sets() -> list[Files]:
    images = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8, 1)
    arrays = {"images": images, "labels": np.arange(4)}
    saves = (np.savez, np.savez_compressed)
    return [{"data.npz": _npz(save, **arrays)} for save in saves]


def read_data_set(folder: Path) -> None:
    Dataset.load(folder / "data.npz", "images", "labels").batch(0, 0, 1)


def pictures() -> list[Files]:
    """Pictures of the formats and modes that are read."""
    from PIL import Image

    ramp = np.linspace(0, 255, 12 * 9).reshape(9, 12).astype(np.uint8)
    grey, found = Image.fromarray(ramp), []
    deep = Image.fromarray(ramp.astype(np.uint16) * 256)
    for kind, picture in (
        *((kind, grey) for kind in ("png", "tiff", "jpeg", "bmp", "gif", "webp")),
        *((kind, grey.convert("RGB")) for kind in ("png", "tiff", "jpeg", "webp")),
        *(("png", grey.convert(mode)) for mode in ("P", "1")),
        *((kind, deep) for kind in ("png", "tiff")),
    ):
        file = io.BytesIO()
        picture.save(file, kind)
        found.append({f"picture.{kind}": file.getvalue()})
    return found


def read_the_picture(folder: Path) -> None:
    (path,) = sorted(folder.iterdir())[:1] or [folder / "picture.png"]
    image = read_picture(path).image()
    if not np.isfinite(image).all() or np.abs(image).max() > 1:
        raise AssertionError("a picture has values that are no colours")


@cache
def _solve() -> tuple[Any, ...]:
    prior = GaussianPrior.from_moments(np.zeros(3), np.eye(3))
    problem = Problem(
        y=jnp.ones(3), operator=Identity(shape=(3,)), noise=GaussianNoise(std=0.1)
    )
    return jax.random.key(0), problem, prior, DPS(grid=karras(num_steps=4))


def solve_states() -> list[Files]:
    return [_written(lambda folder: start(*_solve()).save(folder / "state"))]


def load_state(folder: Path) -> None:
    SolveState.load(folder / "state", *_solve())


_SETTINGS = {"steps": 3, "rate": 0.1, "data_sha256": "0" * 64}


def _state() -> dict[str, Any]:
    return {
        "state": {"w": np.ones((3, 2), np.float32), "step": 3},
        "losses": np.ones(4),
    }


def unfinished() -> list[Files]:
    """What an interrupted training keeps."""

    def write(folder: Path) -> None:
        with (
            claimed(folder / "run", overwrite=False) as place,
            Unfinished.open(place, _SETTINGS, resume=False) as kept,
        ):
            kept.save(_state())

    return [_written(write)]


def take_up(folder: Path) -> None:
    with (
        claimed(folder / "run", overwrite=False, say=lambda _: None) as place,
        Unfinished.open(place, _SETTINGS, resume=True) as kept,
    ):
        kept.restore(_state())
