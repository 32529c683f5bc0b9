"""The discrete schedule of DDPM, and the selection of its levels (respacing).

1. alphas_cumprod_i = product of (1 - beta_j) for j <= i;  b_i = -log(alphas_cumprod_i)
2. scale_i = exp(-b_i / 2),  sigma_i^2 = exp(b_i) - 1
3. respaced chain: beta'_j = 1 - alphas_cumprod[tau_j] / alphas_cumprod[tau_{j-1}]
"""

import math
import operator
from typing import Any, ClassVar

import numpy as np

from diffctl.diffusion.schedules import (
    Schedule,
    namespace,
    require_levels,
    require_times,
)
from diffctl.pytree import pytree_dataclass


@pytree_dataclass
class DDPM(Schedule):
    """Discrete variance-preserving schedule; the time is the integer training index.

    Index 0 is the least noisy trained level, -1 the clean signal. Between indices
    b = -log(alphas_cumprod) is interpolated linearly, so every index is exact and the
    forward SDE (rate b_i - b_{i-1} on (i-1, i]) passes through all of them. There are
    no levels beyond the last index: such times and levels are an error, and where they
    are traced those of the last index.

    `integrated_rate` is b, (N,), increasing. It is stored instead of alphas_cumprod
    because 1 - alphas_cumprod loses three digits in float32 at the clean end.
    """

    clean_time: ClassVar[float] = -1.0

    integrated_rate: Any

    @classmethod
    def from_betas(cls, betas: Any) -> "DDPM":
        """Build from the per-step variances beta_i in (0, 1), (N,).

        Raises:
            ValueError: not a vector, or an entry outside (0, 1).
        """
        betas = np.asarray(betas, dtype=np.float64)
        if betas.ndim != 1 or betas.size == 0 or not np.all((betas > 0) & (betas < 1)):
            raise ValueError(
                "betas must be a vector with entries in (0, 1); got shape "
                f"{betas.shape} and range {_range(betas)}."
            )
        return cls(integrated_rate=np.cumsum(-np.log1p(-betas)))

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Any) -> "DDPM":
        """Build from the cumulative products of 1 - beta_i, (N,), decreasing in (0, 1).

        Raises:
            ValueError: not a strictly decreasing vector in (0, 1).
        """
        table = np.asarray(alphas_cumprod, dtype=np.float64)
        inside = (
            table.ndim == 1 and table.size > 0 and np.all((table > 0) & (table < 1))
        )
        if not inside or np.any(np.diff(table) >= 0):
            raise ValueError(
                "alphas_cumprod must decrease strictly and lie in (0, 1), least noisy "
                f"first; got shape {table.shape} and range {_range(table)}."
            )
        return cls(integrated_rate=-np.log(table))

    @classmethod
    def linear(cls, num_timesteps: int = 1000) -> "DDPM":
        """Build the linear schedule, beta from 1e-4 to 2e-2 for 1000 indices.

        For other lengths both ends are multiplied by 1000 / num_timesteps
        (openai/guided-diffusion).

        Raises:
            ValueError: fewer than 21 indices, where a beta would reach 1.
        """
        stretch = 1000 / at_least("num_timesteps", num_timesteps, 21)
        return cls.from_betas(np.linspace(1e-4, 2e-2, num_timesteps) * stretch)

    @classmethod
    def cosine(cls, num_timesteps: int = 1000) -> "DDPM":
        """Build the cosine schedule of "Improved denoising diffusion models".

        alphas_cumprod(u) = cos^2((u + 0.008) / 1.008 * pi / 2), betas at most 0.999.

        Raises:
            ValueError: `num_timesteps` < 1.
        """
        u = np.arange(at_least("num_timesteps", num_timesteps, 1) + 1) / num_timesteps
        target = np.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        return cls.from_betas(np.minimum(1 - target[1:] / target[:-1], 0.999))

    @property
    def time_range(self) -> tuple[float, float]:
        return self.clean_time, self.num_timesteps - 1.0

    @property
    def num_timesteps(self) -> int:
        """Number of trained levels N."""
        return int(self.integrated_rate.shape[-1])

    @property
    def alphas_cumprod(self) -> Any:
        """Cumulative products of 1 - beta, (N,)."""
        return namespace(self.integrated_rate).exp(-self.integrated_rate)

    def sigma(self, time: Any) -> Any:
        xp = namespace(time, self.integrated_rate)
        return xp.sqrt(xp.expm1(self._rate_at(time)))

    def scale(self, time: Any) -> Any:
        xp = namespace(time, self.integrated_rate)
        return xp.exp(-self._rate_at(time) / 2)

    def time(self, sigma: Any) -> Any:
        require_levels(self, sigma)
        xp = namespace(sigma, self.integrated_rate)
        rates = self._with_clean()
        index = xp.arange(rates.size, dtype=rates.dtype) - 1
        return xp.interp(xp.log1p(sigma**2), rates, index)

    def drift_rate(self, time: Any) -> Any:
        return -self.diffusion_squared(time) / 2

    def diffusion_squared(self, time: Any) -> Any:
        require_times(self, time)
        xp = namespace(time, self.integrated_rate)
        # An index that comes back from `time` may exceed its integer by rounding.
        index = xp.ceil(xp.asarray(time) - 1e-3).astype(int)
        rates = xp.diff(self._with_clean())
        return rates[xp.clip(index, 0, self.num_timesteps - 1)]

    def _rate_at(self, time: Any) -> Any:
        require_times(self, time)
        xp = namespace(time, self.integrated_rate)
        rates = self._with_clean()
        index = xp.arange(rates.size, dtype=rates.dtype) - 1
        return xp.interp(time, index, rates)

    def _with_clean(self) -> Any:
        xp = namespace(self.integrated_rate)
        return xp.concatenate(
            [xp.zeros_like(self.integrated_rate[:1]), self.integrated_rate]
        )


