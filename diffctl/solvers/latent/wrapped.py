"""Any solver, in the latent space of an autoencoder."""

from typing import Any, ClassVar

import jax

from diffctl.core import Calls, LatentPrior, Solver, StepTrace
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.latent.base import latent_problem
from diffctl.solvers.requirements import check_inner


@pytree_dataclass
class InLatentSpace(Solver):
    """Another solver run on latents: the operator is z -> A(D(z)), D the decoder.

    Requirements: what `inner` requires, with an operator that is not linear and
    `prior.latent` as the prior. So solvers for any operator fit (`DPS`, `DOC`), and
    those for linear ones do not.

    Cost: that of `inner` in calls of the latent network, a call of the decoder for
    each of A and one VJP of it for each of A^T, and one call for the result.

    Args:
        inner: the solver; its settings are in the units of the latent.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, LatentPrior)
    cost_formula: ClassVar[str] = "that of the inner solver (and of the decoder)"
    reference: ClassVar[str] = "that of the inner solver, in a latent space"

    inner: Solver

    def check(self, problem: Problem, prior: LatentPrior) -> None:
        """Refuse what the inner solver refuses."""
        check_inner(latent_problem(problem, prior), prior.latent, self.inner)

    def check_memory(self, problem: Problem, prior: LatentPrior, examples: int) -> None:
        inside = latent_problem(problem, prior)
        self.inner.check_memory(inside, prior.latent, examples)

    def init(
        self, key: jax.Array, problem: Problem, prior: LatentPrior
    ) -> tuple[Any, Any]:
        inside = latent_problem(problem, prior)
        return self.inner.init(key, inside, prior.latent)

    def step(
        self, carry: Any, x: Any, problem: Problem, prior: LatentPrior
    ) -> tuple[Any, StepTrace]:
        return self.inner.step(carry, x, latent_problem(problem, prior), prior.latent)

    def finalize(self, carry: Any, problem: Problem, prior: LatentPrior) -> jax.Array:
        inside = latent_problem(problem, prior)
        return prior.decode(self.inner.finalize(carry, inside, prior.latent))

    def calls_outside_steps(self) -> Calls:
        return self.inner.calls_outside_steps()
