"""The pickle machine against Python's own, and against what must not happen."""

import pickle
import random
import struct
from decimal import Decimal

import pytest

from tests.weights_convert.readers.pickles import Call, Name, dumps
from weights_convert.readers.builders import BUILDERS
from weights_convert.readers.inert import Global, LongText, Opaque
from weights_convert.readers.machine import MAX_OPERATIONS, Budget
from weights_convert.readers.tensors import CheckpointError
from weights_convert.readers.unpickler import Unpickler


def load(data: bytes):
    return Unpickler(memoryview(data), BUILDERS, Budget()).load()


def _value(source: random.Random, depth: int = 4):
    """Return a random value of the kinds that inert metadata has."""
    kind = source.randrange(11 if depth else 7)
    if kind >= 7:
        parts = [_value(source, depth - 1) for _ in range(source.randrange(6))]
        texts = {f"key {i}": part for i, part in enumerate(parts)}
        return (parts, tuple(parts), texts, dict(enumerate(parts)))[kind - 7]
    return (
        None,
        source.random() < 0.5,
        source.randrange(256),
        source.randrange(-(1 << 70), 1 << 70),
        source.random(),
        "text é" * source.randrange(100),
        source.randbytes(source.choice((3, 300))),
    )[kind]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_those_of_python(protocol):
    source = random.Random(protocol)
    for _ in range(100):
        value = _value(source)
        # Protocol 2 has no bytes and calls a codec; those become records.
        has_bytes = protocol == 2 and b"_codecs" in pickle.dumps(value, 2)
        if not has_bytes:
            assert load(pickle.dumps(value, protocol)) == value


def test_shared_and_recursive_values():
    shared = ["once"]
    first, second = load(pickle.dumps([shared, shared]))
    assert first is second
    loop: list = []
    loop.append(loop)
    found = load(pickle.dumps(loop))
    assert found[0] is found


def test_values_that_are_thrown_away():
    assert load(b"\x80\x02K\1K\2K\0" + b"0" + b"(NN1" + b"\x86.") == (1, 2)


def test_ordered_dictionaries_of_python_2():
    pairs = [["a", 1], ["b", 2]]
    found = load(dumps(Call(Name("collections", "OrderedDict"), (pairs,))))
    assert list(found.items()) == [("a", 1), ("b", 2)]


def test_sets_are_lists():
    found = load(pickle.dumps({1, 2, 3}, 4))
    assert sorted(found) == [1, 2, 3]
    assert sorted(load(pickle.dumps(frozenset({1, 2}), 4))) == [1, 2]
    assert sorted(load(pickle.dumps({1, 2}, 2))) == [1, 2]


def test_strings_of_python_2():
    assert load(b"\x80\x02U\x03abc.") == "abc"
    assert load(b"\x80\x02U\x02\xff\x00.") == b"\xff\x00"
    assert load(b"\x80\x02T" + struct.pack("<I", 2) + b"\xffa.") == b"\xffa"


@pytest.mark.parametrize("protocol", (2, 4))
def test_unknown_objects_are_recorded(protocol):
    """Whatever would be imported and called is a record of names and arguments."""
    found = load(pickle.dumps(Decimal("1.5"), protocol))
    assert isinstance(found, Opaque)
    assert found.function == Global("decimal", "Decimal")
    assert found.args == ("1.5",)


def test_entries_elements_and_state_of_unknown_objects():
    call = Call(Name("m", "Thing"), (1,), {"a": 2}, {"b": 3})
    found = load(dumps(call))
    assert (found.args, found.entries, found.state) == ((1,), {"a": 2}, {"b": 3})
    keywords = load(b"\x80\x04cm\nThing\n)}X\1\0\0\0aK\1s\x92.")
    assert keywords.args == ((), {"a": 1})
    appended = load(b"\x80\x02cm\nThing\n)R(K\x01K\x02e.")
    assert appended.elements == [1, 2]


def test_nothing_is_called(tmp_path, monkeypatch):
    """The same bytes do harm in Python's unpickler, so the test could fail."""
    monkeypatch.chdir(tmp_path)
    data = dumps(Call(Name("os", "mkdir"), ("harm",)))
    found = load(data)
    assert (found.function, found.args) == (Global("os", "mkdir"), ("harm",))
    assert not list(tmp_path.iterdir())
    pickle.loads(data)
    assert [path.name for path in tmp_path.iterdir()] == ["harm"]


