"""Pictures of every kind: read rightly, doubted aloud, or refused with the cure."""

import io
import json
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from diffctl import assets
from diffctl.cli.images import Expected, looks_inverted, read_image, read_picture
from diffctl.report import to_png
from tests.tolerances import EXACT32

# As a camera stores it, what the viewer sees is this.
UPRIGHT = np.arange(2, 8, dtype=np.uint8).reshape(2, 3) * 30
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
}


def _levels(path):
    """Return the picture in the units of 8 bits."""
    return (read_image(path).astype(np.float64) + 1) * 127.5


@pytest.mark.parametrize("kind", ["L", "RGB", "I;16"])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_turned_upright(tmp_path, orientation, suffix, kind):
    path = tmp_path / f"turned.{suffix}"
    stored = np.ascontiguousarray(STORED[orientation])
    if kind == "I;16":
        stored = stored.astype(np.uint16) * 257
    picture = Image.fromarray(stored)
    picture = picture.convert("RGB") if kind == "RGB" else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)
    channels = 3 if kind == "RGB" else 1
    expected = np.repeat(UPRIGHT[..., None], channels, axis=-1)
    np.testing.assert_allclose(_levels(path), expected, atol=1e-3)


@pytest.mark.parametrize("orientation", [6, 1])
def test_photographs_are_turned_upright(tmp_path, orientation):
    ramp = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (16, 1))  # (16, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(ramp).save(tmp_path / "a.jpg", exif=exif, quality=100)
    expected = np.rot90(ramp, -1) if orientation == 6 else ramp
    assert np.abs(_levels(tmp_path / "a.jpg")[..., 0] - expected).max() < 4


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff", b"junk"])
def test_a_damaged_exif_block_does_not_matter(tmp_path, exif):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.full((4, 4), 200, np.uint8)).save(path, exif=exif)
    np.testing.assert_allclose(_levels(path), 200, atol=1)


def _palette():
    picture = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8), "P")
    picture.putpalette([0, 0, 0, 255, 255, 255, 90, 90, 90])
    return picture


