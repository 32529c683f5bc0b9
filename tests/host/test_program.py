"""The door: exit codes, sentences, JSON, and Ctrl-C at any moment."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from diffctl.host import explain, read_arrays, read_json, run, to_json
from tests.source import ROOT


@dataclass
class Options:
    json: bool = False
    debug: bool = False


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("--a is 3"), 2, "--a is 3"),
        (KeyError("x"), 1, "KeyError: 'x'. This was not foreseen"),
        (RuntimeError("RESOURCE_EXHAUSTED: 3 GB"), 1, "Out of memory"),
        (MemoryError(), 1, "Out of memory"),
        (FloatingPointError("NaN"), 1, "NaN"),
        (OSError(errno.ENOSPC, "No space left", "a/b"), 2, "a/b: No space left. Free"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 2, "Choose a place"),
        (ModuleNotFoundError(name="PIL"), 2, "pillow is not installed"),
        (KeyboardInterrupt("Kept."), 130, "prog: interrupted. Kept."),
    ],
)
@pytest.mark.parametrize("json_too", [False, True])
def test_errors_of_every_kind_pass_one_door(capsys, error, code, message, json_too):
    def fail(_):
        raise error

    assert run("prog", lambda: Options(json=json_too), fail) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    if json_too and code != 130:
        assert message in json.loads(captured.out)["error"]
    else:
        assert captured.out == ""
    if code != 130:
        with pytest.raises(type(error)):
            run("prog", lambda: Options(debug=True), fail)


def test_notes_of_an_error_are_said(capsys):
    error = ValueError("wrong.")
    error.add_note("Kept.")
    assert explain(error) == "wrong. Kept."
    assert run("prog", lambda: Options(), lambda _: 7) == 7


def test_a_full_disk_is_not_full_memory():
    full = "the checkpoint a cannot be written: RESOURCE_EXHAUSTED."
    assert explain(ValueError(full)) == full


def test_json_never_holds_nan(tmp_path):
    document = {
        "a": float("nan"),
        "b": [np.float32("inf"), np.arange(2.0), (1, "x")],
        "c": np.int64(3),
        "d": Path("p"),
        "e": None,
    }
    plain = {"a": None, "b": [None, [0.0, 1.0], [1, "x"]], "c": 3, "d": "p", "e": None}
    assert json.loads(to_json(document), parse_constant=pytest.fail) == plain
    path = tmp_path / "old.json"
    path.write_text('{"a": NaN, "b": -Infinity}')
    assert read_json(path) == {"a": None, "b": None}
    for text in ("", " \n", "{", '{"a": 1', "\ud800".encode("utf-8", "surrogatepass")):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=r"old\.json is not valid JSON"):
            read_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"old\.json"):
        read_json(path)


def test_archives_that_are_none_are_told(tmp_path):
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=np.arange(1000.0))
    np.testing.assert_array_equal(read_arrays(path)["x"], np.arange(1000.0))
    with pytest.raises(ValueError, match=r"no array \['y'\]; it holds \['x'\]"):
        read_arrays(path, ["y"])
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[60:160] = b"\0" * 100
    for damaged in (b"", b"text", whole[:200], whole[:-30], bytes(broken)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"data\.npz is no \.npz") as caught:
            read_arrays(path)
        assert "pickle" not in str(caught.value).lower()
    np.save(tmp_path / "one.npy", np.zeros(2))
    with pytest.raises(ValueError, match="single array"):
        read_arrays(tmp_path / "one.npy")


_AS_IN_A_TERMINAL = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
)
# What the work does when the signal comes: it sleeps, computes without yielding to
# signals, swallows exceptions, imports, or ends.
_WORK = """
import time
from pathlib import Path
from diffctl.host import new_folder, run
out = Path(sys.argv[1])

def work(_):
    with new_folder(out) as folder:
        (folder / "half").write_text("")
        print("begun", flush=True)
        while True:
            try:
                {work}
            except BaseException:
                pass

sys.exit(run("prog", lambda: None, work, for_good=True))
"""


@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(60)",
        "[i for i in range(10**5)]",
        "import jax",
        "(folder / 'b').touch()",
    ],
)
def test_ctrl_c_ends_any_work_and_leaves_nothing(tmp_path, work):
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", _AS_IN_A_TERMINAL + _WORK.format(work=work)),
            str(tmp_path / "above" / "out"),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "prog: interrupted."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(tmp_path, closed):
    code = (
        "import sys\nfrom pathlib import Path\nfrom diffctl.host import run\n"
        "def work(_):\n"
        "    print('out'); print('err', file=sys.stderr)\n"
        "    Path(sys.argv[1]).write_text('kept')\n"
        "    return 7\n"
        "sys.exit(run('prog', lambda: None, work))\n"
    )
    path = tmp_path / "file"
    command = shlex.join([sys.executable, "-c", code, str(path)])
    done = subprocess.run(
        ["sh", "-c", f"{command} {closed}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 7
    assert done.stdout == ("" if closed != "2>&-" else "out\n")
    assert done.stderr == ("" if "2>&-" in closed else "err\n")
    assert path.read_text() == "kept"


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("json_too", [True, False])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_cannot_be_written_is_one_line(json_too, flush):
    code = (
        "import sys\nfrom types import SimpleNamespace\n"
        "from diffctl.host import run\n"
        f"def work(_):\n    print('x' * 10, flush={flush})\n    return 0\n"
        f"options = SimpleNamespace(json={json_too})\n"
        "sys.exit(run('prog', lambda: options, work))\n"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("prog: error: No space left")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_ctrl_c_with_closed_streams(tmp_path, closed):
    work = "(out.parent / 'begun').touch(); time.sleep(60)"
    code = _AS_IN_A_TERMINAL + _WORK.format(work=work)
    command = shlex.join([sys.executable, "-c", code, str(tmp_path / "out")])
    process = subprocess.Popen(["sh", "-c", f"exec {command} {closed}"], cwd=ROOT)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


_MODULES = [
    "diffctl.cli", "weights_convert", "experiments.digits", "experiments.bench",
    "experiments.robustness", "experiments.model_card",
]  # fmt: skip


@pytest.mark.parametrize("module", _MODULES)
def test_ctrl_c_while_a_program_is_loaded_is_quiet(module):
    """The signal comes from the first import after the package's own."""
    code = (
        _AS_IN_A_TERMINAL
        + f"import os, runpy; sys.path.insert(0, {str(ROOT)!r})\n"
        + "class Finder:\n"
        + "    def find_spec(self, name, path=None, target=None):\n"
        + "        if name.split('.')[0] in ('tyro', 'jax', 'numpy', 'rich'):\n"
        + "            os.kill(os.getpid(), signal.SIGINT)\n"
        + "sys.meta_path.insert(0, Finder())\n"
        + "sys.argv = ['-m']\n"
        + f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr


def test_importing_a_program_leaves_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    import experiments
    import weights_convert

    assert experiments.exit_while_loading is weights_convert.exit_while_loading
    experiments.exit_while_loading()
    assert signal.getsignal(signal.SIGINT) is before
    run("prog", lambda: None, lambda _: 0)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_reader_that_has_left_is_no_error():
    code = (
        "import sys\nfrom diffctl.host import run\n"
        "def work(_):\n    print('x' * 10**6)\n    return 0\n"
        "sys.exit(run('prog', lambda: None, work))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait() == 1
