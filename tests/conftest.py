"""What every test relies on: strict broadcasting, quick programs, double precision."""

from collections.abc import Iterator

import jax
import pytest

# A silent broadcast of (n,) against (n, 1) has cost every numerical library a bug.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def _quick_compilation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compile without optimisation: two to four times faster, the same algebra.

    Not for slow tests, which run longer than they compile.
    """
    quick = request.node.get_closest_marker("slow") is None
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True, scope="module")
def _programs_are_dropped() -> Iterator[None]:
    """Free the compiled programs of a file.

    Each holds memory maps, of which Linux allows a process 65,530; XLA crashes beyond.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def x64() -> Iterator[None]:
    """Let the test compute in float64."""
    with jax.enable_x64(True):
        yield
