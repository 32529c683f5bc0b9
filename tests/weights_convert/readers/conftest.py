"""Opening a checkpoint that exists as bytes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from weights_convert.readers import Checkpoint, open_checkpoint


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Checkpoint]:
    """Write bytes to a file and open it."""

    def write_and_open(data: bytes, name: str = "model.pt", **options) -> Checkpoint:
        (tmp_path / name).write_bytes(data)
        return open_checkpoint(tmp_path / name, **options)

    return write_and_open
