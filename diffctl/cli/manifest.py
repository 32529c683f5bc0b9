"""What a run was made of, as JSON: versions, machine, settings."""

import dataclasses
import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

import diffctl
from diffctl.priors.storage import ORBAX, WEIGHTS

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
_MOST_NUMBERS = 64


def versions() -> dict[str, str]:
    """Return the versions of this package, Python and what it computes with."""
    found = {name: metadata.version(name) for name in _PACKAGES}
    return {
        "diffctl": diffctl.__version__,
        "python": platform.python_version(),
    } | found


def machine() -> dict[str, Any]:
    """Return the devices that computed."""
    devices = jax.devices()
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "backend": devices[0].platform,
        "devices": [device.device_kind for device in devices],
    }


def describe(value: Any) -> Any:
    """Return an object as JSON.

    Dataclasses become their fields, small arrays their values, larger ones their shape
    and dtype, functions their names.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        inner = {name: describe(v) for name, v in fields.items()}
        return {"type": type(value).__name__} | inner
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [describe(v) for v in value]
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _describe_array(value)
    if isinstance(value, Path):
        return str(value)
    return getattr(value, "__name__", type(value).__name__)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of_model(folder: Path) -> str:
    """Return the SHA-256 of a model's parameters, in either form.

    That of an Orbax checkpoint is taken over the names and digests of its files.
    """
    if not (folder / ORBAX).is_dir():
        return digest(folder / WEIGHTS)
    files = sorted(path for path in (folder / ORBAX).rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder)} {digest(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _describe_array(value: Any) -> Any:
    is_key = jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)
    if is_key or value.size > _MOST_NUMBERS:
        return f"{value.dtype}{list(value.shape)}"
    return np.asarray(value).tolist()
