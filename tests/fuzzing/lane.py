"""5,000 files through every door: python -m tests.fuzzing.lane [--seed N] [--files N].

Each file is made by its number alone: `--only N --keep FOLDER` writes file N again. It
must be accepted or refused by an error that its caller knows and that names a file;
nothing may run, be written elsewhere, take more than 10 s, or more memory than ten
times its size or 32 MB. Prints the counts of each format, and what went wrong.
"""

import argparse
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzzing.doors import ACCEPTED, DOORS, Door
from tests.weights_convert.fuzzing.seeds import Files
from tests.weights_convert.fuzzing.worker import READING, WRITING, Watch

FILES = 5000
SECONDS = 10.0
FLOOR = 32 << 20  # bytes of memory that any file may take
TIMES = 10  # its size
# What the libraries beneath ask of Python beyond the converter's: pillow makes arrays
# of its own, orbax threads and loops of events.
HARMLESS: set[str] = {
    *READING,
    *WRITING,
    *("array.__new__", "socket.__new__", "socket.bind"),
    *("sys.set_asyncgen_hook_firstiter", "sys.set_asyncgen_hook_finalizer"),
    "sys.unraisablehook",
}


class Guard(Watch):
    """A watch that knows what is parsed and never run.

    That is how NumPy reads the header of an array, and how Python shows a line of a
    traceback, which the threads of orbax print.
    """

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        is_parsed = event == "compile" and str(args[1]).endswith(("<unknown>", ".py"))
        if not is_parsed:
            super().__call__(event, args)


class TooLongError(BaseException):
    """A file takes longer than it may; no handler of errors may catch it."""


@dataclass
class Report:
    """What came of a file."""

    number: int
    door: str
    outcome: str
    seconds: float = 0.0
    memory: int = 0
    noted: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        """Return what should not have happened."""
        found = [self.outcome] if self.outcome.startswith("failed") else []
        if self.seconds > SECONDS:
            found.append(f"took {self.seconds:.1f} s")
        if self.memory > 0:
            found.append(f"took {self.memory >> 20} MB more than it may")
        return found + [f"did {event}" for event in self.noted]


def door_of(number: int) -> Door:
    """Return the door of a file, by the shares of the doors."""
    place = number * 7919 % sum(door.share for door in DOORS)  # a prime mixes them
    for door in DOORS:
        place -= door.share
        if place < 0:
            return door
    raise AssertionError


def made(seed: int, number: int) -> tuple[Door, Files]:
    """Return a file: the same for the same numbers."""
    door = door_of(number)
    return door, door.draw(Random(f"{seed} {number} {door.name}"))


def write(folder: Path, files: Files) -> None:
    """Write a sample; of a file and a folder of one name there is the first."""
    for name, data in files.items():
        path = folder / name
        if not any(part.is_file() for part in path.parents) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def handled(door: Door, files: Files, folder: Path) -> str:
    """Return the outcome of a sample; its folder is empty before and after."""
    write(folder, files)
    try:
        return door.handle(folder, files)
    except Exception as error:  # whatever it is, it goes into the report
        return f"failed: {type(error).__name__}: {str(error)[:300]}"
    finally:
        clear(folder)


def _memory(what: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) << 10


def _timed(number: int, door: Door, files: Files, watch: Guard) -> Report:
    """Handle a file under the eyes of a watch, a clock, and the system's memory."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _memory("VmRSS")
    watch.noted.clear()
    # Again and again, for where it is raised it may be passed over.
    signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS, 1.0)
    start = time.process_time()
    watch.active = True
    try:
        outcome = handled(door, files, Path(watch.folder))
    except TooLongError:
        outcome = "failed: too long"
    watch.active = False
    seconds = time.process_time() - start
    signal.setitimer(signal.ITIMER_PROF, 0)
    limit = max(FLOOR, TIMES * sum(map(len, files.values())))
    more = _memory("VmHWM") - before - limit
    return Report(number, door.name, outcome, seconds, more, list(watch.noted))


def lane(seed: int, numbers: range, folder: Path) -> Iterator[Report]:
    """Yield a report on every file."""

    def too_long(*_: Any) -> None:
        raise TooLongError

    # What is imported, compiled or cached on first use is before anyone watches.
    for door in DOORS:
        for files in door.good():
            outcome = handled(door, dict(files), folder)
            assert outcome == ACCEPTED, (door.name, outcome)
    signal.signal(signal.SIGPROF, too_long)
    gc.collect()
    gc.freeze()  # what there is now need not be looked at after every file
    watch = Guard(str(folder), set(HARMLESS), writes=True)
    sys.addaudithook(watch)
    for number in numbers:
        yield _timed(number, *made(seed, number), watch)
        assert not set(os.listdir(folder.parent)) - {folder.name}, "wrote elsewhere"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--keep", type=Path, help="write the files of --only there")
    parser.add_argument("--door", action="append", help="leave out the others")
    parser.add_argument("--json", type=Path, help="write all reports there")
    options = parser.parse_args()
    numbers: Any = range(options.first, options.files)
    if options.only is not None:
        numbers = [options.only]
    if options.door:
        numbers = [n for n in numbers if door_of(n).name in options.door]
    if options.keep:
        write(options.keep, made(options.seed, options.only)[1])
        return 0
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above).resolve() / "files"
        folder.mkdir()
        os.chdir(folder)
        reports = []
        for report in lane(options.seed, numbers, folder):
            reports.append(report)
            for fault in report.faults():
                say(f"{report.number} ({report.door}) {fault}")
        os.chdir("/")
    if options.json:
        options.json.write_text(json.dumps([vars(report) for report in reports]))
    say(table(reports))
    return int(any(report.faults() for report in reports))


def table(reports: list[Report]) -> str:
    """Return the counts of each format, in Markdown."""
    rows = ["| format | files | refused | accepted | faults | slowest |"]
    rows.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in [*(door.name for door in DOORS), "all"]:
        mine = [r for r in reports if name in (r.door, "all")]
        counts = Counter(r.outcome.partition(":")[0] for r in mine)
        faulty = sum(bool(r.faults()) for r in mine)
        slowest = max((r.seconds for r in mine), default=0.0)
        rows.append(
            f"| {name} | {len(mine)} | {counts['refused']} | {counts[ACCEPTED]} | "
            f"{faulty} | {slowest:.1f} s |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
