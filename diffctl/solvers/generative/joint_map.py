"""Joint maximum a posteriori of signal and latent of a variational autoencoder.

With p(x | z) = N(G(z), g^2 I) and y = A x + s n, alternately

1. x <- (A^T A / s^2 + I / g^2)^{-1} (A^T y / s^2 + G(z) / g^2)
      = G(z) + A^T (A A^T + (s^2 / g^2) I)^{-1} (y - A G(z))
2. z <- descent on  |x - G(z)|^2 / (2 g^2) + |z|^2 / 2

from z = the encoder's mean for A^+ y.
"""

from typing import Any, ClassVar

import jax

from diffctl.core import AutoencodingPrior, Calls, StepTrace
from diffctl.numerics.descent import Descent
from diffctl.numerics.safe import squared_norm
from diffctl.operators.base import LinearOperator, Problem, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.iterations import IterativeSolver
from diffctl.solvers.requirements import linear, noise_std


@pytree_dataclass
class JointMAP(IterativeSolver):
    """The mode of p(x, z | y) under a VAE with a noisy decoder, by alternation.

    Unlike in `LatentMAP` the signal may leave the range of the decoder, by about
    `prior.decoder_std`.

    Requirements: a linear operator with white noise; an autoencoder. The x-step is
    exact (a damped pseudo-inverse).

    Cost: n L forwards and VJPs of the decoder for n alternations with L descent steps
    each, and one encoding.

    Args:
        num_steps: alternations.
        num_inner: descent steps on z in each.
        descent: their optimiser; its state is kept between alternations.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, AutoencodingPrior)
    requires_noise: ClassVar[type] = WhiteNoise
    cost_formula: ClassVar[str] = "(n L + 1) fwd + n L VJP, L inner steps"
    reference: ClassVar[str] = (
        "González, Almansa and Tan, Solving inverse problems by joint posterior "
        "maximization with autoencoding prior, SIAM J. Imaging Sciences 2022"
    )

    num_steps: int = static(default=200)
    num_inner: int = static(default=5)
    descent: Descent = Descent.adam(0.05)

    def start(self, key: jax.Array, problem: Problem, prior: AutoencodingPrior) -> Any:
        x = linear(problem).pinv(problem.y)
        z, _ = prior.encode(x)
        return x, z, self.descent.init(z)

    def step(
        self, carry: Any, x: Any, problem: Problem, prior: AutoencodingPrior
    ) -> tuple[Any, StepTrace]:
        _, z, state = carry
        decoded, pull_back = jax.vjp(prior.decode, z)
        signal = self.signal(decoded, problem, prior)

        def descend(z: Any, state: Any, decoded: Any, pull_back: Any) -> Any:
            (pulled,) = pull_back((decoded - signal) / prior.decoder_std**2)
            return self.descent.update(pulled + z, state, z)

        def body(carry: Any, _: None) -> tuple[Any, None]:
            z, state = carry
            return descend(z, state, *jax.vjp(prior.decode, z)), None

        # The first descent step shares its decoding with the x-step.
        moved = descend(z, state, decoded, pull_back)
        (z, state), _ = jax.lax.scan(body, moved, None, length=self.num_inner - 1)
        calls = Calls(fwd=self.num_inner, vjp=self.num_inner)
        trace = StepTrace(misfit=problem.misfit(signal), calls=calls)
        return (signal, z, state), trace

    def finalize(
        self, carry: Any, problem: Problem, prior: AutoencodingPrior
    ) -> jax.Array:
        return carry[0]

    def calls_outside_steps(self) -> Calls:
        return Calls(fwd=1)

    def signal(
        self, decoded: jax.Array, problem: Problem, prior: AutoencodingPrior
    ) -> jax.Array:
        """Return the x of (1) for G(z) = `decoded`."""
        operator = linear(problem)
        residual = problem.residual(decoded)
        damping = (noise_std(problem) / prior.decoder_std) ** 2
        return decoded + operator.damped_pinv(operator.restrict(residual), damping)

    def objective(
        self, x: jax.Array, z: jax.Array, problem: Problem, prior: AutoencodingPrior
    ) -> jax.Array:
        """Return -log p(x, z | y) up to a constant, (); one forward."""
        distance = squared_norm(x - prior.decode(z)) / (2 * prior.decoder_std**2)
        return problem.misfit(x) + distance + squared_norm(z) / 2
