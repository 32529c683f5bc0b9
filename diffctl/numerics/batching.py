"""What batches need besides `vmap`: chunks, devices, and skipping what none needs."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.sharding import Mesh, PartitionSpec

from diffctl.numerics.varying import varying_alike

Tree = TypeVar("Tree")


def computed_where(
    needed: jax.Array, compute: Callable[[], Tree], otherwise: Tree
) -> Tree:
    """Return `compute()` where `needed`, (), and `otherwise` elsewhere.

    Under `vmap` it is computed for all examples if any needs it, and skipped if none
    does. A `lax.cond` on a flag that differs between examples is always computed, and
    copies what it closes over, such as the weights of a network, for every example.
    """
    needed, otherwise = varying_alike((needed, otherwise))

    def chosen() -> Tree:
        return jax.tree.map(
            lambda new, old: jnp.where(needed, new, old), compute(), otherwise
        )

    return jax.lax.cond(_any_example(needed), chosen, lambda: otherwise)


@custom_vmap
def _any_example(flag: jax.Array) -> jax.Array:
    """Return `flag`, (); under `vmap`, whether it holds for any example, unbatched."""
    return flag


@_any_example.def_vmap
def _(size: int, is_batched: list[bool], flag: jax.Array) -> tuple[jax.Array, bool]:
    # Once more, for a `vmap` around the one that is treated here.
    return _any_example(jnp.any(flag)), False


def chunked_vmap(
    f: Callable[..., Any], chunk_size: int | None = None
) -> Callable[..., Any]:
    """Vectorize `f` over the leading axis of its arguments, in chunks.

    Args:
        f: function of one example; its arguments are arrays or pytrees of arrays.
        chunk_size: number of examples computed at once; any remainder is computed by
            itself. None computes all of them at once.

    Returns:
        A function with the signature of `f`, all of whose arguments and results carry
        a leading axis. It equals `jax.vmap(f)` up to rounding; the temporary memory is
        that of one chunk. Raises `ValueError` if `chunk_size` is less than 1.
    """
    if chunk_size is None:
        return jax.vmap(f)
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; give None or an integer >= 1.")

    def apply(*args: Any) -> Any:
        num_examples = jax.tree.leaves(args)[0].shape[0]
        if num_examples <= chunk_size:
            return jax.vmap(f)(*args)
        return jax.lax.map(lambda xs: f(*xs), args, batch_size=chunk_size)

    return apply


def shared_out(
    f: Callable[..., Any], mesh: Mesh | None, num_shared: int
) -> Callable[..., Any]:
    """Split the batch of `f` over the first axis of a mesh, without communication.

    Args:
        f: its last argument and all results carry a leading axis, which the devices of
            that axis divide.
        mesh: devices; None leaves `f` as it is.
        num_shared: how many arguments before the last one go to every device.
    """
    if mesh is None:
        return f
    replicated, split = PartitionSpec(), PartitionSpec(mesh.axis_names[0])
    return jax.shard_map(
        f,
        mesh=mesh,
        in_specs=(*[replicated] * num_shared, split),
        out_specs=split,
        check_vma=False,
    )
