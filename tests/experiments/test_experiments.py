"""The experiments themselves: what they pose, and a tiny one from end to end."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl import assets
from diffctl.cli.solver_table import SOLVERS
from diffctl.metrics import psnr
from diffctl.nets import Architecture
from diffctl.priors import EDMPreconditioning, NetworkPrior
from experiments.common import Restorations
from experiments.common.restoration import RESTORATIONS
from experiments.common.solving import count_calls
from experiments.digits.__main__ import Run, rows
from experiments.digits.__main__ import main as digits
from experiments.digits.budgets import solver_within
from experiments.robustness.__main__ import main as robustness
from experiments.robustness.studies import random_network
from tests.tolerances import EXACT32, REORDER32


def restorations(task: str) -> Restorations:
    images, labels = assets.test_digits()
    classifier, key = assets.digits_classifier(), jax.random.key(3)
    return Restorations(task, images, labels, classifier, 0.05, key)


def test_measurements_depend_on_the_image_alone():
    for task in ("random_inpainting", "gaussian_deblurring"):
        pose = restorations(task)
        few, more = pose(np.array([2])).problems, pose(np.array([1, 2, 5])).problems
        chex.assert_trees_all_equal(few.y[0], more.y[1])
    masks = restorations("random_inpainting")(np.array([1, 2])).problems.operator.mask
    assert jnp.any(masks[0] != masks[1])
    assert jnp.all(masks.sum((1, 2, 3)) == 784 - int(784 * 0.92))


def test_the_truth_scores_as_it_should():
    examples = restorations("random_inpainting")(np.arange(8))
    images, _ = assets.test_digits()
    truth = jnp.asarray(images[:8])
    scores = examples.score(0.9 * truth)
    chex.assert_trees_all_close(
        scores["psnr"], jax.vmap(psnr)(0.9 * truth, truth), **REORDER32
    )
    problems = examples.problems
    residual = (problems.operator.mask * 0.9 * truth - problems.y) / 0.05
    observed = problems.operator.mask.sum((1, 2, 3))
    chex.assert_trees_all_close(
        scores["misfit"], (residual**2).sum((1, 2, 3)) / observed, **REORDER32
    )
    assert jnp.mean(examples.score(truth)["recognised"]) > 0.8
    # 8 x 63 squared standard normals: standard error sqrt(2 / 504) = 0.06.
    assert abs(float(jnp.mean(examples.score(truth)["misfit"])) - 1) < 0.25


def test_every_restoration_meets_every_solver(tmp_path):
    data = tmp_path / "data.npz"
    images = np.zeros((2, 28, 28, 1), np.uint8)
    np.savez(data, x_test=images, y_test=np.zeros(2, np.uint8))
    made = rows(Run(data=data, out=tmp_path, count=2))
    names = {(row.labels["task"], row.labels["solver"]) for row in made}
    assert len(names) == len(made) == 4 * len(RESTORATIONS) == 20
    assert {solver for _, solver in names} <= SOLVERS.keys()


@pytest.mark.parametrize("name", ["doc", "dmplug", "mcgdiff"])
def test_a_budget_is_used_up_but_not_exceeded(name):
    adapt = SOLVERS[name].adapt
    for budget in (100, 300):
        solver = solver_within(str(budget), name, "random_inpainting")
        if name == "mcgdiff" and budget == 100:
            assert solver is None  # four levels for 64 particles are 256 calls
            continue
        calls = count_calls(solver, adapt).calls
        per_step = {"doc": 7, "dmplug": 6, "mcgdiff": 64}[name]
        assert budget - per_step < calls <= budget


def test_a_grid_that_divides_the_schedule_has_as_many_levels_as_it_can():
    for budget, levels in {"100": 100, "300": 250, "1000": 1000}.items():
        solver = solver_within(budget, "ddnm", "box_inpainting")
        assert solver.grid.num_steps == levels


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_has_a_budget(name):
    adapt = SOLVERS[name].adapt
    for budget in (100, 300, 1000):
        solver = solver_within(str(budget), name, "super_resolution_x4")
        if solver is not None:
            assert budget / 2 <= count_calls(solver, adapt).calls <= budget


def test_budgets_that_are_none():
    task = "random_inpainting"
    assert solver_within("100", "tikhonov", task) is None  # calls no network
    own = solver_within("own", "dds", task)
    assert own.grid.num_steps == 50
    for wrong in ("0", "-3", "all", "1.5"):
        with pytest.raises(ValueError, match="positive number of calls"):
            solver_within(wrong, "dds", task)


def test_what_a_solver_cannot_take_is_left_out(tmp_path, capsys):
    data = tmp_path / "data.npz"
    np.savez(data, x_test=np.zeros((1, 28, 28, 1), np.uint8), y_test=[0])
    given = ["--data", str(data), "--out", str(tmp_path / "out"), "--count", "1"]
    given += ["--solvers", "ddrm", "tikhonov", "--tasks", "motion_deblurring"]
    assert digits(given) == 0
    text = capsys.readouterr()
    assert "motion_deblurring ddrm own: left out" in text.err
    assert "| motion_deblurring | tikhonov | own |" in text.out
    assert "ddrm" not in text.out
    assert "Figures: psnr_by_calls.png" in text.out
    assert (tmp_path / "out" / "psnr_by_calls.png").read_bytes()[:4] == b"\x89PNG"


def test_an_untrained_network_is_no_gaussian():
    small = {"widths": (4,), "blocks": (1,), "embedding": 8, "groups": 2, "heads": 1}
    architecture = Architecture.of("unet", channels=1, **small)
    like = NetworkPrior.create(
        architecture,
        (8, 8, 1),
        key=jax.random.key(2),
        preconditioning=EDMPreconditioning(sigma_data=1.0),
    )
    prior = random_network(like, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(prior.net, like.net)
    x = jax.random.normal(jax.random.key(1), prior.shape)
    network = prior.denoise(x, jnp.asarray(1.0)) - 0.5 * x  # c_skip = 1 / 2
    assert 0.05 < float(jnp.std(network)) < 5


def test_the_robustness_experiment_on_the_mixture(tmp_path, capsys):
    given = f"--out {tmp_path} --studies mixture --count 2 --levels 4".split()
    assert robustness(given) == 0
    text = capsys.readouterr()
    assert "2 files to compute" in text.err
    assert text.out == (tmp_path / "table.md").read_text()
    assert "| study | task | solver | levels 4 |" in text.out
    table = json.loads((tmp_path / "table.json").read_text())
    assert [(row["solver"], row["levels"]) for row in table] == [
        ("doc", 4),
        ("dps", 4),
    ]
    best = [row["psnr_posterior_mean"]["mean"] for row in table]
    np.testing.assert_allclose(best, best[0], **EXACT32)
    assert all(row["psnr"]["mean"] < best[0] + 3 for row in table)
    assert robustness(["table", "--out", str(tmp_path)]) == 0
    assert robustness([*given[:-2], "--count", "33"]) == 2
