"""What priors, operators, noise and functions promise to return, checked by shapes.

JAX broadcasts: a denoiser that returns one number for a signal would go unnoticed. The
check is made while a solve is traced, with `jax.eval_shape`: nothing is computed, and a
solve that is compiled already pays nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffctl.core import (
    AmortisedEstimator,
    AmortisedSampler,
    AutoencodingPrior,
    ConditionalDiffusion,
    ConsistencyPrior,
    DiffusionPrior,
    EncodedPrior,
    GenerativePrior,
    InvertiblePrior,
    LatentPrior,
    LogDensityPrior,
    NoisyDensityPrior,
    ProximalPrior,
    QuadraticPrior,
    ScorePrior,
    SeverityPrior,
    Solver,
)
from diffctl.numerics.varying import varying_alike
from diffctl.operators.base import (
    LinearOperator,
    NoiseModel,
    Problem,
    SpectralOperator,
)
from diffctl.solvers.generative.starts import float_dtype


class Solve(NamedTuple):
    """What is solved, with arrays of the shapes that its parts are given."""

    problem: Problem
    prior: Any
    solver: Any

    @property
    def operator(self) -> Any:
        return self.problem.operator

    def zeros(self, like: Any) -> Any:
        """Return zeros like shapes and dtypes, which vary along a mesh as all else."""
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        return varying_alike((zeros, self))[0]

    def array(self, shape: tuple[int, ...]) -> jax.Array:
        dtype = float_dtype(self.problem, self.prior)
        return self.zeros(jax.ShapeDtypeStruct(shape, dtype))

    @property
    def signal(self) -> jax.Array:
        # The operator's, which is the prior's, but a plain prior may trace its own.
        return self.array(self.operator.shape)

    @property
    def level(self) -> jax.Array:
        return self.array(()) + 1

    @property
    def latent(self) -> jax.Array:
        return self.array(self.prior.latent.shape)

    @property
    def source(self) -> jax.Array:
        return self.array(self.prior.latent_shape)

    @property
    def clean(self) -> Any:
        return self.zeros(self.operator.measurement_spec())

    @property
    def spectrum(self) -> jax.Array:
        return self.array(jnp.shape(self.operator.singular_values))

    @property
    def analysed(self) -> jax.Array:
        return self.zeros(jax.eval_shape(self.prior.analysis, self.signal))

    @property
    def features(self) -> Any:
        return self.solver.features(self.problem)


class Promise(NamedTuple):
    """A call, and what it has to return: its shapes and kinds of numbers count."""

    name: str
    call: Callable[[Solve], Any]
    result: Callable[[Solve], Any]


def _signal(s: Solve) -> jax.Array:
    return s.signal


def _number(s: Solve) -> jax.Array:
    return s.level


# By the class that makes the promise; what others are derived from comes first.
OF_PRIORS: Mapping[type, tuple[Promise, ...]] = {
    DiffusionPrior: (
        Promise("denoise", lambda s: s.prior.denoise(s.signal, s.level), _signal),
    ),
    NoisyDensityPrior: (
        Promise(
            "log_density", lambda s: s.prior.log_density(s.signal, s.level), _number
        ),
    ),
    ConsistencyPrior: (
        Promise("jump", lambda s: s.prior.jump(s.signal, s.level), _signal),
    ),
    LatentPrior: (
        Promise("decode", lambda s: s.prior.decode(s.latent), _signal),
        Promise(
            "latent.denoise",
            lambda s: s.prior.latent.denoise(s.latent, s.level),
            lambda s: s.latent,
        ),
    ),
    EncodedPrior: (
        Promise("encode", lambda s: s.prior.encode(s.signal), lambda s: s.latent),
    ),
    SeverityPrior: (
        Promise(
            "estimate_latent",
            lambda s: s.prior.estimate_latent(s.problem.y),
            lambda s: (s.latent, s.level),
        ),
    ),
    QuadraticPrior: (
        Promise(
            "analysis", lambda s: s.prior.analysis(s.signal), lambda s: s.prior.target
        ),
    ),
    ProximalPrior: (
        Promise("prox", lambda s: s.prior.prox(s.signal, s.level), _signal),
        Promise(
            "analysis_adjoint", lambda s: s.prior.analysis_adjoint(s.analysed), _signal
        ),
        Promise(
            "analysis_prox",
            lambda s: s.prior.analysis_prox(s.analysed, s.level),
            lambda s: s.analysed,
        ),
    ),
    LogDensityPrior: (
        Promise(
            "neg_log_density", lambda s: s.prior.neg_log_density(s.signal), _number
        ),
    ),
    ScorePrior: (Promise("score", lambda s: s.prior.score(s.signal), _signal),),
    GenerativePrior: (Promise("decode", lambda s: s.prior.decode(s.source), _signal),),
    AutoencodingPrior: (
        Promise(
            "encode",
            lambda s: s.prior.encode(s.signal),
            lambda s: (s.source, s.source),
        ),
    ),
    InvertiblePrior: (
        Promise(
            "decode_with_log_det",
            lambda s: s.prior.decode_with_log_det(s.source),
            lambda s: (s.signal, s.level),
        ),
        Promise(
            "invert",
            lambda s: s.prior.invert(s.signal),
            lambda s: (s.source, s.level),
        ),
    ),
    AmortisedEstimator: (
        Promise("estimate", lambda s: s.prior.estimate(s.features), _signal),
    ),
    AmortisedSampler: (
        Promise(
            "decode_given",
            lambda s: s.prior.decode_given(s.source, s.features),
            _signal,
        ),
    ),
    ConditionalDiffusion: (
        Promise(
            "given(features).denoise",
            lambda s: s.prior.given(s.features).denoise(s.signal, s.level),
            _signal,
        ),
    ),
}
OF_OPERATORS: Mapping[type, tuple[Promise, ...]] = {
    SpectralOperator: (
        Promise("v", lambda s: s.operator.v(s.spectrum), _signal),
        Promise(
            "v_adjoint",
            lambda s: s.operator.v_adjoint(s.signal),
            lambda s: s.spectrum,
        ),
        Promise("u", lambda s: s.operator.u(s.spectrum), lambda s: s.clean),
        Promise(
            "u_adjoint",
            lambda s: s.operator.u_adjoint(s.clean),
            lambda s: s.spectrum,
        ),
    ),
    LinearOperator: (
        Promise("adjoint", lambda s: s.operator.adjoint(s.clean), _signal),
    ),
}
OF_NOISE: Mapping[type, tuple[Promise, ...]] = {
    NoiseModel: (
        Promise(
            "neg_log_likelihood",
            lambda s: s.problem.noise.neg_log_likelihood(s.problem.y, s.clean),
            _number,
        ),
    ),
}
# Settings that are functions of the user, by their names.
OF_SETTINGS: Mapping[str, Promise] = {
    "cost": Promise("cost", lambda s: s.solver.cost(s.problem)(s.signal), _number),
    "terminal": Promise(
        "terminal", lambda s: s.solver.terminal(s.problem)(s.signal), _number
    ),
    "data_loss": Promise(
        "data_loss", lambda s: s.solver.data_loss(s.problem, s.signal), _number
    ),
    "h_pinv": Promise(
        "h_pinv", lambda s: s.solver.h_pinv(s.operator, s.problem.y), _signal
    ),
    "up": Promise("up", lambda s: s.solver.up(s.operator, s.problem.y), _signal),
    "start_from": Promise(
        "start_from",
        lambda s: s.solver.start_from(jax.random.key(0), s.problem, s.prior),
        _signal,
    ),
}


def check_promises(problem: Problem, prior: Any, solver: Solver) -> None:
    """Raise ValueError if a part of a solve returns another shape than it has to.

    Only what the solver asks for is called, and only its shapes are found out.
    """
    solve = Solve(problem, prior, solver)
    # Wrappers that ask for nothing themselves have nothing to be checked.
    operator_kind, prior_kind = getattr(solver, "requires", (object, object))
    parts = (
        (problem.operator, operator_kind, OF_OPERATORS),
        (prior, prior_kind, OF_PRIORS),
        (problem.noise, NoiseModel, OF_NOISE),
    )
    for owner, needed, table in parts:
        for kind, promises in table.items():
            if issubclass(needed, kind) and _can_call(solver, kind):
                _check(owner, promises, solve)
    _check(solver, [OF_SETTINGS[name] for name in solver.checked], solve)


def _can_call(solver: Solver, kind: type) -> bool:
    """Return whether it is known what the methods of a class are given."""
    informed = (AmortisedEstimator, AmortisedSampler, ConditionalDiffusion)
    return kind not in informed or hasattr(solver, "features")


def _check(owner: Any, promises: Iterable[Promise], solve: Solve) -> None:
    for promise in promises:
        # Closed over, since as an argument the operator's shape might be traced, too.
        found = jax.eval_shape(partial(promise.call, solve))
        expected = jax.eval_shape(partial(promise.result, solve))
        if _signature(found) != _signature(expected):
            raise ValueError(
                f"{promise.name} of {type(owner).__name__} returns {_words(found)}; "
                f"expected {_words(expected)}. Return it for one example, without a "
                "batch axis and with all axes that the example has."
            )


def _signature(tree: Any) -> Any:
    """Return the structure of a pytree with shape and kind of its leaves."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, _kind(leaf)) for leaf in leaves]


def _kind(leaf: Any) -> Any:
    kinds = (jnp.floating, jnp.complexfloating, jnp.integer, jnp.bool_)
    return next((kind for kind in kinds if jnp.issubdtype(leaf.dtype, kind)), None)


def _words(tree: Any) -> str:
    """Describe arrays as `float32(28, 28, 1)`."""
    words = [f"{leaf.dtype}{leaf.shape}" for leaf in jax.tree.leaves(tree)]
    return words[0] if isinstance(tree, jax.ShapeDtypeStruct) else f"{words}"
