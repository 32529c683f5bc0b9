"""Descriptions of networks that can be written to a file and built again."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict

import jax
from flax import nnx

from diffctl.host import check_settings, show
from diffctl.nets.adm import ADMClassifier, ADMUNet
from diffctl.nets.autoencoder import AutoencoderKL
from diffctl.nets.classifier import SmallClassifier
from diffctl.nets.ddpm import DDPMUNet
from diffctl.nets.edm import EDMADMUNet, SongUNet
from diffctl.nets.generative import CouplingFlow, SmallAutoencoder, SmallDecoder
from diffctl.nets.latent import SmallLatentDiffusion
from diffctl.nets.mnist import DigitClassifier
from diffctl.nets.regressor import SmallRegressor
from diffctl.nets.unet import UNet

ARCHITECTURES: Mapping[str, type[nnx.Module]] = {
    "unet": UNet,
    "small_classifier": SmallClassifier,
    "adm_unet": ADMUNet,
    "adm_classifier": ADMClassifier,
    "song_unet": SongUNet,
    "edm_adm_unet": EDMADMUNet,
    "ddpm_unet": DDPMUNet,
    "autoencoder_kl": AutoencoderKL,
    "digit_classifier": DigitClassifier,
    "small_decoder": SmallDecoder,
    "small_autoencoder": SmallAutoencoder,
    "coupling_flow": CouplingFlow,
    "small_regressor": SmallRegressor,
    "small_latent_diffusion": SmallLatentDiffusion,
}


class _Described(TypedDict):
    """An architecture in `model.json`."""

    name: str
    arguments: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The name of a network class and its constructor arguments, as canonical JSON.

    Hashable, so that it can be a static field of a pytree.
    """

    name: str
    arguments: str

    @classmethod
    def of(cls, name: str, /, **arguments: Any) -> "Architecture":
        """Describe a network.

        Raises:
            ValueError: there is no such network, or an argument is not what its
                constructor takes.
        """
        if name not in ARCHITECTURES:
            raise ValueError(
                f"There is no network called {show(name)}; choose one of "
                f"{', '.join(sorted(ARCHITECTURES))}."
            )
        check_settings(ARCHITECTURES[name], arguments, f"the network {name}")
        return cls(name=name, arguments=json.dumps(arguments, sort_keys=True))

    @classmethod
    def from_json(cls, described: Any) -> "Architecture":
        """Return what `to_json` described.

        Raises:
            ValueError: it is no description, or as `of`.
        """
        check_settings(_Described, described, "architecture")
        return cls.of(described["name"], **described["arguments"])

    def build(self, rngs: nnx.Rngs) -> Any:
        """Build the network with fresh parameters.

        Raises:
            ValueError: there is no network with these arguments.
        """
        arguments = json.loads(self.arguments)
        try:
            return ARCHITECTURES[self.name](**arguments, rngs=rngs)  # type: ignore[call-arg]
        except (ArithmeticError, LookupError, TypeError) as error:
            # Of arguments that are fine one by one, and of numbers beyond all arrays.
            raise ValueError(
                f"the arguments of the network {self.name} do not fit together, or are "
                f"too large: {show(arguments)}."
            ) from error

    def abstract(self) -> Any:
        """Build the network with shapes in place of parameters (no memory)."""
        return self._shapes(lambda: nnx.Rngs(0))

    def abstract_within(self, num_tensors: int, num_scalars: int) -> Any:
        """As `abstract`, for a description that may ask for anything.

        Args:
            num_tensors: how many parameters there are for the network.
            num_scalars: how many numbers they have together.

        Raises:
            ValueError: the network needs more. That is told as soon as it has more, for
                a million blocks would take minutes.
        """
        largest = max(_whole_numbers(json.loads(self.arguments)), default=0)
        if largest > num_scalars:
            raise ValueError(
                f"the network {self.name} has an argument of {largest}, and there are "
                f"only {num_scalars} numbers for its parameters."
            )
        return self._shapes(lambda: _Keys(num_tensors))

    def _shapes(self, keys: Callable[[], Any]) -> Any:
        try:
            return nnx.eval_shape(lambda: self.build(keys()))
        except ValueError as error:  # without the notes of JAX on its traceback
            raise ValueError(str(error)) from error

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary for `model.json`."""
        return {"name": self.name, "arguments": json.loads(self.arguments)}


class _Keys:
    """In place of `nnx.Rngs`: for no more parameters than there are.

    Every drawn parameter asks for a key, and there are others, which are constant.
    """

    def __init__(self, count: int):
        self._count = self._left = count

    def params(self) -> jax.Array:
        """Return a key, always the same: nothing is drawn of a network without numbers.

        Raises:
            ValueError: it is one too many.
        """
        if not self._left:
            raise ValueError(
                f"the network has more parameters than the {self._count} that there "
                "are for it."
            )
        self._left -= 1
        return jax.random.key(0)


def _whole_numbers(value: Any) -> Iterator[int]:
    """Yield the whole numbers of nested tables and lists."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _whole_numbers(inner)
    elif isinstance(value, int):
        yield value
