"""Probes: how well simple classifiers of frozen features do on images that they have not seen.

Linear, k nearest neighbours, and linear with few labels. Sources: Alain & Bengio 2016, arXiv 1610.01644 (linear); Wu,
Xiong, Yu & Lin 2018, arXiv 1805.01978, section 3.4 (nearest neighbours).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from icrkit._features import Features, unit_rows
from icrkit.exceptions import NotEnoughDataError
from icrkit.metrics._base import Measure, labelled_features
from icrkit.metrics._classes import check_squares, class_codes, read_rows
from icrkit.metrics._distances import middle, rounding_share, squared_distances
from icrkit.moments import Moments

__all__ = [
    "FewLabelProbe",
    "KNNProbe",
    "LinearProbe",
    "ProbeAccuracy",
    "few_label_probe",
    "knn_probe",
    "linear_probe",
]

Rows = NDArray[Any]
Codes = NDArray[np.int64]

# Similarities held at a time.
BLOCK_BYTES = 32 << 20
# Relative difference below which distances tie: `squared_distances` is right to a tenth of it.
_TIE = 1e-9


class ProbeAccuracy(NamedTuple):
    """Share of labels told right, from 0 to 1, and its standard error."""

    accuracy: float
    error: float


def linear_probe(
    X: Any,
    y: Any = None,
    *,
    C: float = 1.0,
    max_iter: int = 1000,
    cv: int = 5,
    random_state: int = 0,
    views: str | int = "mean",
) -> ProbeAccuracy:
    """Accuracy of a linear classifier by cross-validation over images; from 0 to 1.

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
    y : array (n_images,), or (row,) for rows
        Class of each image; the cube's labels where left out.
    C : float
        Inverse strength of the L2 penalty.
    max_iter : int
        Steps of the optimiser.
    cv : int
        Folds.
    random_state : int
        Seed of the folds.
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one view by its number from 0.

    Returns
    -------
    ProbeAccuracy
        Named tuple of ``accuracy`` and ``error``, its standard error.

    Raises
    ------
    ValueError
        There is no view of that number.
    NotEnoughDataError
        Fewer than two classes, no class with as many images as folds, or one class only to train on in a fold.
    NonFiniteError
        NaN or infinity among the features, or squares that overflow.
    DegenerateFeaturesError
        Squares that underflow.

    Notes
    -----
    In each of the folds of ``StratifiedKFold(cv, shuffle=True, random_state=random_state)`` features are standardised
    on the training images, and scikit-learn's ``LogisticRegression`` is fitted to these. All views of an image are in
    one fold. The accuracy is the mean over images of what was told right of each when it was left out; the error is
    the standard deviation over images (ddof 1) over sqrt(n_images): given the training images, which no error over
    images knows to be random too. It is that of a probe trained on a share 1 - 1/cv of the images. Invariant under
    shift and scale of each feature and under the order of features; rotation and other affine maps matter through the
    penalty, the order of images through the folds. Cost: cv fits.

    Where the cube has groups, the folds are those of ``StratifiedGroupKFold``, of whole groups: a near copy of an image
    is not trained on while the image is judged. The error is then over groups, from the sums of what each deviates.

    References
    ----------
    Alain & Bengio 2016, arXiv 1610.01644.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=200, n_features=8, n_classes=4, icr=0.1, random_state=0)
    >>> found = ik.linear_probe(cube)
    >>> found.accuracy > 0.7, found.error < 0.05
    (True, True)
    """
    features, y = labelled_features(X, y)
    rows = _standardizable(features, views)
    return _cross_validated(lambda: _linear(C, max_iter), rows, class_codes(y)[1], features.groups, cv, random_state)


def knn_probe(
    X: Any,
    y: Any = None,
    *,
    n_neighbors: int = 200,
    temperature: float = 0.1,
    cv: int = 5,
    random_state: int = 0,
    views: str | int = "mean",
) -> ProbeAccuracy:
    """Accuracy of weighted nearest neighbours by cross-validation over images; from 0 to 1.

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
    y : array (n_images,), or (row,) for rows
        Class of each image; the cube's labels where left out.
    n_neighbors : int
        k; all training rows where there are fewer.
    temperature : float
        A neighbour's vote weighs exp(similarity/temperature).
    cv : int
        Folds.
    random_state : int
        Seed of the folds.
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one view by its number from 0.

    Returns
    -------
    ProbeAccuracy
        Named tuple of ``accuracy`` and ``error``, its standard error.

    Raises
    ------
    ValueError
        There is no view of that number; `n_neighbors` or `temperature` is not positive.
    NotEnoughDataError
        Fewer than two classes, no class with as many images as folds, or one class only to train on in a fold.
    NonFiniteError
        NaN or infinity among the features.

    Notes
    -----
    Each row left out goes to the class with the greatest sum of exp(similarity/temperature) over its
    k = min(n_neighbors, training rows) most similar training rows, similarity the cosine; of equal sums the first class
    wins. Folds and error: see :func:`icrkit.linear_probe`. A zero row has no direction and is equally unlike all, with
    a warning. Where a class has fewer rows than k, neighbours of other classes vote too: the weights must tell them
    apart, and large classes gain. Invariant under rotation, order of features, and any positive scaling of each row;
    translation and other affine maps matter, the order of images through the folds. Cost: N^2 d flops, in blocks,
    float32 products where their rounding changes no answer.

    References
    ----------
    Wu, Xiong, Yu & Lin 2018, arXiv 1805.01978, section 3.4.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=200, n_features=8, n_classes=4, icr=0.1, random_state=0)
    >>> ik.knn_probe(cube).accuracy > 0.6
    True
    """
    features, y = labelled_features(X, y)
    rows = read_rows(features, views)
    return _cross_validated(
        lambda: _CosineNeighbors(n_neighbors, temperature), rows, class_codes(y)[1], features.groups, cv, random_state
    )


def few_label_probe(
    X: Any,
    y: Any = None,
    X_test: Any = None,
    y_test: Any = None,
    *,
    n_labels: int = 10,
    n_draws: int = 10,
    C: float = 1.0,
    max_iter: int = 1000,
    random_state: int = 0,
    views: str | int = "mean",
) -> ProbeAccuracy:
    """Accuracy of a linear classifier that sees a few labels a class, mean over draws; from 0 to 1.

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        Images that labels are drawn from.
    y : array (n_images,), or (row,) for rows
        Class of each image; the cube's labels where left out.
    X_test, y_test : as X and y, optional
        Images to judge by; where left out, those of X that were not drawn.
    n_labels : int
        Labelled images of each class.
    n_draws : int
        Draws of the labelled images, each with a fit of its own.
    C : float
        Inverse strength of the L2 penalty.
    max_iter : int
        Steps of the optimiser.
    random_state : int
        Seed of the draws, which depend on y and on nothing else: the same at every layer and level.
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one view by its number from 0.

    Returns
    -------
    ProbeAccuracy
        Named tuple of ``accuracy`` and ``error``, its standard error.

    Raises
    ------
    ValueError
        There is no view of that number, or X and `X_test` differ in their features.
    NotEnoughDataError
        Fewer than two classes, a class with fewer than `n_labels` images, no image left to judge by, or fewer than two
        draws.
    NonFiniteError
        NaN or infinity among the features, or squares that overflow.
    DegenerateFeaturesError
        Squares that underflow.

    Notes
    -----
    Standardised on the drawn images; then scikit-learn's ``LogisticRegression``. The error is the standard deviation
    over draws (ddof 1) over sqrt(n_draws): how much hangs on which images were labelled, given those that are judged.
    Draws are without replacement within, not between them. Invariant under shift and scale of each feature and under
    the order of features; rotation and other affine maps matter through the penalty, the order of images through the
    draws. Cost: n_draws small fits, on one thread: rows so few are slower on several.

    References
    ----------
    Alain & Bengio 2016, arXiv 1610.01644.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=200, n_features=8, n_classes=4, icr=0.1, random_state=0)
    >>> few, more = (ik.few_label_probe(cube, n_labels=n).accuracy for n in (1, 10))
    >>> few < more
    True
    """
    if n_draws < 2:
        raise NotEnoughDataError(f"a standard error needs at least two draws, not {n_draws}")
    features, y = labelled_features(X, y)
    rows, (classes, codes) = _standardizable(features, views), class_codes(y)
    judged = _judged(X_test, y_test, classes, features.shape[2], views)
    scores = []
    with threadpool_limits(1, user_api="blas"):
        for draw in range(n_draws):
            drawn = _drawn(codes, classes, n_labels, random_state, draw)
            # Nor is an image judged one of whose group is labelled: it may be nearly the same.
            rest = np.flatnonzero(~np.isin(features.units, features.units[drawn]))
            test_rows, test_codes = judged or (rows[rest], codes[rest])
            if not len(test_rows):
                labelled = "labelled" if features.groups is None else "labelled, or of the group of one that is"
                raise NotEnoughDataError(
                    f"all n_samples={len(rows)} images are {labelled}, and none is left to judge by"
                )
            probe = _fitted(_linear(C, max_iter), rows[drawn], codes[drawn])
            scores.append(_right(probe, test_rows, test_codes).mean())
    return ProbeAccuracy(float(np.mean(scores)), float(np.std(scores, ddof=1) / np.sqrt(n_draws)))


def _judged(X: Any, y: Any, classes: NDArray[Any], n_features: int, views: str | int) -> tuple[Rows, Codes] | None:
    """Rows to judge by and their codes, -1 for a class that was never seen; None where there are none."""
    if X is None:
        if y is not None:
            raise ValueError("y_test is given without X_test")
        return None
    features, labels = labelled_features(X, y)
    if features.shape[2] != n_features:
        raise ValueError(f"X_test has {features.shape[2]} features, but X has {n_features}")
    place = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return read_rows(features, views), np.where(classes[place] == labels, place, -1)


def _drawn(codes: Codes, classes: NDArray[Any], n_labels: int, random_state: int, draw: int) -> Codes:
    rng = np.random.default_rng([random_state, draw])
    chosen = []
    for code, label in enumerate(classes):
        members = np.flatnonzero(codes == code)
        if not 1 <= n_labels <= len(members):
            raise NotEnoughDataError(f"class {label} has {len(members)} images; n_labels={n_labels} are wanted of each")
        chosen.append(rng.choice(members, n_labels, replace=False))
    return np.concatenate(chosen)


def _cross_validated(
    make: Callable[[], Any], rows: Rows, codes: Codes, groups: NDArray[Any] | None, cv: int, random_state: int
) -> ProbeAccuracy:
    counts = np.bincount(codes)
    if not 2 <= cv <= counts.max():
        raise NotEnoughDataError(
            f"cv={cv} folds: wanted 2 to {counts.max()}, the number of images in the largest class"
        )
    right = np.empty(len(rows))
    for train, test in _folds(codes, groups, cv, random_state):
        if len(np.unique(codes[train])) < 2:
            raise NotEnoughDataError(f"a fold leaves one class to train on: the classes have {counts.tolist()} images")
        right[test] = _right(_fitted(make(), rows[train], codes[train]), rows[test], codes[test])
    return ProbeAccuracy(float(right.mean()), _error_of_mean(right, groups))


def _folds(codes: Codes, groups: NDArray[Any] | None, cv: int, random_state: int) -> Iterator[tuple[Codes, Codes]]:
    """Numbers of the images to train on and to judge by, of each fold."""
    if groups is None:
        yield from StratifiedKFold(cv, shuffle=True, random_state=random_state).split(codes, codes)
        return
    n_groups = len(np.unique(groups))
    if n_groups < cv:
        raise NotEnoughDataError(f"cv={cv} folds hold whole groups of images, of which there are {n_groups} only")
    yield from StratifiedGroupKFold(cv, shuffle=True, random_state=random_state).split(codes, codes, groups)


def _error_of_mean(values: NDArray[np.float64], groups: NDArray[Any] | None) -> float:
    """Standard error of the mean over images, of which whole groups are independent."""
    if groups is None:
        return float(values.std(ddof=1) / np.sqrt(len(values)))
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], values - values.mean())
    return float(np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / len(values))


def _standardizable(features: Features, views: str | int) -> Rows:
    """Rows in float64, whose variances stay in range: standardising would pass others on as they are."""
    # As means over views come anyway: of float32 rows scikit-learn takes off a mean in float32, which is wrong by a
    # share of the spread far from the origin.
    rows = read_rows(features, views).astype(np.float64, copy=False)
    check_squares(float(np.abs(rows).max()), features.name)
    return rows


def _linear(C: float, max_iter: int) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=max_iter))


def _fitted(probe: Any, rows: Rows, labels: NDArray[Any]) -> Any:
    """The classifier of single rows, fitted to (image, row, feature) and the label of each image."""
    return probe.fit(rows.reshape(-1, rows.shape[2]), np.repeat(labels, rows.shape[1]))


def _right(probe: Any, rows: Rows, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Share of each image's rows that are told right."""
    told = probe.predict(rows.reshape(-1, rows.shape[2])).reshape(rows.shape[:2])
    return np.asarray((told == labels[:, None]).mean(axis=1))


