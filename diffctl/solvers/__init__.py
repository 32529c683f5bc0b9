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
from diffctl.solvers.ilvr import ILVR as ILVR
from diffctl.solvers.ilvr import cubic_upsampling as cubic_upsampling
from diffctl.solvers.ilvr import pseudo_inverse as pseudo_inverse
from diffctl.solvers.mcg import MCG as MCG
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
