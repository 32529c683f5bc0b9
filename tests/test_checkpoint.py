"""Round trips through disk, and clear errors for folders that cannot be read."""

import json
import os
import resource
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from diffctl import checkpoint
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class _Carry:
    x: Any
    extra: Any
    name: str = static(default="static fields are the caller's")


@pytest.fixture(scope="module")
def tree():
    weights = {"w": np.arange(3, dtype=np.float32), "odd / name.": np.ones((2, 0))}
    return _Carry(
        x=jnp.arange(4, dtype=jnp.bfloat16),
        extra={
            "key": jax.random.key(7),
            "keys": jax.random.split(jax.random.key(8, impl="rbg"), 3),
            "optimizer": optax.adam(0.1).init(weights),
            "complex": np.array([1 + 2j], np.complex64),
            "flag": np.array(True),
            "scalars": (3, 0.5, None),
        },
    )


@pytest.fixture
def saved(tmp_path):
    checkpoint.save(tmp_path / "run", {"a": np.arange(3.0, dtype=np.float32), "b": 2})
    return tmp_path / "run"


def test_round_trip_is_exact(tmp_path, tree):
    checkpoint.save(tmp_path / "run", tree)
    for like in (tree, jax.eval_shape(lambda: tree)):
        found = checkpoint.restore(tmp_path / "run", like)
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        for ours, theirs in zip(
            jax.tree.leaves(found), jax.tree.leaves(tree), strict=True
        ):
            assert jnp.result_type(ours) == jnp.result_type(theirs)
            if jnp.issubdtype(jnp.result_type(ours), jax.dtypes.prng_key):
                ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
            chex.assert_trees_all_equal(np.asarray(ours), np.asarray(theirs))
    restored = checkpoint.restore(tmp_path / "run", tree)
    assert restored.extra["scalars"] == (3, 0.5, None)
    assert jax.random.uniform(restored.extra["key"]) == jax.random.uniform(
        jax.random.key(7)
    )


def test_empty_trees_and_bare_arrays(tmp_path):
    checkpoint.save(tmp_path / "empty", ())
    assert checkpoint.restore(tmp_path / "empty", ()) == ()
    checkpoint.save(tmp_path / "bare", jnp.ones(2))
    assert checkpoint.restore(tmp_path / "bare", jnp.zeros(2)).sum() == 2


def test_a_later_save_replaces_the_earlier_one(saved):
    checkpoint.save(saved, {"b": 5})
    checkpoint.save(saved, {"b": 6})
    assert checkpoint.restore(saved, {"b": 0}) == {"b": 6}
    assert len(list(saved.iterdir())) == 1


def test_a_save_that_fails_leaves_the_earlier_one(saved, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "finalize", killed)
    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(saved, {"b": 5})
    monkeypatch.undo()
    like = {"a": jnp.zeros(3), "b": 0}
    assert checkpoint.restore(saved, like)["b"] == 2
    checkpoint.save(saved, {"b": 6})
    assert checkpoint.restore(saved, {"b": 0}) == {"b": 6}


# A late callback of orbax meets its closed event loop, as below.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_told_and_the_earlier_state_kept(saved, capfd):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    noise = np.random.default_rng(0).normal(size=5000)
    try:
        with pytest.raises(checkpoint.CheckpointError, match=r"run cannot be written"):
            checkpoint.save(saved, {"a": noise, "b": 5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Traceback" not in capfd.readouterr().err
    assert [path.name for path in saved.iterdir()] == ["0"]
    like = {"a": jnp.zeros(3), "b": 0}
    assert checkpoint.restore(saved, like)["b"] == 2


def test_a_full_disk_leaves_no_remains(tmp_path, monkeypatch):
    """What orbax still has at work is over before they are deleted."""
    at_work = []

    class Late:
        def __enter__(self):
            at_work.append(self)
            return self

        def __exit__(self, *_):
            at_work.remove(self)

        def save(self, generation, _):
            generation.with_name(f"{generation.name}.orbax-checkpoint-tmp").mkdir()
            raise OSError("full")

    def remove(folder, **_):
        assert not at_work
        folder.rmdir()

    monkeypatch.setattr(checkpoint, "_checkpointer", Late)
    monkeypatch.setattr(checkpoint.shutil, "rmtree", remove)
    with pytest.raises(checkpoint.CheckpointError, match="cannot be written: full"):
        checkpoint.save(tmp_path, {"a": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_arrays_are_placed_by_the_sharding_that_is_asked_for(saved):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {"a": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=sharding), "b": 0}
    assert checkpoint.restore(saved, like)["a"].sharding == sharding


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": jnp.zeros(4), "b": 0}, r"\['a'\] has shape \[3\], expected \[4\]"),
        ({"a": jnp.zeros(3, int), "b": 0}, "dtype float32, expected int32"),
        ({"a": jnp.zeros(3)}, r"\['b'\] is stored only"),
        ({"a": jnp.zeros(3), "b": 0, "c": 0}, r"\['c'\] is not stored"),
    ],
)
def test_another_structure_is_refused_by_name(saved, like, message):
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.restore(saved, like)


def test_missing_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="no such folder"):
        checkpoint.restore(tmp_path / "nowhere", 0)
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    with pytest.raises(checkpoint.CheckpointError, match="not a checkpoint"):
        checkpoint.restore(tmp_path, 0)
    with pytest.raises(checkpoint.CheckpointError, match="choose another folder"):
        checkpoint.save(tmp_path, 0)
    ocp.PyTreeCheckpointer().save(tmp_path / "foreign" / "0", {"w": np.ones(2)})
    with pytest.raises(checkpoint.CheckpointError, match="another program"):
        checkpoint.restore(tmp_path / "foreign", {"w": np.ones(2)})
    assert not checkpoint.exists(tmp_path)


