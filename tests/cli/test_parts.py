"""The small parts: names, folders, pictures, interrupted runs, descriptions."""

import json
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffctl.cli.compilation import keep_compiled_programs
from diffctl.cli.folders import check_free, first_free, new_folder
from diffctl.cli.images import check_shape, read_image
from diffctl.cli.manifest import describe, versions
from diffctl.cli.names import lookup
from diffctl.cli.timing import timed
from diffctl.cli.unfinished import Unfinished
from diffctl.cli.worker import abandoned, interruptible
from diffctl.diffusion import geometric
from diffctl.solvers import DPS
from tests.tolerances import EXACT32


def test_unknown_names_are_answered_with_the_nearest():
    table = {"box_inpainting": 1, "gaussian_deblurring": 2}
    assert lookup("task", "box_inpainting", table) == 1
    with pytest.raises(ValueError, match="did you mean 'gaussian_deblurring'"):
        lookup("task", "gausian_deblur", table)


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), new_folder(out, overwrite=False) as folder:
        (folder / "half").write_text("")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_folder(out, overwrite=False) as folder:
        (folder / "results.json").write_text("{}")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["results.json"]


def test_only_our_own_output_is_overwritten(tmp_path):
    ours, foreign = tmp_path / "ours", tmp_path / "foreign"
    for folder, name in ((ours, "manifest.json"), (foreign, "thesis.tex")):
        folder.mkdir()
        check_free(folder, overwrite=False)
        (folder / name).write_text("")
    with pytest.raises(FileExistsError, match="--overwrite"):
        check_free(ours, overwrite=False)
    check_free(ours, overwrite=True)
    with pytest.raises(FileExistsError, match="not written by diffctl"):
        check_free(foreign, overwrite=True)
    with new_folder(ours, overwrite=True) as folder:
        (folder / "new").write_text("")
    assert [path.name for path in ours.iterdir()] == ["new"]


def test_the_default_folder_is_the_first_free_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(first_free("demo")) == "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").mkdir()
    assert str(first_free("demo")) == "demo-3"


@pytest.mark.parametrize(
    ("mode", "white", "channels"), [("L", 255, 1), ("RGB", 255, 3), ("I;16", 65535, 1)]
)
def test_pictures_become_arrays_from_minus_one_to_one(tmp_path, mode, white, channels):
    dtype = np.uint16 if mode == "I;16" else np.uint8
    pixels = np.array([[0, white], [white, 0]], dtype)
    if channels == 3:
        pixels = np.stack([pixels] * 3, axis=-1)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    expected = np.broadcast_to([[[-1.0], [1.0]], [[1.0], [-1.0]]], (2, 2, channels))
    chex.assert_trees_all_close(read_image(path), expected, **EXACT32)


def test_pictures_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        read_image(tmp_path / "nowhere.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="not a picture"):
        read_image(broken)
    alpha = tmp_path / "alpha.png"
    Image.new("RGBA", (2, 2)).save(alpha)
    with pytest.raises(ValueError, match="alpha channel"):
        read_image(alpha)
    whole = tmp_path / "whole.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:500])
    with pytest.raises(ValueError, match="cannot be read"):
        read_image(cut)


def test_wrong_shapes_are_answered_with_the_cure(tmp_path):
    with pytest.raises(ValueError, match="convert it to grey and resize it to 4x5"):
        check_shape(tmp_path / "a.png", np.zeros((3, 3, 3)), (4, 5, 1), "the prior")


def test_an_interrupted_run_goes_on_only_with_its_settings(tmp_path):
    out, settings = tmp_path / "out", {"seed": 1, "sizes": (1, 2)}
    run = Unfinished.start(out, settings, resume=False, overwrite=False)
    assert run.restore({"x": jnp.zeros(3)}) is None
    run.save({"x": jnp.arange(3.0)})
    with pytest.raises(FileExistsError, match="--resume"):
        Unfinished.start(out, settings, resume=False, overwrite=False)
    with pytest.raises(ValueError, match="seed was 1, now 2"):
        Unfinished.start(out, settings | {"seed": 2}, resume=True, overwrite=False)
    again = Unfinished.start(out, settings, resume=True, overwrite=False)
    restored = again.restore({"x": jnp.zeros(3)})
    chex.assert_trees_all_equal(restored, {"x": jnp.arange(3.0)})
    anew = Unfinished.start(out, settings, resume=False, overwrite=True)
    assert anew.restore({"x": jnp.zeros(3)}) is None
    anew.remove()
    assert not anew.folder.exists()


def test_solvers_are_described_as_json():
    solver = DPS(grid=geometric(3), guidance_scale=0.3)
    described = json.loads(
        json.dumps(describe({"solver": solver, "big": jnp.ones(99)}))
    )
    assert described["solver"]["type"] == "DPS"
    assert described["solver"]["guidance_scale"] == 0.3
    assert described["solver"]["cost"] == "residual_norm"
    assert len(described["solver"]["grid"]["sigma"]) == 4
    assert described["big"] == "float32[99]"
    assert versions()["jax"] == jax.__version__


def test_work_in_a_thread_returns_and_raises():
    assert interruptible(lambda: 3) == 3
    with pytest.raises(KeyError):
        interruptible(lambda: {}["nothing"])
    assert not abandoned()


def test_compilation_is_timed_apart():
    @jax.jit
    def slow_to_compile(x):
        return jax.lax.fori_loop(0, 3, lambda i, x: jnp.linalg.eigh(x + x.T)[1], x)

    first = timed(lambda: slow_to_compile(jnp.eye(5)))
    second = timed(lambda: slow_to_compile(jnp.eye(5)))
    assert first.compiling > 0.01
    assert second.compiling < first.compiling / 2
    before = time.perf_counter()
    nothing = timed(lambda: time.sleep(0.05))
    assert 0.04 < nothing.running <= time.perf_counter() - before


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(jax.config, "update", seen.__setitem__)
    keep_compiled_programs()
    assert seen == {}, "JAX_COMPILATION_CACHE_DIR is respected"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_compiled_programs()
    assert seen["jax_compilation_cache_dir"] == str(tmp_path / "diffctl" / "xla")
