"""A neural denoiser as a prior: network, preconditioning, range of noise levels."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffctl.core import DiffusionPrior
from diffctl.nets.architecture import Architecture
from diffctl.priors.preconditioning import EDMPreconditioning, Preconditioning
from diffctl.priors.storage import read_model, write_model
from diffctl.pytree import pytree_dataclass, static

_PRECONDITIONINGS: dict[str, type[Any]] = {"edm": EDMPreconditioning}


@pytree_dataclass
class NetworkPrior(DiffusionPrior):
    """E[x0 | x_sigma] = c_skip x + c_out net(c_in x, c_noise).

    Cost of `denoise`: one network forward. The network computes in `dtype` (None: the
    dtype of `x`); the result has the dtype of `x`.
    """

    net: Any  # nnx.Module: (*shape), () -> (*shape)
    preconditioning: Preconditioning
    architecture: Architecture = static()
    shape: tuple[int, ...] = static()
    sigma_min: float = static(default=0.002)
    sigma_max: float = static(default=80.0)
    dtype: Any = static(default=None)

    @classmethod
    def create(
        cls,
        architecture: Architecture,
        shape: tuple[int, ...],
        *,
        key: jax.Array,
        preconditioning: Preconditioning | None = None,
        **fields: Any,
    ) -> "NetworkPrior":
        """Make a prior with freshly initialised parameters."""
        return cls(
            net=architecture.build(nnx.Rngs(params=key)),
            preconditioning=preconditioning or EDMPreconditioning(),
            architecture=architecture,
            shape=tuple(shape),
            **fields,
        )

    @classmethod
    def restore(cls, folder: str | Path, *, dtype: Any = None) -> "NetworkPrior":
        """Load a prior written by `save`.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is truncated or is not what `model.json` describes.
        """
        net, description = read_model(Path(folder), kind="diffusion prior")
        architecture = description["architecture"]
        try:
            rule = dict(description["preconditioning"])
            return cls(
                net=net,
                preconditioning=_PRECONDITIONINGS[rule.pop("name")](**rule),
                architecture=Architecture.of(
                    architecture["name"], **architecture["arguments"]
                ),
                shape=tuple(description["shape"]),
                sigma_min=description["sigma_min"],
                sigma_max=description["sigma_max"],
                dtype=dtype,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{folder}: the description of the prior lacks or does not know "
                f"{error}; it was written by another version. Save the prior again."
            ) from error

    def save(
        self, folder: str | Path, *, overwrite: bool = False, notes: Any = None
    ) -> None:
        """Write `weights.safetensors` and `model.json`, atomically.

        Raises:
            FileExistsError: the folder exists and `overwrite` is false.
        """
        names = {rule: name for name, rule in _PRECONDITIONINGS.items()}
        rule = {"name": names[type(self.preconditioning)]}
        values = dataclasses.asdict(self.preconditioning)  # type: ignore[call-overload]
        description = {
            "kind": "diffusion prior",
            "architecture": self.architecture.to_json(),
            "preconditioning": rule | {k: float(v) for k, v in values.items()},
            "shape": list(self.shape),
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
            "notes": notes,
        }
        write_model(Path(folder), self.net, description, overwrite=overwrite)

    def denoise(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        return apply_preconditioned(
            self.net, self.preconditioning, x, sigma, self.dtype
        )


def apply_preconditioned(
    net: Any, rule: Preconditioning, x: jax.Array, sigma: jax.Array, dtype: Any = None
) -> jax.Array:
    """Return c_skip x + c_out net(c_in x, c_noise), computed inside in `dtype`."""
    c = rule(jnp.asarray(sigma, x.dtype))
    inner = (c.inside * x).astype(dtype or x.dtype)
    return c.skip * x + c.out * net(inner, c.noise).astype(x.dtype)


def parameter_count(net: Any) -> int:
    """Count the scalars in the parameters of a network."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(net))
