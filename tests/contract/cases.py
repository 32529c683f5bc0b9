"""The table of the contract suite: one row for every way to configure a solver.

A row builds its objects in the default float of the moment, so that the same table
serves float32 and float64. To add a solver, add a row.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.control import (
    LineSearch,
    LowRankBackward,
    RandomizedFactors,
    StorePullbacks,
    TrajectoryOptimizer,
    output_control,
)
from diffctl.diffusion import Ancestral, NoiseGrid
from diffctl.operators import (
    Categorical,
    DenseMatrix,
    FunctionOperator,
    GaussianNoise,
    Problem,
)
from diffctl.priors import (
    DenoiserProx,
    GaussianMixturePrior,
    GaussianPrior,
    Quadratic,
    Sparsity,
    TotalVariation,
)
from diffctl.solvers import (
    ADMM,
    DDNM,
    DDRM,
    DOC,
    DPS,
    FISTA,
    HQS,
    ILVR,
    ISTA,
    MCG,
    RED,
    TMPD,
    ChambollePock,
    ConjugatePiGDM,
    DDNMPlus,
    DiagonalMoment,
    FullMoment,
    HutchinsonMoment,
    NoiselessPiGDM,
    NoisyConjugatePiGDM,
    NonlinearConjugatePiGDM,
    NonlinearPiGDM,
    PiGDM,
    ScoreSDE,
    SimplifiedDDNMPlus,
    Tikhonov,
    TimeTravel,
    doc_presets,
)
from diffctl.solvers.costs import likelihood
from diffctl.solvers.weighting import uniform_weight

SIZE, NUM_MEASURED, BATCH = 4, 2, 3


class Instance(NamedTuple):
    problems: Problem  # the measurement has a leading batch axis, the rest is shared
    prior: Any
    solver: Any

    def problem(self, i: int) -> Problem:
        return dataclasses.replace(self.problems, y=self.problems.y[i])


@dataclass(frozen=True)
class Case:
    name: str
    solver: Callable[[], Any]
    prior: Callable[[], Any]
    problems: Callable[[], Problem]
    # Under vmap, work that one example could skip is done all the same.
    calls_depend_on_batch: bool = False
    deterministic: bool = False  # the same result for every key
    # Its programs are much like another row's: the costly ones wait for the slow lane.
    twin: bool = False

    def build(self) -> Instance:
        return Instance(self.problems(), self.prior(), self.solver())


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def linear_gaussian() -> Problem:
    matrix = _rng(1).normal(size=(NUM_MEASURED, SIZE)) / 2
    y = _rng(2).normal(size=(BATCH, NUM_MEASURED)) / 2
    return Problem(
        y=jnp.asarray(y),
        operator=DenseMatrix.from_array(jnp.asarray(matrix)),
        noise=GaussianNoise(std=0.3),
    )


def _logits(x: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.matmul(weights, jnp.tanh(x), precision="highest")


def three_classes() -> Problem:
    weights = jnp.asarray(_rng(3).normal(size=(3, SIZE)))
    operator = FunctionOperator.create(_logits, (SIZE,), weights)
    return Problem(
        y=jnp.asarray([0, 2, 1], jnp.int32), operator=operator, noise=Categorical()
    )


def gaussian() -> GaussianPrior:
    root = _rng(4).normal(size=(SIZE, SIZE)) / 2
    covariance = root @ root.T / 2 + 0.05 * np.eye(SIZE)
    return GaussianPrior.from_moments(_rng(5).normal(size=SIZE) / 4, covariance)


def mixture() -> GaussianMixturePrior:
    means = _rng(6).normal(size=(2, SIZE)) / 2
    covariances = np.stack([0.1 * np.eye(SIZE), np.diag(np.linspace(0.05, 0.3, SIZE))])
    return GaussianMixturePrior.from_moments([0.4, 0.6], means, covariances)


def grid(num_steps: int = 4) -> NoiseGrid:
    return NoiseGrid.from_sigmas(np.geomspace(5.0, 0.1, num_steps))


def low_rank(**fields: Any) -> TrajectoryOptimizer:
    backward = LowRankBackward(terminal=RandomizedFactors(rank=NUM_MEASURED))
    return TrajectoryOptimizer(
        backward=backward, update=LineSearch(max_tries=3), **fields
    )


def dps() -> DPS:
    return DPS(grid=grid(5))


def dps_likelihood() -> DPS:
    return DPS(grid=grid(5), reverse=Ancestral(), cost=likelihood, guidance_scale=0.05)


def doc() -> DOC:
    return DOC(grid=grid(), num_steps=2)


def doc_ilqr(**changes: Any) -> DOC:
    # A weight that keeps float32 well conditioned: differences grow as its inverse.
    settings: dict[str, Any] = {
        "optimizer": low_rank(),
        "weighting": uniform_weight,
        "control_weight": 0.1,
        "start_scale": 1.0,
    }
    return dataclasses.replace(doc(), **settings | changes)


def doc_output() -> DOC:
    return doc_ilqr(control=output_control)


def doc_stored() -> DOC:
    return doc_ilqr(optimizer=low_rank(linearisation=StorePullbacks()))


def doc_paper() -> DOC:
    return dataclasses.replace(
        DOC.paper("super_resolution_x4"), grid=grid(), num_steps=2
    )


def doc_released(num_levels: int = 5, num_steps: int = 2) -> DOC:
    """Return the released code's settings on fewer levels."""
    settings = doc_presets.released_code("random_inpainting", num_levels)
    fields = ("grid", "control_weight")
    return dataclasses.replace(
        DOC.released_code("random_inpainting"),
        num_steps=num_steps,
        **{name: settings[name] for name in fields},
    )


