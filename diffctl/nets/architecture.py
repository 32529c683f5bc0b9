"""Descriptions of networks that can be written to a file and built again."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from flax import nnx

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


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The name of a network class and its constructor arguments, as canonical JSON.

    Hashable, so that it can be a static field of a pytree.
    """

    name: str
    arguments: str

    @classmethod
    def of(cls, name: str, **arguments: Any) -> "Architecture":
        """Describe a network; raise `ValueError` for an unknown name."""
        if name not in ARCHITECTURES:
            raise ValueError(
                f"There is no network called {name!r}; choose one of "
                f"{', '.join(sorted(ARCHITECTURES))}."
            )
        return cls(name=name, arguments=json.dumps(arguments, sort_keys=True))

    def build(self, rngs: nnx.Rngs) -> Any:
        """Build the network with fresh parameters."""
        return ARCHITECTURES[self.name](**json.loads(self.arguments), rngs=rngs)  # type: ignore[call-arg]

    def abstract(self) -> Any:
        """Build the network with shapes in place of parameters (no memory)."""
        return nnx.eval_shape(lambda: self.build(nnx.Rngs(0)))

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary for `model.json`."""
        return {"name": self.name, "arguments": json.loads(self.arguments)}
