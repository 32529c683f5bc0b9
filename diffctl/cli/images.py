"""Pictures to arrays in [-1, 1], and what is odd about them.

Values are taken as they are stored: embedded colour profiles and gamma are ignored.
"""

import warnings
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.core import DiffusionPrior

# Modes of pillow that are read, with the one they are converted to and the white value.
_GREY, _COLOUR, _DEEP = ("L", 255), ("RGB", 255), ("I", 65535)
_MODES = {
    "1": _GREY,
    "L": _GREY,
    "RGB": _COLOUR,
    "P": _COLOUR,
    "I;16": _DEEP,
    "I;16B": _DEEP,
    "I": _DEEP,
}
_PROGRAMS = ("EPS", "WMF")  # formats whose files pillow has run by other programs
_ORIENTATION = 0x0112  # the tag of EXIF
_PHOTOMETRIC = 0x0106  # the tag of TIFF: 0 if white is zero
_FAINT = 0.1  # of the range from black to white
_SIGMA = 0.5  # between noise that hides a picture's polarity and noise that is easy
_CLEARLY = 2.0  # Right and inverted digits are a factor of 4 apart, noise 1.4 at most.


class Expected(NamedTuple):
    """What a picture must be like: (H, W, C), and what asks for it, for a message."""

    shape: tuple[int, ...]
    whose: str


class Picture(NamedTuple):
    """The first frame of a picture file, upright."""

    pixels: np.ndarray  # (H, W, C) as stored, C = 1 or 3
    white: int  # 255 or 65535
    has_more: bool  # frames, which were not read

    def image(self) -> np.ndarray:
        """Return float32 (H, W, C) in [-1, 1]."""
        return self.pixels.astype(np.float32) / np.float32(self.white / 2) - 1

    def doubts(self) -> list[str]:
        """Say what suggests that the file is not what its owner thinks."""
        low, high = int(self.pixels.min()), int(self.pixels.max())
        found = []
        if self.has_more:
            found.append("has several frames; the first one is used.")
        if self.white > 255 and 0 < high < 1 << 14:
            found.append(
                f"is stored in 16 bits but has no value above {high}: white is 65535. "
                f"If these are {max(high.bit_length(), 8)} bits, stretch them to 16."
            )
        elif high - low < _FAINT * self.white:
            found.append(
                f"has low contrast: its values go from {low} to {high}, where black is "
                f"0 and white {self.white}."
            )
        return found


def read_image(path: Path) -> np.ndarray:
    """Return a picture as float32 (H, W, C) in [-1, 1], C = 1 or 3; see `read_picture`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that `read_picture` refuses.
    """
    return read_picture(path).image()


def read_picture(path: Path, expected: Expected | None = None) -> Picture:
    """Read the first frame of a picture, turned as its EXIF orientation says.

    Args:
        path: of the file.
        expected: what the picture must be like. Its header tells, before any memory is
            spent on its pixels.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture, damaged, huge, not as expected, with transparent
            pixels or an alpha channel, of another colour space, or with values that are
            not of 16 bits.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path}.")
    # Not by its name: pillow scrambles uncompressed TIFFs that it maps and turns.
    with path.open("rb") as file, _opened(path, file) as picture:
        if picture.mode not in _MODES:
            raise ValueError(
                f"{path} has the colour mode {picture.mode}; expected grey (L) or RGB "
                "without an alpha channel. Convert it first."
            )
        if picture.format in _PROGRAMS:
            raise ValueError(
                f"{path} is no picture but a program that draws one "
                f"({picture.format}), which is not run. Save it as PNG."
            )
        # Its orientation may exchange height and width, and be known after decoding.
        if expected and sorted(picture.size) != sorted(expected.shape[:2]):
            width, height = picture.size
            colours = 3 if _MODES[picture.mode] == _COLOUR else 1
            check_shape(path, (height, width, colours), expected)
        found = _decode(path, picture)
    if expected:
        check_shape(path, found.pixels.shape, expected)
    return found


def _opened(path: Path, file: BinaryIO) -> Any:
    """Read the header of a picture, which tells its size, and decode nothing yet."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(file)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} declares more than {Image.MAX_IMAGE_PIXELS} pixels and is not "
            "decoded; resize it."
        ) from error
    except (UnidentifiedImageError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path} is not a picture that pillow can read.") from error
    except Exception as error:  # pillow raises what its decoders raise
        raise _unreadable(path) from error


def _unreadable(path: Path) -> ValueError:
    return ValueError(
        f"{path} cannot be read: it is damaged, cut short, or of a kind that pillow "
        "lacks the means for. Save it again as PNG."
    )


