"""Every recorded checkpoint opens and holds what its description says."""

import hashlib
import json

import numpy as np
import pytest

from tests.fixture_files import fixture_paths
from weights_convert.readers import open_checkpoint

FOLDERS = [path.parent for path in fixture_paths("checkpoints", "*/meta.json")]
NAMES = [folder.name for folder in FOLDERS]
IDS = [
    name if NAMES.count(name) == 1 else f"{name}-{number}"
    for number, name in enumerate(NAMES)
]


@pytest.fixture(params=FOLDERS, ids=IDS)
def folder(request):
    return request.param


@pytest.fixture
def described(folder):
    return json.loads((folder / "meta.json").read_text(encoding="utf-8"))


def test_tensors_are_those_described(folder, described):
    for file in described["checkpoints"]:
        checkpoint = open_checkpoint(folder / file["file"])
        assert file["format"].startswith(checkpoint.format)
        assert len(checkpoint.tensors) == described["num_tensors"]
        arrays = [tensor.read() for tensor in checkpoint.tensors.values()]
        assert sum(array.size for array in arrays) == described["num_parameters"]
        for array, tensor in zip(arrays, checkpoint.tensors.values(), strict=True):
            assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)
            assert np.isfinite(array).all()


def _contents(folder, file) -> dict[str, tuple]:
    tensors = open_checkpoint(folder / file["file"]).tensors
    arrays = {name: tensor.read() for name, tensor in tensors.items()}
    return {
        name: (array.shape, array.dtype.name, hashlib.sha256(array.tobytes()).digest())
        for name, array in arrays.items()
    }


def test_formats_of_one_network_agree(folder, described):
    """Names may differ between releases; the tensors may not."""
    first, *others = (_contents(folder, file) for file in described["checkpoints"])
    for other in others:
        assert sorted(first.values()) == sorted(other.values())
        assert all(first[name] == other[name] for name in first.keys() & other.keys())
        assert first.keys() & other.keys()
