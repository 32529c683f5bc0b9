"""Handles files of a corpus in a process that may not do anything else.

Run as `python -m tests.weights_convert.fuzzing.worker WHAT SEED START STOP`, in an
empty folder; WHAT is "open" or "convert". Prints a line of JSON for each sample. Every
sample must be handled or refused; meanwhile the only thing the process may ask of
Python is to open and map these files and, to convert, to write the new folder. Memory
is limited, so that a bomb is a MemoryError, which counts as a failure. Seconds are
those of the processor, for neither waits.
"""

import contextlib
import dataclasses
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.weights_convert.fuzzing.corpus import TOYS, Ground, Sample, sample
from tests.weights_convert.fuzzing.seeds import CONFIG
from weights_convert.readers import CheckpointError, open_checkpoint

SECONDS = 20
# What reading a file asks of Python; see the table of audit events in its manual.
READING = {"mmap.__new__", "builtins.id"}
# What building and writing a network asks beyond that, inside the folder or harmless.
WRITING = {
    *("object.__getattr__", "object.__setattr__", "sys._getframe", "tempfile.mkdtemp"),
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.scandir"),
    *("os.listdir", "shutil.rmtree", "fcntl.flock"),
    *("pathlib.Path.glob", "pathlib.Path.rglob"),
    # The command runs in a thread of its own, so that Ctrl-C is answered.
    *("_thread.start_new_thread", "_thread.start_joinable_thread"),
}
READ_ONLY = os.O_RDONLY | os.O_CLOEXEC
OUT = "out"


@dataclasses.dataclass
class Watch:
    """An audit hook that notes what must not happen.

    Attributes:
        folder: where everything must stay.
        permitted: names of events.
        writes: whether files inside the folder may be written.
        active: whether anybody looks.
        noted: what was not permitted.
    """

    folder: str
    permitted: set[str] = dataclasses.field(default_factory=lambda: set(READING))
    writes: bool = False
    active: bool = False
    noted: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open":
            path, _, flags = args
            reads = flags == READ_ONLY
            is_code = reads and isinstance(path, str) and path.endswith(".py")
            harmless = self._inside(path) and (self.writes or reads)
            harmless |= self.writes and is_code  # JAX shows its own lines in errors
        else:
            harmless = event in self.permitted and self._stays(event, args)
        if not harmless:
            self.noted.append(f"{event}{args!r:.200}")

    def _inside(self, path: Any) -> bool:
        """Return whether a path lies in the folder, to write: or is the folder."""
        if isinstance(path, int):  # a folder that was opened by its path before
            return self.writes
        path = os.path.abspath(path)
        if not self.writes:
            return os.path.dirname(path) == self.folder
        return f"{path}{os.sep}".startswith(f"{self.folder}{os.sep}")

    def _stays(self, event: str, args: tuple[Any, ...]) -> bool:
        """Return whether the paths of an event lie in the folder."""
        if not event.startswith(("os.", "shutil.", "tempfile.", "pathlib.")):
            return True
        paths = args[:1] if event.startswith("pathlib.") else args  # and a pattern
        return all(self._inside(part) for part in paths if isinstance(part, str | Path))


class Work(NamedTuple):
    """What is done to each sample.

    Attributes:
        ground: of the corpus.
        handle: `handle(path)` returns what came of it.
        memory: bytes that the process may take beyond those at the start.
        watch: what it may do.
    """

    ground: Ground
    handle: Callable[[Path], str]
    memory: int
    watch: Watch


def read_all(path: Path) -> None:
    """Open a checkpoint and read every tensor of every state dict in it."""
    checkpoint = open_checkpoint(path)
    for name in checkpoint.choices:
        for tensor in checkpoint.select(name).tensors.values():
            tensor.read()


def open_outcome(path: Path) -> str:
    """Return "done", the message of a refusal, or what should not have happened."""
    try:
        read_all(path)
    except CheckpointError as error:
        return f"refused: {error}"
    except BaseException as error:  # whatever it is, it goes into the report
        return f"failed: {error!r:.300}"
    return "done"


def convert_outcome(path: Path) -> str:
    """Convert by the command line; what is written must be complete, or nothing."""
    from weights_convert.cli import main

    config = str(path.parent / "config.json")
    words = [str(path), "--config", config, "--out", str(path.parent / OUT)]
    said = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(said),
        ):
            code = main(words)
    except BaseException as error:  # whatever it is, it goes into the report
        return f"failed: {error!r:.300}"
    message = said.getvalue()
    if code == 0 and not message:
        return _written(path.parent / OUT)
    if code == 2 and message.startswith("weights_convert: error: "):
        return "refused: " + " ".join(message.split())
    return f"failed: code {code}, {message!r:.300}"


def _written(folder: Path) -> str:
    """Return "done" if a folder holds a network that loads, and remove it.

    Numbers that were damaged may be NaN, which is all that may be wrong with it.
    """
    from diffctl.priors.storage import read_description, read_model

    try:
        read_model(folder, kind=read_description(folder)["kind"])
    except ValueError as error:
        if "are not finite" not in str(error):
            raise
    shutil.rmtree(folder)
    return "done"


def run(tested: Sample, work: Work) -> dict[str, Any]:
    """Write the files of a sample, handle the first, and report."""
    watch = work.watch
    paths = [Path(watch.folder) / name for name in tested.files]
    for path, data in zip(paths, tested.files.values(), strict=True):
        path.write_bytes(data)
    watch.noted.clear()
    start = time.process_time()
    signal.alarm(SECONDS)
    watch.active = True
    result = work.handle(paths[0])
    watch.active = False
    signal.alarm(0)
    seconds = time.process_time() - start
    for path in paths:
        path.unlink()
    return {
        "name": tested.name,
        "outcome": result,
        "seconds": seconds,
        "noted": list(watch.noted),
        "left": sorted(os.listdir(watch.folder)),
    }


def work_named(name: str) -> Work:
    folder = os.getcwd()
    if name == "open":
        return Work(TOYS, open_outcome, 1 << 29, Watch(folder))
    from tests.weights_convert.fuzzing.networks import NETWORKS, SETTINGS

    def handle(path: Path) -> str:
        config = path.parent / CONFIG
        if config.exists():
            return convert_outcome(path)
        config.write_bytes(SETTINGS)
        result = convert_outcome(path)
        config.unlink()
        return result

    watch = Watch(folder, READING | WRITING, writes=True)
    return Work(NETWORKS, handle, 1 << 30, watch)


def main() -> None:
    seed, start, stop = map(int, sys.argv[2:])
    work = work_named(sys.argv[1])
    # Whatever is imported or cached on first use happens before anyone watches.
    for name, files in work.ground.seeds.items():
        result = run(Sample(name, files), work)
        assert result["outcome"] == "done", result
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + work.memory,) * 2)
    before = _peak_kilobytes()
    sys.addaudithook(work.watch)
    for number in range(start, stop):
        tested = sample(seed, number, work.ground)
        sys.stdout.write(json.dumps(run(tested, work)) + "\n")
        sys.stdout.flush()
    peak = _peak_kilobytes()
    last = {"peak_kilobytes": peak, "more_kilobytes": peak - before}
    sys.stdout.write(json.dumps(last) + "\n")


def _peak_kilobytes() -> int:
    """Return the peak of this program; ru_maxrss would include the parent's at fork."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main()
