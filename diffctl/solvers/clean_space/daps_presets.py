"""Published settings of DAPS, as in zhangbingliang2019/DAPS, by task.

Measurements have noise of standard deviation 0.05 on [-1, 1]. Common to all: 200 levels
from 100 to 0.1, flows of 5 steps to 0.01, p(x0 | x) = N(x0_hat, sigma^2 I), and a
likelihood of standard deviation 0.01. For phase retrieval the best of 4 runs is kept.
Latent diffusion has 50 levels from 10 to 0.1, flows of 2 steps to 0.001 and a limit on
the pull of the data; Stable Diffusion has the same, for noise of 0.01.
"""

import math
from collections.abc import Mapping
from typing import Any

from diffctl.solvers.clean_space.clean_laws import NormalSurrogate
from diffctl.solvers.clean_space.flows import FlowToClean, FlowToLevel
from diffctl.solvers.clean_space.inner_samplers import Langevin, UnderdampedLangevin
from diffctl.solvers.clean_space.step_sizes import DecayingStep
from diffctl.solvers.tasks import for_task

_STD = 0.01
_SURROGATE = NormalSurrogate(signal_std=math.inf)

# Inner steps and first step size.
_LANGEVIN: Mapping[str, tuple[int, float]] = {
    "super_resolution_x4": (100, 1e-4),
    "gaussian_deblurring": (100, 1e-4),
    "random_inpainting": (100, 1e-4),
    "box_inpainting": (100, 5e-5),
    "motion_deblurring": (100, 5e-5),
    "phase_retrieval": (100, 5e-5),
    "high_dynamic_range": (100, 2e-5),
    "nonlinear_deblurring": (200, 1e-5),
}
_LEGACY = dict(_LANGEVIN) | {"nonlinear_deblurring": (100, 5e-5)}
# Inner steps, first step size, ratio of the last to it, and momentum.
_UNDERDAMPED: Mapping[str, tuple[int, float, float, float]] = {
    "super_resolution_x4": (12, 1.04e-4, 0.012, 0.90),
    "gaussian_deblurring": (82, 4.04e-5, 0.011, 0.10),
    "high_dynamic_range": (100, 2.18e-5, 0.013, 0.23),
    "box_inpainting": (84, 1.15e-5, 0.014, 0.003),
    "random_inpainting": (11, 3.56e-5, 0.015, 0.80),
    "motion_deblurring": (96, 3.69e-5, 0.010, 0.11),
    "nonlinear_deblurring": (85, 1.20e-5, 0.012, 0.46),
    "phase_retrieval": (62, 9.75e-6, 0.019, 0.73),
}
# The same in the latent space of an unconditional latent diffusion model,
_LATENT: Mapping[str, tuple[int, float, float, float]] = {
    "super_resolution_x4": (24, 1.35e-4, 0.023, 0.86),
    "gaussian_deblurring": (35, 2.70e-6, 0.95, 0.95),
    "high_dynamic_range": (38, 4.52e-6, 0.015, 0.58),
    "box_inpainting": (15, 9.02e-6, 0.13, 0.74),
    "random_inpainting": (38, 8.40e-6, 0.013, 0.92),
    "motion_deblurring": (49, 2.4e-5, 0.041, 0.45),
    "nonlinear_deblurring": (80, 3.71e-6, 0.024, 0.91),
    "phase_retrieval": (65, 2.1e-5, 0.12, 0.41),
}
# and in that of Stable Diffusion.
_STABLE_DIFFUSION: Mapping[str, tuple[int, float, float, float]] = {
    "super_resolution_x4": (30, 1e-4, 1.0, 0.45),
    "gaussian_deblurring": (40, 1e-5, 1.0, 0.90),
    "high_dynamic_range": (45, 1e-5, 1.0, 0.70),
    "box_inpainting": (58, 1.11e-6, 0.43, 0.92),
    "random_inpainting": (15, 3e-5, 1.0, 0.60),
    "motion_deblurring": (30, 2e-5, 1.0, 0.85),
    "nonlinear_deblurring": (60, 1e-5, 1.0, 0.80),
    "phase_retrieval": (95, 1.1e-4, 0.027, 0.47),
}


def langevin(task: str, num_levels: int) -> dict[str, Any]:
    """Return the fields of DAPS for the Langevin sampler of the released code."""
    num_steps, first = for_task(_LANGEVIN, task)
    step_size = _released_step(first, 0.01, num_levels)
    return _released(Langevin(num_steps=num_steps, step_size=step_size))


def underdamped(task: str, num_levels: int) -> dict[str, Any]:
    """Return the fields of DAPS for the sampler that the released code calls HMC."""
    return _released(_underdamped(_UNDERDAMPED, task, num_levels))


def latent(task: str, num_levels: int) -> dict[str, Any]:
    """Return the fields of DAPS for latents of an unconditional diffusion model."""
    return _released_latent(_underdamped(_LATENT, task, num_levels))


def stable_diffusion(task: str, num_levels: int) -> dict[str, Any]:
    """Return the fields of DAPS for latents of Stable Diffusion."""
    return _released_latent(_underdamped(_STABLE_DIFFUSION, task, num_levels))


def legacy(task: str) -> dict[str, Any]:
    """Return the fields of DAPS for the Langevin sampler of the first release."""
    return first_release(*for_task(_LEGACY, task))


def first_release(num_steps: int, first: float) -> dict[str, Any]:
    """Return the fields of DAPS that the first release and InverseBench share."""
    step_size = DecayingStep(first=first, last_ratio=0.01)
    return {
        "flow": FlowToClean(num_steps=5),
        "law": _SURROGATE,
        "sampler": Langevin(num_steps=num_steps, step_size=step_size),
        "effective_std": _STD,
    }


def _underdamped(
    settings: Mapping[str, tuple[int, float, float, float]], task: str, num_levels: int
) -> UnderdampedLangevin:
    num_steps, first, last_ratio, momentum = for_task(settings, task)
    return UnderdampedLangevin(
        num_steps=num_steps,
        step_size=_released_step(first, last_ratio, num_levels),
        momentum=momentum,
    )


def _released_latent(sampler: UnderdampedLangevin) -> dict[str, Any]:
    # That code clips entries of grad |y - A(x)|^2 to [-1, 1] and divides by 0.01^2.
    return _released(sampler) | {
        "flow": FlowToLevel(num_steps=2, sigma_end=0.001),
        "largest_pull": 1 / _STD**2,
    }


def _released(sampler: Any) -> dict[str, Any]:
    return {
        "flow": FlowToLevel(num_steps=5),
        "law": _SURROGATE,
        "sampler": sampler,
        "effective_std": _STD / math.sqrt(2),
    }


def _released_step(first: float, last_ratio: float, num_levels: int) -> DecayingStep:
    # That code counts k of T levels as k / (T + 1) of the way.
    last_ratio = 1 + (last_ratio - 1) * num_levels / (num_levels + 1)
    return DecayingStep(first=first, last_ratio=last_ratio)
