"""The corpus: as many mutated files as wanted, the same for the same seed.

Sample i depends on the seed and on i alone, so that a failure can be repeated alone.
"""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.weights_convert.fuzzing.hostile import attack_opcodes
from tests.weights_convert.fuzzing.mutations import EXTREMES, mutated
from tests.weights_convert.fuzzing.seeds import (
    CONFIG,
    INDEX,
    Files,
    seed_files,
    wide_header,
    zip_seed,
)
from tests.weights_convert.readers.files import stream_file, zipped
from tests.weights_convert.readers.pickles import dumps

# Few samples may be as deep as a reader can stand; most are quick.
DEPTHS = (10, 100, 1000, 1000, 1000, 400_000)
STREAM_HEAD = stream_file({}).split(dumps({}), 1)[0]


@dataclass(frozen=True)
class Ground:
    """Good files, from which a corpus grows.

    Attributes:
        seeds: by name; the first file of each is the one to open. Two are needed:
            "safetensors", of one file, and "shards".
        zip_entries: of an archive, whose pickle can be changed.
        kinds: how samples are made besides those of `KINDS`, and how often.
    """

    seeds: dict[str, Files]
    zip_entries: Files
    kinds: "dict[Kind, int]" = field(default_factory=dict)


Kind = Callable[[Random, Ground], Files]


@dataclass(frozen=True)
class Sample:
    """Some files, the first of which is to be opened."""

    name: str
    files: Files


def _damaged(source: Random, ground: Ground) -> Files:
    """Return a good file with damaged bytes."""
    files = dict(ground.seeds[source.choice(list(ground.seeds))])
    victim = source.choice([name for name in files if name != CONFIG])
    return files | {victim: mutated(source, files[victim])}


def _spliced(source: Random, ground: Ground) -> Files:
    """Return the beginning of one file and the end of another."""
    first, second = (
        next(iter(ground.seeds[name].items()))
        for name in source.choices(list(ground.seeds), k=2)
    )
    cut, resume = (source.randrange(len(data)) for _, data in (first, second))
    return {first[0]: first[1][:cut] + second[1][resume:]}


def _damaged_entry(source: Random, ground: Ground) -> Files:
    """Return an archive with a damaged entry and the right checksum for it."""
    entries = dict(ground.zip_entries)
    names = list(entries)
    victim = source.choice((names[0], names[0], names[0], *names[1:]))
    return {"model.pt": zipped(entries | {victim: mutated(source, entries[victim])})}


def _attacking_entry(source: Random, ground: Ground) -> Files:
    pickled = attack_opcodes(source, source.choice(DEPTHS))
    return {"model.pt": zipped(ground.zip_entries | {"archive/data.pkl": pickled})}


def _attacking_stream(source: Random, ground: Ground) -> Files:
    """Return a stream in which one of the pickles attacks."""
    good = [dumps({}), dumps([])]
    good[source.randrange(2)] = attack_opcodes(source, source.choice(DEPTHS))
    return {"model.pt": STREAM_HEAD + b"".join(good)}


def _attacking_pickle(source: Random, ground: Ground) -> Files:
    return {"network.pkl": attack_opcodes(source, source.choice(DEPTHS))}


def _attacking_storage(source: Random, ground: Ground) -> Files:
    """Return a pickle with an attack inside the bytes of a storage."""
    inner = STREAM_HEAD + attack_opcodes(source, 1000) + dumps([])
    call = b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(inner))
    return {"network.pkl": b"\x80\x04" + call + inner + b"\x85R" + b"2R" * 9 + b"."}


