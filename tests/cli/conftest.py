"""A prior, a picture and a data set so small that every command runs in seconds."""

from pathlib import Path

import jax
import numpy as np
import pytest

from diffctl.cli.images import read_image
from diffctl.cli.main import main
from diffctl.nets import Architecture
from diffctl.priors import EDMPreconditioning, NetworkPrior
from diffctl.report import to_png

SIZE, STEPS = 12, 6
TINY_NET = {"channels": 1, "widths": (4,), "blocks": (1,), "embedding": 8, "groups": 2}


@pytest.fixture(autouse=True)
def _leave_the_cache_alone(monkeypatch, tmp_path):
    """The command configures JAX's cache for its process; tests share theirs."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "xla"))


@pytest.fixture(scope="session")
def tiny_prior() -> NetworkPrior:
    return NetworkPrior.create(
        Architecture.of("unet", **TINY_NET, heads=1),
        (SIZE, SIZE, 1),
        key=jax.random.key(0),
        preconditioning=EDMPreconditioning(sigma_data=1.0),
        sigma_max=10.0,
    )


@pytest.fixture(scope="session")
def prior_folder(tiny_prior, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "prior"
    tiny_prior.save(folder)
    return folder


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    ramp = np.linspace(-1, 1, SIZE)
    image = (ramp[:, None, None] * ramp[None, :, None]).astype(np.float32)
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    path.write_bytes(to_png(image))
    assert read_image(path).shape == (SIZE, SIZE, 1)
    return path


@pytest.fixture(scope="session")
def data_file(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (40, SIZE, SIZE, 1), dtype=np.uint8),
        "y_train": np.arange(40, dtype=np.uint8) % 3,
        "x_test": rng.integers(0, 256, (6, SIZE, SIZE, 1), dtype=np.uint8),
        "y_test": np.arange(6, dtype=np.uint8) % 3,
    }
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def reconstruct(prior_folder, picture, tmp_path):
    """Run `diffctl reconstruct`; options may be replaced, None leaves one out."""

    def run(*flags: str, **options: str | None) -> int:
        chosen = {
            "task": "box_inpainting",
            "solver": "dps",
            "steps": "3",
            "image": str(picture),
            "prior": str(prior_folder),
            "out": str(tmp_path / "out"),
        } | options
        given = [
            part
            for name, value in chosen.items()
            if value is not None
            for part in (f"--{name.replace('_', '-')}", value)
        ]
        return main(["reconstruct", *given, *flags])

    return run


@pytest.fixture
def classifier(data_file):
    """Return the arguments that train a tiny classifier."""

    def arguments(out, *more: str, steps: int = STEPS) -> list[str]:
        return [
            "train", "classifier", "--data", str(data_file), "--out", str(out),
            "--num-steps", str(steps), "--batch-size", "8", "--warmup", "1",
            "--width", "2", "--checkpoint-every", "2", *more,
        ]  # fmt: skip

    return arguments
