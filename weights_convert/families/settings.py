"""The rule on settings: one that the project reads and this converter does not, fails.

A family declares the settings of its project once: those read here, those of which
only some values can be converted, and those that change nothing, each with the reason.
Any other is an error, for a prior that ignores a setting is wrong without a word.
"""

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Config = Mapping[str, Any]

# Why a setting changes nothing.
SHAPES = "the shapes of the tensors tell it"
TRAINING = "it concerns the training only"
SAMPLING = "it concerns the project's own sampler, which is not used"
COMPUTING = "it concerns speed and memory; the prior's own `dtype` decides here"
NAMING = "it names things"
RECORDED = "it belongs to a recorded reference"


class ConfigError(ValueError):
    """A setting is missing, unknown or contradicts the tensors."""


class Only(NamedTuple):
    """The values of a setting that can be converted, and what the others would need."""

    values: tuple[Any, ...]
    why: str = ""


_MAX_SHOWN = 200
READ, HARMLESS = "read", "harmless"
UNKNOWN, REFUSED = "not understood", "cannot be converted"


class Use(NamedTuple):
    """What becomes of a setting, and why."""

    kind: str  # READ, HARMLESS, UNKNOWN or REFUSED
    reason: str = ""


@dataclass(frozen=True)
class Settings:
    """The settings of one part of a project, declared.

    Args:
        owner: whose settings they are, for messages.
        read: names that decide something here, or are compared with the file.
        only: names that must have certain values.
        harmless: names that change nothing, by the reason.
        sections: returns the declaration of a section by its contents.
    """

    owner: str
    read: frozenset[str] = frozenset()
    only: Mapping[str, Only] = field(default_factory=dict)
    harmless: Mapping[str, frozenset[str]] = field(default_factory=dict)
    sections: Mapping[str, Callable[[Any], "Settings"]] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """Return every declared name."""
        return self.read.union(self.only, self.sections, *self.harmless.values())

    def check(self, config: Config) -> None:
        """Hold a configuration against the declaration.

        A setting that is not declared and null passes: it chooses nothing.

        Raises:
            ConfigError: a setting is not declared, or has a value that cannot be
                converted.
        """
        for name, value in config.items():
            if name not in self.names and value is not None:  # null says nothing
                raise ConfigError(self._unknown(name, value))
            if name in self.only:
                self._check_value(name, value)
            if name in self.sections and value is not None:
                self.sections[name](value).check(value)

    def use_of(self, name: str, value: Any) -> "Use":
        """Say what becomes of a setting: read, harmless and why, or not convertible."""
        if name in self.only:
            try:
                self._check_value(name, value)
            except ConfigError as error:
                return Use(REFUSED, str(error))
            return Use(READ, self.only[name].why)
        if name in self.read or name in self.sections:
            return Use(READ)
        for reason, harmless in self.harmless.items():
            if name in harmless:
                return Use(HARMLESS, reason)
        if value is None:
            return Use(HARMLESS, "null chooses nothing")
        return Use(UNKNOWN, self._unknown(name, value))

    def _check_value(self, name: str, value: Any) -> None:
        values, why = self.only[name]
        if not any(plain(value) == plain(allowed) for allowed in values):
            allowed = " or ".join(repr(allowed) for allowed in values)
            raise ConfigError(
                f"{self.owner}: {name} = {shown(value)} cannot be converted; only "
                f"{allowed} "
                f"can{': ' if why else ''}{why}."
            )

    def _unknown(self, name: str, value: Any) -> str:
        label = readable(str(name))
        near = difflib.get_close_matches(str(name), self.names, n=1)
        hint = f" (nearest name known: {near[0]})" if near else ""
        return (
            f"{self.owner}: the setting {label} = {shown(value)} is not known to this "
            f"converter{hint}, so what it changes would be lost. If it changes neither "
            "the network nor its noise levels, give a --config without it."
        )


def flattened(config: Config, sections: Collection[str]) -> dict[str, Any]:
    """Return a configuration with the contents of some sections at its top.

    What stands at the top comes before what stands in a section, and of the sections
    the last one comes first.

    Raises:
        ConfigError: a section is no object.
    """
    names = tuple(sections)
    flat: dict[str, Any] = {}
    for name in names:
        section = config.get(name)
        if section is not None and not isinstance(section, Mapping):
            raise ConfigError(
                f"{name} = {shown(section)}; it must be an object of settings."
            )
        flat |= section or {}
    return flat | {key: value for key, value in config.items() if key not in names}


def shown(value: Any) -> str:
    """Return a value of a configuration for a message, which is not a page long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def readable(name: str) -> str:
    """Return a name from a configuration as it is, or quoted where it cannot be."""
    is_plain = name.isprintable() and len(name) <= _MAX_SHOWN
    return name if is_plain else shown(name)


def is_one_of(value: Any, known: Collection[str]) -> bool:
    """Return whether a value is one of some words; a list, say, is none."""
    return isinstance(value, str) and value in known


def names(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


def plain(value: Any) -> Any:
    """Return a value with lists for tuples, to be compared."""
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
