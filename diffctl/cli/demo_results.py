"""What the demo measures on every reconstruction."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.cli.demo_problems import Group
from diffctl.cli.timing import Timed
from diffctl.core import Solver
from diffctl.metrics import psnr, ssim


@dataclass(frozen=True)
class Result:
    """One solver on the examples of one task; numbers are per example.

    Attributes:
        solver: name for people.
        settings: the solver.
        task: name in the registry.
        images: reconstructions (n, H, W, C).
        classes: what the classifier sees in them, (n,).
        recognised: whether that is the digit, (n,).
        psnr: dB, (n,); None for guidance.
        ssim: (n,); None for guidance.
        misfit: mean squared residual in units of the noise variance, 1 at the noise
            level, (n,); for guidance -log p(class).
        misfit_steps: the same after every step, (n, steps).
        status: 0 if all is well, (n,).
        forwards: network forwards, (n,).
        vjps: network VJPs, (n,).
        seconds: running time of an example.
        compiling: seconds of compilation, or of reading compiled programs.
    """

    solver: str
    settings: Solver
    task: str
    images: np.ndarray
    classes: np.ndarray
    recognised: np.ndarray
    psnr: np.ndarray | None
    ssim: np.ndarray | None
    misfit: np.ndarray
    misfit_steps: np.ndarray
    status: np.ndarray
    forwards: np.ndarray
    vjps: np.ndarray
    seconds: float
    compiling: float

    def to_json(self) -> dict[str, Any]:
        """Return the numbers; what is not finite becomes null."""
        numbers = {
            name: _numbers(getattr(self, name))
            for name in ("psnr", "ssim", "misfit", "status", "forwards", "vjps")
        }
        return {
            "task": self.task,
            "solver": self.solver,
            **numbers,
            "recognised": [bool(hit) for hit in self.recognised],
            "seconds_per_image": round(self.seconds, 3),
            "compiling_seconds": round(self.compiling, 1),
        }


def measure(name: str, solver: Solver, group: Group, spent: Timed) -> Result:
    """Compare the solution of a group with the truth."""
    solution = spent.result
    pixels, logits = jax.vmap(group.problems.operator)(solution.x)
    weight = group.problems.operator.class_weight  # type: ignore[attr-defined]
    if group.truth is None:
        steps = np.asarray(solution.stats.misfit)
        labels = jnp.asarray(group.labels)[:, None]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels, axis=-1)
        misfit, quality = -np.asarray(chosen[:, 0]), {}
    else:
        noise_std = float(group.problems.noise.parts[0].std)  # type: ignore[attr-defined]
        residual = np.asarray(pixels - group.problems.y[0]) / noise_std
        misfit = (residual**2).sum(-1) / group.num_observed
        # The class that is switched off adds -log(1 / number of classes).
        idle = math.log(logits.shape[-1])
        steps = 2 * (np.asarray(solution.stats.misfit) - idle) / group.num_observed
        truth = jnp.asarray(group.truth)
        quality = {
            "psnr": np.asarray(jax.vmap(psnr)(solution.x, truth)),
            "ssim": np.asarray(jax.vmap(ssim)(solution.x, truth)),
        }
    if not weight:
        logits = jax.vmap(group.problems.operator.network)(solution.x)  # type: ignore[attr-defined]
    classes = np.argmax(np.asarray(logits), axis=-1)
    return Result(
        solver=name,
        settings=solver,
        task=group.task,
        images=np.asarray(solution.x),
        classes=classes,
        recognised=classes == group.labels,
        psnr=quality.get("psnr"),
        ssim=quality.get("ssim"),
        misfit=misfit,
        misfit_steps=steps,
        status=np.asarray(solution.status),
        forwards=np.asarray(solution.stats.nfe_fwd),
        vjps=np.asarray(solution.stats.nvjp),
        seconds=spent.running / len(classes),
        compiling=spent.compiling,
    )


def _numbers(values: np.ndarray | None) -> list[float | int | None] | None:
    if values is None:
        return None
    rounded = [round(value, 4) for value in values.tolist()]
    return [value if math.isfinite(value) else None for value in rounded]
