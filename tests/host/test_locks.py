"""One holder at a time, also when holders come, go and die all the time."""

import json
import subprocess
import sys

import pytest

from diffctl.host import InUseError, locked
from diffctl.host import locks as module
from tests.source import ROOT

# Processes that take and release one lock; inside, no other may be found. Some die
# with the lock in their hands.
_CONTEST = """
import json, os, sys, time
from pathlib import Path
from diffctl.host import InUseError, locked
path, inside = Path(sys.argv[1]) / "lock", Path(sys.argv[1]) / "inside"

def contest(number):
    won, until = 0, time.monotonic() + 1.0
    while time.monotonic() < until:
        try:
            with locked(path, path, lambda text: None):
                mark = os.open(inside, os.O_CREAT | os.O_EXCL)
                os.close(mark)
                won += 1
                os.unlink(inside)
                if number == 0 and won == 20:
                    os._exit(77)
        except InUseError:
            pass
    os._exit(0 if won else 3)

children = []
for number in range(6):
    child = os.fork()
    if not child:
        contest(number)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(json.dumps(codes))
"""


def test_nobody_holds_what_another_holds(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _CONTEST, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [77, 0, 0, 0, 0, 0], done.stderr
    assert not (tmp_path / "inside").exists()


def test_the_lock_of_a_dead_process_is_taken_over_and_that_is_said(tmp_path):
    path, said = tmp_path / "lock", []
    path.write_text("4194305\n")  # left by a process that was killed
    with locked(path, tmp_path / "out", said.append):
        with (
            pytest.raises(InUseError, match="out is being written"),
            locked(path, tmp_path / "out", said.append),
        ):
            pytest.fail("two holders")
        (sentence,) = said
        assert "process 4194305, which has ended" in sentence
    assert not path.exists()


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(module.fcntl, "flock", unknown)
    said = []
    with locked(tmp_path / "lock", tmp_path / "out", said.append):
        assert "knows no locks" in said[0]
    monkeypatch.setattr(module.fcntl, "flock", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a", tmp_path, print):
        pass
