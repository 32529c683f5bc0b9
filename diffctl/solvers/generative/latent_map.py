"""Maximum a posteriori in the latent space of a generator.

1. generator              min_z  l(G(z)) + weight/2 |z|^2
2. flow, density of x     min_z  l(g(z)) + 1/2 |z|^2 + log |det dg/dz|

l is the negative log-likelihood. With weight 1, (1) is the mode of p(z | y), and (2)
that of p(x | y), sought in better coordinates. They differ, since a mode moves when the
coordinates change; for affine maps both give the posterior mean.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import GenerativePrior, InvertiblePrior
from diffctl.numerics.descent import Descent
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.generative.minimiser import Minimiser
from diffctl.solvers.generative.starts import float_dtype
from diffctl.solvers.requirements import noise_std


@pytree_dataclass
class LatentMinimiser(Minimiser):
    """A minimiser over latents, which start at start_scale * N(0, I).

    Args:
        start_scale: () >= 0; 0 starts at the centre of the prior.
    """

    start_scale: Any = 1.0

    def draw(
        self, key: jax.Array, problem: Problem, prior: GenerativePrior
    ) -> jax.Array:
        dtype = float_dtype(problem, prior)
        noise = jax.random.normal(key, prior.latent_shape, dtype)
        return jnp.asarray(self.start_scale, dtype) * noise


@pytree_dataclass
class LatentMAP(LatentMinimiser):
    """Compressed sensing with a generative model, in Bayesian units: minimises (1).

    For GANs, for the mean of a VAE's decoder, and for flows, where it is what most
    papers on flow priors do.

    Requirements: any differentiable operator and noise; any generator.

    Cost: n R forwards and VJPs of the generator, R forwards at the end, for n steps
    and R restarts.

    Deviations: the paper and its code minimise the mean squared residual plus
    c_z |z|^2, which is (1) up to a factor for weight = c_z m / sigma_y^2, with m the
    number of measurements. Some sources leave out the 1/2: their weight is half ours.

    The signal stays in the range of G: with many measurements the error stops falling
    at the error of representation. The objective is not convex, hence the restarts.

    Args:
        weight: () >= 0, of the prior; 1 is that of N(0, I).
    """

    requires: ClassVar[tuple[type, type]] = (Operator, GenerativePrior)
    cost_formula: ClassVar[str] = "(n + 1) R fwd + n R VJP, R restarts"
    reference: ClassVar[str] = (
        "Bora et al., Compressed Sensing using Generative Models, ICML 2017"
    )

    weight: Any = 1.0

    @classmethod
    def released_mnist(cls, problem: Problem) -> "LatentMAP":
        """Return the authors' settings for digits of a VAE, c_z = 0.1, and a problem.

        Images are on [0, 1] there, so that squared residuals are four times as large
        here.
        """
        return cls(
            num_steps=1000,
            num_restarts=10,
            descent=Descent.adam(0.01),
            weight=4 * _published_weight(problem, 0.1),
        )

    @classmethod
    def released_celeba(cls, problem: Problem) -> "LatentMAP":
        """Return the authors' settings for faces of a GAN, c_z = 0.001."""
        return cls(
            num_steps=500,
            num_restarts=10,
            descent=Descent.adam(0.1),
            weight=_published_weight(problem, 0.001),
        )

    def decode(
        self, v: jax.Array, prior: GenerativePrior
    ) -> tuple[jax.Array, jax.Array]:
        return prior.decode(v), self.weight / 2 * jnp.sum(v**2)


def _published_weight(problem: Problem, c_z: float) -> Any:
    """Return c_z m / sigma_y^2: the weight of mean squared residuals + c_z |z|^2."""
    return c_z * problem.operator.num_observed() / noise_std(problem) ** 2


@pytree_dataclass
class FlowMAP(LatentMinimiser):
    """The mode of p(x | y) under a normalising flow, sought in z: minimises (2).

    `DensityMAP` minimises the same objective in x; here it is better conditioned.

    Requirements: any differentiable operator and noise; a flow.

    Cost: n R forwards and VJPs of the flow, R forwards at the end.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, InvertiblePrior)
    cost_formula: ClassVar[str] = "(n + 1) R fwd + n R VJP, R restarts"
    reference: ClassVar[str] = (
        "Asim et al., Invertible generative models for inverse problems, ICML 2020 "
        "(with the determinant)"
    )

    def decode(
        self, v: jax.Array, prior: InvertiblePrior
    ) -> tuple[jax.Array, jax.Array]:
        x, log_det = prior.decode_with_log_det(v)
        return x, jnp.sum(v**2) / 2 + log_det
