"""Numbers of rsatoolbox for traces and mean SNR, from its crossnobis distances between images; run by hand.

pip install rsatoolbox==0.3.2
python -P tests/oracles/rsatoolbox.py      # -P: this file has the peer's name

Its distances are divided by the number of features. The residual covariance is that of ``cov_from_unbalanced``;
``cov_from_measurements`` divides the same scatter by (N - 1) V instead of N (V - 1).
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
    return (rng.standard_normal((n, 1, 5)) + rng.standard_normal((n, 3, 5))) @ mix + [[[0], [1], [3]]]
h = images(40)
other = images(9)
folds = np.array(list("3121220320213321332003220122002210133300"), dtype=int)
"""


def main() -> None:
    from rsatoolbox.data import Dataset
    from rsatoolbox.data.noise import cov_from_measurements, cov_from_unbalanced, prec_from_unbalanced
    from rsatoolbox.rdm import calc_rdm, calc_rdm_unbalanced

    def dataset(h: NDArray[np.float64], centering: str) -> tuple[Any, int]:
        """Rows with their image and view, each view's own mean removed for "view", and the degrees of freedom left."""
        n, v, d = h.shape
        rows = (h - h.mean(axis=0) if centering == "view" else h).reshape(-1, d)
        labels = {"image": np.repeat(np.arange(n), v), "view": np.tile(np.arange(v), n), "row": np.arange(n * v)}
        return Dataset(rows, obs_descriptors=labels), (n - (centering == "view")) * (v - 1)

    def residual(h: NDArray[np.float64], centering: str) -> NDArray[np.float64]:
        rows, dof = dataset(h, centering)
        return np.asarray(cov_from_unbalanced(rows, "image", dof=dof, method="full"))

    def precision(h: NDArray[np.float64], centering: str) -> NDArray[np.float64]:
        rows, dof = dataset(h, centering)
        return np.asarray(prec_from_unbalanced(rows, "image", dof=dof, method="full"))

    def half_distance(h: NDArray[np.float64], centering: str, p: NDArray[np.float64] | None) -> float:
        # Folds by view: over pairs of images the mean of (x_i - x_j)(y_i - y_j)'/2 is Cov(x, y), ddof 1, of two views x
        # and y. Folds by row: B, less S_i/(V(V - 1)), S_i the scatter in image i, (V - 1) W on average: B - W/V.
        rows, _ = dataset(h, "none")
        if centering == "view":
            distances = calc_rdm(rows, "crossnobis", "image", noise=p, cv_descriptor="view")
        else:
            distances = calc_rdm_unbalanced(rows, "crossnobis", "image", noise=p, cv_descriptor="row")
        return float(distances.dissimilarities.mean() / 2)

    made: dict[str, Any] = {}
    exec(INPUT, made)
    h, other, folds = made["h"], made["other"], made["folds"]
    d = h.shape[2]
    numbers = {}
    for centering in ("none", "view"):
        p = precision(h, centering)
        numbers[f"trace of invariant, {centering}"] = d * half_distance(h, centering, None)
        numbers[f"trace of residual, {centering}"] = float(np.trace(residual(h, centering)))
        numbers[f"mean SNR, {centering}"] = half_distance(h, centering, p)
        noise = np.trace(p @ residual(other, centering)) / d
        numbers[f"mean SNR of other, {centering}"] = float(half_distance(other, centering, p) / noise)
        signal = noise = 0.0
        for k in np.unique(folds):
            p, fold = precision(h[folds != k], centering), h[folds == k]
            signal += len(fold) * half_distance(fold, centering, p)
            noise += len(fold) * float(np.trace(p @ residual(fold, centering))) / d
        numbers[f"mean SNR by folds, {centering}"] = signal / noise
    rows, _ = dataset(h, "none")
    numbers["trace of cov_from_measurements"] = float(np.trace(cov_from_measurements(rows, "image", method="full")))
    oracle = {"peer": "rsatoolbox", "version": version("rsatoolbox"), "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(oracle, indent=2) + "\n")


if __name__ == "__main__":
    main()
