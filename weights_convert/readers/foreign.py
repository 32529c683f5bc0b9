"""Files of other programs: what they are, and what would be needed instead.

They are told by the names that their programs give them, by their first bytes, and, for
zip archives, by the names of their entries.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from weights_convert.readers.tensors import CheckpointError

_DISTRIBUTED = (
    "is part of a distributed checkpoint of PyTorch, whose tensors lie in pieces; "
    "join them with python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
    "FOLDER model.pt, and give model.pt"
)
_SHARDED_STATES = (
    "is a checkpoint of DeepSpeed, whose parameters lie in pieces; join them with the "
    "zero_to_fp32.py beside it, and give the file that it writes"
)
_KERAS = (
    "is a file of Keras, whose networks have other layers and names; a PyTorch "
    "checkpoint of the network is needed"
)
_TENSORFLOW = (
    "is a checkpoint of TensorFlow, which is not read; a PyTorch checkpoint of the "
    "network is needed (huggingface libraries load such files with from_tf=True)"
)
_FLAX = (
    "holds parameters of Flax as msgpack, which is not read; load it with from_flax="
    "True in the library that wrote it, and save it as safetensors"
)
SCRIPT = (
    "is a TorchScript program, which is not run; in PyTorch, save the tensors alone: "
    "torch.save(torch.jit.load(FILE).state_dict(), OUT)"
)
_EXPORTED = (
    "is a program of torch.export, which is not run; in PyTorch, save the tensors "
    "alone: torch.save(torch.export.load(FILE).state_dict, OUT)"
)
_QUANTISED = (
    "is a GGUF or GGML file, whose numbers are quantised in blocks; the checkpoint "
    "that it was made from is needed"
)
_CONVERTED = (
    "is a model of diffctl already; load it with restore, or write it in PyTorch's "
    "layout with the command export"
)
_PACKED = "; unpack it, and give the weight file in it"

# By the whole name of a file, in any case; the first that fits. Pieces may look like
# whole checkpoints inside.
_PIECES: tuple[tuple[str, str], ...] = (
    (r".*\.distcp|\.metadata", _DISTRIBUTED),
    (r"(.*_)?zero_pp_rank_.*", _SHARDED_STATES),
)
_NAMES: tuple[tuple[str, str], ...] = (
    (r".*\.(ckpt|weights|tf)\.index|.*\.data-\d{5}-of-\d{5}", _TENSORFLOW),
    (r"saved_model\.pb(txt)?|.*\.(pb|meta|tflite)", _TENSORFLOW),
    (r".*\.(keras|h5|hdf5)", _KERAS),
    (r".*\.msgpack", _FLAX),
    (r".*\.(gguf|ggml)", _QUANTISED),
    (
        r".*\.(mlmodel|mlpackage|engine|plan|trt|xml)",
        "is a program compiled for one kind of machine; the checkpoint that it was "
        "made from is needed",
    ),
)
# By the first bytes; also what people have on disk when a download went wrong.
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a Git LFS pointer; fetch it with git lfs pull"),
    (b"<", "is a web page; download the file itself"),
    (b"{", "is JSON; give the weight file beside it"),
    (b"\x1f\x8b", f"is compressed with gzip{_PACKED}"),
    (b"BZh", f"is compressed with bzip2{_PACKED}"),
    (b"\xfd7zXZ", f"is compressed with xz{_PACKED}"),
    (b"\x28\xb5\x2f\xfd", f"is compressed with Zstandard{_PACKED}"),
    (b"7z\xbc\xaf", f"is a 7z archive{_PACKED}"),
    (b"Rar!", f"is a RAR archive{_PACKED}"),
    (b"\x89HDF", _KERAS),
    (b"GGUF", _QUANTISED),
    (b"lmgg", _QUANTISED),
    (b"tjgg", _QUANTISED),
    (b"\x93NUMPY", "is a single NumPy array; a state dict with names is needed"),
)
_TAR, _TAR_AT = b"ustar", 257
_FLATBUFFER, _FLATBUFFER_AT = b"TFL3", 4
# By the end of the name of an entry of a zip archive.
_ENTRIES: tuple[tuple[str, str], ...] = (
    (r".*/constants\.pkl|.*/code/.*|.*/attributes\.pkl", SCRIPT),
    (r"(.*/)?serialized_exported_program\.json|.*/archive_format", _EXPORTED),
    (r"model\.weights\.h5", _KERAS),
    (
        r".*/\.data/extern_modules",
        "is an archive of torch.package, whose code is not run; load it in PyTorch, "
        "and save the state_dict",
    ),
    (
        r"[^/]*\.npy",
        "is an .npz of NumPy arrays and no file of torch.save; save the arrays by "
        "their PyTorch names with safetensors.numpy.save_file",
    ),
    (
        r".*\.(pt|pth|ckpt|safetensors|bin|pkl\.gz)",
        "is a zip archive of whole files; unpack it, and give the weight file in it",
    ),
)
# By the name of something in a folder.
_CONTENTS: tuple[tuple[str, str], ...] = (
    (
        r".*\.distcp|\.metadata|pytorch_model_fsdp_\d+|distributed_checkpoint",
        _DISTRIBUTED.replace("part of ", "", 1),
    ),
    (r"zero_to_fp32\.py|zero_pp_rank_.*", _SHARDED_STATES),
    (r"saved_model\.pb(txt)?|.*\.ckpt\.index|variables", _TENSORFLOW),
    (r".*\.msgpack", _FLAX),
    (
        r"_METADATA|manifest\.ocdbt|_CHECKPOINT_METADATA",
        _FLAX.replace("msgpack", "Orbax"),
    ),
    (r"weights\.safetensors|weights\.orbax", _CONVERTED),
    (r".*\.keras|.*\.h5", _KERAS),
    (r".*\.gguf", _QUANTISED),
)


def check_whole(path: Path) -> None:
    """Check that a file is no piece of a checkpoint that only its program can join.

    Raises:
        CheckpointError: it is one.
    """
    if reason := _first(_PIECES, [path.name]):
        raise CheckpointError(f"{path} {reason}.")


def file_reason(path: Path, data: memoryview) -> str:
    """Return what a file of none of the known formats is, nothing if unknown."""
    start = bytes(data[:512])
    if start[_TAR_AT:].startswith(_TAR):
        return f"is a tar archive{_PACKED}"
    if start[_FLATBUFFER_AT:].startswith(_FLATBUFFER):
        return _TENSORFLOW
    named = _first(_NAMES, [path.name])
    return named or next((r for magic, r in _STARTS if start.startswith(magic)), "")


def archive_reason(names: Iterable[str]) -> str:
    """Return what a zip archive with such entries is, nothing if unknown."""
    return _first(_ENTRIES, list(names))


def folder_reason(folder: Path) -> str:
    """Return what a folder without weights holds instead, nothing if unknown."""
    if not folder.is_dir():
        return ""
    return _first(_CONTENTS, sorted(entry.name for entry in folder.iterdir()))


def _first(table: Iterable[tuple[str, str]], names: list[str]) -> str:
    """Return the reason of the first pattern that one of the names fits."""
    return next(
        (
            reason
            for pattern, reason in table
            if any(re.fullmatch(pattern, name, re.IGNORECASE) for name in names)
        ),
        "",
    )
