"""Runs go on where they ended, and their numbers do not depend on how they were cut."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import pytest

from diffctl.cli.terminal import Terminal
from diffctl.diffusion import karras
from diffctl.solvers import DOC, solve
from experiments.common import Measure, Results, command, run_rows, summarise
from experiments.common.runner import solver_key
from experiments.common.solving import Cost, count_calls
from tests.experiments.conftest import LEVELS
from tests.tolerances import REORDER32


def run(row, out, count, chunk, seed=0):
    return run_rows(
        [row], Results(out), Terminal(), seed=seed, count=count, chunk=chunk
    )


def numbers(out, name):
    found = {}
    for record in Results(out).records():
        found |= dict(zip(record["ids"], record["images"][name], strict=True))
    return [found[i] for i in sorted(found)]


def test_a_run_is_resumed_and_extended(row, tmp_path):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert run(row, whole, count=3, chunk=3) == 1
    assert run(row, pieces, count=1, chunk=1) == 1
    before = {path: path.stat().st_mtime_ns for path in pieces.rglob("*.json")}
    assert run(row, pieces, count=1, chunk=8) == 0
    assert run(row, pieces, count=3, chunk=2) == 1
    assert before.items() <= {
        (path, path.stat().st_mtime_ns) for path in pieces.rglob("*.json")
    }
    np.testing.assert_allclose(
        numbers(pieces, "psnr"), numbers(whole, "psnr"), **REORDER32
    )
    assert not list(pieces.rglob(".*"))


def test_a_record_says_how_it_was_made(row, tmp_path):
    run(row, tmp_path, count=2, chunk=2)
    (record,) = Results(tmp_path).records()
    assert record["ids"] == [0, 1]
    assert record["images"]["forwards"] == record["images"]["vjps"] == [LEVELS] * 2
    assert record["images"]["status"] == [0, 0]
    assert record["seconds"] > 0 and record["compiling_seconds"] > 0
    assert {"noise_std", "seed", "key", "prior", "solver"} <= record["settings"].keys()
    assert {"versions", "machine", "revision"} == record["environment"].keys()
    examples = row.examples(np.array([1]))
    problem = replace(examples.problems, y=examples.problems.y[0])
    alone = solve(jax.random.fold_in(solver_key(0), 1), problem, row.prior, row.solver)
    np.testing.assert_allclose(
        record["images"]["psnr"][1],
        examples.score(alone.x[None])["psnr"][0],
        **REORDER32,
    )


def test_other_settings_are_refused(row, tmp_path):
    run(row, tmp_path, count=1, chunk=1)
    changed = replace(row, solver=replace(row.solver, guidance_scale=0.7))
    with pytest.raises(ValueError, match=r"other settings \(solver"):
        run(changed, tmp_path, count=2, chunk=1)
    with pytest.raises(ValueError, match="seed"):
        run(row, tmp_path, count=2, chunk=1, seed=1)
    with pytest.raises(ValueError, match="--count is 0; expected a whole number >= 1"):
        run(row, tmp_path, count=0, chunk=1)


@dataclass(frozen=True)
class Options:
    out: Path


def test_interruption_keeps_what_is_done(row, tmp_path, capsys):
    def stopping(ids):
        if 1 in ids:
            raise KeyboardInterrupt
        return row.examples(ids)

    def compute(options, terminal):
        run(replace(row, examples=stopping), options.out, count=3, chunk=1)

    given = ["--out", str(tmp_path)]
    code = command("name", Options, compute, lambda results: "", given)
    assert code == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(Results(tmp_path).records()) == 1
    assert run(row, tmp_path, count=3, chunk=1) == 2


def test_two_runs_do_not_fill_one_folder(row, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["--out", str(out)]

    def compute(options, terminal):
        assert command("name", Options, pytest.fail, lambda results: "", given) == 2
        run(row, options.out, count=1, chunk=1)

    assert command("name", Options, compute, lambda results: "", given) == 0
    assert "another run" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["results"]

    def wrong(options, terminal):
        raise ValueError("--count is 0")

    given[-1] += "/in/vain"
    assert command("name", Options, wrong, lambda results: "", given) == 2
    assert [path.name for path in out.iterdir()] == ["results"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"labels": {}}', "{"])
def test_files_that_are_no_results_are_told(row, tmp_path, text):
    run(row, tmp_path, count=1, chunk=1)
    (path,) = tmp_path.glob("results/*/*.json")
    path.write_text(text)
    with pytest.raises(ValueError, match=r"00000-00000\.json .*delete it"):
        run(row, tmp_path, count=2, chunk=1)
    with pytest.raises(ValueError, match=r"00000-00000\.json .*delete it"):
        Results(tmp_path).records()


def test_the_table_alone(row, tmp_path, capsys):
    run(row, tmp_path, count=2, chunk=2)
    given = ["table", "--out", str(tmp_path)]

    def render(results):
        (row,) = summarise(results.records(), [Measure("psnr", "PSNR", 1)])
        return json.dumps(row.to_json())

    assert command("name", Options, pytest.fail, render, given) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
    given[-1] += "/absent"
    assert command("name", Options, pytest.fail, render, given) == 2
    assert "no results" in capsys.readouterr().err


def test_calls_are_those_of_the_solver(row):
    assert count_calls(row.solver) == Cost(forwards=LEVELS, vjps=LEVELS)
    doc = DOC(grid=karras(LEVELS, 0.1, 10.0), num_steps=2)
    expected = Cost(forwards=LEVELS * (3 + 2 * 2), vjps=LEVELS * (1 + 2))
    assert count_calls(doc) == expected
    assert expected.seconds((1.0, 2.0)) == LEVELS * 7 + 2 * LEVELS * 3
