"""What every test relies on: strict broadcasting, quick programs, double precision."""

import os
from collections.abc import Iterator

import jax
import pytest

# A silent broadcast of (n,) against (n, 1) has cost every numerical library a bug.
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    """Choose XLA:CPU's former emitters in the quick lane: compiled in 0.6 of the time.

    Before any program is compiled, and for the processes that tests start. Later
    releases have no choice, and refuse the flag; they, and the slow lane, test what
    users run by default.
    """
    is_quick = "not slow" in config.option.markexpr
    if is_quick and jax.__version_info__ < (0, 11):
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()


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
