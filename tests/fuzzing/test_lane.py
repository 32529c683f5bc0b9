"""Files of every format are accepted, or refused as they should be.

A few by some doors here; `python -m tests.fuzzing.lane` does 5,000, watched, in a
process of their own.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzzing.doors import ACCEPTED, DOORS, told
from tests.fuzzing.lane import FILES, Report, door_of, handled, made, write
from tests.source import ROOT

# Doors for which nothing is compiled.
QUICK = (
    *("checkpoints", "ONNX files", "conversions", "consistency priors", "data sets"),
    "pictures",
)
EACH = 8


@pytest.mark.parametrize("name", QUICK)
def test_a_few_files(name: str, tmp_path: Path):
    """The first good one is accepted; the damaged ones may not fail."""
    (door,) = (door for door in DOORS if door.name == name)
    good = dict(next(iter(door.good())))
    assert handled(door, good, tmp_path) == ACCEPTED
    numbers = [n for n in range(FILES) if door_of(n) == door][:EACH]
    outcomes = {n: handled(door, made(0, n)[1], tmp_path) for n in numbers}
    wrong = {n: said for n, said in outcomes.items() if said.startswith("failed")}
    assert not wrong
    assert not list(tmp_path.iterdir())


def test_every_format_has_its_share():
    shares = [door_of(number).name for number in range(FILES)]
    assert sum(door.share for door in DOORS) == FILES
    assert {d.name: shares.count(d.name) for d in DOORS} == {
        d.name: d.share for d in DOORS
    }


def test_a_file_is_made_again_by_its_number(tmp_path: Path):
    for number in range(0, 60, 7):
        assert made(3, number) == made(3, number)
    door, files = made(0, 1)
    write(tmp_path, files)
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == len(files)
    assert door == door_of(1)


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("model.json: the shape is damaged", ""),
        ("the shape is damaged", "no file is named"),
        ("model.json: 'NoneType' object is not iterable", "NoneType"),
        ("model.json: \x1b[2J", "unprintable"),
    ],
)
def test_messages_name_a_file_and_speak_to_its_user(said, fault, tmp_path: Path):
    found = told(said, tmp_path, {"model/model.json": b""})
    assert found.startswith("failed" if fault else "refused") and fault in found


def test_a_report_tells_every_fault():
    assert not Report(0, "x", "refused: ...", seconds=9.0).faults()
    told = Report(0, "x", "failed: a", seconds=11.0, memory=1 << 20, noted=["exec"])
    assert len(told.faults()) == 4


@pytest.mark.slow
def test_all_files():
    """Takes seven minutes of one processor, on which nothing else runs."""
    program = [sys.executable, "-m", "tests.fuzzing.lane"]
    finished = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-2000:]
