"""Opens files of the corpus in a process that may not do anything else.

Run as `python -m tests.weights_convert.fuzzing.worker SEED START STOP`, in an empty
folder. Prints a line of JSON for each sample. Every sample must load or be refused;
while it is open, the only thing the process may ask of Python is to open and map that
file. Memory is limited, so that a bomb is a MemoryError, which counts as a failure.
Seconds are those of the processor, for a reader never waits.
"""

import dataclasses
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.weights_convert.fuzzing.corpus import SEEDS, Sample, sample
from weights_convert.readers import CheckpointError, open_checkpoint

MEMORY = 1 << 29
SECONDS = 20
# What reading a file asks of Python; see the table of audit events in its manual.
PERMITTED = {"mmap.__new__", "builtins.id"}
READ_ONLY = os.O_RDONLY | os.O_CLOEXEC


@dataclasses.dataclass
class Watch:
    """An audit hook that notes what a reader should not do."""

    folder: str
    active: bool = False
    noted: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open":
            path, _, flags = args
            inside = os.path.dirname(os.path.abspath(path)) == self.folder
            harmless = inside and flags == READ_ONLY
        else:
            harmless = event in PERMITTED
        if not harmless:
            self.noted.append(f"{event}{args!r:.200}")


def read_all(path: Path) -> None:
    """Open a checkpoint and read every tensor of every state dict in it."""
    checkpoint = open_checkpoint(path)
    for name in checkpoint.choices:
        for tensor in checkpoint.select(name).tensors.values():
            tensor.read()


def outcome(path: Path) -> str:
    """Return "loaded", the message of a refusal, or what should not have happened."""
    try:
        read_all(path)
    except CheckpointError as error:
        return f"refused: {error}"
    except BaseException as error:  # whatever it is, it goes into the report
        return f"failed: {error!r:.300}"
    return "loaded"


def run(tested: Sample, watch: Watch) -> dict[str, Any]:
    """Write the files of a sample, open the first, and report."""
    paths = [Path(watch.folder) / name for name in tested.files]
    for path, data in zip(paths, tested.files.values(), strict=True):
        path.write_bytes(data)
    watch.noted.clear()
    start = time.process_time()
    signal.alarm(SECONDS)
    watch.active = True
    result = outcome(paths[0])
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


def main() -> None:
    seed, start, stop = map(int, sys.argv[1:])
    watch = Watch(os.getcwd())
    # Whatever is imported or cached on first use happens before anyone watches.
    for name, files in SEEDS.items():
        run(Sample(name, files), watch)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    sys.addaudithook(watch)
    for number in range(start, stop):
        sys.stdout.write(json.dumps(run(sample(seed, number), watch)) + "\n")
        sys.stdout.flush()
    sys.stdout.write(json.dumps({"peak_kilobytes": _peak_kilobytes()}) + "\n")


def _peak_kilobytes() -> int:
    """Return the peak of this program; ru_maxrss would include the parent's at fork."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main()
