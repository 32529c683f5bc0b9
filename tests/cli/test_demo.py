"""`diffctl demo`, with networks too small to be good, and its problems."""

import io
import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from rich.console import Console

from diffctl import assets
from diffctl.cli import demo, options
from diffctl.cli.demo_page import title_of
from diffctl.cli.demo_problems import pose
from diffctl.cli.task_table import TASKS
from diffctl.cli.tasks import Restoration
from diffctl.cli.terminal import Terminal
from diffctl.nets import SmallClassifier
from tests.cli.conftest import SIZE
from tests.report.self_contained import assert_self_contained
from tests.tolerances import REORDER32


@pytest.fixture
def small_assets(monkeypatch, tiny_prior):
    images, labels = assets.test_digits()
    small = images[:, 4:24, 4:24][:, :: 20 // SIZE, :: 20 // SIZE][:, :SIZE, :SIZE]
    classifier = SmallClassifier(size=SIZE, width=2, rngs=nnx.Rngs(0))
    monkeypatch.setattr(assets, "test_digits", lambda: (small, labels))
    monkeypatch.setattr(assets, "digits_classifier", lambda: classifier)
    monkeypatch.setattr(assets, "digits_prior", lambda: tiny_prior)


def test_all_problems_have_one_structure_and_the_right_misfit(small_assets, tiny_prior):
    key, noise_std = jax.random.key(5), 0.05
    groups = pose(tiny_prior, key, 2, noise_std)
    assert [group.task for group in groups] == list(TASKS)
    like = groups[0].problems
    for group in groups[1:]:
        chex.assert_trees_all_equal_shapes_and_dtypes(group.problems, like)
    x = jax.random.normal(jax.random.key(1), tiny_prior.shape)
    for i, group in enumerate(groups):
        first = jax.tree.map(lambda leaf: leaf[0], group.problems.y)
        misfit = group.problems.noise.neg_log_likelihood(
            first, group.problems.operator(x)
        )
        task = TASKS[group.task]
        if isinstance(task, Restoration):
            operator_key = jax.random.split(jax.random.fold_in(key, i))[0]
            native = task.operator(tiny_prior.shape, operator_key)
            residual = jnp.asarray(group.pictures[0]) - native(x)
            idle = math.log(10)
            expected = jnp.sum(residual**2) / (2 * noise_std**2) + idle
            assert group.num_observed == native.num_observed()
        else:
            logits = assets.digits_classifier()(x)
            expected = -jax.nn.log_softmax(logits)[group.labels[0]]
        # The sums of squares of up to 144 terms of size 1e4 differ in their order.
        chex.assert_trees_all_close(misfit, expected, **REORDER32)


def test_the_demo_leaves_a_page_a_figure_and_numbers(small_assets, tmp_path):
    out = tmp_path / "demo"
    command = options.Demo(out=out, digits=1)
    text = io.StringIO()
    terminal = Terminal(out=Console(file=text, width=120))
    budget = demo.Budget(levels=2, iterations=1, dps_steps=3)
    outcome = demo.run(command, terminal, budget)
    assert outcome.code == 0
    assert {p.name for p in out.iterdir()} == {
        "figure.png",
        "report.html",
        "results.json",
    }
    document = json.loads((out / "results.json").read_text())
    assert (
        outcome.result
        == {
            "out": str(out),
            "page": str(out / "report.html"),
        }
        | document
    )
    pairs = {(row["task"], row["solver"]) for row in document["results"]}
    assert pairs == {(task, solver) for task in TASKS for solver in ("DOC", "DPS")}
    for row in document["results"]:
        guidance = row["task"] == "class_guidance"
        assert (row["psnr"] is None) == guidance
        assert row["status"] == [0]
        assert all(np.isfinite(row["misfit"]))
        if row["solver"] == "DPS":
            assert row["forwards"] == row["vjps"] == [3]
    compiling = [r["compiling_seconds"] for r in document["results"][:6]]
    assert compiling[0] > 5 * max(compiling[1:]), "one program for all tasks"
    assert document["noise_std_unit_range"] == document["noise_std"] / 2
    html = (out / "report.html").read_text()
    assert_self_contained(html)
    for task in TASKS:
        assert title_of(task) in html
        assert title_of(task).split()[0] in text.getvalue()
    with Image.open(out / "figure.png") as figure:
        assert figure.width > 1000
    with pytest.raises(FileExistsError, match="--overwrite"):
        demo.run(command, terminal, budget)


def test_shipped_digits_are_what_they_are_said_to_be():
    images, labels = assets.test_digits()
    assert images.shape == (32, 28, 28, 1)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (-1.0, 1.0)
    np.testing.assert_array_equal(labels, np.arange(32) % 10)
    assert len({image.tobytes() for image in images}) == 32
    assert assets.digits_prior().shape == (28, 28, 1)
    assert assets.notes("digits_classifier")["accuracy"] >= 0.99
