"""The command line: convert (the default), inspect, verify, export, configs.

Exit codes: 0 done, 1 the networks differ, 2 bad input, 130 interrupted.
"""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from tyro.conf import Positional

from diffctl.host import MODEL, check_free, if_interrupted, run
from diffctl.nets.architecture import Architecture
from diffctl.priors.storage import correcting, read_net
from weights_convert import export, report
from weights_convert.buffers import check_schedule
from weights_convert.configs import CONFIGS
from weights_convert.convert import Conversion, naming, prepare
from weights_convert.families import FAMILIES
from weights_convert.families.base import ConfigError, Family
from weights_convert.inputs import locate
from weights_convert.inspection import examine, own_settings
from weights_convert.output import write, written_dtypes
from weights_convert.parity import load_reference, uncompared
from weights_convert.readers import open_checkpoint
from weights_convert.values import check_finite, notes_on_types
from weights_convert.verify import read_converted, verify
from weights_convert.wrappers import around, find_network

_CONFIG_HELP = f"a JSON file, or one of: {', '.join(CONFIGS)}"
_FAMILY_HELP = f"one of: {', '.join(FAMILIES)}; recognised if not given"


@dataclass(frozen=True)
class Convert:
    """Turn a PyTorch checkpoint into a folder that diffctl loads.

    Other commands: inspect FILE, verify FOLDER, export FOLDER, configs; each has
    --help.
    """

    source: Positional[Path]
    """weight file, or folder as huggingface/diffusers writes it"""
    out: Path | None = None
    """folder to write; needed unless --dry-run"""
    config: Annotated[str | None, tyro.conf.arg(help=_CONFIG_HELP)] = None
    family: Annotated[str | None, tyro.conf.arg(help=_FAMILY_HELP)] = None
    container: str | None = None
    """which state dict of the file, as `inspect` lists them; NAME:PREFIX. for a part"""
    dtype: Literal["stored", "float32", "float16", "bfloat16"] = "stored"
    """of the parameters; stored keeps each as it is in the file, float8 as bfloat16"""
    reference: Path | None = None
    """recorded arrays (.npz) to compare with"""
    orbax: bool = False
    """write an Orbax checkpoint instead; takes three times the memory of the file"""
    overwrite: bool = False
    """replace the folder if it holds a model"""
    dry_run: bool = False
    """only show what would fill what"""

    def run(self, console: Console) -> int:
        """Convert; return the exit code."""
        if self.out is not None and not self.dry_run:
            check_free(self.out, overwrite=self.overwrite, kind=MODEL)
        conversion, file = self._prepare()
        said = [report.summary(conversion), *conversion.notes, *conversion.plan.remarks]
        _say(console, "\n".join(said))
        if self.dry_run:
            with naming(file):
                check_finite(conversion, written_dtypes(conversion, self._dtype()))
            report.print_wide(console, report.mapping_table(conversion))
            _say(console, report.mapping_summary(conversion))
            return 0
        if self.out is None:
            raise ConfigError("--out FOLDER is needed, or --dry-run.")
        if self.reference is not None:
            load_reference(self.reference)  # what cannot be read is told before
        self._write(conversion, file, self.out, console)
        if self.reference is not None:
            return Verify(self.out, self.reference).run(console)
        return 0

    def _prepare(self) -> tuple[Conversion, Path]:
        found = locate(self.source, self.config)
        opened = open_checkpoint(found.file, self.container)
        config = own_settings(opened) | found.config
        family = self.family or found.family
        with naming(found.file):
            checkpoint, notes = find_network(opened, config)
            conversion = prepare(checkpoint.tensors, config, family)
            check_schedule(conversion, *around(checkpoint))
        kept = notes_on_types(conversion) if self.dtype == "stored" else ()
        return conversion._replace(notes=(*found.notes, *notes, *kept)), found.file

    def _dtype(self) -> Any:
        import ml_dtypes

        if self.dtype == "bfloat16":
            return ml_dtypes.bfloat16
        return None if self.dtype == "stored" else self.dtype

    def _write(
        self, conversion: Conversion, file: Path, out: Path, console: Console
    ) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            *(BarColumn(), DownloadColumn()),
            TimeRemainingColumn(),
        )
        shown = console.is_terminal
        bar = Progress(*columns, console=console, transient=True, disable=not shown)
        with if_interrupted(bar.stop), bar as progress, naming(file):
            task = progress.add_task(f"writing {out}", total=_bytes(conversion))
            write(
                conversion,
                out,
                source=file,
                dtype=self._dtype(),
                orbax=self.orbax,
                overwrite=self.overwrite,
                progress=lambda written: progress.advance(task, written),
                say=lambda message: _say(console, message),
            )
        _say(console, f"wrote {out}")


