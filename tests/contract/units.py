"""One problem in another unit of the measurement: y, A and sigma_y times c."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from diffctl.operators import (
    DenseMatrix,
    GaussianNoise,
    LinearFunctionOperator,
    Problem,
)
from diffctl.operators.compose import LinearStack
from tests.contract.cases import Case, Instance


def in_units(case: Case, instance: Instance, c: float) -> Instance:
    """Return the instance with y, A and sigma_y times c, and its settings along."""
    problems = instance.problems
    scaled: Any = instance._replace(
        problems=Problem(
            y=jax.tree.map(lambda leaf: c * leaf, problems.y),
            operator=_gained(problems.operator, c),
            noise=GaussianNoise(std=c * problems.noise.std),
        )
    )
    for path, power in case.units:
        scaled = _changed(scaled, path.split("."), partial(_times, c**power))
    return scaled


def _gained(operator: Any, c: float) -> Any:
    """Return c A; of `linear_gaussian` and of `two_views`."""
    match operator:
        case DenseMatrix():
            return dataclasses.replace(operator, values=c * operator.values)
        case LinearFunctionOperator(arguments=(gain,)):
            return dataclasses.replace(operator, arguments=(c * gain,))
        case LinearStack():
            parts = tuple(_gained(part, c) for part in operator.parts)
            return dataclasses.replace(operator, parts=parts)
    raise TypeError(f"no rule for {type(operator).__name__}")


def _changed(owner: Any, names: list[str], change: Callable[[Any], Any]) -> Any:
    name, *rest = names
    value = getattr(owner, name)
    new = _changed(value, rest, change) if rest else change(value)
    if isinstance(owner, Instance):
        return owner._replace(**{name: new})
    return dataclasses.replace(owner, **{name: new})


def _times(factor: float, setting: Any) -> Any:
    if callable(setting):
        return lambda *arguments: factor * setting(*arguments)
    return factor * setting
