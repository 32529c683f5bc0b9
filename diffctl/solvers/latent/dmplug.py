"""DMPlug: the whole sampler is the generator, fitted to the measurement.

1. R(z): x = z at the first of 3 levels; DDIM without noise, each x0_hat clipped
2. z <- Adam step on mean (y - A(R(z)))^2

Nothing penalises z: where the descent stops is the only regularisation.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from diffctl.control import ComposedCost
from diffctl.core import DiffusionPrior
from diffctl.diffusion import DDPM, Euler, NoiseGrid, OneCallStep, clip
from diffctl.numerics.descent import Descent
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.costs import mean_squared_residual
from diffctl.solvers.latent.optimisation import ThroughSampler
from diffctl.solvers.latent.stopping import LastIterate, MovingVariance, StoppingRule
from diffctl.solvers.tasks import for_task

_RELEASED_STEPS: Mapping[str, int] = {
    "super_resolution_x4": 5000,
    "random_inpainting": 5000,
    "nonlinear_deblurring": 10000,
}


def three_levels() -> NoiseGrid:
    """Return the levels 666, 333 and 0 of the linear DDPM schedule."""
    return NoiseGrid.from_times([666, 333, 0], DDPM.linear())


@pytree_dataclass
class DMPlug(ThroughSampler):
    """DMPlug (Wang et al., NeurIPS 2024).

        min_z  mean (y - A(R(z)))^2,    R: T clipped DDIM steps (3)

    Requirements: any differentiable operator; any noise model (see `cost`). For c y and
    c A with c far from 1, a `descent` whose `unit` is c^2, the default cost's.

    Cost: n T forwards and VJPs for n steps and T levels, T forwards for the result;
    memory of T VJPs. With the published 5000 steps, 15000 of each.

    Deviations: the result is the iterate that a rule chooses without the truth
    (`stopping`); `stopping=LastIterate()` returns the last one. The numbers of the
    paper are those of the best iterate against the truth, for each metric apart. Its
    L-BFGS variant and its blind problems are left out.

    Args: see `ThroughSampler`.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, DiffusionPrior)
    cost_formula: ClassVar[str] = "T (n + 1) fwd + T n VJP"
    reference: ClassVar[str] = (
        "Wang et al., DMPlug: A Plug-in Method for Solving Inverse Problems with "
        "Diffusion Models, NeurIPS 2024"
    )

    num_steps: int = static(default=5000)
    num_restarts: int = static(default=1)
    descent: Descent = Descent.adam(0.01)
    cost: Callable[[Problem], ComposedCost] = static(default=mean_squared_residual)
    penalty_weight: Any = 0.0
    stopping: StoppingRule = MovingVariance()
    reverse: OneCallStep = Euler(bound=clip)

    @classmethod
    def default(cls) -> "DMPlug":
        """Return the published levels and step size, with the stopping rule."""
        return cls(grid=three_levels())

    @classmethod
    def released_code(cls, task: str) -> "DMPlug":
        """Return the released settings; the last iterate, as the code has no rule."""
        return cls(
            grid=three_levels(),
            num_steps=for_task(_RELEASED_STEPS, task),
            stopping=LastIterate(),
        )
