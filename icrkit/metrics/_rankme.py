"""RankMe: the effective rank of an uncentred feature matrix, which label-free model selection reads.

Source: Garrido et al. 2023, "RankMe: Assessing the downstream performance of pretrained self-supervised representations
by their rank", ICML, arXiv 2210.02885.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icrkit._features import Features
from icrkit.metrics._base import Measure
from icrkit.metrics._effective_rank import entropy_rank, row_spectrum
from icrkit.moments import Moments

__all__ = ["RankMe", "rankme"]


def rankme(
    X: Any,
    views: str | int = 0,
    epsilon: float = 1e-7,
    *,
    spectrum: str = "singular",
    centered: bool = False,
    renormalize: bool = False,
) -> float:
    """RankMe: effective rank of the uncentred features; from 1 to min(N, d), and with epsilon a trifle above.

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one view by its number from 0.
    epsilon : float
        Added to every share of the spectrum.
    spectrum : {"singular", "eigenvalues"}
        Shares of the singular values (the paper's), or of their squares.
    centered : bool
        Subtract the mean row first; the paper doesn't.
    renormalize : bool
        Divide the shares by their sum, 1 + min(N, d) epsilon, again; the paper doesn't.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        There is no view of that number, or epsilon is negative.
    NotEnoughDataError
        Fewer than two images.
    NonFiniteError
        NaN or infinity among the features.
    DegenerateFeaturesError
        All features are zero (or, centred, all rows are equal).
    IllConditionedError
        Moments with float32 products, which cannot tell small eigenvalues from zero.

    Notes
    -----
    exp(-sum_k p_k log p_k), p_k = s_k/||s||_1 + epsilon, over the min(N, d) singular values s of the rows: square roots
    of the eigenvalues of X^T X, cut there, since the rest of them are zero whatever the features. Those below about
    1e-8 sqrt(d) times the largest count as those of the centred rows, than which none is smaller. Without
    renormalisation epsilon lifts the result by a share of up to min(N, d) epsilon log(1/epsilon), 0.02 % per hundred
    features, beyond min(N, d) if need be. Centred, at most N - 1 singular values are not zero. Invariant under
    rotation, scaling and order of the images; translation matters (a mean far from the origin is one direction that
    outweighs all others, and RankMe falls to 1), as do other affine maps. Biased downwards while N is not large against
    d. Noise counts as rank. Cost: one pass and the eigenvalues of a d x d matrix.

    Public code differs: epsilon 1e-7 (the paper, corvic-engine), 1e-5 (stable-pretraining) or 1e-12 (google-research
    graph_embedding); reptrix takes ``centered=True, spectrum="eigenvalues"``, which is another number.

    References
    ----------
    Garrido et al. 2023, arXiv 2210.02885, eqs. 1 and 2.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> rows = np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> round(ik.rankme(rows), 4), round(ik.rankme(rows + 100), 4)
    (1.7548, 1.0495)
    """
    return entropy_rank(row_spectrum(X, views, spectrum, centered), epsilon, renormalize)


class RankMe(Measure):
    """RankMe of features: the effective rank of their uncentred matrix.

    Parameters
    ----------
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one.
    epsilon : float
        Added to every share of the spectrum.
    spectrum : {"singular", "eigenvalues"}
        See :func:`icrkit.rankme`.
    centered : bool
        Subtract the mean row first.
    renormalize : bool
        Divide the shares by their sum again.

    Attributes
    ----------
    rankme_ : float
        From 1 to min(N, d), or min(N - 1, d) where centred; with epsilon a trifle above.

    Notes
    -----
    ``score(X)`` is the RankMe of X. Formula, behaviour and the variants of public code: see :func:`icrkit.rankme`.

    References
    ----------
    Garrido et al. 2023, arXiv 2210.02885, eqs. 1 and 2.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=8, random_state=0)
    >>> 1 < ik.RankMe().fit(cube).rankme_ < 8
    True
    """

    quantity = "rankme"
    takes_moments = True

    def __init__(
        self,
        views: str | int = 0,
        epsilon: float = 1e-7,
        *,
        spectrum: str = "singular",
        centered: bool = False,
        renormalize: bool = False,
    ) -> None:
        self.views = views
        self.epsilon = epsilon
        self.spectrum = spectrum
        self.centered = centered
        self.renormalize = renormalize

    def _results(self, given: Features | Moments, y: Any) -> Mapping[str, Any]:
        return {"rankme": rankme(given, **self.get_params())}
