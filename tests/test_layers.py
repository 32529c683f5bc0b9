"""Imports between rooms go one way."""

import pytest

from tests.source import PACKAGES, files, imports, module_name

CORE = {"pytree", "core", "checkpoint", "digest", "host"}
BELOW_CONTROL = CORE | {"numerics"}

# What a room may import besides itself. Names are rooms, or modules of a room.
ALLOWED = {
    "host": set(),
    "pytree": set(),
    "core": {"pytree"},
    "checkpoint": {"host"},
    "digest": set(),
    "numerics": CORE,
    "operators": BELOW_CONTROL,
    "diffusion": BELOW_CONTROL,
    "nets": {"pytree", "host", "numerics.conv"},
    "priors": BELOW_CONTROL | {"diffusion", "nets"},
    "control": BELOW_CONTROL,
    "solvers": BELOW_CONTROL
    | {"diffusion", "control", "operators.base", "operators.validation"},
    "metrics": BELOW_CONTROL | {"nets"},
    # Amortised networks are trained on measurements, of any operator.
    "training": BELOW_CONTROL | {"diffusion", "nets", "priors", "operators.base"},
}
FACADE = set(ALLOWED) | {"__version__", "Problem", "assets"}
TOP = FACADE | {"report", "cli"}
ALLOWED |= {"assets": {"priors", "host"}, "report": FACADE, "cli": TOP, "": FACADE}
OUTSIDE = {
    "weights_convert": CORE | {"nets", "diffusion", "priors"},
    "experiments": TOP | {""},
}

# Third-party packages that only some rooms may touch.
RESTRICTED = {
    "torch": {"experiments"},
    "matplotlib": {"report", "experiments"},
    "PIL": {"report", "cli", "experiments"},
    "tyro": {"cli", "experiments", "weights_convert"},
    "rich": {"cli", "report", "experiments", "weights_convert"},
    "orbax": {"checkpoint"},
}
# Who may import what stands outside the library; benchmarks measure the converter.
HIDDEN = {"weights_convert": {"experiments"}, "experiments": set(), "tests": set()}

MODULES = {module_name(path): path for package in PACKAGES for path in files(package)}


def _room(module: str) -> str:
    """Return the room of a module: `diffctl.numerics.safe` -> `numerics`."""
    package, *rest = module.split(".")
    if package != "diffctl":
        return package
    return rest[0] if rest else ""


def _inside(module: str, allowed: set[str]) -> bool:
    """Return whether a module of diffctl lies in one of the allowed places."""
    place = module.removeprefix("diffctl").removeprefix(".")
    return any(place == name or place.startswith(f"{name}.") for name in allowed)


def test_every_room_has_a_rule():
    rooms = {_room(name) for name in MODULES}
    unknown = rooms - set(ALLOWED) - set(OUTSIDE)
    assert not unknown, f"say in tests/test_layers.py what {unknown} may import"


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_table(module):
    room = _room(module)
    allowed = OUTSIDE.get(room, ALLOWED.get(room, set()))
    wrong = []
    for imported, line in imports(MODULES[module]):
        package = imported.split(".")[0]
        if package == "diffctl" and _room(imported) != room:
            legal = _inside(imported, allowed) or (
                room == "cli" and imported == package
            )
            wrong += [] if legal else [f"line {line}: {imported}"]
        if package != room and room not in HIDDEN.get(package, {room}):
            wrong.append(f"line {line}: nobody imports {package}")
        if room not in RESTRICTED.get(package, {room}):
            wrong.append(f"line {line}: {package} is for {RESTRICTED[package]} only")
    assert not wrong, "\n".join(wrong)


def test_the_rule_can_fail():
    assert not _inside("diffctl.solvers.dps", ALLOWED["control"])
    assert not _inside("diffctl.operators.blur", ALLOWED["solvers"])
    assert not _inside("diffctl.numerics_extra", {"numerics"})
    assert _inside("diffctl.operators.base", ALLOWED["solvers"])
