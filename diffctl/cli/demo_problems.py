"""The problems of the demo, all of one tree structure.

Compiling a solver takes longer than running it on a few digits. So every task of the
demo is written as the same kind of measurement, pixels and a class, of which a task
uses one half: each solver is compiled once for all of them. Measurements of pixels are
matrices with as many rows as an image has pixels; unused rows are zero and say nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl import assets
from diffctl.cli.task_table import TASKS
from diffctl.cli.tasks import Restoration
from diffctl.core import DiffusionPrior
from diffctl.numerics.safe import safe_norm
from diffctl.operators import Categorical, GaussianNoise, Operator, Problem
from diffctl.operators.noise import IndependentNoise
from diffctl.pytree import pytree_dataclass, static

HIGHEST = jax.lax.Precision.HIGHEST


@pytree_dataclass
class PixelsAndClass(Operator):
    """A(x) = (matrix vec(x), class_weight * logits(x)); either may be switched off."""

    matrix: jax.Array  # (d, d), zero rows for what is not measured
    network: Callable[[jax.Array], jax.Array]
    class_weight: jax.Array  # () 1 or 0
    shape: tuple[int, ...] = static()

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        pixels = jnp.matmul(self.matrix.astype(x.dtype), x.ravel(), precision=HIGHEST)
        return pixels, self.class_weight.astype(x.dtype) * self.network(x)


def norm_and_class(problem: Problem) -> Any:
    """Return the cost that DPS descends: |A x - y| for pixels, -log p for the class."""

    def cost(x0: jax.Array) -> jax.Array:
        pixels, logits = problem.operator(x0)
        y, label = problem.y
        return safe_norm(pixels - y) - jax.nn.log_softmax(logits)[label]

    return cost


@dataclass(frozen=True)
class Group:
    """The examples of one task.

    Attributes:
        task: name in the registry.
        problems: measurements have a batch axis, operator and noise are shared.
        truth: images (n, *shape), or None for guidance.
        pictures: measurements as images, or None for guidance.
        labels: classes of the digits, (n,).
        num_observed: real numbers in a measurement; 0 for guidance.
    """

    task: str
    problems: Problem
    truth: np.ndarray | None
    pictures: list[np.ndarray] | None
    labels: np.ndarray
    num_observed: int


def pose(
    prior: DiffusionPrior, key: jax.Array, num_digits: int, noise_std: float
) -> list[Group]:
    """Return a group for every task; group g shows the digits g n, g n + 1, ..."""
    classifier = assets.digits_classifier()
    groups = []
    for i, name in enumerate(TASKS):
        place = np.arange(i * num_digits, (i + 1) * num_digits)
        task, task_key = TASKS[name], jax.random.fold_in(key, i)
        if isinstance(task, Restoration):
            args = (prior.shape, task_key, place, noise_std, classifier)
            groups.append(_restoration(name, task, *args))
        else:
            groups.append(
                _guidance(name, prior.shape, 3 + place, noise_std, classifier)
            )
    return groups


def as_matrix(operator: Operator) -> jax.Array:
    """Return the matrix of a linear map between vectors, without zero rows added."""
    size = math.prod(operator.shape)
    columns = jax.vmap(lambda e: operator(e.reshape(operator.shape)).ravel())
    return columns(jnp.eye(size)).T


def _restoration(
    name: str,
    task: Restoration,
    shape: tuple[int, ...],
    key: jax.Array,
    place: np.ndarray,
    noise_std: float,
    classifier: Any,
) -> Group:
    images, labels = assets.test_digits()
    place = place % len(images)
    operator_key, noise_key = jax.random.split(key)
    native = task.operator(shape, operator_key)
    noise = GaussianNoise(std=noise_std)

    def measure(i: jax.Array, image: jax.Array) -> jax.Array:
        noisy = noise.sample(jax.random.fold_in(noise_key, i), native(image))
        return native.restrict(noisy)

    y = jax.vmap(measure)(jnp.asarray(place), jnp.asarray(images[place]))
    matrix = as_matrix(native)
    unused = math.prod(shape) - matrix.shape[0]
    problems = Problem(
        y=(
            jnp.pad(y.reshape(len(place), -1), ((0, 0), (0, unused))),
            jnp.zeros(len(place), jnp.int32),
        ),
        operator=PixelsAndClass(
            matrix=jnp.pad(matrix, ((0, unused), (0, 0))),
            network=classifier,
            class_weight=jnp.asarray(0.0),
            shape=shape,
        ),
        noise=_noise(noise_std),
    )
    return Group(
        task=name,
        problems=problems,
        truth=images[place],
        pictures=list(np.asarray(y)),
        labels=labels[place],
        num_observed=int(native.num_observed()),
    )


def _guidance(
    name: str,
    shape: tuple[int, ...],
    classes: np.ndarray,
    noise_std: float,
    classifier: Any,
) -> Group:
    size, labels = math.prod(shape), classes % 10
    problems = Problem(
        y=(jnp.zeros((len(labels), size)), jnp.asarray(labels, jnp.int32)),
        operator=PixelsAndClass(
            matrix=jnp.zeros((size, size)),
            network=classifier,
            class_weight=jnp.asarray(1.0),
            shape=shape,
        ),
        noise=_noise(noise_std),
    )
    return Group(name, problems, None, None, labels, 0)


def _noise(noise_std: float) -> IndependentNoise:
    parts = (GaussianNoise(std=jnp.asarray(noise_std)), Categorical())
    return IndependentNoise(parts=parts)
