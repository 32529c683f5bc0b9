"""ONNX files: the tensors of a network under PyTorch's names; no node is ever run.

A file is a protobuf message: fields of a number, a wire type, and a value or a run of
bytes. The weights are the initialisers of its graph and the tensors in its Constant
nodes; their bytes stay in the file, or in one beside it.

torch.onnx keeps the names of parameters, but folds constants unless it is told not to:
the weight of a MatMul is then transposed and called `onnx::MatMul_7` or `val_7`, and
the scale of a GroupNorm gets more axes. The node that takes such a tensor lies in a
module, which its name (`/mid/attn/to_q/MatMul`) or its metadata tell. So a tensor gets
its name back if no other claims that name; otherwise the file is refused.
"""

import math
import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weights_convert.readers.machine import Budget
from weights_convert.readers.packed import PackedStorage, unpacked
from weights_convert.readers.shards import plain_name
from weights_convert.readers.tensors import (
    DTYPES,
    CheckpointError,
    LazyTensor,
    Storage,
    checked_name,
    contiguous,
    map_file,
    show,
)

# A U-Net for 1024 pixels has 1700 tensors, and 200 000 fields of nodes and metadata.
MAX_TENSORS = 20_000
MAX_FIELDS = 1_500_000
_MAX_REPEATED = 64  # values of a field; more are passed over
_TYPES = {
    **{1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32"},
    **{7: "int64", 9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64"},
    **{14: "complex64", 15: "complex128", 16: "bfloat16"},
    **{17: "float8_e4m3fn", 19: "float8_e5m2"},
}
# Fields that hold numbers, and of which types; the field 9 holds the bytes of any.
_DATA = {4: (1, 14), 5: (2, 3, 4, 5, 6, 9, 10, 16, 17, 19), 7: (7,), 9: tuple(_TYPES)}
_DATA |= {10: (11, 15), 11: (12, 13)}
_PACKED = (5, 7, 11)
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_QUANTISED = re.compile("(De|Dynamic)?[Qq]uantizeLinear|QLinear.*|.*Integer")
_PARAMETER = re.compile(r"\w+(\.\w+)+")
_Named = tuple[str, LazyTensor]
_MODULES = b"pkg.torch.onnx.name_scopes"
_CURE = (
    "export the network again with torch.onnx.export(..., do_constant_folding=False) "
    "or, if dynamo=True, with optimize=False; or give the file of its state dict"
)


def matches(data: memoryview) -> bool:
    """Return whether some bytes begin as ONNX does: its version, then a known field."""
    return bytes(data[:1]) == b"\x08" and bytes(data[2:3]) in (b"\x12", b":", b"B")


def read(data: memoryview, path: Path) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """Return tensors by the names of parameters, who wrote them, and files beside.

    Args:
        data: the file.
        path: where it lies; beside it lie others with the bytes of its tensors.

    Raises:
        CheckpointError: if the file is damaged or hostile, or names have been lost.
    """
    budget, beside = Budget(MAX_FIELDS), _Beside(path)
    model = _Message(data, budget, 2, 7)
    tensors = _Graph(model.bytes(7), beside, budget).named()
    return tensors, {"producer": model.text(2), "beside": list(beside.files)}


def _damaged(what: str) -> CheckpointError:
    return CheckpointError(f"the ONNX file is damaged: {what}; download it again.")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return a number of up to 64 bits, and where the next byte is."""
    value = 0
    for place, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80 and value < 1 << 64:
            return value, position + place + 1
    raise _damaged("a number is cut short or too long")


def _fields(data: memoryview, budget: Budget) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a message: a number each, or bytes."""
    position = 0
    while position < len(data):
        budget.spend(1)
        key, position = _varint(data, position)
        kind = key & 7
        size = {1: 8, 5: 4}.get(kind, -1)
        if kind in (0, 2):
            size, position = _varint(data, position)
        if kind == 0:
            yield key >> 3, size
            continue
        if size < 0 or size > len(data) - position:
            raise _damaged("a field is cut short, or of no known kind")
        yield key >> 3, data[position : position + size]
        position += size


class _Message:
    """The fields of a message that somebody asks for."""

    def __init__(self, data: Any, budget: Budget, *wanted: int) -> None:
        self._found: dict[int, list[Any]] = {number: [] for number in wanted}
        if not isinstance(data, memoryview):
            raise _damaged("a number is where a message belongs")
        budget.spend(len(wanted))
        for number, value in _fields(data, budget):
            values = self._found.get(number)
            if values is not None and len(values) < _MAX_REPEATED:
                values.append(value)

    def all(self, number: int) -> list[Any]:
        """Return the values of a field."""
        return self._found[number]

    def number(self, number: int) -> int:
        """Return the first value of a field of numbers, 0 if there is none."""
        return next((v for v in self._found[number] if isinstance(v, int)), 0)

    def bytes(self, number: int) -> memoryview:
        """Return the value of a field of bytes, none if it does not occur."""
        values = self._found[number]
        if len(values) > 1 or not all(isinstance(v, memoryview) for v in values):
            raise _damaged(f"the field {number} is a number, or occurs twice")
        return values[0] if values else memoryview(b"")

    def text(self, number: int) -> str:
        """Return the value of a field of text."""
        return _name(self.bytes(number))


def _name(value: Any) -> str:
    try:
        return checked_name(str(value, "utf-8"))
    except (TypeError, UnicodeDecodeError) as error:
        raise _damaged("a name is no text") from error


class _Beside:
    """The files beside a model that hold the bytes of its tensors."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.files: dict[str, memoryview] = {}
        self._used: Counter[str] = Counter()

    def find(self, places: list[_Message], nbytes: int) -> memoryview:
        """Return the bytes of a tensor, none of which belong to another, too."""
        entries = {place.text(1): place.text(2) for place in places}
        name = plain_name(self._path, entries.get("location"))
        if name not in self.files:
            self.files[name] = map_file(self._path.parent / name)
        data = self.files[name]
        texts = entries.get("offset", ""), entries.get("length", "")
        start, length = (int(t) if t[:20].isdecimal() else -len(t) for t in texts)
        self._used[name] += nbytes
        if start < 0 or length not in (0, nbytes) or nbytes > len(data) - start:
            raise _damaged(f"{show(name)} has no {nbytes} bytes where a tensor lies")
        if self._used[name] > len(data):
            raise _damaged(f"the tensors in {show(name)} overlap")
        return data[start : start + nbytes]


def _tensor(data: Any, beside: _Beside, budget: Budget) -> _Named:
    """Return the name of a tensor, and the tensor."""
    told = _Message(data, budget, 1, 2, 3, 8, 13, 14, *_DATA)
    name, code = told.text(8), told.number(2)
    if code not in _TYPES or told.all(3):
        raise CheckpointError(
            f"the tensor {show(name)} is in parts or of the type {show(code)}, which "
            "is not read; export the network in float32."
        )
    shape: list[int] = []
    for axis in told.all(1):
        packed = isinstance(axis, memoryview)
        shape += (
            [n for run in unpacked(axis) for n in run.tolist()] if packed else [axis]
        )
    held = next((number for number in _DATA if told.all(number)), 9)
    kind = PackedStorage if held in _PACKED else Storage
    storage = kind(DTYPES[_TYPES[code]], math.prod(shape))
    data = told.bytes(held)
    if told.number(14):
        places = [_Message(entry, budget, 1, 2) for entry in told.all(13)]
        data = beside.find(places, storage.nbytes)
    storage.bind(data)
    if code not in _DATA[held] or (kind is Storage and len(data) > storage.nbytes):
        raise _damaged(f"{show(name)} has numbers of another type, or too many")
    return name, contiguous(storage, tuple(shape))


class _Graph:
    """The tensors of a graph, and what its nodes say about them."""

    def __init__(self, data: memoryview, beside: _Beside, budget: Budget) -> None:
        self._data, self._beside, self._budget = data, beside, budget
        self._stored: dict[str, LazyTensor] = {}
        self._claims: dict[str, LazyTensor] = {}
        self._lost, self._norms = set[str](), set[str]()
        self._known: list[str] = []

    def named(self) -> dict[str, LazyTensor]:
        """Return the tensors that have, or get back, the name of a parameter."""
        for number, value in _fields(self._data, self._budget):
            if number == 5:
                self._store(*_tensor(value, self._beside, self._budget))
            elif number == 1:
                self._constant(_Message(value, self._budget, 2, 4, 5))
        self._known = sorted(filter(_PARAMETER.fullmatch, self._stored))
        for number, value in _fields(self._data, self._budget):
            if number == 1:
                self._visit(_Message(value, self._budget, 1, 2, 3, 4, 9))
        found = {n: t for n, t in self._stored.items() if _PARAMETER.fullmatch(n)}
        self._lost |= found.keys() & self._claims.keys()
        if self._lost or not found:
            some = ", ".join(map(show, sorted(self._lost)[:3])) or "all"
            raise CheckpointError(f"weights have lost their names ({some}); {_CURE}.")
        return found | self._claims

    def _store(self, name: str, tensor: LazyTensor) -> None:
        if name in self._stored or len(self._stored) >= MAX_TENSORS:
            raise _damaged(f"it has two tensors {show(name)} or over {MAX_TENSORS}")
        self._stored[name] = tensor

    def _constant(self, told: _Message) -> None:
        for entry in told.all(5) if told.text(4) == "Constant" else ():
            for value in _Message(entry, self._budget, 5).all(5):
                tensor = _tensor(value, self._beside, self._budget)[1]
                self._store(told.text(2), tensor)

    def _visit(self, told: _Message) -> None:
        """Give the tensors that a node takes the names that they have in its module."""
        operator = told.text(4)
        if _QUANTISED.fullmatch(operator):
            raise CheckpointError(
                f"the weights are quantised ({operator}); give the file from before."
            )
        if operator == "InstanceNormalization":
            self._norms.add(self._module(told))
        for place, value in enumerate(told.all(1)[:3]):
            tensor = self._stored.get(name := _name(value))
            if tensor is not None and operator == "Identity":
                self._store(told.text(2), tensor)  # equal parameters are stored once
            elif tensor is not None and not _PARAMETER.fullmatch(name):
                self._claim(name, told, _part(operator, place, tensor))

    def _module(self, told: _Message) -> str:
        """Return the module of a node: its metadata list the names that enclose it."""
        for entry in told.all(9):
            pair = _Message(entry, self._budget, 1, 2)
            if pair.bytes(1) == _MODULES:
                names = re.findall("'([^']*)'", str(pair.bytes(2), "utf-8", "replace"))
                return checked_name(names[-2]) if len(names) > 1 else ""
        path = told.text(3)
        return path[1:].rpartition("/")[0].replace("/", ".") if path[:1] == "/" else ""

    def _claim(self, name: str, told: _Message, part: _Named | None) -> None:
        """Say that a tensor is a part of the module of a node, if it is one."""
        operator, module = told.text(4), self._module(told)
        if operator not in _WEIGHTED and not (part and module in self._norms):
            return
        around = module.rpartition(".")[0] + "." * ("." in module)
        place = bisect(self._known, around)
        is_known = any(n.startswith(around) for n in self._known[place : place + 1])
        if part is None or not module or not is_known:
            self._lost.add(name)
            return
        role, tensor = part
        other = self._claims.setdefault(checked_name(f"{module}.{role}"), tensor)
        if (other.storage, other.strides) != (tensor.storage, tensor.strides):
            self._lost.add(name)


def _part(operator: str, place: int, tensor: LazyTensor) -> _Named | None:
    """Return what a module calls an operand, and its own tensor; None if unknown."""
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    if operator == "MatMul" and place == 1:
        return "weight", LazyTensor(storage, shape[::-1], strides[::-1])
    if operator.startswith("Conv") and place:
        return ("weight", "bias")[place - 1], tensor
    if operator in ("Mul", "Add") and math.prod(shape[1:]) == 1 < len(shape):
        role = "weight" if operator == "Mul" else "bias"
        return role, LazyTensor(storage, shape[:1], strides[:1])
    return None
