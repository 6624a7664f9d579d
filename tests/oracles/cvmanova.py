"""Pattern distinctness D of cvmanova between images; run by hand.

pip install cvmanova==4.0.0
python -P tests/oracles/cvmanova.py      # -P: this file has the peer's name

Sessions are runs over the same images, a row a view. A run and its copy leave nothing out: D is then MANOVA's.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INPUT = """\
import numpy as np
rng = np.random.default_rng(0)
mix = rng.standard_normal((5, 5)) + 2 * np.eye(5)
def images(n):
    return (rng.standard_normal((n, 1, 5)) + rng.standard_normal((n, 6, 5))) @ mix + np.arange(6)[:, None]
h = images(30)
other = images(7)
"""


def main() -> None:
    from cvmanova import CvManovaCore, contrasts

    Matrix = NDArray[np.floating[Any]]

    def differences(n: int) -> Matrix:
        """Contrasts between n levels, a column each."""
        return np.asarray(contrasts([n])[0][0])

    def design(h: Matrix, centering: str) -> tuple[Matrix, int]:
        """A column an image, for "view" with the means of the views beside, and the degrees of freedom left."""
        n, v, _ = h.shape
        columns = np.kron(np.eye(n), np.ones((v, 1)))
        if centering == "view":
            columns = np.hstack([columns, np.tile(differences(v), (n, 1))])
        return columns, (n - (centering == "view")) * (v - 1)

    def distinctness(runs: list[Matrix], x: Matrix, dof: int, contrast: Matrix) -> float:
        # For each run l, with K others: H = V (N - 1) sum_k Cov_kl of means over views, E = m W pooled over the others,
        # and D = (m - d - 1)/(K N V) Tr(H E^-1) = d R (N - 1)/N, R = (m - d - 1)/m mean_k Tr(W^-1 Cov_kl)/d.
        core = CvManovaCore(runs, [x] * len(runs), [contrast], [dof] * len(runs))
        return float(core.compute(np.arange(runs[0].shape[1]))[0])

    made: dict[str, Any] = {}
    exec(INPUT, made)
    h, other = made["h"], made["other"]
    (n, v, d), k = h.shape, len(other)
    numbers = {}
    for count in (2, 3):
        runs = np.split(h, count, axis=1)
        x, dof = design(runs[0], "none")
        numbers[f"D of {count} runs"] = distinctness([run.reshape(-1, d) for run in runs], x, dof, differences(n))
    for centering in ("none", "view"):
        x, dof = design(h, centering)
        numbers[f"D of a run and its copy, {centering}"] = distinctness([h.reshape(-1, d)] * 2, x, dof, differences(n))
        # Each row of the other images has a column of its own: they say nothing of E.
        x = np.block([[np.zeros((n * v, k * v)), x], [np.eye(k * v), np.zeros((k * v, x.shape[1]))]])
        rows = np.vstack([h.reshape(-1, d), other.reshape(-1, d)])
        within_images = np.eye(k) if centering == "none" else differences(k)
        for name, contrast in (
            ("images", np.kron(differences(k), np.ones((v, 1)))),
            ("views", np.kron(within_images, differences(v))),
        ):
            numbers[f"D of other {name}, {centering}"] = distinctness([rows] * 2, x, dof, contrast)
    oracle = {"peer": "cvmanova", "version": version("cvmanova"), "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(oracle, indent=2) + "\n")


if __name__ == "__main__":
    main()