def respaced_timesteps(num_timesteps: int, num_steps: int) -> np.ndarray:
    """Pick `num_steps` of `num_timesteps` training indices, first and last included.

    The fractional stride (num_timesteps - 1) / (num_steps - 1) is accumulated in double
    precision and rounded half to even at each step (openai/guided-diffusion).

    Returns:
        Increasing integers, (num_steps,).

    Raises:
        ValueError: `num_steps` outside 2..num_timesteps.
    """
    check_num_steps(num_timesteps, num_steps, least=2)
    stride = (num_timesteps - 1) / (num_steps - 1)
    # A running sum, not i * stride: the two can round differently.
    positions = np.cumsum(np.r_[0.0, np.full(num_steps - 1, stride)])
    return np.rint(positions).astype(int)


def ddim_timesteps(num_timesteps: int, num_steps: int) -> np.ndarray:
    """Pick every k-th index with the first integer k that gives exactly `num_steps`.

    This is the "ddimN" form of openai/guided-diffusion; it starts at index 0 and does
    not contain the noisiest level in general.

    Returns:
        Increasing integers, (num_steps,).

    Raises:
        ValueError: no integer stride gives that many steps.
    """
    at_least("num_steps", num_steps, 1)
    for stride in range(1, num_timesteps + 1):
        if len(range(0, num_timesteps, stride)) == num_steps:
            return np.arange(0, num_timesteps, stride)
    raise ValueError(
        f"no integer stride picks {num_steps} of {num_timesteps} timesteps; "
        "use respaced_timesteps."
    )


def respaced(schedule: DDPM, timesteps: Any) -> DDPM:
    """Return the chain that visits only `timesteps`, with its own betas.

    beta'_j = 1 - alphas_cumprod[tau_j] / alphas_cumprod[tau_{j-1}]; the noise levels
    are those of the full chain. Index j of the result is index tau_j of `schedule`.

    Raises:
        ValueError: timesteps not increasing or out of range.
    """
    index = np.asarray(timesteps)
    valid = index.ndim == 1 and index.size > 0 and np.all(np.diff(index) > 0)
    if not valid or index[0] < 0 or index[-1] >= schedule.num_timesteps:
        raise ValueError(
            f"timesteps must increase within 0..{schedule.num_timesteps - 1}; got "
            f"{timesteps!r}."
        )
    return DDPM(integrated_rate=schedule.integrated_rate[index])


def check_num_steps(num_timesteps: int, num_steps: int, *, least: int) -> None:
    """Raise ValueError unless `num_steps` is from `least` to `num_timesteps`."""
    at_least("num_steps", num_steps, least)
    if num_steps > at_least("num_timesteps", num_timesteps, 1):
        raise ValueError(
            f"num_steps must be at most the {num_timesteps} trained levels; "
            f"got {num_steps}."
        )


def at_least(name: str, value: int, least: int) -> int:
    """Return an integer; raise ValueError if it is less than `least`."""
    if operator.index(value) < least:
        raise ValueError(f"{name} must be at least {least}; got {value}.")
    return value


def _range(values: np.ndarray) -> str:
    return f"[{values.min():g}, {values.max():g}]" if values.size else "empty"
