"""Latent priors: an autoencoder, and a diffusion prior in its latent space.

    z0 = encode(x0),   x0 = decode(z0),   z_sigma = z0 + sigma * eps

Autoencoders here speak the units of the diffusion: the scale that a latent diffusion
model was trained with belongs to the autoencoder, on both of its sides.
"""

import abc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NotRequired

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.core import DiffusionPrior, EncodedPrior, SeverityPrior
from diffctl.host import Positive
from diffctl.numerics.concrete import concrete
from diffctl.numerics.dtypes import float_spec
from diffctl.numerics.safe import squared_norm
from diffctl.priors.network import NetworkPrior
from diffctl.priors.storage import Described, correcting, read_model
from diffctl.pytree import pytree_dataclass, static

HIGHEST = jax.lax.Precision.HIGHEST
SeverityEncoder = Callable[[Any], tuple[jax.Array, jax.Array]]


class Autoencoder(abc.ABC):
    """A pair of maps between images and latents, a pytree."""

    @abc.abstractmethod
    def encode(self, x: jax.Array) -> jax.Array:
        """Return the latent of an image."""

    @abc.abstractmethod
    def decode(self, z: jax.Array) -> jax.Array:
        """Return the image of a latent."""


class _Described(Described):
    scaling_factor: Positive | Sequence[Positive]
    shift: NotRequired[float | Sequence[float]]


@pytree_dataclass
class KLAutoencoder(Autoencoder):
    """The mean latent of a variational autoencoder, in the units of the diffusion.

        z = (mean - shift) scaling,   image = decoder(z / scaling + shift)

    Args:
        net: a pytree such as `nets.autoencoder.AutoencoderKL`, whose `encode` returns
            mean and log variance and whose `decode` takes a latent.
        scaling: () or one number per channel, (Z,); 0.18215 for Stable Diffusion.
        shift: () or (Z,), the latent of the autoencoder that is 0 for the diffusion.
    """

    net: Any
    scaling: Any = 1.0
    shift: Any = 0.0

    @classmethod
    def restore(cls, folder: str | Path) -> "KLAutoencoder":
        """Load an autoencoder that `weights_convert` wrote, with its units.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged or holds something else.
        """
        folder = Path(folder)
        net, description = read_model(folder, kind="autoencoder", fields=_Described)
        scaling, shift = description["scaling_factor"], description.get("shift", 0.0)
        with correcting(folder):
            channels = getattr(net, "latent_channels", None)
            if channels is None:
                raise ValueError(f"a {type(net).__name__} is no autoencoder.")
            _check_units("scaling_factor", scaling, channels)
            _check_units("shift", shift, channels)
        return cls(
            net=net,
            scaling=_number_or_vector(scaling),
            shift=_number_or_vector(shift),
        )

    def encode(self, x: jax.Array) -> jax.Array:
        mean, _ = self.net.encode(x)
        scaling, shift = self._units(mean)
        return (scaling * (mean - shift)).astype(x.dtype)

    def decode(self, z: jax.Array) -> jax.Array:
        scaling, shift = self._units(z)
        return self.net.decode((z / scaling + shift).astype(z.dtype)).astype(z.dtype)

    def _units(self, latent: jax.Array) -> tuple[Any, Any]:
        """Return scaling and shift; vectors are along the last axis of a latent."""
        return _along(self.scaling, latent), _along(self.shift, latent)


def _along(value: Any, latent: jax.Array) -> Any:
    """Return a vector with the axes of a latent, a scalar as it is."""
    if jnp.ndim(value) == 0:
        return value
    return jnp.asarray(value, latent.dtype).reshape((1,) * (latent.ndim - 1) + (-1,))


def _check_units(name: str, value: Any, channels: int) -> None:
    if isinstance(value, list) and len(value) not in (1, channels):
        raise ValueError(
            f"{name} has {len(value)} numbers; expected one, or one for each of the "
            f"{channels} channels of a latent."
        )


def _number_or_vector(value: Any) -> Any:
    """Return what `model.json` holds for a number, or for one number per channel."""
    return jnp.asarray(value) if isinstance(value, list) else float(value)


