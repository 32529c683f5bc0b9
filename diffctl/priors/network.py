"""A neural denoiser as a prior: network, preconditioning, range of noise levels."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffctl.core import DiffusionPrior, LearnedVariancePrior
from diffctl.nets.architecture import Architecture
from diffctl.priors.preconditioning import (
    DiscretePreconditioning,
    EDMPreconditioning,
    Preconditioning,
    from_json,
    to_json,
)
from diffctl.priors.storage import DESCRIPTION, read_model, write_model
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class NetworkPrior(DiffusionPrior):
    """E[x0 | x_sigma] = c_skip x + c_out net(c_in x, c_noise, **condition).

    Cost of `denoise`: one network forward. The network computes in `dtype` (None: the
    dtype of `x`); the result has the dtype of `x`. `condition` holds what else the
    network is given, for instance `{"label": 207}` for a class-conditional one, which
    `of_class` fills in.
    """

    # What `model.json` calls a prior of images, and one of an autoencoder's latents.
    OF_IMAGES: ClassVar[str] = "diffusion prior"
    OF_LATENTS: ClassVar[str] = "latent diffusion prior"
    variance: ClassVar[str] = "fixed"

    net: Any  # nnx.Module: (*shape), () -> (*shape)
    preconditioning: Preconditioning
    architecture: Architecture = static()
    shape: tuple[int, ...] = static()
    sigma_min: float = static(default=0.002)
    sigma_max: float = static(default=80.0)
    dtype: Any = static(default=None)
    condition: Any = None  # pytree: keyword arguments of the network

    @classmethod
    def create(
        cls,
        architecture: Architecture,
        shape: tuple[int, ...],
        *,
        key: jax.Array,
        preconditioning: Preconditioning | None = None,
        **fields: Any,
    ) -> "NetworkPrior":
        """Make a prior with freshly initialised parameters."""
        return cls(
            net=architecture.build(nnx.Rngs(params=key)),
            preconditioning=preconditioning or EDMPreconditioning(),
            architecture=architecture,
            shape=tuple(shape),
            **fields,
        )

    @property
    def num_classes(self) -> int:
        """Return how many class labels the network knows; 0 if it takes none."""
        return int(getattr(self.net, "classes", 0))

    def of_class(self, label: int | None) -> "NetworkPrior":
        """Return the prior of one class of images.

        Raises:
            ValueError: the network knows no classes, or none of this number, or there
                is no number.
        """
        count = self.num_classes
        if not count:
            raise ValueError(
                f"label = {label}, but the network of this prior knows no classes; "
                "leave the label out."
            )
        if label is None or not 0 <= label < count:
            given = "none was given" if label is None else f"{label} is none of them"
            raise ValueError(
                f"The network of this prior is conditioned on one of {count} classes "
                f"and {given}; give the label of the picture's class, 0 to {count - 1}."
            )
        condition = (self.condition or {}) | {"label": jnp.asarray(label, jnp.int32)}
        return replace(self, condition=condition)

    @classmethod
    def restore(
        cls, folder: str | Path, *, dtype: Any = None, kind: str = OF_IMAGES
    ) -> "NetworkPrior":
        """Load a prior written by `save`, or by `weights_convert`.

        Args:
            folder: with the network and its description.
            dtype: in which the network computes.
            kind: what the description must say; `OF_LATENTS` for the U-Net of a latent
                diffusion model, see `LatentDiffusionPrior.restore`.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is truncated or is not what `model.json` describes, or
                that makes no sense.
        """
        net, description = read_model(Path(folder), kind=kind)
        architecture = description["architecture"]
        try:
            prior = _VARIANCES[str(description.get("variance", "fixed"))]
            rule = from_json(description["preconditioning"])
            sigma_min, sigma_max = _range_of(description, rule)
            return prior(
                net=net,
                preconditioning=rule,
                architecture=Architecture.of(
                    architecture["name"], **architecture["arguments"]
                ),
                shape=_shape_of(description),
                sigma_min=sigma_min,
                sigma_max=sigma_max,
                dtype=dtype,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{folder}: the description of the prior lacks or does not know "
                f"{error}; it was written by another version. Save the prior again."
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{Path(folder) / DESCRIPTION}: {error} Correct it there, or save the "
                "prior again."
            ) from error

    def save(
        self, folder: str | Path, *, overwrite: bool = False, notes: Any = None
    ) -> None:
        """Write `weights.safetensors` and `model.json`, atomically.

        Raises:
            FileExistsError: the folder exists and `overwrite` is false.
        """
        description = {
            "kind": self.OF_IMAGES,
            "architecture": self.architecture.to_json(),
            "preconditioning": to_json(self.preconditioning),
            "variance": self.variance,
            "shape": list(self.shape),
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
            "notes": notes,
        }
        write_model(Path(folder), self.net, description, overwrite=overwrite)

    def denoise(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        return apply_preconditioned(
            self._conditioned, self.preconditioning, x, sigma, self.dtype
        )

    def _conditioned(self, x: jax.Array, noise: jax.Array) -> jax.Array:
        return self.net(x, noise, **(self.condition or {}))


@pytree_dataclass
class LearnedVarianceNetworkPrior(NetworkPrior, LearnedVariancePrior):
    """A network whose output has twice the channels: the noise, then the variance.

    The second half v is the variance of the ancestral step: fraction = (v + 1) / 2.
    """

    variance: ClassVar[str] = "learned"

    def denoise_with_variance(
        self, x: jax.Array, sigma: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        x0_hat, extra = _apply(
            self._conditioned, self.preconditioning, x, sigma, self.dtype
        )
        return x0_hat, (extra + 1) / 2


_VARIANCES: dict[str, type[NetworkPrior]] = {
    kind.variance: kind for kind in (NetworkPrior, LearnedVarianceNetworkPrior)
}


def _shape_of(description: Mapping[str, Any]) -> tuple[int, ...]:
    shape = description["shape"]
    is_list = isinstance(shape, list) and len(shape) == 3
    if not is_list or any(type(size) is not int or size < 1 for size in shape):
        raise ValueError(
            f"shape is {shape!r}; expected height, width and channels of the images, "
            "three whole numbers >= 1."
        )
    return tuple(shape)


def _range_of(
    description: Mapping[str, Any], rule: Preconditioning
) -> tuple[float, float]:
    """Return the least and the largest noise level, the same if trained on one."""
    low, high = description["sigma_min"], description["sigma_max"]
    is_single = (
        isinstance(rule, DiscretePreconditioning) and rule.betas.num_timesteps == 1
    )
    are_numbers = all(type(level) in (int, float) for level in (low, high))
    if not are_numbers or not (
        0 < low < high < math.inf or (is_single and low == high)
    ):
        raise ValueError(
            f"sigma_min is {low!r} and sigma_max {high!r}; expected noise levels "
            "0 < sigma_min < sigma_max."
        )
    return low, high


def apply_preconditioned(
    net: Any, rule: Preconditioning, x: jax.Array, sigma: jax.Array, dtype: Any = None
) -> jax.Array:
    """Return c_skip x + c_out net(c_in x, c_noise), computed inside in `dtype`.

    Output channels beyond those of `x` (a learned variance) are left out.
    """
    return _apply(net, rule, x, sigma, dtype)[0]


def _apply(
    net: Any, rule: Preconditioning, x: jax.Array, sigma: jax.Array, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Return the denoised signal and the remaining output channels."""
    c = rule(jnp.asarray(sigma, x.dtype))
    inner = (c.inside * x).astype(dtype or x.dtype)
    raw = net(inner, c.noise).astype(x.dtype)
    channels = x.shape[-1]
    return c.skip * x + c.out * raw[..., :channels], raw[..., channels:]


def parameter_count(net: Any) -> int:
    """Count the scalars in the parameters of a network."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(net))
