"""A prior that counts what is really computed, whatever transforms surround it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from diffctl.core import (
    AmortisedEstimator,
    AmortisedSampler,
    AutoencodingPrior,
    ConditionalDiffusion,
    ConsistencyPrior,
    DiffusionPrior,
    GenerativePrior,
    InvertiblePrior,
    LogDensityPrior,
    NoisyDensityPrior,
)
from diffctl.pytree import pytree_dataclass

_counts: Counter[str] = Counter()


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Yield a counter of "fwd", "jvp" and "vjp", one for each example and probe."""
    _counts.clear()
    yield _counts
    jax.effects_barrier()


class _Counting:
    """Any prior, with every evaluation, JVP and VJP of it counted as it runs."""

    inner: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.inner.latent_shape


def _seen(x: jax.Array) -> jax.Array:
    # At the input: the output of a forward that only serves a VJP goes unused.
    return _tally_p.bind(x, kind="fwd", times=1)


@pytree_dataclass
class CountingDiffusion(_Counting, DiffusionPrior):
    inner: DiffusionPrior

    def denoise(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        return self.inner.denoise(_seen(x), sigma)


@pytree_dataclass
class CountingNoisyDensity(CountingDiffusion, NoisyDensityPrior):
    """An evaluation of the density counts as a forward."""

    inner: NoisyDensityPrior

    def log_density(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        return self.inner.log_density(_seen(x), sigma)


@pytree_dataclass
class CountingDensity(_Counting, LogDensityPrior):
    inner: LogDensityPrior

    def neg_log_density(self, x: jax.Array) -> jax.Array:
        return self.inner.neg_log_density(_seen(x))


@pytree_dataclass
class CountingGenerator(_Counting, GenerativePrior):
    inner: GenerativePrior

    def decode(self, z: jax.Array) -> jax.Array:
        return self.inner.decode(_seen(z))


@pytree_dataclass
class CountingAutoencoder(CountingGenerator, AutoencodingPrior):
    inner: AutoencodingPrior

    @property
    def decoder_std(self) -> Any:  # type: ignore[override]
        return self.inner.decoder_std

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.inner.encode(_seen(x))


@pytree_dataclass
class CountingFlow(_Counting, InvertiblePrior):
    inner: InvertiblePrior

    def decode_with_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.inner.decode_with_log_det(_seen(z))

    def invert(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.inner.invert(_seen(x))


@pytree_dataclass
class CountingEstimator(_Counting, AmortisedEstimator):
    inner: AmortisedEstimator

    def estimate(self, features: jax.Array) -> jax.Array:
        return self.inner.estimate(_seen(features))


@pytree_dataclass
class CountingSampler(_Counting, AmortisedSampler):
    inner: AmortisedSampler

    def decode_given(self, z: jax.Array, features: jax.Array) -> jax.Array:
        return self.inner.decode_given(_seen(z), features)


@pytree_dataclass
class CountingConditional(_Counting, ConditionalDiffusion):
    inner: ConditionalDiffusion

    def given(self, features: jax.Array) -> DiffusionPrior:
        return CountingDiffusion(inner=self.inner.given(features))


@pytree_dataclass
class CountingConsistency(_Counting, ConsistencyPrior):
    inner: ConsistencyPrior

    @property
    def sigma_min(self) -> Any:  # type: ignore[override]
        return self.inner.sigma_min

    @property
    def sigma_max(self) -> Any:  # type: ignore[override]
        return self.inner.sigma_max

    def jump(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        return self.inner.jump(_seen(x), sigma)


# What can do more comes first.
_WRAPPERS: dict[type, Any] = {
    InvertiblePrior: CountingFlow,
    AutoencodingPrior: CountingAutoencoder,
    GenerativePrior: CountingGenerator,
    LogDensityPrior: CountingDensity,
    AmortisedEstimator: CountingEstimator,
    AmortisedSampler: CountingSampler,
    ConditionalDiffusion: CountingConditional,
    ConsistencyPrior: CountingConsistency,
    NoisyDensityPrior: CountingNoisyDensity,
    DiffusionPrior: CountingDiffusion,
}


def counted(prior: Any) -> Any:
    """Return a prior in which every prior with a network counts: itself, or parts."""

    def is_counted(node: Any) -> bool:
        return isinstance(node, tuple(_WRAPPERS))

    def wrap(node: Any) -> Any:
        for kind, wrapper in _WRAPPERS.items():
            if isinstance(node, kind):
                return wrapper(inner=node)
        return node

    return jax.tree.map(wrap, prior, is_leaf=is_counted)


def _tally(x: jax.Array, *, kind: str, times: int) -> jax.Array:
    def on_host(x: Any) -> Any:
        _counts[kind] += times
        return x

    # Pure, so that the compiler removes the count together with an unused network call.
    return jax.pure_callback(on_host, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def _jvp(primals: Any, tangents: Any, *, kind: str, times: int) -> tuple[Any, Any]:
    (x,), (dx,) = primals, tangents
    out = _tally_p.bind(x, kind=kind, times=times)
    if isinstance(dx, ad.Zero):
        return out, dx
    linear = "jvp" if kind == "fwd" else kind
    return out, _tally_p.bind(dx, kind=linear, times=times)


def _transpose(ct: Any, x: Any, *, kind: str, times: int) -> tuple[Any]:
    if isinstance(ct, ad.Zero):
        return (ct,)
    return (_tally_p.bind(ct, kind="vjp", times=times),)


def _batch(args: Any, dims: Any, *, kind: str, times: int) -> tuple[Any, Any]:
    (x,), (dim,) = args, dims
    return _tally_p.bind(x, kind=kind, times=times * x.shape[dim]), dim


_tally_p = Primitive("tally")
_tally_p.def_impl(_tally)
_tally_p.def_abstract_eval(lambda x, **_: jax.core.ShapedArray(x.shape, x.dtype))
mlir.register_lowering(_tally_p, mlir.lower_fun(_tally, multiple_results=False))
ad.primitive_jvps[_tally_p] = _jvp
ad.primitive_transposes[_tally_p] = _transpose
batching.primitive_batchers[_tally_p] = _batch
