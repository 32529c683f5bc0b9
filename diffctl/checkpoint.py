"""Pytrees of arrays to disk and back: solver carries and training state.

The caller brings the structure; the folder holds bytes. A save writes a new numbered
generation inside the folder, which orbax commits by a rename, and only then deletes the
older ones: whenever the process is killed, a complete generation is there. Each holds

    manifest   JSON: for every leaf its path in the tree, shape and dtype
    leaves     the arrays, by position

Everything passes through host memory, so a folder can be restored on other devices than
it was saved from. Arrays that span several processes are not supported.
"""

import contextlib
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.host import Natural, check_settings, parse_json, show
from diffctl.host.documents import MOST_BYTES

_FORMAT = "diffctl-checkpoint-1"
_MANIFEST_VALUES = 500_000  # of some 35,000 leaves, which are stored beside it
_MOST_KEY = 16  # numbers that a PRNG key is made of
_REMAINS = "orbax-checkpoint-tmp"  # in the name of what orbax has not committed


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, foreign, or of another structure."""


def save(folder: str | Path, tree: Any) -> None:
    """Write a pytree, replacing what an earlier call wrote to the same folder.

    Args:
        folder: created if need be. If it exists it must be empty or a checkpoint.
        tree: arrays, typed PRNG keys and Python scalars, in any pytree.

    Raises:
        CheckpointError: if `folder` holds anything but a checkpoint, or cannot be
            written, as on a full disk; what an earlier call wrote is kept.
        TypeError: if a leaf is not numeric.
    """
    folder = Path(folder).absolute()
    generations = _generations(folder)
    if not generations and folder.exists() and not _is_empty_folder(folder):
        raise CheckpointError(
            f"{folder} exists and is not a checkpoint; choose another folder."
        )
    described = [
        _describe(path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    manifest = json.dumps({"format": _FORMAT, "leaves": [d for d, _ in described]})
    item = {"manifest": np.frombuffer(manifest.encode(), np.uint8)}
    # Orbax does not store empty arrays; they are rebuilt from their shape.
    item |= {f"{i}": value for i, (_, value) in enumerate(described) if value.size}
    newest = generations[-1] if generations else -1
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"{newest + 1}", item)
    for generation in generations:
        shutil.rmtree(folder / f"{generation}", ignore_errors=True)


def _write(generation: Path, item: dict[str, np.ndarray]) -> None:
    log = logging.getLogger("absl")  # orbax logs what it raises as well
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with _checkpointer() as checkpointer:  # its threads end before remains go
            checkpointer.save(generation, item)
    except Exception as error:  # orbax raises what its storage layers raise
        for remains in generation.parent.glob(f"*{_REMAINS}*"):
            shutil.rmtree(remains, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {generation.parent} cannot be written: {error}. Free some "
            "space, or write elsewhere; an earlier one is kept."
        ) from error
    finally:
        log.setLevel(before)


def restore(folder: str | Path, like: Any) -> Any:
    """Read a pytree of known structure.

    Args:
        folder: as given to `save`.
        like: the structure to fill: arrays, `jax.ShapeDtypeStruct`s (for instance from
            `jax.eval_shape`) or Python scalars. A leaf with a sharding is placed by it.

    Raises:
        CheckpointError: if `folder` is missing, damaged or not a checkpoint, or if its
            paths, shapes and dtypes are not those of `like`; the message names them.
    """
    folder = Path(folder).absolute()
    generation = _newest(folder)
    entries = _entries(generation)
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = [_describe_abstract(path, leaf) for path, leaf in leaves]
    _check_same(folder, entries, wanted)
    item = _read(generation, [f"{i}" for i in range(len(entries))])
    values = [
        _rebuild(item.get(f"{i}"), entry, leaf)
        for i, (entry, (_, leaf)) in enumerate(zip(entries, leaves, strict=True))
    ]
    return jax.tree.unflatten(structure, values)


def contents(folder: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of every array of a checkpoint by its path; reads none.

    Raises:
        CheckpointError: if `folder` is missing, damaged or not a checkpoint.
    """
    entries = _entries(_newest(Path(folder).absolute()))
    return {e["path"]: (e["dtype"], tuple(e["shape"])) for e in entries}


def stored(folder: str | Path, path: str) -> np.ndarray | None:
    """Return one array of a checkpoint, whatever its structure; None if it has none.

    Raises:
        CheckpointError: if `folder` is missing, damaged or not a checkpoint.
    """
    generation = _newest(Path(folder).absolute())
    paths = [entry["path"] for entry in _entries(generation)]
    if path not in paths:
        return None
    place = f"{paths.index(path)}"
    found = _read(generation, [place]).get(place)
    return None if found is None else np.asarray(found)


def exists(folder: str | Path) -> bool:
    """Return whether `folder` holds a complete checkpoint."""
    return bool(_generations(Path(folder).absolute()))


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp  # costs a second, and most runs never save

    return ocp.PyTreeCheckpointer()


def _generations(folder: Path) -> list[int]:
    """Return the numbers of the committed generations, oldest first."""
    if not folder.is_dir():
        return []
    names = (entry.name for entry in folder.iterdir())
    return sorted(int(n) for n in names if n.isascii() and n.isdecimal())


def _newest(folder: Path) -> Path:
    """Return the folder of the last generation; raise CheckpointError without one."""
    if not folder.exists():
        raise CheckpointError(f"there is no checkpoint at {folder}: no such folder.")
    generations = _generations(folder)
    if not generations:
        raise CheckpointError(
            f"{folder} is not a checkpoint of this library: it holds no saved "
            "generation. Choose the folder that was given to `save`."
        )
    return folder / f"{generations[-1]}"


