"""Tables: statistics against NumPy, and what is missing or doubled."""

import numpy as np
import pytest

from experiments.common import Measure, pivot, summarise, to_markdown
from experiments.common.store import Results
from experiments.digits.standings import standings

PSNR = Measure("psnr", "PSNR (dB)", 2)
HITS = Measure("recognised", "recognised (%)", 1, factor=100)


def record(ids, psnr, status=None, levels=5, seconds=1.0):
    return {
        "labels": {"solver": "dps", "levels": levels},
        "ids": ids,
        "images": {
            "psnr": psnr,
            "recognised": [1.0] * len(ids),
            "status": status or [0] * len(ids),
        },
        "seconds": seconds,
    }


def test_mean_and_standard_error():
    values = [20.0, 22.0, 27.0]
    records = [record([0, 1], values[:2], seconds=1.0), record([2], values[2:])]
    (summary,) = summarise(records, [PSNR, HITS])
    numbers = summary.statistics["psnr"]
    np.testing.assert_allclose(numbers["mean"], np.mean(values))
    np.testing.assert_allclose(
        numbers["standard_error"], np.std(values, ddof=1) / np.sqrt(3)
    )
    assert summary.seconds_per_image == pytest.approx(2 / 3)
    row = to_markdown([summary], [PSNR, HITS]).splitlines()[-1]
    assert row == "| dps | 5 | 23.00 ± 2.08 | 100.0 | 0.667 | 0 | 3 |"


def test_what_is_not_finite_is_left_out_and_failures_are_counted(tmp_path):
    results = Results(tmp_path)
    results.write(record([0, 1], [20.0, float("nan")], status=[0, 1]))
    (summary,) = summarise(results.records(), [PSNR])
    assert summary.statistics["psnr"] == {"mean": 20.0, "standard_error": None}
    assert (summary.failed, summary.images) == (1, 2)


def test_an_image_with_two_results_is_refused():
    with pytest.raises(ValueError, match="two results for dps 5"):
        summarise([record([0, 1], [1.0, 2.0]), record([1], [2.0])], [PSNR])


def test_pivot():
    records = [record([0], [1.0], levels=10), record([0], [2.0], levels=5)]
    text = pivot(summarise(records, [PSNR]), PSNR, "levels")
    assert text.splitlines() == [
        "| solver | levels 5 | levels 10 |",
        "| --- | --- | --- |",
        "| dps | 2.00 | 1.00 |",
    ]


def test_a_damaged_file_is_named(tmp_path):
    path = Results(tmp_path).write(record([0], [1.0]))
    path.write_text('{"ids": [')
    with pytest.raises(ValueError, match=path.name):
        Results(tmp_path).records()


def test_standings_go_by_the_distance_to_the_best():
    def restored(solver, task, psnr, budget):
        labels = {"task": task, "solver": solver, "budget": budget}
        return record([0], [psnr]) | {"labels": labels}

    records = [
        restored("able", "super_resolution_x4", 18.0, "100"),
        restored("able", "box_inpainting", 12.0, "100"),
        restored("picky", "super_resolution_x4", 19.5, "100"),
        restored("broken", "box_inpainting", None, "100"),
        restored("able", "box_inpainting", 14.0, "own"),
    ]
    lines = standings(summarise(records, [PSNR])).splitlines()
    rows = [line for line in lines if line.startswith("| ") and "---" not in line]
    assert [line for line in rows if "solver" not in line] == [
        "| able |  |  | 14.00 |  |  | 0.00 |",
        "| picky | 19.50 |  |  |  |  | 0.00 |",
        "| able | 18.00 |  | 12.00 |  |  | 0.75 |",
        "| broken |  |  |  |  |  |  |",
    ]
    assert [line for line in lines if "budget" in line] == [
        "PSNR (dB), budget own:",
        "PSNR (dB), budget 100:",
    ]


def test_standings_compare_solvers_on_the_same_images():
    """Image 0 is easy: one with nothing else is behind on it, though its mean leads."""
    labels = {"task": "box_inpainting", "budget": "own"}
    records = [
        record([0, 1], [20.0, 10.0]) | {"labels": labels | {"solver": "all"}},
        record([0], [18.0]) | {"labels": labels | {"solver": "few"}},
    ]
    table = standings(summarise(records, [PSNR]))
    assert "| all |  |  | 15.00 ± 5.00 |  |  | 0.00 |" in table
    assert "| few |  |  | 18.00 (1) |  |  | 2.00 |" in table
