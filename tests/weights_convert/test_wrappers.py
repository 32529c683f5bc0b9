"""The network inside what training programs save: its prefix, and its averages."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.weights_convert.readers.files import zip_file
from tests.weights_convert.readers.pickles import ordered
from tests.weights_convert.test_diffusers import CONFIG, _names
from weights_convert.cli import main
from weights_convert.families.base import ConfigError
from weights_convert.readers import CheckpointError, open_checkpoint
from weights_convert.readers.average_names import dotted, without_averages
from weights_convert.wrappers import find_network

NAMES = list(_names())
STAGE = [
    f"{coder}.{layer}.{part}"
    for coder in ("encoder", "decoder")
    for layer in ("conv_in", "norm_out")
    for part in ("weight", "bias")
]


def network(value, prefix="", names=NAMES, flat=False):
    """Return a network whose numbers are all one value."""
    return {
        prefix + (name.replace(".", "") if flat else name): np.full(
            2, value, np.float32
        )
        for name in names
    }


PLAIN, AVERAGE = 1.0, 2.0
BUFFERS = {"betas": np.ones(4), "alphas_cumprod": np.ones(4)}
COUNTERS = {"step": np.array(7), "initted": np.array(True)}
COUNTED = {"ema_model.n_averaged": np.array(3)}


def _both(plain, average, names=NAMES):
    return network(PLAIN, plain, names) | network(AVERAGE, average, names)


def _flat(plain, module, names=NAMES):
    """Return a network and averages under names without dots, as LitEma keeps them."""
    averages = network(AVERAGE, module, [f"{plain}{n}" for n in names], flat=True)
    counters = {"model_ema.decay": np.array(0.99), "model_ema.num_updates": np.array(7)}
    return averages | counters


IMAGES = network(PLAIN, "model.diffusion_model.") | _flat(
    "diffusion_model.", "model_ema."
)

# What a file holds, what is taken, its value, what is taken off, what else is named.
CASES = {
    **{
        f"prefix {prefix}": (network(PLAIN, prefix) | BUFFERS, PLAIN, prefix, "betas")
        for prefix in (
            *("model.", "net._orig_mod.", "denoise_fn.", "ema_model.", "net.model."),
            *("_forward_module.model.", "unet.", "diffusion.net.module.", "a.b.c.d."),
        )
    },
    "wrapped": (network(PLAIN, "module._orig_mod."), PLAIN, "module._orig_mod.", ""),
    "fsdp": (network(PLAIN, "_forward_module._orig_mod."), PLAIN, "_orig_mod.", ""),
    "inside names": (
        {
            n.replace(".0.", ".0._fsdp_wrapped_module."): v
            for n, v in network(1.0).items()
        },
        PLAIN,
        "_fsdp_wrapped_module.",
        "",
    ),
    "ema_pytorch": (
        _both("online_model.", "ema_model.") | COUNTERS,
        AVERAGE,
        "ema_model.",
        "online_model.",
    ),
    "inside the trainer": (
        _both("online_model.model.", "ema_model.model.") | COUNTERS,
        AVERAGE,
        "ema_model.model.",
        "online_model.model.",
    ),
    "lightning": (_both("net.", "ema."), AVERAGE, "ema.", "net."),
    "camel case": (_both("model.", "modelEMA."), AVERAGE, "modelEMA.", "model."),
    "swa": (
        _both("model.", "ema_model.module.") | COUNTED,
        AVERAGE,
        "ema_model.module.",
        "model.",
    ),
    "beside": (_both("", "ema."), AVERAGE, "ema.", "non_ema"),
    "without dots": (
        IMAGES,
        AVERAGE,
        "model_ema.diffusion_model.",
        "model.diffusion_mod",
    ),
    "first stage without dots": (
        network(PLAIN, names=STAGE) | _flat("", "model_ema.", STAGE),
        AVERAGE,
        "model_ema.",
        "non_ema",
    ),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_network_is_found_and_told(case, inside, tmp_path):
    tensors, value, prefix, also = CASES[case]
    path = tmp_path / "file"
    if inside:
        path.write_bytes(zip_file({"epoch": 3, "state_dict": ordered(tensors)}))
    else:
        save_file(tensors, path)
    opened = open_checkpoint(path)
    found, notes = find_network(opened, {})
    expected = STAGE if "stage" in case else NAMES
    assert sorted(found.tensors) == sorted(expected)
    assert all((t.read() == value).all() for t in found.tensors.values())
    said = "\n".join(notes)
    assert f"prefix taken off the names of the tensors: {prefix}" in said or (
        f"{prefix}\n" in f"{said}\n"
    )
    assert also in said and ("averaged" in said) == (
        value == AVERAGE or "ema" in prefix
    )
    # What was taken has a name, by which it is taken again.
    again, _ = find_network(open_checkpoint(path, found.container), {})
    assert {n: t.read()[0] for n, t in again.tensors.items()} == dict.fromkeys(
        expected, value
    )


@pytest.mark.parametrize(
    "case", [name for name, (_, value, *_) in CASES.items() if value == AVERAGE]
)
def test_the_other_network_is_taken_by_its_name(case, tmp_path):
    tensors, _, _, also = CASES[case]
    save_file(tensors, tmp_path / "file")
    _, notes = find_network(open_checkpoint(tmp_path / "file"), {})
    name = notes[0].rpartition("--container: ")[2].strip("'")
    assert name.startswith(f".:{also}")
    found, notes = find_network(open_checkpoint(tmp_path / "file", name), {})
    expected = STAGE if "stage" in case else NAMES
    assert sorted(found.tensors) == sorted(expected)
    assert all((t.read() == PLAIN).all() for t in found.tensors.values())
    assert "averaged" not in "".join(notes)


@pytest.mark.parametrize(
    ("tensors", "labels"),
    [
        (_both("student.", "teacher."), ".:student., .:teacher."),
        (_both("ema_fast.", "ema_slow."), ".:ema_fast., .:ema_slow."),
    ],
)
def test_of_several_networks_none_is_taken_silently(tensors, labels, tmp_path):
    save_file(tensors, tmp_path / "file")
    with pytest.raises(ConfigError, match=f"several networks.*--container: {labels}"):
        find_network(open_checkpoint(tmp_path / "file"), {})
    label = labels.split(", ")[1]
    found, _ = find_network(open_checkpoint(tmp_path / "file", label), {})
    assert all((t.read() == AVERAGE).all() for t in found.tensors.values())


@pytest.mark.parametrize(
    ("plain", "average"),
    [("model", "ema"), ("state_dict", "modelEMA"), ("net", "model_ema")],
)
def test_averages_in_a_state_dict_of_their_own_are_told(plain, average, tmp_path):
    both = {plain: network(PLAIN, "net."), average: network(AVERAGE, "net.")}
    (tmp_path / "file").write_bytes(zip_file(both | {"optimizer": {"state": {}}}))
    found, notes = find_network(open_checkpoint(tmp_path / "file"), {})
    assert found.container == f"{average}:net."
    assert all((t.read() == AVERAGE).all() for t in found.tensors.values())
    assert f"averaged weights {average}:net.; also there" in notes[0]
    assert f"--container: '{plain}'" in notes[0]
    found, notes = find_network(open_checkpoint(tmp_path / "file", plain), {})
    assert all((t.read() == PLAIN).all() for t in found.tensors.values())
    assert f"taken: weights {plain}:net." in notes[0] and average in notes[0]


def test_averages_in_the_place_of_the_model_are_told(tmp_path):
    """As the callback WeightAveraging of lightning writes them."""
    state = {
        "state_dict": network(AVERAGE, "net."),
        "current_model_state": network(PLAIN, "net."),
        "averaging_state": {"n_averaged": np.array(3)},
    }
    (tmp_path / "file").write_bytes(zip_file(state | {"epoch": 2, "loops": {}}))
    found, notes = find_network(open_checkpoint(tmp_path / "file"), {})
    assert all((t.read() == AVERAGE).all() for t in found.tensors.values())
    assert "averaged weights state_dict:net." in notes[0]
    assert "'current_model_state'" in notes[0]


def test_what_is_plain_in_a_state_dict_of_averages_is_not_called_averaged(tmp_path):
    inside = _both("online_model.model.", "ema_model.model.") | COUNTERS
    both = {"model": ordered(network(PLAIN, "model.")), "ema": ordered(inside)}
    (tmp_path / "file").write_bytes(zip_file(both))
    opened = open_checkpoint(tmp_path / "file")
    found, notes = find_network(opened, {})
    assert "averaged weights ema:ema_model.model." in notes[0]
    assert "'ema:online_model.model.', 'model'" in notes[0]
    found, notes = find_network(opened.select("ema:online_model."), {})
    assert all((t.read() == PLAIN).all() for t in found.tensors.values())
    assert "taken: weights ema:online_model.model." in notes[0]


def test_averages_alone_are_told(tmp_path):
    counted = {"n_averaged": np.array(3)} | network(AVERAGE, "module.")
    save_file(counted, tmp_path / "file")
    _, notes = find_network(open_checkpoint(tmp_path / "file"), {})
    assert "taken: averaged weights ." in notes


def test_averages_of_another_network_are_not_taken(tmp_path):
    """Of a whole latent diffusion model the first stage is converted."""
    whole = IMAGES | network(PLAIN, "first_stage_model.", STAGE)
    save_file(whole, tmp_path / "file")
    opened = open_checkpoint(tmp_path / "file")
    found, _ = find_network(opened, {})
    assert found.container == "." and set(found.tensors) == set(whole)
    with pytest.raises(ConfigError, match="U-Net of a latent diffusion"):
        find_network(opened.select(".:model.diffusion_model."), {})


def test_a_u_net_beside_its_autoencoder_is_no_prior_of_images(tmp_path):
    both = network(PLAIN, "unet.") | network(PLAIN, "vae.", STAGE)
    save_file(both, tmp_path / "file")
    for container in (None, ".:unet."):
        opened = open_checkpoint(tmp_path / "file", container)
        with pytest.raises(
            ConfigError, match=r"prior of latents.*--container \.:vae\."
        ):
            find_network(opened, {})
    pipeline = {"pipeline": {"vae": ["diffusers", "AutoencoderKL"]}}
    assert find_network(opened, pipeline).checkpoint.container == ".:unet."
    stage, _ = find_network(open_checkpoint(tmp_path / "file", ".:vae."), {})
    assert set(stage.tensors) == set(STAGE)


def test_names_that_lose_their_dots_in_two_ways_are_not_guessed(tmp_path):
    names = [*NAMES, "mid_block.ab.c", "mid_block.a.bc"]
    save_file(
        network(PLAIN, "model.", names)
        | network(AVERAGE, "model_ema.", NAMES, flat=True),
        tmp_path / "file",
    )
    found, notes = find_network(open_checkpoint(tmp_path / "file"), {})
    assert found.container == ".:model."
    assert "left out: " in notes[-1] and "model_ema" in notes[-1]


class _Passes(dict):
    """A dictionary that counts how often all of it is looked at."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()

    def items(self):
        self.passes += 1
        return super().items()


