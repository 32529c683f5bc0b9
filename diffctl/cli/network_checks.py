"""Checks that the networks of the installed package do what their cards say."""

import jax
import jax.numpy as jnp

from diffctl import assets
from diffctl.cli.exact_checks import Finding
from diffctl.training import classification_accuracy, denoising_error

_SIGMAS = ("0.2", "1.0")


def prior_as_recorded() -> Finding:
    """Denoising error of the 32 shipped digits over that recorded for the test set.

    The mean over 32 digits differs from that over the test set by some per cent.
    """
    recorded = assets.notes("digits_prior").get("denoising_error")
    if not recorded:
        raise ValueError("the model card of the prior records no denoising error")
    prior, (images, _) = assets.digits_prior(), assets.test_digits()
    key, ratios = jax.random.key(0), []
    for sigma in _SIGMAS:
        level = jnp.asarray(float(sigma), jnp.float32)
        error = denoising_error(prior, jnp.asarray(images), level, key)
        ratios.append(float(error) / recorded[sigma])
    return Finding(max(ratios), 1.3, f"of the recorded, sigma {' and '.join(_SIGMAS)}")


def classifier_errors() -> Finding:
    """Share of the 32 shipped digits that the classifier does not recognise."""
    images, labels = assets.test_digits()
    net = assets.digits_classifier()
    hits = classification_accuracy(net, jnp.asarray(images), jnp.asarray(labels))
    return Finding(1 - float(hits), 0.0625, "of 32 digits")
