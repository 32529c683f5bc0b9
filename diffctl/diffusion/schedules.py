"""Noise schedules: how sigma and scale depend on the time of a diffusion.

1. x_t = scale(t) * (x0 + sigma(t) * eps)
2. forward SDE: dx = drift_rate(t) * x dt + g(t) dw
3. drift_rate = d log(scale)/dt,   g^2 = scale^2 * d(sigma^2)/dt
4. variance preserving: b(t) = integral of beta, scale = exp(-b/2), sigma^2 = exp(b) - 1

Host numbers give host numbers: with NumPy or Python arguments the methods compute in
NumPy float64 (this is how grids are built); with JAX arguments they trace.
"""

import abc
import math
from types import ModuleType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.pytree import pytree_dataclass


def namespace(*values: Any) -> ModuleType:
    """Return jax.numpy if any of `values` is a JAX array or tracer, else numpy."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


class Schedule(abc.ABC):
    """Signal scale and noise level of a diffusion as functions of its time.

    All methods are elementwise. `sigma` is relative to the unscaled signal, which lies
    in [-1, 1]. `clean_time` is the time written into grids for the level sigma = 0.
    """

    clean_time: ClassVar[float] = 0.0

    @property
    def time_range(self) -> tuple[float, float]:
        """The least and the most noisy time; infinite where there is no end."""
        return -math.inf, math.inf

    @abc.abstractmethod
    def sigma(self, time: Any) -> Any:
        """Return the noise level at `time`."""

    @abc.abstractmethod
    def scale(self, time: Any) -> Any:
        """Return the signal scale at `time`."""

    @abc.abstractmethod
    def time(self, sigma: Any) -> Any:
        """Return the time at which the noise level is `sigma` > 0."""

    @abc.abstractmethod
    def drift_rate(self, time: Any) -> Any:
        """Return the factor a(t) of the drift f(x, t) = a(t) * x."""

    @abc.abstractmethod
    def diffusion_squared(self, time: Any) -> Any:
        """Return g(t)^2."""


@pytree_dataclass
class VP(Schedule):
    """Continuous variance-preserving schedule with linear beta on t in [0, 1].

    beta(t) = beta_min + (beta_max - beta_min) * t. The defaults are the constants of
    "Score-based generative modeling through stochastic differential equations".
    """

    beta_min: Any = 0.1
    beta_max: Any = 20.0

    @property
    def time_range(self) -> tuple[float, float]:
        return 0.0, 1.0

    def sigma(self, time: Any) -> Any:
        xp = namespace(time, self.beta_min, self.beta_max)
        return xp.sqrt(xp.expm1(self._integrated_rate(time)))

    def scale(self, time: Any) -> Any:
        xp = namespace(time, self.beta_min, self.beta_max)
        return xp.exp(-self._integrated_rate(time) / 2)

    def time(self, sigma: Any) -> Any:
        xp = namespace(sigma, self.beta_min, self.beta_max)
        slope = self.beta_max - self.beta_min
        integrated = xp.log1p(sigma**2)
        # The rationalised root of the quadratic: no cancellation at small sigma.
        root = xp.sqrt(self.beta_min**2 + 2 * slope * integrated)
        return 2 * integrated / (self.beta_min + root)

    def drift_rate(self, time: Any) -> Any:
        return -self.diffusion_squared(time) / 2

    def diffusion_squared(self, time: Any) -> Any:
        return self.beta_min + (self.beta_max - self.beta_min) * time

    def _integrated_rate(self, time: Any) -> Any:
        return self.beta_min * time + (self.beta_max - self.beta_min) * time**2 / 2


@pytree_dataclass
class VE(Schedule):
    """Variance-exploding schedule, sigma = sigma_min * (sigma_max / sigma_min)^t.

    t in [0, 1]; the scale is 1. It never reaches sigma = 0: the step from its last
    level to the clean one is a denoising step. Known configurations of sigma_max: 378
    (the default of bb515/diffusionjax) and 348 (FFHQ at 256 pixels).
    """

    sigma_min: Any = 0.01
    sigma_max: Any = 378.0

    @property
    def time_range(self) -> tuple[float, float]:
        return 0.0, 1.0

    def sigma(self, time: Any) -> Any:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** time

    def scale(self, time: Any) -> Any:
        return namespace(time).ones_like(time) * 1.0

    def time(self, sigma: Any) -> Any:
        xp = namespace(sigma, self.sigma_min, self.sigma_max)
        return xp.log(sigma / self.sigma_min) / self._log_ratio()

    def drift_rate(self, time: Any) -> Any:
        return namespace(time).zeros_like(time) * 1.0

    def diffusion_squared(self, time: Any) -> Any:
        return 2 * self._log_ratio() * self.sigma(time) ** 2

    def _log_ratio(self) -> Any:
        xp = namespace(self.sigma_min, self.sigma_max)
        return xp.log(self.sigma_max / self.sigma_min)


@pytree_dataclass
class EDM(Schedule):
    """The schedule of EDM: the time is the noise level, the scale is 1."""

    @property
    def time_range(self) -> tuple[float, float]:
        return 0.0, math.inf

    def sigma(self, time: Any) -> Any:
        return time

    def scale(self, time: Any) -> Any:
        return namespace(time).ones_like(time) * 1.0

    def time(self, sigma: Any) -> Any:
        return sigma

    def drift_rate(self, time: Any) -> Any:
        return namespace(time).zeros_like(time) * 1.0

    def diffusion_squared(self, time: Any) -> Any:
        return 2 * time


# Levels and times may have been rounded to float32 on their way.
_ROUNDING = 1e-6


def require_times(schedule: Schedule, times: Any) -> None:
    """Raise ValueError if `schedule` lacks a time; tracers are not looked at."""
    if _traced(schedule, times):
        return
    low, high = schedule.time_range
    slack = _ROUNDING * (high - low) if math.isfinite(high - low) else 0.0
    _require_inside("times", schedule, times, (low, high), (low - slack, high + slack))


def require_levels(schedule: Schedule, sigmas: Any) -> None:
    """Raise ValueError if `schedule` lacks a level; tracers are not looked at."""
    if _traced(schedule, sigmas):
        return
    low, high = (
        float(schedule.sigma(end)) if math.isfinite(end) else end
        for end in schedule.time_range
    )
    limits = low * (1 - _ROUNDING), high * (1 + _ROUNDING)
    _require_inside("noise levels", schedule, sigmas, (low, high), limits)


def _traced(*trees: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def _require_inside(
    what: str,
    schedule: Schedule,
    values: Any,
    ends: tuple[float, float],
    limits: tuple[float, float],
) -> None:
    values = np.atleast_1d(np.asarray(values, np.float64))
    outside = values[~((limits[0] <= values) & (values <= limits[1]))]
    if outside.size:
        name, (low, high) = type(schedule).__name__, ends
        more = f" and {outside.size - 3} more" if outside.size > 3 else ""
        raise ValueError(
            f"{what} {outside[:3].tolist()}{more} are outside of the schedule {name}, "
            f"which has {what} from {low:g} to {high:g}. Choose them inside, or a "
            "schedule that has them: EDM() has all levels."
        )