def _is_empty_folder(folder: Path) -> bool:
    """Return whether nothing is there but remains of an interrupted first save."""
    return folder.is_dir() and all(_REMAINS in entry.name for entry in folder.iterdir())


def _describe(path: Any, leaf: Any) -> tuple[dict[str, Any], np.ndarray]:
    entry = _describe_abstract(path, leaf)
    if _is_key(leaf):
        entry["key_impl"] = str(jax.random.key_impl(leaf))
        leaf = jax.random.key_data(leaf)
    return entry, np.asarray(leaf)


def _describe_abstract(path: Any, leaf: Any) -> dict[str, Any]:
    name = jax.tree_util.keystr(path) or "(the whole tree)"
    with contextlib.suppress(TypeError):
        return {
            "path": name,
            "shape": list(np.shape(leaf)) if _is_scalar(leaf) else list(leaf.shape),
            "dtype": str(jnp.result_type(leaf) if _is_scalar(leaf) else leaf.dtype),
        }
    raise TypeError(f"{name} is a {type(leaf).__name__}; only arrays can be saved.")


def _is_scalar(leaf: Any) -> bool:
    return not hasattr(leaf, "dtype")


def _is_key(leaf: Any) -> bool:
    return not _is_scalar(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


class _Entry(TypedDict):
    path: str
    shape: list[Natural]
    dtype: str
    key_impl: NotRequired[str]


class _Manifest(TypedDict):
    format: str
    leaves: list[_Entry]


def _entries(generation: Path) -> list[dict[str, Any]]:
    """Return what a generation says of its leaves, which it holds just so."""
    claimed = _claimed(generation)
    if len(claimed.get("manifest", ())) != 1 or claimed["manifest"][0] > MOST_BYTES:
        raise _damaged(generation)
    text = np.asarray(_read(generation, ["manifest"])["manifest"], np.uint8).tobytes()
    try:
        manifest = parse_json(text, "the manifest", free_values=_MANIFEST_VALUES)
        check_settings(_Manifest, manifest, "the manifest", others=True)
    except ValueError as error:
        raise _damaged(generation) from error
    if manifest["format"] != _FORMAT:
        raise CheckpointError(
            f"{generation} has format {show(manifest['format'])}, this version reads "
            f"{_FORMAT!r}; use the version that wrote it."
        )
    entries: list[dict[str, Any]] = manifest["leaves"]
    if not all(_is_held(claimed.get(f"{i}"), e) for i, e in enumerate(entries)):
        raise _damaged(generation)
    return entries


def _is_held(claimed: tuple[int, ...] | None, entry: dict[str, Any]) -> bool:
    """Return whether an array has the shape that the manifest says."""
    shape: list[int] = entry["shape"]
    if claimed is None:  # orbax does not store empty arrays
        return 0 in shape
    most = _MOST_KEY if "key_impl" in entry else 1
    axes = len(shape)
    return list(claimed[:axes]) == shape and math.prod(claimed[axes:]) <= most


def _claimed(generation: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the arrays of a generation claim to have; reads none."""
    try:
        found = _checkpointer().metadata(generation).item_metadata.tree
        return {name: tuple(array.shape) for name, array in found.items()}
    except Exception as error:  # orbax raises what its storage layers raise
        raise _damaged(generation) from error


def _read(generation: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Return those of some arrays that a generation holds."""
    wanted = {name: 0 for name in names if name in _claimed(generation)}
    if not wanted:  # which orbax takes for everything
        return {}
    import orbax.checkpoint as ocp

    try:
        arguments = ocp.args.PyTreeRestore(item=wanted, partial_restore=True)
        return dict(_checkpointer().restore(generation, args=arguments))
    except Exception as error:  # orbax raises what its storage layers raise
        raise _damaged(generation) from error


def _damaged(generation: Path) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {generation} is damaged or was written by another program. "
        "Restore an earlier copy."
    )


def _check_same(folder: Path, stored: list[Any], wanted: list[Any]) -> None:
    """Raise `CheckpointError` naming the first differences between two manifests."""
    ours = {entry["path"]: entry for entry in wanted}
    theirs = {entry["path"]: entry for entry in stored}
    problems = [f"{path} is not stored" for path in ours.keys() - theirs.keys()]
    problems += [f"{path} is stored only" for path in theirs.keys() - ours.keys()]
    for path in ours.keys() & theirs.keys():
        for what in ("shape", "dtype"):
            if ours[path][what] != theirs[path][what]:
                problems.append(
                    f"{path} has {what} {theirs[path][what]}, "
                    f"expected {ours[path][what]}"
                )
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        raise CheckpointError(
            f"the checkpoint {folder} does not fit: {shown}"
            f"{' ...' if len(problems) > 5 else ''}. Restore it with the settings "
            "it was saved with."
        )
    if [entry["path"] for entry in stored] != [entry["path"] for entry in wanted]:
        raise CheckpointError(
            f"the checkpoint {folder} has its leaves in another order."
        )


def _rebuild(value: Any, entry: dict[str, Any], like: Any) -> Any:
    if _is_scalar(like):
        return type(like)(value.item())
    if "key_impl" in entry:
        array = jax.random.wrap_key_data(jnp.asarray(value), impl=entry["key_impl"])
    elif value is None:
        array = jnp.zeros(entry["shape"], entry["dtype"])
    else:
        array = jnp.asarray(value)
    sharding = getattr(like, "sharding", None)
    return array if sharding is None else jax.device_put(array, sharding)
