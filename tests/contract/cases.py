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
from diffctl.numerics import Descent
from diffctl.operators import (
    Categorical,
    DenseMatrix,
    FunctionOperator,
    GaussianNoise,
    LinearFunctionOperator,
    PoissonNoise,
    Problem,
    stack,
)
from diffctl.priors import (
    DenoiserProx,
    GaussianConsistencyPrior,
    GaussianMixturePrior,
    GaussianPrior,
    LinearAutoencoder,
    Quadratic,
    SeverityEncoderPrior,
    SmoothedPrior,
    Sparsity,
    TotalVariation,
)
from diffctl.pytree import pytree_dataclass
from diffctl.solvers import (
    ADMM,
    DAPS,
    DDNM,
    DDRM,
    DDS,
    DDSMC,
    DOC,
    DPS,
    FISTA,
    FPSSMC,
    GMLDPS,
    HMC,
    HQS,
    ILVR,
    ISTA,
    LDPS,
    MALA,
    MCG,
    PSLD,
    RED,
    STSL,
    TDS,
    TMPD,
    AmortisedMean,
    AmortisedSample,
    AnnealedMCMC,
    ChambollePock,
    ConditionalSampling,
    ConjugatePiGDM,
    ConsistencyCSGM,
    ConsistencyRestoration,
    DDNMPlus,
    DensityChain,
    DensityMAP,
    DiagonalMoment,
    DiffPIR,
    DMPlug,
    ExpandedConjugatePiGDM,
    FirstOrderDiffPIR,
    FlashDiffusion,
    FlowMAP,
    FlowToLevel,
    FullMoment,
    GibbsSchedule,
    HutchinsonMoment,
    InLatentSpace,
    JointMAP,
    Langevin,
    LangevinLikelihood,
    LatentChain,
    LatentMAP,
    MCGdiff,
    MovingVariance,
    NoiselessPiGDM,
    NoisyConjugatePiGDM,
    NonlinearConjugatePiGDM,
    NonlinearPiGDM,
    PerturbedLikelihood,
    PiGDM,
    PlainTwist,
    PnPDM,
    REDDiff,
    ReSample,
    SamplerCSGM,
    ScoreLaw,
    ScoreSDE,
    SimplifiedDDNMPlus,
    Tikhonov,
    TimeTravel,
    VariationalPosterior,
    doc_presets,
    measurement_features,
    normal_start,
)
from diffctl.solvers.costs import likelihood
from diffctl.solvers.latent.fit import Fit
from diffctl.solvers.latent.optimisation import shell_penalty
from diffctl.solvers.weighting import uniform_weight
from tests.solvers.generative.models import (
    AffineFlow,
    AffineMap,
    AffineSampler,
    ExactConditional,
    MixtureEnergy,
    TanhAutoencoder,
    TanhGenerator,
    generator,
)

SIZE, LATENT, NUM_MEASURED, BATCH = 4, 3, 2, 3


class Instance(NamedTuple):
    problems: Problem  # the measurement has a leading batch axis, the rest is shared
    prior: Any
    solver: Any

    def problem(self, i: int) -> Problem:
        y = jax.tree.map(lambda leaf: leaf[i], self.problems.y)
        return dataclasses.replace(self.problems, y=y)


@dataclass(frozen=True)
class Case:
    name: str
    solver: Callable[[], Any]
    prior: Callable[[], Any]
    problems: Callable[[], Problem]
    # Kinds of calls that one example can skip, but not under vmap.
    calls_depend_on_batch: tuple[str, ...] = ()
    deterministic: bool = False  # the same result for every key
    # Settings in units of y, by step sizes on residuals, operators that count as of
    # norm 1, or training: where they are, and the power of the unit.
    units: tuple[tuple[str, int], ...] = ()
    # It follows y whatever sigma_y: takes y for noise-free, normalises its few steps,
    # has a flat prior, or was trained for one sigma_y.
    follows_y: bool = False
    # Its programs are much like another row's: it waits for the slow lane.
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


