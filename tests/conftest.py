"""What every test relies on: strict broadcasting, quick programs, double precision."""

import os
import tempfile
from collections.abc import Iterator

import jax
import pytest

# What one test has compiled, another file or process need not; the user's stays clean.
_CACHE = "JAX_COMPILATION_CACHE_DIR"

# A silent broadcast of (n,) against (n, 1) has cost every numerical library a bug.
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    """Choose how programs are compiled, before any is, here and in what tests start."""
    if "not slow" in config.option.markexpr:
        _use_former_emitters()
    if _CACHE not in os.environ:  # workers find that of the process that starts them
        folder = tempfile.TemporaryDirectory(prefix="diffctl-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ[_CACHE] = folder.name
    jax.config.update("jax_compilation_cache_dir", os.environ[_CACHE])
    for size, least in {"compile_time_secs": 0, "entry_size_bytes": -1}.items():
        jax.config.update(f"jax_persistent_cache_min_{size}", least)


def _use_former_emitters() -> None:
    """Compile in 0.6 of the time by XLA:CPU's former emitters.

    Later releases have no choice, and refuse the flag; they, and the slow lane, test
    what users run by default.
    """
    if jax.__version_info__ < (0, 11):
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
