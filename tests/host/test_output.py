"""Outputs that are whole or not there, and files of others that are never lost."""

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from diffctl.host import (
    MODEL,
    DisplacedError,
    InUseError,
    check_free,
    claimed,
    first_free,
    held,
    new_file,
    new_folder,
    output,
)
from tests.source import ROOT


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _old(tmp_path: Path, *more: str) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("manifest.json", *more):
        (out / name).write_text("old")
    return out


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    out = tmp_path / "above" / "out"
    with pytest.raises(RuntimeError), new_folder(out) as folder:
        (folder / "half").write_text("")
        raise RuntimeError
    assert _names(tmp_path) == set(), "nor are the folders above it left"
    with new_folder(out) as folder:
        (folder / "results.json").write_text("{}")
        assert not out.exists()
    assert _names(out) == {"results.json"}
    assert _names(out.parent) == {"out"}
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_only_our_own_output_is_overwritten(tmp_path):
    ours, foreign = _old(tmp_path), tmp_path / "foreign"
    foreign.mkdir()
    check_free(foreign, overwrite=False)  # empty
    (foreign / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="--overwrite"):
        check_free(ours, overwrite=False)
    check_free(ours, overwrite=True)
    for folder, kind in ((foreign, output.RESULT), (ours, MODEL)):
        with pytest.raises(FileExistsError, match="not written by diffctl"):
            check_free(folder, overwrite=True, kind=kind)
    with new_folder(ours, overwrite=True) as folder:
        (folder / "model.json").write_text("new")
        assert (ours / "manifest.json").read_text() == "old"
    assert _names(ours) == {"model.json"}
    assert _names(tmp_path) == {"out", "foreign"}


def test_files_that_are_not_ours_outlive_an_overwriting(tmp_path):
    out, said = _old(tmp_path, "notes.txt"), []
    with new_folder(out, overwrite=True, say=said.append) as folder:
        (out / "later.txt").write_text("mine")
        (folder / "model.json").write_text("new")
    assert _names(out) == {"model.json"}
    kept = tmp_path / "out.replaced"
    assert _names(kept) == {"manifest.json", "notes.txt", "later.txt"}
    assert "later.txt, notes.txt" in said[0]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_appears_while_a_run_goes_on_is_left_alone(tmp_path, what, overwrite):
    out = tmp_path / "out"
    with (
        pytest.raises(DisplacedError, match=r"out\.finished") as raised,
        new_folder(out, overwrite=overwrite) as folder,
    ):
        (folder / "model.json").write_text("new")
        if what == "folder":
            out.mkdir()
            (out / "mine.txt").write_text("mine")
        elif what == "file":
            out.write_text("mine")
        else:
            out.symlink_to(tmp_path / "elsewhere")
    assert "Move one" in str(raised.value)
    assert _names(tmp_path / "out.finished") == {"model.json"}
    assert _names(tmp_path) == {"out", "out.finished"}
    if out.is_dir():
        assert (out / "mine.txt").read_text() == "mine"


def test_an_empty_folder_that_appears_is_filled(tmp_path):
    with new_folder(tmp_path / "out") as folder:
        (tmp_path / "out").mkdir()
        (folder / "model.json").write_text("new")
    assert _names(tmp_path / "out") == {"model.json"}


def test_links_are_followed(tmp_path):
    target, link, loop = tmp_path / "disk" / "real", tmp_path / "link", tmp_path / "a"
    link.symlink_to(target)
    for text in ("first", "second"):
        with new_folder(link, overwrite=True) as folder:
            (folder / "model.json").write_text(text)
        assert link.is_symlink()
        assert (target / "model.json").read_text() == text
    loop.symlink_to(loop)
    with pytest.raises(ValueError, match="a "), new_folder(loop):
        pytest.fail("began to work")


