"""Inverse problems with diffusion priors and optimal control, in JAX.

    solution = diffctl.solve(key, problem, prior, solver)

Names are loaded on first use, so that importing the package costs next to nothing on
top of JAX.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffctl import assets as assets
    from diffctl import control as control
    from diffctl import diffusion as diffusion
    from diffctl import metrics as metrics
    from diffctl import nets as nets
    from diffctl import numerics as numerics
    from diffctl import operators as operators
    from diffctl import priors as priors
    from diffctl import solvers as solvers
    from diffctl.core import Calls as Calls
    from diffctl.core import DiffusionPrior as DiffusionPrior
    from diffctl.core import Solution as Solution
    from diffctl.core import Solver as Solver
    from diffctl.core import Stats as Stats
    from diffctl.core import Status as Status
    from diffctl.diffusion import grids as grids
    from diffctl.diffusion.sample import sample as sample
    from diffctl.operators.base import Problem as Problem
    from diffctl.operators.base import simulate as simulate
    from diffctl.operators.noise import Categorical as Categorical
    from diffctl.operators.noise import GaussianNoise as GaussianNoise
    from diffctl.operators.noise import PoissonNoise as PoissonNoise
    from diffctl.pytree import axes as axes
    from diffctl.solvers.batch import solve_batch as solve_batch
    from diffctl.solvers.driver import check as check
    from diffctl.solvers.driver import solve as solve
    from diffctl.solvers.progress import listen as listen
    from diffctl.solvers.stepwise import solve_stepwise as solve_stepwise

__version__ = "0.1.0"

_ROOMS = (
    "assets",
    "control",
    "diffusion",
    "metrics",
    "nets",
    "numerics",
    "operators",
    "priors",
    "solvers",
)
_HOMES = {
    "Calls": "core",
    "Categorical": "operators",
    "DiffusionPrior": "core",
    "GaussianNoise": "operators",
    "PoissonNoise": "operators",
    "Problem": "operators",
    "Solution": "core",
    "Solver": "core",
    "Stats": "core",
    "Status": "core",
    "axes": "pytree",
    "check": "solvers",
    "grids": "diffusion",
    "listen": "solvers",
    "sample": "diffusion",
    "simulate": "operators",
    "solve": "solvers",
    "solve_batch": "solvers",
    "solve_stepwise": "solvers",
}
__all__ = ["__version__", *_ROOMS, *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return _import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(_import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
