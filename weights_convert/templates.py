"""Names with fields, read in both directions.

    "down.{level}.block.{i}.conv1.weight"  <->  "down.{level}.blocks.{i}.conv1.kernel"

A field stands for one dotted component. Written `{~level}` in a tensor name it counts
from the end of the network's list.
"""

import re
from collections.abc import Collection, Mapping
from functools import cache, lru_cache

_FIELD = re.compile(r"\{(~?)(\w+)\}")


@cache
def _expression(template: str) -> re.Pattern[str]:
    pieces = _FIELD.split(template)  # literal, "~" or "", field, literal, ...
    text = "".join(
        re.escape(literal) + (f"(?P<{field}>[^.]+)" if field else "")
        for literal, field in zip(pieces[::3], [*pieces[2::3], ""], strict=True)
    )
    return re.compile(text)


def parse(template: str, name: str) -> dict[str, str] | None:
    """Return the fields of a name, or None if it does not fit the template."""
    found = _expression(template).fullmatch(name)
    return found.groupdict() if found else None


def fill(
    template: str, path: str, fields: Mapping[str, str], leaves: Collection[str]
) -> str:
    """Fill in the fields; `path` is the rule's path, to count lists for `{~field}`."""

    def value(found: re.Match[str]) -> str:
        backwards, field = found.groups()
        return _from_end(path, field, fields, leaves) if backwards else fields[field]

    return _FIELD.sub(value, template)


def counted_back(
    pattern: str, path: str, fields: Mapping[str, str], leaves: Collection[str]
) -> dict[str, str]:
    """Turn the fields of a tensor name into those of the parameter path."""
    turned = dict(fields)
    for backwards, field in _FIELD.findall(pattern):
        if backwards:
            turned[field] = _from_end(path, field, turned, leaves)
    return turned


def _from_end(
    path: str, field: str, fields: Mapping[str, str], leaves: Collection[str]
) -> str:
    """Return (length of the list) - 1 - (value of the field), as text."""
    if not fields[field].isdecimal():
        return fields[field]
    before = path[: path.index(f"{{{field}}}")]
    prefix = _FIELD.sub(lambda found: fields[found.group(2)], before)
    return str(_length(prefix, frozenset(leaves)) - 1 - int(fields[field]))


@lru_cache(256)
def _length(prefix: str, paths: frozenset[str]) -> int:
    indices = [
        int(path.removeprefix(prefix).split(".")[0])
        for path in paths
        if path.startswith(prefix)
    ]
    return 1 + max(indices, default=-1)
