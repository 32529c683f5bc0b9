"""From what a user names to a weight file and its settings."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from weights_convert.configs import CONFIGS
from weights_convert.families.base import ConfigError
from weights_convert.folders import is_checkpoint, weight_file
from weights_convert.readers.documents import parse_json
from weights_convert.readers.tensors import CheckpointError

_CONFIGS = ("config.json", "kwargs.json")
_BESIDE = {  # setting: files, of which the first one that exists is its value
    "scheduler": ("scheduler_config.json", "../scheduler/scheduler_config.json"),
    "pipeline": ("model_index.json", "../model_index.json"),
}


class Input(NamedTuple):
    """A weight file, its settings, the family if they name one, and what was taken."""

    file: Path
    config: dict[str, Any]
    family: str | None
    notes: tuple[str, ...] = ()


def locate(source: str | Path, config: str | None = None) -> Input:
    """Find the weight file and the settings that belong to it.

    Args:
        source: a weight file, or a folder as huggingface/diffusers writes it.
        config: a JSON file, or the name of a built-in configuration; None for the
            configuration beside the file, if there is one.

    Raises:
        FileNotFoundError: there is no such file, or no weights in the folder.
        ConfigError: the configuration is unknown or not a JSON object, or the folder
            has several weight files and nothing says which is meant.
    """
    file, notes = weight_file(Path(source))
    if config in CONFIGS:
        known = CONFIGS[str(config)]
        return Input(file, dict(known.settings), known.family, notes)
    if config is not None and not Path(config).is_file():
        raise ConfigError(
            f"{config} is neither a file nor a built-in configuration; these are "
            f"{', '.join(CONFIGS)}."
        )
    chosen = Path(config) if config is not None else _first(file.parent, _CONFIGS)
    settings = dict(read_object(chosen) if chosen is not None else {})
    for name, places in _BESIDE.items():
        found = _first(file.parent, places)
        if found is None and is_checkpoint(file.parent.parent):
            found = _first(file.parent.parent, places)  # of the training around it
        if found is not None and name not in settings:
            settings[name] = read_object(found)
    return Input(file, settings, None, notes)


def read_object(path: Path) -> Mapping[str, Any]:
    """Read a JSON object.

    Raises:
        ConfigError: the file holds something else.
    """
    try:
        return parse_json(path.read_bytes(), unique=False)
    except (OSError, CheckpointError) as error:
        raise ConfigError(f"{path} is no configuration in JSON: {error}") from error


def _first(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first of some files of a folder that exists."""
    paths = (folder / name for name in names)
    return next((path for path in paths if path.is_file()), None)
