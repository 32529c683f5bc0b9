"""Which state dict of a file is meant."""

import numpy as np
import pytest

from tests.weights_convert.readers.files import zip_file
from tests.weights_convert.readers.pickles import Call, Name, Raw, opcodes, ordered
from tests.weights_convert.readers.test_torch_files import assert_holds
from weights_convert.readers import CheckpointError

ONES, TWOS = np.ones((2, 3)), np.full((2, 3), 2.0)
MODEL, AVERAGE = {"a.w": ONES, "a.b": ONES[0]}, {"a.w": TWOS, "a.b": TWOS[0]}
OPTIMISER = {"state": {0: {"step": 1, "exp_avg": ONES}}, "param_groups": [{"lr": 0.1}]}
SMALL = {"decay": np.array(0.99)}

# What the file holds, what is found in it, what is selected.
CASES = {
    "bare": (MODEL, ["."], "."),
    "lightning": (
        {"epoch": 1, "state_dict": MODEL, "optimizer_states": [OPTIMISER]},
        ["state_dict"],
        "state_dict",
    ),
    "average_preferred": (
        {"model": MODEL, "ema": AVERAGE, "opt": OPTIMISER},
        ["model", "ema"],
        "ema",
    ),
    "average_inside": (
        {"params": MODEL, "params_ema": AVERAGE},
        ["params", "params_ema"],
        "params_ema",
    ),
    "nested": (
        {"ema": {"state_dict": AVERAGE, "steps": 3}, "state_dict": MODEL},
        ["state_dict", "ema/state_dict"],
        "ema/state_dict",
    ),
    "list": ([MODEL, OPTIMISER, 3, 4, AVERAGE], ["0", "4"], "4"),
    "list_without_average": ([MODEL, OPTIMISER, 3, 4], ["0"], "0"),
    "small_average": ({"ema": SMALL, "model": MODEL}, ["ema", "model"], "model"),
    "schedule_beside": ({"betas": ONES[0], "unet": MODEL}, [".", "unet"], "unet"),
    "usual_name": ({"other": AVERAGE, "net": MODEL}, ["other", "net"], "net"),
    "largest": ({"a": MODEL | {"c": ONES}, "b": MODEL}, ["a", "b"], "a"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_choice(case, opened):
    value, names, selected = CASES[case]
    checkpoint = opened(zip_file(value))
    assert (list(checkpoint.choices), checkpoint.container) == (names, selected)


@pytest.mark.parametrize(
    "key",
    [
        *("EMA", "ema_weights", "ema_model_state_dict", "model_ema_state_dict"),
        *("ema_state", "ema_network", "network_ema", "module_ema", "ema_0.9999"),
        *("shadow", "averaged_model", "swa_model", "model_averaged", "average"),
        *("moving_average", "polyak", "Model-EMA", "exponential_moving_averages"),
        *("modelEMA", "emaModel", "EMAModel", "ModelEma", "netEMA2", "MODEL_EMA"),
        *("swaModel", "WeightAveraging", "ema1"),
    ],
)
def test_averages_come_first_whatever_they_are_called(key, opened):
    for value in ({"model": MODEL, key: AVERAGE}, {key: AVERAGE, "model": MODEL}):
        assert opened(zip_file(value)).container == key


@pytest.mark.parametrize(
    "key",
    ["non_ema", "no-ema", "nonEMA", "withoutEma", "schema", "Schema", "swap", "MODEL"],
)
def test_what_is_not_called_averaged_does_not_come_first(key, opened):
    assert opened(zip_file({"model": MODEL, key: AVERAGE})).container == "model"


def test_named_averages_under_the_key_of_nameless_ones(opened):
    averages = {"decay": 0.999, "num_updates": 7, "shadow_params": AVERAGE}
    for key in ("ema", "weights"):
        checkpoint = opened(zip_file({"model": MODEL, key: averages}))
        assert checkpoint.container == f"{key}/shadow_params"
        assert_holds(checkpoint, AVERAGE)


def test_another_choice(opened):
    data = zip_file({"model": ordered(MODEL), "ema": ordered(AVERAGE)})
    checkpoint = opened(data)
    assert_holds(checkpoint, AVERAGE)
    assert_holds(checkpoint.select("model"), MODEL)
    assert_holds(opened(data, container="model"), MODEL)
    assert_holds(checkpoint.select("ema:a."), {"w": TWOS, "b": TWOS[0]})
    for name in ("modell", "model:b.", "model:", "modell:a."):
        with pytest.raises(CheckpointError, match="it has: 'model', 'ema'"):
            checkpoint.select(name)


FILTER, FROZEN = np.ones(5), np.full((2, 2), 3.0)
SCORE_MODEL = {
    "module.sigmas": FILTER,
    "module.a.w": ONES,
    "module.a.b": ONES[0],
    "module.filter": FROZEN,
    "module.b.w": ONES.T,
}
SHADOW = [TWOS, TWOS[0], TWOS.T]


def _score_sde(shadow, model=SCORE_MODEL):
    averages = {"decay": 0.999, "num_updates": 7, "shadow_params": shadow}
    value = {"optimizer": OPTIMISER, "model": ordered(model), "ema": averages}
    return zip_file(value | {"step": 1})


def test_averages_without_names_get_those_of_the_model(opened):
    """As in score_sde; what is not averaged comes from the model."""
    checkpoint = opened(_score_sde(SHADOW))
    assert list(checkpoint.choices) == ["model", "ema"]
    assert checkpoint.container == "ema"
    named = {"sigmas": FILTER, "a.w": TWOS, "a.b": TWOS[0], "filter": FROZEN}
    assert_holds(checkpoint, named | {"b.w": TWOS.T})
    assert checkpoint.tensors["a.w"].name == "a.w"
    plain = {name.removeprefix("module."): v for name, v in SCORE_MODEL.items()}
    assert_holds(checkpoint.select("model"), plain)


@pytest.mark.parametrize(
    ("shadow", "model", "message"),
    [
        ([*SHADOW[:2], FILTER], SCORE_MODEL, "no state dict beside it fits"),
        (SHADOW[::-1], SCORE_MODEL, "no state dict beside it fits"),
        ([TWOS], {"w": ONES, "running": ONES}, "shapes do not tell"),
    ],
)
def test_averages_that_cannot_be_named_are_not_taken_silently(
    shadow, model, message, opened
):
    with pytest.raises(CheckpointError, match=f"{message}.*'model'"):
        opened(_score_sde(shadow, model))
    assert opened(_score_sde(shadow, model), container="model").tensors


KEPT = {"decay": np.array(0.999), "steps": 7}
LISTS = {
    "optimizer_states/0/ema": {
        "optimizer_states": [KEPT | {"opt": OPTIMISER, "ema": tuple(SHADOW)}]
    },
    "callbacks/EMA/ema_weights": {"callbacks": {"EMA": KEPT | {"ema_weights": SHADOW}}},
    "ema": {"ema": SHADOW},
    "ema_params": {"ema_params": SHADOW},
    "ema/0.9999": {"ema": {"0.9999": SHADOW}},
}


@pytest.mark.parametrize("plain", ["state_dict", "model"])
@pytest.mark.parametrize("place", LISTS)
def test_lists_that_are_called_averages_get_the_names_of_the_model(
    place, plain, opened
):
    for value in (
        {plain: ordered(SCORE_MODEL)} | LISTS[place],
        LISTS[place] | {plain: ordered(SCORE_MODEL)},
    ):
        checkpoint = opened(zip_file(value))
        assert checkpoint.container == place
        named = {"sigmas": FILTER, "a.w": TWOS, "a.b": TWOS[0], "filter": FROZEN}
        assert_holds(checkpoint, named | {"b.w": TWOS.T})
        assert checkpoint.choices[place].averaged


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ema_losses", [np.array(0.5)] * 3),
        ("ema", [*SHADOW, "text"]),
        ("weights", SHADOW),
        ("non_ema", SHADOW),
    ],
)
def test_other_lists_are_no_averages(key, value, opened):
    checkpoint = opened(zip_file({"model": ordered(SCORE_MODEL), key: value}))
    assert list(checkpoint.choices) == ["model"]


