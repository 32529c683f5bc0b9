"""One DOC iteration against the bare network calls that it needs.

With N levels, f a bare forward and v a bare pull-back, both timed inside a scan of N
calls in the same process, a first-order iteration that recomputes needs N (2 f + v),
one of rank r N (2 f + v_{r+1}) with v_{r+1} a pull-back of r + 1 cotangents, and one
that stores its pull-backs N (f + v).
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

import diffctl
from diffctl.control import (
    LowRankBackward,
    NoFactors,
    OptaxUpdate,
    RandomizedFactors,
    Recompute,
    StorePullbacks,
    TrajectoryOptimizer,
)
from diffctl.solvers import DOC
from experiments.common.bare_calls import HIGHEST, LOWEST, bare_calls
from experiments.common.timing import interleaved


def doc_iteration(
    prior: Any, num_levels: int, rank: int, linearisation: Any
) -> tuple[Any, Any]:
    """Return a jitted DOC iteration on a masking problem, and its arguments."""
    key = jax.random.key(0)
    operator = diffctl.operators.Mask.random(key, prior.shape, drop_fraction=0.5)
    noise = diffctl.GaussianNoise(std=0.05)
    y = diffctl.simulate(key, operator, noise, jnp.zeros(prior.shape))
    problem = diffctl.Problem(y=y, operator=operator, noise=noise)
    factors = RandomizedFactors(rank=rank) if rank else NoFactors()
    update = OptaxUpdate(optimizer=optax.adam, hyperparams={"learning_rate": 1e-3})
    optimizer = TrajectoryOptimizer(
        backward=LowRankBackward(terminal=factors),
        update=update,
        linearisation=linearisation,
    )
    solver = DOC(
        grid=diffctl.grids.karras(num_levels, LOWEST, HIGHEST),
        num_steps=2,
        optimizer=optimizer,
    )
    carry, keys = jax.jit(solver.init)(key, problem, prior)
    step = jax.jit(lambda prior, carry, key: solver.step(carry, key, problem, prior))
    return step, (prior, carry, keys[0])


def measure(
    prior: Any, num_levels: int, ranks: tuple[int, ...], repeats: int
) -> dict[str, Any]:
    """Return times and ratios of all variants, medians of interleaved repeats."""
    key = jax.random.key(1)
    x = jax.random.normal(key, prior.shape)
    forward, one = bare_calls(prior, num_levels, 1)
    runs = {"forward": (forward, (prior, x)), "vjp_1": (one, (prior, x, x))}
    for rank in ranks:
        if rank:
            cts = jax.random.normal(key, (rank + 1, *prior.shape))
            pulled = bare_calls(prior, num_levels, rank + 1)[1]
            runs[f"vjp_{rank + 1}"] = (pulled, (prior, x, cts))
        runs[f"doc_rank{rank}"] = doc_iteration(prior, num_levels, rank, Recompute())
    runs["doc_rank0_stored"] = doc_iteration(prior, num_levels, 0, StorePullbacks())
    times = interleaved(runs, repeats)
    return {"num_levels": num_levels, "seconds": times, **_ratios(times, ranks)}


def _ratios(times: dict[str, float], ranks: tuple[int, ...]) -> dict[str, Any]:
    forward, pair = times["forward"], times["vjp_1"]
    report: dict[str, Any] = {"vjp_over_forward": pair / forward}
    for rank in ranks:
        measured = times[f"doc_rank{rank}"]
        report[f"rank{rank}"] = {
            "in_units_of_N(f+v)": measured / pair,
            "over_bare_calls": measured / (forward + times[f"vjp_{rank + 1}"]),
            "over_separate_calls": measured
            / (forward + pair + rank * (pair - forward)),
        }
    stored = times["doc_rank0_stored"]
    report["rank0_stored"] = {
        "in_units_of_N(f+v)": stored / pair,
        "over_bare_calls": stored / pair,
    }
    return report


def random_prior(size: int, channels: int, widths: tuple[int, ...]) -> Any:
    """Return an untrained prior of another size, for timing only."""
    blocks = [1] * (len(widths) - 1) + [2]
    architecture = diffctl.nets.Architecture.of(
        "unet", channels=channels, widths=list(widths), blocks=blocks
    )
    prior = diffctl.priors.NetworkPrior.create(
        architecture, (size, size, channels), key=jax.random.key(0)
    )
    spread = lambda leaf: leaf + 0.02 * jax.random.normal(jax.random.key(1), leaf.shape)  # noqa: E731
    return replace(prior, net=jax.tree.map(spread, prior.net))
