"""Images from `.npz` archives, and batches that depend on (seed, step) alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffctl.host import read_arrays

MOST_CLASSES = 1 << 16  # a network has an output for every number up to the largest


@dataclass(frozen=True)
class Dataset:
    """Images kept as uint8 (N, H, W, C) with integer labels (N,), zeros if absent."""

    images: np.ndarray
    labels: np.ndarray

    @classmethod
    def load(
        cls, path: str | Path, images: str, labels: str | None = None
    ) -> "Dataset":
        """Read two arrays of an `.npz` file; pickled objects are refused.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is damaged, an array is missing, empty or not uint8
                NHWC, the lengths differ, or a label is not a whole number >= 0.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no data file {path}.")
        found = read_arrays(Path(path), [name for name in (images, labels) if name])
        x = found[images]
        if x.dtype != np.uint8 or x.ndim != 4:
            raise ValueError(
                f"{images} in {path} is {x.dtype} of shape {x.shape}; expected uint8 "
                "images (N, H, W, C)."
            )
        if not x.size:
            raise ValueError(
                f"{images} in {path} holds no images, or none with pixels: its shape "
                f"is {x.shape}; expected at least one."
            )
        y = found[labels] if labels else np.zeros(len(x))
        _check_labels(f"{labels} in {path}", y)
        if len(x) != len(y):
            raise ValueError(f"{len(x)} images but {len(y)} labels in {path}.")
        return cls(images=x, labels=y.astype(np.int32))

    def batch(self, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return batch `step`: images in [-1, 1] (size, H, W, C) and labels (size,).

        Every epoch is a fresh permutation; a remainder smaller than a batch is dropped.
        """
        if not 1 <= size <= len(self.images):
            raise ValueError(
                f"the batch size is {size}; expected 1 to {len(self.images)}, the "
                "number of images."
            )
        per_epoch = len(self.images) // size
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng((seed, epoch)).permutation(len(self.images))
        chosen = order[place * size : (place + 1) * size]
        return to_unit_range(self.images[chosen]), self.labels[chosen]


def _check_labels(whose: str, labels: np.ndarray) -> None:
    """Raise `ValueError` unless labels are (N,) numbers of classes."""
    if labels.ndim != 1 or labels.dtype.kind not in "biuf":
        raise ValueError(
            f"{whose} is {labels.dtype} of shape {labels.shape}; expected one whole "
            "number for each image, (N,). Number the classes from 0."
        )
    is_class = (labels >= 0) & (labels < MOST_CLASSES)
    is_class &= labels == np.floor(labels)
    if not is_class.all():
        place = int(np.argmin(is_class))
        raise ValueError(
            f"{whose} has the label {labels[place]} at {place}; expected whole "
            f"numbers from 0 to {MOST_CLASSES - 1}. Number the classes from 0."
        )


def to_unit_range(images: np.ndarray) -> np.ndarray:
    """Convert uint8 0..255 to float32 [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0
