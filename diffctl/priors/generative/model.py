"""What priors of small trained networks share: how they are made, saved and read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict

import jax
from flax import nnx

from diffctl.host import Count, check_settings, check_value, show
from diffctl.nets.architecture import Architecture
from diffctl.numerics.dtypes import float_spec
from diffctl.priors.storage import (
    Described,
    correcting,
    read_description,
    read_net,
    write_model,
)
from diffctl.pytree import pytree_dataclass, static


class _Described(Described):
    shape: Sequence[Count]  # type: ignore[misc]
    settings: Mapping[str, Any]


class NoSettings(TypedDict):
    """Of models that know nothing beside their network."""


@pytree_dataclass
class Model:
    """A network with its description and the shape of the signals it is about."""

    kind: ClassVar[str]  # in `model.json`
    known: ClassVar[type] = NoSettings  # what `settings` may hold

    net: Any  # nnx.Module
    architecture: Architecture = static()
    shape: tuple[int, ...] = static()

    @classmethod
    def create(
        cls,
        architecture: Architecture,
        shape: tuple[int, ...],
        *,
        key: jax.Array,
        **fields: Any,
    ) -> Self:
        """Make a prior with freshly initialised parameters.

        Raises:
            ValueError: the network is none of such signals.
        """
        net, shape = architecture.abstract(), tuple(shape)
        prior = cls(net=net, architecture=architecture, shape=shape, **fields)
        prior.check()
        return replace(prior, net=architecture.build(nnx.Rngs(params=key)))

    @classmethod
    def restore(cls, folder: str | Path) -> Self:
        """Load what `save` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, the model is of another kind, or network,
                shape and settings do not fit together.
        """
        folder = Path(folder)
        description = read_description(folder, cls.kind, _Described)
        with correcting(folder):
            check_settings(cls.known, description["settings"], "the settings")
            fields = cls.fields_of(description["settings"])
        prior = cls(
            net=read_net(folder, description),
            architecture=Architecture.from_json(description["architecture"]),
            shape=tuple(description["shape"]),
            **fields,
        )
        with correcting(folder):
            prior.check()
        return prior

    def check(self) -> None:
        """Check that the network is one of such signals; nothing is computed.

        Raises:
            ValueError: it is not.
        """
        check_value(self.shape, tuple[Count, ...], "shape")
        signal = float_spec(self.shape)
        try:
            found = jax.eval_shape(type(self).through, self, signal)
            fits = found.shape == signal.shape
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(
                f"shape is {show(list(self.shape))}, and the network "
                f"{self.architecture.name} is no {self.kind} of such signals with the "
                f"arguments {show(self.architecture.arguments)}; expected the shape "
                "that it was made for."
            )

    def through(self, x: jax.Array) -> jax.Array:
        """Take a signal (*shape) through the network to another one, as a test.

        Overridden where the shape of a signal decides that of all other inputs.
        """
        return x

    def save(
        self, folder: str | Path, *, overwrite: bool = False, notes: Any = None
    ) -> None:
        """Write `weights.safetensors` and `model.json`, atomically.

        Raises:
            FileExistsError: the folder exists and `overwrite` is false.
        """
        description = {
            "kind": self.kind,
            "architecture": self.architecture.to_json(),
            "shape": list(self.shape),
            "settings": self.settings(),
            "notes": notes,
        }
        write_model(Path(folder), self.net, description, overwrite=overwrite)

    def settings(self) -> dict[str, Any]:
        """Return as JSON what the prior knows beside its network."""
        return {}

    @classmethod
    def fields_of(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the fields that `settings` describes."""
        return settings

    def argument(self, name: str) -> Any:
        """Return an argument of the network's constructor."""
        return self.architecture.to_json()["arguments"][name]
