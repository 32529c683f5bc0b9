"""An opened checkpoint: its state dicts, of which one is selected."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from weights_convert.readers.average_names import dotted, without_averages
from weights_convert.readers.inert import Opaque, name_of
from weights_convert.readers.tensors import CheckpointError, LazyTensor, show

# Tied weights and broadcast tensors make the tensors larger than the storages.
_MAX_GROWTH = 8
_SMALL_BYTES = 1 << 26
_MAX_LISTED = 12
NON_EMA = "non_ema"


@dataclass(frozen=True, eq=False)
class Container:
    """One state dict of a checkpoint: its tensors and what stands beside them.

    `averaged` says that a training program named the tensors averages, wherever they
    lie. `problem` says why it cannot be selected; nothing if it can. `wrapper` is what
    was taken off the names of the tensors.
    """

    tensors: dict[str, LazyTensor]
    extra: dict[str, Any] = field(default_factory=dict)
    averaged: bool = False
    problem: str = ""
    wrapper: str = ""

    @property
    def num_parameters(self) -> int:
        """Return the number of elements in all tensors."""
        return sum(tensor.size for tensor in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Return the memory that all tensors take when they are read."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def below(self, prefix: str) -> "Container":
        """Return the tensors whose names begin with a prefix, without it."""
        length = len(prefix)
        inner = {
            name[length:]: tensor.named(name[length:])
            for name, tensor in self.tensors.items()
            if name.startswith(prefix) and len(name) > length
        }
        return replace(self, tensors=inner)

    def part(self, name: str) -> "Container":
        """Return the tensors below a prefix, or, for `NON_EMA`, what is not averaged.

        Averages get the dots in their names back, if they lost them.
        """
        if name == NON_EMA:
            return replace(self, tensors=without_averages(self.tensors))
        for group, averages in dotted(self.tensors).items():
            if name.startswith(group):
                found = replace(self, tensors=averages, averaged=True)
                return found.below(name[len(group) :])
        return self.below(name)


def listing(names: Iterable[str]) -> str:
    """Return names for a message: the first few of what may be very many."""
    first = [show(name) for name in islice(names, _MAX_LISTED + 1)]
    return ", ".join(first[:_MAX_LISTED] + ["..."] * (len(first) > _MAX_LISTED))


def _is_strange_tensor(value: Any) -> bool:
    """Return whether a value would have been made by a function inside PyTorch."""
    return isinstance(value, Opaque) and name_of(value.function).startswith("torch._")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint, of which one state dict is selected.

    Attributes:
        path: the file.
        format: its format, in words.
        choices: every state dict in it, by its place in the file, such as "ema" or
            "0"; "." is the file itself.
        container: the one selected.
        notes: whatever else the file holds, inert.

    Raises:
        CheckpointError: if tensors of the selected state dict cannot be read.
    """

    path: Path
    format: str
    choices: dict[str, Container]
    container: str
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        selected = self.choices[self.container]
        if selected.problem:
            raise CheckpointError(
                f"{self.path}: {self.container} {selected.problem}; select another "
                f"container: {listing(self.choices)}."
            )
        strange = [k for k, v in selected.extra.items() if _is_strange_tensor(v)]
        if strange:
            raise CheckpointError(
                f"{self.path}: {listing(strange)} in {self.container} "
                "are tensors that only PyTorch can rebuild (quantised or sparse); "
                "save plain dense ones, or select another container: "
                f"{listing(self.choices)}."
            )
        for tensor in selected.tensors.values():
            tensor.storage.file = str(self.path)
        # Several storages may be made of the same bytes.
        storages = {id(t.storage.data): t.storage for t in selected.tensors.values()}
        stored = sum(storage.nbytes for storage in storages.values())
        if selected.nbytes > max(_MAX_GROWTH * stored, _SMALL_BYTES):
            raise CheckpointError(
                f"{self.path}: the tensors take {selected.nbytes} bytes and the file "
                f"stores {stored} for them; save them with .contiguous()."
            )

    @property
    def tensors(self) -> dict[str, LazyTensor]:
        """Return the tensors of the selected state dict, by name."""
        return self.choices[self.container].tensors

    @property
    def extra(self) -> dict[str, Any]:
        """Return the inert values of the file and of the selected state dict."""
        return self.notes | self.choices[self.container].extra

    def select(self, container: str) -> "Checkpoint":
        """Return the checkpoint with another of its state dicts selected.

        Args:
            container: one of `choices`, or one with a prefix of its names after a
                colon, such as "state_dict:first_stage_model."; `NON_EMA` in place of
                the prefix leaves out the groups that are called averages.

        Raises:
            CheckpointError: if there is none of that name, or it cannot be read.
        """
        name, _, prefix = container.rpartition(":")
        if container in self.choices:
            return replace(self, container=container)
        known = prefix and name in self.choices
        narrowed = self.choices[name].part(prefix) if known else None
        if narrowed is None or not narrowed.tensors:
            raise CheckpointError(
                f"{self.path} has no state dict {show(container)}; it has: "
                f"{listing(self.choices)}."
            )
        choices = self.choices | {container: narrowed}
        return replace(self, choices=choices, container=container)
