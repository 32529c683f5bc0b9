"""Which file of a folder is taken for what: pipelines, averages, parts of a file."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffctl.priors import LatentDiffusionPrior, NetworkPrior
from tests.weights_convert.test_diffusers import CONFIG, _names
from tests.weights_convert.test_latent import Tensor
from weights_convert import export
from weights_convert.cli import main
from weights_convert.convert import prepare
from weights_convert.families import FAMILIES
from weights_convert.families.base import ConfigError
from weights_convert.inputs import locate
from weights_convert.mapping import MappingError
from weights_convert.readers.averages import named_by
from weights_convert.readers.checkpoint import Container
from weights_convert.readers.containers import checkpoint_of
from weights_convert.readers.machine import Budget
from weights_convert.readers.tensors import LazyTensor

STAGE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
    "latent_channels": 3,
    "sample_size": 32,
    "shift_factor": 0.25,
}
INDEX = {
    "_class_name": "LDMPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def _write(folder, tensors, config):
    folder.mkdir(parents=True)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def _drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {n: (0.1 * rng.normal(size=s)).astype(np.float32) for n, s in shapes.items()}


def _stage_tensors():
    from diffctl.nets import Architecture

    levels = [
        {"width": 8, "blocks": 1, "resample": "corner"},
        {"width": 8, "blocks": 1, "resample": None},
    ]
    architecture = Architecture.of(
        "autoencoder_kl", channels=[3, 8, 3, 3], levels=levels, groups=4
    )
    leaves, structure = jax.tree.flatten(architecture.abstract())
    rng = np.random.default_rng(1)
    drawn = [rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    net = jax.tree.unflatten(structure, drawn)
    found = export.tensors(net, architecture, FAMILIES["autoencoder-kl"])
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


@pytest.fixture
def pipeline(tmp_path):
    folder = tmp_path / "pipeline"
    unet = {key: value for key, value in CONFIG.items() if key != "scheduler"}
    unet |= {"num_class_embeds": None}
    shapes = {n: s for n, s in _names().items() if "class_embedding" not in n}
    _write(folder / "unet", _drawn(shapes), unet)
    _write(folder / "vae", _stage_tensors(), STAGE)
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    return folder


@pytest.mark.parametrize("part", ["", "unet"])
def test_the_u_net_of_a_latent_pipeline_is_a_prior_of_latents(
    pipeline, tmp_path, part, capsys
):
    unet, stage = tmp_path / "out_unet", tmp_path / "out_vae"
    assert main([str(pipeline / part), "--out", str(unet)]) == 0
    assert "latents of 16 x 16 x 3" in capsys.readouterr().out
    assert main([str(pipeline / "vae"), "--out", str(stage)]) == 0
    with pytest.raises(ValueError, match="'latent diffusion prior'"):
        NetworkPrior.restore(unet)
    prior = LatentDiffusionPrior.restore(unet, stage)
    assert prior.latent.shape == (16, 16, 3) and prior.shape == (32, 32, 3)
    assert prior.autoencoder.shift == 0.25
    x = jax.eval_shape(prior.decode, jax.ShapeDtypeStruct((16, 16, 3), jnp.float32))
    assert x.shape == (32, 32, 3)


def test_latents_that_cannot_be_decoded_are_refused_by_name(pipeline, capsys):
    index = INDEX | {"vqvae": ["diffusers", "VQModel"]}
    del index["vae"]
    (pipeline / "model_index.json").write_text(json.dumps(index))
    assert main([str(pipeline), "--out", "never"]) == 2
    message = capsys.readouterr().err
    assert "LDMPipeline" in message and "VQModel in vqvae/" in message


def test_pipelines_of_images_are_what_they_were(pipeline):
    index = {name: part for name, part in INDEX.items() if name != "vae"}
    (pipeline / "model_index.json").write_text(json.dumps(index))
    found = locate(pipeline)
    assert found.config["pipeline"] == index
    assert FAMILIES["diffusers"].declared.check(found.config) is None


def test_averages_in_a_folder_beside_come_first(pipeline):
    averaged = pipeline / "unet_ema"
    _write(averaged, _drawn({"conv_in.weight": (2,)}), {"decay": 0.9999})
    assert locate(pipeline).file.parent == averaged
    assert locate(pipeline / "unet").file.parent == pipeline / "unet"


def _lazy(value):
    from tests.weights_convert.fixture_networks import FOLDERS, files
    from weights_convert.readers import open_checkpoint

    tensors = open_checkpoint(files(FOLDERS[0])[0]).tensors
    return list(tensors.values())[:value]


@pytest.mark.parametrize(
    "order", [("model", "shadow_params"), ("shadow_params", "model")]
)
@pytest.mark.parametrize("inside", [False, True])
def test_averages_beside_a_model_are_not_passed_over(tmp_path, order, inside):
    tensors = _lazy(6)
    assert all(isinstance(tensor, LazyTensor) for tensor in tensors)
    shadow = {"shadow_params": list(tensors), "decay": 0.999}
    model = {f"layer{i}.weight": tensor for i, tensor in enumerate(tensors)}
    root = {"model": model, "weights": shadow} if inside else {"model": model} | shadow
    root = dict(sorted(root.items(), key=lambda item: item[0] != order[0]))
    found = checkpoint_of(tmp_path / "file.pt", "test", root)
    assert found.choices[found.container].averaged
    assert list(found.tensors) == list(model)


def test_averages_that_fit_no_model_are_not_passed_over_either(tmp_path):
    tensors = _lazy(6)
    model = {f"layer{i}.weight": tensor for i, tensor in enumerate(tensors[:5])}
    root = {"model": model, "shadow_params": tensors}
    with pytest.raises(ValueError, match=r"no state dict beside .*select another"):
        checkpoint_of(tmp_path / "file.pt", "test", root)
    chosen = checkpoint_of(tmp_path / "file.pt", "test", root, container="model")
    assert list(chosen.tensors) == list(model)
    unnamed = named_by(tensors, [Container(model)], Budget())
    assert unnamed.averaged and unnamed.problem


def test_the_denoiser_inside_a_latent_model_is_not_taken_for_an_image_prior(
    tmp_path, capsys
):
    names = ("time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight")
    whole = {f"model.diffusion_model.{name}": (2, 2) for name in names}
    whole |= {"first_stage_model.encoder.conv_in.weight": (2, 2)}
    save_file(_drawn(whole), tmp_path / "model.safetensors")
    arguments = [str(tmp_path / "model.safetensors"), "--out", "never"]
    assert main([*arguments, "--container", ".:model.diffusion_model."]) == 2
    assert "U-Net of a latent diffusion model" in capsys.readouterr().err


def _first_stage(extra):
    """A first stage of latent diffusion, and other tensors of its file."""
    from diffctl.nets import Architecture
    from tests.weights_convert.test_latent import _file

    levels = [{"width": 32, "blocks": 1}]
    architecture = Architecture.of(
        "autoencoder_kl", channels=[3, 32, 4, 5], levels=levels
    )
    net = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32), architecture.abstract()
    )
    return _file(net, architecture, 1) | extra


def test_the_scale_that_a_file_holds_is_compared():
    """Files of models with scale_by_std have it as a tensor."""
    file = {f"first_stage_model.{n}": t for n, t in _first_stage({}).items()}
    file |= {"scale_factor": Tensor(np.asarray(0.2277, np.float32))}
    right = {"resolution": 32, "scale_factor": 0.2277}
    assert prepare(file, right).plan.description["scaling_factor"] == 0.2277
    with pytest.raises(
        MappingError, match=r"scale_factor holds .*Correct scale_factor"
    ):
        prepare(file, {"resolution": 32})


def test_a_whole_file_of_settings_is_read_down_to_the_first_stage():
    stage = {"embed_dim": 5, "ddconfig": {"resolution": 32, "z_channels": 4, "ch": 32}}
    target = "ldm.models.autoencoder.AutoencoderKL"
    first = {"target": target, "params": stage | {"lossconfig": {}}}
    config = {"first_stage_config": first, "linear_start": 0.0015, "timesteps": 1000}
    whole = {"model": {"target": "ldm...LatentDiffusion", "params": config}, "data": {}}
    found = prepare(_first_stage({}), whole).plan
    # Latents of such a model are not scaled unless it says so.
    assert found.description["scaling_factor"] == 1.0
    first["params"]["ddconfig"]["z_channels"] = 7
    with pytest.raises(ConfigError, match="says z_channels = 7"):
        prepare(_first_stage({}), whole)
    first["target"] = "ldm.models.autoencoder.VQModelInterface"
    with pytest.raises(ConfigError, match="VQModelInterface"):
        prepare(_first_stage({}), whole)


def test_averages_of_a_first_stage_are_not_passed_over():
    extra = {"model_ema.encoderconv_inweight": Tensor(np.zeros(3, np.float32))}
    with pytest.raises(MappingError, match="model_ema"):
        prepare(_first_stage(extra), {"resolution": 32})
