"""Rules by which files of every format are damaged, and what is false in them.

A rule changes one file of a folder and keeps what hides the damage: the check sums of
an archive, the lengths of a header.
"""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath
from random import Random
from typing import Any

from tests.fuzzing.onnx_rules import claims
from tests.weights_convert.fuzzing.mutations import EXTREMES, mutated
from tests.weights_convert.fuzzing.seeds import Files, wide_header

Rule = Callable[[Random, bytes], bytes]

_DEEP = "deep"  # stands for nesting and long numbers, which Python does not write
_DEPTHS = (10, 70, 1000, 100_000)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 0.5, -0.5, 1e-320, 1e308, -(2**70), 10**400),
    *(float("nan"), float("inf"), -float("inf"), 10**6, 2**31, *EXTREMES),
    *("", "abc", "1", "../x", "\x1b[2J", "x" * 10_000, "F32", "float32", "float8_e5m2"),
    *([], {}, [[]], [1], [-8, 8, 1], [8, 8], ["a"], [10**6] * 3, {"a": 1}, [None] * 9),
)


def hostile(source: Random, files: Files) -> Files:
    """Return a folder with something wrong in it, and now and then more."""
    victim = source.choice(list(files))
    rules = RULES.get(PurePosixPath(victim).suffix, ())
    rule = source.choice((*rules, *rules, mutated, mutated, None))
    if rule is None:
        return _misplaced(source, files, victim)
    files = files | {victim: rule(source, files[victim])}
    if source.random() < 0.2:
        victim = source.choice(list(files))
        files |= {victim: mutated(source, files[victim])}
    return files


