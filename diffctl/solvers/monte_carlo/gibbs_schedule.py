"""The coupling levels of split Gibbs sampling, and the noise levels below each."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.diffusion import NoiseGrid, NoiseLevel
from diffctl.numerics.precision import as_computed
from diffctl.pytree import pytree_dataclass


@pytree_dataclass
class GibbsSchedule:
    """The network calls of all iterations in one row, leaves (num_calls,)."""

    now: NoiseLevel
    next: NoiseLevel
    rho: jax.Array  # of the iteration
    first: jax.Array  # bool, where an iteration begins

    @classmethod
    def create(
        cls, couplings: Any, grid: NoiseGrid, enter: "Enter | None" = None
    ) -> "GibbsSchedule":
        """Go down `grid` to the clean level once for each of `couplings`.

        Args:
            couplings: levels rho, one for each iteration; cast to the type of `grid`.
            grid: levels of the prior step, of which those below rho are used.
            enter: where the prior step starts; by default at rho itself.

        Raises:
            ValueError: a coupling is not above the lowest level of the grid.
        """
        sigma = np.asarray(grid.sigma)
        # A coupling above a level in float64 only would be equal to it on the device.
        couplings = as_computed(couplings, sigma.dtype)
        valid = (sigma[-2] < couplings) & (couplings < np.inf)
        if not np.all(valid):
            raise ValueError(
                f"a coupling level is {couplings[~valid][0]:g}; expected finite levels "
                f"above the lowest of the grid, {sigma[-2]:g}. Raise rho_min or lower "
                "the grid."
            )
        enter = at_coupling if enter is None else enter
        rows = [enter(rho, sigma[sigma < rho]) for rho in couplings]
        counts = [row.size - 1 for row in rows]
        return cls(
            now=_levels([row[:-1] for row in rows]),
            next=_levels([row[1:] for row in rows]),
            rho=jnp.asarray(np.repeat(couplings, counts)),
            first=jnp.asarray(np.concatenate([np.arange(n) == 0 for n in counts])),
        )


Enter = Callable[[float, np.ndarray], np.ndarray]


def at_coupling(rho: float, below: np.ndarray) -> np.ndarray:
    """Return the levels from rho itself to the clean one."""
    return np.append(rho, below)


def below_coupling(rho: float, below: np.ndarray) -> np.ndarray:
    """Return the levels of the grid below rho, as the public code: too little noise."""
    return below


def annealed_couplings(
    num_iterations: int, rho_max: float, rho_min: float, decay: float
) -> np.ndarray:
    """Return max(rho_min, rho_max decay^k), (num_iterations,)."""
    return np.maximum(rho_min, rho_max * decay ** np.arange(num_iterations))


def _levels(rows: list[np.ndarray]) -> NoiseLevel:
    """Return levels of the EDM schedule, whose time is sigma and whose scale is 1."""
    sigma = jnp.asarray(np.concatenate(rows))
    return NoiseLevel(sigma=sigma, scale=jnp.ones_like(sigma), time=sigma)
