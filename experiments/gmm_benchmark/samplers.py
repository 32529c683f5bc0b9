"""The samplers of the benchmark and their settings.

Presets of the library are made for images in [-1, 1]. Here clusters of width 1 are
spread over coordinates of standard deviation 11, so that every solver gets the levels
of `noise_levels`, none clips, and lengths are stated. Where a setting had to be chosen
it was, by the distance on a few problems with d = 8, 80 and 800, once for all cells.
"""

from collections.abc import Mapping
from dataclasses import replace

import jax
import numpy as np

from diffctl.diffusion import Ancestral, NoiseGrid, geometric, karras, unbounded
from diffctl.solvers import (
    DAPS,
    DDRM,
    DDS,
    DDSMC,
    DOC,
    DPS,
    FPSSMC,
    HMC,
    MALA,
    MCG,
    TDS,
    TMPD,
    AnnealedMCMC,
    BayesianPenalty,
    DDNMPlus,
    DiffPIR,
    ExactDraw,
    FullMoment,
    GibbsSchedule,
    HamiltonianMonteCarlo,
    Langevin,
    MCGdiff,
    NoisyConjugatePiGDM,
    NormalSurrogate,
    PiGDM,
    PnPDM,
    RelativeStep,
    ScoreSDE,
    SimplifiedDDNMPlus,
    SpectralTwist,
)
from experiments.gmm_benchmark.drawing import LOWEST, BySolver, Direct, Sampler
from experiments.gmm_benchmark.problems import SPACING, Posed, spread

# Standard deviation of a coordinate: means at 0, 8 and 16 on both sides, width 1.
_COORDINATE_STD = float(np.sqrt(2 * SPACING**2 + 1))
_PENALTY = BayesianPenalty(signal_std=_COORDINATE_STD)
_PARTICLES = 250
_INNER = 10


def exact_posterior(posed: Posed, key: jax.Array, num_samples: int) -> jax.Array:
    """Return exact samples: their distance to other exact samples is the floor."""
    return posed.posterior.sample(key, num_samples)


def prior(posed: Posed, key: jax.Array, num_samples: int) -> jax.Array:
    """Return samples of the prior, which ignore the measurement."""
    return jax.vmap(posed.prior.sample)(jax.random.split(key, num_samples))


def _cpigdm(grid: NoiseGrid, size: int) -> NoisyConjugatePiGDM:
    # Its guidance is w sigma^2 / (1 + sigma^2)^2 of a likelihood score: for data wider
    # than 1 to be led at the levels where modes part, w must grow with their spread.
    return NoisyConjugatePiGDM(grid=grid, guidance_scale=spread(size) ** 2 / 20)


def _dps(grid: NoiseGrid, size: int) -> DPS:
    return DPS(grid=grid, reverse=Ancestral(), guidance_scale=0.3)


def _diffpir(grid: NoiseGrid, size: int) -> DiffPIR:
    return DiffPIR(grid=grid, penalty=_PENALTY, bound=unbounded)


def _daps(grid: NoiseGrid, size: int) -> DAPS:
    law = NormalSurrogate(signal_std=_COORDINATE_STD)
    return DAPS(grid=grid, law=law, sampler=ExactDraw())


def _daps_langevin(grid: NoiseGrid, size: int) -> DAPS:
    steps = Langevin(num_steps=_INNER, step_size=RelativeStep(fraction=0.3))
    return replace(_daps(grid, size), sampler=steps)


def _daps_hmc(grid: NoiseGrid, size: int) -> DAPS:
    leaps = HamiltonianMonteCarlo(num_steps=2, step_size=RelativeStep(fraction=0.3))
    return replace(_daps(grid, size), sampler=leaps)


def _annealed(grid: NoiseGrid, size: int) -> AnnealedMCMC:
    # About the acceptance of 0.57 at which MALA is efficient, in any dimension.
    kernel = MALA(step_size=1.2 * size ** (-1 / 3))
    return AnnealedMCMC(grid=grid, kernel=kernel, num_sweeps=4, inflation=0.0)


def _annealed_hmc(grid: NoiseGrid, size: int) -> AnnealedMCMC:
    kernel = HMC(step_size=1.0 * size ** (-1 / 4), num_leapfrog=4)
    return AnnealedMCMC(grid=grid, kernel=kernel, num_sweeps=1, inflation=0.0)


