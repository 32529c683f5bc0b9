"""Restoration tasks of the command line, on numbered images with known classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.cli.names import lookup
from diffctl.cli.task_table import TASKS
from diffctl.cli.tasks import Request, Restoration
from diffctl.metrics import accuracy, psnr, ssim
from diffctl.operators import Problem
from experiments.common.solving import DRAWN, MEASURED, Examples

RESTORATIONS: Mapping[str, Restoration] = {
    name: task for name, task in TASKS.items() if isinstance(task, Restoration)
}


@dataclass(frozen=True)
class Restorations:
    """Poses the problems of one task; a mask or kernel is drawn for each image.

    Attributes:
        task: name in the registry.
        images: in [-1, 1], (N, H, W, C).
        labels: their classes, (N,).
        classifier: a network from an image to logits.
        noise_std: on the [-1, 1] scale.
        key: image i of task t is measured with fold_in(fold_in(key, t), i).
    """

    task: str
    images: np.ndarray
    labels: np.ndarray
    classifier: Any
    noise_std: float
    key: jax.Array

    def __call__(self, ids: np.ndarray) -> Examples:
        """Return the problems of the images `ids`."""
        axes = DRAWN if self._restoration().drawn else MEASURED
        problems = _stack([self.problem(i) for i in ids], axes)
        truth, labels = jnp.asarray(self.images[ids]), jnp.asarray(self.labels[ids])
        score = partial(_score, axes, self.classifier, problems, truth, labels)
        return Examples(problems=problems, axes=axes, score=score)

    def problem(self, i: int) -> Problem:
        """Return the problem of image `i`."""
        task_key = jax.random.fold_in(self.key, list(TASKS).index(self.task))
        request = Request(
            shape=self.images.shape[1:],
            key=jax.random.fold_in(task_key, i),
            noise_std=self.noise_std,
            image=self.images[i],
        )
        return self._restoration().pose(request).problem

    def _restoration(self) -> Restoration:
        return lookup("restoration", self.task, RESTORATIONS)


def relative_misfit(problem: Problem, x: jax.Array) -> jax.Array:
    """Return |A(x) - y|^2 / (m noise_std^2), 1 at the noise level, ().

    For Gaussian noise and m measured numbers.
    """
    return 2 * problem.misfit(x) / problem.operator.num_observed()


def _stack(problems: list[Problem], axes: Any) -> Problem:
    def join(axis: int | None, *parts: Any) -> Any:
        if axis is None:
            return parts[0]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)

    return jax.tree.map(join, axes, *problems, is_leaf=lambda axis: axis is None)


@partial(jax.jit, static_argnums=0)
def _score(
    axes: Any,
    classifier: Any,
    problems: Problem,
    truth: jax.Array,
    labels: jax.Array,
    x: jax.Array,
) -> dict[str, jax.Array]:
    def one(problem: Problem, truth: Any, label: Any, x: Any) -> dict[str, jax.Array]:
        return {
            "psnr": psnr(x, truth),
            "ssim": ssim(x, truth),
            "misfit": relative_misfit(problem, x),
            "recognised": accuracy(classifier(x), label),
        }

    return jax.vmap(one, in_axes=(axes, 0, 0, 0))(problems, truth, labels, x)
