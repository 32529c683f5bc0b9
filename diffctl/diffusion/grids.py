"""Grids of noise levels, noisiest first and clean at the end.

They are computed in NumPy float64 on the host and cast once to JAX's default float, so
that no cancellation of the schedule's formulas reaches the device. Levels that the cast
would make equal, infinite or 0 are refused.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.diffusion.discrete import DDPM, at_least, respaced_timesteps
from diffctl.diffusion.schedules import (
    EDM,
    VP,
    Schedule,
    namespace,
    require_levels,
    require_times,
)
from diffctl.numerics.precision import as_computed
from diffctl.pytree import pytree_dataclass


@pytree_dataclass
class NoiseLevel:
    """One noise level: x_t = scale * (x0 + sigma * eps) at `time` of the schedule."""

    sigma: jax.Array  # () relative to the unscaled signal, in [-1, 1]
    scale: jax.Array  # ()
    time: jax.Array  # ()


@pytree_dataclass
class NoiseGrid:
    """The T + 1 levels of a reverse diffusion with T steps; the last one is clean.

    `sigma` decreases strictly to `sigma[-1] == 0`, and `scale[-1] == 1`. `time` is the
    time of the schedule that the grid was built from (sigma itself for `karras` and
    `geometric`, the integer training index for `ddpm`, with -1 for clean).
    """

    sigma: jax.Array  # (T + 1,)
    scale: jax.Array  # (T + 1,)
    time: jax.Array  # (T + 1,)

    @classmethod
    def from_times(cls, times: Any, schedule: Schedule) -> "NoiseGrid":
        """Build the levels of `schedule` at `times`, then the clean level.

        Args:
            times: noisiest first, (T,), without the clean level.
            schedule: with host values (not traced).

        Raises:
            ValueError: a time is not one of the schedule, or the levels do not decrease
                strictly, are not positive, or not so in the default precision.
        """
        times = np.asarray(times, dtype=np.float64)
        require_times(schedule, times)
        return cls._on_host(schedule.sigma(times), times, schedule)

    @classmethod
    def from_sigmas(cls, sigmas: Any, schedule: Schedule | None = None) -> "NoiseGrid":
        """Build the levels `sigmas`, then the clean level.

        Args:
            sigmas: positive, strictly decreasing, (T,), without the clean level.
            schedule: gives scale and time; EDM (scale 1, time = sigma) if omitted.

        Raises:
            ValueError: the schedule lacks a level, or the levels do not decrease
                strictly, are not positive, or not so in the default precision.
        """
        sigmas = np.asarray(sigmas, dtype=np.float64)
        schedule = EDM() if schedule is None else schedule
        _check_levels(sigmas)
        require_levels(schedule, sigmas)
        return cls._on_host(sigmas, schedule.time(sigmas), schedule)

    @classmethod
    def _on_host(cls, sigmas: Any, times: Any, schedule: Schedule) -> "NoiseGrid":
        _check_levels(sigmas)
        with jax.ensure_compile_time_eval():  # known numbers under `jax.jit` as well
            return cls(
                sigma=jnp.asarray(np.append(sigmas, 0.0)),
                scale=jnp.asarray(np.append(schedule.scale(times), 1.0)),
                time=jnp.asarray(np.append(times, schedule.clean_time)),
            )

    @property
    def num_steps(self) -> int:
        """Number of reverse steps T."""
        return self.sigma.shape[0] - 1

    def pairs(self) -> tuple[NoiseLevel, NoiseLevel]:
        """Return the levels `(now, next)` of every step, leaves (T,): xs of a scan."""
        levels = NoiseLevel(sigma=self.sigma, scale=self.scale, time=self.time)
        now = jax.tree.map(lambda leaf: leaf[:-1], levels)
        return now, jax.tree.map(lambda leaf: leaf[1:], levels)


def karras(
    num_steps: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> NoiseGrid:
    """Return the grid of EDM, equally spaced in sigma^(1/rho).

    sigma_i = (sigma_max^(1/rho) + i/(T-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho
    for i < T, then 0 ("Elucidating the design space of diffusion-based generative
    models"). A grid of one step has the single noisy level `sigma_max`.

    Raises:
        ValueError: `num_steps` < 1, `rho` <= 0, or not 0 < sigma_min < sigma_max.
    """
    return NoiseGrid.from_sigmas(karras_sigmas(num_steps, sigma_min, sigma_max, rho))


def karras_sigmas(
    num_steps: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> np.ndarray:
    """Return the noisy levels of `karras`, (num_steps,) float64; raises as it does."""
    _check_range(num_steps, sigma_min, sigma_max)
    if not rho > 0:
        raise ValueError(f"rho must be positive; got {rho}.")
    return power_levels(sigma_max, sigma_min, num_steps, rho)


def power_levels(start: Any, end: Any, num_levels: int, rho: float = 7.0) -> Any:
    """Return levels from `start` to `end`, both included, equally spaced in the root.

    sigma_i = (start^(1/rho) + i/(n-1) (end^(1/rho) - start^(1/rho)))^rho, (n,). Host
    numbers give NumPy float64, JAX scalars trace.
    """
    xp = namespace(start, end)
    return xp.linspace(start ** (1 / rho), end ** (1 / rho), num_levels) ** rho


def geometric(
    num_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> NoiseGrid:
    """Return the grid that is equally spaced in log(sigma), then 0.

    Raises:
        ValueError: `num_steps` < 1 or not 0 < sigma_min < sigma_max.
    """
    _check_range(num_steps, sigma_min, sigma_max)
    return NoiseGrid.from_sigmas(np.geomspace(sigma_max, sigma_min, num_steps))


def uniform(
    num_steps: int, schedule: Schedule, time_max: float, time_min: float
) -> NoiseGrid:
    """Return the grid equally spaced in the time of `schedule`, then clean.

    Raises:
        ValueError: `num_steps` < 1 or times that are not decreasing in noise.
    """
    at_least("num_steps", num_steps, 1)
    return NoiseGrid.from_times(np.linspace(time_max, time_min, num_steps), schedule)


def vp_uniform(
    num_steps: int,
    schedule: VP | None = None,
    time_max: float = 1.0,
    time_min: float = 1e-3,
) -> NoiseGrid:
    """Return the grid equally spaced in the time of the continuous VP schedule.

    Raises:
        ValueError: `num_steps` < 1 or not 0 < time_min < time_max.
    """
    schedule = VP() if schedule is None else schedule
    return uniform(num_steps, schedule, time_max, time_min)


def ddpm(num_steps: int, schedule: DDPM | None = None) -> NoiseGrid:
    """Return exact levels of a discrete schedule, respaced to `num_steps`.

    The indices are `respaced_timesteps`; for another choice of levels use
    `NoiseGrid.from_times(timesteps[::-1], schedule)`. The default schedule is linear
    with 1000 levels.

    Raises:
        ValueError: `num_steps` outside 2..schedule.num_timesteps.
        TypeError: `schedule` is not discrete.
    """
    schedule = DDPM.linear() if schedule is None else schedule
    if not isinstance(schedule, DDPM):
        raise TypeError(
            f"ddpm needs a DDPM schedule; got {type(schedule).__name__}. Use `uniform` "
            "for a continuous one."
        )
    timesteps = respaced_timesteps(schedule.num_timesteps, num_steps)
    return NoiseGrid.from_times(timesteps[::-1], schedule)


def _check_levels(sigmas: np.ndarray) -> None:
    valid = sigmas.ndim == 1 and sigmas.size > 0 and np.all(np.isfinite(sigmas))
    if not valid or np.any(sigmas <= 0) or np.any(np.diff(sigmas) >= 0):
        raise ValueError(
            "noise levels must be finite, positive and strictly decreasing, without "
            f"the clean level at the end; got {sigmas!r}."
        )
    stored = as_computed(sigmas)
    kept = (stored > 0) & (stored < np.inf)
    kept[1:] &= stored[1:] < stored[:-1]
    if not np.all(kept):
        i = int(np.argmin(kept))
        raise ValueError(
            f"noise levels must be finite, positive and strictly decreasing also in "
            f"{stored.dtype}, where level {i} of the grid, {float(sigmas[i])!r}, "
            f"becomes {stored[i]}{_same_as_before(sigmas, stored, i)}. Space the "
            "levels more widely, or set jax_enable_x64."
        )


def _same_as_before(sigmas: np.ndarray, stored: np.ndarray, i: int) -> str:
    same = i > 0 and stored[i] == stored[i - 1]
    return f", as the one before, {float(sigmas[i - 1])!r}" if same else ""


def _check_range(num_steps: int, sigma_min: float, sigma_max: float) -> None:
    at_least("num_steps", num_steps, 1)
    if not 0 < sigma_min < sigma_max < np.inf:
        raise ValueError(
            "noise levels need 0 < sigma_min < sigma_max; got "
            f"sigma_min={sigma_min}, sigma_max={sigma_max}."
        )
