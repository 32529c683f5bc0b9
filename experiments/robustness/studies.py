"""The rows of the robustness experiment: study x task x solver x number of levels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp

from diffctl import assets
from diffctl.cli.names import lookup
from diffctl.cli.solver_table import SOLVERS
from diffctl.diffusion import NoiseGrid, ddpm, karras
from diffctl.nets import Architecture
from diffctl.priors import NetworkPrior
from experiments.common import Restorations, Row
from experiments.common.environment import fingerprint
from experiments.common.runner import problem_key
from experiments.robustness.mixture import MixtureProblems, matrix, mixture_prior

# DPS takes its guidance from a task; vectors have none of their own.
_TASK_OF_VECTORS = "random_inpainting"


def _same_range(grid: NoiseGrid, num_levels: int) -> NoiseGrid:
    highest, lowest = float(grid.sigma[0]), float(grid.sigma[-2])
    return karras(num_levels, sigma_min=lowest, sigma_max=highest)


def _respaced(grid: NoiseGrid, num_levels: int) -> NoiseGrid:
    return ddpm(num_levels)


# Solvers that make sense with any number of levels, and how theirs are chosen.
GRIDS: Mapping[str, Callable[[NoiseGrid, int], NoiseGrid]] = {
    "doc": _same_range,
    "doc_paper": _respaced,
    "dps": _respaced,
}


@dataclass(frozen=True)
class Source:
    """Where problems come from: a prior, tasks and how to pose them."""

    prior: Any
    tasks: Sequence[str]
    examples: Callable[[str], Any]
    data: str  # fingerprint of what is not drawn from the prior


def random_network(like: NetworkPrior, key: jax.Array) -> NetworkPrior:
    """Return an untrained prior of the architecture of `like`.

    Layers that training starts from zero are drawn as well, with variance 1 / fan-in:
    otherwise the network would return zero everywhere and the prior be Gaussian.
    """
    create_key, fill_key = jax.random.split(key)
    architecture: Architecture = like.architecture
    prior = NetworkPrior.create(
        architecture,
        like.shape,
        key=create_key,
        preconditioning=like.preconditioning,
        sigma_min=like.sigma_min,
        sigma_max=like.sigma_max,
        dtype=like.dtype,
    )
    leaves, structure = jax.tree.flatten(prior.net)
    filled = [
        _drawn_if_zero(leaf, jax.random.fold_in(fill_key, i))
        for i, leaf in enumerate(leaves)
    ]
    return replace(prior, net=jax.tree.unflatten(structure, filled))


def _drawn_if_zero(leaf: jax.Array, key: jax.Array) -> jax.Array:
    if leaf.ndim < 2 or bool(jnp.any(leaf != 0)):
        return leaf
    fan_in = leaf.size // leaf.shape[-1]
    return jax.random.normal(key, leaf.shape, leaf.dtype) / jnp.sqrt(fan_in)


def _mixture(tasks: Sequence[str], noise_std: float, key: jax.Array) -> Source:
    prior = mixture_prior()
    problems = MixtureProblems(prior, noise_std, key)
    return Source(
        prior, ("random_matrix",), lambda task: problems, fingerprint(matrix())
    )


def _digits(tasks: Sequence[str], noise_std: float, key: jax.Array) -> Source:
    images, labels = assets.test_digits()
    classifier = assets.digits_classifier()

    def examples(task: str) -> Restorations:
        return Restorations(task, images, labels, classifier, noise_std, key)

    return Source(assets.digits_prior(), tasks, examples, fingerprint(images))


def _random_network(tasks: Sequence[str], noise_std: float, key: jax.Array) -> Source:
    source = _digits(tasks, noise_std, key)
    return replace(source, prior=random_network(source.prior, jax.random.key(0)))


STUDIES: Mapping[str, Callable[[Sequence[str], float, jax.Array], Source]] = {
    "mixture": _mixture,
    "digits": _digits,
    "random_network": _random_network,
}


def rows(
    studies: Sequence[str],
    tasks: Sequence[str],
    solvers: Sequence[str],
    levels: Sequence[int],
    noise_std: float,
    seed: int,
) -> Iterator[Row]:
    """Yield the rows; a solver keeps all its settings but the noise levels.

    Raises:
        ValueError: an unknown name.
    """
    key = problem_key(seed)
    for study in studies:
        source = lookup("study", study, STUDIES)(tasks, noise_std, key)
        settings = {"noise_std": noise_std, "data": source.data}
        for task, name, num_levels in product(source.tasks, solvers, levels):
            regrid = lookup("solver", name, GRIDS)
            own_task = _TASK_OF_VECTORS if study == "mixture" else task
            choice = SOLVERS[name]
            solver: Any = choice.build(own_task, None)
            solver = replace(solver, grid=regrid(solver.grid, num_levels))
            labels = {
                "study": study,
                "task": task,
                "solver": name,
                "levels": num_levels,
            }
            examples = source.examples(task)
            yield Row(labels, source.prior, solver, examples, settings, choice.adapt)
