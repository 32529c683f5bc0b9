"""Weights are stored by value, however an array lies in memory."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.experimental.layout import Format, Layout
from safetensors.numpy import load_file

from diffctl import checkpoint
from diffctl.nets import Architecture
from diffctl.priors import NetworkPrior
from diffctl.priors.generative.networks import GeneratorPrior
from diffctl.priors.storage import write_weights
from weights_convert import export

BASE = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
LAYOUTS = {
    "plain": BASE,
    "Fortran order": np.asfortranarray(BASE),
    "transposed": BASE.T,
    "axes moved": np.moveaxis(BASE.reshape(2, 2, 6), -1, 0),
    "every second": BASE[:, ::2],
    "a column": BASE[:, 1],
    "a diagonal": np.diagonal(BASE),
    "reversed": BASE[::-1, ::-1],
    "broadcast": np.broadcast_to(BASE[0], (3, 6)),
    "one value": np.broadcast_to(np.float32(0.3), (2, 5)),
    "of a structure": np.array([(1, 2.0), (3, 4.0)], [("i", "i4"), ("x", "f4")])["x"],
    "big-endian": BASE.astype(">f4"),
    "big-endian, transposed": BASE.astype(">f4").T,
    "half, transposed": BASE.astype(np.float16).T,
    "bfloat16, every second": BASE.astype(ml_dtypes.bfloat16)[:, ::2],
    "scalar": np.float32(0.7),
    "0-d": np.array(0.7, np.float32),
    "0-d, big-endian": np.array(0.7, ">f4"),
    "empty, transposed": np.zeros((3, 0), np.float32).T,
}
NATIVE = {name: np.asarray(a).astype(a.dtype.newbyteorder("=")) for name, a in
          LAYOUTS.items()}  # fmt: skip


def _assert_stored(path):
    found = load_file(path)
    assert set(found) == set(LAYOUTS)
    for name, expected in NATIVE.items():
        assert found[name].shape == expected.shape, name
        assert found[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_the_writer_stores_values(tmp_path):
    write_weights(tmp_path / "weights.safetensors", LAYOUTS)
    _assert_stored(tmp_path / "weights.safetensors")


def test_the_exporter_stores_values(tmp_path):
    export.write(tmp_path / "weights.safetensors", LAYOUTS)
    _assert_stored(tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"steps has dtype int64.*Cast it"):
        export.write(tmp_path / "other.safetensors", {"steps": np.arange(3)})
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_checkpoints_store_values(tmp_path):
    checkpoint.save(tmp_path / "state", LAYOUTS)
    found = checkpoint.restore(tmp_path / "state", LAYOUTS)
    for name, expected in NATIVE.items():
        np.testing.assert_array_equal(np.asarray(found[name]), expected, err_msg=name)


def test_arrays_of_jax_in_another_layout(tmp_path):
    """A compiled program may hand out its results column by column."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    columns = Format(Layout(major_to_minor=(1, 0)), device)
    array = jax.jit(lambda x: 2 * x, out_shardings=columns)(jnp.asarray(BASE))
    assert not np.asarray(array).flags.c_contiguous, "or this test tests nothing"
    write_weights(tmp_path / "weights.safetensors", {"kernel": array})
    found = load_file(tmp_path / "weights.safetensors")["kernel"]
    np.testing.assert_array_equal(found, 2 * BASE)
    checkpoint.save(tmp_path / "state", array)
    np.testing.assert_array_equal(checkpoint.restore(tmp_path / "state", array), found)


def _by_columns(tree):
    """Replace every leaf by an equal one of Fortran order."""
    return jax.tree.map(lambda leaf: np.asfortranarray(np.asarray(leaf)), tree)


def _network_prior():
    arguments = {"channels": 1, "widths": [4], "blocks": [1], "embedding": 8}
    architecture = Architecture.of("unet", **arguments, groups=2, heads=1)
    return NetworkPrior.create(architecture, (8, 8, 1), key=jax.random.key(0))


def _generator():
    architecture = Architecture.of(
        "small_decoder", latent=3, size=8, channels=1, width=4
    )
    return GeneratorPrior.create(architecture, (8, 8, 1), key=jax.random.key(0))


@pytest.mark.parametrize("create", [_network_prior, _generator])
def test_priors_with_strided_leaves_come_back_whole(create, tmp_path):
    prior = create()
    dataclasses.replace(prior, net=_by_columns(prior.net)).save(tmp_path / "prior")
    chex.assert_trees_all_equal(type(prior).restore(tmp_path / "prior"), prior)
