"""Recipes for the variances of discrete diffusions, as checkpoints name them.

    linear         beta_i equally spaced from start to end
    scaled_linear  sqrt(beta_i) equally spaced
    cosine         that of `DDPM.cosine`
    sigmoid        start + (end - start) * sigmoid(v), v equally spaced from -6 to 6
    iddpm          the cosine curve without its offset at the end, limited as in EDM

A recipe is a few words in a file where the table would be a thousand numbers.
"""

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Required, TypedDict

import numpy as np

from diffctl.diffusion.discrete import DDPM, check_num_steps
from diffctl.host import Range, check_settings, show
from diffctl.numerics.counts import rounded_quotients

Variance = Annotated[float, Range(0, 1)]


class _Described(TypedDict, total=False):
    recipe: Required[str]
    num_timesteps: Annotated[int, Range(1, 100_000)]
    start: Variance
    end: Variance
    table: list[Variance]  # empty where there is a recipe


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
                f"There is no schedule called {show(recipe)}; choose one of "
                f"{', '.join(sorted(RECIPES))}."
            )
        table = tuple(float(beta) for beta in fields.pop("table", ()))
        if recipe == "table":
            fields |= {"table": table, "num_timesteps": len(table)}
        return cls(recipe=recipe, **fields)

    @classmethod
    def from_json(cls, described: Any) -> "Betas":
        """Return what `to_json` described.

        Raises:
            ValueError: there is no such recipe, a setting is unknown or not what it
                must be, or the variances that they make are not within (0, 1).
        """
        check_settings(_Described, described, "the betas")
        betas = cls.of(**described)
        betas.schedule()
        return betas

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

    The three rules of huggingface/diffusers for N indices and k steps, i < k:

        leading    i (N // k) + offset     every stride-th from the offset
        trailing   (i + 1) N / k - 1       down from the noisiest
        linspace   i (N - 1) / (k - 1)     both ends; 0 alone for one step

    rounded to whole numbers, of two equally near ones the even one, before 1 is taken
    away. That is exact here. Rounding errors of diffusers move some of the indices that
    are halfway by one, and give "trailing" an index too many, -1, for 62 of 1000 counts
    (61 is the first).

    Args:
        num_timesteps: N, trained levels.
        num_steps: k, from 1 to N.
        spacing: the rule.
        offset: of "leading"; the other rules do without, as there.

    Returns:
        Strictly decreasing integers within 0..N - 1, (num_steps,).

    Raises:
        ValueError: an unknown rule, a number of steps that is not 1 to N, or an offset
            that leads outside of the indices.
    """
    check_num_steps(num_timesteps, num_steps, least=1)
    if spacing not in SPACINGS:
        raise ValueError(
            f"spacing must be {', '.join(map(repr, SPACINGS))}; got {spacing!r}."
        )
    place = np.arange(num_steps)[::-1]
    first = operator.index(offset) if spacing == "leading" else 0
    index = SPACINGS[spacing](place, num_timesteps, num_steps) + first
    room = num_timesteps - 1 - int(index[0] - first)
    if not 0 <= first <= room:
        raise ValueError(
            f"offset must be 0 to {room} for {num_steps} of {num_timesteps} timesteps; "
            f"got {offset}. Take fewer steps, or another spacing."
        )
    return index


def _leading(place: np.ndarray, num_timesteps: int, num_steps: int) -> np.ndarray:
    return place * (num_timesteps // num_steps)


def _trailing(place: np.ndarray, num_timesteps: int, num_steps: int) -> np.ndarray:
    return rounded_quotients((place + 1) * num_timesteps, num_steps) - 1


def _linspace(place: np.ndarray, num_timesteps: int, num_steps: int) -> np.ndarray:
    return rounded_quotients(place * (num_timesteps - 1), max(num_steps - 1, 1))


SPACINGS: Mapping[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "leading": _leading,
    "trailing": _trailing,
    "linspace": _linspace,
}
