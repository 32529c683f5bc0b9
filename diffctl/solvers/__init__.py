"""Algorithms: each a recipe for the one loop in `driver`."""

from diffctl.solvers.batch import solve_batch as solve_batch
from diffctl.solvers.classical.admm import ADMM as ADMM
from diffctl.solvers.classical.chambolle_pock import ChambollePock as ChambollePock
from diffctl.solvers.classical.chambolle_pock import in_unit_range as in_unit_range
from diffctl.solvers.classical.hqs import HQS as HQS
from diffctl.solvers.classical.proximal_gradient import FISTA as FISTA
from diffctl.solvers.classical.proximal_gradient import ISTA as ISTA
from diffctl.solvers.classical.red import RED as RED
from diffctl.solvers.classical.tikhonov import Tikhonov as Tikhonov
from diffctl.solvers.classical.weights import (
    tune_weight_by_cross_validation as tune_weight_by_cross_validation,
)
from diffctl.solvers.classical.weights import (
    tune_weight_by_discrepancy as tune_weight_by_discrepancy,
)
from diffctl.solvers.clean_space.clean_laws import FrozenScore as FrozenScore
from diffctl.solvers.clean_space.clean_laws import NormalSurrogate as NormalSurrogate
from diffctl.solvers.clean_space.clean_laws import ScoreLaw as ScoreLaw
from diffctl.solvers.clean_space.curvature import NoCurvature as NoCurvature
from diffctl.solvers.clean_space.curvature import PowerIteration as PowerIteration
from diffctl.solvers.clean_space.daps import DAPS as DAPS
from diffctl.solvers.clean_space.daps import daps_grid as daps_grid
from diffctl.solvers.clean_space.dds import DDS as DDS
from diffctl.solvers.clean_space.diffpir import BackProjection as BackProjection
from diffctl.solvers.clean_space.diffpir import DiffPIR as DiffPIR
from diffctl.solvers.clean_space.diffpir import NoisyState as NoisyState
from diffctl.solvers.clean_space.diffpir import quadratic_grid as quadratic_grid
from diffctl.solvers.clean_space.first_order import (
    FirstOrderDiffPIR as FirstOrderDiffPIR,
)
from diffctl.solvers.clean_space.flows import FlowToClean as FlowToClean
from diffctl.solvers.clean_space.flows import FlowToLevel as FlowToLevel
from diffctl.solvers.clean_space.inner_samplers import ExactDraw as ExactDraw
from diffctl.solvers.clean_space.inner_samplers import (
    HamiltonianMonteCarlo as HamiltonianMonteCarlo,
)
from diffctl.solvers.clean_space.inner_samplers import Langevin as Langevin
from diffctl.solvers.clean_space.inner_samplers import (
    MetropolisHastings as MetropolisHastings,
)
from diffctl.solvers.clean_space.inner_samplers import (
    UnderdampedLangevin as UnderdampedLangevin,
)
from diffctl.solvers.clean_space.penalties import BayesianPenalty as BayesianPenalty
from diffctl.solvers.clean_space.penalties import ConstantPenalty as ConstantPenalty
from diffctl.solvers.clean_space.red_diff import REDDiff as REDDiff
from diffctl.solvers.clean_space.red_diff_terms import (
    averaged_residual as averaged_residual,
)
from diffctl.solvers.clean_space.red_diff_terms import (
    negative_log_likelihood as negative_log_likelihood,
)
from diffctl.solvers.clean_space.red_diff_terms import (
    squared_residual as squared_residual,
)
from diffctl.solvers.clean_space.step_sizes import DecayingStep as DecayingStep
from diffctl.solvers.clean_space.step_sizes import RelativeStep as RelativeStep
from diffctl.solvers.conjugate_expanded import (
    ExpandedConjugatePiGDM as ExpandedConjugatePiGDM,
)
from diffctl.solvers.conjugate_pigdm import ConjugatePiGDM as ConjugatePiGDM
from diffctl.solvers.conjugate_pigdm import NoisyConjugatePiGDM as NoisyConjugatePiGDM
from diffctl.solvers.conjugate_pigdm import (
    NonlinearConjugatePiGDM as NonlinearConjugatePiGDM,
)
from diffctl.solvers.costs import likelihood as likelihood
from diffctl.solvers.costs import residual_norm as residual_norm
from diffctl.solvers.ddnm import DDNM as DDNM
from diffctl.solvers.ddnm import DDNMPlus as DDNMPlus
from diffctl.solvers.ddnm import SimplifiedDDNMPlus as SimplifiedDDNMPlus
from diffctl.solvers.ddrm import DDRM as DDRM
from diffctl.solvers.ddrm import consistent_prediction as consistent_prediction
from diffctl.solvers.ddrm import last_prediction as last_prediction
from diffctl.solvers.doc import DOC as DOC
from diffctl.solvers.dps import DPS as DPS
from diffctl.solvers.driver import check as check
from diffctl.solvers.driver import solve as solve
from diffctl.solvers.first_guess import GuidedControls as GuidedControls
from diffctl.solvers.first_guess import NoControls as NoControls
from diffctl.solvers.generative.chains import DensityChain as DensityChain
from diffctl.solvers.generative.chains import LatentChain as LatentChain
from diffctl.solvers.generative.density_map import DensityMAP as DensityMAP
from diffctl.solvers.generative.joint_map import JointMAP as JointMAP
from diffctl.solvers.generative.latent_map import FlowMAP as FlowMAP
from diffctl.solvers.generative.latent_map import LatentMAP as LatentMAP
from diffctl.solvers.generative.starts import normal_start as normal_start
from diffctl.solvers.generative.starts import pinv_start as pinv_start
from diffctl.solvers.generative.starts import zero_start as zero_start
from diffctl.solvers.generative.tuning import tune_step_size as tune_step_size
from diffctl.solvers.ilvr import ILVR as ILVR
from diffctl.solvers.ilvr import cubic_upsampling as cubic_upsampling
from diffctl.solvers.ilvr import nearest_upsampling as nearest_upsampling
from diffctl.solvers.ilvr import pseudo_inverse as pseudo_inverse
from diffctl.solvers.kernels import HMC as HMC
from diffctl.solvers.kernels import MALA as MALA
from diffctl.solvers.kernels import Unadjusted as Unadjusted
from diffctl.solvers.latent.consistency import (
    ConsistencyRestoration as ConsistencyRestoration,
)
from diffctl.solvers.latent.consistency import ProjectionStep as ProjectionStep
from diffctl.solvers.latent.consistency import ProximalStep as ProximalStep
from diffctl.solvers.latent.dmplug import DMPlug as DMPlug
from diffctl.solvers.latent.flash import FlashDiffusion as FlashDiffusion
from diffctl.solvers.latent.guided import GMLDPS as GMLDPS
from diffctl.solvers.latent.guided import LDPS as LDPS
from diffctl.solvers.latent.optimisation import ConsistencyCSGM as ConsistencyCSGM
from diffctl.solvers.latent.optimisation import SamplerCSGM as SamplerCSGM
from diffctl.solvers.latent.psld import PSLD as PSLD
from diffctl.solvers.latent.resample import ReSample as ReSample
from diffctl.solvers.latent.stopping import LastIterate as LastIterate
from diffctl.solvers.latent.stopping import MovingVariance as MovingVariance
from diffctl.solvers.latent.stsl import STSL as STSL
from diffctl.solvers.latent.wrapped import InLatentSpace as InLatentSpace
from diffctl.solvers.mcg import MCG as MCG
from diffctl.solvers.monte_carlo.annealed import AnnealedMCMC as AnnealedMCMC
from diffctl.solvers.monte_carlo.ddsmc import DDSMC as DDSMC
from diffctl.solvers.monte_carlo.ddsmc import PartialRenoise as PartialRenoise
from diffctl.solvers.monte_carlo.fps_smc import FPSSMC as FPSSMC
from diffctl.solvers.monte_carlo.gibbs_schedule import GibbsSchedule as GibbsSchedule
from diffctl.solvers.monte_carlo.likelihood_steps import (
    LangevinLikelihood as LangevinLikelihood,
)
from diffctl.solvers.monte_carlo.likelihood_steps import (
    PerturbedLikelihood as PerturbedLikelihood,
)
from diffctl.solvers.monte_carlo.likelihood_steps import (
    SpectralLikelihood as SpectralLikelihood,
)
from diffctl.solvers.monte_carlo.mcgdiff import MCGdiff as MCGdiff
from diffctl.solvers.monte_carlo.memory import forecast_memory as forecast_memory
from diffctl.solvers.monte_carlo.particles import Particles as Particles
from diffctl.solvers.monte_carlo.particles import particles as particles
from diffctl.solvers.monte_carlo.resampling import NeverResample as NeverResample
from diffctl.solvers.monte_carlo.resampling import ResampleAlways as ResampleAlways
from diffctl.solvers.monte_carlo.resampling import (
    ResampleWhenDegenerate as ResampleWhenDegenerate,
)
from diffctl.solvers.monte_carlo.resampling import multinomial as multinomial
from diffctl.solvers.monte_carlo.resampling import systematic as systematic
from diffctl.solvers.monte_carlo.split_gibbs import PnPDM as PnPDM
from diffctl.solvers.monte_carlo.tds import TDS as TDS
from diffctl.solvers.monte_carlo.twists import IsotropicTwist as IsotropicTwist
from diffctl.solvers.monte_carlo.twists import PlainTwist as PlainTwist
from diffctl.solvers.monte_carlo.twists import SpectralTwist as SpectralTwist
from diffctl.solvers.pigdm import NoiselessPiGDM as NoiselessPiGDM
from diffctl.solvers.pigdm import NonlinearPiGDM as NonlinearPiGDM
from diffctl.solvers.pigdm import PiGDM as PiGDM
from diffctl.solvers.progress import listen as listen
from diffctl.solvers.score_sde import ScoreSDE as ScoreSDE
from diffctl.solvers.stepwise import SolveState as SolveState
from diffctl.solvers.stepwise import solve_stepwise as solve_stepwise
from diffctl.solvers.tmpd import TMPD as TMPD
from diffctl.solvers.tmpd import DiagonalMoment as DiagonalMoment
from diffctl.solvers.tmpd import FullMoment as FullMoment
from diffctl.solvers.tmpd import HutchinsonMoment as HutchinsonMoment
from diffctl.solvers.tmpd import RowSums as RowSums
from diffctl.solvers.travel import TimeTravel as TimeTravel
from diffctl.solvers.travel import forward_noise as forward_noise
from diffctl.solvers.travel import renoise_prediction as renoise_prediction
from diffctl.solvers.variational.amortised import AmortisedMean as AmortisedMean
from diffctl.solvers.variational.amortised import AmortisedSample as AmortisedSample
from diffctl.solvers.variational.amortised import (
    ConditionalSampling as ConditionalSampling,
)
from diffctl.solvers.variational.amortised import (
    measurement_features as measurement_features,
)
from diffctl.solvers.variational.amortised import pinv_features as pinv_features
from diffctl.solvers.variational.families import AntitheticDraws as AntitheticDraws
from diffctl.solvers.variational.families import CubaturePoints as CubaturePoints
from diffctl.solvers.variational.families import FlowFamily as FlowFamily
from diffctl.solvers.variational.families import FullCovariance as FullCovariance
from diffctl.solvers.variational.families import MeanField as MeanField
from diffctl.solvers.variational.reverse_kl import (
    VariationalPosterior as VariationalPosterior,
)