def _data_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


# When a part is missing, orbax closes its event loop while other parts are still being
# read; their late callbacks complain in whatever runs next (seen on a busy machine).
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["truncate", "delete"])
def test_damaged_checkpoints_are_refused(tmp_path, damage):
    tree = {"a": np.random.default_rng(0).normal(size=5000)}
    checkpoint.save(tmp_path / "run", tree)
    assert checkpoint.exists(tmp_path / "run")
    largest = max(_data_files(tmp_path / "run"), key=lambda p: p.stat().st_size)
    if damage == "truncate":
        os.truncate(largest, largest.stat().st_size // 2)
    else:
        largest.unlink()
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        checkpoint.restore(tmp_path / "run", tree)


_LEAF = {"path": "['a']", "shape": [2], "dtype": "float32"}
_KEY = {"path": "['a']", "shape": [], "dtype": "key<fry>", "key_impl": "fry"}


@pytest.mark.parametrize(
    ("leaves", "array"),
    [
        ("x", np.zeros(2)),
        ([3], np.zeros(2)),
        ([{"path": "['a']", "shape": [2]}], np.zeros(2)),
        ([_LEAF | {"shape": "ab"}], np.zeros(2)),
        ([_LEAF | {"shape": [-2]}], np.zeros(2)),
        ([_LEAF | {"path": []}], np.zeros(2)),
        ([_LEAF | {"path": [[[]]] * 50_000}], np.zeros(2)),
        # Arrays may not be larger than the manifest says, whose shapes are known.
        ([_LEAF], np.zeros((2, 1000))),
        ([_LEAF], np.zeros(1000)),
        ([_KEY], np.zeros(1000, np.uint32)),
        ([_LEAF], None),
    ],
)
def test_manifests_that_lie_are_refused_before_arrays_are_read(
    tmp_path, monkeypatch, leaves, array
):
    text = json.dumps({"format": "diffctl-checkpoint-1", "leaves": leaves})
    item = {"manifest": np.frombuffer(text.encode(), np.uint8)}
    item |= {} if array is None else {"0": array}
    ocp.PyTreeCheckpointer().save(tmp_path / "run" / "0", item)
    whole, read = checkpoint._read, []
    monkeypatch.setattr(
        checkpoint, "_read", lambda *args: read.extend(args[1]) or whole(*args)
    )
    for restore in (
        lambda folder: checkpoint.restore(folder, {"a": jnp.zeros(2)}),
        lambda folder: checkpoint.stored(folder, "['a']"),
        checkpoint.contents,
    ):
        with pytest.raises(checkpoint.CheckpointError, match="is damaged or was wr"):
            restore(tmp_path / "run")
    assert set(read) == {"manifest"}


def test_one_leaf_is_read_by_its_path(saved):
    assert checkpoint.stored(saved, "['b']") == 2
    assert checkpoint.stored(saved, "['c']") is None
    assert checkpoint.contents(saved) == {
        "['a']": ("float32", (3,)),
        "['b']": ("int32", ()),
    }
    (saved / "²").mkdir()  # a digit, and no number
    np.testing.assert_array_equal(checkpoint.stored(saved, "['a']"), [0, 1, 2])


def test_leaves_that_are_no_arrays_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"\['f'\] is a str"):
        checkpoint.save(tmp_path / "run", {"f": "text"})
    assert not checkpoint.exists(tmp_path / "run")
