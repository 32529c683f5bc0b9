"""The small parts: names, folders, pictures, interrupted runs, descriptions."""

import contextlib
import json
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffctl.cli.compilation import keep_compiled_programs
from diffctl.cli.images import Expected, check_shape, read_image
from diffctl.cli.manifest import describe, versions
from diffctl.cli.names import lookup
from diffctl.cli.timing import timed
from diffctl.cli.unfinished import Unfinished
from diffctl.diffusion import geometric
from diffctl.host import claimed
from diffctl.solvers import DPS
from tests.tolerances import EXACT32


def test_unknown_names_are_answered_with_the_nearest():
    table = {"box_inpainting": 1, "gaussian_deblurring": 2}
    assert lookup("task", "box_inpainting", table) == 1
    with pytest.raises(ValueError, match="did you mean 'gaussian_deblurring'"):
        lookup("task", "gausian_deblur", table)


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
        check_shape(tmp_path / "a.png", (3, 3, 3), Expected((4, 5, 1), "the prior"))


@contextlib.contextmanager
def begun(out, settings, *, resume=False, overwrite=False):
    """Open a run of `settings` as the commands do."""
    with (
        claimed(out, overwrite=overwrite) as place,
        Unfinished.open(place, settings, resume=resume) as run,
    ):
        yield run


def test_an_interrupted_run_goes_on_only_with_its_settings(tmp_path):
    out, settings, like = tmp_path / "out", {"seed": 1, "sizes": (1, 2)}, jnp.zeros(3)
    with begun(out, settings) as run:
        assert run.restore(like) is None
        run.save(jnp.arange(3.0))
    with pytest.raises(FileExistsError, match="--resume"), begun(out, settings):
        pass
    with (
        pytest.raises(ValueError, match="seed was 1, now 2"),
        begun(out, settings | {"seed": 2}, resume=True),
    ):
        pass
    with begun(out, settings, resume=True) as again:
        chex.assert_trees_all_equal(again.restore(like), jnp.arange(3.0))
    with begun(out, settings, overwrite=True) as anew:
        assert anew.restore(like) is None
    assert list(tmp_path.iterdir()) == [], "without a checkpoint nothing is kept"


def test_a_checkpoint_without_settings_is_continued_by_nobody(tmp_path):
    out, like, said = tmp_path / "out", jnp.zeros(3), []
    for resume in (False, True):
        with begun(out, {"seed": 1}) as run:
            run.save(jnp.ones(3))
        (run.folder / "settings.json").unlink()
        with claimed(out, overwrite=False, say=said.append) as place:
            opened = Unfinished.open(place, {"seed": 9}, resume=resume)
            with opened as run:
                assert not run.is_saved()
                assert run.restore(like) is None
        assert "starts anew" in said.pop()


def test_a_checkpoint_of_other_settings_is_refused_by_its_own_digest(tmp_path):
    out = tmp_path / "out"
    with begun(out, {"seed": 1}) as run:
        run.save(jnp.ones(3))
    path = run.folder / "settings.json"
    path.write_text(path.read_text().replace("1", "9"))
    with (
        pytest.raises(ValueError, match="of a run with other settings"),
        begun(out, {"seed": 9}, resume=True) as run,
    ):
        run.restore(jnp.zeros(3))
    assert run.is_saved()


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_damaged_settings_are_told_with_the_cure(tmp_path, text):
    out = tmp_path / "out"
    with begun(out, {"seed": 1}) as run:
        run.save(jnp.ones(3))
    (run.folder / "settings.json").write_text(text)
    with (
        pytest.raises(ValueError, match=r"settings\.json.*--overwrite"),
        begun(out, {"seed": 1}, resume=True),
    ):
        pass
    with begun(out, {"seed": 1}, overwrite=True) as run:
        assert run.restore(jnp.zeros(3)) is None


def test_a_users_file_beside_a_checkpoint_is_not_deleted(tmp_path):
    out = tmp_path / "out"
    with begun(out, {"seed": 1}) as run:
        run.save(jnp.ones(3))
        (run.folder / "notes.txt").write_text("mine")
        run.remove()
    assert [path.name for path in run.folder.iterdir()] == ["notes.txt"]
    with begun(out, {"seed": 1}) as run:
        assert not run.is_saved()
    run.folder.joinpath("notes.txt").unlink()
    run.folder.rmdir()
    run.folder.write_text("a file")
    with pytest.raises(NotADirectoryError, match="Move it"), begun(out, {}):
        pass


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