def test_lists_that_are_called_averages_and_fit_nothing_are_left(opened):
    large = [np.ones((9, 9))] * 3
    checkpoint = opened(zip_file({"model": ordered(SCORE_MODEL), "ema": large}))
    assert checkpoint.container == "model"
    with pytest.raises(CheckpointError, match="no state dict beside it fits"):
        checkpoint.select("ema")
    with pytest.raises(CheckpointError, match="no state dict beside it fits"):
        opened(zip_file({"ema": large}))


def test_long_lists_of_choices_are_shortened(opened):
    value = {f"net {i}": MODEL for i in range(40)}
    with pytest.raises(CheckpointError, match=r"'net 11', \.{4}$"):
        opened(zip_file(value), container="none")


def test_wrappers_are_taken_off(opened):
    wrapped = {f"module._orig_mod.{name}": array for name, array in MODEL.items()}
    assert_holds(opened(zip_file({"state_dict": wrapped})), MODEL)
    partly = {"module.a": ONES, "b": TWOS}
    assert_holds(opened(zip_file(partly)), partly)


def test_the_counter_of_averaged_models_goes_with_their_wrapper(opened):
    average = {f"module.{name}": array for name, array in AVERAGE.items()}
    for prefix in ("", "module."):
        counted = {f"{prefix}n_averaged": np.array(7)}
        counted |= {f"{prefix}{name}": array for name, array in average.items()}
        assert_holds(opened(zip_file(counted)), AVERAGE)
        assert opened(zip_file({"model": MODEL, "other": counted})).container == "other"
    for kept in ({"n_averaged": np.array(7)} | MODEL, {"n_averaged": np.array(7)}):
        assert_holds(opened(zip_file(kept)), kept)
    vector = {"n_averaged": ONES[0]} | average
    assert_holds(opened(zip_file(vector)), vector)


