"""Trained generators, autoencoders, flows and energies as priors."""

import math
from typing import Any, ClassVar, TypedDict

import jax
import jax.numpy as jnp

from diffctl.core import (
    AutoencodingPrior,
    GenerativePrior,
    InvertiblePrior,
    LogDensityPrior,
)
from diffctl.host import Positive
from diffctl.priors.generative.model import Model
from diffctl.pytree import pytree_dataclass


@pytree_dataclass
class GeneratorPrior(Model, GenerativePrior):
    """x0 = net(z), the generator of a GAN; z ~ N(0, I), (latent,).

    The network is `SmallDecoder` or another one with an argument `latent`.
    """

    kind: ClassVar[str] = "generator"

    @property
    def latent_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.argument("latent"),)

    def decode(self, z: jax.Array) -> jax.Array:
        return self.net(z)

    def through(self, x: jax.Array) -> jax.Array:
        return self.decode(jnp.zeros(self.latent_shape, x.dtype))


@pytree_dataclass
class AutoencoderPrior(Model, AutoencodingPrior):
    """A variational autoencoder: x0 = net.decode(z) + decoder_std * n.

    The network is `SmallAutoencoder` or another one with its methods.
    """

    kind: ClassVar[str] = "variational autoencoder"

    @property
    def latent_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.argument("latent"),)

    @property
    def decoder_std(self) -> jax.Array:
        return self.net.decoder_std()

    def decode(self, z: jax.Array) -> jax.Array:
        return self.net.decode(z)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.net.encode(x)

    def through(self, x: jax.Array) -> jax.Array:
        return self.decode(self.encode(x)[0])


@pytree_dataclass
class FlowPrior(Model, InvertiblePrior):
    """A normalising flow on the flattened signal: `CouplingFlow` without context.

    Flows give high density to images of low complexity that lie off the manifold: the
    mode of their density is smoother than any sample.
    """

    kind: ClassVar[str] = "normalising flow"

    @property
    def latent_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (math.prod(self.shape),)

    def decode_with_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, log_det = self.net.forward(z)
        return x.reshape(self.shape), log_det

    def invert(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.net.inverse(x.reshape(-1))

    def through(self, x: jax.Array) -> jax.Array:
        return self.decode_with_log_det(self.invert(x)[0])[0]


class Confinement(TypedDict, total=False):
    """Settings of an `EnergyPrior`."""

    spread: Positive


@pytree_dataclass
class EnergyPrior(Model, LogDensityPrior):
    """p(x) proportional to exp(-E(x)), E(x) = net(x) + |x|^2 / (2 spread^2).

    `net` returns one number, as `SmallClassifier` with one class does. The quadratic
    term makes the density integrable wherever the network grows at most linearly.
    """

    kind: ClassVar[str] = "energy"
    known: ClassVar[type] = Confinement

    spread: Any = 3.0  # () far larger than the signals

    def settings(self) -> dict[str, Any]:
        return {"spread": float(self.spread)}

    def neg_log_density(self, x: jax.Array) -> jax.Array:
        return confined_energy(self.net, x, self.spread)

    def through(self, x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.sum(self.net(x)), x.shape)


def confined_energy(net: Any, x: jax.Array, spread: Any) -> jax.Array:
    """Return net(x) + |x|^2 / (2 spread^2), ()."""
    return jnp.sum(net(x)) + jnp.sum(x**2) / (2 * spread**2)
