"""Figures inside a page: no colour, size, font or id of their own, the same bytes every time, and small images."""

from __future__ import annotations

import base64
import io
import re
import sys
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib import image as reader

from icrkit.exceptions import MissingDependencyError
from icrkit.plot._style import ACCENT, COLORS, INK
from icrkit.report._figure import figure, inline_svg, png_uri


def draw(ax: Any) -> None:
    ax.plot([1, 2, 3], [2, 1, 2], color=ACCENT, marker="o", label="one")
    ax.fill_between([1, 2, 3], [1, 0, 1], color=INK, hatch="//")
    ax.set_title("ICR < 1 & more", color=INK)
    ax.legend()


class TestSvg:
    def test_is_one_well_formed_element(self) -> None:
        root = ElementTree.fromstring(inline_svg(draw, (4, 3), "a"))
        assert root.tag == "svg"
        assert root.attrib["viewBox"].split() == ["0", "0", "288", "216"]
        assert "width" not in root.attrib and "height" not in root.attrib  # the page decides

    def test_text_stays_text_in_the_pages_font(self) -> None:
        svg = inline_svg(draw, (4, 3), "a")
        texts = [node.text for node in ElementTree.fromstring(svg).iter("text")]
        assert "ICR < 1 & more" in texts and "one" in texts
        assert "font-family" not in svg and "<style" not in svg and "<metadata" not in svg and "xmlns" not in svg

    def test_colours_are_the_pages(self) -> None:
        svg = inline_svg(draw, (4, 3), "a")
        assert "var(--accent)" in svg and "var(--ink)" in svg
        assert not any(color in svg for color in COLORS.values())

    def test_two_figures_of_a_page_share_no_id_and_find_their_own(self) -> None:
        one, other = (inline_svg(draw, (4, 3), name) for name in ("one", "other"))
        ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (one, other)]
        assert ids[0] and not ids[0] & ids[1]
        for svg, own in zip((one, other), ids, strict=True):
            wanted = set(re.findall(r'href="#([^"]*)"', svg)) | set(re.findall(r"url\(#([^)]*)\)", svg))
            assert wanted and wanted <= own

    def test_the_same_bytes_every_time(self) -> None:
        assert inline_svg(draw, (4, 3), "a") == inline_svg(draw, (4, 3), "a")

    def test_panels_share_an_axis_at_the_heights_asked_for(self) -> None:
        seen = []

        def draw_two(axes: Any) -> None:
            seen.append(axes)
            for ax in axes:
                draw(ax)

        ElementTree.fromstring(inline_svg(draw_two, (4, 5), "a", panels=(3, 1)))
        upper, lower = seen[0]
        assert upper.get_shared_x_axes().joined(upper, lower)
        assert upper.get_subplotspec().get_gridspec().get_height_ratios() == (3, 1)


class TestFigure:
    def test_pyplot_does_not_know_it(self) -> None:
        import matplotlib.pyplot as plt

        before = plt.get_fignums()
        with figure((4, 3)) as (canvas, axes):
            draw(axes)
            assert tuple(canvas.get_size_inches()) == (4, 3)
        assert plt.get_fignums() == before

    def test_a_users_style_neither_reaches_it_nor_is_changed(self) -> None:
        plain = inline_svg(draw, (4, 3), "a")
        with matplotlib.rc_context({"lines.linewidth": 9.0, "axes.facecolor": "pink", "font.size": 30.0}):
            mine = dict(matplotlib.rcParams)
            assert inline_svg(draw, (4, 3), "a") == plain
            assert dict(matplotlib.rcParams) == mine

    def test_without_matplotlib(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(MissingDependencyError, match=r'pip install "icrkit\[report\]"'), figure((4, 3)):
            pass


class TestPng:
    def pixels(self, uri: str) -> np.ndarray:
        head, data = uri.split(",")
        assert head == "data:image/png;base64"
        read = reader.imread(io.BytesIO(base64.b64decode(data, validate=True)), format="png")
        return np.asarray(np.rint(read * 255), np.uint8)

    @pytest.mark.parametrize("shape", [(1, 1), (5, 7), (16, 16), (300, 2)])
    def test_grey_and_coloured(self, shape: tuple[int, int]) -> None:
        rng = np.random.default_rng(0)
        grey = rng.integers(0, 256, (1, *shape), np.uint8)
        np.testing.assert_array_equal(self.pixels(png_uri(grey)), grey[0])
        coloured = rng.integers(0, 256, (3, *shape), np.uint8)
        np.testing.assert_array_equal(self.pixels(png_uri(coloured))[..., :3], np.moveaxis(coloured, 0, -1))

    def test_other_numbers_of_channels_are_shown_as_their_mean(self) -> None:
        four = np.array([0, 50, 100, 150], np.uint8).reshape(4, 1, 1) * np.ones((4, 2, 3), np.uint8)
        assert (self.pixels(png_uri(four)) == 75).all()

    def test_a_view_of_an_image_is_the_image(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
        assert png_uri(image) == png_uri(np.ascontiguousarray(image[:, ::-1])[:, ::-1])
