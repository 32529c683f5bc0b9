"""`diffctl list`: read from the code what there is, what it needs and what it costs."""

import inspect
from typing import Any

from rich.table import Table

from diffctl import operators
from diffctl.cli.options import List
from diffctl.cli.solver_table import SOLVERS
from diffctl.cli.task_table import TASKS
from diffctl.cli.terminal import Outcome, Terminal
from diffctl.core import AutoencodingPrior, EncodedPrior, Solver
from diffctl.operators import LinearOperator, Operator, SpectralOperator
from diffctl.solvers.requirements import solver_classes

TITLES = {
    "solvers": "Solvers (n iterations, T noise levels, N particles)",
    "settings": "Settings of solvers, for --solver",
    "operators": "Operators",
    "tasks": "Tasks, for --task",
}

# Columns that fit a terminal of 80 characters side by side, for the widest table.
GROUPS = {
    "solvers": [("operator", "prior", "noise"), ("needs", "cost"), ("reference",)]
}


def run(command: List, terminal: Terminal) -> Outcome:
    """Print the tables, or return them as JSON."""
    result = contents()
    if command.markdown:
        terminal.out.print(markdown(result), soft_wrap=True, markup=False)
    else:
        for name, title in TITLES.items():
            for part in _parts(result[name], GROUPS.get(name)):
                terminal.out.print(_table(title, part))
    return Outcome(result)


def contents() -> dict[str, list[dict[str, str]]]:
    """Return what the package offers, as tables of rows."""
    return {
        "solvers": _solvers(),
        "settings": [
            {"name": name, "summary": choice.summary}
            for name, choice in SOLVERS.items()
        ],
        "operators": _operators(),
        "tasks": [
            {"name": name, "summary": task.summary} for name, task in TASKS.items()
        ],
    }


def markdown(tables: dict[str, list[dict[str, str]]]) -> str:
    """Return the tables in Markdown."""
    parts = []
    for name, title in TITLES.items():
        rows = tables[name]
        lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"**{title}**\n\n{table}")
    return "\n\n".join(parts)


def _solvers() -> list[dict[str, str]]:
    return [
        {
            "solver": cls.__name__,
            "operator": cls.requires[0].__name__,
            "prior": cls.requires[1].__name__,
            "noise": _noise(cls.requires_noise),
            "needs": _needs(cls),
            "cost": cls.cost_formula,
            "reference": cls.reference,
        }
        for cls in solver_classes()
        if cls.__module__.startswith("diffctl.")
    ]


def _needs(cls: type[Solver]) -> str:
    """Return what must exist for a solver to run, besides operator and prior."""
    operator, prior = cls.requires
    needs = []
    if issubclass(operator, SpectralOperator):
        needs = ["singular system"]
    elif issubclass(operator, LinearOperator):
        needs = ["linear, adjoint"]
    if "VJP" in cls.cost_formula:
        needs.append("network gradients")
    if "h_pinv" in inspect.signature(cls).parameters:
        needs.append("h_pinv of one's own")
    if issubclass(prior, EncodedPrior | AutoencodingPrior):
        needs.append("encoder")
    return ", ".join(needs) or "-"


def _operators() -> list[dict[str, str]]:
    found = {
        name: cls
        for name, cls in vars(operators).items()
        if inspect.isclass(cls)
        and issubclass(cls, Operator)
        and not inspect.isabstract(cls)
    }
    return [
        {"operator": name, "kind": _kind(cls), "summary": _first_line(cls)}
        for name, cls in sorted(found.items())
    ]


def _noise(needed: type) -> str:
    return "any" if needed is object else needed.__name__


def _kind(cls: type) -> str:
    kinds = (SpectralOperator, LinearOperator, Operator)
    return next(kind.__name__ for kind in kinds if issubclass(cls, kind))


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n", 1)[0]


def _parts(
    rows: list[dict[str, str]], groups: list[tuple[str, ...]] | None
) -> list[list[dict[str, str]]]:
    """Return rows as several tables, each with the first column and a group."""
    if groups is None:
        return [rows]
    name = next(iter(rows[0]))
    return [[{k: row[k] for k in (name, *group)} for row in rows] for group in groups]


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for place, name in enumerate(rows[0]):
        table.add_column(name, overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*row.values())
    return table
