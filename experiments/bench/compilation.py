"""Compile time of DOC on the shipped prior, cold and from JAX's persistent cache.

Each measurement is a fresh process.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from diffctl.host import temporary_folder

_CHILD = """
import json, sys, time
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
import diffctl
from diffctl.cli.solver_table import SOLVERS
from diffctl.cli.task_table import TASKS
from diffctl.cli.tasks import Request
task = "random_inpainting"
prior = diffctl.assets.digits_prior()
images, _ = diffctl.assets.test_digits()
request = Request(shape=prior.shape, key=jax.random.key(0), image=images[0])
problem = TASKS[task].pose(request).problem
solver = SOLVERS["doc"].build(task, None)
start = time.perf_counter()
jax.block_until_ready(diffctl.solve(jax.random.key(0), problem, prior, solver))
first = time.perf_counter() - start
start = time.perf_counter()
jax.block_until_ready(diffctl.solve(jax.random.key(1), problem, prior, solver))
again = time.perf_counter() - start
print(json.dumps({"first_call": first, "second_call": again, "compile": first - again}))
"""


def measure() -> dict[str, Any]:
    """Return seconds of the first and second call, without and with a warm cache."""
    with temporary_folder() as cache:
        return {"cold": _run(str(cache)), "from_cache": _run(str(cache))}


def _run(cache: str | Path) -> dict[str, float]:
    result = subprocess.run(
        [sys.executable, "-c", _CHILD, str(cache)],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(result.stdout.strip().splitlines()[-1])
