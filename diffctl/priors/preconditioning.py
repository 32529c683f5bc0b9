"""How a raw network F becomes a denoiser D in the coordinate x = x0 + sigma * eps.

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)

Sources: "Elucidating the Design Space of Diffusion-Based Generative Models" (Karras et
al., 2022), table 1; "Consistency Models" (Song et al., 2023), appendix C.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.diffusion.betas import Betas
from diffctl.diffusion.schedules import VP
from diffctl.host import Positive, check_settings, show
from diffctl.pytree import pytree_dataclass, static


class Coefficients(NamedTuple):
    """The four scalars of the preconditioning at one noise level."""

    skip: jax.Array
    out: jax.Array
    inside: jax.Array
    noise: jax.Array


class Preconditioning(abc.ABC):
    """A rule that gives the coefficients at every noise level."""

    @abc.abstractmethod
    def __call__(self, sigma: jax.Array) -> Coefficients:
        """Return the coefficients; `sigma` () > 0."""


@pytree_dataclass
class EDMPreconditioning(Preconditioning):
    """Unit-variance inputs and targets for data of root mean square `sigma_data`.

    c_skip = s^2 / (sigma^2 + s^2), c_out = sigma s / sqrt(sigma^2 + s^2),
    c_in = 1 / sqrt(sigma^2 + s^2), c_noise = `noise_gain` ln(sigma), s = `sigma_data`.
    """

    sigma_data: Positive = 0.5
    noise_gain: float = 0.25

    def __call__(self, sigma: jax.Array) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        return Coefficients(
            skip=self.sigma_data**2 / total,
            out=sigma * self.sigma_data * jax.lax.rsqrt(total),
            inside=jax.lax.rsqrt(total),
            noise=self.noise_gain * jnp.log(sigma),
        )


@pytree_dataclass
class ConsistencyPreconditioning(Preconditioning):
    """As EDM, shifted so that D(x; sigma_min) = x holds exactly.

    With r = sigma - `sigma_min`: c_skip = s^2 / (r^2 + s^2),
    c_out = r s / sqrt(sigma^2 + s^2), c_in = 1 / sqrt(sigma^2 + s^2),
    c_noise = `noise_gain` ln(sigma).
    """

    sigma_data: Positive = 0.5
    sigma_min: Positive = 0.002
    noise_gain: float = 250.0

    def __call__(self, sigma: jax.Array) -> Coefficients:
        above = sigma - self.sigma_min
        inside = jax.lax.rsqrt(sigma**2 + self.sigma_data**2)
        return Coefficients(
            skip=self.sigma_data**2 / (above**2 + self.sigma_data**2),
            out=above * self.sigma_data * inside,
            inside=inside,
            noise=self.noise_gain * jnp.log(sigma),
        )


@pytree_dataclass
class VPPreconditioning(Preconditioning):
    """A noise predictor of the continuous variance-preserving diffusion.

    c_skip = 1, c_out = -sigma, c_in = 1 / sqrt(sigma^2 + 1), c_noise = `label_scale` t
    with sigma the noise level at time t in [0, 1]; see `schedules.VP`.
    """

    beta_min: Positive = 0.1
    beta_max: Positive = 20.0
    label_scale: Positive = 999.0

    def __call__(self, sigma: jax.Array) -> Coefficients:
        time = VP(beta_min=self.beta_min, beta_max=self.beta_max).time(sigma)
        return Coefficients(
            skip=jnp.ones_like(sigma),
            out=-sigma,
            inside=jax.lax.rsqrt(sigma**2 + 1),
            noise=self.label_scale * time,
        )


@pytree_dataclass
class VEPreconditioning(Preconditioning):
    """A noise predictor of the variance-exploding diffusion.

    c_skip = 1, c_out = sigma, c_in = 1, c_noise = ln(sigma / 2).
    """

    def __call__(self, sigma: jax.Array) -> Coefficients:
        one = jnp.ones_like(sigma)
        return Coefficients(skip=one, out=sigma, inside=one, noise=jnp.log(sigma / 2))


@pytree_dataclass
class DiscretePreconditioning(Preconditioning):
    """A network trained on N discrete levels; the input has variance about one.

    c_in = 1 / sqrt(sigma^2 + 1). c_noise is the time step: interpolated linearly in
    ln(sigma) between the trained levels, so fractional in general, and exactly the
    integer i at level i. Outside the trained range it is that of the nearest level.
    Networks that were told the time on another scale have it times `label_scale`:
    1000 / N for `rescale_timesteps` of openai/improved-diffusion.
    """

    betas: Betas = static(default=Betas())
    label_scale: Positive = 1.0

    @abc.abstractmethod
    def skip_and_out(self, sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return c_skip and c_out for what the network predicts."""

    def __call__(self, sigma: jax.Array) -> Coefficients:
        skip, out = self.skip_and_out(sigma)
        inside = jax.lax.rsqrt(sigma**2 + 1)
        return Coefficients(
            skip=skip,
            out=out,
            inside=inside,
            noise=self.label_scale * self.timestep(sigma),
        )

    def levels(self) -> np.ndarray:
        """Return the trained noise levels, increasing, (N,) float64."""
        return np.sqrt(np.expm1(self.betas.schedule().integrated_rate))

    def timestep(self, sigma: jax.Array) -> jax.Array:
        """Return the time step () of a noise level."""
        logs = jnp.asarray(np.log(self.levels()), sigma.dtype)
        step = jnp.interp(
            jnp.log(sigma), logs, jnp.arange(len(logs), dtype=sigma.dtype)
        )
        # The logarithm of a trained level is rounded: at most 1e-4 steps in float32.
        nearest = jnp.round(step)
        return jnp.where(jnp.abs(step - nearest) < 1e-3, nearest, step)


