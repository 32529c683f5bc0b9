"""What is in a checkpoint and its settings, and what a conversion makes of it."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from weights_convert.buffers import check_schedule
from weights_convert.convert import detect, prepare
from weights_convert.families.base import Config, ConfigError, Family
from weights_convert.families.settings import (
    HARMLESS,
    REFUSED,
    UNKNOWN,
    Settings,
    Use,
    plain,
)
from weights_convert.output import written_dtypes
from weights_convert.readers import Checkpoint
from weights_convert.readers.documents import is_shallow
from weights_convert.values import check_finite
from weights_convert.wrappers import around, find_network


class SettingUse(NamedTuple):
    """A setting by its place in the configuration, and what becomes of it."""

    place: str  # with the names of its sections: "scheduler.beta_start"
    value: Any
    use: Use


class Examined(NamedTuple):
    """What there is to say of a checkpoint besides its tensors."""

    lines: list[str]
    settings: list[SettingUse]


def own_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what pickles of NVlabs/edm say about their own making.

    Other pickled modules have a class, but not the arguments that it was made with.

    Raises:
        ConfigError: they are nested absurdly.
    """
    extra = checkpoint.extra
    if not extra.get("init_kwargs") and not extra.get("init_args"):
        return {}
    names = ("class_name", "init_kwargs", "init_args")
    found = {name: extra[name] for name in names if name in extra}
    if not is_shallow(found):
        raise ConfigError(
            f"the settings inside {checkpoint.path.name} are nested too deeply to be "
            "read; do not trust the file."
        )
    return found


def examine(opened: Checkpoint, config: Config) -> Examined:
    """Find network and family of a checkpoint, and what a conversion still needs."""
    try:
        checkpoint, notes = find_network(opened, config)
        shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
        family = detect(shapes)
    except ConfigError as error:
        nobody = Use(UNKNOWN, "no family is known that would read it")
        settings = [
            SettingUse(str(name), value, nobody) for name, value in config.items()
        ]
        return Examined(["family: none that can be converted", str(error)], settings)
    lines = [*notes, f"family: {family.name}, {family.title}"]
    try:
        conversion = prepare(checkpoint.tensors, config, family.name)
        check_schedule(conversion, *around(checkpoint))
        check_finite(conversion, written_dtypes(conversion))
        lines += ["to convert it: no further settings are needed"]
    except ValueError as error:
        lines += [f"to convert it: {error}"]
    return Examined(lines, list(explain(family, config)))


def explain(family: Family, config: Config) -> Iterator[SettingUse]:
    """Yield every setting of a configuration, in its sections too, with its use."""
    try:
        flat = family.settings(config)
    except ConfigError as error:
        flat = {}
        yield SettingUse(".", None, Use(REFUSED, str(error)))
    yield from _explained(family.declared, config, flat, "")


def _explained(
    declared: Settings, config: Config, flat: Config, before: str
) -> Iterator[SettingUse]:
    """Yield the settings of a section, and of those that were flattened into it."""
    for name, value in config.items():
        place = f"{before}{name}"
        if name in declared.sections and value is not None:
            yield from _section(declared, name, value, place)
        elif isinstance(value, Mapping) and name not in flat:
            yield from _explained(declared, value, flat, f"{place}.")
        elif before and _is_set_elsewhere(name, value, flat):
            yield SettingUse(place, value, Use(HARMLESS, "another place sets it"))
        else:
            yield SettingUse(place, value, declared.use_of(name, value))


def _is_set_elsewhere(name: str, value: Any, flat: Config) -> bool:
    """Return whether a setting of a section has another value in the end.

    Text may have been read as the list that it stands for.
    """
    final = flat.get(name)
    is_read = isinstance(value, str) and not isinstance(final, str)
    return not is_read and plain(final) != plain(value)


def _section(
    declared: Settings, name: str, value: Any, place: str
) -> Iterator[SettingUse]:
    try:
        inner = declared.sections[name](value)
    except ConfigError as error:
        yield SettingUse(place, value, Use(REFUSED, str(error)))
        return
    yield from _explained(inner, value, value, f"{place}.")
