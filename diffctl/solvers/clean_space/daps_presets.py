"""Published settings of DAPS, as in zhangbingliang2019/DAPS, by task.

Measurements have noise of standard deviation 0.05 on [-1, 1]. Common to all: 200 levels
from 100 to 0.1, flows of 5 steps to 0.01, p(x0 | x) = N(x0_hat, sigma^2 I), and a
likelihood of standard deviation 0.01. For phase retrieval the best of 4 runs is kept.
"""

import math
from collections.abc import Mapping
from typing import Any

from diffctl.solvers.clean_space.clean_laws import NormalSurrogate
from diffctl.solvers.clean_space.flows import FlowToClean, FlowToLevel
from diffctl.solvers.clean_space.inner_samplers import (
    DecayingStep,
    Langevin,
    UnderdampedLangevin,
)
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


def langevin(task: str, num_levels: int) -> dict[str, Any]:
    """Return the fields of DAPS for the Langevin sampler of the released code."""
    num_steps, first = for_task(_LANGEVIN, task)
    step_size = _released_step(first, 0.01, num_levels)
    return _released(Langevin(num_steps=num_steps, step_size=step_size))


def underdamped(task: str, num_levels: int) -> dict[str, Any]:
    """Return the fields of DAPS for the sampler that the released code calls HMC."""
    num_steps, first, last_ratio, momentum = for_task(_UNDERDAMPED, task)
    return _released(
        UnderdampedLangevin(
            num_steps=num_steps,
            step_size=_released_step(first, last_ratio, num_levels),
            momentum=momentum,
        )
    )


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
