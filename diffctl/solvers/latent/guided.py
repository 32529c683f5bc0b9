"""Guided reverse steps in a latent space: LDPS and GML-DPS; PSLD is built on them.

With encoder E, decoder D and the clean latent estimate z0_hat(z) at level sigma,

1. z' = reverse step from sigma to sigma' at z
2. z <- z' - unit * grad_z penalty(z0_hat(z))

    LDPS      guidance_scale cost(D(z0_hat))
    GML-DPS   the same + gluing_scale |z0_hat - E(D(z0_hat))|
    PSLD      LDPS's + gluing_scale |z0_hat - E(x_proj)|, see `psld.py`

The gradient is taken at the current z and applied to the next one, as in `DPS`, whose
`unit` makes the scales count in variance-preserving coordinates.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import jax

from diffctl.control import ComposedCost
from diffctl.core import Calls, EncodedPrior, LatentPrior, StepTrace
from diffctl.diffusion import DDIM, OneCallStep
from diffctl.numerics.normal import standard_normal
from diffctl.numerics.safe import safe_norm
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.costs import residual_norm
from diffctl.solvers.dps import GuidanceUnit, variance_preserving_unit
from diffctl.solvers.latent.base import LatentLevelSolver


@pytree_dataclass
class GuidedLatent(LatentLevelSolver):
    """Reverse steps in the latent space with a gradient; subclasses say of what.

    Args:
        grid: noise levels of the latent, T steps.
        reverse: one-call reverse step of the latent.
        guidance_scale: (), weight of the measurement; 0 leaves it out. Its unit is
            that of 1 / y with the default cost, as in `DPS`.
        cost: `problem -> ComposedCost` of the decoded image.
        unit: coordinates in which the scales are meant.
    """

    checked: ClassVar[tuple[str, ...]] = ("cost",)

    reverse: OneCallStep = DDIM(eta=0.0)
    guidance_scale: Any = 1.0
    cost: Callable[[Problem], ComposedCost] = static(default=residual_norm)
    unit: GuidanceUnit = static(default=variance_preserving_unit)

    @abc.abstractmethod
    def penalty(
        self,
        problem: Problem,
        prior: Any,
        estimate: tuple[jax.Array, jax.Array],
        key: jax.Array,
    ) -> jax.Array:
        """Return what is descended, (); `estimate` is z0_hat and its image.

        `prior` is of the class that the solver requires.
        """

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: LatentPrior
    ) -> tuple[jax.Array, StepTrace]:
        now, next, key = x
        noise_key, penalty_key = jax.random.split(key)

        def plug_in(z: jax.Array) -> tuple[jax.Array, Any]:
            estimate = self.reverse.estimate(prior.latent, z, now)
            image = prior.decode(estimate.x0_hat)
            pair = (estimate.x0_hat, image)
            return self.penalty(problem, prior, pair, penalty_key), (estimate, image)

        gradient, (estimate, image) = jax.grad(plug_in, has_aux=True)(carry)
        noise = standard_normal(noise_key, carry)
        proposal = self.reverse.advance(carry, estimate, now, next, noise)
        moved = proposal - self.unit(self.reverse, now, next) * gradient
        trace = StepTrace(misfit=problem.misfit(image), calls=Calls(fwd=1, vjp=1))
        return moved, trace


@pytree_dataclass
class LDPS(GuidedLatent):
    """Diffusion posterior sampling in a latent space: `DPS` with A after the decoder.

        z <- reverse step at z - unit * guidance_scale * grad_z |y - A(D(z0_hat))|

    Requirements: any differentiable operator; any noise model (see `cost`).

    Cost: T forwards and T VJPs of the latent network for T levels, T calls and T VJPs
    of the decoder (one call more for the result); no encoder.

    Deviations: none. This is the baseline "LDPS" or "latent DPS" of PSLD and others;
    `InLatentSpace(inner=DPS(...))` does the same.

    Args: see `GuidedLatent`.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, LatentPrior)
    cost_formula: ClassVar[str] = "T fwd + T VJP (and of the decoder)"
    reference: ClassVar[str] = (
        "Rout et al., Solving Linear Inverse Problems Provably via Posterior Sampling "
        "with Latent Diffusion Models, NeurIPS 2023 (baseline)"
    )

    def penalty(
        self,
        problem: Problem,
        prior: LatentPrior,
        estimate: tuple[jax.Array, jax.Array],
        key: jax.Array,
    ) -> jax.Array:
        return self.guidance_scale * self.cost(problem)(estimate[1])


@pytree_dataclass
class GMLDPS(GuidedLatent):
    """LDPS whose latent is kept a fixed point of decoding and encoding.

        z <- reverse step at z - unit * grad_z (guidance_scale |y - A(D(z0_hat))|
                                                + gluing_scale |z0_hat - E(D(z0_hat))|)

    Requirements: any differentiable operator; any noise model (see `cost`).

    Cost: T forwards and T VJPs of the latent network for T levels, T calls and T VJPs
    of decoder and encoder (one call of the decoder more for the result).

    Deviations: none ("Goodness Modified Latent DPS", appendix of the paper on PSLD).

    Args: see `GuidedLatent`, and
        gluing_scale: (), weight of the fixed point.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, EncodedPrior)
    cost_formula: ClassVar[str] = "T fwd + T VJP (and of decoder and encoder)"
    reference: ClassVar[str] = LDPS.reference

    gluing_scale: Any = 0.1

    def penalty(
        self,
        problem: Problem,
        prior: EncodedPrior,
        estimate: tuple[jax.Array, jax.Array],
        key: jax.Array,
    ) -> jax.Array:
        latent, image = estimate
        gluing = safe_norm(latent - prior.encode(image))
        data = self.cost(problem)(image)
        return self.guidance_scale * data + self.gluing_scale * gluing
