"""Digests: equal for equal trees wherever they are made, different for others."""

import dataclasses
import functools
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffctl
from diffctl.digest import digest
from diffctl.solvers import DOC, DPS, TDS, likelihood, residual_norm
from tests.solvers.bed import bed, grid, mixture

KEY = jax.random.key(3)


def _scaled(factor):
    return lambda x: factor * x


def _wrapped(function, factor):
    @functools.wraps(function)
    def inner(x):
        return factor * function(x)

    return inner


def _of_x(function):
    return dataclasses.replace(DPS(grid=grid(2)), cost=function)


def _with_a_module():
    import math

    return lambda x: math.pi * x


def _with_an_empty_cell():
    def inner(x):
        return x if later is None else later

    if inner is None:
        later = 0.0
    return inner


class _Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x


class _SlottedTwice(_Slotted):
    __slots__ = ("__shift",)

    def __init__(self, factor, shift):
        super().__init__(factor)
        self.__shift = shift


class _Logging:
    def __init__(self, factor):
        self.factor, self.calls, self.cache = factor, 0, {}
        self.lock, self.log = threading.Lock(), logging.getLogger(__name__)

    def __call__(self, x):
        with self.lock:
            self.calls += 1
            self.cache[self.calls] = x
            self.log.debug("called")
        return self.factor * x


SAME = {
    "places of a number": [0.5, np.float32(0.5), np.float64(0.5), jnp.float32(0.5)],
    "places of an array": [np.arange(3.0), jnp.arange(3.0), np.arange(6.0)[::2] / 2],
    "order of memory": [np.ones((2, 3)), np.ones((3, 2)).T, np.ones((2, 3), order="F")],
    "orders of a dictionary": [{"a": 1, "b": 2}, {"b": 2, "a": 1}],
    "static integers": [DPS(grid=grid(3)), DPS(grid=grid(3))],
    "keys": [KEY, jax.random.key(3)],
    "functions made twice": [_of_x(_scaled(2.0)), _of_x(_scaled(2.0))],
    "compiled functions": [_of_x(jax.jit(_scaled)), _of_x(jax.jit(_scaled))],
    "modules": [_of_x(_with_a_module()), _of_x(_with_a_module())],
    "empty cells": [_of_x(_with_an_empty_cell()), _of_x(_with_an_empty_cell())],
    "objects made twice": [_of_x(_Logging(2.0)), _of_x(_Logging(2.0))],
    "slots": [_of_x(_SlottedTwice(2.0, 1)), _of_x(_SlottedTwice(2.0, 1))],
    "methods of arrays": [_of_x(np.eye(2).dot), _of_x(np.eye(2).dot)],
}
DIFFERENT = {
    "values": [np.arange(3.0), np.arange(1.0, 4.0), np.arange(3), np.arange(3.0)[None]],
    "kinds of nothing": [(), None, [], {}],
    "nesting": [(1.0, (2.0, 3.0)), ((1.0, 2.0), 3.0), (1.0, 2.0, 3.0)],
    "keys": [KEY, jax.random.key(4), jax.random.key(3, impl="rbg")],
    "classes": [
        DPS(grid=grid(3)),
        DOC(grid=grid(3)),
        TDS(grid=grid(3), num_particles=2),
    ],
    "grids": [DPS(grid=grid(3)), DPS(grid=grid(4)), DPS(grid=grid(3, 6.1))],
    "named functions": [_of_x(likelihood), _of_x(residual_norm), _of_x(jnp.tanh)],
    "functions in functions": [_of_x(_scaled(2.0)), _of_x(_scaled(3.0))],
    "arrays in functions": [_of_x(_scaled(np.ones(2))), _of_x(_scaled(np.zeros(2)))],
    "wrapped functions": [
        _of_x(jnp.sin),
        _of_x(_wrapped(likelihood, 2)),
        _of_x(_wrapped(likelihood, 3)),
        _of_x(_wrapped(residual_norm, 3)),
    ],
    "lambdas": [_of_x(lambda x: x), _of_x(lambda x: x + 1), _of_x(lambda x: x + 2)],
    "partial functions": [
        _of_x(functools.partial(max, 1)),
        _of_x(functools.partial(max, 2)),
        _of_x(functools.partial(min, 2)),
    ],
    "methods": [_of_x(bed().denoise), _of_x(bed().jacobian), _of_x([].append)],
    "descriptors": [_of_x(_scaled(f)) for f in (str.join, str.split, int.__add__)],
    "modules": [_of_x(_scaled(np)), _of_x(_scaled(jnp)), _of_x(_with_a_module())],
    "cells": [_of_x(_with_an_empty_cell()), _of_x(_scaled(None))],
    "slots": [
        _of_x(_Slotted(2.0)),
        _of_x(_Slotted(3.0)),
        _of_x(_SlottedTwice(2.0, 0)),
        _of_x(_SlottedTwice(2.0, 1)),
        _of_x(_SlottedTwice(3.0, 1)),
    ],
    "objects": [_of_x(_Logging(2.0)), _of_x(_Logging(3.0))],
    "methods of arrays": [
        _of_x(np.eye(2).dot),
        _of_x((2 * np.eye(2)).dot),
        _of_x((2.0).__mul__),
        _of_x((3.0).__mul__),
    ],
    "settings": [DPS(grid=grid(3)), DPS(grid=grid(3), guidance_scale=0.3)],
    "operators": [bed().problem(), dataclasses.replace(bed().problem(), noise=None)],
    "sets": [_of_x(frozenset({1, 2})), _of_x(frozenset({1, 3})), _of_x(frozenset())],
    "types": [_of_x(int), _of_x(float), _of_x(np.dtype("f4")), _of_x(np.dtype("f8"))],
    "numbers and words": [_of_x(1), _of_x(True), _of_x("1"), _of_x(b"1"), _of_x(1.0)],
}


