"""What ships with the package: a prior for digits, a classifier and 32 test images.

All are of MNIST. The digits are taken from the held-out half of the data, which the
networks were not trained on: in its order, the first three of every class and a fourth
0 and 1, arranged 0, 1, ..., 9, 0, 1, ..., so that image i shows the digit i mod 10.
"""

from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from diffctl.priors import NetworkPrior


def digits_prior(*, dtype: Any = None) -> "NetworkPrior":
    """Return the trained denoiser of 28x28 grey digits.

    Args:
        dtype: what the network computes in; None: the dtype of its input.

    Raises:
        FileNotFoundError, ValueError: the installation is damaged.
    """
    from diffctl.priors import NetworkPrior

    with as_file(files(__name__) / "digits_prior") as folder:
        return NetworkPrior.restore(folder, dtype=dtype)


def digits_classifier() -> Any:
    """Return the trained classifier: a network from (28, 28, 1) to 10 logits.

    Raises:
        FileNotFoundError, ValueError: the installation is damaged.
    """
    from diffctl.priors.storage import read_model

    with as_file(files(__name__) / "digits_classifier") as folder:
        return read_model(folder, kind="classifier")[0]


def notes(name: str) -> dict[str, Any]:
    """Return what was recorded when a shipped network was trained.

    Args:
        name: "digits_prior" or "digits_classifier".
    """
    from diffctl.host import parse_json

    file = files(__name__) / name / "model.json"
    return parse_json(file.read_bytes(), str(file)).get("notes") or {}


def test_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images in [-1, 1], float32 (32, 28, 28, 1), and labels, int32 (32,)."""
    with (
        as_file(files(__name__) / "test_digits.npz") as path,
        np.load(path, allow_pickle=False) as archive,
    ):
        images, labels = archive["images"], archive["labels"]
    return images.astype(np.float32) / 127.5 - 1.0, labels.astype(np.int32)
