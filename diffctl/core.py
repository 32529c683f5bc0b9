"""The nouns that every room shares: priors, solvers and what a solve returns."""

import abc
import enum
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.pytree import pytree_dataclass


class DiffusionPrior(abc.ABC):
    """Knowledge about a clean signal, as a denoiser at every noise level.

    Coordinates: `x_sigma = x0 + sigma * eps` with `x0` in [-1, 1]. `shape` is the shape
    of one example; batches are made by `jax.vmap`.
    """

    shape: tuple[int, ...]

    @abc.abstractmethod
    def denoise(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        """Return E[x0 | x0 + sigma * eps = x]; `x` (*shape), `sigma` () -> (*shape)."""


class LearnedVariancePrior(DiffusionPrior):
    """A prior whose network also predicts the variance of an ancestral step."""

    @abc.abstractmethod
    def denoise_with_variance(
        self, x: jax.Array, sigma: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return `(x0_hat, fraction)`, both (*shape), for one network call.

        `fraction` in [0, 1] interpolates the log variance between the posterior
        variance (0) and the forward variance (1) of the step.
        """


class LatentPrior(abc.ABC):
    """A diffusion prior in the latent space of an autoencoder, x0 = decode(z0).

    `shape` is that of the image, `latent.shape` that of the latent. Noise is added in
    the units of `latent`: z_sigma = z0 + sigma * eps. Solvers count calls of `latent`;
    those of encoder and decoder are stated apart in their descriptions.
    """

    shape: tuple[int, ...]
    latent: DiffusionPrior

    @abc.abstractmethod
    def decode(self, z: jax.Array) -> jax.Array:
        """Return the image of a latent; `z` (*latent.shape) -> (*shape)."""


class EncodedPrior(LatentPrior):
    """A latent prior with the encoder of its autoencoder."""

    @abc.abstractmethod
    def encode(self, x: jax.Array) -> jax.Array:
        """Return the latent of an image; `x` (*shape) -> (*latent.shape)."""


class SeverityPrior(EncodedPrior):
    """A latent prior with an encoder of measurements that knows how wrong it is."""

    @abc.abstractmethod
    def estimate_latent(self, y: Any) -> tuple[jax.Array, jax.Array]:
        """Return a rough latent, (*latent.shape), and the variance of its error, ().

        The variance is that of one entry, in the units of `latent`.
        """


class ConsistencyPrior(abc.ABC):
    """A prior that goes from any noise level to (nearly) the clean signal at once."""

    shape: tuple[int, ...]
    sigma_min: Any  # (), the level at which trajectories end
    sigma_max: Any  # (), the level at which generation starts

    @abc.abstractmethod
    def jump(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        """Return the state at `sigma_min` of the ODE trajectory through `x` at `sigma`.

        `x` (*shape), `sigma` () >= sigma_min -> (*shape). One network call.
        """


class NoisyDensityPrior(DiffusionPrior):
    """A prior whose density can be evaluated at every noise level."""

    @abc.abstractmethod
    def log_density(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        """Return log p_sigma(x), (), up to a constant; `x` (*shape), `sigma` ()."""


class ProximalPrior(abc.ABC):
    """A regulariser R(x) = F(K x), K linear, that is known through proximal maps.

    R includes its weight: the energy to minimise is -log p(y | x) + R(x). K is the
    identity unless a subclass overrides the `analysis` methods, which it does where F
    has a simpler proximal map than R (total variation: K are the differences). Solvers
    that split off K x use these methods, the others `prox`.
    """

    shape: tuple[int, ...]

    @abc.abstractmethod
    def prox(self, x: jax.Array, step: jax.Array) -> jax.Array:
        """Return argmin_z step * R(z) + |z - x|^2 / 2."""

    def prox_calls(self) -> "Calls":
        """Return the network calls of one `prox` (or `analysis_prox`)."""
        return Calls()

    @property
    def splits(self) -> bool:
        """Whether K is another map than the identity."""
        return type(self).analysis is not ProximalPrior.analysis

    def analysis(self, x: jax.Array) -> jax.Array:
        """Return K x, one array of any shape."""
        return x

    def analysis_adjoint(self, z: jax.Array) -> jax.Array:
        """Return K^T z, (*shape)."""
        return z

    def analysis_prox(self, z: jax.Array, step: jax.Array) -> jax.Array:
        """Return argmin_w step * F(w) + |w - z|^2 / 2, of the shape of K x."""
        return self.prox(z, step)

    def analysis_norm(self) -> Any:
        """Return a bound of the largest singular value of K, ()."""
        return 1.0


class QuadraticPrior(ProximalPrior):
    """R(x) = weight / 2 |K x - target|^2: a Gaussian log density.

    Problems with a linear operator and white noise then have a solution in closed form.
    """

    weight: Any  # ()
    target: jax.Array  # of the shape of K x


class ScorePrior(abc.ABC):
    """A prior that is known through the score of the clean signal."""

    shape: tuple[int, ...]

    @abc.abstractmethod
    def score(self, x: jax.Array) -> jax.Array:
        """Return grad log p(x); `x` (*shape) -> (*shape)."""

    @property
    def score_calls(self) -> "Calls":
        """The network calls of one `score`."""
        return Calls(fwd=1)


class LogDensityPrior(ScorePrior):
    """A prior with a density that can be evaluated, normalised or not."""

    @abc.abstractmethod
    def neg_log_density(self, x: jax.Array) -> jax.Array:
        """Return -log p(x) up to a constant, (); `x` (*shape). One network call."""

    def score(self, x: jax.Array) -> jax.Array:
        return -jax.grad(self.neg_log_density)(x)

    @property
    def score_calls(self) -> "Calls":
        return Calls(fwd=1, vjp=1)


class GenerativePrior(abc.ABC):
    """A prior that is a map of Gaussian latents: x0 = G(z) with z ~ N(0, I)."""

    shape: tuple[int, ...]
    latent_shape: tuple[int, ...]

    @abc.abstractmethod
    def decode(self, z: jax.Array) -> jax.Array:
        """Return G(z); `z` (*latent_shape) -> (*shape). One network call."""


class AutoencodingPrior(GenerativePrior):
    """A generator with noise, x0 = G(z) + decoder_std * n, and its inference."""

    decoder_std: Any  # () > 0, the same for all entries

    @abc.abstractmethod
    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return mean and log variance of a Gaussian close to p(z | x).

        `x` (*shape) -> two arrays (*latent_shape). One network call.
        """


class InvertiblePrior(GenerativePrior, LogDensityPrior):
    """A generator that is a bijection g, so that the density of x0 follows from z's."""

    @abc.abstractmethod
    def decode_with_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return g(z), (*shape), and log |det dg/dz|, (). One network call."""

    @abc.abstractmethod
    def invert(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return z = g^{-1}(x), (*latent_shape), and log |det dz/dx|, (). One call."""

    def decode(self, z: jax.Array) -> jax.Array:
        return self.decode_with_log_det(z)[0]

    def neg_log_density(self, x: jax.Array) -> jax.Array:
        z, log_det = self.invert(x)
        return jnp.sum(z**2) / 2 - log_det


class AmortisedEstimator(abc.ABC):
    """A map from measurements to a point of the posterior, learned from pairs.

    `features` is what the measurement was turned into when the map was trained.
    """

    shape: tuple[int, ...]

    @abc.abstractmethod
    def estimate(self, features: jax.Array) -> jax.Array:
        """Return a reconstruction, (*shape). One network call."""


class AmortisedSampler(abc.ABC):
    """A map from measurements and Gaussian latents to posterior samples."""

    shape: tuple[int, ...]
    latent_shape: tuple[int, ...]

    @abc.abstractmethod
    def decode_given(self, z: jax.Array, features: jax.Array) -> jax.Array:
        """Return a sample, (*shape), for z ~ N(0, I), (*latent_shape). One call."""


class ConditionalDiffusion(abc.ABC):
    """A denoiser that is told the measurement."""

    shape: tuple[int, ...]

    @abc.abstractmethod
    def given(self, features: jax.Array) -> DiffusionPrior:
        """Return the denoiser E[x0 | x_sigma, y] of one measurement."""


class Status(enum.IntEnum):
    """Outcome of one example, as stored in `Solution.status`."""

    OK = 0
    NONFINITE = 1

    @property
    def meaning(self) -> str:
        """Explain the code in a sentence."""
        return {
            Status.OK: "finished",
            Status.NONFINITE: "a NaN or infinity appeared; the last finite iterate "
            "is returned",
        }[self]


@pytree_dataclass
class Calls:
    """Network calls per example: forward passes, VJPs and JVPs."""

    fwd: Any = 0
    vjp: Any = 0
    jvp: Any = 0

    def __add__(self, other: "Calls") -> "Calls":
        return jax.tree.map(jnp.add, self, other)


@pytree_dataclass
class StepTrace:
    """What one solver step reports to the driver."""

    misfit: jax.Array  # () negative log-likelihood of the current clean estimate
    calls: Calls
    extra: Any = None  # solver-specific scalars, for `record`


@pytree_dataclass
class Stats:
    """Costs and progress of a solve, one entry per example under `vmap`."""

    misfit: jax.Array  # (num_steps,)
    nfe_fwd: jax.Array  # () int32
    nvjp: jax.Array  # () int32
    njvp: jax.Array  # () int32


@pytree_dataclass
class Solution:
    """The result of `solve`."""

    x: jax.Array  # (*prior.shape)
    status: jax.Array  # () int32, see `Status`
    stats: Stats
    trace: Any = None  # leaves (num_steps, ...): what `record` returned
    carry: Any = None  # final solver state (`solve_stepwise` only)


class Solver(abc.ABC):
    """A recipe for one `lax.scan`: `init`, then `step` for each of `xs`, `finalize`.

    Solvers are frozen pytrees: float hyper-parameters are leaves, so one compiled
    program serves a sweep; integers and strategies are static. `problem` and `prior`
    are arguments of every method, never captured.
    """

    requires: ClassVar[tuple[type, type]]  # operator class, prior class
    requires_noise: ClassVar[type] = object  # class of noise models
    checked: ClassVar[tuple[str, ...]] = ()  # functions among the settings, by name
    cost_formula: ClassVar[str]  # network calls, for `diffctl list`
    reference: ClassVar[str]

    @abc.abstractmethod
    def init(self, key: jax.Array, problem: Any, prior: Any) -> tuple[Any, Any]:
        """Return `(carry, xs)`; leaves of `xs` have the leading axis num_steps."""

    @abc.abstractmethod
    def step(
        self, carry: Any, x: Any, problem: Any, prior: Any
    ) -> tuple[Any, StepTrace]:
        """Advance the carry by one element of `xs`."""

    @abc.abstractmethod
    def finalize(self, carry: Any, problem: Any, prior: Any) -> jax.Array:
        """Return the reconstruction, (*prior.shape)."""

    def check(self, problem: Any, prior: Any) -> None:  # noqa: B027 (optional)
        """Raise TypeError or ValueError on settings that cannot work together.

        Runs on the host, before anything is compiled; arrays may be tracers.
        """

    def check_memory(self, problem: Any, prior: Any, examples: int) -> None:  # noqa: B027
        """Raise ValueError if that many examples at a time would not fit into memory.

        By default nothing is known about it. Runs on the host, before all else is
        compiled; arrays may be tracers.
        """

    def calls_outside_steps(self) -> Calls:
        """Return the network calls made by `init` and `finalize` together."""
        return Calls()
