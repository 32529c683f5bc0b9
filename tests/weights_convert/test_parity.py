"""Converted networks against recorded PyTorch outputs and derivatives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixture_files import HERE
from tests.weights_convert.fixture_networks import (
    FOLDERS,
    ids,
    meta,
    reference,
    subjects,
)
from weights_convert.heads import heads
from weights_convert.parity import (
    channels_last,
    compare,
    compare_probes,
    derivatives,
    evaluate,
    head_inputs,
    head_names,
    inputs_of,
    limit_of,
    uncompared,
)


@pytest.fixture(scope="module", params=FOLDERS, ids=ids(FOLDERS))
def folder(request):
    """Keep the compiled programs of one folder at a time."""
    yield request.param
    jax.clear_caches()


# Recorded for wiring that no other folder has; once, in single precision, shows it.
_VARIANTS = ("diffusers_resnet", "ldm_kl")


def _slow(is_slow):
    return [
        pytest.param(folder, marks=pytest.mark.slow) if is_slow(folder) else folder
        for folder in FOLDERS
    ]


# What float32 has shown already, once more in other ways: for the repository's own.
_SELDOM = _slow(lambda f: HERE not in f.parents or f.name in _VARIANTS)
# Outputs that a reference records beside the heads of meta.json.
_EXTRAS = ("mean", "logvar_clipped", "reconstruction_of_mean", "grad_logp", "logp")
_EXTRA_PREFIXES = ("out_augmented", "out_no_labels")


def _failures(rows):
    return [
        f"{row.head} {row.quantity}: {row.relative:.1e} > {row.limit:.1e}"
        for row in rows
        if not row.passed
    ]


def _recorded(folder, *, double):
    """Return everything in a reference that must have been compared."""
    arrays = reference(folder)
    suffix = "_f64" if double else ""
    expected = set()
    for name, head in meta(folder)["heads"].items():
        if f"out{suffix}" in {array.split("__")[0] for array in head["arrays"]}:
            expected |= {(name, quantity) for quantity in ("out", "vjp", "jvp")}
    for name in arrays:
        stem = name.removesuffix("_f64")
        is_double = stem != name
        extra = stem in _EXTRAS or stem.startswith(_EXTRA_PREFIXES)
        if extra and is_double == double:
            expected.add((stem, "vjp" if stem.startswith("grad") else "out"))
    return expected


def test_outputs_and_derivatives_are_those_of_pytorch(folder):
    """In float32, compiled, in batches; the limits are those of the fixtures."""
    rows = [r for s in subjects(folder) for r in compare(s, reference(folder))]
    assert not _failures(rows)
    assert {(row.head, row.quantity) for row in rows} == _recorded(folder, double=False)


@pytest.mark.parametrize("folder", _SELDOM, ids=ids(FOLDERS), indirect=True)
@pytest.mark.usefixtures("x64")
def test_in_double_precision_nothing_but_rounding_is_left(folder):
    rows = [
        r for s in subjects(folder) for r in compare(s, reference(folder), np.float64)
    ]
    assert not _failures(rows)
    assert {(row.head, row.quantity) for row in rows} == _recorded(folder, double=True)


def _first_example(folder):
    """Return function, network and the first example of the first head."""
    subject, arrays = subjects(folder)[0], reference(folder)
    name = next(iter(meta(folder)["heads"]))
    tag = "" if name == "default" else f"__{name}"
    head = heads(subject.family, subject.preconditioning)[name]
    value, cotangent, tangent = head_inputs(head, tag, arrays, np.float32)
    rest = head.prepare(inputs_of(arrays, np.float32))
    first = jax.tree.map(lambda array: array[0], (value, rest, cotangent, tangent))
    return head.function, subject.net, first, tag


def _assert_first_recorded(folder, quantity, tag, found):
    arrays = reference(folder)
    expected = channels_last(arrays[f"{quantity}{tag}"])[0]
    # A single example may be off by more than the whole batch.
    limit = 3 * limit_of(arrays, quantity, tag, np.float32)
    difference = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert difference <= limit, (quantity, difference, limit)


@pytest.mark.parametrize("folder", _SELDOM, ids=ids(FOLDERS), indirect=True)
def test_one_example_uncompiled_is_the_same(folder):
    """Neither jit nor vmap."""
    function, net, (value, rest, _, _), tag = _first_example(folder)
    _assert_first_recorded(folder, "out", tag, function(net, value, rest))


@pytest.mark.slow
def test_derivatives_uncompiled_are_the_same(folder):
    function, net, first, tag = _first_example(folder)
    for quantity, found in derivatives(function, net, *first).items():
        _assert_first_recorded(folder, quantity, tag, found)


def test_intermediate_values_are_those_of_pytorch(folder):
    rows = compare_probes(subjects(folder)[0], reference(folder))
    assert not _failures(rows)


def test_half_precision_is_close():
    """bfloat16 has 8 bits; measured 2e-2 through a whole network."""
    folder = next(f for f in FOLDERS if meta(f)["family"] == "guided_diffusion_unet")
    subject, arrays = subjects(folder)[0], reference(folder)
    name, tag = next(iter(head_names(arrays)))
    head = heads(subject.family, subject.preconditioning)[name]
    value = channels_last(arrays["x"]).astype(jnp.bfloat16)
    found = evaluate(head.function, subject.net, value, inputs_of(arrays, np.float32))
    assert found.dtype == jnp.bfloat16
    expected = channels_last(arrays[f"out{tag}"])
    difference = np.linalg.norm(np.float32(found) - expected)
    assert difference <= 0.1 * np.linalg.norm(expected)


def test_a_wrong_network_fails():
    """A parameter off by one part in a hundred is far outside every limit."""
    folder = FOLDERS[0]
    subject = subjects(folder)[0]
    leaves, structure = jax.tree.flatten(subject.net)
    changed = [1.01 * leaf if leaf.ndim > 1 else leaf for leaf in leaves]
    wrong = subject._replace(net=jax.tree.unflatten(structure, changed))
    rows = compare(wrong, reference(folder))
    assert all(not row.passed for row in rows), rows
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, subject.net)
    rows = compare(subject._replace(net=broken), reference(folder))
    assert all(not row.passed for row in rows), rows


# Taken from a reference, and what can still be compared.
PARTIAL = {
    "tan": ({"out", "vjp"}, "jvp of default is not compared: .* no array tan"),
    "ct": ({"out", "jvp"}, "vjp of default is not compared: .* no array ct"),
    "vjp": ({"out", "jvp"}, "no array vjp"),
    "tan ct vjp jvp": ({"out"}, "no array vjp"),
}


@pytest.mark.parametrize("names", PARTIAL)
def test_a_reference_without_some_arrays_is_compared_in_part(names):
    folder = next(f for f in FOLDERS if meta(f)["family"] == "mnist_cnn")
    subject, arrays = subjects(folder)[0], reference(folder)
    left = {
        name: array
        for name, array in arrays.items()
        if name.removesuffix("_f64") not in names.split()
    }
    compared, message = PARTIAL[names]
    rows = compare(subject, left)
    assert not _failures(rows)
    assert {row.quantity for row in rows if row.head == "default"} == compared
    lines = "\n".join(uncompared(subject.family, left))
    assert re.search(message, lines)
    assert not uncompared(subject.family, arrays)


def test_a_reference_without_inputs_is_told():
    folder = next(f for f in FOLDERS if meta(f)["family"] == "guided_diffusion_unet")
    for name in ("x", "t"):
        left = {n: array for n, array in reference(folder).items() if n != name}
        with pytest.raises(ValueError, match=f"reference has no array '{name}'"):
            compare(subjects(folder)[0], left)
