"""Settings held against annotations: what is fine, and what is said of the rest."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import numpy as np
import pytest

from diffctl.host import Count, Natural, Positive, Range, Seed
from diffctl.host.settings import check_options, check_settings, check_value, show


class Inner(TypedDict):
    width: Count
    kind: NotRequired[Literal["a", "b"]]


@dataclasses.dataclass
class Plan:
    width: Count
    blocks: Natural = 0


class Network:
    def __init__(
        self,
        *,
        channels: tuple[Count, Count],
        levels: Sequence[Annotated[Mapping[str, int], Plan]],
        inner: Inner,
        gain: float = 1.0,
        flag: bool = False,
        rngs: Any,
    ):
        raise NotImplementedError


GOOD = {
    "channels": [1, 2],
    "levels": ({"width": 4}, {"width": 8, "blocks": 0}),
    "inner": {"width": 3, "kind": "a"},
    "gain": 2,
    "flag": True,
}


def test_what_the_annotations_say_is_fine():
    check_settings(Network, GOOD, "the network")
    needed = {name: GOOD[name] for name in ("channels", "levels", "inner")}
    check_settings(Network, needed | {"inner": {"width": 1}}, "the network")
    for value, hint in [
        (0, Natural), (2**32 - 1, Seed), (1e-9, Positive), (3, float),
        (None, int | None), ([], list[int]), ([1, 2, 3], tuple[int, ...]), ("x", Any),
        (0.5, float | str), (np.int64(3), Count), (np.float32(0.5), Positive),
    ]:  # fmt: skip
        check_value(value, hint, "it")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 3}, r"the network has no setting 'depth'; there are: channels, lev"),
        ({"rngs": 3}, "has no setting 'rngs'"),
        ({"self": 3}, "has no setting 'self'"),
        (
            {"channels": "ab"},
            "channels of the network is 'ab'; expected a list of a wh",
        ),
        ({"channels": [1]}, r"is \[1\]; expected 2 entries"),
        ({"channels": [1, 0]}, r"channels of the network\[1\] is 0; .* number >= 1\."),
        ({"channels": [1, True]}, "is True; expected a whole number"),
        ({"channels": [1, 2.0]}, "is 2.0; expected a whole number"),
        ({"channels": [1, 2**70]}, "expected a whole number"),
        ({"levels": []}, r"levels of the network is \[\]; expected a list of"),
        ({"levels": [3]}, r"levels of the network\[0\] is 3; expected a table"),
        ({"levels": [{}]}, r"levels of the network\[0\] lacks the setting 'width'"),
        ({"levels": [{"width": -1}]}, r"width of levels of the network\[0\] is -1"),
        ({"inner": {"width": 1, "x": 2}}, "inner of the network has no setting 'x'"),
        ({"inner": {"width": 1, "kind": "c"}}, "is 'c'; expected 'a' or 'b'"),
        ({"inner": {"width": 1, "kind": ["a"]}}, r"is \['a'\]; expected 'a' or 'b'"),
        (
            {"gain": float("nan")},
            "gain of the network is nan; expected a finite number",
        ),
        ({"gain": 10**400}, "expected a finite number"),
        ({"gain": True}, "expected a finite number"),
        ({"flag": 1}, "is 1; expected true or false"),
        ({"flag": None}, "is None; expected true or false"),
    ],
)
def test_what_they_do_not_say_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_settings(Network, GOOD | change, "the network")
    assert len(str(caught.value)) < 300


def test_what_is_no_table_and_what_is_missing():
    for given in (None, [], "x", 3):
        with pytest.raises(ValueError, match="expected a table of settings"):
            check_settings(Network, given, "the network")
    with pytest.raises(ValueError, match="lacks the setting 'width'"):
        check_settings(Inner, {"kind": "a"}, "it")
    check_settings(Inner, {"width": 1, "others": []}, "it", others=True)


@dataclasses.dataclass
class Options:
    seed: Seed = 0
    widths: tuple[Count, ...] = (1,)
    steps: Count | None = None
    level: Annotated[float, Range(0, 1)] = 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 2**70}, "--seed is 1180591620717411303424; .* from 0 to 4294967295"),
        ({"seed": -1}, "--seed is -1; expected a whole number from 0"),
        ({"widths": (4, 0)}, r"--widths\[1\] is 0; expected a whole number >= 1"),
        ({"steps": 0}, "--steps is 0; expected a whole number >= 1"),
        (
            {"level": float("nan")},
            "--level is nan; expected a finite number from 0 to 1",
        ),
        ({"level": 1.5}, "--level is 1.5"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    check_options(Options())
    with pytest.raises(ValueError, match=message):
        check_options(Options(**options))


def test_long_and_odd_values_are_shown_short():
    assert show("x" * 1000) == "'" + "x" * 79 + "..."
    assert show("\ud800\n") == r"'\ud800\n'"
    assert show([1, 2]) == "[1, 2]"