def test_places_that_cannot_be_replaced_are_refused_before_the_work(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for wrong in (".", "..", "sub/..", str(tmp_path)):
        with pytest.raises(ValueError, match="the folder you are in"):
            check_free(Path(wrong), overwrite=True)
    for wrong in ("/proc", "/"):
        with pytest.raises(ValueError, match=r"mounted|you are in"):
            check_free(Path(wrong), overwrite=True)
    with pytest.raises(NotADirectoryError, match="file is a file where a folder"):
        check_free(Path("file/out"), overwrite=False)
    with pytest.raises(NotADirectoryError, match="file is a file"), held(Path("file")):
        pytest.fail("began to work")
    with pytest.raises(OSError, match="name too long"), new_folder(Path("x" * 300)):
        pytest.fail("began to work")
    assert _names(tmp_path) == {"file"}


def test_two_runs_on_one_place_do_not_meet(tmp_path):
    out = tmp_path / "out"
    link = tmp_path / "link"
    link.symlink_to(out)
    with new_folder(out) as folder:
        for same in (out, link, tmp_path / "." / "out"):
            with (
                pytest.raises(InUseError, match=f"process {os.getpid()}"),
                new_folder(same),
            ):
                pytest.fail("began to work")
        (folder / "model.json").write_text("")
    assert _names(out) == {"model.json"}
    with held(out), pytest.raises(InUseError), held(link):
        pytest.fail("began to work")


# A process for each step at which it may be killed: forked where no thread runs yet.
_KILLED = """
import json, os, shutil, sys
from pathlib import Path
from diffctl.host import claimed

calls = 0
def counted(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == last:
            os._exit(9)
        return function(*args, **kwargs)
    return call

def publish(place):
    with claimed(place / "out", overwrite=True) as held:
        folder = held.scratch()
        (folder / "model.json").write_text("new")
        for name in ("rename", "unlink", "rmdir", "mkdir", "open", "remove"):
            setattr(os, name, counted(getattr(os, name)))
        held.publish(folder)

found = []
for last in range(1, 40):
    place = Path(sys.argv[1]) / str(last)
    (place / "out").mkdir(parents=True)
    for name in ("model.json", "weights.safetensors", "notes.txt"):
        (place / "out" / name).write_text("old")
    child = os.fork()
    if not child:
        publish(place)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found.append(code)
    if code == 0:
        break
print(json.dumps(found))
"""


def test_killed_at_any_step_of_publishing_old_or_new_is_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    codes = json.loads(done.stdout)
    assert codes[-1] == 0 and set(codes[:-1]) == {9} and len(codes) > 8
    old = {"model.json", "weights.safetensors", "notes.txt"}
    for last in range(1, len(codes) + 1):
        folder = tmp_path / str(last)
        said: list[str] = []
        with claimed(folder / "out", overwrite=True, say=said.append):
            names = _names(folder / "out")
        text = (folder / "out" / "model.json").read_text()
        assert names == (old if text == "old" else {"model.json"}), last
        if text == "new":
            assert _names(folder / "out.replaced") == old
        assert _names(folder) <= {"out", "out.replaced"}, last


def test_a_rename_that_fails_puts_the_old_output_back(tmp_path, monkeypatch):
    out, rename = _old(tmp_path), os.rename

    def failing(source, target):
        if Path(source).name == "new":
            raise OSError(errno.EIO, "Input/output error", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    said: list[str] = []
    with (
        pytest.raises((OSError, DisplacedError)),
        new_folder(out, overwrite=True, say=said.append) as folder,
    ):
        (folder / "model.json").write_text("new")
    monkeypatch.undo()
    assert (out / "manifest.json").read_text() == "old"


def test_a_full_disk_is_said_with_the_name_of_what_was_written(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OSError, match="No space") as raised, new_folder(out):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(out)
    with (
        pytest.raises(OSError, match="No space") as raised,
        new_file(tmp_path / "a.json"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "a.json")
    assert _names(tmp_path) == set()


def test_files_appear_whole(tmp_path):
    path = tmp_path / "above" / "table.md"
    with new_file(path) as scratch:
        scratch.write_text("one")
        assert not path.exists()
    with pytest.raises(RuntimeError), new_file(path) as scratch:
        scratch.write_text("tw")
        raise RuntimeError
    assert path.read_text() == "one"
    with pytest.raises(FileExistsError), new_file(path, overwrite=False):
        pytest.fail("began to work")
    with pytest.raises(FileExistsError), new_file(path.parent):
        pytest.fail("began to work")
    with new_file(path) as scratch:
        scratch.write_text("two")
    assert path.read_text() == "two"
    assert _names(path.parent) == {"table.md"}


def test_the_default_folder_is_the_first_free_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(first_free("demo")) == "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").symlink_to("nowhere")
    assert str(first_free("demo")) == "demo-3"


def test_a_folder_is_deleted_while_a_thread_fills_it(tmp_path):
    folder, stop = tmp_path / "folder", threading.Event()
    folder.mkdir()

    def fill():
        for i in range(100_000):
            if stop.is_set():
                return
            (folder / str(i)).write_text("")

    def filling():
        try:
            fill()
        except FileNotFoundError:
            return

    thread = threading.Thread(target=filling)
    thread.start()
    output.delete(folder)
    stop.set()
    thread.join()
    output.delete(folder)
    assert not folder.exists()
