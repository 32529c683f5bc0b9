"""Pictures to arrays in [-1, 1] and back."""

from pathlib import Path

import numpy as np

# Modes of pillow that are read, with the one they are converted to and the white value.
_GREY, _COLOUR = ("L", 255.0), ("RGB", 255.0)
_MODES = {
    "1": _GREY,
    "L": _GREY,
    "RGB": _COLOUR,
    "P": _COLOUR,
    "I;16": ("I", 65535.0),
    "I": ("I", 65535.0),
}


def read_image(path: Path) -> np.ndarray:
    """Return a picture as float32 (H, W, C) in [-1, 1], C = 1 or 3.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture, or with an alpha channel or another colour space.
    """
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path}.")
    try:
        with Image.open(path) as picture:
            mode = picture.mode
            if mode not in _MODES:
                raise ValueError(
                    f"{path} has the colour mode {mode}; expected grey (L) or RGB "
                    "without an alpha channel. Convert it first."
                )
            target, white = _MODES[mode]
            pixels = np.asarray(picture.convert(target), np.float32)
    except (UnidentifiedImageError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path} is not a picture that pillow can read.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    image = pixels / (white / 2) - 1
    return image if image.ndim == 3 else image[..., None]


def check_shape(
    path: Path, image: np.ndarray, expected: tuple[int, ...], whose: str
) -> None:
    """Raise `ValueError` unless the image has the expected (H, W, C).

    Args:
        path: of the image, for the message.
        image: (H, W, C).
        expected: (H, W, C).
        whose: what asks for it, for the message.
    """
    if image.shape == expected:
        return
    (height, width, channels), (h, w, c) = image.shape, expected
    cures = []
    if channels != c:
        cures.append(f"convert it to {'grey' if c == 1 else 'RGB'}")
    if (height, width) != (h, w):
        cures.append(f"resize it to {h}x{w}")
    raise ValueError(
        f"{path} is {height}x{width} with {channels} channel(s), but {whose} is "
        f"{h}x{w} with {c}; {' and '.join(cures)}, or use another --prior."
    )