def _pnp_dm(grid: NoiseGrid, size: int) -> PnPDM:
    num_iterations = max(2, grid.num_steps // 3)
    couplings = np.geomspace(spread(size), 5 * LOWEST, num_iterations)
    levels = geometric(max(2, 3 * grid.num_steps // 10), LOWEST, spread(size))
    return PnPDM(schedule=GibbsSchedule.create(couplings, levels))


def _doc(grid: NoiseGrid, size: int) -> DOC:
    levels = karras(max(2, grid.num_steps // 2), LOWEST, 10 * spread(size))
    return replace(DOC.default(), grid=levels)


SAMPLERS: Mapping[str, Sampler] = {
    "exact": Direct("independent exact samples: the noise floor", exact_posterior),
    "prior": Direct("samples of the prior, which ignore y", prior),
    "pigdm": BySolver(
        "PiGDM with exact weights, signal_std 1",
        lambda grid, size: PiGDM(grid=grid),
    ),
    "cpigdm_noisy": BySolver(
        "C-PiGDM for noisy data, w = spread^2 / 20", _cpigdm, normals=0.0
    ),
    "tmpd": BySolver(
        "TMPD with the full covariance",
        lambda grid, size: TMPD(grid=grid, moment=FullMoment()),
    ),
    "tmpd_row_sums": BySolver(
        "TMPD with row sums for the covariance", lambda grid, size: TMPD(grid=grid)
    ),
    "ddrm": BySolver("DDRM, eta 0.85, eta_b 1", lambda grid, size: DDRM(grid=grid)),
    "ddnm_plus": BySolver(
        "DDNM+, eta 0.85", lambda grid, size: DDNMPlus(grid=grid), normals=2.0
    ),
    "ddnm_plus_simplified": BySolver(
        "DDNM+ without a singular system, eta 0.85",
        lambda grid, size: SimplifiedDDNMPlus(grid=grid),
        normals=2.0,
    ),
    "score_sde": BySolver(
        "Score-SDE projection, made for noise-free data",
        lambda grid, size: ScoreSDE(grid=grid),
        normals=2.0,
    ),
    "dps": BySolver("DPS on the residual norm, scale 0.3, not clipped", _dps),
    "mcg": BySolver(
        "MCG: that, projected; made for noise-free data",
        lambda grid, size: MCG(guided=_dps(grid, size)),
        normals=2.0,
    ),
    "dds": BySolver(
        "DDS with Bayes' penalty, eta 0.85, 5 CG steps",
        lambda grid, size: DDS(grid=grid, penalty=_PENALTY),
    ),
    "diffpir": BySolver("DiffPIR with Bayes' penalty, zeta 0.3", _diffpir),
    "daps_exact": BySolver(
        "DAPS with exact draws, likelihood as it is", _daps, normals=2.0
    ),
    "daps_langevin": BySolver(
        f"DAPS with {_INNER} Langevin steps a level",
        _daps_langevin,
        normals=1.0 + _INNER,
    ),
    "daps_hmc": BySolver(
        "DAPS with 2 Hamiltonian trajectories of 5 steps a level",
        _daps_hmc,
        normals=3.0,
    ),
    "pnp_dm": BySolver("PnP-DM with exact likelihood draws, rho to 0.1", _pnp_dm),
    "annealed_mcmc": BySolver(
        "MALA on noisy priors times the likelihood, 4 sweeps a level", _annealed
    ),
    "annealed_hmc": BySolver("HMC on the same, 4 leapfrogs a level", _annealed_hmc),
    "mcgdiff": BySolver(
        f"MCGdiff, kappa 0.3, ensembles of {_PARTICLES}",
        lambda grid, size: MCGdiff(grid=grid, num_particles=_PARTICLES),
    ),
    "tds": BySolver(
        f"TDS with the spectral twist, ensembles of {_PARTICLES}",
        lambda grid, size: TDS(
            grid=grid,
            num_particles=_PARTICLES,
            twist=SpectralTwist(signal_std=_COORDINATE_STD),
        ),
    ),
    "fps_smc": BySolver(
        f"FPS-SMC on a known path, ensembles of {_PARTICLES}",
        lambda grid, size: FPSSMC(grid=grid, num_particles=_PARTICLES),
    ),
    "ddsmc": BySolver(
        f"DDSMC, ensembles of {_PARTICLES}",
        lambda grid, size: DDSMC(
            grid=grid, num_particles=_PARTICLES, signal_std=_COORDINATE_STD
        ),
    ),
    "doc": BySolver(
        "DOC, a point estimate and no sampler", _doc, normals=0.0, point=True
    ),
}


def with_levels(sampler: Sampler, num_levels: int) -> Sampler:
    """Return a sampler with another number of levels, if it has any."""
    if isinstance(sampler, BySolver):
        return replace(sampler, num_levels=num_levels)
    return sampler