@dataclass(frozen=True)
class Inspect:
    """List tensors and settings of a checkpoint, and what its family makes of them."""

    source: Positional[Path]
    """weight file, or folder as huggingface/diffusers writes it"""
    container: str | None = None
    """which state dict of the file"""
    config: Annotated[str | None, tyro.conf.arg(help=_CONFIG_HELP)] = None

    def run(self, console: Console) -> int:
        """Print the list; return the exit code."""
        found = locate(self.source, self.config)
        checkpoint = open_checkpoint(found.file, self.container)
        seen = examine(checkpoint, own_settings(checkpoint) | found.config)
        report.print_wide(console, report.tensor_table(checkpoint))
        if seen.settings:
            report.print_wide(console, report.settings_table(seen.settings))
        chosen = checkpoint.choices[checkpoint.container]
        lines = [
            f"format: {checkpoint.format}",
            f"state dicts: {report.containers(checkpoint)}",
            f"tensors: {len(chosen.tensors):,}",
            f"numbers: {chosen.num_parameters:,}",
            *found.notes,
            *seen.lines,
        ]
        _say(console, "\n".join(lines))
        return 0


@dataclass(frozen=True)
class Verify:
    """Compare a converted folder with recorded PyTorch outputs; writes parity.json."""

    folder: Positional[Path]
    """as written by this program"""
    reference: Path
    """recorded arrays (.npz)"""

    def run(self, console: Console) -> int:
        """Print the comparison; return 1 if the networks differ."""
        waiting = console.status("comparing; compiling a large network takes minutes")
        with if_interrupted(waiting.stop), waiting:
            found = verify(self.folder, self.reference)
        title = f"{self.folder} against {self.reference.name}"
        console.print(report.parity_table(title, found.rows))
        if found.probes:
            title = "intermediate values, from the input on"
            console.print(report.parity_table(title, found.probes))
        _, source = read_converted(self.folder)
        lacking = uncompared(source["family"], load_reference(self.reference))
        _say(console, "\n".join([*lacking, report.verdict(found.rows)]))
        return 0 if found.passed else 1


@dataclass(frozen=True)
class Export:
    """Write a folder's network as a safetensors file in a PyTorch project's layout."""

    folder: Positional[Path]
    """as written by this program or by diffctl"""
    out: Path
    """file to write"""
    family: Annotated[str | None, tyro.conf.arg(help=_FAMILY_HELP)] = None
    order: Literal["legacy", "new"] | None = None
    """attention channels, for guided diffusion"""

    def run(self, console: Console) -> int:
        """Write the file; return the exit code."""
        if os.path.lexists(self.out):
            raise FileExistsError(f"{self.out} exists; choose another file.")
        description, source = read_converted(self.folder)
        with correcting(self.folder):
            architecture = Architecture.from_json(description["architecture"])
        family = _family_for(architecture, self.family or source.get("family"))
        order = self.order or source.get("attention_order")
        net = read_net(self.folder, description)
        export.write(self.out, export.tensors(net, architecture, family, order))
        _say(console, f"wrote {self.out}")
        return 0


@dataclass(frozen=True)
class Configs:
    """List the built-in settings, for --config."""

    markdown: bool = False
    """as a table in Markdown"""

    def run(self, console: Console) -> int:
        """Print the list; return the exit code."""
        if self.markdown:
            _say(console, report.configs_markdown())
        else:
            report.print_wide(console, report.configs_table())
        return 0


COMMANDS: dict[str, Any] = {
    "convert": Convert,
    "inspect": Inspect,
    "verify": Verify,
    "export": Export,
    "configs": Configs,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code.

    Args:
        arguments: without the name of the program; by default those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words.pop(0) if words and words[0] in COMMANDS else "convert"

    def parse() -> Any:
        return tyro.cli(
            COMMANDS[name],
            args=words,
            prog=f"python -m weights_convert {name}",
            config=(tyro.conf.FlagCreatePairsOff,),
        )

    def work(command: Any) -> int:
        return int(command.run(Console(markup=False, emoji=False)))

    return run("weights_convert", parse, work, for_good=arguments is None)


def _say(console: Console, text: str) -> None:
    """Print text as it is, for the user may want to copy a path from it."""
    console.print(text, highlight=False, soft_wrap=True)


def _family_for(architecture: Architecture, name: str | None) -> Family:
    if name is not None and name not in FAMILIES:
        raise ConfigError(
            f"there is no family {name!r}; choose one of {', '.join(FAMILIES)}."
        )
    fitting = [f for f in FAMILIES.values() if architecture.name in f.architectures]
    if name is None and not fitting:
        raise ConfigError(
            f"no PyTorch project has a layout for the network {architecture.name}."
        )
    return FAMILIES[name] if name is not None else fitting[0]


def _bytes(conversion: Conversion) -> int:
    used = {s.tensor for sources in conversion.sources.values() for s in sources}
    sizes = (conversion.tensors[name] for name in used)
    return sum(int(t.dtype.itemsize) * math.prod(t.shape) for t in sizes)
