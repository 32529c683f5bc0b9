"""The size of images, and whether a network can halve it at every level."""

from weights_convert.families.base import Config, required, unfit, whole


def image_size(config: Config, name: str, num_levels: int) -> tuple[int, int]:
    """Return height and width of the images: one number for both, or two.

    Raises:
        ConfigError: not given, not whole or positive, or the levels cannot halve them.
    """
    size = required(config, name, "it is the height and width of the images")
    is_pair = isinstance(size, list | tuple) and len(size) == 2
    rows, columns = (
        whole({name: side}, name) for side in (size if is_pair else (size, size))
    )
    check_halvings(name, (rows, columns), num_levels)
    return rows, columns


def check_halvings(name: str, size: tuple[int, int], num_levels: int) -> None:
    """Check that a network of so many levels can halve height and width between them.

    Raises:
        ConfigError: a level would have half a pixel.
    """
    unit = 2 ** (num_levels - 1)
    if any(side % unit for side in size):
        given = size[0] if size[0] == size[1] else list(size)
        raise unfit(
            name, given, f"divisible by {unit}, for {num_levels} levels halve the image"
        )
