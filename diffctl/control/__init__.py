"""Optimal control of a discrete-time system x_{i+1} = f(i, x_i, u_i), one example.

An iterative-LQR library that knows nothing of images or diffusion. State a
`ControlProblem`, choose a backward pass (`DenseBackward`, `LowRankBackward`,
`AdjointBackward`, ...), an update rule (`LineSearch`, `OptaxUpdate`) and whether
pull-backs are recomputed or stored, and run `optimize`, or `TrajectoryOptimizer` step
by step. Every function is pure and works under jit, vmap and grad.
"""

from diffctl.control.adjoint import AdjointBackward as AdjointBackward
from diffctl.control.adjoint import GradientBackward as GradientBackward
from diffctl.control.adjoint import adjoint_pass as adjoint_pass
from diffctl.control.backward import BackwardPass as BackwardPass
from diffctl.control.ilqr import DenseBackward as DenseBackward
from diffctl.control.ilqr import exact_hessian as exact_hessian
from diffctl.control.iteration import IterationState as IterationState
from diffctl.control.iteration import IterationTrace as IterationTrace
from diffctl.control.iteration import TrajectoryOptimizer as TrajectoryOptimizer
from diffctl.control.iteration import optimize as optimize
from diffctl.control.linearisation import Linearisation as Linearisation
from diffctl.control.linearisation import Recompute as Recompute
from diffctl.control.linearisation import StorePullbacks as StorePullbacks
from diffctl.control.losses import ClassLoss as ClassLoss
from diffctl.control.losses import GaussianLoss as GaussianLoss
from diffctl.control.losses import HalfSquareLoss as HalfSquareLoss
from diffctl.control.losses import NormLoss as NormLoss
from diffctl.control.losses import OuterLoss as OuterLoss
from diffctl.control.lowrank_ilqr import LowRankBackward as LowRankBackward
from diffctl.control.lowrank_ilqr import gram_cholesky as gram_cholesky
from diffctl.control.lowrank_ilqr import stacked_qr as stacked_qr
from diffctl.control.policy import DenseGains as DenseGains
from diffctl.control.policy import FirstOrderGains as FirstOrderGains
from diffctl.control.policy import Gains as Gains
from diffctl.control.policy import LowRankGains as LowRankGains
from diffctl.control.policy import Policy as Policy
from diffctl.control.problem import ControlEnergy as ControlEnergy
from diffctl.control.problem import ControlProblem as ControlProblem
from diffctl.control.problem import input_control as input_control
from diffctl.control.problem import output_control as output_control
from diffctl.control.problem import running_total as running_total
from diffctl.control.problem import total_cost as total_cost
from diffctl.control.projected import ProjectedBackward as ProjectedBackward
from diffctl.control.projected import pulled_back_basis as pulled_back_basis
from diffctl.control.projected import random_basis as random_basis
from diffctl.control.rollout import Trajectory as Trajectory
from diffctl.control.rollout import feedback_rollout as feedback_rollout
from diffctl.control.rollout import record_rollout as record_rollout
from diffctl.control.rollout import rollout as rollout
from diffctl.control.rollout import steered_rollout as steered_rollout
from diffctl.control.terminal import ComposedCost as ComposedCost
from diffctl.control.terminal import ExactFactors as ExactFactors
from diffctl.control.terminal import NoFactors as NoFactors
from diffctl.control.terminal import RandomizedFactors as RandomizedFactors
from diffctl.control.terminal import TerminalFactors as TerminalFactors
from diffctl.control.terminal import gauss_newton_hessian as gauss_newton_hessian
from diffctl.control.update import LineSearch as LineSearch
from diffctl.control.update import OptaxUpdate as OptaxUpdate
from diffctl.control.update import UpdateRule as UpdateRule
from diffctl.control.values import Inconsistent as Inconsistent
from diffctl.control.values import LevenbergMarquardt as LevenbergMarquardt
from diffctl.control.values import Proximal as Proximal
from diffctl.control.values import ValueUpdate as ValueUpdate
