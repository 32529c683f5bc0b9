"""What a pytree is, in 32 bytes: the contents of its arrays and its static settings.

Equal trees have equal digests in every process and on every machine. Numbers count as
JAX would take them, so that 0.5 in Python, NumPy and JAX are one; a function counts by
its name, or by its code if it has none that could be imported, which changes with the
version of Python.

A setting that equals only itself, such as a function or an ordinary callable object,
counts as it was when this process first took a digest of it: one that counts its calls
or fills a cache stays the same. JAX does likewise, which compiles it once.
"""

import dataclasses
import enum
import functools
import hashlib
import logging
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 32

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_NUMBERS: Any = (bool, int, float, complex, np.generic, np.ndarray, jax.Array)
_REGISTRY = jax.tree_util.default_registry


def digest(tree: Any) -> bytes:
    """Return the digest of a pytree, `SIZE` bytes.

    Args:
        tree: arrays, typed PRNG keys and numbers that are known here, not traced, in
            any pytree. Its static settings may be of any kind; what has no value but
            its place in memory counts by its class.
    """
    flat = _REGISTRY.flatten_one_level(tree)
    if flat is None:
        return _of_leaf(tree)
    children, settings = flat
    parts = [_of_setting(settings), *map(digest, children)]
    return _combined(_name(type(tree)), parts)


def _of_leaf(leaf: Any) -> bytes:
    if not isinstance(leaf, _NUMBERS):
        return _of_setting(leaf)
    dtype = jax.typeof(leaf).dtype
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        with jax.ensure_compile_time_eval():  # known under `jax.jit` as well
            numbers = np.asarray(jax.random.key_data(leaf))
    else:
        numbers = np.asarray(leaf).astype(dtype)
    return _combined(f"{dtype}{numbers.shape}", [numbers.tobytes()])


@dataclasses.dataclass(frozen=True, eq=False)
class _Identity:
    """An object that is compared by its place in memory, and kept there."""

    of: Any

    def __hash__(self) -> int:
        return id(self.of)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.of is other.of


def _of_setting(value: Any, above: tuple[_Identity, ...] = ()) -> bytes:
    """Return the digest of what is part of a structure; `above` are its owners."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _PLAIN):
        return _combined(type(value).__name__, [repr(value).encode()])
    if isinstance(value, jax.core.Tracer):  # left in a cache
        return _combined("traced", [])
    if isinstance(value, (np.ndarray, jax.Array)):
        return _of_leaf(value)
    this = _Identity(value)
    if this in above:
        return _combined("itself", [])
    # Within another, it is part of what that one was.
    if _equals_only_itself(value) and not any(
        _equals_only_itself(owner.of) for owner in above
    ):
        return _as_first_seen(this)
    return _of_parts(this, above)


def _equals_only_itself(value: Any) -> bool:
    return type(value).__eq__ is object.__eq__


@functools.lru_cache(maxsize=1024)  # JAX keeps settings that it compiled for as well
def _as_first_seen(this: _Identity) -> bytes:
    return _of_parts(this, ())


def _of_parts(this: _Identity, above: tuple[_Identity, ...]) -> bytes:
    value = this.of
    inside = functools.partial(_of_setting, above=(*above, this))
    kind, parts = _taken_apart(value)
    found = map(inside, parts)
    unordered = isinstance(value, (set, frozenset, dict, Mapping))
    return _combined(kind, sorted(found) if unordered else found)


def _taken_apart(value: Any) -> tuple[str, Iterable[Any]]:
    """Return a name for the kind of a setting, and what it consists of."""
    kind = _name(type(value))
    if isinstance(value, type):
        return _name(value), ()
    if isinstance(value, types.ModuleType):
        return kind, (value.__name__,)
    if isinstance(value, logging.Logger):
        return kind, (value.name,)
    if isinstance(value, types.CellType):
        return kind, _content(value)
    if isinstance(value, Mapping):
        return kind, value.items()
    if isinstance(value, (tuple, list, set, frozenset)):
        return kind, value
    if isinstance(value, enum.Enum):
        return kind, (value.name,)
    if isinstance(value, functools.partial):
        return kind, (value.func, value.args, value.keywords)
    if isinstance(value, types.MethodType):
        return kind, (value.__func__, value.__self__)
    if isinstance(value, types.CodeType):
        return kind, (value.co_code, value.co_consts, value.co_names)
    if isinstance(value, types.FunctionType):
        return _name(value), _unnamed_part(value)
    if hasattr(value, "__wrapped__"):  # compiled functions, custom derivatives
        return kind, (value.__wrapped__,)
    if callable(value) and hasattr(value, "__qualname__"):
        owner = getattr(value, "__self__", None)  # a module for built-in functions
        return _name(value), () if isinstance(owner, types.ModuleType) else (owner,)
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return kind, [(field.name, getattr(value, field.name)) for field in fields]
    if state := _state(value):
        return kind, (state,)
    return kind, (re.sub(r" at 0x[0-9a-f]+", "", repr(value)),)


def _unnamed_part(function: types.FunctionType) -> Iterator[Any]:
    """Yield what makes up a function that is made inside another, or a lambda."""
    if "<" in function.__code__.co_qualname:
        yield function.__code__
        yield function.__defaults__
        yield function.__kwdefaults__
        for cell in function.__closure__ or ():
            yield from _content(cell) or (cell,)


def _content(cell: types.CellType) -> tuple[Any, ...]:
    """Return what a cell of a closure holds; nothing if it was never assigned."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def _state(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, also those that are kept in slots."""
    slots = {
        name: getattr(value, name)
        for owner in type(value).__mro__
        if "__slots__" in vars(owner)
        for name, slot in vars(owner).items()
        if isinstance(slot, types.MemberDescriptorType) and hasattr(value, name)
    }
    return slots | getattr(value, "__dict__", {})


def _name(owner: Any) -> str:
    return f"{getattr(owner, '__module__', '')}.{owner.__qualname__}"


def _combined(kind: str, parts: Iterable[bytes]) -> bytes:
    """Return the digest of a kind and its parts, each by its own digest."""
    whole = hashlib.sha256(kind.encode() + b"\0")
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.digest()