def test_strange_keys_are_not_hashed():
    deep = b"(" + b"N" + b"\x85" * 200_000
    found = load(b"\x80\x02}" + deep + b"N" + b"u.")
    (key,) = found
    assert isinstance(key, Opaque)
    colliding = {index * ((1 << 61) - 1): 0 for index in range(2000)}
    assert len(load(pickle.dumps(colliding))) == 2000


DAMAGED = {
    "empty": b"",
    "no_stop": b"\x80\x02N",
    "nothing": b"\x80\x02.",
    "unknown_opcode": b"\x80\x02\xff.",
    "protocol": b"\x80\x09N.",
    "text_opcode": b"\x80\x02I1\n.",
    "extension_code": b"\x80\x02\x82\x01.",
    "out_of_band": b"\x80\x05\x97.",
    "persistent_id": b"\x80\x02K\x01Q.",
    "missing_mark": b"\x80\x02t.",
    "below_a_mark": b"\x80\x02N(0.",
    "memo": b"\x80\x02h\x05.",
    "entries_of_a_number": b"\x80\x02K\x01NNs.",
    "odd_entries": b"\x80\x02}(Nu.",
    "elements_of_a_tuple": b"\x80\x02)(Ne.",
    "text_that_is_none": b"\x80\x02X\x02\0\0\0\xff\xff.",
    "surrogate": b"\x80\x02X\x03\0\0\0\xed\xa0\x80.",
    "long_bytes": b"\x80\x02B\xff\xff\xff\xffab.",
    "longer_bytes": b"\x80\x04\x8e" + b"\xff" * 8 + b"ab.",
    "long_text": b"\x80\x02X\xff\xff\xff\xffab.",
    "long_integer": b"\x80\x02\x8b\x00\x01\x00\x00" + b"\1" * 256 + b".",
    "frame": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "global_without_end": b"\x80\x02cos" + b"a" * 5000,
    "global_of_numbers": b"\x80\x04K\x01K\x02\x93.",
    "tensor_of_nothing": dumps(Call(Name("torch._utils", "_rebuild_tensor_v2"))),
    "tensor_of_a_list": dumps(Call(Name("torch._utils", "_rebuild_tensor"), (1,) * 4)),
    "tensor_of_no_type": dumps(
        Call(Name("torch._utils", "_rebuild_tensor_v3"), (1, 0, (), (), 0, 0, None))
    ),
    "tensor_of_a_call": dumps(
        Call(
            Name("torch._tensor", "_rebuild_from_type_v2"),
            (Name("os", "system"), None, ("touch harm",), None),
        )
    ),
    "dictionary_of_text": dumps(Call(Name("collections", "OrderedDict"), ("ab",))),
    "dictionary_of_numbers": dumps(
        Call(Name("collections", "OrderedDict"), ([(1, 2)],))
    ),
    "set_of_bytes": dumps(Call(Name("builtins", "set"), (b"ab",))),
    "long_text_for_a_name": b"\x80\x04\x8c\1aX\0\0\x20\0" + bytes(1 << 21) + b"\x93.",
    "long_string_that_is_there": b"\x80\x02T\0\0\x20\0" + bytes(1 << 21) + b".",
    "dictionary_of_a_number": dumps(Call(Name("collections", "OrderedDict"), (1,))),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_a_clear_error(case):
    with pytest.raises(CheckpointError, match=r".{30}"):
        load(DAMAGED[case])


@pytest.mark.parametrize("opcodes", (b"]\x94", b"N)\x81"))
def test_the_budget_ends_long_pickles(opcodes):
    with pytest.raises(CheckpointError, match="operations"):
        load(b"\x80\x04" + opcodes * MAX_OPERATIONS)


def test_copies_are_charged():
    """A list copied by every one of many calls would grow with their product."""
    pairs = b"](" + b"](X\1\0\0\0aNe" * 10_000 + b"e"
    call = b"ccollections\nOrderedDict\nh\0\x85R0"
    with pytest.raises(CheckpointError, match="operations"):
        load(b"\x80\x02" + pairs + b"q\0" + call * 1000 + b".")


def test_long_text_stays_in_the_file():
    data = b"\x80\x02}X\0\0\x20\0" + b"a" * (1 << 21) + b"Ns."
    ((key, _),) = load(data).items()
    assert isinstance(key, Opaque) and isinstance(key.args, LongText)
    assert len(key.args.data) == 1 << 21 and key.args.encoded is None