class _CosineNeighbors:
    """Votes of the most similar rows, in blocks of rows to be told.

    1 less the cosine is half the squared distance of unit vectors, which keeps its digits about an origin among them:
    far from the origin of the features cosines are all 1 but for their last digits.
    """

    def __init__(self, n_neighbors: int, temperature: float) -> None:
        if n_neighbors < 1:
            raise ValueError(f"n_neighbors must be at least 1, not {n_neighbors}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        self.n_neighbors = n_neighbors
        self.temperature = temperature

    def fit(self, rows: Rows, labels: NDArray[Any]) -> Self:
        unit = unit_rows(rows.astype(np.float64, copy=False))
        self.origin = middle(unit)
        self.rows, self.zero = unit - self.origin, _is_zero(unit)
        self.half = (np.einsum("nd,nd->n", self.rows, self.rows) + self.zero) / 2
        self.single = self.rows.astype(np.float32)
        self.classes, self.codes = np.unique(labels, return_inverse=True)
        return self

    def predict(self, rows: Rows) -> NDArray[Any]:
        step = max(1, BLOCK_BYTES // (len(self.rows) * self.rows.itemsize))
        told = [self._told(rows[start : start + step]) for start in range(0, len(rows), step)]
        return np.asarray(self.classes[np.concatenate(told)])

    def _told(self, rows: Rows) -> NDArray[np.intp]:
        """Number of the class of each row: by float32 products where their rounding cannot change it."""
        placed = unit_rows(rows.astype(np.float64, copy=False)) - self.origin
        k = min(self.n_neighbors, len(self.rows))
        # The cosine, less what is the same for all rows to choose from.
        rough = placed.astype(np.float32) @ self.single.T
        rough -= self.half.astype(np.float32)
        nearest = np.argpartition(rough, len(self.rows) - k, axis=1)[:, len(self.rows) - k :]
        near = np.take_along_axis(rough, nearest, axis=1).astype(np.float64)
        votes = self._summed(near, nearest)
        # Every similarity may be wrong by so much: weights by a share of themselves, and what lies about the last place
        # in or out.
        reach = np.sqrt(2 * self.half.max())
        wrong = rounding_share(placed.shape[1]) * reach * (np.sqrt(np.einsum("nd,nd->n", placed, placed)) + reach)
        least = near.min(axis=1)
        about = np.count_nonzero(rough >= (least - 2 * wrong)[:, None], axis=1) - k
        about += np.count_nonzero(near <= (least + 2 * wrong)[:, None], axis=1)
        with np.errstate(over="ignore", invalid="ignore"):  # a small temperature: nothing is certain
            share = np.expm1(4 * wrong / self.temperature)
            last = np.exp((least - near.max(axis=1) + 4 * wrong) / self.temperature)
            doubt = 2 * (share * votes.sum(axis=1) + about * last)
        told = votes.argmax(axis=1)
        second = np.partition(votes, -2, axis=1)[:, -2] if votes.shape[1] > 1 else np.full(len(votes), -np.inf)
        open_ = np.flatnonzero(~(votes.max(axis=1) - second > doubt))
        if len(open_):
            told[open_] = _first_of_greatest(self._votes(rows[open_]))
        return np.asarray(told)

    def _votes(self, rows: Rows) -> NDArray[np.float64]:
        """Votes (row, class) by the distances of unit vectors, each right to its own last digits."""
        unit = unit_rows(rows.astype(np.float64, copy=False))
        # Of a zero row half the square is 1/2 and 1 less the cosine is 1.
        squares = squared_distances(unit - self.origin, self.rows) + self.zero + _is_zero(unit)[:, None]
        distances = squares / 2
        nearest = _nearest(distances, min(self.n_neighbors, distances.shape[1]))
        return self._summed(-np.take_along_axis(distances, nearest, axis=1), nearest)

    def _summed(self, near: NDArray[np.float64], nearest: NDArray[np.intp]) -> NDArray[np.float64]:
        """Weights of the nearest rows, (row, k), added up by class."""
        # The largest is taken off: small temperatures would overflow, and only the order of the sums counts.
        weights = np.exp((near - near.max(axis=1, keepdims=True)) / self.temperature)
        cell = np.arange(len(near))[:, None] * len(self.classes) + self.codes[nearest]
        votes = np.bincount(cell.ravel(), weights.ravel(), minlength=len(near) * len(self.classes))
        return np.asarray(votes.reshape(len(near), -1), dtype=np.float64)


def _is_zero(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(~rows.any(axis=1))


def _nearest(distances: NDArray[np.float64], k: int) -> NDArray[np.intp]:
    """Columns of the k least entries of each row; of those that tie with the last one the first columns."""
    nearest = np.argpartition(distances, k - 1, axis=1)[:, :k]
    most = np.take_along_axis(distances, nearest, axis=1).max(axis=1)
    tied = np.flatnonzero(np.count_nonzero(distances <= (most * (1 + _TIE))[:, None], axis=1) > k)
    for row in tied:  # copies: which of them rounding leaves among the k must not matter
        below = np.flatnonzero(distances[row] < most[row] * (1 - _TIE))
        ties = np.flatnonzero(np.abs(distances[row] - most[row]) <= most[row] * _TIE)
        nearest[row] = np.concatenate([below, ties])[:k]
    return np.asarray(nearest)


def _first_of_greatest(votes: NDArray[np.float64]) -> NDArray[np.intp]:
    """Column of the greatest entry of each row; the first of those that tie but for rounding."""
    return np.asarray((votes >= votes.max(axis=1, keepdims=True) * (1 - 1e-9)).argmax(axis=1))


class _Probe(ClassifierMixin, Measure):  # type: ignore[misc]
    """A classifier of single rows, with its cross-validated accuracy.

    Subclasses define ``_rows(features) -> rows``, those that it sees, and ``_make() -> probe``.
    """

    quantity = "accuracy"
    needs_labels = True
    least_images = 1
    cv: int
    random_state: int
    views: str | int

    def predict(self, X: Any) -> NDArray[Any]:
        """Class of each row of X.

        Parameters
        ----------
        X : Cube, DataArray, array (image, view, feature) or rows (row, feature)

        Returns
        -------
        ndarray (n_images,), or (row,) for rows
            With ``views="all"``: (n_images * n_views,), all views of an image together.
        """
        check_is_fitted(self)
        rows = self._rows(self._read(X, reset=False))
        return np.asarray(self.probe_.predict(rows.reshape(-1, rows.shape[2])))

    def score(self, X: Any, y: Any = None) -> float:
        """Accuracy on other images than those of the fit.

        Parameters
        ----------
        X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        y : array (n_images,), or (row,) for rows
            Class of each image; the cube's labels where left out.

        Returns
        -------
        float
        """
        check_is_fitted(self)
        features, labels = self._given(X, y, reset=False)
        return float(_right(self.probe_, self._rows(features), labels).mean())

    def _results(self, given: Features | Moments, y: Any) -> Mapping[str, Any]:
        rows, (classes, codes) = self._rows(given), class_codes(y)
        groups = given.groups if isinstance(given, Features) else None
        accuracy, error = _cross_validated(self._make, rows, codes, groups, self.cv, self.random_state)
        probe = _fitted(self._make(), rows, classes[codes])
        return {"classes": classes, "accuracy": accuracy, "accuracy_error": error, "probe": probe}

    def _rows(self, features: Any) -> Rows:
        raise NotImplementedError

    def _make(self) -> Any:
        raise NotImplementedError


class LinearProbe(_Probe):
    """Linear classifier of frozen features, with its accuracy by cross-validation over images.

    Parameters
    ----------
    C : float
        Inverse strength of the L2 penalty.
    max_iter : int
        Steps of the optimiser.
    cv : int
        Folds of the cross-validation.
    random_state : int
        Seed of the folds.
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one. Rows of a 2-D X stand for themselves.

    Attributes
    ----------
    accuracy_ : float
        By cross-validation over the images of the fit.
    accuracy_error_ : float
        Standard error of `accuracy_`.
    classes_ : ndarray (K,)
    probe_ : Pipeline
        StandardScaler and LogisticRegression, fitted to all images of the fit.
    n_iter_ : int
        Steps that the optimiser took for it.

    Notes
    -----
    ``score(X, y)`` is the accuracy of `probe_` on other images. Definitions and behaviour: see
    :func:`icrkit.linear_probe`.

    References
    ----------
    Alain & Bengio 2016, arXiv 1610.01644.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=8, n_classes=4, icr=0.1, random_state=0)
    >>> probe = ik.LinearProbe().fit(cube[::2])
    >>> probe.accuracy_ > 0.7, probe.score(cube[1::2]) > 0.7
    (True, True)
    """

    def __init__(
        self,
        C: float = 1.0,
        max_iter: int = 1000,
        *,
        cv: int = 5,
        random_state: int = 0,
        views: str | int = "mean",
    ) -> None:
        self.C = C
        self.max_iter = max_iter
        self.cv = cv
        self.random_state = random_state
        self.views = views

    def _results(self, given: Features | Moments, y: Any) -> Mapping[str, Any]:
        results = super()._results(given, y)
        return {**results, "n_iter": int(results["probe"][-1].n_iter_.max())}

    def _rows(self, features: Any) -> Rows:
        return _standardizable(features, self.views)

    def _make(self) -> Any:
        return _linear(self.C, self.max_iter)


class KNNProbe(_Probe):
    """Classifier by weighted nearest neighbours, with its accuracy by cross-validation over images.

    Parameters
    ----------
    n_neighbors : int
        k; all training rows where there are fewer.
    temperature : float
        A neighbour's vote weighs exp(similarity/temperature).
    cv : int
        Folds of the cross-validation.
    random_state : int
        Seed of the folds.
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one. Rows of a 2-D X stand for themselves.

    Attributes
    ----------
    accuracy_ : float
        By cross-validation over the images of the fit.
    accuracy_error_ : float
        Standard error of `accuracy_`.
    classes_ : ndarray (K,)
    probe_ : object with ``predict(rows)``
        All rows of the fit, at unit length, and their labels.

    Notes
    -----
    ``score(X, y)`` is the accuracy on other images, with the images of the fit as neighbours. Definitions and
    behaviour: see :func:`icrkit.knn_probe`.

    References
    ----------
    Wu, Xiong, Yu & Lin 2018, arXiv 1805.01978, section 3.4.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=8, n_classes=4, icr=0.1, random_state=0)
    >>> probe = ik.KNNProbe().fit(cube)
    >>> probe.accuracy_ > 0.6, probe.predict(cube[:5]).shape
    (True, (5,))
    """

    def __init__(
        self,
        n_neighbors: int = 200,
        temperature: float = 0.1,
        *,
        cv: int = 5,
        random_state: int = 0,
        views: str | int = "mean",
    ) -> None:
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        self.cv = cv
        self.random_state = random_state
        self.views = views

    def _rows(self, features: Any) -> Rows:
        return read_rows(features, self.views)

    def _make(self) -> Any:
        return _CosineNeighbors(self.n_neighbors, self.temperature)


class FewLabelProbe(Measure):
    """Accuracy of a linear classifier that sees a few labels a class, mean over seeded draws.

    Parameters
    ----------
    n_labels : int
        Labelled images of each class.
    n_draws : int
        Draws of the labelled images.
    C : float
        Inverse strength of the L2 penalty.
    max_iter : int
        Steps of the optimiser.
    random_state : int
        Seed of the draws.
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one. Rows of a 2-D X stand for themselves.

    Attributes
    ----------
    accuracy_ : float
        On the images that were not drawn.
    accuracy_error_ : float
        Standard error of `accuracy_`, over draws.

    Notes
    -----
    ``score(X, y)`` draws from X itself. To draw from some images and judge by others, and for definitions and
    behaviour, see :func:`icrkit.few_label_probe`.

    References
    ----------
    Alain & Bengio 2016, arXiv 1610.01644.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=200, n_features=8, n_classes=4, icr=0.1, random_state=0)
    >>> ik.FewLabelProbe(n_labels=5).fit(cube).accuracy_ > 0.6
    True
    """

    quantity = "accuracy"
    needs_labels = True

    def __init__(
        self,
        n_labels: int = 10,
        n_draws: int = 10,
        *,
        C: float = 1.0,
        max_iter: int = 1000,
        random_state: int = 0,
        views: str | int = "mean",
    ) -> None:
        self.n_labels = n_labels
        self.n_draws = n_draws
        self.C = C
        self.max_iter = max_iter
        self.random_state = random_state
        self.views = views

    def _results(self, given: Features | Moments, y: Any) -> Mapping[str, Any]:
        accuracy, error = few_label_probe(given, y, **self.get_params())
        return {"accuracy": accuracy, "accuracy_error": error}
