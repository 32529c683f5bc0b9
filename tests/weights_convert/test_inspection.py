"""What `inspect` says of every setting: read, harmless and why, or not understood."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.weights_convert.test_diffusers import CONFIG, _names
from tests.weights_convert.test_settings import SECTIONS, _nested
from weights_convert.cli import main
from weights_convert.families import FAMILIES
from weights_convert.families.settings import (
    HARMLESS,
    READ,
    REFUSED,
    UNKNOWN,
    ConfigError,
)
from weights_convert.inspection import explain


def uses(family, config):
    return {place: use for place, _, use in explain(FAMILIES[family], config)}


@pytest.mark.parametrize(
    ("family", "place"),
    [(family, place) for family in FAMILIES for place in SECTIONS[family]],
)
def test_every_declared_setting_has_a_use_in_every_section(family, place):
    declared = FAMILIES[family].declared
    if place and place[0] in declared.sections:
        declared = declared.sections[place[0]]({})
    reasons = {n: reason for reason, group in declared.harmless.items() for n in group}
    settings = dict.fromkeys(declared.names - set(declared.sections))
    if "first_stage_config" in place:  # the model around it has one of its own
        settings.pop("scale_factor")
    settings |= {name: only.values[0] for name, only in declared.only.items()}
    found = uses(family, _nested(place, settings | {"sharpness": 3}))
    before = "".join(f"{part}." for part in place)
    for name in settings:
        use = found[f"{before}{name}"]
        expected = (HARMLESS, reasons[name]) if name in reasons else (READ, use.reason)
        assert tuple(use) == expected
    unknown = found[f"{before}sharpness"]
    assert unknown.kind == UNKNOWN and "sharpness = 3 is not known" in unknown.reason
    assert len(found) == len(settings) + 1


@pytest.mark.parametrize(
    ("family", "config", "place", "kind", "reason"),
    [
        ("diffusers", {"act_fn": "gelu"}, "act_fn", REFUSED, "only 'silu'"),
        ("diffusers", {"strange": None}, "strange", HARMLESS, "chooses nothing"),
        (
            "diffusers",
            {"scheduler": {"_class_name": "KarrasVeScheduler"}},
            "scheduler",
            REFUSED,
            "it would need a preconditioning",
        ),
        ("diffusers", {"scheduler": 3}, "scheduler", REFUSED, "must be the object"),
        (
            "diffusers",
            {"_class_name": "UNet2DModel", "scheduler": {"clip_sample": True}},
            "scheduler.clip_sample",
            HARMLESS,
            "sampler",
        ),
        ("edm", {"init_kwargs": 3}, ".", REFUSED, "must be an object"),
        (
            "ddpm",
            {"data": {"channels": 1}, "model": {"ch": 8}, "channels": 3},
            "data.channels",
            HARMLESS,
            "another place",
        ),
        (
            "guided-diffusion",
            {"unet_model": {"channel_mult": "1,2"}},
            "unet_model.channel_mult",
            READ,
            "",
        ),
    ],
)
def test_single_settings(family, config, place, kind, reason):
    use = uses(family, config)[place]
    assert use.kind == kind and reason in use.reason


def _inspected(folder, capsys, *arguments):
    assert main(["inspect", str(folder), *arguments]) == 0
    return capsys.readouterr().out


def test_settings_of_a_folder_are_listed(tmp_path, capsys):
    pipe = tmp_path / "pipe"
    (pipe / "unet").mkdir(parents=True)
    (pipe / "scheduler").mkdir()
    tensors = {name: np.zeros(shape, np.float32) for name, shape in _names().items()}
    save_file(tensors, pipe / "unet" / "diffusion_pytorch_model.safetensors")
    own = {k: v for k, v in CONFIG.items() if k != "scheduler"} | {"dropout": 0.1}
    (pipe / "unet" / "config.json").write_text(json.dumps(own | {"odd": [1]}))
    scheduler = pipe / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({"beta_end": 0.02, "steps_offset": 1, "what": 2}))
    lines = _inspected(pipe, capsys).splitlines()

    def line(start):
        (found,) = [x for x in lines if x.startswith(f"│ {start} ")]
        return found

    assert "read" in line("sample_size") and "16" in line("sample_size")
    assert "training only" in line("dropout")
    assert "not understood" in line("odd")
    assert "read" in line("scheduler.beta_end")
    assert "sampler" in line("scheduler.steps_offset")
    assert "not understood" in line("scheduler.what")
    assert any("to convert it: UNet2DModel: the setting odd" in text for text in lines)
    given = tmp_path / "mine.json"
    given.write_text(json.dumps(own))
    assert "odd" not in _inspected(pipe, capsys, "--config", str(given))


def test_settings_that_nobody_reads_are_listed_too(tmp_path, capsys):
    save_file({"a.b": np.zeros(2, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"width": 3}')
    said = _inspected(tmp_path, capsys)
    assert "none that can be converted" in said
    assert "width" in said and "not understood" in said


def test_names_of_settings_are_safe_to_print(tmp_path, capsys):
    save_file({"a.b": np.zeros(2, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"a\\u001b[31mb": 3}')
    assert "\x1b" not in _inspected(tmp_path, capsys)
    with pytest.raises(ConfigError, match=r"setting 'a\\x1b\[31mb' = 3 is not known"):
        FAMILIES["digits"].declared.check({"a\x1b[31mb": 3})
