"""A neural denoiser as a prior: network, preconditioning, range of noise levels."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NotRequired

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffctl.core import DiffusionPrior, LearnedVariancePrior
from diffctl.host import Count, Range, check_value
from diffctl.nets.architecture import Architecture
from diffctl.priors.preconditioning import (
    DiscretePreconditioning,
    EDMPreconditioning,
    Preconditioning,
    from_json,
    to_json,
)
from diffctl.priors.storage import (
    Described,
    correcting,
    read_description,
    read_net,
    write_model,
)
from diffctl.pytree import pytree_dataclass, static

Shape = Annotated[
    tuple[Count, Count, Count],
    "height, width and channels of the images, three whole numbers >= 1",
]
Level = Annotated[float, Range(0, above=True), "noise levels 0 < sigma_min < sigma_max"]


class _Described(Described):
    shape: Shape  # type: ignore[misc]
    preconditioning: Any
    sigma_min: Level
    sigma_max: Level
    variance: NotRequired[Literal["fixed", "learned"]]


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
        """Make a prior with freshly initialised parameters.

        Raises:
            ValueError: the network does not take images of this shape, or the range of
                noise levels is empty.
        """
        prior = cls(
            net=architecture.abstract(),
            preconditioning=preconditioning or EDMPreconditioning(),
            architecture=architecture,
            shape=tuple(shape),
            **fields,
        )
        prior.check()
        return replace(prior, net=architecture.build(nnx.Rngs(params=key)))

    def check(self) -> None:
        """Check what a network does not tell before it is compiled.

        Raises:
            ValueError: the network does not take images of this shape, or the range of
                noise levels is empty.
        """
        check_value(self.shape, Shape, "shape")
        _check_range(self.sigma_min, self.sigma_max, self.preconditioning)
        check_images(self.net, self.shape, learned=self.variance == "learned")

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
        if label is None or not _is_class(label, count):
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
        folder = Path(folder)
        description = read_description(folder, kind, _Described)
        with correcting(folder):
            rule = from_json(description["preconditioning"])
            _check_range(description["sigma_min"], description["sigma_max"], rule)
        prior = _VARIANCES[description.get("variance", "fixed")](
            net=read_net(folder, description),
            preconditioning=rule,
            architecture=Architecture.from_json(description["architecture"]),
            shape=tuple(description["shape"]),
            sigma_min=description["sigma_min"],
            sigma_max=description["sigma_max"],
            dtype=dtype,
        )
        with correcting(folder):
            prior.check()
        return prior

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


def _is_class(label: Any, count: int) -> bool:
    """Return whether a label is the number of a class; 1.5 and True are none."""
    number = np.asarray(label)
    is_whole = number.ndim == 0 and number.dtype.kind in "iu"
    return is_whole and 0 <= int(number) < count


def _check_range(low: float, high: float, rule: Preconditioning) -> None:
    """Check the least and the largest noise level, the same if trained on one."""
    is_single = (
        isinstance(rule, DiscretePreconditioning) and rule.betas.num_timesteps == 1
    )
    if not (0 < low < high < math.inf or (is_single and 0 < low == high)):
        raise ValueError(
            f"sigma_min is {low!r} and sigma_max {high!r}; expected noise levels "
            "0 < sigma_min < sigma_max."
        )


def check_images(net: Any, shape: tuple[int, ...], *, learned: bool = False) -> None:
    """Compare the images of a U-Net with those that it is meant for.

    Args:
        net: the network.
        shape: (H, W, C).
        learned: whether its output has the channels twice, for a variance.

    Raises:
        ValueError: it is another kind of network, height and width cannot be halved as
            often as it does it, or the channels are others.
    """
    images = getattr(net, "images", None)
    if images is None:
        raise ValueError(f"a {type(net).__name__} is no denoiser of images.")
    height, width, channels = shape
    if height % images.divisor or width % images.divisor:
        raise ValueError(
            f"shape is {shape}, and the network halves images until height and width "
            f"are divided by {images.divisor}; expected multiples of {images.divisor}."
        )
    least = 2 * channels if learned else channels
    if images.channels_in != channels or images.channels_out < least:
        raise ValueError(
            f"shape is {shape}, and the network takes {images.channels_in} and makes "
            f"{images.channels_out} channels; expected {channels} and {least}."
        )


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