def photon_counts() -> Problem:
    """Few photons; pixels darker than black are possible before they are drawn."""
    noise = PoissonNoise(peak=20.0, background=0.5)
    counts = _rng(13).integers(2, 18, size=(BATCH, NUM_MEASURED))
    y = 2 * (counts - noise.background) / noise.peak - 1
    return dataclasses.replace(linear_gaussian(), y=jnp.asarray(y), noise=noise)


def _frequencies(x: jax.Array, gain: jax.Array) -> jax.Array:
    return gain * jnp.fft.fft(x)[:NUM_MEASURED]


def two_views() -> Problem:
    """A tuple of a complex and a real measurement."""
    operator = stack(
        LinearFunctionOperator.create(_frequencies, (SIZE,), jnp.asarray(0.5)),
        linear_gaussian().operator,
    )
    real, imaginary, other = _rng(14).normal(size=(3, BATCH, NUM_MEASURED)) / 2
    y = jnp.asarray(real) + 1j * jnp.asarray(imaginary), jnp.asarray(other)
    return Problem(y=y, operator=operator, noise=GaussianNoise(std=0.3))


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


def cpigdm_expanded() -> ExpandedConjugatePiGDM:
    return ExpandedConjugatePiGDM(grid=grid(), tilt=-0.2)


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


def daps() -> DAPS:
    flow = FlowToLevel(num_steps=2)
    return DAPS(grid=grid(), flow=flow, law=ScoreLaw(), sampler=Langevin(num_steps=3))


def dds() -> DDS:
    return DDS(grid=grid(), num_inner=2)


def diffpir() -> DiffPIR:
    return DiffPIR(grid=grid())


def diffpir_first_order() -> FirstOrderDiffPIR:
    return FirstOrderDiffPIR(grid=grid())


def red_diff() -> REDDiff:
    return REDDiff(grid=grid(), posterior_std=0.1)


def tanh_generator() -> TanhGenerator:
    return generator(TanhGenerator)


def tanh_autoencoder() -> TanhAutoencoder:
    return generator(TanhAutoencoder)


def affine_flow() -> AffineFlow:
    return generator(AffineFlow, latent=SIZE)


def energy() -> MixtureEnergy:
    return MixtureEnergy(mixture=mixture())


def smoothed() -> SmoothedPrior:
    return SmoothedPrior(prior=mixture(), sigma=0.3)


def affine_map() -> AffineMap:
    gain = _rng(9).normal(size=(SIZE, NUM_MEASURED)) / 2
    shift = _rng(5).normal(size=SIZE) / 4
    return AffineMap(gain=jnp.asarray(gain), shift=jnp.asarray(shift))


def affine_sampler() -> AffineSampler:
    return AffineSampler(mean=affine_map(), root=jnp.asarray(np.eye(SIZE) / 3))


def exact_conditional() -> ExactConditional:
    matrix = _rng(1).normal(size=(NUM_MEASURED, SIZE)) / 2
    return ExactConditional(
        prior=gaussian(), matrix=jnp.asarray(matrix), noise_std=jnp.asarray(0.3)
    )


def latent_map() -> LatentMAP:
    return LatentMAP(num_steps=4)


def flow_map() -> FlowMAP:
    return FlowMAP(num_steps=4)


def density_map() -> DensityMAP:
    return DensityMAP(num_steps=4, num_restarts=2)


def joint_map() -> JointMAP:
    return JointMAP(num_steps=3, num_inner=2)


def density_chain() -> DensityChain:
    return DensityChain(num_steps=4, kernel=MALA(step_size=0.02))


def latent_chain() -> LatentChain:
    return LatentChain(num_steps=4, kernel=HMC(step_size=0.1, num_leapfrog=2))


def variational() -> VariationalPosterior:
    return VariationalPosterior(num_steps=4, start_from=normal_start)


