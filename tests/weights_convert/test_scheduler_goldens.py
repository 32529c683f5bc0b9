"""Estimates of x0 against those of huggingface/diffusers' own schedulers."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.priors.network import apply_preconditioned
from diffctl.priors.preconditioning import from_json
from tests.tolerances import REORDER32
from tests.weights_convert.record_schedulers import CASES, network
from weights_convert.families import schedulers
from weights_convert.families.scheduler_classes import CONSISTENCY, DISCRETE, EDM

# Written by diffusers 0.42.1; see record_schedulers.py.
RECORDS = json.loads((Path(__file__).parent / "schedulers.json").read_text())


@pytest.mark.parametrize(
    "record", RECORDS, ids=[record["scheduler"]["_class_name"] for record in RECORDS]
)
def test_the_estimate_is_that_of_the_library(record):
    """Its tables are float32 products of a thousand factors."""
    described = schedulers.prior(record["scheduler"], learns_variance=False)
    found = apply_preconditioned(
        lambda z, label: network(z, label, jnp.sin),
        from_json(described["preconditioning"]),
        jnp.asarray(record["x"], jnp.float32),
        jnp.float32(record["sigma"]),
    )
    np.testing.assert_allclose(found, record["x0"], **REORDER32)
    # Grids of samplers begin at the range's ends.
    slack = 1e-4 * record["sigma"]
    assert described["sigma_min"] - slack <= record["sigma"]
    assert record["sigma"] <= described["sigma_max"] + slack


def test_every_scheduler_that_can_be_converted_is_recorded():
    """Except one that needs another library, and one that asks at a later label."""
    recorded = {name for name, _ in CASES}
    others = {"DPMSolverSDEScheduler", "DDIMInverseScheduler"}
    assert recorded == {*DISCRETE, *EDM, *CONSISTENCY} - others
