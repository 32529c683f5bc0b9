"""What is trained: network, loss, data, evaluation and the format on disk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffctl.cli.names import lookup
from diffctl.cli.options import TrainClassifier, Training, TrainPrior
from diffctl.nets import Architecture
from diffctl.priors import EDMPreconditioning, NetworkPrior
from diffctl.priors.storage import parameter_names, read_model, write_model
from diffctl.training import (
    ClassificationLoss,
    Dataset,
    DenoisingLoss,
    classification_accuracy,
    denoising_error,
)
from diffctl.training.data import to_unit_range

DTYPES: Mapping[str, Any] = {"float32": None, "bfloat16": jnp.bfloat16}

# Noise levels at which the denoising error is recorded, and on how many images.
REPORTED_SIGMAS = (0.05, 0.2, 0.5, 1.0, 5.0)
_MOST_IMAGES = 1000
# The loss draws ln(sigma) from a normal law; this is its upper 0.1 % point, about.
_SIGMA_MAX = 40.0


@dataclass(frozen=True)
class Recipe:
    """A training.

    Attributes:
        net: the initial network.
        objective: `objective(net, key, images, labels)`.
        dataset: images and labels.
        evaluate: `evaluate(net)` returns what is known of the result, as JSON.
        save: `save(net, folder, notes)` writes the model.
    """

    net: Any
    objective: Any
    dataset: Dataset
    evaluate: Callable[[Any], dict[str, Any]]
    save: Callable[[Any, Path, dict[str, Any]], None]


def prior_recipe(command: TrainPrior) -> Recipe:
    """Return the training of a denoiser with the EDM loss."""
    dtype = lookup("dtype", command.dtype, DTYPES)
    dataset, held_out = _data(command)
    shape = dataset.images.shape[1:]
    architecture = Architecture.of(
        "unet", channels=shape[-1], widths=command.widths, blocks=command.blocks
    )
    rule = EDMPreconditioning(sigma_data=command.sigma_data)

    def prior_of(net: Any) -> NetworkPrior:
        return NetworkPrior(
            net=net,
            preconditioning=rule,
            architecture=architecture,
            shape=shape,
            sigma_max=_SIGMA_MAX,
        )

    prior_of(architecture.abstract()).check()

    def evaluate(net: Any) -> dict[str, Any]:
        if held_out is None:
            return {}
        images = held_out.images[:_MOST_IMAGES]
        clean = jnp.asarray(to_unit_range(images))
        key = jax.random.key(command.seed)
        errors = {
            str(sigma): float(
                denoising_error(prior_of(net), clean, jnp.asarray(sigma), key)
            )
            for sigma in REPORTED_SIGMAS
        }
        return {"held_out_images": len(images), "denoising_error": errors}

    def save(net: Any, folder: Path, notes: dict[str, Any]) -> None:
        prior_of(net).save(folder, overwrite=True, notes=notes)

    return Recipe(
        net=_initial_net(command, architecture, "diffusion prior"),
        objective=DenoisingLoss(preconditioning=rule, dtype=dtype),
        dataset=dataset,
        evaluate=evaluate,
        save=save,
    )


def classifier_recipe(command: TrainClassifier) -> Recipe:
    """Return the training of a classifier by cross-entropy."""
    dataset, held_out = _data(command, command.labels, command.held_out_labels)
    height, width, channels = dataset.images.shape[1:]
    if height != width or height % 4:
        raise ValueError(
            f"{command.images} has {height}x{width} pixels; the classifier takes "
            "square images whose side is a multiple of 4."
        )
    classes = int(np.max(dataset.labels)) + 1
    architecture = Architecture.of(
        "small_classifier",
        size=height,
        channels=channels,
        classes=classes,
        width=command.width,
    )

    def evaluate(net: Any) -> dict[str, Any]:
        if held_out is None:
            return {}
        images = jnp.asarray(to_unit_range(held_out.images))
        accuracy = classification_accuracy(net, images, jnp.asarray(held_out.labels))
        return {"held_out_images": len(images), "accuracy": float(accuracy)}

    def save(net: Any, folder: Path, notes: dict[str, Any]) -> None:
        description = {
            "kind": "classifier",
            "architecture": architecture.to_json(),
            "shape": [height, width, channels],
            "classes": classes,
            "notes": notes,
        }
        write_model(folder, net, description, overwrite=True)

    return Recipe(
        net=_initial_net(command, architecture, "classifier"),
        objective=ClassificationLoss(max_shift=command.max_shift),
        dataset=dataset,
        evaluate=evaluate,
        save=save,
    )


def _data(
    command: Training, labels: str | None = None, held_out_labels: str | None = None
) -> tuple[Dataset, Dataset | None]:
    """Read all data now: what is wrong with it is better known before the training."""
    dataset = Dataset.load(command.data, command.images, labels)
    if command.batch_size > len(dataset.images):
        raise ValueError(
            f"The batch size {command.batch_size} exceeds the {len(dataset.images)} "
            f"images of {command.images}; pass a smaller --batch-size."
        )
    if not command.held_out:
        return dataset, None
    try:
        held_out = Dataset.load(command.data, command.held_out, held_out_labels)
        _check_alike(command, dataset, held_out)
        _check_classes(dataset, held_out, labels, held_out_labels)
    except ValueError as error:
        error.add_note("Pass --held-out '' to evaluate on no images.")
        raise
    return dataset, held_out


def _check_alike(command: Training, dataset: Dataset, held_out: Dataset) -> None:
    shapes = [data.images.shape[1:] for data in (dataset, held_out)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{command.held_out} has images of shape {shapes[1]}, {command.images} of "
            f"{shapes[0]}; expected the same."
        )


def _check_classes(
    dataset: Dataset, held_out: Dataset, labels: str | None, held_out_labels: str | None
) -> None:
    highest, found = int(dataset.labels.max()), int(held_out.labels.max())
    if found > highest:
        raise ValueError(
            f"{held_out_labels} has the label {found}, but the classes of {labels} are "
            f"0 to {highest}; expected only these. Leave out the other images."
        )


def _initial_net(command: Training, architecture: Architecture, kind: str) -> Any:
    if command.start_from is None:
        return architecture.build(nnx.Rngs(params=jax.random.key(command.seed)))
    net, _ = read_model(command.start_from, kind=kind)
    if _shapes(net) != _shapes(architecture.abstract()):
        raise ValueError(
            f"--start-from {command.start_from} holds a network of other shapes than "
            "the options describe; pass the widths and blocks that it was trained with."
        )
    return net


def _shapes(net: Any) -> dict[str, tuple[int, ...]]:
    shapes = [leaf.shape for leaf in jax.tree.leaves(net)]
    return dict(zip(parameter_names(net), shapes, strict=True))
