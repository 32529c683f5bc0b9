"""Solvers with settings by name, which the command line chooses from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffctl.cli.task_table import TASKS
from diffctl.core import Solver
from diffctl.diffusion import ddpm
from diffctl.priors import (
    CycleSpinning,
    DenoiserProx,
    NonLocalMeans,
    Quadratic,
    Sparsity,
    TotalVariation,
)
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
    HQS,
    ILVR,
    MCG,
    RED,
    TDS,
    TMPD,
    ChambollePock,
    ConjugatePiGDM,
    DDNMPlus,
    DiffPIR,
    DMPlug,
    ExactDraw,
    FirstOrderDiffPIR,
    MCGdiff,
    NoiselessPiGDM,
    NoisyConjugatePiGDM,
    PiGDM,
    PnPDM,
    REDDiff,
    SamplerCSGM,
    ScoreSDE,
    SimplifiedDDNMPlus,
    Tikhonov,
    daps_grid,
    quadratic_grid,
)
from diffctl.solvers.conjugate import few_steps
from diffctl.solvers.ddnm import released_grid
from diffctl.solvers.latent.dmplug import three_levels

Build = Callable[[str, int | None], Solver]
Adapt = Callable[[Any], Any]


def as_it_is(prior: Any) -> Any:
    """Return the prior: for solvers that take a diffusion prior."""
    return prior


@dataclass(frozen=True)
class SolverChoice:
    """A solver with the settings of some source.

    Attributes:
        summary: one line for the user.
        build: `build(task name, steps)`; `steps` is None for its own number.
        adapt: diffusion prior -> the prior that the solver takes.
    """

    summary: str
    build: Build
    adapt: Adapt = as_it_is


def _doc(task: str, steps: int | None) -> Solver:
    return _with_steps(replace(DOC.default(), **TASKS[task].doc_settings), steps)


def _doc_ilqr(task: str, steps: int | None) -> Solver:
    return _with_steps(replace(DOC.ilqr(), **TASKS[task].doc_settings), steps)


def _doc_paper(task: str, steps: int | None) -> Solver:
    return _with_steps(DOC.paper(task), steps)


def _doc_released(task: str, steps: int | None) -> Solver:
    return _with_steps(DOC.released_code(task), steps)


def _dps(task: str, steps: int | None) -> Solver:
    num_steps = _positive(steps, 1000)
    own = TASKS[task].dps_settings
    if own:
        return DPS(grid=ddpm(num_steps), **own)
    return DPS.released_code(task, num_steps=num_steps)


def _dps_paper(task: str, steps: int | None) -> Solver:
    return DPS.paper(task, num_steps=_positive(steps, 1000))


def _mcg(task: str, steps: int | None) -> Solver:
    return MCG.dps_paper(task, num_steps=_positive(steps, 1000))


def _daps_released(task: str, steps: int | None) -> Solver:
    return DAPS.released_code(task, num_steps=_positive(steps, 200))


def _red_diff_released(task: str, steps: int | None) -> Solver:
    return REDDiff.released_code(task, num_steps=_positive(steps, 1000))


def _dmplug(task: str, steps: int | None) -> Solver:
    return _with_steps(DMPlug.default(), steps)


def _csgm(task: str, steps: int | None) -> Solver:
    return _with_steps(SamplerCSGM(grid=three_levels()), steps)


def _by_levels(make: Callable[[int], Solver], default: int) -> Build:
    """Return a builder of a solver that depends on its number of levels alone."""

    def build(task: str, steps: int | None) -> Solver:
        return make(_positive(steps, default))

    return build


def _iterative(solver: Solver) -> Build:
    """Return a builder of a solver with its own number of iterations or another."""

    def build(task: str, steps: int | None) -> Solver:
        return _with_steps(solver, steps)

    return build


def _denoiser(prior: Any) -> DenoiserProx:
    return DenoiserProx(prior=prior)


def _total_variation(prior: Any) -> TotalVariation:
    return TotalVariation.isotropic(prior.shape, weight=2.0)


def _wavelets(prior: Any) -> CycleSpinning:
    return CycleSpinning(inner=Sparsity.wavelets(prior.shape, weight=4.0))


def _smoothness(prior: Any) -> Quadratic:
    return Quadratic.smoothness(prior.shape, weight=2.0)


def _non_local_means(prior: Any) -> NonLocalMeans:
    return NonLocalMeans.create(prior.shape)


def _with_steps(solver: Any, steps: int | None) -> Solver:
    return replace(solver, num_steps=_positive(steps, solver.num_steps))


def _positive(steps: int | None, default: int) -> int:
    if steps is None:
        return default
    if steps < 1:
        raise ValueError(f"--steps is {steps}; expected at least 1.")
    return steps


_TV_ADMM = ADMM(num_steps=100, penalty=20.0)

SOLVERS: Mapping[str, SolverChoice] = {
    "doc": SolverChoice("Diffusion Optimal Control, chosen by measurement", _doc),
    "doc_ilqr": SolverChoice("DOC with second-order iterations of rank 16", _doc_ilqr),
    "doc_paper": SolverChoice("DOC as in table 2 of the paper", _doc_paper),
    "doc_released_code": SolverChoice(
        "DOC as the authors' public code runs by default", _doc_released
    ),
    "dps": SolverChoice("DPS as in the authors' configuration files", _dps),
    "dps_paper": SolverChoice("DPS with the step sizes of the paper", _dps_paper),
    "mcg": SolverChoice("MCG with the step sizes of the paper on DPS", _mcg),
    "score_sde": SolverChoice(
        "Score-SDE projection, ancestral steps",
        _by_levels(lambda n: ScoreSDE(grid=ddpm(n)), 1000),
    ),
    "ilvr": SolverChoice(
        "ILVR with the pseudo-inverse as up-sampling",
        _by_levels(lambda n: ILVR(grid=ddpm(n)), 1000),
    ),
    "ddrm": SolverChoice(
        "DDRM as released", _by_levels(lambda n: DDRM.released_code(num_steps=n), 20)
    ),
    "ddnm": SolverChoice(
        "DDNM as released, for noise-free measurements",
        _by_levels(lambda n: DDNM.released_code(num_steps=n), 100),
    ),
    "ddnm_plus": SolverChoice(
        "DDNM+ by singular directions, for noisy measurements",
        _by_levels(lambda n: DDNMPlus.released_settings(num_steps=n), 100),
    ),
    "ddnm_plus_simplified": SolverChoice(
        "DDNM+ without a singular system",
        _by_levels(lambda n: SimplifiedDDNMPlus(grid=released_grid(n)), 100),
    ),
    "pigdm": SolverChoice(
        "PiGDM with exact weights, for noisy measurements",
        _by_levels(lambda n: PiGDM(grid=ddpm(n)), 100),
    ),
    "pigdm_noiseless": SolverChoice(
        "PiGDM for noise-free measurements",
        _by_levels(lambda n: NoiselessPiGDM(grid=ddpm(n)), 100),
    ),
    "pigdm_paper": SolverChoice(
        "PiGDM with the weights of the paper",
        _by_levels(lambda n: PiGDM.paper(num_steps=n), 100),
    ),
    "cpigdm": SolverChoice(
        "C-PiGDM for noise-free measurements, 5 to 20 steps",
        _by_levels(lambda n: ConjugatePiGDM(grid=few_steps(n)), 10),
    ),
    "cpigdm_noisy": SolverChoice(
        "C-PiGDM for noisy measurements, exact in every direction",
        _by_levels(lambda n: NoisyConjugatePiGDM(grid=few_steps(n)), 10),
    ),
    "dmplug": SolverChoice("DMPlug, stopped by the moving variance", _dmplug),
    "csgm": SolverChoice("CSGM through a sampler of three steps", _csgm),
    "tmpd": SolverChoice(
        "TMPD with row sums", _by_levels(lambda n: TMPD(grid=ddpm(n)), 100)
    ),
    "daps": SolverChoice(
        "DAPS with Langevin steps of the clean image, for any task",
        _by_levels(lambda n: DAPS(grid=daps_grid(n)), 200),
    ),
    "daps_exact": SolverChoice(
        "DAPS with exact draws of the clean image, for linear measurements",
        _by_levels(lambda n: DAPS(grid=daps_grid(n), sampler=ExactDraw()), 200),
    ),
    "daps_released_code": SolverChoice(
        "DAPS with Langevin steps as released", _daps_released
    ),
    "dds": SolverChoice(
        "DDS with a penalty by Bayes' rule",
        _by_levels(lambda n: DDS(grid=released_grid(n)), 50),
    ),
    "dds_released_code": SolverChoice(
        "DDS as released", _by_levels(lambda n: DDS.released_code(num_steps=n), 50)
    ),
    "diffpir": SolverChoice(
        "DiffPIR with a penalty by Bayes' rule",
        _by_levels(lambda n: DiffPIR(grid=quadratic_grid(n)), 100),
    ),
    "diffpir_first_order": SolverChoice(
        "DiffPIR by gradient steps, for any task",
        _by_levels(lambda n: FirstOrderDiffPIR(grid=quadratic_grid(n)), 100),
    ),
    "red_diff": SolverChoice(
        "RED-diff on the likelihood, for any task",
        _by_levels(lambda n: REDDiff.default(num_steps=n), 1000),
    ),
    "red_diff_released_code": SolverChoice("RED-diff as released", _red_diff_released),
    "tds": SolverChoice(
        "TDS, one of 16 particles",
        _by_levels(lambda n: TDS.default(num_steps=n), 100),
    ),
    "mcgdiff": SolverChoice(
        "MCGdiff on an observed path, one of 64 particles",
        _by_levels(lambda n: MCGdiff.default(num_steps=n), 100),
    ),
    "fps_smc": SolverChoice(
        "FPS-SMC on a known path, one of 20 particles",
        _by_levels(lambda n: FPSSMC.default(num_steps=n), 100),
    ),
    "ddsmc": SolverChoice(
        "DDSMC, one of 16 particles",
        _by_levels(lambda n: DDSMC.default(num_steps=n), 200),
    ),
    "pnp_dm": SolverChoice(
        "PnP-DM, split Gibbs sampling (steps: iterations)",
        _by_levels(lambda n: PnPDM.default(num_iterations=n), 100),
    ),
    "pnp_admm": SolverChoice(
        "plug-and-play ADMM with the network as denoiser",
        _iterative(ADMM.plug_and_play()),
        _denoiser,
    ),
    "pnp_hqs": SolverChoice(
        "plug-and-play half-quadratic splitting", _iterative(HQS()), _denoiser
    ),
    "red": SolverChoice(
        "regularisation by denoising with the network", _iterative(RED()), _denoiser
    ),
    "nlm_hqs": SolverChoice(
        "half-quadratic splitting with non-local means, no network",
        _iterative(HQS()),
        _non_local_means,
    ),
    "tv_admm": SolverChoice(
        "total variation by ADMM, no network", _iterative(_TV_ADMM), _total_variation
    ),
    "tv_chambolle_pock": SolverChoice(
        "total variation by Chambolle-Pock, no network",
        _iterative(ChambollePock()),
        _total_variation,
    ),
    "wavelet_fista": SolverChoice(
        "sparse Haar wavelets by FISTA, no network", _iterative(FISTA()), _wavelets
    ),
    "tikhonov": SolverChoice(
        "smoothness in closed form, no network", _iterative(Tikhonov()), _smoothness
    ),
}