@pytest.mark.parametrize("letters", ["p", "abcdefgh"])
def test_many_groups_of_averages_take_no_more_passes_than_few(letters, tmp_path):
    names = [f"m{i}.ema.{letter}" for i in range(500) for letter in letters]
    save_file(dict.fromkeys(names, np.zeros(1)), tmp_path / "file")
    tensors = open_checkpoint(tmp_path / "file").tensors
    for some in (names[: 10 * len(letters)], names):
        counted = _Passes({name: tensors[name] for name in some})
        dotted(counted)
        assert without_averages(counted) == {} and counted.passes < 8


def test_many_modules_that_fit_no_averages_are_refused_in_time(tmp_path):
    """Each group has names of every module, and shapes of its own."""
    some = range(400)
    tensors = {f"m{i}.{c}": np.zeros(1, np.int8) for i in some for c in "abcdefgh"}
    tensors |= {
        f"m{i}.ema.{c}": np.zeros(i + 2, np.int8) for i in some for c in "abcdefgh"
    }
    save_file(tensors, tmp_path / "file")
    with pytest.raises(CheckpointError, match="more operations to read"):
        find_network(open_checkpoint(tmp_path / "file"), {})


def test_a_conversion_says_and_records_what_was_taken(tmp_path, capsys):
    shapes = _names()
    tensors = {f"ema.net.{n}": np.ones(s, np.float32) for n, s in shapes.items()}
    tensors |= {f"net.{n}": np.zeros(s, np.float32) for n, s in shapes.items()}
    save_file(tensors, tmp_path / "file.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    file, out = str(tmp_path / "file.safetensors"), tmp_path / "out"
    assert main([file, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    line = "taken: averaged weights .:ema.net.; also there, for --container: '.:net.'"
    assert line in said
    assert line in json.loads((out / "model.json").read_text())["source"]["notes"]
    assert main(["inspect", file]) == 0
    assert line in capsys.readouterr().out


def _schedule_file(tmp_path, betas, name="betas"):
    shapes = _names()
    tensors = {f"denoise_fn.{n}": np.ones(s, np.float32) for n, s in shapes.items()}
    save_file(tensors | {name: betas}, tmp_path / "file.safetensors")
    settings = CONFIG | {"scheduler": {"num_train_timesteps": 100}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return str(tmp_path / "file.safetensors")


@pytest.mark.parametrize(
    ("betas", "found"),
    [
        (np.linspace(1e-4, 2e-2, 100), None),
        (np.linspace(1e-4, 2e-2, 100, dtype=np.float32), None),
        (np.linspace(1e-4, 3e-2, 100), "100 from 0.0001 to 0.03"),
        (np.linspace(1e-4, 2e-2, 50), "50 from 0.0001 to 0.02"),
        (np.full(100, np.nan), "100 from nan to nan"),
        (np.linspace(0.9, 0.99, 11), "11 from 0.9 to 0.99"),
        (np.array([0.9, 0.999]), None),  # of an optimiser
        (np.zeros(0), None),
    ],
)
def test_the_schedule_of_the_file_is_compared(betas, found, tmp_path, capsys):
    file = _schedule_file(tmp_path, betas)
    assert main([file, "--out", str(tmp_path / "o"), "--dry-run"]) == (
        2 if found else 0
    )
    said = capsys.readouterr().err
    assert not found or f"the file's own betas are {found}; the settings make" in said


@pytest.mark.parametrize(
    ("name", "compared"),
    [("betas", True), ("superres.betas", False), ("denoise_fn2.betas", False)],
)
def test_the_schedule_of_another_network_is_not_compared(
    name, compared, tmp_path, capsys
):
    file = _schedule_file(tmp_path, np.linspace(1e-3, 0.5, 100), name)
    command = [file, "--container", ".:denoise_fn.", "--dry-run"]
    assert main(command) == (2 if compared else 0)
    assert ("file's own betas" in capsys.readouterr().err) == compared


def test_nameless_averages_of_a_callback_are_named_by_the_model_of_the_file(tmp_path):
    model = network(PLAIN, "net.")
    shadow = list(network(AVERAGE).values())
    callbacks = {"EMA{'decay': 0.99}": {"decay": 0.99, "shadow_params": shadow}}
    data = zip_file({"callbacks": callbacks, "state_dict": ordered(model)})
    (tmp_path / "last.ckpt").write_bytes(data)
    opened = open_checkpoint(tmp_path / "last.ckpt")
    found, notes = find_network(opened, {})
    assert found.container == "callbacks/EMA{'decay': 0.99}:net."
    assert all((t.read() == AVERAGE).all() for t in found.tensors.values())
    assert "averaged weights" in notes[0] and "'state_dict'" in notes[0]
    again, _ = find_network(open_checkpoint(opened.path, found.container), {})
    assert again.container == found.container


def test_averages_that_no_model_fits_are_told(tmp_path):
    lists = {"ema": [np.ones(3)] * 9, "ema_losses": [np.array(0.5)]}
    data = zip_file({"model": ordered(network(PLAIN, "net.")), **lists})
    (tmp_path / "file").write_bytes(data)
    found, notes = find_network(open_checkpoint(tmp_path / "file"), {})
    assert found.container == "model:net."
    lines = [note for note in notes if note.startswith("not taken: ")]
    assert len(lines) == 1 and lines[0].startswith("not taken: 'ema', which holds")


@pytest.mark.parametrize("prefix", ["", "net."])
def test_a_network_beside_a_larger_stranger_is_named(prefix, tmp_path):
    stranger = {f"convs.{i}.weight": np.ones(900) for i in range(9)}
    model = network(PLAIN, prefix)
    data = zip_file({"model": ordered(model), "discriminator": ordered(stranger)})
    (tmp_path / "file").write_bytes(data)
    opened = open_checkpoint(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"discriminator of .*--container: 'model'"):
        find_network(opened, {})
    found, _ = find_network(opened.select("model"), {})
    assert set(found.tensors) == set(NAMES)
    (tmp_path / "file").write_bytes(zip_file({"a": stranger, "b": stranger}))
    opened = open_checkpoint(tmp_path / "file")
    assert find_network(opened, {}).checkpoint is opened


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("unet.down.0.lora_A.weight", "LoRA.*fuse_lora"),
        ("transformer_blocks.0.norm.weight", "transformer"),
        ("quantize.embedding.weight", "VQ"),
        ("text_model.final.weight", "text encoder"),
    ],
)
def test_other_networks_are_told_by_what_they_are(name, what, tmp_path, capsys):
    save_file({name: np.ones(2)}, tmp_path / "file.safetensors")
    assert main([str(tmp_path / "file.safetensors"), "--out", str(tmp_path / "o")]) == 2
    assert re.search(f"They are of .*{what}", capsys.readouterr().err)
