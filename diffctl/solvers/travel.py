"""Time travel: going back to a noisier level and down again, as RePaint does.

Every `length` levels the state is noised again by `length` levels, `repeat - 1` times.
Noising never needs the network, so that a journey is a sequence of reverse steps from
`now` to `next`, each followed by noising from `next` to `after`; where the journey goes
straight on, `after` is `next`, and noising adds nothing.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.diffusion import NoiseGrid, NoiseLevel
from diffctl.numerics.safe import root_of_difference
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.levels import Levels

Diffuse = Callable[[jax.Array, jax.Array, Levels, jax.Array], jax.Array]


def forward_noise(
    x: jax.Array,
    x0_hat: jax.Array,
    levels: Levels,
    noise: jax.Array,
) -> jax.Array:
    """Draw from the forward process: x + sqrt(sigma_after^2 - sigma_next^2) z."""
    next, after = levels
    return x + root_of_difference(after.sigma, next.sigma) * noise


def renoise_prediction(
    x: jax.Array,
    x0_hat: jax.Array,
    levels: Levels,
    noise: jax.Array,
) -> jax.Array:
    """Forget the step: x0_hat + sigma_after z, with the uncorrected prediction."""
    next, after = levels
    again = x0_hat + after.sigma * noise
    return jnp.where(after.sigma > next.sigma, again, x)


@pytree_dataclass
class TimeTravel:
    """How often and how far to go back; by default never.

    Args:
        length: levels to go back, >= 1.
        repeat: visits of every stretch of `length` levels, >= 1; 1 goes straight down.
        diffuse: how the state gets noisier, `(x, x0_hat, (next, after), noise)`.
    """

    length: int = static(default=1)
    repeat: int = static(default=1)
    diffuse: Diffuse = static(default=forward_noise)

    def journey(self, grid: NoiseGrid) -> tuple[NoiseLevel, NoiseLevel, NoiseLevel]:
        """Return `(now, next, after)` of every reverse step, leaves (num_steps,)."""
        levels = NoiseLevel(sigma=grid.sigma, scale=grid.scale, time=grid.time)
        visits = visited_levels(grid.num_steps, self.length, self.repeat)
        now, next, after = (
            jax.tree.map(lambda leaf, at=at: leaf[at], levels) for at in visits.T
        )
        return now, next, after


def visited_levels(num_levels: int, length: int, repeat: int) -> np.ndarray:
    """Return the indices `(now, next, after)` of every reverse step, (num_steps, 3).

    The levels are 0 (noisiest) to `num_levels` (clean). Journeys back start where the
    number of steps left is a multiple of `length`, from there to `length` levels up.

    Raises:
        ValueError: `length` or `repeat` is less than 1.
    """
    if length < 1 or repeat < 1:
        raise ValueError(
            f"time travel has length={length} and repeat={repeat}; expected at least 1 "
            "for both. repeat=1 does not travel."
        )
    last = num_levels - 1
    journeys_left = {last - j: repeat - 1 for j in range(0, last + 1 - length, length)}
    steps, level = [], 0
    while level < last:
        next = level + 1
        back = journeys_left.get(next, 0) > 0
        journeys_left[next] = journeys_left.get(next, 0) - back
        after = next - length if back else next
        steps.append((level, next, after))
        level = after
    steps.append((last, num_levels, num_levels))
    return np.asarray(steps)