def ddrm() -> DDRM:
    return DDRM(grid=grid(), eta_b=0.9)


def ddnm() -> DDNM:
    return DDNM(grid=grid())


def ddnm_travel() -> DDNM:
    return DDNM(grid=grid(), travel=TimeTravel(length=2, repeat=2))


def ddnm_plus() -> DDNMPlus:
    return DDNMPlus(grid=grid())


def ddnm_simplified() -> SimplifiedDDNMPlus:
    return SimplifiedDDNMPlus(grid=grid())


def score_sde() -> ScoreSDE:
    return ScoreSDE(grid=grid(), relaxation=0.8)


def ilvr() -> ILVR:
    return ILVR(grid=grid(), stop_sigma=0.3)


def mcg() -> MCG:
    return MCG(guided=dps())


def pigdm() -> PiGDM:
    return PiGDM(grid=grid())


def pigdm_noiseless() -> NoiselessPiGDM:
    return NoiselessPiGDM(grid=grid())


def _pseudo_inverse(operator: Any, y: jax.Array) -> jax.Array:
    return operator.pinv(y)


def pigdm_nonlinear() -> NonlinearPiGDM:
    return NonlinearPiGDM(grid=grid(), h_pinv=_pseudo_inverse)


def cpigdm() -> ConjugatePiGDM:
    return ConjugatePiGDM(grid=grid(), guidance_scale=3.0, tilt=-0.2)


def cpigdm_noisy() -> NoisyConjugatePiGDM:
    return NoisyConjugatePiGDM(grid=grid(), tilt=-0.2)


def cpigdm_nonlinear() -> NonlinearConjugatePiGDM:
    return NonlinearConjugatePiGDM(
        grid=grid(), guidance_scale=3.0, h_pinv=_pseudo_inverse
    )


def tmpd() -> TMPD:
    return TMPD(grid=grid(), moment=FullMoment())


def tmpd_diagonal() -> TMPD:
    return TMPD(grid=grid(), moment=DiagonalMoment())


def tmpd_row_sums() -> TMPD:
    return TMPD(grid=grid())


def tmpd_hutchinson() -> TMPD:
    return TMPD(grid=grid(), moment=HutchinsonMoment(num_probes=3))


def network_denoiser() -> DenoiserProx:
    return DenoiserProx(prior=mixture(), weight=0.8)


def total_variation() -> TotalVariation:
    return TotalVariation.isotropic((SIZE,), 0.05, axes=(0,))


def sparsity() -> Sparsity:
    return Sparsity.wavelets((SIZE,), 0.2, num_axes=1, num_levels=1)


def quadratic() -> Quadratic:
    return Quadratic.create((SIZE,), 0.7, reference=_rng(9).normal(size=SIZE))