def _misplaced(source: Random, files: Files, victim: str) -> Files:
    """Return a folder in which a file is missing, empty, another, or a folder."""
    rest = {name: data for name, data in files.items() if name != victim}
    other = files[source.choice(list(files))]
    inside = {f"{victim}/{PurePosixPath(victim).name}": files[victim]}
    made = source.choice((rest, rest, {victim: b""}, {victim: other}, inside))
    return made if made is rest and rest else rest | made


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place of a document, as what holds it and its key."""
    found = []
    pending = [value]
    for holder in pending:
        keys = holder if isinstance(holder, dict) else range(len(holder))
        found += [(holder, key) for key in keys]
        pending += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    return found


def json_of(document: Any, source: Random) -> bytes:
    """Return a document with a hostile value, or without one, in some place."""
    places = _places(document)
    if places:
        holder, key = source.choice(places)
        change = source.randrange(8)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, dict):
            holder[source.choice(("new", "", "x" * 999, "__class__"))] = holder[key]
        elif change == 2 and isinstance(holder, list):
            holder.extend(holder[:4] * source.choice((1, 10, 1000)))
        elif change == 3:
            holder[key] = [holder[key]]
        elif change == 4 and isinstance(holder[key], int | float):
            holder[key] = holder[key] * source.choice((-1, 0, 2, 1000, 1e300))
        else:
            holder[key] = source.choice((*_VALUES, _DEEP))
    text = json.dumps(document)
    depth = source.choice(_DEPTHS)
    nested = source.choice(
        ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "9" * 5000)
    )
    return text.replace(f'"{_DEEP}"', nested).encode()


def _json(source: Random, data: bytes) -> bytes:
    try:
        return json_of(json.loads(data), source)
    except ValueError:
        return mutated(source, data)


def _doubled_key(source: Random, data: bytes) -> bytes:
    return data.replace(b"{", b'{"kind": "prior", "kind": 3,', 1)


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _header(source: Random, data: bytes) -> bytes:
    header, body = _split(data)
    return wide_header(json_of(header, source), body)


def _retyped(source: Random, data: bytes) -> bytes:
    """Return the same bytes as other types of numbers, of one tensor or of all."""
    header, body = _split(data)
    names = [name for name in header if name != "__metadata__"]
    kinds = {4: ("I32", "U32"), 2: ("I16", "BF16", "F16"), 8: ("I64", "F64", "C64")}
    for name in source.choice((names, names[:1], source.sample(names, 1))):
        entry = header[name]
        begin, end = entry["data_offsets"]
        size = {"F64": 8, "I64": 8, "F16": 2, "BF16": 2}.get(entry["dtype"], 4)
        entry["dtype"] = source.choice(kinds[size])
        if source.random() < 0.3:
            entry |= {"dtype": "I8", "shape": [end - begin]}
    return wide_header(json.dumps(header).encode(), body)


def _reshaped(source: Random, data: bytes) -> bytes:
    header, body = _split(data)
    for name, entry in header.items():
        if name != "__metadata__" and source.random() < 0.5:
            shape = entry["shape"]
            flat, count = 1, len(shape)
            for length in shape:
                flat *= length
            entry["shape"] = source.choice(
                (
                    shape[::-1],
                    [flat],
                    [1, *shape],
                    [*shape, 1] * (count < 30),
                    [flat, 1],
                )
            )
    return wide_header(json.dumps(header).encode(), body)


def _not_finite(source: Random, data: bytes) -> bytes:
    header, body = _split(data)
    number = source.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f"))
    place = 4 * source.randrange(max(1, len(body) // 4))
    count = source.choice((1, 8, len(body) // 4))
    body = (body[:place] + number * count + body[place + 4 * count :])[: len(body)]
    return wide_header(json.dumps(header).encode(), body)


def _crowd(source: Random, data: bytes) -> bytes:
    """Return a table of very many empty tensors."""
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    count = source.choice((1000, 20_000, 60_000))
    return wide_header(json.dumps({f"w{i}": empty for i in range(count)}).encode())


def _renamed(source: Random, data: bytes) -> bytes:
    header, body = _split(data)
    name = source.choice(list(header))
    made = source.choice((f"{name}.x", "model." + name, "", "\x1b[2J", name.upper()))
    header = {made if key == name else key: entry for key, entry in header.items()}
    return wide_header(json.dumps(header).encode(), body)


def _entries(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def _array_header(source: Random, data: bytes) -> bytes:
    """Return an archive in which the header of an array is false."""
    entries = _entries(data)
    name = source.choice(list(entries))
    body = entries[name]
    shapes = ("()", "(0,)", "(-1,)", "(9,)", "(1000000, 1000000)", "(2, 8, 8, 1)", "3")
    kinds = ("|O", "<i2", "<f8", "<U9", "|V7", "<M8[s]", "|b1", "|u1", "<c8", "x")
    shape, kind = source.choice(shapes), source.choice(kinds)
    order = source.choice(("False", "True", "1"))
    text = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}\n"
    text = source.choice((text, text, text, "[" * source.choice((9, 1000, 60_000))))
    start = b"\x93NUMPY\1\0" + struct.pack("<H", len(text) & 0xFFFF) + text.encode()
    return _zipped(entries | {name: start + body[128:]})


def _archive(source: Random, data: bytes) -> bytes:
    """Return an archive with a bomb, a strange name, or a missing or doubled entry."""
    entries = _entries(data)
    name = source.choice(list(entries))
    rest = {key: body for key, body in entries.items() if key != name}
    bomb = entries[name][:128] + bytes(source.choice((1 << 20, 80 << 20)))
    strange = source.choice(("../escape.npy", "/etc/escape.npy", "a/b.npy", "x", "x/"))
    return source.choice(
        (
            lambda: _zipped(rest),
            lambda: _zipped({}),
            lambda: _zipped(rest | {strange: entries[name]}),
            lambda: _zipped(entries | {strange: entries[name]}),
            lambda: _zipped(rest | {name: bomb}, zipfile.ZIP_DEFLATED),
            lambda: _zipped(rest | {name: mutated(source, entries[name])}),
            lambda: _zipped(entries, zipfile.ZIP_BZIP2),
            lambda: _zipped(entries, zipfile.ZIP_LZMA),
            lambda: _zipped(rest | {name.removesuffix(".npy"): entries[name]}),
        )
    )()


def _zip_fields(source: Random, data: bytes) -> bytes:
    """Return an archive with flags, methods, sizes or places that are false."""
    changed = bytearray(data)
    magic = source.choice((b"PK\1\2", b"PK\3\4", b"PK\5\6"))
    places = [i for i in range(len(data)) if data.startswith(magic, i)]
    place = source.choice(places or [0]) + source.randrange(4, 42, 2)
    number = source.choice((1, 8, 9, 12, 14, 99, *EXTREMES)) & 0xFFFF
    changed[place : place + 2] = struct.pack("<H", number)
    return bytes(changed)


def _picture_size(source: Random, data: bytes) -> bytes:
    """Return a PNG that declares another size, depth or kind of colour."""
    if not data.startswith(b"\x89PNG"):
        return mutated(source, data)
    width, height, *rest = struct.unpack(">2I5B", data[16:29])
    choices = (0, 1, 20_000, 9000, 1 << 31, width, height)
    rest[source.randrange(5)] = source.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    header = struct.pack(">2I5B", source.choice(choices), source.choice(choices), *rest)
    checked = b"IHDR" + header
    return data[:12] + checked + struct.pack(">I", zlib.crc32(checked)) + data[33:]


_NPZ: tuple[Rule, ...] = (_array_header, _archive, _zip_fields)
RULES: dict[str, tuple[Rule, ...]] = {
    ".json": (_json, _json, _json, _doubled_key),
    ".safetensors": (*(_header, _retyped, _reshaped, _not_finite, _crowd, _renamed),),
    ".npz": _NPZ,
    ".onnx": (claims, claims),
    ".png": (_picture_size,),
}
