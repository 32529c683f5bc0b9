"""Images in [-1, 1] as PNG files and as parts of a page."""

import base64
import io

import numpy as np


def require_pictures() -> None:
    """Raise `ModuleNotFoundError` if the extra `report` is not installed.

    For commands that would otherwise notice after minutes of work.
    """
    import matplotlib  # noqa: F401
    import PIL  # noqa: F401


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Convert [-1, 1] to 0..255, clipping; the scale is the same for every image."""
    return np.clip(np.rint((np.asarray(image) + 1) * 127.5), 0, 255).astype(np.uint8)


def to_png(image: np.ndarray) -> bytes:
    """Return an image (H, W, C), C = 1 or 3, in [-1, 1] as the bytes of a PNG file."""
    from PIL import Image

    pixels = to_uint8(image)
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """Return a PNG file as the source of an HTML image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
