"""Every file of a corpus is handled or refused, quickly, and nothing else happens.

Once for the readers alone, and once for the whole converter, by its command line.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import ROOT
from tests.weights_convert.fuzzing.corpus import KINDS, sample
from tests.weights_convert.fuzzing.hostile import CANARY, COMMAND

# Limits on memory, and how much is in use, are asked of the system.
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for limits")

SEED = 0
QUICK, WHOLE = 300, 2000
CONVERTED = 160
SECONDS = 5.0
MEGABYTES = 400
# Of a conversion, beyond what JAX takes: measured 166, most of it compiled programs.
MORE_MEGABYTES = 400


def _python(folder: Path, *arguments: str) -> str:
    """Return what a Python process prints that starts in a folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    # A crash of the interpreter shows in the code, its place in the last lines.
    ends = f"{finished.stdout[-2000:]}\n{finished.stderr[-2000:]}"
    assert finished.returncode == 0, f"exit code {finished.returncode}\n{ends}"
    return finished.stdout


def _judge(folder: Path, what: str, stop: int) -> tuple[list[dict], dict]:
    """Handle samples, assert that nothing went wrong, and return the reports."""
    module = "tests.weights_convert.fuzzing.worker"
    lines = _python(folder, "-m", module, what, str(SEED), "0", str(stop)).splitlines()
    *reports, last = map(json.loads, lines)
    assert len(reports) == stop
    wrong = [
        report
        for report in reports
        if report["outcome"].startswith("failed")
        or not report["outcome"].isprintable()
        or report["seconds"] > SECONDS
        or report["noted"]
        or report["left"]
    ]
    assert not wrong, wrong[:3]
    assert not list(folder.iterdir())
    return reports, last


def _reasons(reports: list[dict]) -> set[str]:
    """Return the messages of the refusals, numbers and names aside."""
    words = (report["outcome"].split() for report in reports)
    return {" ".join(word for word in text if word.isalpha()) for text in words}


def test_part_of_the_corpus(tmp_path):
    reports, last = _judge(tmp_path, "open", QUICK)
    loaded = sum(report["outcome"] == "done" for report in reports)
    assert QUICK / 20 < loaded < QUICK / 2
    assert len(_reasons(reports)) > 40
    assert last["peak_kilobytes"] < MEGABYTES << 10


def test_converting_part_of_the_corpus(tmp_path):
    reports, last = _judge(tmp_path, "convert", CONVERTED)
    converted = sum(report["outcome"] == "done" for report in reports)
    assert CONVERTED / 20 < converted < CONVERTED / 2
    assert len(_reasons(reports)) > 30
    assert last["more_kilobytes"] < MORE_MEGABYTES << 10


@pytest.mark.slow
def test_the_whole_corpus(tmp_path):
    """Took 15 s of processor time; the slowest file 1.6 s, the memory 213 MB."""
    _, last = _judge(tmp_path, "open", WHOLE)
    assert last["peak_kilobytes"] < MEGABYTES << 10


@pytest.mark.slow
def test_converting_the_whole_corpus(tmp_path):
    """Took 70 s of processor time; the slowest file 1.0 s, the memory 166 MB more."""
    _, last = _judge(tmp_path, "convert", WHOLE)
    assert last["more_kilobytes"] < MORE_MEGABYTES << 10


def test_the_corpus_is_the_same_for_the_same_seed():
    for number in range(0, 200, 7):
        assert sample(SEED, number) == sample(SEED, number)
    assert sample(SEED, 1) != sample(SEED + 1, 1)


def test_every_kind_of_sample_occurs():
    names = {sample(SEED, number).name for number in range(QUICK)}
    kinds = {make.__name__ for make in KINDS}
    assert {name.split("_", 1)[1] for name in names} == {kind[1:] for kind in kinds}


def test_the_watch_notices_what_a_naive_reader_does(tmp_path):
    """Python's own unpickler runs the command of the first attack."""
    program = f"""
import os, pickle, sys
from tests.weights_convert.fuzzing.hostile import CALLS
from tests.weights_convert.fuzzing.worker import Watch
from tests.weights_convert.readers.pickles import dumps
watch = Watch(os.getcwd())
sys.addaudithook(watch)
watch.active = True
pickle.loads(dumps(CALLS[0]))
open({CANARY + "2"!r}, "w").close()
watch.active = False
print(watch.noted)
"""
    noted = _python(tmp_path, "-c", program)
    assert COMMAND in noted and "pickle.find_class" in noted and "open" in noted
    assert sorted(path.name for path in tmp_path.iterdir()) == [CANARY, CANARY + "2"]
