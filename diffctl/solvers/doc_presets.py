"""Settings of Diffusion Optimal Control as published and as released.

The paper's table 2 and the public code (lihenryhfl/diffusion_optimal_control) differ;
each is reproduced under its own name. Both take x in variance-preserving coordinates,
as `DOC` does.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from diffctl.control import (
    AdjointBackward,
    LowRankBackward,
    OptaxUpdate,
    RandomizedFactors,
    TrajectoryOptimizer,
)
from diffctl.diffusion import DDPM, Ancestral, Euler, NoiseGrid, clip, ddpm
from diffctl.diffusion.discrete import respaced_timesteps
from diffctl.solvers.costs import residual_norm
from diffctl.solvers.first_guess import NoControls
from diffctl.solvers.tasks import for_task
from diffctl.solvers.weighting import uniform_weight

_PAPER_ITERATIONS: Mapping[str, int] = {
    "super_resolution_x4": 50,
    "random_inpainting": 100,
    "box_inpainting": 100,
    "gaussian_deblurring": 100,
    "motion_deblurring": 100,
}
_RELEASED_RATES: Mapping[str, float] = {
    "super_resolution_x4": 5e-3,
    "random_inpainting": 5e-3,
    "box_inpainting": 5e-3,
    "gaussian_deblurring": 1e-2,
    "motion_deblurring": 5e-3,
}
_RELEASED_WEIGHT_SCALES: Mapping[str, float] = {
    **dict.fromkeys(_RELEASED_RATES, 1e-6),
    "gaussian_deblurring": 1e-5,
}


def paper(task: str) -> dict[str, Any]:
    """Return the arguments of `DOC` for table 2 of the paper.

    T = 50 levels of the linear DDPM schedule with deterministic steps, 50 or 100
    iterations of Adam at 1e-3, rank 1, terminal cost |A(x0) - y|, damping and control
    weight 1e-4, input control. Where the printed recursion is inconsistent the
    corrected one is used.

    Cost: 50 forwards and, per iteration, 100 forwards and 100 VJPs.
    """
    update = OptaxUpdate(
        optimizer=optax.adam, hyperparams={"learning_rate": 1e-3}, damping=1e-4
    )
    backward = LowRankBackward(terminal=RandomizedFactors(rank=1))
    return {
        "grid": ddpm(50),
        "num_steps": for_task(_PAPER_ITERATIONS, task),
        "reverse": Euler(),
        "optimizer": TrajectoryOptimizer(backward=backward, update=update),
        "control_weight": 1e-4,
        "weighting": uniform_weight,
        "start_scale": 1.0,
        "first_guess": NoControls(),
        "terminal": residual_norm,
    }


def released_code(task: str, num_levels: int = 20) -> dict[str, Any]:
    """Return the arguments of `DOC` for the default behaviour of the public code.

    First order: AdamW (weight decay 0.01) on the exact gradient of the residual norm
    plus tiny control weights; ancestral steps with clipping and frozen noise on a
    respaced schedule of which the noisiest level is never used, hence `num_levels` - 1
    controls; 50 iterations.

    Left out: the correction on a random subspace that the code adds by regularising
    twice, which vanishes in high dimension; and its second and third forward pass per
    step, which are wasted. The variance is the posterior's; for a prior that predicts
    its variance replace `reverse` by `AncestralLearned(bound=clip)`.

    Cost: 19 forwards and, per iteration, 38 forwards and 19 VJPs.
    """
    update = OptaxUpdate(
        optimizer=optax.adamw,
        hyperparams={
            "learning_rate": for_task(_RELEASED_RATES, task),
            "weight_decay": 0.01,
        },
        damping=1e-3,
    )
    schedule = DDPM.linear()
    timesteps = respaced_timesteps(schedule.num_timesteps, num_levels)
    scale = for_task(_RELEASED_WEIGHT_SCALES, task)
    return {
        "grid": NoiseGrid.from_times(timesteps[-2::-1], schedule),
        "num_steps": 50,
        "reverse": Ancestral(bound=clip),
        "optimizer": TrajectoryOptimizer(backward=AdjointBackward(), update=update),
        "control_weight": jnp.asarray(released_weights(num_levels, scale)),
        "weighting": uniform_weight,
        "start_scale": 1.0,
        "first_guess": NoControls(),
        "terminal": residual_norm,
    }


def released_weights(num_levels: int, scale: float) -> np.ndarray:
    """Return the control weights of the public code, noisiest first, (num_levels - 1,).

    w = scale * SNR / dt^2 with SNR = sqrt(a / (1 - a + 1e-7)) from the *per-step*
    alpha a = 1 - beta of the 1000-step schedule, at the times of the code's own grid.
    """
    times = np.linspace(1.0, 1e-3, num_levels)[:-1]
    betas = np.linspace(1e-4, 2e-2, 1000)
    a = 1.0 - betas[(999 * times).astype(int)]
    dt = (1.0 - 1e-3) / num_levels
    return scale * np.sqrt(a) / np.sqrt(1.0 - a + 1e-7) / dt**2
