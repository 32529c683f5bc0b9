"""Rules as data: what they match, and the errors when file and network disagree."""

import chex
import jax
import numpy as np
import pytest
from flax import nnx

from diffctl.nets.blocks import BlockStyle
from diffctl.nets.layers import Linear
from weights_convert.mapping import (
    Layer,
    MappingError,
    Rule,
    expected_tensors,
    leaves_of,
    match,
    nest,
    rules,
)
from weights_convert.transforms import TRANSFORMS, Leaf, forward, inverse


class Net(nnx.Module):
    """Two levels and an attention block, enough for every kind of rule."""

    def __init__(self, rngs):
        style = BlockStyle(groups=2)
        self.up = nnx.List([Linear(2, 3, rngs=rngs), Linear(2, 5, rngs=rngs)])
        self.attention = style.attention(4, 2, rngs)


LAYERS = [
    Layer("level.{~i}.fc", "up.{i}", "linear"),
    *nest(
        "attn",
        "attention",
        [
            Layer("norm", "norm", "norm"),
            Layer("q", "qkv", "linear", part=0),
            Layer("k", "qkv", "linear", part=1),
            Layer("v", "qkv", "linear", part=2),
            Layer("out", "out", "linear"),
        ],
    ),
]
SHAPES = {
    "level.1.fc.weight": (3, 2),
    "level.1.fc.bias": (3,),
    "level.0.fc.weight": (5, 2),
    "level.0.fc.bias": (5,),
    **{f"attn.{name}.weight": (4, 4) for name in ("q", "k", "v", "out")},
    **{f"attn.{name}.bias": (4,) for name in ("q", "k", "v", "out", "norm")},
    "attn.norm.weight": (4,),
}


@pytest.fixture(scope="module")
def leaves():
    return leaves_of(nnx.eval_shape(lambda: Net(nnx.Rngs(0))))


def test_every_tensor_finds_its_parameter(leaves):
    found = match(SHAPES, rules(LAYERS), leaves)
    names = {path: [s.tensor for s in sources] for path, sources in found.items()}
    # Levels are counted from the end in the file.
    assert names["up.0.kernel"] == ["level.1.fc.weight"]
    assert names["up.1.kernel"] == ["level.0.fc.weight"]
    parts = [f"attn.{part}.weight" for part in "qkv"]
    assert names["attention.qkv.kernel"] == parts
    assert leaves["attention.qkv.kernel"].heads == 2


def test_the_table_reads_backwards(leaves):
    table = rules(LAYERS)
    found = {
        source.tensor
        for path in leaves
        for source in expected_tensors(path, table, leaves)
    }
    assert found == set(SHAPES)


def test_the_first_of_several_names_is_written(leaves):
    older = [
        Layer(f"attn.{name}", "attention.qkv", "linear", part=part)
        for part, name in enumerate(("query", "key", "value"))
    ]
    table = rules([*LAYERS, *older])
    renamed = {
        name.replace(".q.", ".query.")
        .replace(".k.", ".key.")
        .replace(".v.", ".value."): shape
        for name, shape in SHAPES.items()
    }
    assert "attn.query.weight" in renamed
    match(renamed, table, leaves)
    (first, *_) = expected_tensors("attention.qkv.bias", table, leaves)
    assert first.tensor == "attn.q.bias"
    with pytest.raises(MappingError, match=r"all claim the parameter attention\.qkv"):
        match(SHAPES | renamed, table, leaves)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attn.nrom.bias": (4,)}, r"attn\.nrom\.bias has no place"),
        ({"level.0.fc.bias": None}, r"needs level\.0\.fc\.bias, which the file does n"),
        ({"attn.k.weight": None}, r"needs attn\.k\.weight, which"),
        (
            {"attn.norm.bias": None, "attn.nrom.bias": (4,)},
            r"attn\.nrom\.bias has .*\(nearest name expected: attn\.norm\.bias",
        ),
        ({"level.0.fc.weight": (2, 5)}, r"shape \(2, 5\); .* shape \(2, 5\) cannot"),
        ({"level.0.fc.weight": (5, 2, 1)}, r"shape \(5, 2, 1\)"),
        ({"attn.v.weight": (8, 4)}, r"attn\.v\.weight has shape \(8, 4\)"),
        ({"level.2.fc.bias": (5,)}, r"level\.2\.fc\.bias has no place"),
    ],
)
def test_disagreement_is_an_error_that_names_it(leaves, change, message):
    shapes = {k: v for k, v in (SHAPES | change).items() if v is not None}
    with pytest.raises(MappingError, match=message):
        match(shapes, rules(LAYERS), leaves)


def test_long_lists_of_errors_are_cut(leaves):
    extra = {f"strange.{i}": (1,) for i in range(100)}
    with pytest.raises(MappingError, match=r"and 80 more"):
        match(SHAPES | extra, rules(LAYERS), leaves)


def test_a_parameter_without_rule_is_an_error(leaves):
    with pytest.raises(MappingError, match=r"leads to the parameter up\.0\.kernel"):
        expected_tensors("up.0.kernel", [Rule("a", "b")], leaves)


@pytest.mark.parametrize("trailing", [(), (5,), (5, 1)])
def test_attention_orders_by_index(trailing):
    """Entry (head, part, width) of the file goes to (part, head, width)."""
    heads, width = 2, 3
    leaf = Leaf("qkv", (), np.float32, heads)
    rng = np.random.default_rng(0)
    ordered = rng.normal(size=(3, heads, width, *trailing))
    flat = ordered.reshape(-1, *trailing)
    by_head = np.stack([ordered[:, head] for head in range(heads)])
    found = forward(("head_qkv_width",), by_head.reshape(-1, *trailing), leaf)
    chex.assert_trees_all_equal(found, flat)
    alternating = np.empty((heads, width, 3, *trailing))
    for part in range(3):
        alternating[:, :, part] = ordered[part]
    found = forward(("head_width_qkv",), alternating.reshape(-1, *trailing), leaf)
    chex.assert_trees_all_equal(found, flat)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_undone_exactly(name):
    shapes = {"squeeze1": (12, 4, 1), "squeeze2": (12, 4, 1, 1), "conv": (6, 4, 3, 2)}
    array = np.random.default_rng(1).normal(size=shapes.get(name, (12, 4)))
    leaf = Leaf("", (), np.float32, 2)
    there = forward((name,), array, leaf)
    chex.assert_trees_all_equal(inverse((name,), there, leaf), array)
    abstract = jax.eval_shape(lambda a: forward((name,), a, leaf), array)
    assert abstract.shape == there.shape
