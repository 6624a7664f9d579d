"""What commands say of features that are not as they should be: in the words of a shell, of a file and its arrays."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

Run = Callable[..., Result]

SIGMAS = [0.1, 0.3, 1.0]
# A call, a keyword with its value, a name of the package, the class of an error, a level that nobody recorded.
PYTHON = re.compile(r"\w+\((?!s\))[^ )]|\w=[^=\s]|icrkit\.[A-Z]|\w+Error\b|\bnan\b")


def features(n: int = 60, v: int = 2, d: int = 6) -> NDArray[np.float64]:
    """(image, view, sigma, feature) of signal and residual alike."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 1, 3, d)) + rng.standard_normal((n, v, 3, d))


def twins() -> NDArray[np.float64]:
    made = features()
    made[..., 1] = made[..., 0]
    return made


def dead() -> NDArray[np.float64]:
    made = features()
    made[..., 1] = 0.5
    return made


LEVEL = {"features": features()[:, :, 0]}
FILES: dict[str, dict[str, object]] = {
    "few": {"features": features(n=5), "sigmas": SIGMAS},
    "hardly enough": {"features": features(n=8), "sigmas": SIGMAS},
    "one view": {"features": features(v=1), "sigmas": SIGMAS},
    "twins": {"features": twins(), "sigmas": SIGMAS},
    "dead": {"features": dead(), "sigmas": SIGMAS},
    "equal views": {"features": np.repeat(features(v=1), 2, axis=1), "sigmas": SIGMAS},
    "two levels": {"features": features()[:, :, :2], "sigmas": SIGMAS[:2]},
    "no level": LEVEL,
    "swapped": {"features": features(n=60)[:, :, 0].transpose(1, 0, 2)},
    "rows": {"features": features()[:, 0, 0]},
}


@pytest.mark.parametrize("command", ["sweep", "score", "compare"])
@pytest.mark.parametrize("name", FILES)
def test_no_message_speaks_python(icrkit: Run, command: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **FILES[name])  # type: ignore[arg-type]
    result = icrkit(command, path)
    assert result.exit_code in (0, 1), result.output
    # The warning of swapped axes says by which function a file is made anew.
    said = result.stderr.replace(str(path), "PATH").replace("numpy.moveaxis", "")
    assert not PYTHON.search(said), said
    assert "sigma nan" not in result.stdout


def test_sweep_leaves_dead_units_out(icrkit: Run, assert_one_line: Callable[..., None], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **FILES["dead"])  # type: ignore[arg-type]
    assert_one_line(icrkit("sweep", tmp_path / "x.npz"), "(1), such as dead units: --drop-constant leaves them out")
    result = icrkit("sweep", tmp_path / "x.npz", "--drop-constant")
    assert result.exit_code == 0 and "layer features (5 features)" in result.stdout


def test_pythons_words_are_seen() -> None:
    for words in ("use f(x)", "set a=1", "icrkit.Cube", "since NotEnoughDataError", "sigma nan"):
        assert PYTHON.search(words)
    for words in ("1 feature(s) of d = 4", "m = 3 (of 7)", "icrkit score", "--n-views 2"):
        assert not PYTHON.search(words)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"features": features()}, ["has 3 noise levels on its third axis", "an array 'sigmas' beside the layer"]),
        (
            {"X": features(), "sigmas": SIGMAS, "y": np.arange(60)},
            ["layer 'y' holds int64", "are called labels, groups, sigmas and image_ids"],
        ),
        ({"features": features()[..., None]}, ["shape (60, 2, 3, 6, 1)", "(image, feature) of one noise level"]),
    ],
    ids=["levels without sigmas", "labels under another name", "five axes"],
)
def test_a_file_of_arrays_says_what_it_lacks(
    icrkit: Run, assert_one_line: Callable[..., None], arrays: dict[str, object], words: list[str], tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    for command in ("sweep", "score", "info"):
        assert_one_line(icrkit(command, tmp_path / "x.npz"), "x.npz", *words)


def test_a_level_that_is_not_known_is_a_dash(icrkit: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **LEVEL)
    lines = icrkit("score", tmp_path / "x.npz", "--metrics", "icr,rankme").stdout.splitlines()
    assert re.fullmatch(r"  sigma +-", lines[1]) and re.match(r"  icr +↓ +0\.\d{3} ", lines[2])


def test_images_are_not_features(icrkit: Run, assert_one_line: Callable[..., None], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 1, 8, 8), dtype=np.uint8))
    assert_one_line(
        icrkit("sweep", tmp_path / "x.npz"), "'images' holds uint8", "icrkit extract makes features of them"
    )