def amortised_mean() -> AmortisedMean:
    return AmortisedMean(features=measurement_features)


def amortised_sample() -> AmortisedSample:
    return AmortisedSample(features=measurement_features)


def conditional_sampling() -> ConditionalSampling:
    return ConditionalSampling(grid=grid(), features=measurement_features)


def tds() -> TDS:
    return TDS(grid=grid(), num_particles=3)


def tds_class() -> TDS:
    return TDS(grid=grid(), num_particles=3, twist=PlainTwist(), guidance_scale=0.1)


def ddsmc() -> DDSMC:
    return DDSMC(grid=grid(), num_particles=4, chunk_size=2)


def mcgdiff() -> MCGdiff:
    return MCGdiff(grid=grid(), num_particles=3)


def fps() -> FPSSMC:
    return FPSSMC(grid=grid(), num_particles=3)


def annealed_mala() -> AnnealedMCMC:
    return AnnealedMCMC(grid=grid(2), num_sweeps=2, num_last=1)


def annealed_hmc() -> AnnealedMCMC:
    kernel = HMC(step_size=0.4, num_leapfrog=2)
    return AnnealedMCMC(grid=grid(2), kernel=kernel, num_sweeps=2, num_last=1)


def _gibbs_schedule() -> GibbsSchedule:
    return GibbsSchedule.create([1.0, 0.5], grid())


def pnp_dm() -> PnPDM:
    return PnPDM(schedule=_gibbs_schedule())


def pnp_dm_perturbed() -> PnPDM:
    return PnPDM(schedule=_gibbs_schedule(), likelihood=PerturbedLikelihood())


def pnp_dm_class() -> PnPDM:
    likelihood = LangevinLikelihood(step_size=0.05, num_inner=3)
    return PnPDM(schedule=_gibbs_schedule(), likelihood=likelihood)


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


