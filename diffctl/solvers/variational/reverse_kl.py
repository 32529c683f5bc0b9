"""Variational inference: the law of a family that is closest to the posterior.

    min_q  KL(q | p(x|y)) = E_q [l(x) - log p(x)] - H(q) + const

with x = T(e; law), e ~ N(0, I), by descent along the reparametrised gradient

    E_e [ (dT/dlaw)^T (grad l(x) - score(x)) - d log |det dT/de| / dlaw ]

l is the negative log-likelihood. Only the score of the prior is needed.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import ScorePrior, StepTrace
from diffctl.numerics.descent import Descent
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.generative.starts import Start, zero_start
from diffctl.solvers.iterations import IterativeSolver
from diffctl.solvers.variational.families import (
    AntitheticDraws,
    Expectation,
    Family,
    MeanField,
)


@pytree_dataclass
class VariationalPosterior(IterativeSolver):
    """Fits a family of laws to one posterior; returns the centre of the law.

    The carry is (parameters of the law, state of the optimiser): `record` it, and draw
    samples with `family.transform`. They are free of network calls.

    Reverse KL seeks a mode: of several it covers one, which the start decides, and it
    is narrower than the posterior wherever it cannot follow. RED-diff is its limit for
    a law of a single point, with another estimate of the score.

    Requirements: any differentiable operator and noise; a prior with a score. A
    denoiser is one in a `SmoothedPrior`.

    Cost: n K scores of the prior (1 forward each for a `SmoothedPrior`, a forward and
    a VJP for a density), K the nodes of `expectation`.

    Args:
        num_steps: n.
        family: which laws.
        expectation: how E_e is approximated.
        descent: the optimiser. With random nodes its step decides how far the law
            fluctuates at the end.
        start_from: `start(key, problem, prior)`, where the law is put first.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, ScorePrior)
    cost_formula: ClassVar[str] = "n K scores, K nodes"
    reference: ClassVar[str] = (
        "Kucukelbir et al., Automatic differentiation variational inference, JMLR 2017"
    )

    num_steps: int = static(default=1000)
    family: Family = MeanField()
    expectation: Expectation = AntitheticDraws()
    descent: Descent = Descent.adam(0.01)
    start_from: Start = static(default=zero_start)

    def start(self, key: jax.Array, problem: Problem, prior: ScorePrior) -> Any:
        law = self.family.init(self.start_from(key, problem, prior))
        return law, self.descent.init(law)

    def step(
        self, carry: Any, x: Any, problem: Problem, prior: ScorePrior
    ) -> tuple[Any, StepTrace]:
        law, state = carry
        centre = self.family.centre(law)
        nodes = self.expectation.nodes(x, centre)
        each = jax.vmap(lambda eps: self._gradient(law, eps, problem, prior))(nodes)
        gradient = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), each)
        count = self.expectation.num_nodes(prior.shape)
        calls = jax.tree.map(lambda n: count * n, prior.score_calls)
        trace = StepTrace(misfit=problem.misfit(centre), calls=calls)
        return self.descent.update(gradient, state, law), trace

    def finalize(self, carry: Any, problem: Problem, prior: ScorePrior) -> jax.Array:
        return self.family.centre(carry[0])

    def _gradient(
        self, law: Any, eps: jax.Array, problem: Problem, prior: ScorePrior
    ) -> Any:
        (x, log_det), pull_back = jax.vjp(
            lambda law: self.family.transform(law, eps), law
        )
        energy_grad = jax.grad(problem.misfit)(x) - prior.score(x)
        return pull_back((energy_grad, -jnp.ones_like(log_det)))[0]
