"""Which weight file of a folder is taken, and how the user learns of the others."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.weights_convert.test_diffusers import CONFIG, _names
from weights_convert.cli import main
from weights_convert.families.base import ConfigError
from weights_convert.inputs import locate
from weights_convert.readers import open_checkpoint

D = "diffusion_pytorch_model"
PLAIN, FP16, BF16 = (f"{D}{v}.safetensors" for v in ("", ".fp16", ".bf16"))
OWN_INDEX, NEW_INDEX = (
    f"{D}.safetensors.index.fp16.json",
    f"{D}.fp16.safetensors.index.json",
)
RANDOM = "random_states_0.pkl"

# What lies in the folder, what is taken, what else is named.
CASES = {
    "plain": ([PLAIN], PLAIN, []),
    "half": ([FP16], FP16, []),
    "plain before half": ([FP16, PLAIN, BF16], PLAIN, [FP16, BF16]),
    "more digits": ([BF16, FP16], FP16, [BF16]),
    "old format, plain": ([FP16, f"{D}.bin"], f"{D}.bin", [FP16]),
    "non_ema": ([f"{D}.non_ema.safetensors", PLAIN], PLAIN, [f"{D}.non_ema.safet"]),
    "only non_ema": ([f"{D}.non_ema.bin"], f"{D}.non_ema.bin", []),
    "ema": ([f"{D}.ema.safetensors", PLAIN], f"{D}.ema.safetensors", [PLAIN]),
    "sharded half": (
        [OWN_INDEX, f"{D}.fp16-00001-of-00002.safetensors"],
        OWN_INDEX,
        [],
    ),
    "sharded half, other": ([NEW_INDEX, FP16], FP16, [NEW_INDEX]),
    "sharded": (
        [f"{D}.safetensors.index.json", OWN_INDEX],
        f"{D}.safetensors.index.json",
        [OWN_INDEX],
    ),
    "transformers": (
        ["pytorch_model.bin", "model.safetensors"],
        "model.safetensors",
        ["pytorch_model.bin"],
    ),
    "averages by any name": (
        ["model.safetensors", "model_ema.safetensors"],
        "model_ema.safetensors",
        ["model.safetensors"],
    ),
    "camel case": (["model.pt", "modelEMA.pt"], "modelEMA.pt", ["model.pt"]),
    "one of any name": (["net_g.pth", "optimizer.bin", RANDOM], "net_g.pth", []),
    "averages of any name": (["net.pth", "net_ema.pth"], "net_ema.pth", ["net.pth"]),
    "pipeline": (
        [f"unet/{PLAIN}", f"vae/{PLAIN}", "v1.ckpt"],
        f"unet/{PLAIN}",
        [f"vae/{PLAIN}"],
    ),
    "variant of a pipeline": (
        [f"unet/{FP16}", f"unet_ema/{FP16}"],
        f"unet_ema/{FP16}",
        [f"unet/{FP16}"],
    ),
    "checkpoint of a trainer": (
        [
            f"unet/{PLAIN}",
            f"unet_ema/{PLAIN}",
            "optimizer.bin",
            "scheduler.bin",
            RANDOM,
        ],
        f"unet_ema/{PLAIN}",
        [f"unet/{PLAIN}"],
    ),
    "accelerate": (
        ["model.safetensors", "optimizer.bin", "sampler.bin", RANDOM],
        "model.safetensors",
        [],
    ),
    "checkpoints": (
        [
            f"checkpoint-{n}/{u}/{PLAIN}"
            for n in (500, 1000)
            for u in ("unet", "unet_ema")
        ],
        f"checkpoint-1000/unet_ema/{PLAIN}",
        [f"checkpoint-1000/unet/{PLAIN}", f"checkpoint-500/unet_ema/{PLAIN}"],
    ),
    "finished training": (
        [f"unet/{PLAIN}", f"checkpoint-9/unet/{PLAIN}"],
        f"unet/{PLAIN}",
        [f"checkpoint-9/unet/{PLAIN}"],
    ),
}


def _make(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}")


@pytest.mark.parametrize("case", CASES)
def test_what_is_taken_and_told(case, tmp_path):
    names, taken, others = CASES[case]
    _make(tmp_path, names)
    found = locate(tmp_path)
    assert found.file == tmp_path / taken
    assert f"taken: {taken}" in found.notes[0]
    for other in others:
        assert other in found.notes[0]
    assert ("also there" in found.notes[0]) == bool(others)
    # Everything is chosen by its own path.
    for name in names:
        assert locate(tmp_path / name).file == tmp_path / name


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.pt", "b.pt"], "several weight files.*a.pt, b.pt.*Give the file itself"),
        (["ema_0.9_1.pt", "ema_0.9_2.pt"], "several weight files"),
    ],
)
def test_files_that_no_rule_tells_apart_are_not_chosen(names, message, tmp_path):
    _make(tmp_path, names)
    with pytest.raises(ConfigError, match=message):
        locate(tmp_path)


def test_pieces_without_their_index_are_told(tmp_path):
    _make(tmp_path, [f"{D}-00001-of-00002.safetensors"])
    with pytest.raises(FileNotFoundError, match=r"pieces .*no \*\.index\.json"):
        locate(tmp_path)


def test_weights_in_other_parts_are_told(tmp_path):
    _make(tmp_path, [f"transformer/{PLAIN}", "text_encoder/model.safetensors", "a/b"])
    with pytest.raises(
        FileNotFoundError, match="weights in text_encoder/, transformer/"
    ):
        locate(tmp_path)


def test_averages_beside_what_was_given_are_told(tmp_path):
    _make(tmp_path, [f"unet/{PLAIN}", f"unet_ema/{PLAIN}"])
    for given in ("unet", f"unet/{PLAIN}"):
        assert "averages" in locate(tmp_path / given).notes[-1]
    assert not locate(tmp_path / f"unet_ema/{PLAIN}").notes


def test_settings_of_the_training_around_a_checkpoint(tmp_path):
    for folder in ("checkpoint-7/unet_ema", "net/inner/unet"):
        _make(tmp_path, [f"{folder}/{PLAIN}", f"{folder}/config.json"])
    (tmp_path / "net" / "scheduler").mkdir()
    for place in (tmp_path, tmp_path / "net"):
        (place / "scheduler").mkdir(exist_ok=True)
        path = place / "scheduler" / "scheduler_config.json"
        path.write_text('{"beta_schedule": "linear"}')
    found = locate(tmp_path / "checkpoint-7")
    assert found.config["scheduler"] == {"beta_schedule": "linear"}
    assert "scheduler" not in locate(tmp_path / "net" / "inner").config


@pytest.mark.parametrize("index", [OWN_INDEX, NEW_INDEX])
def test_sharded_variants_are_converted_and_recorded(index, tmp_path, capsys):
    rng = np.random.default_rng(0)
    tensors = {n: rng.normal(size=s).astype("float16") for n, s in _names().items()}
    names, unet = sorted(tensors), tmp_path / "pipe" / "unet"
    unet.mkdir(parents=True)
    parts = {
        f"{D}.fp16-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)
    }
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, unet / file)
    places = {name: file for file, part in parts.items() for name in part}
    (unet / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (unet / "config.json").write_text(json.dumps(CONFIG))
    out = tmp_path / "out"
    assert main([str(unet.parent), "--out", str(out)]) == 0
    assert f"taken: unet/{index}" in capsys.readouterr().out
    description = json.loads((out / "model.json").read_text())
    assert description["dtype"] == "float16"
    assert f"taken: unet/{index}" in description["source"]["notes"]
    assert set(description["source"]["shards_sha256"]) == set(parts)
    opened = open_checkpoint(unet / index)
    assert all((t.read() == tensors[n]).all() for n, t in opened.tensors.items())
