"""Conditions that the operators' factories ask of their arguments."""


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless `condition`."""
    if not condition:
        raise ValueError(message)


def require_image_shape(shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `shape` is (height, width, channels)."""
    require(
        len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape),
        f"shape is {shape}; expected (height, width, channels) of one image, channels "
        "last and without a batch axis, e.g. (28, 28, 1).",
    )