@pytree_dataclass
class SeverityEncoder:
    """A measurement's rough latent, and a severity that depends on it."""

    matrix: jax.Array

    def __call__(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        rough = jnp.matmul(self.matrix, y, precision="highest")
        return rough, 0.1 + jnp.sum(rough**2)


def latent_gaussian() -> SeverityEncoderPrior:
    """A mixture of three-dimensional latents behind a linear decoder."""
    rng = _rng(7)
    decoder = jnp.asarray(rng.normal(size=(SIZE, LATENT)) / 2)
    encoder = jnp.asarray(rng.normal(size=(LATENT, SIZE)) / 2)
    latent = GaussianMixturePrior.from_moments(
        [0.4, 0.6],
        rng.normal(size=(2, LATENT)) / 2,
        np.stack([0.1 * np.eye(LATENT), np.diag([0.05, 0.2, 0.4])]),
    )
    return SeverityEncoderPrior.create(
        LinearAutoencoder(
            decoder=decoder, encoder=encoder, offset=jnp.full((SIZE,), 0.1)
        ),
        latent,
        severity_encoder=SeverityEncoder(
            matrix=jnp.asarray(rng.normal(size=(LATENT, NUM_MEASURED)))
        ),
    )


def gaussian_consistency() -> GaussianConsistencyPrior:
    # The default levels would hide the prior's own spread in float32.
    return GaussianConsistencyPrior(gaussian=gaussian(), sigma_min=0.05, sigma_max=5.0)


def ldps() -> LDPS:
    return LDPS(grid=grid(), guidance_scale=0.3)


def gml_dps() -> GMLDPS:
    return GMLDPS(grid=grid(), guidance_scale=0.3)


def psld() -> PSLD:
    return PSLD(grid=grid(), guidance_scale=0.3)


def stsl() -> STSL:
    return dataclasses.replace(STSL.default(grid()), num_repeats=2)


def resample() -> ReSample:
    few = Fit(descent=Descent.adam(0.02), num_steps=2)
    return dataclasses.replace(
        ReSample.default(grid(6)), pixels=few, latents=few, every=1, lookahead=2
    )


def flash() -> FlashDiffusion:
    return FlashDiffusion(inner=ldps())


def latent_dps() -> InLatentSpace:
    return InLatentSpace(inner=dps())


def flash_resample() -> FlashDiffusion:
    return FlashDiffusion(inner=resample())


def latent_daps() -> InLatentSpace:
    return InLatentSpace(inner=dataclasses.replace(daps(), largest_pull=1.0))


def dmplug() -> DMPlug:
    stopping = MovingVariance(window=2, patience=2)
    return dataclasses.replace(
        DMPlug.default(), grid=grid(2), num_steps=4, stopping=stopping
    )


def csgm() -> SamplerCSGM:
    return SamplerCSGM(grid=grid(2), num_steps=3)


def consistency_csgm() -> ConsistencyCSGM:
    return ConsistencyCSGM(
        sigma=jnp.asarray([5.0, 1.0]), num_steps=3, penalty=shell_penalty
    )


def consistency_restoration() -> ConsistencyRestoration:
    return ConsistencyRestoration(grid=grid(3))


_SEARCH = {"calls_depend_on_batch": ("fwd",)}
_LATE_START = {"calls_depend_on_batch": ("fwd", "vjp")}
_TWIN = {"twin": True}
_FIXED = {"deterministic": True}
_FOLLOWS = {"follows_y": True}


def _units(**powers: int) -> dict[str, Any]:
    """Return what a row says of its settings; `a__b` stands for the field b of a."""
    return {"units": tuple((k.replace("__", "."), p) for k, p in powers.items())}


# A step along the gradient of |y - A x|, and along that of its square.
_STEP = _FOLLOWS | _units(solver__guidance_scale=-1)
_INNER_STEP = _FOLLOWS | _units(solver__inner__guidance_scale=-1)
_GUIDED_STEP = _FOLLOWS | _units(solver__guided__guidance_scale=-1)
_GUIDED_SQUARE = _FOLLOWS | _units(solver__guided__guidance_scale=-2)
_DESCENT = _FOLLOWS | _units(solver__descent__unit=2)
_SQUARE = _FOLLOWS | _units(solver__data_weight=-2)
# Weights beside |y - A x|.
_WEIGHTS = _FOLLOWS | _units(
    solver__control_weight=1, solver__optimizer__update__damping=1
)
_PSLD = _FOLLOWS | _units(solver__guidance_scale=-1, solver__correction=-2)
_FITS = {
    "guided__guidance_scale": -1,
    "pixels__descent__unit": 2,
    "latents__descent__unit": 2,
}
_RESAMPLE = _FOLLOWS | _units(**{f"solver__{k}": p for k, p in _FITS.items()})
_SEVERITY = {"prior__severity_encoder__matrix": -1}
_FLASH = _FOLLOWS | _units(solver__inner__guidance_scale=-1, **_SEVERITY)
_FLASH_FITS = {f"solver__inner__{k}": p for k, p in _FITS.items()}
_FLASH_RESAMPLE = _FOLLOWS | _units(**_FLASH_FITS, **_SEVERITY)
# Operators of norm 1, and networks that were trained on y.
_GAIN = _units(solver__gain=1)
_TWIST_GAIN = _units(solver__twist__gain=1)
_TRAINED_MEAN = _FOLLOWS | _units(prior__gain=-1)
_TRAINED_SAMPLE = _FOLLOWS | _units(prior__mean__gain=-1)
_TRAINED_MODEL = _FOLLOWS | _units(prior__matrix=1, prior__noise_std=1)

CASES = [
    Case("dps", dps, gaussian, linear_gaussian, **_STEP),
    Case("dps_class", dps_likelihood, mixture, three_classes),
    Case("dps_counts", dps_likelihood, mixture, photon_counts),
    Case("dps_views", dps, mixture, two_views, **_STEP),
    Case("doc", doc, mixture, linear_gaussian, deterministic=True, **_FOLLOWS),
    Case("doc_counts", doc, mixture, photon_counts, deterministic=True, **_TWIN),
    Case("doc_views", doc, mixture, two_views, deterministic=True, **_TWIN),
    Case("doc_class", doc, mixture, three_classes, deterministic=True, **_TWIN),
    Case("doc_ilqr", doc_ilqr, mixture, linear_gaussian, **_SEARCH),
    Case("doc_output", doc_output, mixture, linear_gaussian, **_SEARCH, **_TWIN),
    Case("doc_stored", doc_stored, mixture, linear_gaussian, **_SEARCH, **_TWIN),
    Case("doc_ilqr_class", doc_ilqr, mixture, three_classes, **_SEARCH, **_TWIN),
    Case("doc_paper", doc_paper, mixture, linear_gaussian, **_TWIN, **_WEIGHTS),
    Case("doc_released", doc_released, mixture, linear_gaussian, **_TWIN, **_WEIGHTS),
    Case("ddrm", ddrm, mixture, linear_gaussian),
    Case("ddnm", ddnm, mixture, linear_gaussian, **_FOLLOWS),
    Case("ddnm_travel", ddnm_travel, mixture, linear_gaussian, **_TWIN, **_FOLLOWS),
    Case("ddnm_plus", ddnm_plus, mixture, linear_gaussian),
    Case("ddnm_simplified", ddnm_simplified, mixture, linear_gaussian, **_GAIN),
    Case("score_sde", score_sde, mixture, linear_gaussian, **_FOLLOWS),
    Case("ilvr", ilvr, mixture, linear_gaussian, **_FOLLOWS),
    Case("mcg", mcg, mixture, linear_gaussian, **_GUIDED_STEP),
    Case("pigdm", pigdm, mixture, linear_gaussian),
    Case("pigdm_noiseless", pigdm_noiseless, mixture, linear_gaussian, **_FOLLOWS),
    Case("pigdm_nonlinear", pigdm_nonlinear, mixture, linear_gaussian, **_FOLLOWS),
    Case("cpigdm", cpigdm, mixture, linear_gaussian, **_FOLLOWS),
    Case("cpigdm_noisy", cpigdm_noisy, mixture, linear_gaussian),
    Case("cpigdm_expanded", cpigdm_expanded, mixture, linear_gaussian, **_FOLLOWS),
    Case("cpigdm_nonlinear", cpigdm_nonlinear, mixture, linear_gaussian, **_FOLLOWS),
    Case("daps", daps, mixture, linear_gaussian),
    Case("daps_counts", daps, mixture, photon_counts, **_TWIN),
    Case("daps_views", daps, mixture, two_views, **_TWIN),
    Case("dds_views", dds, mixture, two_views, **_TWIN),
    Case("dds", dds, mixture, linear_gaussian),
    Case("diffpir", diffpir, mixture, linear_gaussian),
    Case("diffpir_class", diffpir_first_order, mixture, three_classes),
    Case("red_diff", red_diff, mixture, linear_gaussian, **_SQUARE),
    Case("tmpd", tmpd, mixture, linear_gaussian),
    Case("tmpd_diagonal", tmpd_diagonal, mixture, linear_gaussian, **_TWIN),
    Case("tmpd_row_sums", tmpd_row_sums, mixture, linear_gaussian, **_TWIN),
    Case("tmpd_hutchinson", tmpd_hutchinson, mixture, linear_gaussian, **_TWIN),
    Case("ldps", ldps, latent_gaussian, linear_gaussian, **_TWIN, **_STEP),
    Case("gml_dps", gml_dps, latent_gaussian, linear_gaussian, **_STEP),
    Case("psld", psld, latent_gaussian, linear_gaussian, **_PSLD),
    Case("stsl", stsl, latent_gaussian, linear_gaussian, **_GUIDED_SQUARE),
    Case("resample", resample, latent_gaussian, linear_gaussian, **_RESAMPLE),
    Case("flash", flash, latent_gaussian, linear_gaussian, **_LATE_START, **_FLASH),
    Case("latent_dps", latent_dps, latent_gaussian, linear_gaussian, **_INNER_STEP),
    Case(
        "flash_resample",
        flash_resample,
        latent_gaussian,
        linear_gaussian,
        **_LATE_START,
        **_TWIN,
        **_FLASH_RESAMPLE,
    ),
    Case("latent_daps", latent_daps, latent_gaussian, linear_gaussian, **_TWIN),
    Case("dmplug", dmplug, mixture, linear_gaussian, **_DESCENT),
    Case("csgm", csgm, mixture, linear_gaussian),
    Case("consistency_csgm", consistency_csgm, gaussian_consistency, linear_gaussian),
    Case(
        "consistency_restoration",
        consistency_restoration,
        gaussian_consistency,
        linear_gaussian,
        **_FOLLOWS,
    ),
    Case("latent_map", latent_map, tanh_generator, linear_gaussian),
    Case("flow_map", flow_map, affine_flow, linear_gaussian),
    Case("density_map", density_map, energy, linear_gaussian),
    Case(
        "joint_map",
        joint_map,
        tanh_autoencoder,
        linear_gaussian,
        deterministic=True,
        **_FOLLOWS,
    ),
    Case("density_chain", density_chain, energy, linear_gaussian),
    Case("latent_chain", latent_chain, tanh_generator, linear_gaussian),
    Case("variational", variational, smoothed, linear_gaussian),
    Case(
        "amortised_mean",
        amortised_mean,
        affine_map,
        linear_gaussian,
        deterministic=True,
        **_TRAINED_MEAN,
    ),
    Case(
        "amortised_sample",
        amortised_sample,
        affine_sampler,
        linear_gaussian,
        **_TRAINED_SAMPLE,
    ),
    Case(
        "conditional",
        conditional_sampling,
        exact_conditional,
        linear_gaussian,
        **_TRAINED_MODEL,
    ),
    Case("tds", tds, mixture, linear_gaussian, **_TWIST_GAIN),
    Case("tds_class", tds_class, mixture, three_classes, **_TWIN),
    Case("ddsmc", ddsmc, mixture, linear_gaussian),
    Case("mcgdiff", mcgdiff, mixture, linear_gaussian),
    Case("fps_smc", fps, mixture, linear_gaussian),
    Case("annealed_mala", annealed_mala, mixture, linear_gaussian, **_TWIN),
    Case("annealed_hmc", annealed_hmc, mixture, linear_gaussian),
    Case("pnp_dm", pnp_dm, mixture, linear_gaussian),
    Case("pnp_dm_perturbed", pnp_dm_perturbed, mixture, linear_gaussian, **_TWIN),
    Case("pnp_dm_class", pnp_dm_class, mixture, three_classes, **_TWIN),
    Case("tikhonov", tikhonov, quadratic, linear_gaussian, **_FIXED),
    Case("admm_tv", admm, total_variation, linear_gaussian, **_FIXED),
    Case("admm_pnp", admm, network_denoiser, linear_gaussian, **_FIXED, **_TWIN),
    Case("hqs", hqs, network_denoiser, linear_gaussian, **_FIXED),
    Case("red", red, network_denoiser, linear_gaussian, **_FIXED),
    Case("ista", ista, sparsity, linear_gaussian, **_FIXED, **_FOLLOWS),
    Case("fista", fista, sparsity, linear_gaussian, **_FIXED, **_FOLLOWS),
    Case(
        "chambolle_pock",
        chambolle_pock,
        total_variation,
        linear_gaussian,
        **_FIXED,
        **_FOLLOWS,
    ),
]
