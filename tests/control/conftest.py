"""This room computes in float64."""

import pytest


@pytest.fixture(autouse=True)
def _double_precision(x64: None) -> None:
    """Every test of the room uses `x64`."""
