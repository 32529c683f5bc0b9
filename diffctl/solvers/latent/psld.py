"""PSLD: guided latents that stay fixed points of decoding, correcting and encoding.

The steps of `guided.py` with the penalty

    guidance_scale |y - A x| + gluing_scale |z0_hat - E(x_proj)|,  x = D(z0_hat),
    x_proj = x + A^T (y - A x)
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax

from diffctl.core import EncodedPrior
from diffctl.numerics.normal import standard_normal
from diffctl.numerics.safe import safe_norm
from diffctl.operators.base import LinearOperator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.data_steps import towards_data
from diffctl.solvers.ilvr import cubic_upsampling
from diffctl.solvers.latent.base import scaled_linear_grid
from diffctl.solvers.latent.guided import GMLDPS, GuidedLatent
from diffctl.solvers.requirements import linear
from diffctl.solvers.tasks import for_task

Correction = Callable[[Problem, jax.Array], jax.Array]


def adjoint_correction(problem: Problem, image: jax.Array) -> jax.Array:
    """Return A^T (y - A x): a projection if the rows of A are orthonormal."""
    return linear(problem).adjoint(problem.residual(image))


def residual_correction(problem: Problem, image: jax.Array) -> jax.Array:
    """Return y - A x, where the released code takes the adjoint of a blur for I."""
    return problem.residual(image)


def cubic_correction(problem: Problem, image: jax.Array) -> jax.Array:
    """Return y - A x up-sampled by cubics, the released code's adjoint of SR."""
    return cubic_upsampling(linear(problem), problem.residual(image))


pseudo_inverse_correction: Correction = towards_data


@pytree_dataclass
class PSLD(GuidedLatent):
    """Posterior Sampling with Latent Diffusion (Rout et al., NeurIPS 2023).

        x_proj = x + correct(y - A x),   x = D(z0_hat)
        z <- reverse step at z - unit * grad_z (guidance_scale |y - A x|
                                                + gluing_scale |E(x_proj) - z0_hat|)

    The second term asks that the latent be a fixed point of decoding, correcting and
    encoding. With x_proj = A^T y + (I - A^T A) x it is made for rows that are
    orthonormal (masks).

    Requirements: a linear operator, of norm at most about 1 for the default
    `correction`; `pseudo_inverse_correction` does without, but amplifies noise.

    Cost: T forwards and T VJPs of the latent network for T levels, T calls and T VJPs
    of decoder and encoder (one call of the decoder more for the result), 2 T products
    with A and 3 T with A^T, two of them in the gradient.

    Deviations: the paper writes squared norms, the authors' code norms, as here. That
    code adds fresh measurement noise to the prediction, and its A^T is the identity for
    blurs and cubic up-sampling for super-resolution: `released_code` does the same.

    Args: see `GuidedLatent`, and
        gluing_scale: (), weight of the second term.
        correction: `(problem, x) -> x_proj - x`. The default, A^T (y - A x), has the
            unit of y squared; `pseudo_inverse_correction` has none.
        prediction_noise: (), std of noise added to A x in the first term, drawn anew
            each step.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, EncodedPrior)
    cost_formula: ClassVar[str] = GMLDPS.cost_formula
    reference: ClassVar[str] = (
        "Rout et al., Solving Linear Inverse Problems Provably via Posterior Sampling "
        "with Latent Diffusion Models, NeurIPS 2023"
    )

    gluing_scale: Any = 0.1
    correction: Correction = static(default=adjoint_correction)
    prediction_noise: Any = 0.0

    @classmethod
    def released_code(cls, task: str, *, num_steps: int = 1000) -> "PSLD":
        """Return the released settings for faces and the unconditional LDM.

        The noise of the prediction is that of the measurement in their experiments.
        """
        scale, correction = for_task(_RELEASED, task)
        return cls(
            grid=scaled_linear_grid(num_steps, 0.0015, 0.0195),
            guidance_scale=scale,
            gluing_scale=0.1,
            correction=correction,
            prediction_noise=0.05,
        )

    @classmethod
    def released_stable_diffusion(cls, *, num_steps: int = 1000) -> "PSLD":
        """Return the released settings for Stable Diffusion: box inpainting.

        The network is guided by the empty prompt, with weight 7.5.
        """
        return cls(
            grid=scaled_linear_grid(num_steps),
            guidance_scale=0.1,
            gluing_scale=0.01,
            prediction_noise=0.05,
        )

    def penalty(
        self,
        problem: Problem,
        prior: EncodedPrior,
        estimate: tuple[jax.Array, jax.Array],
        key: jax.Array,
    ) -> jax.Array:
        latent, image = estimate
        corrected = image + self.correction(problem, image)
        gluing = safe_norm(prior.encode(corrected) - latent)
        data = self.cost(self._noisy(problem, key))(image)
        return self.guidance_scale * data + self.gluing_scale * gluing

    def _noisy(self, problem: Problem, key: jax.Array) -> Problem:
        """Return the problem whose residual has the noise of the prediction."""
        leaves, structure = jax.tree.flatten(problem.y)
        keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))
        y = jax.tree.map(
            lambda key, y: y - self.prediction_noise * standard_normal(key, y),
            keys,
            problem.y,
        )
        return Problem(y=y, operator=problem.operator, noise=problem.noise)


_RELEASED: Mapping[str, tuple[float, Correction]] = {
    "super_resolution_x4": (0.9, cubic_correction),
    "random_inpainting": (0.1, adjoint_correction),
    "box_inpainting": (0.1, adjoint_correction),
    "gaussian_deblurring": (0.1, residual_correction),
    "motion_deblurring": (0.1, residual_correction),
}
