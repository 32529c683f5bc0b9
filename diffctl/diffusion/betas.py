"""Recipes for the variances of discrete diffusions, as checkpoints name them.

    linear         beta_i equally spaced from start to end
    scaled_linear  sqrt(beta_i) equally spaced
    cosine         that of `DDPM.cosine`
    sigmoid        start + (end - start) * sigmoid(v), v equally spaced from -6 to 6
    iddpm          the cosine curve without its offset at the end, limited as in EDM

A recipe is a few words in a file where the table would be a thousand numbers.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffctl.diffusion.discrete import DDPM


@dataclasses.dataclass(frozen=True)
class Betas:
    """A table of per-step variances beta_i, least noisy first; hashable.

    `start` and `end` are those of the recipe. `table` holds explicit values instead
    (recipe "table").
    """

    recipe: str = "linear"
    num_timesteps: int = 1000
    start: float = 1e-4
    end: float = 2e-2
    table: tuple[float, ...] = ()

    @classmethod
    def of(cls, recipe: str, **fields: Any) -> "Betas":
        """Check the name of the recipe; raise `ValueError` for an unknown one."""
        if recipe not in RECIPES:
            raise ValueError(
                f"There is no schedule called {recipe!r}; choose one of "
                f"{', '.join(sorted(RECIPES))}."
            )
        table = tuple(float(beta) for beta in fields.pop("table", ()))
        if recipe == "table":
            fields |= {"table": table, "num_timesteps": len(table)}
        return cls(recipe=recipe, **fields)

    def values(self) -> np.ndarray:
        """Return the variances in float64, (num_timesteps,)."""
        return RECIPES[self.recipe](self)

    def schedule(self) -> DDPM:
        """Return the schedule with these variances."""
        return DDPM.from_betas(self.values())

    def to_json(self) -> dict[str, Any]:
        """Return what `Betas.of` needs to build this again."""
        return dataclasses.asdict(self) | {"table": list(self.table)}


def _linear(betas: Betas) -> np.ndarray:
    return np.linspace(betas.start, betas.end, betas.num_timesteps)


def _scaled_linear(betas: Betas) -> np.ndarray:
    return np.linspace(betas.start**0.5, betas.end**0.5, betas.num_timesteps) ** 2


def _cosine(betas: Betas) -> np.ndarray:
    return -np.expm1(
        -np.diff(DDPM.cosine(betas.num_timesteps).integrated_rate, prepend=0)
    )


def _sigmoid(betas: Betas) -> np.ndarray:
    ramp = 1 / (1 + np.exp(-np.linspace(-6, 6, betas.num_timesteps)))
    return betas.start + (betas.end - betas.start) * ramp


def _iddpm(betas: Betas) -> np.ndarray:
    """Return beta_j = min(1 - a_j / a_{j-1}, 1 - 0.001), a_j of NVlabs/edm.

    There a_j = sin^2(pi/2 * j / M / 1.008) runs from the noisy end, and the ratio of
    consecutive values is bounded below by 0.001.
    """
    index = np.arange(betas.num_timesteps, -1, -1) / betas.num_timesteps / 1.008
    curve = np.sin(np.pi / 2 * index) ** 2
    return 1 - np.maximum(curve[1:] / curve[:-1], 0.001)


def _table(betas: Betas) -> np.ndarray:
    return np.asarray(betas.table, np.float64)


RECIPES: Mapping[str, Callable[[Betas], np.ndarray]] = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "cosine": _cosine,
    "sigmoid": _sigmoid,
    "iddpm": _iddpm,
    "table": _table,
}


def spaced_timesteps(
    num_timesteps: int, num_steps: int, *, spacing: str = "leading", offset: int = 0
) -> np.ndarray:
    """Pick the training indices that a sampler of `num_steps` visits, noisiest first.

    The three rules of huggingface/diffusers: "leading" takes every k-th index from 0,
    "trailing" every k-th from the noisiest, "linspace" spreads over both ends.

    Returns:
        Decreasing integers, (num_steps,).

    Raises:
        ValueError: an unknown rule.
    """
    if spacing == "leading":
        stride = num_timesteps // num_steps
        return np.arange(num_steps)[::-1] * stride + offset
    if spacing == "trailing":
        positions = np.arange(num_timesteps, 0, -num_timesteps / num_steps)
        return np.rint(positions).astype(int) - 1
    if spacing == "linspace":
        return np.rint(np.linspace(0, num_timesteps - 1, num_steps))[::-1].astype(int)
    raise ValueError(
        f"spacing must be 'leading', 'trailing' or 'linspace'; got {spacing!r}."
    )
