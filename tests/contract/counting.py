"""A prior that counts what is really computed, whatever transforms surround it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from diffctl.core import DiffusionPrior, NoisyDensityPrior
from diffctl.pytree import pytree_dataclass

_counts: Counter[str] = Counter()


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Yield a counter of "fwd", "jvp" and "vjp", one for each example and probe."""
    _counts.clear()
    yield _counts
    jax.effects_barrier()


@pytree_dataclass
class CountingPrior(DiffusionPrior):
    """Any prior, with every evaluation, JVP and VJP of it counted as it runs."""

    inner: DiffusionPrior

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.inner.shape

    def denoise(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        # At the input: the output of a forward that only serves a VJP goes unused.
        return self.inner.denoise(_tally_p.bind(x, kind="fwd", times=1), sigma)


@pytree_dataclass
class CountingDensityPrior(CountingPrior, NoisyDensityPrior):
    """The same for a prior with a density: an evaluation of it counts as a forward."""

    inner: NoisyDensityPrior

    def log_density(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        return self.inner.log_density(_tally_p.bind(x, kind="fwd", times=1), sigma)


def counted(prior: Any) -> Any:
    """Return a prior in which every diffusion prior counts: itself, or parts of it."""

    def is_counted(node: Any) -> bool:
        return isinstance(node, DiffusionPrior)

    def wrap(node: Any) -> Any:
        if isinstance(node, NoisyDensityPrior):
            return CountingDensityPrior(inner=node)
        return CountingPrior(inner=node) if is_counted(node) else node

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
