"""Which weight file of a folder is taken, and how the user learns of the others."""

import json
import pickle

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from tests.weights_convert.readers.files import zip_file
from tests.weights_convert.readers.onnx_files import onnx_file
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
    "denied": (["model.pt", "model_non_ema.pt"], "model.pt", ["model_non_ema.pt"]),
    "decay and step": (
        ["model.pt", "model_ema_0.9999_100.fp16.pt"],
        "model_ema_0.9999_100.fp16.pt",
        ["model.pt"],
    ),
    "averages of more digits": (
        ["model.ema.fp16.safetensors", "model.ema.safetensors"],
        "model.ema.safetensors",
        ["model.ema.fp16.safetensors"],
    ),
    "usual before a step": (["model.a.pt", "model.pt"], "model.pt", ["model.a.pt"]),
    "variant in two formats": (
        ["model.v1.pt", "model.v1.bin"],
        "model.v1.bin",
        ["model.v1.pt"],
    ),
    "averages at the top": ([f"unet/{PLAIN}", "ema.pt"], f"unet/{PLAIN}", ["ema.pt"]),
    "statistics at the top": (
        ["model.fid_ema_stats.pt", f"unet/{PLAIN}"],
        f"unet/{PLAIN}",
        ["model.fid_ema_stats.pt"],
    ),
    "ONNX": (["model.onnx"], "model.onnx", []),
    "ONNX of a pipeline": (
        ["unet/model.onnx", "text_encoder/model.onnx"],
        "unet/model.onnx",
        [],
    ),
    "ONNX last": (["model.onnx", FP16], FP16, ["model.onnx"]),
    "ONNX last of all parts": (
        ["model.onnx", f"unet/{PLAIN}"],
        f"unet/{PLAIN}",
        ["model.onnx"],
    ),
    "ONNX beside another name": (
        ["model.onnx", "net.pth"],
        "net.pth",
        ["model.onnx"],
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
        (["model.step9.bin", "model.step10.bin"], "model.step10.bin, model.step9.bin"),
        ([f"unet/{D}.v1.bin", f"unet/{D}.v2.bin"], f"unet/{D}.v1.*unet/{D}.v2.bin"),
        (
            ["model.pt", "model_ema1.pt", "model_ema2.pt"],
            "model_ema1.pt, model_ema2.pt",
        ),
        (["model.onnx", "a.pt", "b.pt"], "a.pt, b.pt"),
    ],
)
def test_files_that_no_rule_tells_apart_are_not_chosen(names, message, tmp_path):
    _make(tmp_path, names)
    with pytest.raises(ConfigError, match=message):
        locate(tmp_path)


NETWORK = {"conv.weight": np.ones((2, 3), "float32"), "out.bias": np.ones(4, "float32")}
OTHER = {"conv.weight": np.ones((2, 5), "float32"), "out.bias": np.ones(4, "float32")}
TORCH_EMA = {"decay": 0.9, "num_updates": 3, "collected_params": None}
UNRELATED = {  # names that speak of averages, and files that hold no such network
    "ema.pt": zip_file(TORCH_EMA | {"shadow_params": list(NETWORK.values())}),
    "vae_ema.safetensors": save(OTHER),
    "average_stats.pkl": pickle.dumps({"mu": 1.0}),
    "fid_ema_stats.pt": zip_file({"mu": np.ones(3, "float32")}),
    "model.fid_ema_stats.pt": zip_file({"mu": np.ones(3, "float32")}),
    "ema_decay.pt": zip_file(0.9),
    "swa.bin": b"",
    "shadow.pth": zip_file({"out.bias": NETWORK["out.bias"]}),
}
SAME = {
    "ema.pt": zip_file(NETWORK),
    "swa.pt": zip_file({"swa": {f"module.{n}": a for n, a in NETWORK.items()}}),
    "average.safetensors": save({f"net.ema.{n}": a for n, a in NETWORK.items()}),
}


@pytest.mark.parametrize("part", ["", "unet/", "checkpoint-3/unet/"])
@pytest.mark.parametrize("name", UNRELATED)
def test_names_alone_do_not_make_averages_of_a_network(name, part, tmp_path):
    _make(tmp_path, [f"{part}{PLAIN}"])
    save_file(NETWORK, tmp_path / part / PLAIN)
    (tmp_path / part / name).write_bytes(UNRELATED[name])
    found = locate(tmp_path)
    assert found.file == tmp_path / part / PLAIN
    assert f"also there: {part}{name}" in found.notes[0]


@pytest.mark.parametrize("usual", [PLAIN, "net.safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", SAME)
def test_averages_of_any_name_are_told_by_their_tensors(name, prefix, usual, tmp_path):
    save_file({f"{prefix}{n}": a for n, a in NETWORK.items()}, tmp_path / usual)
    (tmp_path / name).write_bytes(SAME[name])
    (tmp_path / "fid_ema_stats.pkl").write_bytes(UNRELATED["average_stats.pkl"])
    found = locate(tmp_path)
    assert found.file == tmp_path / name
    assert usual in found.notes[0] and "fid_ema_stats.pkl" in found.notes[0]


def test_where_no_name_is_usual_the_only_checkpoint_is_taken(tmp_path):
    save_file(NETWORK, tmp_path / "net.safetensors")
    (tmp_path / "ema.pt").write_bytes(UNRELATED["ema.pt"])
    assert locate(tmp_path).file == tmp_path / "net.safetensors"
    (tmp_path / "vae_ema.safetensors").write_bytes(UNRELATED["vae_ema.safetensors"])
    with pytest.raises(ConfigError, match=r"ema.pt, net.*, vae_ema.safetensors"):
        locate(tmp_path)


def test_a_working_folder_stays_one_beside_a_state_of_averages(tmp_path, capsys):
    tensors = {n: np.zeros(s, "float32") for n, s in _names().items()}
    save_file(tensors, tmp_path / PLAIN)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "ema.pt").write_bytes(UNRELATED["ema.pt"])
    assert main([str(tmp_path), "--dry-run"]) == 0
    assert f"taken: {PLAIN}; also there: ema.pt" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["", "unet/"])
def test_a_folder_of_onnx_is_opened(part, tmp_path):
    _make(tmp_path, [f"{part}model.onnx"])
    (tmp_path / part / "model.onnx").write_bytes(onnx_file(NETWORK))
    opened = open_checkpoint(locate(tmp_path).file)
    assert opened.format == "ONNX" and set(opened.tensors) == set(NETWORK)


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_lora_weights.safetensors",
        "unet/pytorch_lora_weights.bin",
        "checkpoint-9/pytorch_lora_weights.safetensors",
        "adapter_model.safetensors",
    ],
)
def test_lora_weights_alone_are_no_network(name, tmp_path):
    _make(tmp_path, [name, "adapter_config.json"])
    with pytest.raises(FileNotFoundError, match=f"{name} only: LoRA.* no network"):
        locate(tmp_path)
    _make(tmp_path, ["net.pth"])
    assert locate(tmp_path).file == tmp_path / "net.pth"


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