@pytest.mark.parametrize("name", SAME)
def test_equal_trees_have_one_digest(name):
    assert len({digest(tree) for tree in SAME[name]}) == 1


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_trees_have_different_digests(name):
    trees = DIFFERENT[name]
    assert len({digest(tree) for tree in trees}) == len(trees)


def test_a_setting_may_hold_itself():
    around = [1]
    around.append(around)
    assert digest(_of_x(around)) == digest(_of_x(around))


def _chained(function):
    return lambda x: function(x)


def _counting():
    calls = []
    return lambda x: (calls.append(x), x)[1]


@pytest.mark.parametrize(
    "function",
    [
        _Logging(2.0),
        _Logging(2.0).__call__,
        functools.partial(_Logging(2.0)),
        _chained(_Logging(2.0)),
        _counting(),
    ],
)
def test_a_call_does_not_change_the_digest(function):
    before = digest(_of_x(function))
    jax.eval_shape(function, 1.0)
    assert digest(_of_x(function)) == before


def test_traced_values_in_a_cache_count_as_such():
    function = _Logging(2.0)
    jax.eval_shape(function, 1.0)
    assert len(digest(_of_x(function))) == 32


def _everything():
    prior = diffctl.assets.digits_prior()
    solvers = (DPS(grid=grid(3)), DOC.default())
    return KEY, bed().problem(), mixture(), prior, solvers, _of_x(_scaled(2.0))


_IN_ANOTHER_PROCESS = """
from tests.test_digest import _everything, digest
print(digest(_everything()).hex())
"""


def test_another_process_finds_the_same():
    environment = os.environ | {
        "PYTHONHASHSEED": "77",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "JAX_PLATFORMS": "cpu",
    }
    found = subprocess.run(
        [sys.executable, "-c", _IN_ANOTHER_PROCESS],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == digest(_everything()).hex()


# Of Python 3.11 and 3.13, jax 0.10.2 and 0.12.0.1.
KNOWN = "8bd6fde36ca978c96a548b5cac0c69ba32203d1d51402cda18181cfb43f27251"


def test_the_digest_of_the_shipped_prior_stays():
    """One that changed would refuse states of solves that were saved before."""
    assert digest(diffctl.assets.digits_prior()).hex() == KNOWN
