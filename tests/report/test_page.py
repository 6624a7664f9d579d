"""A page stands alone, says what was found, and its figures take its colours."""

from __future__ import annotations

import dataclasses
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import icrkit as ik
from icrkit.exceptions import MissingDependencyError
from icrkit.report import Course, Examples, Samples, Sweep, write_report
from icrkit.report._figure import inline_svg

VOID = {"meta", "link", "img", "br", "path", "use", "rect", "polyline", "circle"}


class Page(HTMLParser):
    """Tags in balance, all ids, all references."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.outside: list[str] = []
        self.images: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(attrs)

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name == "src":
                self.images.append(str(value))
            if name in ("src", "href", "action", "srcset") and not str(value).startswith(("data:", "#")):
                self.outside.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_page_stands_alone(sweep: Sweep, examples: Examples, tmp_path: Path) -> None:
    text = write_report(sweep, tmp_path / "page.html", examples).read_text("utf-8")
    page = Page(text)
    assert page.open == [] and page.outside == []
    assert "http" not in text and "@import" not in text and "<script" not in text
    assert not [url for url in re.findall(r"url\(([^)]*)\)", text) if not url.startswith("#")]
    assert len(page.ids) == len(set(page.ids))
    assert set(re.findall(r'(?:url\(|href=")#([\w-]+)', text)) <= set(page.ids)
    assert len(page.images) == 3 * (1 + 2 + 2 * 4)


def test_page_says_what_was_found(sweep: Sweep, examples: Examples, tmp_path: Path) -> None:
    text = write_report(sweep, tmp_path / "page.html", examples).read_text("utf-8")
    words = " ".join(Page(text).words)
    for sentence in [sweep.headline, *sweep.sentences]:
        assert sentence in words
    for row in sweep.rows("features"):
        assert f"{row['icr']:.3f}" in words and f"{row['low']:.3f}–{row['high']:.3f}" in words
    assert "<ab&c>" in words and "<b>" in words  # escaped in the page, not markup
    assert "hat" in words and "What the network saw" in words
    assert text.count('class="best"') >= 1 and 'class=" outside"' in text


def test_where_it_comes_from_is_told_to_a_person(tmp_path: Path) -> None:
    made = ik.datasets.make_cube(n_images=100, n_features=4, icr=[0.2, 0.5, 0.3], sigmas=[0.01, 0.1, 1.0])
    h = made["features"].to_numpy()
    attrs = {
        "output_index": None, "conditioning": {}, "probe": {"features": [1.5, 2.5]}, "compile": False,
        "tensors": {"dec_1.mid": "dec_1.mid", "dec_1.up": "/dec/Add_0"},
        "encode": {"name": "AutoencoderKL", "batch_size": None, "scale": [0.5, 1.0]},
    }  # fmt: skip
    cube = ik.from_arrays({"dec_1.mid": h, "dec_1.up": h}, sigmas=made.sigmas, attrs=attrs)
    words = " ".join(Page(write_report(Sweep.of(cube), tmp_path / "page.html").read_text("utf-8")).words)
    source = words[words.index("Where it comes from") :]
    assert re.search(r"compile\s+no", source) and re.search(r"encode\s+AutoencoderKL: scale 0.5, 1\s", source)
    assert re.search(r"tensors\s+dec_1.mid, dec_1.up /dec/Add_0", source)
    for thing in ("None", "output index", "conditioning", "probe", "2.5"):
        assert thing not in source


def test_page_of_a_course(course: Course, samples: Samples, tmp_path: Path) -> None:
    text = write_report(course, tmp_path / "page.html", samples).read_text("utf-8")
    page = Page(text)
    assert page.open == [] and page.outside == []
    assert "http" not in text and "@import" not in text and "<script" not in text
    assert len(page.ids) == len(set(page.ids))
    assert len(page.images) == 2 * 3 * 2 and text.count('class="copied"') == int(np.sum(samples.copied))
    words = " ".join(page.words)
    for sentence in [course.headline, *course.sentences]:
        assert sentence in words
    for layer, sigma in (("mid", 0.1), ("mid", 0.3), ("up", 0.1), ("up", 0.3)):
        for row in course.rows(layer, sigma):
            assert f"{row['information']:.2f}" in words and f"{row['icr_low']:.3f}–{row['icr_high']:.3f}" in words
    assert "held-out loss" in words and "a rule & more. Chosen, not drawn." in words and "Expansion" in words
    for thing in ("a rise of ICR alone may be a false stop", "At low noise", "one reading is not the network"):
        assert thing in words
    assert text.count("<polyline") == 4  # each layer and level as a line
    assert [int(n) for n in re.findall(r'<tr class="best">\s*<td>(\d+)</td>', text)] == [
        level["best_step"] for level in sorted(course.levels(), key=lambda level: level["layer"] != "mid")
    ]


def test_page_of_a_course_without_shares_and_with_a_warm_up(course: Course, tmp_path: Path) -> None:
    text = write_report(course, tmp_path / "page.html").read_text("utf-8")
    assert "Hatched" not in text and "<td>–</td>" not in text.partition("Every checkpoint")[0]
    fitted = course.course.with_criterion("information")
    fitted.curve_ = course.curve.copy(deep=True)
    fitted.curve_["information"] -= 10.0  # no best is positive
    fitted.warm_up = 100
    late = dataclasses.replace(course, course=fitted)
    text = write_report(late, tmp_path / "page.html").read_text("utf-8")
    assert text.partition("Every checkpoint")[0].count("<td>–</td>") == 4 and "nan" not in text.lower()
    assert "Hatched: before step 100; checkpoints there take no part in the call." in text
    assert "not drawn, since its best is not above 0: σ 0.1, σ 0.3" in text


def test_page_of_a_course_with_one_reading(tmp_path: Path) -> None:
    cubes = [
        (step, ik.datasets.make_cube(n_images=200, n_features=4, icr=icr))
        for step, icr in [(0, 0.7), (10, 0.5), (20, 0.3)]
    ]
    page = Page(write_report(Course.of(cubes), tmp_path / "page.html").read_text("utf-8"))
    words = " ".join(page.words)
    assert page.open == [] and page.images == []
    assert "What it generates" not in words and "Every layer and level" not in words
    assert "Information is still rising at step 20" in words and "nan" not in words


def test_the_images_belong_to_the_result(sweep: Sweep, course: Course, samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a Sweep is shown with Examples, not with Samples"):
        write_report(sweep, tmp_path / "page.html", samples)
    with pytest.raises(TypeError, match="made of a Sweep or a Course, not of dict"):
        write_report({}, tmp_path / "page.html")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_page_without_images_or_accuracies(sweep: Sweep, tmp_path: Path) -> None:
    page = Page(write_report(sweep, tmp_path / "page.html").read_text("utf-8"))
    assert page.images == [] and page.open == []
    assert "What the network saw" not in " ".join(page.words) and "Accuracy" not in " ".join(page.words)


@pytest.mark.parametrize("kind", ["sweep", "course"])
def test_same_numbers_give_the_same_bytes(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    result = request.getfixturevalue(kind)
    first, second = (write_report(result, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_colours_of_a_figure_are_the_pages(sweep: Sweep) -> None:
    svg = inline_svg(sweep.draw, (4.0, 3.0), "a")
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    assert not re.findall(r"#[0-9a-fA-F]{6}", svg)
    assert {"var(--ink)", "var(--accent)", "var(--muted)", "var(--faint)"} <= set(re.findall(r"var\(--\w+\)", svg))
    assert "font-family" not in svg and "<style" not in svg and "width=" not in svg[: svg.index(">")]
    assert "chosen: σ = 0.1" in svg  # text stays text


def test_a_users_style_does_not_reach_the_page(sweep: Sweep) -> None:
    import matplotlib as mpl

    before = inline_svg(sweep.draw, (4.0, 3.0), "a")
    with mpl.rc_context({"axes.grid": True, "font.size": 30, "lines.linewidth": 9}):
        assert inline_svg(sweep.draw, (4.0, 3.0), "a") == before


def test_jinja_is_asked_for(sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "icrkit\[report\]"'):
        write_report(sweep, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())
