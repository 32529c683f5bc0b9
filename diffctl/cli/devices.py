"""The devices that a command computes on: accelerators, or else the CPU's cores."""

import os

import jax
from jax.sharding import Mesh


def make_cores_devices() -> None:
    """Make every CPU core a device of its own, to share out the examples of a batch.

    XLA gains next to nothing from a second thread within the small operations of a
    small network, but nearly twice the speed from a second example on a second core.
    `JAX_NUM_CPU_DEVICES` is respected. Does nothing once JAX has started.
    """
    if os.environ.get("JAX_NUM_CPU_DEVICES"):
        return
    try:
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    except RuntimeError:  # the devices of a running JAX are what they are
        return


def mesh_for(count: int) -> Mesh | None:
    """Return the devices that share out `count` examples, None if one is enough."""
    devices = jax.devices()[:count]
    return Mesh(devices, ("examples",)) if len(devices) > 1 else None