def _zip_trick(source: Random, ground: Ground) -> Files:
    """Return an archive with bombs, doubled names, or names that leave the folder."""
    names = (
        *(
            "../escape",
            "/etc/escape",
            "archive/../../escape",
            "C:\\escape",
            "archive//x",
        ),
        *("archive\\..\\escape", "archive/data/0", "archive/data.pkl", "a" * 60_000),
        *("archive/constants.pkl", "other/data.pkl", "archive/data/../0", "~/.escape"),
    )
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in ground.zip_entries.items():
            archive.writestr(name, data)
        name = source.choice([n for n in names if n not in ground.zip_entries])
        size = source.choice((0, 100, 1 << 20))
        archive.writestr(name, bytes(size), source.choice(methods))
    old, new = name.encode(), source.choice(names).encode()
    whole = file.getvalue()
    return {"model.pt": whole.replace(old, new) if len(old) == len(new) else whole}


def _zip_fields(source: Random, ground: Ground) -> Files:
    """Return an archive with false numbers in its directory."""
    data = bytearray(zipped(ground.zip_entries))
    for _ in range(source.choice((1, 1, 3))):
        magic = source.choice((b"PK\1\2", b"PK\3\4", b"PK\5\6"))
        places = [i for i in range(len(data)) if data.startswith(magic, i)]
        if not places:
            continue
        place = source.choice(places) + source.randrange(4, 42, 2)
        layout = source.choice(("<H", "<I"))
        number = source.choice(EXTREMES) % (1 << 8 * struct.calcsize(layout))
        if place + 4 <= len(data):
            struct.pack_into(layout, data, place, number)
    return {"model.pt": bytes(data)}


def strange_json(source: Random, depth: int = 3) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: source.choice((*EXTREMES, -1, 0.5, True, None, "F32", "..", "\x1b[2J")),
        lambda: [strange_json(source, depth - 1) for _ in range(source.randrange(4))],
        lambda: {str(i): strange_json(source, depth - 1) for i in range(2)},
    ]
    return source.choice(kinds if depth else kinds[:1])()


def _header(source: Random, ground: Ground) -> Files:
    """Return a safetensors file with a header that is false in one place."""
    data = ground.seeds["safetensors"]["model.safetensors"]
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    entry = header[source.choice([name for name in header if name != "__metadata__"])]
    key = source.choice(("dtype", "shape", "data_offsets", "more"))
    entry[key] = strange_json(source)
    text = json.dumps(header).encode()
    deep = source.choice((b"[", b'{"a":')) * source.choice(DEPTHS)
    text = source.choice((text, text, text, b"{" + deep, mutated(source, text)))
    return {"model.safetensors": wide_header(text, data[8 + length :])}


def _index(source: Random, ground: Ground) -> Files:
    """Return shards with an index that is false in one place."""
    files = dict(ground.seeds["shards"])
    index = json.loads(files[INDEX])
    key = source.choice((*index["weight_map"], "new"))
    paths = ("../escape", "/etc/hostname", INDEX, "missing", "2.safetensors", "", ".")
    index["weight_map"][key] = source.choice((*paths, strange_json(source)))
    whole = source.choice((index, index, strange_json(source)))
    return files | {INDEX: json.dumps(whole).encode()}


# How often each kind is drawn.
KINDS: dict[Kind, int] = {
    _damaged: 40,
    _spliced: 5,
    _damaged_entry: 20,
    _attacking_entry: 8,
    _attacking_stream: 5,
    _attacking_pickle: 8,
    _attacking_storage: 4,
    _zip_trick: 4,
    _zip_fields: 8,
    _header: 8,
    _index: 4,
}


TOYS = Ground(seed_files(), zip_seed())


def draw(source: Random, ground: Ground) -> tuple[str, Files]:
    """Return a kind of sample, and one."""
    kinds = KINDS | ground.kinds
    (make,) = source.choices(list(kinds), list(kinds.values()))
    return make.__name__, make(source, ground)


def sample(seed: int, number: int, ground: Ground = TOYS) -> Sample:
    """Return one file of a corpus."""
    kind, files = draw(Random(f"{seed} {number}"), ground)
    return Sample(f"{seed}-{number}{kind}", files)