GREY = np.array([[0, 40], [40, 255]], np.uint8)
TRANSPARENT = {
    "palette, opacities": (_palette(), b"\xff\x80"),
    "palette, an entry": (_palette(), 2),
    "grey": (Image.fromarray(GREY), 40),
    "grey, black": (Image.fromarray(GREY), 0),
    "black and white": (Image.fromarray(GREY > 50), 255),
    "16 bits": (Image.fromarray(GREY.astype(np.uint16) * 257), 40 * 257),
    "colour": (Image.fromarray(GREY).convert("RGB"), (40, 40, 40)),
}
OPAQUE = {
    "palette, opacities": (_palette(), b"\xff\xff\xff"),
    "palette, an entry": (_palette(), 7),
    "grey": (Image.fromarray(GREY), 41),
    "16 bits": (Image.fromarray(GREY.astype(np.uint16) * 257), 41),
    "colour": (Image.fromarray(GREY).convert("RGB"), (40, 40, 41)),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_pixels_are_refused_like_an_alpha_channel(tmp_path, kind):
    picture, transparency = TRANSPARENT[kind]
    picture.save(tmp_path / "a.png", transparency=transparency)
    with pytest.raises(ValueError, match=r"a\.png.*transparent.*alpha channel"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", OPAQUE)
def test_transparency_that_no_pixel_has_does_not_matter(tmp_path, kind):
    picture, transparency = OPAQUE[kind]
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "a.png", transparency=transparency)
    assert b"tRNS" in (tmp_path / "a.png").read_bytes()
    found, plain = (read_image(tmp_path / name) for name in ("a.png", "plain.png"))
    np.testing.assert_array_equal(found, plain)


def _chunk(kind, data):
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _png(width, height, *, depth=8, colour=0, rows=b"", before=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    end = _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + before + end


def test_transparency_of_colours_in_16_bits(tmp_path):
    """Which are read as 8."""
    pixels = np.array([[[1000, 2000, 3000], [65535, 0, 0]]], ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    for key, refused in (((1000, 2000, 3000), True), ((9, 9, 9), False)):
        marked = _chunk(b"tRNS", struct.pack(">HHH", *key))
        data = _png(2, 1, depth=16, colour=2, rows=rows, before=marked)
        (tmp_path / "a.png").write_bytes(data)
        if refused:
            with pytest.raises(ValueError, match="transparent"):
                read_image(tmp_path / "a.png")
        else:
            expected = np.float64(pixels >> 8)
            np.testing.assert_allclose(_levels(tmp_path / "a.png"), expected, atol=1e-3)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparency_of_grey_samples_of_any_depth(tmp_path, depth):
    """Whose mark is in the units of the file, of which the low bits count."""
    high = 2**depth - 1
    samples = np.array([high, 0] if depth == 1 else [high, high // 3], ">u2")
    bits = "".join(f"{int(value):0{depth}b}" for value in samples)
    row = b"\0" + int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(
        -(-len(bits) // 8), "big"
    )
    grey = samples[None, :, None] * (255 / high)
    others = () if depth == 1 else (high // 3 + 1, 0)
    for key in (*map(int, samples), *others):
        marked = _chunk(b"tRNS", struct.pack(">H", key))
        path = tmp_path / "a.png"
        path.write_bytes(_png(2, 1, depth=depth, rows=row, before=marked))
        if key in others:
            np.testing.assert_allclose(_levels(path), grey, atol=1e-3)
        else:
            with pytest.raises(ValueError, match=r"a\.png.*transparent"):
                read_image(path)


def test_a_dark_transparent_colour_in_16_bits(tmp_path):
    """Whose channels would fit into 8."""
    pixels = np.array([[[9, 200, 255], [65535, 0, 0]]], ">u2")
    marked = _chunk(b"tRNS", struct.pack(">HHH", 9, 200, 255))
    data = _png(2, 1, depth=16, colour=2, rows=b"\0" + pixels.tobytes(), before=marked)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match="transparent"):
        read_image(tmp_path / "a.png")


def _tga(opacities, indices):
    """Return a picture of one row whose palette has the grey levels 0, 50, 100, ..."""
    palette = b"".join(
        bytes([50 * entry] * 3 + [opacity]) for entry, opacity in enumerate(opacities)
    )
    header = struct.pack(
        "<BBBHHBHHHHBB", 0, 1, 1, 0, len(opacities), 32, 0, 0, 2, 1, 8, 8
    )
    return header + palette + bytes(indices)


@pytest.mark.parametrize("opacity", [0, 128, 255])
def test_a_palette_with_opacities_of_its_own(tmp_path, opacity):
    path = tmp_path / "a.tga"
    path.write_bytes(_tga([255, opacity, 0], [0, 1]))
    if opacity < 255:
        with pytest.raises(ValueError, match=r"a\.tga.*transparent"):
            read_image(path)
    else:  # the entry that is transparent has no pixel
        expected = np.repeat([[[0.0], [50.0]]], 3, axis=-1)
        np.testing.assert_allclose(_levels(path), expected, atol=1e-3)


def _deep_tiff(samples, photometric):
    """Return an uncompressed TIFF of one row in 16 bits."""
    short, data = 3, np.asarray(samples, "<u2").tobytes()
    tags = {256: len(samples), 257: 1, 258: 16, 259: 1, 262: photometric}
    tags |= {273: 8, 277: 1, 278: 1, 279: len(data)}
    entries = [struct.pack("<HHIHH", tag, short, 1, v, 0) for tag, v in tags.items()]
    offset = struct.pack("<I", 8 + len(data))
    folder = struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
    return b"II*\0" + offset + data + folder


@pytest.mark.parametrize("photometric", [0, 1])
def test_white_may_be_zero_in_16_bits(tmp_path, photometric):
    samples = np.array([0, 257, 30000, 65535])
    (tmp_path / "a.tiff").write_bytes(_deep_tiff(samples, photometric))
    expected = (samples if photometric else 65535 - samples) / 257
    found = _levels(tmp_path / "a.tiff")[0, :, 0]
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("side", [10**4, 3 * 10**4, 2**31 - 1])
def test_a_huge_size_is_refused_before_anything_is_decoded(tmp_path, side):
    (tmp_path / "a.png").write_bytes(_png(side, side))
    with pytest.raises(ValueError, match=r"a\.png declares more than \d+ pixels"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "CMYK", "LAB", "F", "YCbCr", "HSV"])
def test_other_colour_modes_are_refused(tmp_path, mode):
    path = tmp_path / "a.tiff"
    picture = Image.new(mode, (2, 2))
    if mode == "HSV":  # no format keeps it
        picture = picture.convert("RGB").convert("CMYK")
    picture.save(path)
    seen = "CMYK" if mode == "HSV" else mode
    with pytest.raises(ValueError, match=f"colour mode {seen}; expected grey"):
        read_image(path)


def test_depths(tmp_path):
    values = np.array([[0, 12345], [40000, 65535]], np.uint16)
    for name, array in (
        ("big.tiff", values.astype(">u2")),
        ("little.tiff", values),
        ("wide.tiff", values.astype(np.int32)),
        ("a.png", values),
    ):
        Image.fromarray(array).save(tmp_path / name)
        found = read_image(tmp_path / name)[..., 0]
        np.testing.assert_allclose(found, values / 32767.5 - 1, **EXACT32)
    for wrong in (-1, 65536):
        path = tmp_path / "wrong.tiff"
        Image.fromarray(np.array([[0, wrong]], np.int32)).save(path)
        with pytest.raises(ValueError, match="expected 0 to 65535"):
            read_image(path)
    bits = np.array([[True, False], [False, True]])
    for name in ("bits.png", "bits.tiff"):
        Image.fromarray(bits).save(tmp_path / name)
        np.testing.assert_array_equal(_levels(tmp_path / name)[..., 0], 255 * bits)


def test_gamma_and_profiles_do_not_change_the_values(tmp_path):
    rows = b"\0" + bytes([0, 100, 255])
    plain = _png(3, 1, rows=rows)
    marked = _png(3, 1, rows=rows, before=_chunk(b"gAMA", struct.pack(">I", 100000)))
    for data in (plain, marked):
        (tmp_path / "a.png").write_bytes(data)
        np.testing.assert_allclose(_levels(tmp_path / "a.png")[0, :, 0], [0, 100, 255])


def _save_all(path, frames):
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=rest)


@pytest.mark.parametrize("suffix", ["gif", "png", "tiff"])
def test_the_first_of_several_frames_is_read(tmp_path, suffix):
    frames = [np.full((8, 8), value, np.uint8) for value in (0, 255)]
    frames[0][:4] = 255
    _save_all(tmp_path / f"a.{suffix}", frames)
    picture = read_picture(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(picture.pixels[..., 0], frames[0])
    assert picture.doubts() == ["has several frames; the first one is used."]
    data = (tmp_path / f"a.{suffix}").read_bytes()
    if suffix == "gif":  # the second frame is cut off
        (tmp_path / "cut.gif").write_bytes(data[:-12])
        np.testing.assert_array_equal(
            read_picture(tmp_path / "cut.gif").pixels, picture.pixels
        )


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.array([[0, 4095]], np.uint16), "16 bits.*4095.*12 bits"),
        (np.array([[0, 1000]], np.uint16), "16 bits.*1000.*10 bits"),
        (np.array([[0, 200]], np.uint16), "16 bits.*200.*8 bits"),
        (np.array([[0, 0]], np.uint16), "low contrast"),
        (np.array([[30000, 30001]], np.uint16), "low contrast.*65535"),
        (np.array([[0, 1]], np.uint8), "low contrast.*from 0 to 1"),
        (np.array([[128, 128]], np.uint8), "low contrast"),
        (np.array([[0, 255]], np.uint8), None),
        (np.array([[100, 150]], np.uint8), None),
        (np.array([[0, 65535]], np.uint16), None),
        (np.array([[0, 4095 << 4]], np.uint16), None),
    ],
)
def test_doubts_are_said(tmp_path, pixels, words):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    doubts = read_picture(tmp_path / "a.png").doubts()
    if words is None:
        assert doubts == []
    else:
        assert len(doubts) == 1
        assert re.search(words, doubts[0]), doubts


def test_inverted_digits_are_recognised():
    prior = assets.digits_prior()
    images, _ = assets.test_digits()
    for image in np.asarray(images[:4]):
        assert not looks_inverted(prior, image)
        assert looks_inverted(prior, -image)
    grey = np.zeros(prior.shape, np.float32)
    smooth = np.sin(np.linspace(0, 6, 28, dtype=np.float32))[:, None, None]
    for image in (grey, np.broadcast_to(smooth, prior.shape)):
        assert not looks_inverted(prior, image)
        assert not looks_inverted(prior, -image)


def test_the_command_warns_and_goes_on(reconstruct, tmp_path, capsys):
    faint = tmp_path / "faint.png"
    Image.fromarray(np.full((12, 12), 7, np.uint8)).save(faint)
    assert reconstruct("--json", image=str(faint), solver="tikhonov", steps=None) == 0
    captured = capsys.readouterr()
    json.loads(captured.out)
    (line,) = [line for line in captured.err.splitlines() if "warning" in line]
    assert line.startswith(f"diffctl: warning: {faint} has low contrast")


def test_what_is_written_is_read_back(tmp_path):
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        levels = rng.integers(0, 256, (5, 7, channels))
        image = (levels / 127.5 - 1).astype(np.float32)
        (tmp_path / "a.png").write_bytes(to_png(image))
        np.testing.assert_allclose(read_image(tmp_path / "a.png"), image, **EXACT32)


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "a.gif", "a.tiff", "a.bmp", "a.webp"]
)
def test_damaged_files_are_read_or_refused_in_one_way(tmp_path, name):
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    kinds = {"jpg": "JPEG"}
    suffix = name.split(".")[1]
    noise = rng.integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kinds.get(suffix, suffix.upper()))
    whole = bytearray(buffer.getvalue())
    for _ in range(60):
        data = whole.copy()
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        (tmp_path / name).write_bytes(data[: rng.integers(1, len(data) + 1)])
        try:
            image = read_image(tmp_path / name)
        except ValueError as error:
            assert name in str(error)
        else:
            assert image.ndim == 3 and np.all(np.abs(image) <= 1)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((20_000, 20_000), r"declares more than \d+ pixels and is not decoded; resize"),
        (
            (9_000, 9_000),
            "is 9000x9000 with 3 .* convert it to grey and resize it to 8x8",
        ),
        ((8, 9), r"is 9x8 with 3 channel\(s\), but the prior is 8x8 with 1"),
    ],
)
def test_the_declared_size_is_compared_before_pixels_are_decoded(
    tmp_path, monkeypatch, size, message
):
    path = tmp_path / "a.png"
    path.write_bytes(_png(*size, colour=2, rows=b""))
    monkeypatch.setattr(Image.Image, "load", pytest.fail)
    with pytest.raises(ValueError, match=message):
        read_picture(path, Expected((8, 8, 1), "the prior"))


