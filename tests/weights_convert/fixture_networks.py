"""The recorded networks: their files, settings and arrays."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from diffctl.priors.preconditioning import from_json
from tests.fixture_files import fixture_paths
from weights_convert.convert import Conversion, build, prepare
from weights_convert.inputs import locate
from weights_convert.parity import Subject, load_reference
from weights_convert.readers import open_checkpoint

FOLDERS = [path.parent for path in fixture_paths("checkpoints", "*/io.npz")]


def ids(folders: list[Path]) -> list[str]:
    """Return the folders' names; repeated ones get a number."""
    names = [folder.name for folder in folders]
    return [
        name if names.count(name) == 1 else f"{name}-{number}"
        for number, name in enumerate(names)
    ]


@cache
def meta(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "meta.json").read_text())


def files(folder: Path) -> list[Path]:
    return [folder / entry["file"] for entry in meta(folder)["checkpoints"]]


def settings(folder: Path, file: Path, **overrides: Any) -> dict[str, Any]:
    """Return the settings that belong to a file, with some replaced."""
    config = locate(file, str(folder / meta(folder)["config"])).config
    inner = dict(config.get("unet_model", {})) | overrides
    return config | ({"unet_model": inner} if overrides else {})


def variants(folder: Path) -> list[dict[str, Any]]:
    """Return the settings under which the same file is read; usually none."""
    config = json.loads((folder / meta(folder)["config"]).read_text())
    return list(config.get("heads", {"default": {}}).values())


def conversion(folder: Path, file: Path, **overrides: Any) -> Conversion:
    return prepare(open_checkpoint(file).tensors, settings(folder, file, **overrides))


@cache
def subjects(folder: Path) -> list[Subject]:
    """Return the converted network, once for every variant of its settings."""
    found = []
    for overrides in variants(folder):
        converted = conversion(folder, files(folder)[0], **overrides)
        rule = converted.plan.description.get("preconditioning")
        found.append(
            Subject(
                net=build(converted),
                family=converted.family.name,
                preconditioning=from_json(rule) if rule else None,
                order=converted.plan.order,
            )
        )
    return found


@cache
def reference(folder: Path) -> dict[str, Any]:
    return load_reference(folder / "io.npz")
