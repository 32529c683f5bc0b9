"""Algorithms: each a recipe for the one loop in `driver`."""

from diffctl.solvers.batch import solve_batch as solve_batch
from diffctl.solvers.costs import likelihood as likelihood
from diffctl.solvers.costs import residual_norm as residual_norm
from diffctl.solvers.doc import DOC as DOC
from diffctl.solvers.dps import DPS as DPS
from diffctl.solvers.driver import check as check
from diffctl.solvers.driver import solve as solve
from diffctl.solvers.first_guess import GuidedControls as GuidedControls
from diffctl.solvers.first_guess import NoControls as NoControls
from diffctl.solvers.progress import listen as listen
from diffctl.solvers.stepwise import SolveState as SolveState
from diffctl.solvers.stepwise import solve_stepwise as solve_stepwise
