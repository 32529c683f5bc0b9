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
    """Convert an image (H, W, C), C = 1 or 3, in [-1, 1] to 0..255.

    The scale is the same for every image. Values outside are clipped, NaN is black.

    Raises:
        ValueError: the image has another number of axes or channels, or is complex.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or np.iscomplexobj(image):
        raise ValueError(
            f"a picture of {image.dtype} numbers with shape {image.shape} cannot be "
            "drawn; expected real numbers (height, width, 1 or 3). Choose channels."
        )
    # In half precision neighbouring grey values would be mixed up.
    shown = np.nan_to_num(np.clip(image.astype(np.float64), -1, 1), nan=-1.0)
    return np.rint((shown + 1) * 127.5).astype(np.uint8)


def to_png(image: np.ndarray) -> bytes:
    """Return an image (H, W, C), C = 1 or 3, in [-1, 1] as the bytes of a PNG file.

    Raises:
        ValueError: as in `to_uint8`.
    """
    from PIL import Image

    pixels = to_uint8(image)
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """Return a PNG file as the source of an HTML image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
