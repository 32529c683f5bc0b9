"""The problem block of a control fixture, written from its README alone."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.control import (
    ComposedCost,
    ControlEnergy,
    ControlProblem,
    GaussianLoss,
    NormLoss,
    input_control,
    output_control,
)
from diffctl.pytree import pytree_dataclass, static
from tests.fixture_files import fixture_paths

OPERATORS = {"linear": lambda z: z, "tanh": jnp.tanh, "square": jnp.square}
MODES = {"input": input_control, "output": output_control}


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def paths_with(*names: str) -> list[Path]:
    """Return the control fixtures that hold all of these arrays."""
    kept = []
    for path in fixture_paths("control"):
        with np.load(path) as arrays:
            if set(names) <= set(arrays.files):
                kept.append(path)
    return kept


def mixture(f: dict, scale: np.ndarray, variance: np.ndarray) -> dict[str, np.ndarray]:
    """Return the components of p_n: weights, means (N,J,d), precisions (N,J,d,d)."""
    scale, variance = np.atleast_1d(scale), np.atleast_1d(variance)
    eye = np.eye(f["mix_means"].shape[1])
    cov = np.square(scale)[:, None, None, None] * f["mix_covs"][None]
    cov = cov + variance[:, None, None, None] * eye[None, None]
    log_weight = np.log(f["mix_weights"])[None] - 0.5 * np.linalg.slogdet(cov)[1]
    return {
        "log_weight": log_weight,
        "mean": scale[:, None, None] * f["mix_means"][None],
        "precision": np.linalg.inv(cov),
    }


def mixture_score(level: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Return grad log p_n(x) from the components of one level."""
    pulls = jnp.einsum("jab,jb->ja", level["precision"], level["mean"] - x[None])
    distance = jnp.einsum("ja,ja->j", pulls, level["mean"] - x[None])
    share = jax.nn.softmax(level["log_weight"] - 0.5 * distance)
    return jnp.einsum("j,ja->a", share, pulls)


@pytree_dataclass
class Residual:
    """g(x) - y."""

    matrix: Any
    measurement: Any
    operator: str = static()

    def __call__(self, x: jax.Array) -> jax.Array:
        return OPERATORS[self.operator](self.matrix @ x) - self.measurement


@pytree_dataclass
class FixtureDynamics:
    """h_n with the control of the fixture's mode."""

    levels: Any
    coef_state: Any
    coef_score: Any
    input_share: Any  # 1 for input control, 0 for output control

    def __call__(self, i: jax.Array, x: jax.Array, u: jax.Array) -> jax.Array:
        # One compiled program serves both modes; MODES has the library's own forms.
        outside = (1 - self.input_share) * u
        return input_control(self.step)(i, x, self.input_share * u) + outside

    def step(self, i: jax.Array, x: jax.Array) -> jax.Array:
        level = jax.tree.map(lambda leaf: leaf[i], self.levels)
        score = mixture_score(level, x)
        return self.coef_state[i] * x + self.coef_score[i] * score


def make_problem(f: dict[str, np.ndarray]) -> ControlProblem:
    losses = {"gauss": GaussianLoss(std=jnp.asarray(f["sigma"])), "norm": NormLoss()}
    problem = ControlProblem(
        dynamics=FixtureDynamics(
            levels=mixture(f, f["level_scale"], f["level_var"]),
            coef_state=f["coef_state"],
            coef_score=f["coef_score"],
            input_share=float(str(f["control_mode"]) == "input"),
        ),
        running_cost=ControlEnergy(weight=f["control_weight"]),
        terminal_cost=ComposedCost(
            map=Residual(
                matrix=f["op_matrix"],
                measurement=f["measurement"],
                operator=str(f["operator"]),
            ),
            loss=losses[str(f["loss"])],
        ),
    )
    return jax.tree.map(jnp.asarray, problem)


def zero_controls(f: dict[str, np.ndarray]) -> jax.Array:
    return jnp.zeros((int(f["n_steps"]), int(f["dim"])))


def assert_matches(found: Any, expected: np.ndarray, name: str, rtol: float) -> float:
    """Compare relative to the largest entry of the array, as the README asks."""
    found = np.asarray(found)
    assert found.shape == expected.shape, (name, found.shape, expected.shape)
    scale = np.max(np.abs(expected), initial=0.0)
    error = np.max(np.abs(found - expected), initial=0.0)
    limit = rtol * scale if scale > 0 else rtol
    assert error <= limit, f"{name}: error {error:.2e} of scale {scale:.2e}"
    return error / scale if scale > 0 else error
