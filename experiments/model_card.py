"""Write the model card and the sample sheet of the shipped networks.

    python -m experiments.model_card --data mnist.npz

Every number on the card is measured here or read from the networks' `training.json`.
"""

import sys
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import diffctl
from diffctl.diffusion import Heun
from diffctl.host import Range, new_file, read_json, run
from diffctl.priors.network import parameter_count
from diffctl.report.pictures import to_png
from diffctl.training import Dataset, classification_accuracy, denoising_error
from diffctl.training.data import to_unit_range

ASSETS = Path(str(files("diffctl.assets")))
SIGMAS = (0.05, 0.2, 0.5, 1.0, 5.0)
SHEET, SAMPLE_STEPS = (8, 12), 25

CARD = """# Model card: digits prior and digits classifier

Two small networks for 28 x 28 grey digits, shipped so that the first reconstruction
needs no download. Made by `diffctl train`; this card by `experiments/model_card.py`.

| | prior | classifier |
| --- | --- | --- |
| network | U-Net on 2 x 2 patches, widths 64 and 88 | two convolutions, two dense |
| parameters | {prior_parameters:,} | {classifier_parameters:,} |
| training steps x batch | {prior_steps} x {prior_batch} | {classifier_steps} x \
{classifier_batch} |
| learning rate | {prior_rate} | {classifier_rate} |
| loss at the end (mean) | {prior_loss:.4f}, EDM-weighted | {classifier_loss:.4f} |
| held-out result | table below | {accuracy:.2%} of {held_out} `x_test` images |

**Data.** MNIST, training set of 60,000 images (PNG copies of `rasbt/mnist-pngs`),
scaled to [-1, 1]. No augmentation for the prior, shifts of up to 2 pixels for the
classifier.

**Licence.** MNIST is by Y. LeCun, C. Cortes and C. Burges and commonly given as CC
BY-SA 3.0; the weights and the 32 test digits are offered under the same terms. The code
is Apache-2.0.

**Denoising error of the prior** on the first {count} images of `x_test`: mean squared
error per pixel of E[x0 | x0 + sigma eps], images in [-1, 1], one noise draw per image.

| sigma | {sigma_header} |
| --- | {rule} |
| mean squared error | {errors} |
| standard error | {standard_errors} |

**Unconditional samples**: Heun, {sample_steps} levels from sigma = {sigma_max:g}, the
first {num_samples} keys, none left out.

![Unconditional samples](samples.png)

{remarks}"""


@dataclass
class Config:
    """Where the held-out images are, and how many to use."""

    data: Path
    count: Annotated[int, Range(10)] = 1000  # in ten parts
    remarks: str = ""


def main(config: Config) -> int:
    """Measure, draw and write."""
    prior, classifier = (
        diffctl.assets.digits_prior(),
        diffctl.assets.digits_classifier(),
    )
    held_out = Dataset.load(config.data, "x_test", "y_test")
    images = jnp.asarray(to_unit_range(held_out.images))
    sheet = to_png(_sheet(_samples(prior)))
    halves = [_errors(prior, part) for part in jnp.split(images[: config.count], 10)]
    errors, spread = np.mean(halves, 0), np.std(halves, 0, ddof=1) / np.sqrt(10)
    accuracy = classification_accuracy(classifier, images, jnp.asarray(held_out.labels))
    card = CARD.format(
        prior_parameters=parameter_count(prior.net),
        classifier_parameters=parameter_count(classifier),
        **_training("prior"),
        **_training("classifier"),
        accuracy=float(accuracy),
        held_out=len(images),
        count=config.count,
        sigma_header=" | ".join(map(str, SIGMAS)),
        rule=" | ".join("---" for _ in SIGMAS),
        errors=" | ".join(f"{e:.5f}" for e in errors),
        standard_errors=" | ".join(f"{e:.5f}" for e in spread),
        sample_steps=SAMPLE_STEPS,
        sigma_max=prior.sigma_max,
        num_samples=SHEET[0] * SHEET[1],
        remarks=config.remarks,
    )
    with new_file(ASSETS / "samples.png") as path:
        path.write_bytes(sheet)
    with new_file(ASSETS / "MODEL_CARD.md") as path:
        path.write_text(card.rstrip() + "\n")
    return 0


def _errors(prior: Any, images: jax.Array) -> list[float]:
    key = jax.random.key(0)
    return [
        float(denoising_error(prior, images, jnp.asarray(sigma), key))
        for sigma in SIGMAS
    ]


def _samples(prior: Any) -> np.ndarray:
    grid = diffctl.grids.karras(SAMPLE_STEPS, 0.02, prior.sigma_max)
    keys = jax.random.split(jax.random.key(0), SHEET[0] * SHEET[1])
    draw = jax.jit(
        lambda keys, prior: jax.vmap(
            lambda key: diffctl.sample(key, prior, grid, Heun())
        )(keys)
    )
    return np.asarray(draw(keys, prior))


def _sheet(samples: np.ndarray, zoom: int = 2) -> np.ndarray:
    """Tile images (N, H, W, C) into SHEET rows and columns, each pixel enlarged."""
    rows, columns = SHEET
    tiles = samples.reshape(rows, columns, *samples.shape[1:])
    image = tiles.transpose(0, 2, 1, 3, 4).reshape(rows * samples.shape[1], -1, 1)
    return image.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _training(name: str) -> dict[str, Any]:
    record = read_json(ASSETS / f"digits_{name}" / "training.json")
    settings = record["settings"]
    rate = f"{settings['peak_rate']:g}, {settings['schedule']}"
    return {
        f"{name}_steps": settings["num_steps"],
        f"{name}_batch": settings["batch_size"],
        f"{name}_rate": rate,
        f"{name}_loss": record["loss"][-1][1],
    }


if __name__ == "__main__":
    options = partial(tyro.cli, Config, prog="experiments.model_card")
    sys.exit(run("experiments.model_card", options, main, for_good=True))
