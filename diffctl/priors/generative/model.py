"""What priors of small trained networks share: how they are made, saved and read."""

from pathlib import Path
from typing import Any, ClassVar, Self

import jax
from flax import nnx

from diffctl.nets.architecture import Architecture
from diffctl.priors.storage import read_model, write_model
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class Model:
    """A network with its description and the shape of the signals it is about."""

    kind: ClassVar[str]  # in `model.json`

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
        """Make a prior with freshly initialised parameters."""
        net = architecture.build(nnx.Rngs(params=key))
        return cls(net=net, architecture=architecture, shape=tuple(shape), **fields)

    @classmethod
    def restore(cls, folder: str | Path) -> Self:
        """Load what `save` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, or the model is of another kind.
        """
        net, description = read_model(Path(folder), kind=cls.kind)
        found = description["architecture"]
        architecture = Architecture.of(found["name"], **found["arguments"])
        fields = cls.fields_of(description["settings"])
        shape = tuple(description["shape"])
        return cls(net=net, architecture=architecture, shape=shape, **fields)

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
