"""Networks that were trained on pairs of signals and simulated measurements.

Their `features` are what the network is given of a measurement: the measurement itself,
or an image made from it, the same at training and at use.
"""

import math
from typing import Any, ClassVar, TypedDict

import jax
import jax.numpy as jnp

from diffctl.core import (
    AmortisedEstimator,
    AmortisedSampler,
    ConditionalDiffusion,
    DiffusionPrior,
)
from diffctl.priors.generative.model import Model
from diffctl.priors.network import apply_preconditioned
from diffctl.priors.preconditioning import (
    EDMPreconditioning,
    Preconditioning,
    from_json,
    to_json,
)
from diffctl.pytree import pytree_dataclass


@pytree_dataclass
class RegressionNetwork(Model, AmortisedEstimator):
    """x = net(features), trained for the posterior mean: neither mode nor sample."""

    kind: ClassVar[str] = "regression"

    def estimate(self, features: jax.Array) -> jax.Array:
        return self.net(features).reshape(self.shape)


@pytree_dataclass
class ConditionalFlow(Model, AmortisedSampler):
    """A flow z -> x that is given the features as context: `CouplingFlow`."""

    kind: ClassVar[str] = "conditional flow"

    @property
    def latent_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (math.prod(self.shape),)

    def decode_given(self, z: jax.Array, features: jax.Array) -> jax.Array:
        return self.net.forward(z, features.reshape(-1))[0].reshape(self.shape)

    def through(self, x: jax.Array) -> jax.Array:
        context = jnp.zeros(self.argument("context"), x.dtype)
        return self.decode_given(x.reshape(-1), context)


class Conditioned(TypedDict):
    """Settings of a `ConditionalNetwork`."""

    preconditioning: Any


@pytree_dataclass
class ConditionalNetwork(Model, ConditionalDiffusion):
    """A denoiser with the features as further input channels.

    `net` has twice the channels of the signal; the first half of its output is used.
    """

    kind: ClassVar[str] = "conditional denoiser"
    known: ClassVar[type] = Conditioned

    preconditioning: Preconditioning = EDMPreconditioning()

    def settings(self) -> dict[str, Any]:
        return {"preconditioning": to_json(self.preconditioning)}

    @classmethod
    def fields_of(cls, settings: dict[str, Any]) -> dict[str, Any]:
        return {"preconditioning": from_json(settings["preconditioning"])}

    def through(self, x: jax.Array) -> jax.Array:
        return self.given(x).denoise(x, jnp.ones((), x.dtype))

    def given(self, features: jax.Array) -> DiffusionPrior:
        return GivenFeatures(net=self.net, rule=self.preconditioning, features=features)


@pytree_dataclass
class GivenFeatures(DiffusionPrior):
    """The denoiser of one measurement, see `ConditionalNetwork`."""

    net: Any
    rule: Preconditioning
    features: jax.Array  # (*shape)

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.features.shape

    def denoise(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        net = with_features(self.net, self.features)
        return apply_preconditioned(net, self.rule, x, sigma)


def with_features(net: Any, features: jax.Array) -> Any:
    """Return (x, noise) -> net([x, features], noise), joined along the channels."""

    def joined(x: jax.Array, noise: jax.Array) -> jax.Array:
        return net(jnp.concatenate([x, features.astype(x.dtype)], axis=-1), noise)

    return joined
