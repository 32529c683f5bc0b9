"""Damage to bytes: what disks, networks and spiteful people do."""

import struct
from collections.abc import Callable
from random import Random

Mutation = Callable[[Random, bytes], bytes]

# Lengths, counts and offsets that break naive arithmetic.
EXTREMES = (
    *(0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF),
    *(10**10, 1 << 40, 1 << 43, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)


def _place(source: Random, data: bytes) -> int:
    return source.randrange(len(data) + 1)


def _run(source: Random, data: bytes) -> tuple[int, int]:
    """Return where a run of bytes begins and ends, mostly a short one."""
    start = _place(source, data)
    length = source.choice((1, 2, 4, 8, 16, 64, 512))
    return start, min(start + length, len(data))


def truncated(source: Random, data: bytes) -> bytes:
    return data[: _place(source, data)]


def beheaded(source: Random, data: bytes) -> bytes:
    return data[source.randrange(1, 64) :]


def flipped(source: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(source.choice((1, 1, 2, 8, 64))):
        changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


def randomised(source: Random, data: bytes) -> bytes:
    start, stop = _run(source, data)
    return data[:start] + source.randbytes(stop - start) + data[stop:]


def filled(source: Random, data: bytes) -> bytes:
    start, stop = _run(source, data)
    byte = source.choice((b"\0", b"\xff", b"(", b".", b"2", b"R"))
    return data[:start] + byte * (stop - start) + data[stop:]


def removed(source: Random, data: bytes) -> bytes:
    start, stop = _run(source, data)
    return data[:start] + data[stop:]


def repeated(source: Random, data: bytes) -> bytes:
    start, stop = _run(source, data)
    return data[:stop] + data[start:stop] * source.choice((1, 2, 50)) + data[stop:]


def inserted(source: Random, data: bytes) -> bytes:
    place = _place(source, data)
    return data[:place] + source.randbytes(source.choice((1, 4, 64))) + data[place:]


def swapped(source: Random, data: bytes) -> bytes:
    a, b, c = sorted(_place(source, data) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def extreme(source: Random, data: bytes) -> bytes:
    """Overwrite what may be a number with one that is too large."""
    layout = source.choice(("<B", "<H", "<I", "<Q", ">I"))
    size = struct.calcsize(layout)
    number = source.choice(EXTREMES) % (1 << 8 * size)
    place = source.randrange(max(1, len(data) - size))
    return data[:place] + struct.pack(layout, number) + data[place + size :]


MUTATIONS: tuple[Mutation, ...] = (
    *(truncated, beheaded, flipped, randomised, filled),
    *(removed, repeated, inserted, swapped, extreme),
)


def mutated(source: Random, data: bytes) -> bytes:
    """Return bytes with one kind of damage, sometimes with several."""
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        data = source.choice(MUTATIONS)(source, data) or b"\0"
    return data
