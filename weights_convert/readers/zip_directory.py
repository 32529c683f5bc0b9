"""The entries of a zip archive that stores them uncompressed, as torch.save does.

Only the directory is read; an entry is a slice of the mapped file. Nothing is ever
extracted, so a name is no more than a key, but a name that would leave its folder, that
occurs twice, or that hides compressed data marks a file that torch.save did not write.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from weights_convert.readers.tensors import CheckpointError, show

MAX_ENTRIES = 100_000
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_EXTRA = struct.Struct("<2H")
_MAX_COMMENT = 1 << 16
_IN_EXTRA = 0xFFFFFFFF
_ENCRYPTED = 1


@dataclass(frozen=True)
class Entry:
    """The bytes of an entry and their CRC-32, None where it was not recorded."""

    data: memoryview
    checksum: int | None


def _damaged(reason: str) -> CheckpointError:
    return CheckpointError(
        f"the zip archive is damaged: {reason}; download the file again."
    )


def _unpack(
    layout: struct.Struct, data: memoryview, start: int, magic: bytes
) -> tuple[int, ...]:
    """Return the fields of a record, without its four magic bytes."""
    if not 0 <= start <= len(data) - layout.size:
        raise _damaged("a record lies outside the file")
    found, *fields = layout.unpack_from(data, start)
    if found != magic:
        raise _damaged(f"no record {magic!r} where one is expected")
    return tuple(fields)


def entries(data: memoryview) -> dict[str, Entry]:
    """Return the entries of an archive by name.

    Raises:
        CheckpointError: if the archive is damaged, compressed, encrypted or hostile.
    """
    found: dict[str, Entry] = {}
    stored = 0
    for name, entry in _walk(data):
        stored += len(entry.data)
        if stored > len(data):
            raise _damaged("its entries overlap")
        parts = name.removesuffix("/").split("/")
        if {"", ".."} & set(parts) or {"\\", "\0", ":"} & set(name):
            raise CheckpointError(
                f"the archive has an entry {show(name)} that leaves its folder; "
                "torch.save never writes one, do not trust the file."
            )
        if name in found:
            raise CheckpointError(
                f"the archive has two entries {show(name)}; do not trust the file."
            )
        found[name] = entry
    return found


def names(data: memoryview) -> Iterator[str]:
    """Yield the names of the entries of an archive, whatever it does with their bytes.

    Raises:
        CheckpointError: if the directory is damaged.
    """
    return (name for name, _ in _listed(data))


def _find_directory(data: memoryview) -> tuple[int, int]:
    """Return the start of the directory and the number of entries."""
    tail_start = max(0, len(data) - _END.size - _MAX_COMMENT)
    position = bytes(data[tail_start:]).rfind(b"PK\5\6")
    if position < 0:
        raise _damaged("it has no directory and may be cut short")
    end = tail_start + position
    *_, count, _, start, _ = _unpack(_END, data, end, b"PK\5\6")
    if count == 0xFFFF or start == _IN_EXTRA:
        locator = _unpack(_LOCATOR, data, end - _LOCATOR.size, b"PK\6\7")
        *_, count, _, start = _unpack(_END_64, data, locator[1], b"PK\6\6")
    return start, count


@dataclass(frozen=True)
class _Claim:
    """What the directory says of an entry."""

    packed: int
    size: int
    start: int
    checksum: int
    is_plain: bool


def _listed(data: memoryview) -> Iterator[tuple[str, _Claim]]:
    """Yield the directory in its order."""
    position, count = _find_directory(data)
    if count > MAX_ENTRIES:
        raise _damaged(f"{count} entries are claimed, at most {MAX_ENTRIES} are read")
    for _ in range(count):
        fields = _unpack(_CENTRAL, data, position, b"PK\1\2")
        _, _, flags, method, _, _, checksum, packed, size, *rest = fields
        name_length, extra_length, comment_length, *_, start = rest
        position += _CENTRAL.size
        name = _name(data, position, name_length)
        extra = data[position + name_length :][:extra_length]
        size, packed, start = _wide((size, packed, start), extra)
        is_plain = not (method or flags & _ENCRYPTED)
        yield name, _Claim(packed, size, start, checksum, is_plain)
        position += name_length + extra_length + comment_length


def _walk(data: memoryview) -> Iterator[tuple[str, Entry]]:
    """Yield the entries in the order of the directory."""
    for name, claim in _listed(data):
        if not claim.is_plain or claim.size != claim.packed:
            raise CheckpointError(
                f"the entry {show(name)} is compressed or encrypted, which torch.save "
                "never does; store the entries as they are (zip -0)."
            )
        bytes_of = _stored(data, name, claim.start, claim.size)
        yield name, Entry(bytes_of, claim.checksum or None)


def _name(data: memoryview, start: int, length: int) -> str:
    try:
        return str(data[start : start + length], "utf-8")
    except UnicodeDecodeError as error:
        raise _damaged("the name of an entry is no text") from error


def _wide(narrow: tuple[int, int, int], extra: memoryview) -> tuple[int, int, int]:
    """Replace the sizes and the offset that did not fit into 32 bits."""
    wide = list(narrow)
    position = 0
    while position + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, position)
        body = extra[position + _EXTRA.size :][:length]
        missing = [index for index in range(3) if wide[index] == _IN_EXTRA]
        if kind == 1 and len(body) < 8 * len(missing):
            raise _damaged("a 64-bit size is cut short")
        for place, index in enumerate(missing if kind == 1 else ()):
            wide[index] = int.from_bytes(body[8 * place : 8 * place + 8], "little")
        position += _EXTRA.size + length
    return wide[0], wide[1], wide[2]


def _stored(data: memoryview, name: str, start: int, size: int) -> memoryview:
    """Return the bytes that follow the local header of an entry."""
    *_, name_length, extra_length = _unpack(_LOCAL, data, start, b"PK\3\4")
    begin = start + _LOCAL.size + name_length + extra_length
    if begin + size > len(data):
        raise _damaged(f"{show(name)} claims {size} bytes and the file has {len(data)}")
    return data[begin : begin + size]