def _decode(path: Path, picture: Any) -> Picture:
    target, white = _MODES[picture.mode]
    try:
        raw = picture.tile[0][-1] if picture.format == "PNG" else None
        picture.load()
        is_transparent = _is_transparent(picture, raw)
        pixels = np.asarray(_upright(picture).convert(target))
    except Exception as error:  # pillow raises what its decoders raise
        raise _unreadable(path) from error
    if is_transparent:
        raise ValueError(
            f"{path} cannot be read: some of its pixels are transparent, and images "
            "have no alpha channel. Put it on a background first."
        )
    if pixels.min() < 0 or pixels.max() > white:
        raise ValueError(
            f"{path} has values from {pixels.min()} to {pixels.max()}; expected 0 to "
            f"{white}, black to white. Convert it to 8 or 16 bits."
        )
    pixels = white - pixels if _is_white_zero(picture) else pixels
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return Picture(pixels=pixels, white=white, has_more=_has_more(picture))


def _upright(picture: Any) -> Any:
    """Turn or mirror a loaded picture as its EXIF orientation says."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(_orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def _orientation(picture: Any) -> Any:
    try:
        return picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged block says nothing, and the pixels are whole
        return 1


def _has_more(picture: Any) -> bool:
    """Return whether there is a second frame; leaves the picture there."""
    try:
        picture.seek(1)
    except EOFError:
        return False
    except Exception:  # a second frame that is damaged; nobody wants it
        return True
    return True


def _is_transparent(picture: Any, raw: Any) -> bool:
    """Return whether a pixel is transparent; forget about transparency otherwise.

    Without an alpha channel a colour may be marked as transparent, or the entries of
    the palette have an opacity.

    Args:
        picture: loaded.
        raw: what pillow calls the samples in the file.
    """
    marked = picture.info.pop("transparency", None)
    values = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    if picture.mode == "P":
        return bool(np.any(_opacities(picture, marked)[values] < 255))
    if marked is None:
        return False
    same = values == _as_read(np.asarray(marked), picture.mode, raw)
    return bool(np.any(same.all(axis=-1) if values.ndim == 3 else same))


def _opacities(picture: Any, marked: Any) -> np.ndarray:
    """Return those of a palette's entries, (256,): its own and the marked ones."""
    opacity = np.full(256, 255)
    own = picture.getpalette("RGBA")[3::4]
    opacity[: len(own)] = own
    if isinstance(marked, bytes):
        opacity[: len(marked)] = np.frombuffer(marked, np.uint8)
    elif marked is not None:
        opacity[marked] = 0
    return opacity


def _as_read(mark: np.ndarray, mode: str, raw: Any) -> np.ndarray:
    """Convert a marked colour from the samples of the file to those of the pixels.

    Samples of 2 and 4 bits are read as 8, and colours of 16 bits as well. Of a mark
    only the bits of a sample count.
    """
    if raw == "RGB;16B":
        return mark >> 8
    if raw in ("L;2", "L;4"):
        largest = 2 ** int(raw[-1]) - 1
        return (mark & largest) * (255 // largest)
    return mark & (0xFFFF if mode.startswith("I") else 0xFF)


def _is_white_zero(picture: Any) -> bool:
    """Return whether 0 is white in the pixels, which pillow undoes up to 8 bits."""
    deep = picture.mode.startswith("I")
    return deep and picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == 0


def looks_inverted(prior: DiffusionPrior, image: np.ndarray) -> bool:
    """Return whether the prior denoises the negative of an image much better.

    Compares E |D(x + sigma n) - x|^2 of x and -x, which differ by a part of their
    log likelihoods. A denoiser that knows no polarity makes them equal.
    """
    noise = _SIGMA * jax.random.normal(jax.random.key(0), image.shape, image.dtype)
    both = jnp.stack([image, -image])
    upright, negative = _denoising_errors(prior, both, jnp.stack([noise, -noise]))
    return bool(upright > _CLEARLY * negative)


@jax.jit
def _denoising_errors(
    prior: DiffusionPrior, images: jax.Array, noise: jax.Array
) -> jax.Array:
    """Return the mean squared error for each of some images over all of the noise."""
    sigma = jnp.asarray(_SIGMA, images.dtype)

    def error(x0: jax.Array, noise: jax.Array) -> jax.Array:
        return jnp.mean((prior.denoise(x0 + noise, sigma) - x0) ** 2)

    each = jax.vmap(jax.vmap(error, (None, 0)), (0, None))
    return each(images, noise).mean(axis=1)


def check_shape(path: Path, shape: tuple[int, ...], expected: Expected) -> None:
    """Raise `ValueError` unless an image of the (H, W, C) `shape` is as expected."""
    if shape == expected.shape:
        return
    (height, width, channels), (h, w, c) = shape, expected.shape
    cures = []
    if channels != c:
        cures.append(f"convert it to {'grey' if c == 1 else 'RGB'}")
    if (height, width) != (h, w):
        cures.append(f"resize it to {h}x{w}")
    raise ValueError(
        f"{path} is {height}x{width} with {channels} channel(s), but "
        f"{expected.whose} is {h}x{w} with {c}; {' and '.join(cures)}, or use another "
        "--prior."
    )
