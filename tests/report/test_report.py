"""Pictures, figure and page: honest scales, escaped text, nothing from outside."""

import base64
import io
import re

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from diffctl.report import Comparison, Page, Row, comparison_figure, to_png
from diffctl.report.curves import curves_svg
from tests.report.self_contained import assert_self_contained


def _decode(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    grey, dark = np.zeros((4, 4, 1)), np.full((2, 2, 1), -0.5)
    rows = [
        Row("First <task>", {"Truth": grey, "Seen": dark}, {"Seen": "12 dB & more"}),
        Row("First <task>", {"Truth": grey, "Seen": dark}, {}),
        Row("Second", {"Truth": None, "Seen": grey}, {"Truth": "class 3"}),
    ]
    return Comparison(columns=("Truth", "Seen"), rows=rows)


def test_pictures_keep_the_scale():
    image = np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]])[..., None]
    np.testing.assert_array_equal(_decode(to_png(image)), [[0, 0, 128, 255, 255]])
    colour = np.stack([image[..., 0]] * 3, axis=-1)
    assert _decode(to_png(colour)).shape == (1, 5, 3)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_written_pictures_clip_what_is_outside(dtype):
    levels = [np.nan, -np.inf, -1e4, -1.01, 1.01, 1e4, np.inf, 0.5]
    image = np.array(levels, dtype)[None, :, None]
    expected = [[0, 0, 0, 0, 255, 255, 255, 191]]
    np.testing.assert_array_equal(_decode(to_png(image)), expected)
    reversed_view = np.asfortranarray(image.repeat(3, -1))[:, ::-1, ::-1]
    grey = np.array(expected)[0, ::-1]
    np.testing.assert_array_equal(_decode(to_png(reversed_view))[0, :, 1], grey)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 2)),
        np.zeros((4, 4, 4)),
        np.zeros((4, 3)),
        1j * np.ones((4, 4, 1)),
    ],
)
def test_channels_that_are_no_picture_are_not_written(image):
    """Two and four channels would become alpha channels."""
    with pytest.raises(ValueError, match=r"expected real numbers \(height, width"):
        to_png(image)


def test_the_figure_shows_grey_as_grey(comparison):
    """A picture of zeros is mid-grey; nothing is stretched to its own contrast."""
    png = comparison_figure(comparison, title="A", subtitle="B", dpi=60)
    pixels = _decode(png)[..., :3].reshape(-1, 3)
    for level, at_least in ((128, 2.5), (64, 1.5)):
        share = np.all(np.abs(pixels.astype(int) - level) <= 1, axis=-1).sum() / 60**2
        # Squares of an inch, whose borders and names cover a little.
        assert at_least < share, (level, share)


def test_a_page_needs_nothing_but_itself(comparison):
    page = Page("Title & <more>", "Read `this <first>`.")
    page.cards({"of <something>": "3 < 4"})
    page.comparison(comparison, {"Second": "A & B"})
    page.table(("task", "PSNR"), [("a<b", "1"), ("a<b", "2")], best=[(1, 1)])
    page.settings({"Seed": 0})
    page.curves({"DOC": [(1, 10.0), (2, 0.1)]}, x_label="calls", y_label="misfit")
    page.document("All", {"x": [1, 2]})
    page.footer("Made by `diffctl`.")
    html = page.html()
    assert_self_contained(html)
    assert "<code>this &lt;first&gt;</code>" in html
    assert "<task>" not in html
    assert "a&lt;b" in html
    assert '<td class=" best">2</td>' in html
    assert "prefers-color-scheme: dark" in html
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(pictures) == 5
    assert _decode(base64.b64decode(pictures[1])).tolist() == [[64, 64], [64, 64]]


def test_curves_leave_out_what_a_logarithm_cannot_show():
    nan = float("nan")
    drawn = curves_svg(
        {"a": [(1, 1.0), (2, nan), (3, 0.0), (4, 0.01)], "b": [(1, 1.0), (4, 0.01)]},
        x_label="x",
        y_label="y",
    )
    lines = re.findall(r'points="([^"]+)"', drawn)
    assert [len(line.split()) for line in lines] == [2, 2]
    assert lines[0] == lines[1]
    ends = re.findall(r'y="([\d.]+)" style', drawn)
    assert abs(float(ends[0]) - float(ends[1])) >= 14, "names do not overlap"
    assert curves_svg({"a": [(1, nan)]}, x_label="x", y_label="y") == ""
