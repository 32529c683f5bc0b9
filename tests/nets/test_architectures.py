"""Whole networks: shapes, sizes, precision, and descriptions that rebuild them."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffctl.nets import Architecture, UNet
from diffctl.priors.network import NetworkPrior, parameter_count
from diffctl.priors.preconditioning import EDMPreconditioning
from tests.tolerances import NET_BF16, REORDER32

TINY = {
    "channels": 2, "widths": (8, 12), "blocks": (1, 1), "embedding": 16, "groups": 4,
}  # fmt: skip
SHAPE = (8, 8, 2)


def _tiny(seed=0):
    """Return a U-Net none of whose branches is switched off by its zero start."""
    leaves, structure = jax.tree.flatten(Architecture.of("unet", **TINY).abstract())
    rng = np.random.default_rng(seed)
    values = [jnp.asarray(0.3 * rng.normal(size=leaf.shape)) for leaf in leaves]
    return jax.tree.unflatten(structure, values)


def _x(dtype=float):
    return jnp.asarray(np.random.default_rng(1).normal(size=SHAPE), dtype)


def test_the_default_network_has_a_million_parameters():
    net = nnx.eval_shape(lambda: UNet(channels=1, rngs=nnx.Rngs(0)))
    assert parameter_count(net) == 1_025_652
    out = jax.eval_shape(
        lambda net, x: net(x, jnp.float32(0.0)),
        net,
        jax.ShapeDtypeStruct((28, 28, 1), jnp.float32),
    )
    assert (out.shape, out.dtype) == ((28, 28, 1), jnp.float32)


@pytest.mark.parametrize("name", ["unet", "small_classifier"])
def test_every_leaf_is_a_parameter(name):
    net = Architecture.of(name, channels=1).abstract()
    state = nnx.state(net)
    parameters = nnx.state(net, nnx.Param)
    assert len(jax.tree.leaves(net)) == len(jax.tree.leaves(parameters))
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(parameters))


def test_the_noise_label_and_the_image_both_matter():
    net = _tiny()
    evaluate = jax.jit(lambda net, x, label: net(x, label))
    first = evaluate(net, _x(), jnp.float32(0.3))
    assert first.shape == SHAPE
    other_label = evaluate(net, _x(), jnp.float32(-1.0))
    shifted = evaluate(net, jnp.roll(_x(), 4, axis=0), jnp.float32(0.3))
    assert jnp.max(jnp.abs(first - other_label)) > 1e-2
    assert jnp.max(jnp.abs(first - shifted)) > 1e-2


def test_precisions_agree_and_the_state_keeps_its_own():
    prior = NetworkPrior(
        net=_tiny(),
        preconditioning=EDMPreconditioning(),
        architecture=Architecture.of("unet", **TINY),
        shape=SHAPE,
    )
    half = dataclasses.replace(prior, dtype=jnp.bfloat16)
    denoise = jax.jit(lambda prior, x, sigma: prior.denoise(x, sigma))
    found = denoise(prior, _x(), 0.7)
    scale = jnp.max(jnp.abs(found))
    rounded = denoise(half, _x(), 0.7)
    assert rounded.dtype == found.dtype == jnp.float32
    # bfloat16 has 8 bits. Measured on this untrained network: 7e-3 of the scale.
    chex.assert_trees_all_close(rounded / scale, found / scale, **NET_BF16)
    assert jnp.any(rounded != found)
    with jax.enable_x64(True):
        wide = denoise(prior, _x(jnp.float64), 0.7)
        assert wide.dtype == jnp.float64
        chex.assert_trees_all_close(np.float64(found), wide, **REORDER32)
        single = denoise(prior, _x(jnp.float32), 0.7)
        assert single.dtype == jnp.float32


def test_descriptions_rebuild_networks():
    description = Architecture.of("small_classifier", width=4, classes=3)
    assert hash(description) == hash(
        Architecture.of("small_classifier", classes=3, width=4)
    )
    image = jax.ShapeDtypeStruct((28, 28, 1), jnp.float32)
    logits = jax.eval_shape(lambda net, x: net(x), description.abstract(), image)
    assert logits.shape == (3,)
    assert Architecture.of("unet", **TINY).to_json()["arguments"]["widths"] == [8, 12]
    with pytest.raises(ValueError, match=r"no network called 'vnet'; .*unet"):
        Architecture.of("vnet")


LADDER = {"width": 32, "blocks": 1}


@pytest.mark.parametrize("modulation", ["film", "additive"])
@pytest.mark.parametrize("resample", ["convolution", "residual"])
@pytest.mark.parametrize("classes", [0, 4])
def test_variants_of_the_ddpm_network_fit_together(modulation, resample, classes):
    """Wiring only; the numbers are compared with PyTorch in `weights_convert`."""
    architecture = Architecture.of(
        "ddpm_unet",
        channels=[3, 32, 6],
        down=[LADDER | {"resample": resample}, LADDER | {"width": 64, "heads": 2}],
        up=[
            {"width": 64, "blocks": 2, "heads": 2, "resample": resample},
            {"width": 32, "blocks": 2},
        ],
        middle={"heads": 0, "gain": 0.5, "norm": True},
        style={"groups": 8, "epsilon": 1e-5, "modulation": modulation},
        time={"shift": 0, "sines_first": False},
        classes=classes,
    )
    net = architecture.abstract()
    more = {"label": jnp.int32(1)} if classes else {}
    x = jax.ShapeDtypeStruct((8, 8, 3), jnp.bfloat16)
    out = jax.eval_shape(lambda net, x: net(x, jnp.float32(7.5), **more), net, x)
    assert (out.shape, out.dtype) == ((8, 8, 6), jnp.bfloat16)


@pytest.mark.slow
def test_the_network_of_the_faces_runs():
    """93 million parameters at 256 pixels: a forward pass and a VJP, on any device."""
    widths = [128, 128, 256, 256, 512, 512]
    levels = [{"width": width, "blocks": 1} for width in widths]
    levels[4] |= {"heads": 8, "heads_up": 8}
    architecture = Architecture.of(
        "adm_unet", channels=[3, 6], width=128, levels=levels, middle_heads=8
    )
    leaves, structure = jax.tree.flatten(architecture.abstract())
    rng = np.random.default_rng(0)

    def drawn(shape):
        values = rng.standard_normal(shape, np.float32)
        return jnp.asarray(values / np.sqrt(max(1, np.prod(shape[:-1]))))

    net = jax.tree.unflatten(structure, [drawn(leaf.shape) for leaf in leaves])
    assert parameter_count(net) == 93_563_910
    x = jnp.asarray(rng.standard_normal((256, 256, 3), np.float32))

    @jax.jit
    def both(net, x):
        out, pull = jax.vjp(lambda x: net(x, jnp.float32(500.0)), x)
        return out, pull(out)[0]

    out, gradient = both(net, x)
    assert (out.shape, gradient.shape) == ((256, 256, 6), x.shape)
    chex.assert_tree_all_finite((out, gradient))
    assert jnp.any(gradient != 0)
