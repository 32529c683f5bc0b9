"""The command line as a whole: exit codes, errors, `list`, `selfcheck`."""

import inspect
import json
import os
import subprocess
import sys

import pytest

import diffctl
from diffctl import operators
from diffctl.cli import exact_checks, main, network_checks, selfcheck
from diffctl.cli.exact_checks import Finding
from diffctl.cli.solver_table import SOLVERS
from diffctl.cli.task_table import TASKS
from diffctl.core import Solver
from tests.source import ROOT


def test_usage_errors_exit_with_two(capsys):
    for arguments in ([], ["frobnicate"], ["demo", "--digits", "many"], ["train"]):
        with pytest.raises(SystemExit) as stop:
            main.main(arguments)
        assert stop.value.code == 2
    capsys.readouterr()


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for command in ("demo", "reconstruct", "selfcheck", "train", "list"):
        assert command in text


def test_list_is_complete(capsys):
    assert main.main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    solvers = {row["solver"]: row for row in listed["solvers"]}
    exported = {
        name
        for name, cls in vars(diffctl.solvers).items()
        if inspect.isclass(cls) and issubclass(cls, Solver) and cls is not Solver
    }
    assert solvers.keys() == exported > {"DOC", "DPS"}
    for row in solvers.values():
        assert all(row.values()), row
    needs = {name: row["needs"] for name, row in solvers.items()}
    assert needs["DAPS"] == "-"
    assert needs["DDRM"] == "singular system"
    assert needs["LDPS"] == "network gradients"
    assert needs["PSLD"] == "linear, adjoint, network gradients, encoder"
    names = {row["operator"] for row in listed["operators"]}
    for name in ("Mask", "Blur", "CircularBlur", "DenseMatrix", "Classifier", "Stack"):
        assert name in names
        assert hasattr(operators, name)
    assert not names & {"Operator", "LinearOperator", "SpectralOperator"}
    assert [row["name"] for row in listed["tasks"]] == list(TASKS)
    assert [row["name"] for row in listed["settings"]] == list(SOLVERS)
    assert main.main(["list"]) == 0
    assert "Diffusion" in capsys.readouterr().out


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_errors_are_one_line_and_a_document_for_machines(capsys, json_flag):
    assert main.main(["demo", "--digits", "0", *json_flag]) == 2
    captured = capsys.readouterr()
    assert captured.err == (
        "diffctl: error: --digits is 0; expected a whole number from 1 to 32.\n"
    )
    if json_flag:
        assert "--digits" in json.loads(captured.out)["error"]
    else:
        assert captured.out == ""


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="--digits"):
        main.main(["demo", "--digits", "0", "--debug"])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt("Kept."), 130, "interrupted. Kept."),
        (FloatingPointError("NaN everywhere"), 1, "NaN everywhere"),
        (ModuleNotFoundError(name="matplotlib"), 2, "diffctl[report]"),
        (OSError(28, "No space left"), 2, "No space left"),
    ],
)
def test_what_goes_wrong_gives_its_exit_code(monkeypatch, capsys, error, code, message):
    def fail(command, terminal):
        raise error

    monkeypatch.setattr(selfcheck, "run", fail)
    assert main.main(["selfcheck"]) == code
    assert message in capsys.readouterr().err


def test_selfcheck_fails_if_a_check_does(monkeypatch, capsys):
    def broken():
        raise RuntimeError("no such thing")

    checks = {"good": lambda: Finding(1e-12, 1e-9, "relative")}
    monkeypatch.setattr(selfcheck, "CHECKS", checks)
    assert main.main(["selfcheck"]) == 0
    checks |= {"bad": lambda: Finding(1.0, 1e-9, "relative"), "broken": broken}
    checks["nan"] = lambda: Finding(float("nan"), 1e-9, "relative")
    monkeypatch.setattr(selfcheck, "CHECKS", checks)
    capsys.readouterr()
    assert main.main(["selfcheck", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    verdicts = {line["check"]: line["ok"] for line in result["checks"]}
    assert verdicts == {"good": True, "bad": False, "broken": False, "nan": False}
    assert result["failed"] == 3
    assert "no such thing" in result["checks"][2]["unit"]


@pytest.mark.parametrize("name", selfcheck.CHECKS)
def test_every_check_passes(name):
    # Findings: the linear-algebra checks err by 1e-15 to 1e-13, bounds 1e-12 to 1e-9.
    finding = selfcheck._measure(selfcheck.CHECKS[name])
    assert finding.error <= finding.bound, finding


def test_a_wrong_solver_does_not_pass(monkeypatch):
    """The closed form belongs to the weight; another weight must be noticed."""
    monkeypatch.setattr(exact_checks, "solve", _solve_with_half_the_weight)
    finding = selfcheck._measure(exact_checks.doc_is_lqr)
    assert finding.bound < finding.error < 1


def _solve_with_half_the_weight(key, problem, prior, solver):
    from dataclasses import replace

    from diffctl.solvers import solve

    changed = replace(solver, control_weight=solver.control_weight / 2)
    return solve(key, problem, prior, changed)


def test_a_prior_without_a_record_does_not_pass(monkeypatch):
    monkeypatch.setattr(network_checks.assets, "notes", lambda name: {})
    finding = selfcheck._measure(network_checks.prior_as_recorded)
    assert finding.error > finding.bound
    assert "records no denoising error" in finding.unit


def test_the_module_runs_as_a_program():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "diffctl.cli", "demo", "--digits", "99"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
