"""Pages as a browser lays them out: at the width of a desktop and of a phone, light and dark."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image as reader

import icrkit as ik
from icrkit.report import Course, Examples, Samples, Sweep, write_report

# The fixture `browser` is of this kind; a conftest is not to be imported.
Browser = Any

WIDTHS = {"desktop": 1280, "phone": 390}
LEAST_TEXT = 10.0  # pixels
LEAST_CONTRAST = 4.5  # WCAG 2.1, success criterion 1.4.3


@pytest.fixture(scope="module")
def pages(
    examples: Examples, course: Course, samples: Samples, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Of a sweep and a course of real features, and of a course with all there can be on its page."""
    folder = tmp_path_factory.mktemp("pages")
    fashion = Sweep.of(ik.datasets.load_fashion_cube(), criterion="information")
    # Names as networks have them, levels as steps between two ends, and levels outside training on both sides.
    made = ik.datasets.make_cube(300, 4, icr=np.linspace(0.9, 0.2, 9) ** 2 + 0.1, sigmas=np.geomspace(0.003, 70, 9))
    attrs = {"noise": {"name": "EDM", "trained_range": [0.01, 20.0]}}
    layers = {f"model.diffusion_model.transformer_blocks.{k}.attention.to_out_projection": made["features"].to_numpy()
              for k in range(2)}  # fmt: skip
    names = Sweep.of(ik.from_arrays(layers, sigmas=made.sigmas, attrs=attrs))
    digits = Course.of(ik.datasets.load_digits_course())
    return {
        "fashion": write_report(fashion, folder / "fashion.html", examples),
        "names": write_report(names, folder / "names.html"),
        "digits": write_report(digits, folder / "digits.html"),
        "course": write_report(course, folder / "course.html", samples),
    }


@pytest.fixture(scope="module")
def opened(browser: Browser, pages: dict[str, Path]) -> Callable[[str, str, bool], Any]:
    """Opens a page, once in each way."""
    seen: dict[tuple[str, str, bool], Any] = {}

    def look(page: str, size: str, dark: bool) -> Any:
        key = (page, size, dark)
        if key not in seen:
            seen[key] = browser.open(pages[page], width=WIDTHS[size], dark=dark, picture=page != "digits")
        return seen[key]

    return look


@pytest.fixture(
    params=itertools.product(["fashion", "names", "digits", "course"], WIDTHS, [False, True]),
    ids=lambda way: f"{way[0]}-{way[1]}-{'dark' if way[2] else 'light'}",
)
def page(request: pytest.FixtureRequest, opened: Callable[[str, str, bool], Any]) -> Any:
    return opened(*request.param)


def overlaps(texts: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Pairs of texts that cover one another; lines of one text may touch."""
    for one, other in itertools.combinations(texts, 2):
        a, b = np.array(one["box"]), np.array(other["box"])
        if ((np.minimum(a, b)[2:] - np.maximum(a, b)[:2]) > (1.0, 3.0)).all():
            yield one["text"], other["text"]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, as WCAG 2.1 defines it, from 1 to 21."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    share = np.array([float(value) for value in re.findall(r"[\d.]+", color)[:3]]) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_nothing_is_asked_from_outside(page: Any) -> None:
    assert page.requests == []


def test_nothing_goes_wrong(page: Any) -> None:
    assert page.errors == []


def test_nothing_sticks_out(page: Any) -> None:
    assert page.shows["content"] <= page.shows["width"] and page.shows["out"] == []
    for svg in page.shows["svgs"]:
        for text in svg["texts"]:
            assert text["box"][0] >= 0 and text["box"][2] <= page.shows["width"], text["text"]


def test_every_figure_is_seen_once(page: Any) -> None:
    assert page.shows["figures"] == [1, 1]  # the wide drawing or the narrow one
    for svg in page.shows["svgs"]:
        left, top, right, bottom = svg["box"]
        assert right - left > 40 and bottom - top > 10
        assert svg["marks"] > 20 or svg["texts"] == []  # a small line in a table has neither
    for natural, shown in page.shows["images"]:
        assert natural > 0 and shown > 20


def test_text_can_be_read(page: Any) -> None:
    inside = [text for svg in page.shows["svgs"] for text in svg["texts"]]
    assert inside
    for text in [*page.shows["texts"], *inside]:
        assert text["size"] >= LEAST_TEXT, text
        assert contrast(text["color"], page.shows["background"]) >= LEAST_CONTRAST, text


def test_labels_of_a_figure_do_not_overlap(page: Any) -> None:
    assert [pair for svg in page.shows["svgs"] for pair in overlaps(svg["texts"])] == []


@pytest.mark.parametrize("name", ["fashion", "course"])
@pytest.mark.parametrize("size", WIDTHS)
def test_light_and_dark(name: str, size: str, opened: Callable[[str, str, bool], Any]) -> None:
    light, dark = (opened(name, size, night) for night in (False, True))
    assert not light.shows["dark"] and dark.shows["dark"]
    for one, brighter in ((light, True), (dark, False)):
        pixels = reader.imread(BytesIO(one.screenshot), format="png")
        assert pixels.shape[1] == WIDTHS[size] and pixels.shape[0] == one.shows["height"]
        assert bool(pixels[..., :3].mean() > 0.5) is brighter
    # Nothing moves with the colours.
    assert light.shows["height"] == dark.shows["height"]
    assert [svg["box"] for svg in light.shows["svgs"]] == [svg["box"] for svg in dark.shows["svgs"]]


def test_the_browser_sees_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        """<!doctype html><meta name="viewport" content="width=device-width"><body style="background:#fff">
        <img src="https://example.org/a.png"><div style="width:500px; color:#eee; font-size:6px">faint and small</div>
        <svg viewBox="0 0 100 50" width="100"><text x="5" y="20">one</text><text x="9" y="21">other</text></svg>
        <script>nothing.at.all</script>"""
    )
    seen = browser.open(page, width=390)
    assert seen.requests == ["https://example.org/a.png"]
    assert any("nothing is not defined" in error for error in seen.errors)
    assert seen.shows["content"] > seen.shows["width"] == 390 and len(seen.shows["out"]) == 1
    faint = next(text for text in seen.shows["texts"] if text["text"] == "faint and small")
    assert faint["size"] == 6 and contrast(faint["color"], seen.shows["background"]) < 1.5
    assert list(overlaps(seen.shows["svgs"][0]["texts"])) == [("one", "other")]


def test_contrast() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.01)
