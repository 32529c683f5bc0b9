"""RED-diff: descent on the clean image, regularised by denoising at random noise.

For the levels of a grid, noisiest first, with z and eps standard normal

1. x0 = mu + posterior_std z
2. e  = eps_hat(x0 + sigma eps; sigma) - eps,    eps_hat(x) = (x - D(x; sigma)) / sigma
3. mu <- descent step along   data_weight grad data_loss(x0) + lambda w(sigma) e

e takes no part in the differentiation: it is the gradient of a weighted integral of
score-matching residuals, and no derivative of the network appears.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from diffctl.core import Calls, DiffusionPrior, Solver, StepTrace
from diffctl.diffusion import NoiseGrid, eps_from_x0
from diffctl.numerics.descent import Descent
from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.clean_space.red_diff_terms import (
    DataLoss,
    FirstGuess,
    Weight,
    averaged_residual,
    constant_weight,
    cutoff_pinv_guess,
    linear_weight,
    negative_log_likelihood,
    squared_residual,
    zero_guess,
)
from diffctl.solvers.ddnm import released_grid
from diffctl.solvers.tasks import for_task

# Step size, lambda and the standard deviation of the variational law.
_RELEASED: Mapping[str, tuple[float, float, float]] = {
    "super_resolution_x4": (0.1, 0.25, 0.0),
    "random_inpainting": (0.25, 1.0, 0.0),
    "box_inpainting": (0.25, 1.0, 0.0),
    "random_inpainting_noiseless": (0.25, 0.25, 1e-4),
    "box_inpainting_noiseless": (0.25, 0.25, 1e-4),
    "gaussian_deblurring": (0.5, 0.25, 0.0),
    "motion_deblurring": (0.5, 0.25, 0.0),
    "nonlinear_deblurring": (0.5, 0.25, 0.0),
    "phase_retrieval": (0.5, 0.25, 0.0),
    "high_dynamic_range": (0.5, 0.25, 0.0),
    "jpeg": (0.5, 0.25, 0.0),
}


class _Descending(NamedTuple):
    mu: jax.Array  # (*shape)
    optimizer_state: Any


@pytree_dataclass
class REDDiff(Solver):
    """Regularisation by denoising diffusion (Mardani et al., ICLR 2024).

        e   = eps_hat(mu + sigma eps; sigma) - eps
        mu <- descent along grad |y - A(mu)|^2 / 2 + lambda w(sigma) e

    For a prior N(m, C) the mean of e is sigma (C + sigma^2 I)^{-1} (mu - m). With
    w = sigma the regulariser is lambda |mu - m|^2 / 2 at high noise and fades at low
    noise, where the iterate drifts towards the noisy data. A point estimate.

    Requirements: a differentiable operator; any noise model, which only the loss
    `negative_log_likelihood` uses.

    Cost: T forwards for T levels of `grid`, one iteration each, no derivative of the
    network; per iteration one VJP of the operator and one more forward.

    Deviations: the loss of the released code averages its terms over their own sizes
    (`averaged_residual`); here they are sums, so that lambda keeps its meaning when m
    changes. Its forward models for non-linear blur redraw their kernel at every call.
    Its "parallel" form has a batch of 1 level a step and is this one; its baseline
    without data is `data_weight=0.0`.

    Args:
        grid: noise levels, one iteration each.
        reg_weight: lambda, ().
        weight: w, `sigma -> ()`.
        data_weight: (); for c y and c A divide it by c^2, as |y - A(mu)|^2 has a unit
            (`negative_log_likelihood`, the loss of `default`, has none).
        data_loss: `(problem, x0) -> ()`.
        posterior_std: standard deviation of the variational law, (); 0 for its limit.
        descent: optimiser of mu.
        first_guess: `(problem, like) -> mu`; zero suits every operator.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, DiffusionPrior)
    checked: ClassVar[tuple[str, ...]] = ("data_loss",)
    cost_formula: ClassVar[str] = "T fwd"
    reference: ClassVar[str] = (
        "Mardani et al., A Variational Perspective on Solving Inverse Problems with "
        "Diffusion Models, ICLR 2024"
    )

    grid: NoiseGrid
    reg_weight: Any = 0.25
    weight: Weight = static(default=linear_weight)
    data_weight: Any = 1.0
    data_loss: DataLoss = static(default=squared_residual)
    posterior_std: Any = 0.0
    descent: Descent = Descent.adam(0.1, b2=0.99)
    first_guess: FirstGuess = static(default=zero_guess)

    @classmethod
    def default(cls, *, num_steps: int = 1000) -> "REDDiff":
        """Return settings for any operator and noise: the likelihood as loss.

        In its unit the weight at high noise that Bayes' rule asks for is 1 / s^2 for a
        signal of standard deviation s; `linear_weight` fades and needs more. Of 0.25,
        4, 16 and 64 on eight digits, 16 is 0.4 dB behind the best for super-resolution
        and 1.5 dB for Gaussian deblurring, where 0.25 is 12.6 dB behind.
        """
        return cls(
            grid=released_grid(num_steps),
            reg_weight=16.0,
            data_loss=negative_log_likelihood,
        )

    @classmethod
    def released_code(
        cls,
        task: str,
        *,
        num_steps: int = 1000,
        first_guess: FirstGuess = cutoff_pinv_guess,
    ) -> "REDDiff":
        """Return the settings of the authors' test script for a task.

        `num_steps` must divide 1000. The noise of y is 0 there, but for inpainting 0.1
        on [0, 1] unless the task is called noiseless. Operators without a
        pseudo-inverse need another `first_guess`: the code starts from y / 2 for high
        dynamic range, from y for JPEG and from |F^-1 y| for phase retrieval.
        """
        step_size, reg_weight, posterior_std = for_task(_RELEASED, task)
        return cls._averaged(
            num_steps,
            step_size,
            reg_weight=reg_weight,
            posterior_std=posterior_std,
            first_guess=first_guess,
        )

    @classmethod
    def released_batch(cls, *, num_steps: int = 1000) -> "REDDiff":
        """Return the settings of the authors' batch script, which its tasks share.

        It runs noise-free super-resolution and inpainting with lambda = 1.
        """
        return cls._averaged(
            num_steps, 0.1, reg_weight=1.0, first_guess=cutoff_pinv_guess
        )

    @classmethod
    def _averaged(cls, num_steps: int, step_size: float, **fields: Any) -> "REDDiff":
        return cls(
            grid=released_grid(num_steps),
            data_loss=averaged_residual,
            descent=Descent.adam(step_size, b2=0.99),
            **fields,
        )

    @classmethod
    def inverse_bench(cls, *, num_steps: int = 1000) -> "REDDiff":
        """Return the settings of devzhk/InverseBench: summed loss, constant weight.

        Its loss is |y - A x|^2, without the half of `squared_residual`.
        """
        return cls(
            grid=released_grid(num_steps),
            weight=constant_weight,
            data_weight=2.0,
            descent=Descent.adam(2e-2, b2=0.99),
        )

    def init(
        self, key: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> tuple[Any, Any]:
        like = jnp.zeros(prior.shape, self.grid.sigma.dtype)
        mu = self.first_guess(problem, like)
        keys = jax.random.split(key, self.grid.num_steps)
        return _Descending(mu, self.descent.init(mu)), (self.grid.pairs()[0], keys)

    def step(
        self, carry: Any, x: Any, problem: Problem, prior: DiffusionPrior
    ) -> tuple[Any, StepTrace]:
        (mu, optimizer_state), (now, key) = carry, x
        key_spread, key_eps = jax.random.split(key)
        x0 = mu + self.posterior_std * standard_normal(key_spread, mu)
        gradient = self.data_weight * jax.grad(self.data_loss, argnums=1)(problem, x0)
        eps = standard_normal(key_eps, mu)
        noisy = x0 + now.sigma * eps
        excess = eps_from_x0(prior.denoise(noisy, now.sigma), noisy, now.sigma) - eps
        gradient += self.reg_weight * self.weight(now.sigma) * excess
        mu, optimizer_state = self.descent.update(gradient, optimizer_state, mu)
        trace = StepTrace(misfit=problem.misfit(mu), calls=Calls(fwd=1))
        return _Descending(mu, optimizer_state), trace

    def finalize(
        self, carry: Any, problem: Problem, prior: DiffusionPrior
    ) -> jax.Array:
        return carry.mu
