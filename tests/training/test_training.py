"""Data, losses, schedules, the loop and the evaluation against what is known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffctl.priors import EDMPreconditioning, GaussianPrior
from diffctl.training import (
    ClassificationLoss,
    Dataset,
    DenoisingLoss,
    classification_accuracy,
    constant,
    cosine,
    create_state,
    denoising_error,
    train,
)
from tests.tolerances import EXACT32, stat


@pytest.fixture
def dataset() -> Dataset:
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 4, 4, 1), np.uint8
    )
    return Dataset(images=images, labels=np.arange(10, dtype=np.int32))


def test_an_epoch_sees_every_image_once(dataset):
    labels = [dataset.batch(seed=3, step=i, size=5)[1] for i in range(4)]
    for epoch in (labels[:2], labels[2:]):
        assert sorted(np.concatenate(epoch)) == list(range(10))
    assert not np.array_equal(labels[0], labels[2]), "epochs have orders of their own"
    images, again = dataset.batch(seed=3, step=1, size=5)
    np.testing.assert_array_equal(again, labels[1])
    chex.assert_trees_all_close(images[:, 0, 0, 0], again / 127.5 - 1, **EXACT32)


def test_files_that_are_no_data_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        Dataset.load(tmp_path / "nothing.npz", "x")
    path = tmp_path / "data.npz"
    images = np.zeros((3, 4, 4, 1), np.uint8)
    np.savez(path, x=images, real=images / 2, y=np.zeros(2))
    assert Dataset.load(path, "x").labels.tolist() == [0, 0, 0]
    for names, message in (
        (("z",), "has no array"),
        (("real",), "uint8"),
        (("x", "y"), "2 labels"),
    ):
        with pytest.raises(ValueError, match=message):
            Dataset.load(path, *names)
    with pytest.raises(ValueError, match="batch size is 4"):
        Dataset.load(path, "x").batch(0, 0, 4)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1.5, 2], r"y in .*label 1\.5 at 1; .* 0 to 65535\. Number the classes"),
        ([0, 1, -1], "label -1 at 2"),
        ([0, np.nan, 1], "label nan at 1"),
        ([np.inf, 0, 1], "label inf at 0"),
        ([0, 2**31, 1], "label 2147483648 at 1"),
        (np.eye(3), r"float64 of shape \(3, 3\)"),
        (["cat", "dog", "cat"], "<U3 of shape"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, message):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((3, 4, 4, 1), np.uint8), y=labels)
    with pytest.raises(ValueError, match=message):
        Dataset.load(path, "x", "y")


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, bool])
def test_labels_may_be_whole_numbers_of_any_kind(tmp_path, kind):
    path = tmp_path / "data.npz"
    labels = np.array([0, 1, 1], kind)
    np.savez(path, x=np.zeros((3, 4, 4, 1), np.uint8), y=labels)
    found = Dataset.load(path, "x", "y").labels
    assert found.dtype == np.int32
    assert found.tolist() == [0, 1, 1]


def test_rates_warm_up_and_fall():
    rate = cosine(2.0, warmup=4, num_steps=12)
    chex.assert_trees_all_close(
        jnp.stack([rate(i) for i in (0, 2, 4, 8, 12)]),
        jnp.asarray([0.0, 1.0, 2.0, 1.0, 0.0]),
        **EXACT32,
    )
    flat = constant(2.0, warmup=4)
    assert [float(flat(i)) for i in (0, 2, 4, 99)] == [0.0, 1.0, 2.0, 2.0]


def test_the_loss_of_a_network_that_says_nothing_is_one():
    """With F = 0, D = c_skip x, and images of mean square s^2 the EDM loss is 1.

    E |c_skip (x0 + sigma eps) - x0|^2 = s^2 sigma^2 / (sigma^2 + s^2), the inverse of
    the weight, at every noise level.
    """
    spread, size = 0.7, 4000
    images = spread * jnp.sign(jax.random.normal(jax.random.key(0), (size, 3, 3, 1)))
    objective = DenoisingLoss(preconditioning=EDMPreconditioning(sigma_data=spread))

    def silent(x, noise_label):
        return jnp.zeros_like(x)

    loss = jax.jit(lambda key: objective(silent, key, images, None))(jax.random.key(1))
    # Per pixel the weighted square has a standard deviation of at most sqrt(2).
    assert abs(float(loss) - 1) < 2**0.5 * stat(images.size)


def test_the_classification_loss_is_cross_entropy_of_shifted_images():
    images = jax.random.normal(jax.random.key(0), (6, 4, 4, 1))
    labels = jnp.arange(6) % 3

    def mean_logits(x):
        return jnp.mean(x) * jnp.arange(3.0)

    key = jax.random.key(1)
    found = ClassificationLoss(max_shift=1)(mean_logits, key, images, labels)
    logits = np.asarray(images.mean((1, 2, 3)))[:, None] * np.arange(3.0)[None]
    chosen = logits[np.arange(6), np.asarray(labels)]
    expected = np.mean(np.log(np.exp(logits).sum(-1)) - chosen)
    chex.assert_trees_all_close(found, expected, **EXACT32)


def test_the_loop_is_gradient_descent_with_a_moving_average(dataset):
    """Against NumPy, with a quadratic loss whose gradient is net - mean image."""

    def objective(net, key, images, labels):
        return 0.5 * jnp.sum((net["x"] - jnp.mean(images, axis=0)) ** 2)

    seen = []
    optimiser = optax.sgd(0.5)
    state = create_state({"x": jnp.zeros((4, 4, 1))}, optimiser)
    state = train(
        state,
        dataset,
        jax.tree_util.Partial(objective),
        optimiser,
        num_steps=4,
        batch_size=5,
        seed=7,
        on_step=lambda state, loss: seen.append(float(loss)),
    )
    x, ema = np.zeros((4, 4, 1)), np.zeros((4, 4, 1))
    for step in range(4):
        target = dataset.batch(7, step, 5)[0].mean(0)
        loss = 0.5 * np.sum((x - target) ** 2)
        chex.assert_trees_all_close(seen[step], loss, **EXACT32)
        x = x - 0.5 * (x - target)
        decay = (1 + step) / (10 + step)
        ema = decay * ema + (1 - decay) * x
    assert int(state.step) == 4
    chex.assert_trees_all_close(np.asarray(state.net["x"]), x, **EXACT32)
    chex.assert_trees_all_close(np.asarray(state.ema["x"]), ema, **EXACT32)


def test_the_denoising_error_of_a_gaussian_is_the_exact_one():
    """E |D(x) - x0|^2 = sum w sigma^2 / (w + sigma^2) over the eigenvalues w."""
    spread, sigma, size = np.array([0.5, 0.1]), 0.6, 3000
    prior = GaussianPrior.from_moments(np.zeros(2), np.diag(spread))
    images = jax.vmap(prior.sample)(jax.random.split(jax.random.key(0), size))
    found = denoising_error(prior, images, jnp.asarray(sigma), jax.random.key(1))
    variances = spread * sigma**2 / (spread + sigma**2)
    # The mean of two squares, each with a standard deviation of sqrt(2) variances.
    deviation = np.sqrt(np.sum(2 * variances**2)) / 2
    assert abs(float(found) - variances.mean()) < deviation * stat(size)


def test_accuracy_counts_hits():
    images, labels = jnp.eye(4)[:, :, None, None], jnp.asarray([0, 1, 2, 0])

    def net(x):
        return x.ravel()

    found = classification_accuracy(jax.tree_util.Partial(net), images, labels)
    assert float(found) == 0.75
