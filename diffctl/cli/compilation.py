"""Compiled programs that outlive the process."""

import os
from pathlib import Path


def keep_compiled_programs() -> None:
    """Use JAX's persistent compilation cache in the user's cache folder.

    `JAX_COMPILATION_CACHE_DIR` is respected, and so is `XDG_CACHE_HOME`. Without a
    writable folder there is no cache.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(home) / "diffctl" / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small programs too: hundreds of them run before the first solve.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
