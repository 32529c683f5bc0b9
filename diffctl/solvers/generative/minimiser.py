"""What the MAP solvers share: descent on an objective from several starts.

With v the unknowns, x(v) the signal and R(v) a penalty,

    v <- optimiser(v, grad_v [l(x(v)) + R(v)]),       l(x) = -log p(y | x),

for each start; the result is x(v) of the start with the smallest final objective.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.core import Calls, StepTrace
from diffctl.numerics.descent import Descent
from diffctl.operators.base import Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.iterations import IterativeSolver


@pytree_dataclass
class Minimiser(IterativeSolver):
    """Descent from `num_restarts` starts; subclasses say on what.

    Cost: every step R forwards and R VJPs for R starts; choosing among them costs R
    forwards at the end. The truth is never used to choose.

    Args:
        num_steps: steps of every start.
        descent: the optimiser.
        num_restarts: starts, at least 1.
    """

    num_steps: int = static(default=1000)
    descent: Descent = Descent.adam(0.05)
    num_restarts: int = static(default=1)

    @abc.abstractmethod
    def draw(self, key: jax.Array, problem: Problem, prior: Any) -> jax.Array:
        """Return the unknowns of one start."""

    @abc.abstractmethod
    def decode(self, v: jax.Array, prior: Any) -> tuple[jax.Array, jax.Array]:
        """Return the signal x(v), (*prior.shape), and the penalty R(v), ()."""

    def objective(
        self, v: jax.Array, problem: Problem, prior: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Return l(x(v)) + R(v) and l(x(v))."""
        x, penalty = self.decode(v, prior)
        misfit = problem.misfit(x)
        return misfit + penalty, misfit

    def start(self, key: jax.Array, problem: Problem, prior: Any) -> Any:
        keys = jax.random.split(key, self.num_restarts)
        v = jax.vmap(lambda k: self.draw(k, problem, prior))(keys)
        return v, jax.vmap(self.descent.init)(v)

    def step(
        self, carry: Any, x: Any, problem: Problem, prior: Any
    ) -> tuple[Any, StepTrace]:
        v, state = carry
        differentiate = jax.value_and_grad(self.objective, has_aux=True)
        (cost, misfit), gradient = jax.vmap(lambda v: differentiate(v, problem, prior))(
            v
        )
        count = self.num_restarts
        trace = StepTrace(
            misfit=misfit[jnp.argmin(cost)], calls=Calls(fwd=count, vjp=count)
        )
        return jax.vmap(self.descent.update)(gradient, state, v), trace

    def finalize(self, carry: Any, problem: Problem, prior: Any) -> jax.Array:
        v, _ = carry
        x, penalty = jax.vmap(lambda v: self.decode(v, prior))(v)
        if self.num_restarts == 1:
            return x[0]
        return x[jnp.argmin(jax.vmap(problem.misfit)(x) + penalty)]

    def calls_outside_steps(self) -> Calls:
        return Calls(fwd=self.num_restarts)
