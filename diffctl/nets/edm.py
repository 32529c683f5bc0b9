"""The networks of EDM: DDPM++ and NCSN++ ("Song") and ADM in its own layout.

Networks of NVlabs/edm. Modules are stored by the names that its checkpoints use,
"<resolution>x<resolution>_<what>", and run in a fixed order of these names.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

import jax
import jax.numpy as jnp
from flax import nnx

from diffctl.host import Count, Natural
from diffctl.nets.blocks import BlockStyle
from diffctl.nets.edm_stages import (
    BOX,
    HEAD_WIDTH,
    Level,
    Maker,
    Stage,
    decoder_stages,
    encoder_stages,
    resamplers,
    with_side_path,
)
from diffctl.nets.embeddings import Embedding, FourierWaves, Sinusoid, as_weights
from diffctl.nets.layers import Conv, Images, Linear


class EmbeddingWidths(TypedDict):
    """Features of the sinusoid, width of the embedding."""

    features: Count
    width: Count


class EmbeddingSpec(EmbeddingWidths):
    """The same, and the kind of the frequencies."""

    kind: Literal["positional", "fourier"]


class InputSpec(TypedDict):
    """Numbers of class labels and of parameters of augmentations; 0 for none."""

    classes: Natural
    augment: Natural


class _EDMNet(nnx.Module):
    """Encoder and decoder, which both kinds share."""

    encoder: nnx.Dict
    decoder: nnx.Dict
    encoder_order: tuple[str, ...]
    decoder_order: tuple[str, ...]

    @property
    def images(self) -> Images:
        """What images the network takes and makes."""
        halvings = sum(name.endswith("_down") for name in self.encoder_order)
        stem = self.encoder[self.encoder_order[0]].kernel
        return Images(stem.shape[2], self._last().kernel.shape[3], 2**halvings)

    def embed(
        self, noise_label: jax.Array, label: Any, augment: Any, dtype: Any
    ) -> jax.Array:
        """Return the activated embedding of noise level, class and augmentation."""
        raise NotImplementedError

    def __call__(
        self,
        x: jax.Array,
        noise_label: jax.Array,
        *,
        label: Any = None,
        augment: jax.Array | None = None,
    ) -> jax.Array:
        """Map an image (H, W, C) and a scalar noise label to (H, W, D).

        `label` is a class number or a vector of class weights, None meaning zeros;
        `augment` the vector of augmentation parameters, None meaning not augmented.
        """
        embedding = self.embed(noise_label, label, augment, x.dtype)
        h, stored = self.bottom(x, embedding)
        for name in self.decoder_order[2:]:
            if "_block" in name:
                h = jnp.concatenate([h, stored.pop()], axis=-1)
            h = self.decoder[name](h, embedding)
        return self._head(h)

    def bottom(
        self, x: jax.Array, embedding: jax.Array
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Return the result of the decoder's first two stages, and stored features."""
        h, side = x, x
        stored: list[jax.Array] = []
        for name in self.encoder_order:
            if name.endswith("_aux_residual"):
                side = h = (h + self.encoder[name](side)) * math.sqrt(0.5)
                stored[-1] = h
                continue
            stage = self.encoder[name]
            h = stage(h, embedding) if isinstance(stage, Stage) else stage(h)
            stored.append(h)
        for name in self.decoder_order[:2]:
            h = self.decoder[name](h, embedding)
        return h, stored

    def _head(self, h: jax.Array) -> jax.Array:
        raise NotImplementedError

    def _last(self) -> Conv:
        """Return the convolution that ends the network."""
        raise NotImplementedError


