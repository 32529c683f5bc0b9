"""`diffctl selfcheck`: every line compares a computation with what is known exactly."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from rich.table import Table
from rich.text import Text

from diffctl.cli import exact_checks, network_checks
from diffctl.cli.exact_checks import Finding
from diffctl.cli.options import SelfCheck
from diffctl.cli.terminal import Outcome, Terminal

CHECKS: Mapping[str, Callable[[], Finding]] = {
    "DOC, one iteration: closed form of LQR": exact_checks.doc_is_lqr,
    "DPS, Gaussian prior: affine recursion": exact_checks.dps_is_affine,
    "Heun: exact flow of a Gaussian": exact_checks.heun_follows_the_flow,
    "Ancestral sampling: exact moments": exact_checks.ancestral_moments,
    "Gaussian posterior: normal equations": exact_checks.gaussian_posterior,
    "Conditional score: Bayes' rule": exact_checks.conditional_score,
    "Adjoints of the tasks: dot test": exact_checks.task_adjoints,
    "Shipped prior: denoising error as recorded": network_checks.prior_as_recorded,
    "Shipped classifier: share of digits missed": network_checks.classifier_errors,
}


def run(command: SelfCheck, terminal: Terminal) -> Outcome:
    """Run all checks; the exit code is 1 if an error exceeds its bound."""
    lines: list[dict[str, Any]] = []
    with terminal.progress() as progress:
        bar = progress.add_task("checking", total=len(CHECKS))
        for name, check in CHECKS.items():
            progress.update(bar, description=name)
            started = time.perf_counter()
            finding = _measure(check)
            lines.append(_line(name, finding, time.perf_counter() - started))
            progress.advance(bar)
    terminal.out.print(_table(lines))
    failed = [line["check"] for line in lines if not line["ok"]]
    terminal.out.print(f"{len(failed)} of {len(lines)} checks failed.")
    return Outcome({"checks": lines, "failed": len(failed)}, code=1 if failed else 0)


def _measure(check: Callable[[], Finding]) -> Finding:
    """Run a check in double precision; a check that raises has failed."""
    try:
        with jax.enable_x64(True):
            return check()
    except Exception as error:  # a broken installation may raise anything
        return Finding(float("inf"), 0.0, f"{type(error).__name__}: {error}")


def _line(name: str, finding: Finding, seconds: float) -> dict[str, Any]:
    found = finding.error < float("inf")
    return {
        "check": name,
        "error": finding.error if found else None,
        "bound": finding.bound,
        "unit": finding.unit,
        "ok": finding.error <= finding.bound,
        "seconds": round(seconds, 2),
    }


def _table(lines: list[dict[str, Any]]) -> Table:
    table = Table(title="diffctl selfcheck", title_justify="left", header_style="bold")
    for name in ("check", "error", "bound", "in", "", "s"):
        table.add_column(
            name, justify="right" if name in ("error", "bound", "s") else "left"
        )
    for line in lines:
        error = "none" if line["error"] is None else f"{line['error']:.2g}"
        verdict = Text("ok", "green") if line["ok"] else Text("FAILED", "bold red")
        table.add_row(
            line["check"],
            error,
            f"{line['bound']:.2g}",
            line["unit"],
            verdict,
            f"{line['seconds']:.1f}",
        )
    return table