def test_what_stands_beside_is_kept(opened):
    namespace = Call(Name("argparse", "Namespace"), state={"lr": 0.1})
    value = {"epoch": 3, "args": namespace, "state_dict": MODEL | {"version": 2}}
    extra = opened(zip_file(value)).extra
    assert (extra["epoch"], extra["version"]) == (3, 2)
    assert extra["args"].state == {"lr": 0.1}


def test_strange_keys_are_passed_over(opened):
    """Callbacks of training programs are kept under classes and tuples."""
    keys = (Name("callbacks", "Stop"), ("a", 1), ("b", 2), 1, "1", None, 0.5)
    value = {"callbacks": dict.fromkeys(keys, 3), "state_dict": MODEL}
    checkpoint = opened(zip_file(value))
    assert list(checkpoint.choices) == ["state_dict"]
    assert_holds(checkpoint, MODEL)


def test_weights_that_only_torch_can_rebuild(opened):
    quantised = Call(Name("torch._utils", "_rebuild_qtensor"), (ONES,))
    value = {"model": {"w": quantised, "b": ONES}, "plain": {"b": ONES}}
    with pytest.raises(CheckpointError, match=r"'w' in model .* 'plain'"):
        opened(zip_file(value), container="model")


NOTHING = {
    "number": 3,
    "text": {"a": "b"},
    "namespace": Call(Name("argparse", "Namespace"), state={"w": 1}),
    "optimiser": OPTIMISER,
    "deeper_than_we_look": [[[[[[MODEL]]]]]],
}


@pytest.mark.parametrize("case", NOTHING)
def test_files_without_a_state_dict(case, opened):
    with pytest.raises(CheckpointError, match="no dictionary of tensors"):
        opened(zip_file(NOTHING[case]))


def test_containers_that_hold_themselves(opened):
    """A dictionary whose entry "self" is the dictionary, and "more" a subclass."""
    inside = Raw(b"}q\5" + opcodes("self") + b"h\5s" + opcodes("epoch") + b"K\7s")
    easy = Call(Name("dnnlib", "EasyDict"), (), {"model": MODEL})
    checkpoint = opened(zip_file({"loop": inside, "more": easy}))
    assert list(checkpoint.choices) == ["more/model"]
    assert_holds(checkpoint, MODEL)


def test_names_are_safe_to_print(opened):
    with pytest.raises(CheckpointError, match="printed"):
        opened(zip_file({"\x1b]0;title\x07": ONES}))
    with pytest.raises(CheckpointError, match="two tensors"):
        opened(zip_file({"1": ONES, 1: TWOS}))
