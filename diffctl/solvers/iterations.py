"""What solvers share that repeat one update a fixed number of times."""

import abc
from typing import Any

import jax

from diffctl.core import Solver
from diffctl.operators.base import Problem
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class IterativeSolver(Solver):
    """A solver of `num_steps` equal iterations, each handed a key of its own.

    Subclasses write `start`, `step` for `x = key`, and `finalize`.
    """

    num_steps: int = static()

    @abc.abstractmethod
    def start(self, key: jax.Array, problem: Problem, prior: Any) -> Any:
        """Return the first carry."""

    def init(self, key: jax.Array, problem: Problem, prior: Any) -> tuple[Any, Any]:
        start_key, steps_key = jax.random.split(key)
        keys = jax.random.split(steps_key, self.num_steps)
        return self.start(start_key, problem, prior), keys
