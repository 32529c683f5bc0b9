"""Whole objects: the pickles of NVlabs/edm, and modules saved with torch.save."""

import numpy as np
import pytest

from tests.weights_convert.readers.files import (
    module_state,
    nested_tensor,
    persistent_class,
    stream_file,
    zip_file,
)
from tests.weights_convert.readers.pickles import Call, Name, Raw, dumps, opcodes
from tests.weights_convert.readers.test_torch_files import assert_holds
from weights_convert.readers import CheckpointError

SOURCE = np.random.default_rng(0)
WEIGHT, BIAS, FILTER, SCALE = (
    SOURCE.normal(size=shape).astype("float32") for shape in ((4, 3), 4, (2, 2), 5)
)
EXPECTED = {
    "scale": SCALE,
    "enc.conv.weight": WEIGHT,
    "enc.conv.bias": BIAS,
    "enc.conv.resample_filter": FILTER,
    "head.weight": WEIGHT.T,
}


def _network(tensor) -> Call:
    """Return a network with nested modules; `tensor` says how arrays are saved."""
    parameters = {"weight": tensor(WEIGHT), "bias": tensor(BIAS)}
    conv = module_state(parameters, {"resample_filter": tensor(FILTER)}, {})
    container = Call(
        Name("torch.nn.modules.container", "ModuleDict"),
        state=module_state({}, {}, {"conv": persistent_class("Conv2d", conv)}),
    )
    head = module_state(
        {"weight": tensor(WEIGHT.T), "bias": None},
        {"unused": None, "transient": tensor(BIAS)},
        {"absent": None},
        _non_persistent_buffers_set=Call(Name("builtins", "set"), (["transient"],)),
    )
    easy = Call(Name("dnnlib.util", "EasyDict"), (), {"depth": 2})
    whole = module_state(
        {"scale": tensor(SCALE)},
        {},
        {"enc": container, "head": persistent_class("Linear", head)},
        sigma_data=0.5,
        _init_args=(64,),
        _init_kwargs={"model_type": "SongUNet", "options": easy},
    )
    source = "import os\nos.system('touch harm')\n"
    return persistent_class("EDMPrecond", whole, source)


def _snapshot(tensor) -> dict:
    loss = persistent_class("EDMLoss", {"P_mean": -1.2})
    return {"ema": _network(tensor), "loss_fn": loss, "step": 7}


FILES = {
    "pickle": lambda: dumps(_snapshot(nested_tensor), 4),
    "archive": lambda: zip_file(_snapshot(lambda array: array)),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_network_becomes_a_state_dict(kind, opened, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    checkpoint = opened(FILES[kind](), "network.pkl")
    assert_holds(checkpoint, EXPECTED)
    assert checkpoint.container == "ema"
    extra = checkpoint.extra
    assert (extra["class_name"], extra["init_args"]) == ("EDMPrecond", (64,))
    assert extra["init_kwargs"] == {"model_type": "SongUNet", "options": {"depth": 2}}
    assert extra["step"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["network.pkl"]


def test_plain_modules_keep_their_class_name(opened):
    state = module_state({"weight": WEIGHT}, {}, {})
    plain = Call(Name("project.nets", "Net"), state=state)
    assert opened(zip_file(plain)).extra["class_name"] == "Net"
    old = Name("copyreg", "_reconstructor"), (Name("project.nets", "Net"), None, None)
    checkpoint = opened(zip_file(Call(*old, state=state)))
    assert checkpoint.extra["class_name"] == "Net"
    assert_holds(checkpoint, {"weight": WEIGHT})


def test_bytes_that_occur_twice_are_one_storage(opened):
    tensor = nested_tensor(WEIGHT)
    (stream,) = tensor.args[0].args
    memoized = opcodes(stream) + b"q\5"
    storage, *rest = tensor.args
    twice = [
        Call(tensor.function, (Call(storage.function, (Raw(part),)), *rest))
        for part in (memoized, b"h\5")
    ]
    tensors = opened(dumps({"a": twice[0], "b": twice[1]})).tensors
    assert tensors["a"].storage is tensors["b"].storage
    assert tensors["b"].read().tobytes() == WEIGHT.tobytes()


def _nested(levels: int) -> Call:
    module = Call(Name("n", "Leaf"), state=module_state({"w": WEIGHT}, {}, {}))
    for _ in range(levels):
        module = Call(Name("n", "Net"), state=module_state({}, {}, {"m": module}))
    return module


def test_deep_nesting_is_refused(opened):
    name = ".".join("m" * 20 + "w")
    assert_holds(opened(zip_file(_nested(20))), {name: WEIGHT})
    with pytest.raises(CheckpointError, match="deep"):
        opened(zip_file(_nested(60)))


def test_modules_that_double_at_every_level_are_refused(opened):
    """Thirty modules, each twice in the next, would make a thousand million names."""
    module: Call | Raw = Call(Name("n", "Leaf"), state=module_state({}, {}, {}))
    for level in range(30):
        memo = bytes([ord("q"), 10 + level])
        first = Raw(opcodes(module) + memo)
        again = Raw(bytes([ord("h"), 10 + level]))
        state = module_state({}, {}, {"a": first, "b": again})
        module = Call(Name("n", "Net"), state=state)
    with pytest.raises(CheckpointError, match="operations"):
        opened(zip_file({"net": module}))


def test_parts_whose_names_are_no_text(opened):
    module = Call(Name("n", "Net"), state=module_state({}, {}, {3: None}))
    with pytest.raises(CheckpointError, match="no text"):
        opened(zip_file(module))


def test_parts_that_are_no_modules(opened):
    module = Call(Name("n", "Net"), state=module_state({}, {}, {"a": 3}))
    with pytest.raises(CheckpointError, match="'a' is no module"):
        opened(zip_file(module))


STRANGE = {
    "number": {"w": 3},
    "object": {"w": Call(Name("n", "Quantised"), (WEIGHT,))},
    "list": {"w": [WEIGHT]},
}


@pytest.mark.parametrize("case", STRANGE)
def test_parameters_that_are_no_tensors(case, opened):
    module = Call(Name("n", "Net"), state=module_state({}, STRANGE[case], {}))
    with pytest.raises(CheckpointError, match="plain tensor"):
        opened(zip_file(module))


@pytest.mark.parametrize(
    "stream", (b"", b"\x80\x02N.", dumps([1, 2]), stream_file({}), "text", 3)
)
def test_storages_that_are_no_streams(stream, opened):
    storage = Call(Name("torch.storage", "_load_from_bytes"), (stream,))
    with pytest.raises(CheckpointError):
        opened(dumps({"w": storage}))
