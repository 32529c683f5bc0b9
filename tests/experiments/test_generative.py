"""The experiment with trained models: its table of models, and one from end to end."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.operators import BicubicSuperResolution, GaussianNoise, Problem
from experiments.generative.__main__ import Run, _check_same, _training, main
from experiments.generative.models import MODELS, trainable

SHAPE = (8, 8, 1)


@pytest.mark.parametrize("name", MODELS)
def test_loss_prior_and_solvers_fit_each_other(name):
    model, key = MODELS[name], jax.random.key(0)
    operator = BicubicSuperResolution.create(SHAPE, 2)
    problem = Problem(
        y=jnp.zeros((4, 4, 1)), operator=operator, noise=GaussianNoise(std=0.1)
    )

    def both(images):
        prior = model.prior.create(model.architecture(SHAPE), SHAPE, key=key)
        net = trainable(prior, SHAPE, key)
        return prior, model.objective(problem)(net, key, images, None)

    images = jax.ShapeDtypeStruct((3, *SHAPE), jnp.float32)
    prior, loss = jax.eval_shape(both, images)
    assert loss.shape == ()
    for solver in model.solvers.values():
        assert isinstance(prior, solver.requires[1])
        assert isinstance(operator, solver.requires[0])


def test_a_model_of_other_settings_is_not_used(tmp_path):
    data = tmp_path / "data.npz"
    np.savez(data, x_train=np.zeros((2, *SHAPE), np.uint8))
    run = Run(data=data, out=tmp_path, num_steps=3)
    model = MODELS["regression"]
    prior = model.prior.create(model.architecture(SHAPE), SHAPE, key=jax.random.key(0))
    prior.save(tmp_path / "model", notes=_training(run))
    _check_same(tmp_path / "model", _training(run))
    for changed in ({"seed": 1}, {"num_steps": 4}, {"noise_std": 0.1}):
        with pytest.raises(ValueError, match=f"other settings .{next(iter(changed))}"):
            _check_same(tmp_path / "model", _training(replace(run, **changed)))
    # Models of earlier versions say less of themselves.
    prior.save(tmp_path / "old", notes={"num_steps": 3, "batch_size": 64})
    _check_same(tmp_path / "old", _training(run))


@pytest.mark.slow
def test_train_restore_and_render(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(8, 28, 28, 1)).astype(np.uint8)
    data, out = tmp_path / "data.npz", tmp_path / "run"
    np.savez(data, x_train=images, x_test=images[:2], y_test=np.zeros(2, np.uint8))
    options = ["--data", str(data), "--out", str(out), "--models", "regression"]
    small = ["--num-steps", "2", "--batch-size", "4", "--count", "2"]
    assert main([*options, *small]) == 0
    assert (out / "models" / "regression.super_resolution_x4" / "model.json").is_file()
    (summary,) = json.loads((out / "table.json").read_text())
    assert summary["solver"] == "amortised_mean"
    assert summary["images"] == 2
    (before,) = (out / "results").glob("*/*.json")
    written = before.stat().st_mtime_ns
    assert main([*options, *small]) == 0, "nothing is left to do"
    assert before.stat().st_mtime_ns == written
    assert main([*options, "--task", "random_inpainting", *small]) == 2
    assert "draws an operator" in capsys.readouterr().err
