"""Maximum a posteriori by descent on the signal itself.

    min_x  l(x) + weight E(x),       l(x) = -log p(y | x),   E(x) = -log p(x)

For energy-based models and for flows in x.
"""

from typing import Any, ClassVar

import jax

from diffctl.core import Calls, LogDensityPrior
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.generative.minimiser import Minimiser
from diffctl.solvers.generative.starts import Start, normal_start


@pytree_dataclass
class DensityMAP(Minimiser):
    """The mode of p(x | y) by descent in x, from several starts.

    Requirements: any differentiable operator and noise; a prior with a density. It need
    not be normalised.

    Cost: n R evaluations of the density with their VJPs for n steps and R starts, and R
    more evaluations at the end if there is a choice.

    Args:
        weight: () >= 0, of the prior; 1 is Bayes.
        start_from: `start(key, problem, prior)`: `normal_start`, `zero_start`,
            `pinv_start`.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, LogDensityPrior)
    checked: ClassVar[tuple[str, ...]] = ("start_from",)
    cost_formula: ClassVar[str] = "n R fwd + n R VJP, R starts"
    reference: ClassVar[str] = (
        "Du and Mordatch, Implicit generation and modeling with energy based models, "
        "NeurIPS 2019 (energies as priors)"
    )

    weight: Any = 1.0
    start_from: Start = static(default=normal_start)

    def draw(
        self, key: jax.Array, problem: Problem, prior: LogDensityPrior
    ) -> jax.Array:
        return self.start_from(key, problem, prior)

    def decode(
        self, v: jax.Array, prior: LogDensityPrior
    ) -> tuple[jax.Array, jax.Array]:
        return v, self.weight * prior.neg_log_density(v)

    def calls_outside_steps(self) -> Calls:
        # With one start the density at the end is not used, and so not computed.
        return Calls(fwd=self.num_restarts if self.num_restarts > 1 else 0)
