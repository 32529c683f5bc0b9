"""Settings from outside, compared with the annotations of whatever they are for.

A constructor, a dataclass or a `TypedDict` says by its annotations which settings there
are, which may be left out and what each may be; nothing is written down twice. Besides
the usual ones, of which a `list` may be empty and a `Sequence` not, there is
`Annotated[hint, ...]` with

    a `Range`    least and most of a number
    a class      whose settings a table (`Mapping`) must have
    a string     the words for what is expected, in place of those made of the hint
"""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Annotated, Any, Literal, Union

_MOST_INT, _MOST_FLOAT = (1 << 63) - 1, 1.7e308
_LISTS = (list, tuple, Sequence)
_LONGEST = 80  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class Range:
    """Which numbers are allowed: least <= number <= most, or least < number."""

    least: float = -_MOST_FLOAT
    most: float = _MOST_FLOAT
    above: bool = False  # whether `least` itself is excluded

    def holds(self, number: Any) -> bool:
        """Return whether a number is allowed; NaN never is."""
        is_enough = number > self.least if self.above else number >= self.least
        return bool(is_enough and number <= self.most)

    def __str__(self) -> str:
        if self.most < _MOST_FLOAT:
            return f"from {self.least} to {self.most}"
        return f"{'>' if self.above else '>='} {self.least}"


Natural = Annotated[int, Range(0)]
Count = Annotated[int, Range(1)]
Positive = Annotated[float, Range(0, above=True)]
Seed = Annotated[int, Range(0, (1 << 32) - 1)]  # JAX drops all bits but the last 32


def show(value: Any) -> str:
    """Return a value from outside, quoted and shortened: fit for a message."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def check_value(value: Any, hint: Any, whose: str) -> None:
    """Check a value; `whose` is its name in the message.

    Raises:
        ValueError: it is not what the hint says. The message names the value, or the
            part of it that is wrong, and what is expected.
    """
    if fault := _fault(value, hint, whose):
        raise ValueError(fault)


def check_settings(
    kind: Callable[..., Any], given: Any, whose: str, *, others: bool = False
) -> None:
    """Check a table of settings before something is made of it.

    Args:
        kind: a class whose constructor, or whose fields, the settings are for.
        given: names to values.
        whose: what the settings are of, for the message.
        others: whether there may be settings that `kind` does not know.

    Raises:
        ValueError: there is no such setting, one is missing, or one is not what its
            annotation says.
    """
    if fault := _table_fault(given, kind, whose, others=others):
        raise ValueError(fault)


def check_options(options: Any) -> None:
    """Check the options of a program; those of a dataclass are annotated.

    Raises:
        ValueError: a value is not what its annotation says.
    """
    if not dataclasses.is_dataclass(options):
        return
    hints = typing.get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        option = f"--{field.name.replace('_', '-')}"
        check_value(getattr(options, field.name), hints[field.name], option)


def _fault(value: Any, hint: Any, whose: str) -> str | None:
    """Return what is wrong with a value, None if nothing is."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Real) and hasattr(value, "item"):  # of NumPy
        value = value.item()
    if origin is Annotated:
        return _annotated_fault(value, hint, whose)
    if origin in _LISTS:
        return _list_fault(value, hint, whose)
    if typing.is_typeddict(hint):
        return _table_fault(value, hint, whose)
    if origin in (Union, types.UnionType):
        fits = any(_fault(value, kind, whose) is None for kind in inner)
    elif origin is Literal:
        fits = any(type(value) is type(one) and value == one for one in inner)
    elif hint is int:
        fits = type(value) is int and abs(value) <= _MOST_INT
    elif hint is float:  # not NaN, nor whole numbers beyond all floats
        fits = type(value) in (int, float) and abs(value) <= _MOST_FLOAT
    else:
        fits = hint is Any or isinstance(value, origin or hint)
    return None if fits else _unexpected(value, hint, whose)


def _annotated_fault(value: Any, hint: Any, whose: str) -> str | None:
    bare, *extras = typing.get_args(hint)
    tables = [extra for extra in extras if isinstance(extra, type)]
    ranges = [extra for extra in extras if isinstance(extra, Range)]
    if tables:
        return _table_fault(value, tables[0], whose)
    fault = _fault(value, bare, whose)
    if fault is None and all(allowed.holds(value) for allowed in ranges):
        return None
    has_words = any(isinstance(extra, str) for extra in extras)
    return _unexpected(value, hint, whose) if ranges or has_words else fault


def _list_fault(value: Any, hint: Any, whose: str) -> str | None:
    hints = [kind for kind in typing.get_args(hint) if kind is not ...]
    may_be_empty = typing.get_origin(hint) is list
    if not isinstance(value, list | tuple) or not (value or may_be_empty):
        return _unexpected(value, hint, whose)
    if len(hints) > 1 and len(value) != len(hints):
        return f"{whose} is {show(value)}; expected {len(hints)} entries."
    for number, item in enumerate(value):
        kind = hints[number] if len(hints) > 1 else hints[0]
        if fault := _fault(item, kind, f"{whose}[{number}]"):
            return fault
    return None


def _table_fault(
    given: Any, kind: Any, whose: str, *, others: bool = False
) -> str | None:
    if not isinstance(given, Mapping):
        return f"{whose} is {show(given)}; expected a table of settings."
    known, required = _settings_of(kind)
    unknown = [] if others else [name for name in given if name not in known]
    missing = [n for n in known if n in required and n not in given]
    if unknown:
        there_are = ", ".join(known) or "none"
        return f"{whose} has no setting {show(unknown[0])}; there are: {there_are}."
    if missing:
        return f"{whose} lacks the setting {missing[0]!r}."
    present = [name for name in known if name in given]
    found = (_fault(given[n], known[n], f"{n} of {whose}") for n in present)
    return next((fault for fault in found if fault), None)


def _settings_of(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """Return the settings that a class declares, and those that it must be given."""
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        bare = {name: _without_presence(hint) for name, hint in hints.items()}
        return bare, set(kind.__required_keys__)
    hints = typing.get_type_hints(kind.__init__, include_extras=True)
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    # The source of a network's parameters is no setting.
    settings = {p.name: p for p in parameters if p.name != "rngs"}
    empty = inspect.Parameter.empty
    return (
        {name: hints.get(name, Any) for name in settings},
        {name for name, p in settings.items() if p.default is empty},
    )


def _without_presence(hint: Any) -> Any:
    """Return what `Required` or `NotRequired` is said of."""
    is_said = typing.get_origin(hint) in (typing.Required, typing.NotRequired)
    return typing.get_args(hint)[0] if is_said else hint


def _unexpected(value: Any, hint: Any, whose: str) -> str:
    return f"{whose} is {show(value)}; expected {_expected(hint)}."


def _expected(hint: Any) -> str:
    """Return the words for what a hint allows."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        words = [extra for extra in inner[1:] if isinstance(extra, str)]
        ranges = [extra for extra in inner[1:] if isinstance(extra, Range)]
        return words[0] if words else " ".join([_expected(inner[0]), *map(str, ranges)])
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(k) for k in inner if k is not types.NoneType)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in _LISTS:
        return f"a list of {_expected(inner[0])}"
    return _WORDS.get(hint, "a table of settings")


_WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "a string",
    bool: "true or false",
}
