"""What a result was computed with and on."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffctl.cli import manifest

_ROOT = Path(__file__).parents[2]


def record() -> dict[str, Any]:
    """Return versions, devices and the revision of the source, as JSON."""
    return {
        "versions": manifest.versions(),
        "machine": manifest.machine(),
        "revision": revision(),
    }


def revision() -> str | None:
    """Return the git revision, marked if files differ from it; None without git."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def fingerprint(tree: Any) -> str:
    """Return a digest of the arrays of a pytree: of weights, or of images."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()
