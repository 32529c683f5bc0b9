"""A small network of every architecture, and a folder of every kind of model."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.nets import Architecture
from diffctl.priors import (
    AutoencoderPrior,
    ConditionalNetwork,
    EDMPreconditioning,
    EnergyPrior,
    FlowPrior,
    GeneratorPrior,
    KLAutoencoder,
    LatentNetworkPrior,
    NetworkPrior,
    RegressionNetwork,
)
from diffctl.priors.generative.amortised import ConditionalFlow
from diffctl.priors.storage import read_model, write_model

SHAPE = (8, 8, 1)
_ADM = {"width": 32, "levels": [{"width": 32, "blocks": 1}] * 2}
_EDM = {"size": 8, "inputs": {"classes": 0, "augment": 0}}
_IMAGE = {"size": 8, "channels": 1, "width": 2}
U_NETS = {
    "unet": Architecture.of(
        "unet", channels=1, widths=[4, 4], blocks=[1, 1], embedding=4, groups=2
    ),
    "adm_unet": Architecture.of("adm_unet", channels=[1, 1], classes=2, **_ADM),
    "song_unet": Architecture.of(
        "song_unet",
        channels=[1, 4, 1],
        levels=[{"width": 4, "blocks": 1}] * 2,
        embedding={"kind": "fourier", "features": 4, "width": 4},
        encoder="residual",
        **_EDM,
    ),
    "edm_adm_unet": Architecture.of(
        "edm_adm_unet",
        channels=[1, 64, 1],
        levels=[{"width": 64, "blocks": 1}] * 2,
        embedding={"features": 4, "width": 4},
        **_EDM,
    ),
    "ddpm_unet": Architecture.of(
        "ddpm_unet",
        channels=[1, 4, 1],
        down=[
            {"width": 4, "blocks": 1, "resample": "corner"},
            {"width": 4, "blocks": 1},
        ],
        up=[
            {"width": 4, "blocks": 2, "resample": "convolution"},
            {"width": 4, "blocks": 2},
        ],
        middle={"heads": 1, "gain": 1.0, "norm": True},
        style={"groups": 2},
        time={"shift": 1},
    ),
}
_FLOW = {"size": 64, "couplings": 2, "width": 2}
GENERATIVE = {
    GeneratorPrior: Architecture.of("small_decoder", latent=3, **_IMAGE),
    AutoencoderPrior: Architecture.of("small_autoencoder", latent=3, **_IMAGE),
    FlowPrior: Architecture.of("coupling_flow", **_FLOW),
    EnergyPrior: Architecture.of("small_classifier", classes=1, **_IMAGE),
    LatentNetworkPrior: Architecture.of("small_latent_diffusion", latent=3, **_IMAGE),
    ConditionalNetwork: Architecture.of(
        "unet", channels=2, widths=[4], blocks=[1], embedding=4, groups=2
    ),
    ConditionalFlow: Architecture.of("coupling_flow", context=5, **_FLOW),
    RegressionNetwork: Architecture.of("small_regressor", width=2, depth=1),
}
AUTOENCODER = Architecture.of(
    "autoencoder_kl",
    channels=[1, 4, 2, 2],
    groups=2,
    levels=[{"blocks": 1, "width": 4, "resample": "corner"}, {"blocks": 1, "width": 4}],
)
CLASSIFIERS = {
    "digit_classifier": Architecture.of(
        "digit_classifier", size=8, widths=[1, 2, 2, 4, 3]
    ),
    "adm_classifier": Architecture.of(
        "adm_classifier",
        channels=1,
        pool={"pixels": 16, "heads": 1, "classes": 2},
        **_ADM,
    ),
}


@functools.cache
def filled(architecture):
    """Return a network with drawn parameters; to draw them in JAX takes longer."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32),
        architecture.abstract(),
    )


def _described(folder, architecture, **fields):
    description = {"architecture": architecture.to_json(), "shape": list(SHAPE)}
    write_model(folder, filled(architecture), description | fields)


def save(name, folder):
    """Write the model of that name; return how it is restored."""
    if name in U_NETS:
        NetworkPrior(
            net=filled(U_NETS[name]),
            preconditioning=EDMPreconditioning(),
            architecture=U_NETS[name],
            shape=SHAPE,
        ).save(folder)
        return NetworkPrior.restore
    if name in CLASSIFIERS:
        _described(folder, CLASSIFIERS[name], kind="classifier")
        return lambda folder: read_model(folder, kind="classifier")
    if name == "autoencoder_kl":
        units = {"scaling_factor": [0.2, 0.3], "shift": 0.1}
        _described(folder, AUTOENCODER, kind="autoencoder", **units)
        return KLAutoencoder.restore
    kind = next(kind for kind in GENERATIVE if kind.__name__ == name)
    architecture = GENERATIVE[kind]
    kind(net=filled(architecture), architecture=architecture, shape=SHAPE).save(folder)
    return kind.restore


NAMES = [
    *U_NETS,
    *CLASSIFIERS,
    "autoencoder_kl",
    *(kind.__name__ for kind in GENERATIVE),
]


def change(folder, *path, to):
    """Replace an entry of `model.json`."""
    file = folder / "model.json"
    description = json.loads(file.read_text())
    inner = description
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = to
    file.write_text(json.dumps(description))