def test_turned_pictures_are_compared_upright(tmp_path):
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(STORED[6]).save(path, exif=exif)
    found = read_picture(path, Expected((2, 3, 1), "the prior"))
    np.testing.assert_array_equal(found.pixels[..., 0], UPRIGHT)
    with pytest.raises(ValueError, match=r"is 2x3 .* resize it to 3x2"):
        read_picture(path, Expected((3, 2, 1), "the prior"))


def test_postscript_is_not_run(tmp_path, monkeypatch):
    path = tmp_path / "a.eps"
    Image.fromarray(UPRIGHT).convert("RGB").save(path)
    monkeypatch.setattr("subprocess.check_call", pytest.fail)
    with pytest.raises(
        ValueError, match=r"program that draws one \(EPS\), which is not"
    ):
        read_image(path)


_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM", "ICO", "TGA", "JPEG2000", "PCX")


@pytest.mark.parametrize("kind", _FORMATS)
def test_damaged_pictures_are_read_or_refused(tmp_path, kind):
    """Of the same size at most: no memory is spent on others."""
    path, whole = tmp_path / "a", io.BytesIO()
    pixels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    Image.fromarray(pixels).save(whole, kind)
    data, rng, refused = whole.getvalue(), np.random.default_rng(0), 0
    for number in range(40):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        if number % 4 == 0:
            damaged = damaged[: rng.integers(len(data))]
        path.write_bytes(damaged)
        try:
            found = read_picture(path, Expected((8, 8, 3), "the prior"))
            assert found.pixels.shape == (8, 8, 3)
        except ValueError as error:
            refused += 1
            assert re.search(
                r"cannot be read: it is dam|pillow|colour mode|resize", str(error)
            )
            assert str(path) in str(error)
    assert refused >= 5
