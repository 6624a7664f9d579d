"""The page stands alone, and its figures take the page's colours."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import icrkit as ik
from icrkit.exceptions import MissingDependencyError
from icrkit.report import Examples, Sweep, write_report
from icrkit.report._figure import inline_svg

VOID = {"meta", "link", "img", "br", "path", "use", "rect"}


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


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    made = ik.datasets.make_cube(n_images=300, n_features=4, icr=[0.2, 0.5, 0.3, 0.7], sigmas=[0.001, 0.01, 0.1, 1.0])
    data = made.to_xarray()
    data.attrs |= {"noise": {"name": "EDM", "trained_range": [0.005, 5.0]}, "model_sha256": "<ab&c>"}
    return Sweep.of(ik.Cube(data))


@pytest.fixture(scope="module")
def examples() -> Examples:
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (3, 2, 4, 1, 5, 5), dtype=np.uint8)
    return Examples(["hat", "shoe", "<b>"], tiles[:, 0, 0], tiles[:, :, 0], tiles, np.array([0.001, 0.01, 0.1, 1.0]))


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


def test_page_without_images_or_accuracies(sweep: Sweep, tmp_path: Path) -> None:
    page = Page(write_report(sweep, tmp_path / "page.html").read_text("utf-8"))
    assert page.images == [] and page.open == []
    assert "What the network saw" not in " ".join(page.words) and "Accuracy" not in " ".join(page.words)


def test_same_numbers_give_the_same_bytes(sweep: Sweep, tmp_path: Path) -> None:
    first, second = (write_report(sweep, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
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