@pytree_dataclass
class NoisePrediction(DiscretePreconditioning):
    """F predicts eps: x0_hat = x - sigma F."""

    def skip_and_out(self, sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.ones_like(sigma), -sigma


@pytree_dataclass
class NearestNoisePrediction(NoisePrediction):
    """As `NoisePrediction`, with the time step of the nearest trained level.

    This is the rule of iDDPM networks in NVlabs/edm.
    """

    def timestep(self, sigma: jax.Array) -> jax.Array:
        levels = jnp.asarray(self.levels(), sigma.dtype)
        return jnp.argmin(jnp.abs(levels - sigma)).astype(sigma.dtype)


@pytree_dataclass
class SamplePrediction(DiscretePreconditioning):
    """F predicts x0 itself."""

    def skip_and_out(self, sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros_like(sigma), jnp.ones_like(sigma)


@pytree_dataclass
class VelocityPrediction(DiscretePreconditioning):
    """F predicts v = scale eps - sigma scale x0, scale = 1 / sqrt(1 + sigma^2)."""

    def skip_and_out(self, sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
        scale = jax.lax.rsqrt(1 + sigma**2)
        return scale**2, -sigma * scale


PRECONDITIONINGS: Mapping[str, type[Any]] = {
    "edm": EDMPreconditioning,
    "consistency": ConsistencyPreconditioning,
    "vp": VPPreconditioning,
    "ve": VEPreconditioning,
    "noise_prediction": NoisePrediction,
    "nearest_noise_prediction": NearestNoisePrediction,
    "sample_prediction": SamplePrediction,
    "velocity_prediction": VelocityPrediction,
}


def to_json(rule: Preconditioning) -> dict[str, Any]:
    """Describe a preconditioning for `model.json`."""
    names = {kind: name for name, kind in PRECONDITIONINGS.items()}
    described: dict[str, Any] = {"name": names[type(rule)]}
    for field in dataclasses.fields(rule):  # type: ignore[arg-type]
        value = getattr(rule, field.name)
        described[field.name] = (
            value.to_json() if isinstance(value, Betas) else float(value)
        )
    return described


class _Named(TypedDict):
    name: str


def from_json(described: Any) -> Preconditioning:
    """Build what `to_json` described.

    Raises:
        ValueError: it is not a table of settings, names no rule, or a setting is
            unknown, missing or not what it must be.
    """
    check_settings(_Named, described, "the preconditioning", others=True)
    fields = dict(described)
    name = fields.pop("name")
    if name not in PRECONDITIONINGS:
        raise ValueError(
            f"There is no preconditioning called {show(name)}; choose one of "
            f"{', '.join(PRECONDITIONINGS)}."
        )
    if "betas" in fields:
        fields["betas"] = Betas.from_json(fields["betas"])
    check_settings(PRECONDITIONINGS[name], fields, "the preconditioning")
    # JSON may write a number without a point, and JAX's integers are short.
    fields = {k: float(v) if type(v) is int else v for k, v in fields.items()}
    return PRECONDITIONINGS[name](**fields)