class SongUNet(_EDMNet):
    """DDPM++ and NCSN++; `net(x, noise_label)`.

    Args (of the constructor):
        size: height and width of the image.
        channels: of the image, of the stem, and of the output.
        levels: one dictionary of the fields of `Level` per resolution, finest first.
        embedding: `kind` ("positional" or "fourier"), `features`, `width`.
        inputs: numbers of `classes` and of `augment` parameters; 0 for none.
        encoder: "standard", or "residual" with a side path from the image.
        taps: of the separable resampling filter.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        size: Count,
        channels: tuple[Count, Count, Count],
        levels: Sequence[Annotated[Mapping[str, Any], Level]],
        embedding: EmbeddingSpec,
        inputs: InputSpec,
        encoder: Literal["standard", "residual"] = "standard",
        taps: Sequence[float] = BOX,
        rngs: nnx.Rngs,
    ):
        image, stem, out = channels
        plan = [Level(**level) for level in levels]
        features, width = embedding["features"], embedding["width"]
        self.features = _FEATURES[embedding["kind"]](features, rngs)
        self.labels = _optional(Linear, inputs["classes"], features, rngs)
        self.augment = _optional(Embedding, inputs["augment"], features, rngs)
        self.linear1 = Linear(features, width, rngs=rngs)
        self.linear2 = Linear(width, width, rngs=rngs)
        self.classes = inputs["classes"]
        style = BlockStyle(
            groups=32,
            epsilon=1e-6,
            group_width=4,
            modulation="additive",
            gain=math.sqrt(0.5),
            project_resampled=True,
        )
        make = Maker(style, width, 0, rngs, *resamplers(tuple(taps)))
        stages = dict(encoder_stages(make, size, image, stem, plan))
        if encoder == "residual":
            stages = dict(with_side_path(stages, size, image, plan, tuple(taps), rngs))
        self.encoder_order = tuple(stages)
        self.encoder = nnx.Dict(stages)
        decoded = dict(decoder_stages(make, size, stem, plan, attend_all=False))
        self.decoder_order = tuple(decoded)
        self.norm_name = f"{size}x{size}_aux_norm"
        self.head_name = f"{size}x{size}_aux_conv"
        decoded[self.norm_name] = style.norm(plan[0].width)
        decoded[self.head_name] = Conv(plan[0].width, out, gain=0.0, rngs=rngs)
        self.decoder = nnx.Dict(decoded)

    def embed(
        self, noise_label: jax.Array, label: Any, augment: Any, dtype: Any
    ) -> jax.Array:
        embedding = _features(self.features, noise_label, dtype)
        if self.labels is not None:
            weights = _label_weights(label, self.classes, dtype)
            embedding += self.labels(weights * math.sqrt(self.classes))
        embedding += _augmentation(self.augment, augment, dtype)
        embedding = jax.nn.silu(self.linear1(embedding))
        return jax.nn.silu(self.linear2(embedding))

    def _head(self, h: jax.Array) -> jax.Array:
        return self._last()(jax.nn.silu(self.decoder[self.norm_name](h)))

    def _last(self) -> Conv:
        return self.decoder[self.head_name]


class EDMADMUNet(_EDMNet):
    """ADM as written in EDM; `net(x, noise_label)`.

    Args (of the constructor):
        size, channels, levels, inputs: as in `SongUNet`; the stem has the width of the
            first level.
        embedding: `features` of the sinusoid and `width`.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        size: Count,
        channels: tuple[Count, Count, Count],
        levels: Sequence[Annotated[Mapping[str, Any], Level]],
        embedding: EmbeddingWidths,
        inputs: InputSpec,
        rngs: nnx.Rngs,
    ):
        image, stem, out = channels
        plan = [Level(**level) for level in levels]
        features, width = embedding["features"], embedding["width"]
        self.features = Sinusoid(features)
        self.labels = _optional(Embedding, inputs["classes"], width, rngs)
        self.augment = _optional(Embedding, inputs["augment"], features, rngs)
        self.linear1 = Linear(features, width, rngs=rngs)
        self.linear2 = Linear(width, width, rngs=rngs)
        self.classes = inputs["classes"]
        style = BlockStyle(groups=32, group_width=4)
        make = Maker(style, width, HEAD_WIDTH, rngs, *resamplers(BOX))
        stages = dict(encoder_stages(make, size, image, stem, plan))
        self.encoder_order = tuple(stages)
        self.encoder = nnx.Dict(stages)
        decoded = dict(decoder_stages(make, size, stem, plan, attend_all=True))
        self.decoder_order = tuple(decoded)
        self.decoder = nnx.Dict(decoded)
        self.norm = style.norm(plan[0].width)
        self.head = Conv(plan[0].width, out, gain=0.0, rngs=rngs)

    def embed(
        self, noise_label: jax.Array, label: Any, augment: Any, dtype: Any
    ) -> jax.Array:
        embedding = _features(self.features, noise_label, dtype)
        embedding += _augmentation(self.augment, augment, dtype)
        embedding = self.linear2(jax.nn.silu(self.linear1(embedding)))
        if self.labels is not None:
            embedding += self.labels(_label_weights(label, self.classes, dtype))
        return jax.nn.silu(embedding)

    def _head(self, h: jax.Array) -> jax.Array:
        return self.head(jax.nn.silu(self.norm(h)))

    def _last(self) -> Conv:
        return self.head


_FEATURES = {
    "positional": lambda width, rngs: Sinusoid(width, shift=1, sines_first=True),
    "fourier": lambda width, rngs: FourierWaves(width, sines_first=True, rngs=rngs),
}


def _optional(kind: Any, count: int, width: int, rngs: nnx.Rngs) -> Any:
    return kind(count, width, rngs=rngs) if count else None


def _features(features: Any, noise_label: jax.Array, dtype: Any) -> jax.Array:
    wide = jnp.promote_types(dtype, jnp.float32)
    return features(jnp.asarray(noise_label, wide)).astype(dtype)


def _label_weights(label: Any, classes: int, dtype: Any) -> jax.Array:
    return (
        jnp.zeros(classes, dtype)
        if label is None
        else as_weights(label, classes, dtype)
    )


def _augmentation(augment: Any, values: Any, dtype: Any) -> Any:
    if augment is None or values is None:
        return 0
    return augment(jnp.asarray(values, dtype))
