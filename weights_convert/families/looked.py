"""Shapes of tensors that remember which one was looked at last, for messages."""

from collections.abc import Iterator, Mapping

Shape = tuple[int, ...]


class Looked(Mapping[str, Shape]):
    """The shapes below a prefix; whoever fails on one can be told which it was."""

    def __init__(
        self,
        shapes: Mapping[str, Shape],
        prefix: str = "",
        seen: list[str] | None = None,
    ):
        length = len(prefix)
        inside = (item for item in shapes.items() if item[0].startswith(prefix))
        self._shapes = {name[length:]: shape for name, shape in inside}
        self._prefix = prefix
        self._seen: list[str] = [] if seen is None else seen

    def __getitem__(self, name: str) -> Shape:
        self._seen[:] = [f"{self._prefix}{name}"]
        return self._shapes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def below(self, prefix: str) -> "Looked":
        """Return the shapes whose names begin with a prefix, without it."""
        return Looked(self._shapes, prefix, self._seen)

    @property
    def last(self) -> str:
        """Return the name that was looked up last, nothing if none was."""
        return self._seen[0] if self._seen else ""


def axes(shapes: Mapping[str, Shape], name: str, count: int) -> Shape:
    """Return the first axes of a tensor; one too few is an index out of range."""
    shape = shapes[name]
    return tuple(shape[axis] for axis in range(count))


def below(shapes: Mapping[str, Shape], prefix: str) -> Mapping[str, Shape]:
    """Return the shapes whose names begin with a prefix, without it."""
    return (
        shapes.below(prefix) if isinstance(shapes, Looked) else Looked(shapes, prefix)
    )


def count(shapes: Mapping[str, Shape], template: str) -> int:
    """Count i = 0, 1, ... for which a tensor name starts with `template.format(i)`."""
    before, after = template.split("{}")
    rests = (n.removeprefix(before) for n in shapes if n.startswith(before))
    found = {rest.partition(after)[0] for rest in rests if after in rest}
    number = 0
    while str(number) in found:
        number += 1
    return number