@pytree_dataclass
class LinearAutoencoder(Autoencoder):
    """decode(z) = D z + offset, encode(x) = E (x - offset): the oracle of the tests.

    Images and latents are vectors.
    """

    decoder: jax.Array  # D, (d, k)
    encoder: jax.Array  # E, (k, d)
    offset: jax.Array  # (d,)

    @classmethod
    def from_decoder(cls, decoder: Any, offset: Any = 0.0) -> "LinearAutoencoder":
        """Build from D, (d, k) of full column rank, with E = D^+, so that E D = I.

        A traced D, for instance one that is differentiated, is unchecked.

        Raises:
            ValueError: the columns of D are not independent.
        """
        known, decoder = concrete(decoder), jnp.asarray(decoder)
        if known is not None and np.linalg.matrix_rank(known) < decoder.shape[1]:
            raise ValueError(
                f"the decoder {decoder.shape} has rank {np.linalg.matrix_rank(known)}; "
                "expected independent columns, so that every latent can be found again."
            )
        return cls(
            decoder=decoder,
            encoder=jnp.linalg.pinv(decoder),
            offset=jnp.broadcast_to(
                jnp.asarray(offset, decoder.dtype), decoder.shape[:1]
            ),
        )

    def encode(self, x: jax.Array) -> jax.Array:
        return jnp.matmul(self.encoder, x - self.offset, precision=HIGHEST)

    def decode(self, z: jax.Array) -> jax.Array:
        return jnp.matmul(self.decoder, z, precision=HIGHEST) + self.offset


@pytree_dataclass
class LatentDiffusionPrior(EncodedPrior):
    """A diffusion prior in the latent space of an autoencoder.

    Args:
        autoencoder: in the units of `latent`.
        latent: the prior of the latents.
        shape: of the image.
    """

    autoencoder: Autoencoder
    latent: DiffusionPrior
    shape: tuple[int, ...] = static()

    @classmethod
    def create(
        cls, autoencoder: Autoencoder, latent: DiffusionPrior, **fields: Any
    ) -> Any:
        """Build with the image's shape from the decoder.

        Raises:
            ValueError: encoder and decoder disagree about the shape of a latent.
        """
        z = float_spec(latent.shape)
        try:
            image = jax.eval_shape(autoencoder.decode, z)
            found = jax.eval_shape(autoencoder.encode, image)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the autoencoder knows no latents of shape {latent.shape}, which the "
                "latent prior models. Take the autoencoder that the latent prior was "
                "trained with."
            ) from error
        if found.shape != latent.shape:
            raise ValueError(
                f"the encoder makes latents of shape {found.shape} of the decoder's "
                f"images {image.shape}, but the latent prior models {latent.shape}. "
                "Take the autoencoder that the latent prior was trained with."
            )
        fields |= {"autoencoder": autoencoder, "latent": latent}
        return cls(shape=image.shape, **fields)

    @classmethod
    def restore(
        cls, latent: str | Path, autoencoder: str | Path, *, dtype: Any = None
    ) -> "LatentDiffusionPrior":
        """Load the two networks that `weights_convert` made of a pipeline.

        Args:
            latent: folder of its U-Net.
            autoencoder: folder of its autoencoder.
            dtype: in which the U-Net computes.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, a folder holds something else, or the two
                networks do not belong together.
        """
        prior = NetworkPrior.restore(latent, dtype=dtype, kind=NetworkPrior.OF_LATENTS)
        return cls.create(KLAutoencoder.restore(autoencoder), prior)

    def encode(self, x: jax.Array) -> jax.Array:
        return self.autoencoder.encode(x)

    def decode(self, z: jax.Array) -> jax.Array:
        return self.autoencoder.decode(z)


@pytree_dataclass
class SeverityEncoderPrior(LatentDiffusionPrior, SeverityPrior):
    """A latent prior with the severity encoder of Flash-Diffusion.

    Args (besides those of `LatentDiffusionPrior`):
        severity_encoder: pytree, `y -> (latent, variance)`: a rough latent and the
            variance of an entry of its error, positive. See `severity_loss`.
    """

    severity_encoder: SeverityEncoder

    def estimate_latent(self, y: Any) -> tuple[jax.Array, jax.Array]:
        return self.severity_encoder(y)


def severity_loss(
    prior: SeverityPrior,
    x: jax.Array,
    y: Any,
    *,
    severity_weight: Any = 1.0,
    image_weight: Any = 1.0,
) -> jax.Array:
    """Return the loss that a severity encoder is trained with, for one example.

        |z_hat - z0|^2 / k + w_s (v - v_hat)^2 + w_x |decode(z_hat) - x|^2 / d

    v is the empirical variance of the entries of z_hat - z0, z0 = encode(x); k and d
    are the sizes of latent and image. Of Fabian et al., "Adapt and Diffuse" (ICML
    2024), where both weights are 1.

    Args:
        prior: holds the severity encoder; differentiate by that part of it.
        x: clean image, (*shape).
        y: its measurement.
        severity_weight: w_s, ().
        image_weight: w_x, ().
    """
    estimate, variance = prior.estimate_latent(y)
    error = estimate - prior.encode(x)
    image_error = prior.decode(estimate) - x
    severity = (jnp.var(error) - variance) ** 2
    image = squared_norm(image_error) / x.size
    latent = squared_norm(error) / error.size
    return latent + severity_weight * severity + image_weight * image