def admm() -> ADMM:
    return ADMM(num_steps=3, penalty=2.0, final_penalty=5.0, num_inner=SIZE)


def hqs() -> HQS:
    return HQS(num_steps=3, penalty=2.0, final_penalty=5.0, num_inner=SIZE)


def red() -> RED:
    return RED(num_steps=3, penalty=2.0, final_penalty=5.0)


def ista() -> ISTA:
    return ISTA(num_steps=3)


def fista() -> FISTA:
    return FISTA(num_steps=3)


def chambolle_pock() -> ChambollePock:
    return ChambollePock(num_steps=4)


def tikhonov() -> Tikhonov:
    return Tikhonov(num_steps=1, num_inner=SIZE)


_SEARCH = {"calls_depend_on_batch": True}
_TWIN = {"twin": True}
_FIXED = {"deterministic": True}

CASES = [
    Case("dps", dps, gaussian, linear_gaussian),
    Case("dps_class", dps_likelihood, mixture, three_classes),
    Case("doc", doc, mixture, linear_gaussian, deterministic=True),
    Case("doc_class", doc, mixture, three_classes, deterministic=True, **_TWIN),
    Case("doc_ilqr", doc_ilqr, mixture, linear_gaussian, **_SEARCH),
    Case("doc_output", doc_output, mixture, linear_gaussian, **_SEARCH, **_TWIN),
    Case("doc_stored", doc_stored, mixture, linear_gaussian, **_SEARCH, **_TWIN),
    Case("doc_ilqr_class", doc_ilqr, mixture, three_classes, **_SEARCH, **_TWIN),
    Case("doc_paper", doc_paper, mixture, linear_gaussian, **_TWIN),
    Case("doc_released", doc_released, mixture, linear_gaussian, **_TWIN),
    Case("ddrm", ddrm, mixture, linear_gaussian),
    Case("ddnm", ddnm, mixture, linear_gaussian),
    Case("ddnm_travel", ddnm_travel, mixture, linear_gaussian, **_TWIN),
    Case("ddnm_plus", ddnm_plus, mixture, linear_gaussian, **_TWIN),
    Case("ddnm_simplified", ddnm_simplified, mixture, linear_gaussian, **_TWIN),
    Case("score_sde", score_sde, mixture, linear_gaussian),
    Case("ilvr", ilvr, mixture, linear_gaussian, **_TWIN),
    Case("mcg", mcg, mixture, linear_gaussian),
    Case("pigdm", pigdm, mixture, linear_gaussian),
    Case("pigdm_noiseless", pigdm_noiseless, mixture, linear_gaussian, **_TWIN),
    Case("pigdm_nonlinear", pigdm_nonlinear, mixture, linear_gaussian, **_TWIN),
    Case("cpigdm", cpigdm, mixture, linear_gaussian),
    Case("cpigdm_noisy", cpigdm_noisy, mixture, linear_gaussian),
    Case("cpigdm_nonlinear", cpigdm_nonlinear, mixture, linear_gaussian, **_TWIN),
    Case("tmpd", tmpd, mixture, linear_gaussian),
    Case("tmpd_diagonal", tmpd_diagonal, mixture, linear_gaussian, **_TWIN),
    Case("tmpd_row_sums", tmpd_row_sums, mixture, linear_gaussian, **_TWIN),
    Case("tmpd_hutchinson", tmpd_hutchinson, mixture, linear_gaussian, **_TWIN),
    Case("tikhonov", tikhonov, quadratic, linear_gaussian, **_FIXED),
    Case("admm_tv", admm, total_variation, linear_gaussian, **_FIXED),
    Case("admm_pnp", admm, network_denoiser, linear_gaussian, **_FIXED, **_TWIN),
    Case("hqs", hqs, network_denoiser, linear_gaussian, **_FIXED),
    Case("red", red, network_denoiser, linear_gaussian, **_FIXED, **_TWIN),
    Case("ista", ista, sparsity, linear_gaussian, **_FIXED, **_TWIN),
    Case("fista", fista, sparsity, linear_gaussian, **_FIXED),
    Case("chambolle_pock", chambolle_pock, total_variation, linear_gaussian, **_FIXED),
]
