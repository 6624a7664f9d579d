"""Runs what README.md and docs/*.md show, follows their links, and looks for every public name in docs/api.md."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pytest
from click.testing import CliRunner

import icrkit as ik
import icrkit_extractors
from icrkit.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Other tests run it whole; here its options are read.
TOO_LONG = {"demo"}


class Block(NamedTuple):
    """A fenced block: language, text, and the line on which the text begins."""

    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    """Fenced blocks in order."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(m[1], m[2], text[: m.start(2)].count("\n") + 1) for m in found]


def prelude(page: Path) -> dict[str, Any]:
    """Names that a page leaves to its reader: a dump of features, and the image and class of each."""
    if page.name != "README.md":
        return {}
    cube = ik.datasets.load_fashion_cube().select(sigma=[0.02, 0.09, 0.3])
    # So few features that the plug-in, which the page fits, is no news to its interval.
    h = cube["mid"].to_numpy()[..., :6].astype(np.float32)
    rows = h[:, :, 1]
    order = np.random.default_rng(0).permutation(rows.shape[0] * rows.shape[1])
    return {
        "h": h,
        "y": cube.labels,
        "X": rows.reshape(-1, rows.shape[2])[order],
        "image_of_row": np.repeat(cube.image_ids, rows.shape[1])[order],
    }


# ---- Python ---------------------------------------------------------------------------------------------------------


def run_python(block: Block, page: Path, names: dict[str, Any]) -> None:
    """Run a block; warnings are errors but those that it announces, and output is what it says.

    ``# warns: words`` announces a warning with these words. ``# -> text`` after a print, or on the lines below it, is
    what is printed. A block that says so anywhere has to say all.
    """
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
    announced = re.findall(r"# warns: (.+)$", block.text, re.MULTILINE)
    out = io.StringIO()
    with warnings.catch_warnings(record=True) as given, contextlib.redirect_stdout(out):
        # What frameworks warn of is theirs.
        warnings.simplefilter("always" if announced else "ignore" if "# pip install" in block.text else "error")
        exec(code, names)
    messages = [str(warning.message) for warning in given]
    assert len(messages) == len(announced), messages
    for words, message in zip(announced, messages, strict=True):
        assert words in message
    promised = re.findall(r"# -> ?(.*)$", block.text, re.MULTILINE)
    if promised:
        assert_alike([line.strip() for line in out.getvalue().splitlines()], [line.strip() for line in promised])


def assert_alike(printed: list[str], promised: list[str]) -> None:
    """Equal text, and numbers equal up to one in the last digit: another BLAS rounds otherwise."""
    number = re.compile(r"-?\d+\.\d+")
    assert [number.sub("#", line) for line in printed] == [number.sub("#", line) for line in promised]
    for a, b in zip(number.findall("\n".join(printed)), number.findall("\n".join(promised)), strict=True):
        assert abs(float(a) - float(b)) <= 1.01 * 10.0 ** -len(b.split(".")[1]), (a, b)


# ---- shell ----------------------------------------------------------------------------------------------------------


def commands_of(block: Block) -> Iterator[list[str]]:
    """Arguments of each ``icrkit`` line, without what comes after it in a pipe."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "icrkit":
            end = min((words.index(sign) for sign in ("|", ">", "&&") if sign in words), default=len(words))
            yield words[1:end]


def run_command(args: list[str]) -> None:
    """Run a command in the working folder; of long ones only read the options."""
    if args[0] in TOO_LONG:
        command = main.commands[args[0]]
        command.make_context(args[0], list(args[1:]))
        return
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, (args, result.output)


# ---- pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if page.name == "README.md":  # its reader stands in a checkout
        (tmp_path / "icrkit").symlink_to(ROOT / "icrkit")
    names = {"__name__": "docs", **prelude(page)}
    for block in blocks_of(page):
        if block.language == "python":
            frameworks = re.findall(r"# pip install (.+)$", block.text, re.MULTILINE)
            if all(importlib.util.find_spec(name) for line in frameworks for name in line.split()):
                run_python(block, page, names)
        elif block.language == "sh":
            for args in commands_of(block):
                run_command(args)
        else:
            assert block.language in ("text", ""), f"{page}:{block.line}: a block of {block.language!r} is not checked"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors_of(there), f"{page.name}: {target}"


def anchors_of(page: Path) -> set[str]:
    """Anchors of headings, as they are made for a page on the web."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_command_is_in_the_guide() -> None:
    shown = {args[0] for block in blocks_of(ROOT / "docs" / "guide.md") if block.language == "sh"
             for args in commands_of(block)}  # fmt: skip
    assert isinstance(main, click.Group)
    assert shown == set(main.list_commands(click.Context(main)))


def test_every_error_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+(?:Error|Warning))`", guide, re.MULTILINE))
    assert set(ik.exceptions.__all__) <= rows


# ---- the table of names ---------------------------------------------------------------------------------------------

# Where the names of a section of docs/api.md are found; the first two are complete.
SECTIONS = {
    "icrkit": ik,
    "icrkit_extractors": icrkit_extractors,
    "icrkit.datasets": ik.datasets,
    "icrkit.exceptions": ik.exceptions,
    "icrkit.plot": ik.plot,
    "icrkit_extractors.noise": icrkit_extractors.noise,
    "icrkit_extractors.views": icrkit_extractors.views,
    "icrkit_extractors.images": icrkit_extractors.images,
    "icrkit_extractors.latents": icrkit_extractors.latents,
}


def names_in_api() -> dict[str, list[str]]:
    """Names in the first column of each section's table."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    found = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0].strip("`")
        found[title] = re.findall(r"^\| `(\w+)`", section, re.MULTILINE)
    return found


def test_the_table_says_what_the_docstrings_say() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        module = importlib.import_module(section.splitlines()[0])
        for name, words in re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE):
            documented = inspect.getdoc(getattr(module, name)) or ""
            assert words.replace("\\|", "|") == documented.splitlines()[0], name


@pytest.mark.parametrize("title", SECTIONS)
def test_every_public_name_is_in_the_table(title: str) -> None:
    names = names_in_api()[title]
    assert len(names) == len(set(names))
    assert set(names) == set(SECTIONS[title].__all__)


def test_no_other_name_in_the_tables_is_stale() -> None:
    tables = names_in_api()
    assert set(SECTIONS) <= set(tables)
    for title in set(tables) - set(SECTIONS):
        module = importlib.import_module(title)
        assert set(tables[title]) <= set(module.__all__), title
