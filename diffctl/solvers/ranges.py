"""Ranges of the settings that solvers and what they are made of share by name."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffctl.numerics.concrete import is_known
from diffctl.numerics.precision import as_computed


class Range(NamedTuple):
    """The numbers from `low` to `high`, and how an error calls them."""

    low: float
    high: float
    words: str


_UNIT = Range(0.0, 1.0, "a number from 0 to 1")
_PART = Range(0.0, math.nextafter(1.0, 0.0), "a number from 0 to below 1")
_COUNT = Range(1, math.inf, "at least 1")
_POSITIVE = Range(math.ulp(0.0), math.inf, "a positive number")

RANGES: Mapping[str, Range] = {
    "eta": _UNIT,
    "eta_b": _UNIT,
    "zeta": _UNIT,
    "relaxation": _UNIT,
    "cutoff": _UNIT,
    "threshold": _UNIT,
    "momentum": _PART,
    "signal_std": _POSITIVE,
    "gain": _POSITIVE,
    "unit": _POSITIVE,
    "initial_std": _POSITIVE,
    "sigma_score": _POSITIVE,
    "kappa": _POSITIVE,
    "fraction": _POSITIVE,
    "step_size": _POSITIVE,
    "penalty": _POSITIVE,
    "final_penalty": _POSITIVE,
    "num_steps": _COUNT,
    "num_inner": _COUNT,
    "num_sweeps": _COUNT,
    "num_repeats": _COUNT,
    "num_leapfrog": _COUNT,
    "num_products": _COUNT,
    "num_pairs": _COUNT,
    "num_probes": _COUNT,
    "num_particles": _COUNT,
    "num_restarts": _COUNT,
    "rank": _COUNT,
    "window": _COUNT,
    "patience": _COUNT,
    "every": _COUNT,
    "lookahead": _COUNT,
}


def check_ranges(solver: Any) -> None:
    """Raise ValueError if a setting, however deep, is out of its range or NaN.

    Tracers are not looked at, nor what is no number: left out, or a rule.
    """
    for owner, name, value in _settings(solver):
        if name in RANGES and not (value is None or callable(value)):
            check_setting(type(owner).__name__, name, value)


def check_setting(owner: str, name: str, value: Any) -> None:
    """Raise ValueError if a setting of `owner` is out of its range or NaN.

    It has to be in it in the precision of the computation, too. Tracers are not looked
    at.
    """
    low, high, words = RANGES[name]
    if not is_known(value):
        return
    computed = as_computed(value)
    rounded = f", which becomes {computed} in {computed.dtype}"
    for numbers, note in ((value, ""), (computed, rounded)):
        # In float64: next to float32 numbers NumPy would round the ends to float32.
        exact = np.asarray(numbers, np.float64)
        if not np.all((low <= exact) & (exact <= high)):
            raise ValueError(f"{name} of {owner} is {value}{note}; expected {words}.")


def _settings(owner: Any) -> Iterator[tuple[Any, str, Any]]:
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _settings(value)
        else:
            yield owner, field.name, value
