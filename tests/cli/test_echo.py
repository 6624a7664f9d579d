"""What commands print: names, attributes and ids come from files that anyone may have written."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

import icrkit as ik

EVIL = "\x1b[2J\x1b]0;owned\x07\nicrkit: forged \u202e"
FORMULA = '=HYPERLINK("x","y")'


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A cube whose every text moves the cursor, forges lines, or is a formula."""
    h = ik.datasets.make_cube(120, 4, icr=[0.6, 0.3, 0.7], sigmas=[0.1, 0.2, 0.4], random_state=0)["features"]
    path = tmp_path / "a.cube"
    attrs = {"model": EVIL, f"key{EVIL}": {"deep": [EVIL]}, "step": 3}
    layers = {f"mid{EVIL}": 4, FORMULA: 4}
    with ik.CubeWriter(path, layers, [0.1, 0.2, 0.4], n_views=2, n_images=120, attrs=attrs) as writer:
        writer.append([f"{k}{EVIL}" for k in range(120)], dict.fromkeys(layers, h.to_numpy()))
    return path


def assert_safe(text: str) -> None:
    for line in text.splitlines():
        assert line.isprintable(), line
        assert not line.startswith("icrkit: forged")


@pytest.mark.parametrize(
    "words",
    [
        ("info",), ("info", "--json"), ("sweep",), ("sweep", "--json"), ("score", "--metrics", "icr"),
        ("compare", "--metrics", "icr,rankme"), ("score", "--metrics", "icr", "--json"), ("verify",),
        ("sweep", "--layer", EVIL), ("course",), ("score", "--sigma", "3"),
    ],
)  # fmt: skip
def test_nothing_of_a_file_reaches_the_terminal_raw(icrkit, hostile, words):
    command, *options = words
    result = icrkit(command, hostile, *options)
    assert_safe(result.stdout)
    assert_safe(result.stderr)
    assert result.output


@pytest.mark.parametrize(
    ("command", "option", "name"),
    [("sweep", "--report", "a.html"), ("sweep", "--plot", "a.png"), ("compare", "--csv", "a.csv"),
     ("compare", "--curves", "a.pdf")],
)  # fmt: skip
def test_a_folder_that_takes_no_files_is_refused_before_the_work(
    icrkit, assert_one_line, command, option, name, tmp_path, monkeypatch
):
    def access(path: object, mode: int) -> bool:
        assert Path(str(path)) == tmp_path and mode == os.W_OK
        return False

    monkeypatch.setattr("icrkit.cli._echo.os.access", access)  # root may write to every folder
    result = icrkit(command, tmp_path / "absent.cube", option, tmp_path / name)  # the cube is not looked for yet
    assert_one_line(result, f"{tmp_path}: this folder cannot be written to")


def test_cells_of_a_table_are_no_formulas(icrkit, hostile, tmp_path):
    table = tmp_path / "t.csv"
    assert icrkit("compare", hostile, "--metrics", "icr", "--csv", table).exit_code == 0
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert {row["layer"][0] for row in rows} == {"'", "m"} and f"'{FORMULA}" in {row["layer"] for row in rows}
    read = json.loads(icrkit("compare", hostile, "--metrics", "icr", "--json").stdout)["rows"]
    assert [float(row["icr"]) for row in rows] == [row["icr"] for row in read]  # numbers stay as they are
    assert len(table.read_text(encoding="utf-8").splitlines()) == 1 + len(rows)


def test_joined_columns_are_no_formulas(icrkit, store, tmp_path):
    (tmp_path / "o.csv").write_text("cube,=1+1\na,-0.5\n", encoding="utf-8")
    options = ["--metrics", "icr", "--join", tmp_path / "o.csv", "--csv", tmp_path / "t.csv"]
    assert icrkit("compare", store, *options).exit_code == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[0]["'=1+1"] == "-0.5"


@pytest.mark.parametrize("name", [b"caf\xe9.npz", b"a\x1b[31m.npz", b"a\nb.npz"])
def test_names_of_files_that_are_no_text(icrkit, tmp_path, name):
    folder = os.fsencode(tmp_path)
    try:
        (tmp_path / os.fsdecode(name)).touch()
    except OSError:
        pytest.skip("this file system takes no such name")
    h = ik.datasets.make_cube(120, 4, icr=[0.6, 0.3, 0.7], sigmas=[0.1, 0.2, 0.4], random_state=0)["features"]
    np.savez(tmp_path / "plain.npz", mid=h.to_numpy(), sigmas=[0.1, 0.2, 0.4])
    os.replace(folder + b"/plain.npz", folder + b"/" + name)
    path, outputs = os.fsdecode(folder + b"/" + name), (tmp_path / "t.csv", tmp_path / "t.png")
    for words in (
        ("info",), ("info", "--json"), ("sweep",), ("score", "--metrics", "icr", "--json"),
        ("compare", "--metrics", "icr,rankme", "--csv", outputs[0], "--plot", outputs[1]),
        ("sweep", "--plot", tmp_path / "s.png", "--report", tmp_path / "s.html"),
    ):  # fmt: skip
        result = icrkit(words[0], path, *words[1:])
        assert result.exit_code == 0, (words, result.output)
        assert_safe(result.stdout)
    missing = icrkit("sweep", path + "x")
    assert missing.exit_code == 1 and missing.stderr.count("\n") == 1
    assert_safe(missing.stderr)
