"""Tasks and solvers by name: the tables that the command line chooses from.

Sizes of blurs and boxes are those of DPS for 256 x 256 images, scaled with the image,
but never so small that there is nothing left to do.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax

from diffctl.cli.tasks import Guidance, Restoration, Task
from diffctl.core import Solver
from diffctl.diffusion import ddpm
from diffctl.operators import (
    BicubicSuperResolution,
    Blur,
    LinearOperator,
    Mask,
    gaussian_kernel,
    motion_kernel,
)
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
    DDNM,
    DDRM,
    DOC,
    DPS,
    FISTA,
    HQS,
    ILVR,
    MCG,
    RED,
    TMPD,
    ChambollePock,
    ConjugatePiGDM,
    DDNMPlus,
    NoiselessPiGDM,
    NoisyConjugatePiGDM,
    PiGDM,
    ScoreSDE,
    SimplifiedDDNMPlus,
    Tikhonov,
)
from diffctl.solvers.conjugate_pigdm import few_steps
from diffctl.solvers.ddnm import released_grid

Shape = tuple[int, int, int]
Build = Callable[[str, Any, int | None], Solver]
Adapt = Callable[[Any], Any]


def _super_resolution(shape: Shape, key: jax.Array) -> LinearOperator:
    return BicubicSuperResolution.create(shape, 4)


def _random_inpainting(shape: Shape, key: jax.Array) -> LinearOperator:
    return Mask.random(key, shape, drop_fraction=0.92)


def _box_inpainting(shape: Shape, key: jax.Array) -> LinearOperator:
    size = min(shape[:2]) // 2
    top, left = ((n - size) // 2 for n in shape[:2])
    return Mask.from_bbox(shape, top=top, left=left, size=size)


def _gaussian_deblurring(shape: Shape, key: jax.Array) -> LinearOperator:
    std = max(3.0 * min(shape[:2]) / 256, 1.5)
    size = 2 * math.ceil(4 * std) + 1
    return Blur.create(shape, gaussian_kernel(min(size, _largest(shape)), std))


def _motion_deblurring(shape: Shape, key: jax.Array) -> LinearOperator:
    size = max(61 * min(shape[:2]) // 256, 9)
    return Blur.create(shape, motion_kernel(key, min(size, _largest(shape)), 0.5))


def _largest(shape: Shape) -> int:
    """Return the largest odd kernel whose reflection fits into the image."""
    return 2 * (min(shape[:2]) - 1) + 1


TASKS: Mapping[str, Task] = {
    "super_resolution_x4": Restoration(
        summary="4 times fewer pixels a side, bicubic", operator=_super_resolution
    ),
    "random_inpainting": Restoration(
        summary="92 % of the pixels dropped at random",
        operator=_random_inpainting,
        drawn=True,
    ),
    "box_inpainting": Restoration(
        summary="a box of half the image dropped, in the middle",
        operator=_box_inpainting,
    ),
    "gaussian_deblurring": Restoration(
        summary="Gaussian blur", operator=_gaussian_deblurring
    ),
    "motion_deblurring": Restoration(
        summary="blur of a camera that moves, drawn at random",
        operator=_motion_deblurring,
        drawn=True,
    ),
    "class_guidance": Guidance(summary="an image of a class, by the digit classifier"),
}


def _as_it_is(prior: Any) -> Any:
    return prior


@dataclass(frozen=True)
class SolverChoice:
    """A solver with the settings of some source.

    Attributes:
        summary: one line for the user.
        build: `build(task name, prior, steps)`; `steps` is None for its own number.
        adapt: diffusion prior -> the prior that the solver takes.
    """

    summary: str
    build: Build
    adapt: Adapt = _as_it_is


def _doc(task: str, prior: Any, steps: int | None) -> Solver:
    return _with_steps(replace(DOC.default(), **TASKS[task].doc_settings), steps)


def _doc_paper(task: str, prior: Any, steps: int | None) -> Solver:
    return _with_steps(DOC.paper(task), steps)


def _doc_released(task: str, prior: Any, steps: int | None) -> Solver:
    return _with_steps(DOC.released_code(task), steps)


def _dps(task: str, prior: Any, steps: int | None) -> Solver:
    num_steps = _positive(steps, 1000)
    own = TASKS[task].dps_settings
    if own:
        return DPS(grid=ddpm(num_steps), **own)
    return DPS.released_code(task, num_steps=num_steps)


def _dps_paper(task: str, prior: Any, steps: int | None) -> Solver:
    return DPS.paper(task, num_steps=_positive(steps, 1000))


def _mcg(task: str, prior: Any, steps: int | None) -> Solver:
    return MCG.dps_paper(task, num_steps=_positive(steps, 1000))


def _by_levels(make: Callable[[int], Solver], default: int) -> Build:
    """Return a builder of a solver that depends on its number of levels alone."""

    def build(task: str, prior: Any, steps: int | None) -> Solver:
        return make(_positive(steps, default))

    return build


def _iterative(solver: Solver) -> Build:
    """Return a builder of a solver with its own number of iterations or another."""

    def build(task: str, prior: Any, steps: int | None) -> Solver:
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
        _by_levels(lambda n: DDNMPlus.released_code(num_steps=n), 100),
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
    "tmpd": SolverChoice(
        "TMPD with row sums", _by_levels(lambda n: TMPD(grid=ddpm(n)), 100)
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
