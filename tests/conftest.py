"""What every test relies on: strict broadcasting, and double precision on request."""

from collections.abc import Iterator

import jax
import pytest

# A silent broadcast of (n,) against (n, 1) has cost every numerical library a bug.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64() -> Iterator[None]:
    """Let the test compute in float64."""
    with jax.enable_x64(True):
        yield
