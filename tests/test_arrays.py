"""One door for every kind of input: each function and estimator gives the same number, or says what is missing."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy import sparse

import icrkit as ik
from icrkit._arrays import missing, n_axes, to_column, to_numpy
from icrkit.exceptions import CubeFormatError, NonFiniteError

pytestmark = pytest.mark.filterwarnings(
    "ignore:the plug-in ICR:UserWarning", "ignore:a pilot of:UserWarning", "ignore:masks of samples"
)


def features(n: int = 60, v: int = 2, d: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    # Multiples of 1/4 below 8: exact in every type.
    h = 2 * rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))
    return (np.round(4 * h) / 4).clip(-7, 7).astype(np.float32)


H, Y = features(), np.arange(60) % 3


class OnlyDlpack:
    def __init__(self, array: np.ndarray) -> None:
        self.array, self.ndim = array, array.ndim

    def __dlpack__(self, **options: object) -> object:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> object:
        return self.array.__dlpack_device__()


class OnlyArray:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return np.asarray(self.array, dtype=dtype)


KINDS = {
    "float64": lambda a: a.astype(np.float64),
    "float16": lambda a: a.astype(np.float16),
    "tensor with gradient": lambda a: torch.from_numpy(a.copy()).requires_grad_(),
    "parameter": lambda a: torch.nn.Parameter(torch.from_numpy(a.copy())),
    "bfloat16": lambda a: torch.from_numpy(a.copy()).bfloat16(),
    "half tensor": lambda a: torch.from_numpy(a.copy()).half(),
    "list": lambda a: a.tolist(),
    "tuple of arrays": lambda a: tuple(a),
    "list of tensors": lambda a: [torch.from_numpy(one.copy()).requires_grad_() for one in a],
    "mask without a masked entry": lambda a: np.ma.masked_array(a, mask=np.zeros(a.shape, dtype=bool)),
    "dask": lambda a: da.from_array(a, chunks=(20, *a.shape[1:])),
    "memoryview": lambda a: memoryview(np.ascontiguousarray(a)),
    "dlpack": OnlyDlpack,
    "__array__": OnlyArray,
    "not writeable": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}
CUBES = {
    "DataArray": lambda h: xr.DataArray(h, dims=("image", "view", "feature")),
    "DataArray of dask": lambda h: xr.DataArray(da.from_array(h, chunks=(20, 2, 4)), dims=("image", "view", "feature")),
    "Dataset": lambda h: xr.Dataset({"mid": (("image", "view", "feature"), h)}),
    "Cube": ik.from_arrays,
}
TABLES = {
    "frame": lambda a: pd.DataFrame(a, columns=list("abcd")),
    "frame of nullable columns": lambda a: pd.DataFrame(a, columns=list("abcd")).convert_dtypes(),
}
OF_VIEWS = {
    "ICREstimator": lambda X: ik.ICREstimator().fit(X).icr_,
    "FisherSpectrum": lambda X: ik.FisherSpectrum().fit(X).eigenvalues_[0],
    "InvariantInformation": lambda X: ik.InvariantInformation().fit(X).information_,
    "AlignUniform": lambda X: ik.AlignUniform().fit(X).uniformity_,
    "LiDAR": lambda X: ik.LiDAR().fit(X).lidar_,
    "TraceRatio": lambda X: ik.TraceRatio().fit(X).trace_ratio_,
    "trace_ratio": ik.trace_ratio,
    "lidar": ik.lidar,
    "invariant_information": lambda X: ik.invariant_information(X),
    "Moments": lambda X: ik.Moments.from_cube(X).total.within[0, 0],
    "alignment": ik.alignment,
    "uniformity": ik.uniformity,
    "gram_matrix": lambda X: ik.icr(ik.gram_matrix(X), "crossfit", regularization=0.1),
}
OF_ROWS = {
    "rankme": ik.rankme,
    "RankMe": lambda X: ik.RankMe().fit(X).rankme_,
    "alpha_req": lambda X: ik.alpha_req(X, ranks=(1, 4)),
    "effective_rank": ik.effective_rank,
    "participation_ratio": ik.participation_ratio,
    "stable_rank": ik.stable_rank,
    "frechet_distance": lambda X: ik.frechet_distance(X, H[:30]),
    "FrechetDistance": lambda X: ik.FrechetDistance().fit(X).evaluate(H[:30]),
    "linear_cka": lambda X: ik.linear_cka(X, X),
    "auth_pct": lambda X: ik.auth_pct(X, X),
    "kernel_distance": lambda X: ik.kernel_distance(X, H[:30]),
    "frechet_distance_infinite": lambda X: ik.frechet_distance_infinite(X, H[:30]),
    "memorization_ratio": lambda X: ik.memorization_ratio(X, H[:30], 0.9),
    "MemorizationRatio": lambda X: ik.MemorizationRatio(0.9).fit(X).evaluate(H[:30]),
    "nearest_ratio": lambda X: ik.nearest_ratio(X, H[:30], threshold=0.8),
    "linear_probe": lambda X: ik.linear_probe(X, Y).accuracy,
    "LinearProbe": lambda X: ik.LinearProbe().fit(X, Y).score(H, Y),
    "neighbor_retrieval": lambda X: ik.neighbor_retrieval(X, [0]).similarity[0, 0],
    "silhouette": lambda X: ik.silhouette(X, Y),
    "nc1": lambda X: ik.nc1(X, Y),
    "NC1Scorer": lambda X: ik.NC1Scorer().fit(X, Y).nc1_,
    "cdnv": lambda X: ik.cdnv(X, Y),
    "class_separation": lambda X: ik.class_separation(X, Y),
    "knn_probe": lambda X: ik.knn_probe(X, Y).accuracy,
    "few_label_probe": lambda X: ik.few_label_probe(X, Y, n_labels=5, n_draws=2).accuracy,
}


def close(found: object, right: object) -> bool:
    return bool(np.isclose(float(found), float(right), rtol=1e-5, atol=1e-6, equal_nan=False))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def rounded_rows_repeat():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*identical")
        yield


@pytest.mark.parametrize("name", [*OF_VIEWS, *OF_ROWS])
def test_every_kind_of_three_axes_gives_one_number(name):
    act = (OF_VIEWS | OF_ROWS)[name]
    right = act(H)
    wrong = {kind: found for kind, make in (KINDS | CUBES).items() if not close(found := act(make(H)), right)}
    assert not wrong, (wrong, right)


@pytest.mark.parametrize("name", OF_ROWS)
def test_every_kind_of_rows_gives_one_number(name):
    rows, act = H[:, 0], OF_ROWS[name]
    right = act(rows)
    kinds = KINDS | TABLES | {"DataArray": lambda a: xr.DataArray(a, dims=("image", "feature"))}
    if name[0].isupper():
        kinds.pop("DataArray")
    wrong = {kind: found for kind, make in kinds.items() if not close(found := act(make(rows)), right)}
    assert not wrong, (wrong, right)


@pytest.mark.parametrize("name", ["ICREstimator", "InvariantInformation", "AlignUniform", "TraceRatio"])
def test_every_kind_of_consecutive_rows(name):
    rows, act = H.reshape(-1, 4), OF_VIEWS[name]
    right = act(rows)
    wrong = {kind: found for kind, make in (KINDS | TABLES).items() if not close(found := act(make(rows)), right)}
    assert not wrong, (wrong, right)


LABELS = {
    "list": list,
    "tensor": torch.from_numpy,
    "list of tensors": lambda y: [torch.tensor(one) for one in y],
    "series": pd.Series,
    "nullable series": lambda y: pd.Series(y, dtype="Int64"),
    "objects": lambda y: y.astype(object),
    "text": lambda y: y.astype(str),
    "objects of text": lambda y: y.astype(str).astype(object),
    "text series": lambda y: pd.Series(y.astype(str)),
    "categories": lambda y: pd.Series(y.astype(str), dtype="category"),
    "DataArray": lambda y: xr.DataArray(y, dims="image"),
    "dask": lambda y: da.from_array(y, chunks=10),
    "mask without a masked entry": lambda y: np.ma.masked_array(y, mask=np.zeros(len(y), dtype=bool)),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("act", [ik.nc1, ik.cdnv, ik.silhouette, lambda X, y: ik.knn_probe(X, y).accuracy])
def test_every_kind_of_labels(act, kind):
    assert close(act(H, LABELS[kind](Y)), act(H, Y))
    cube = ik.from_arrays(H, labels=LABELS[kind](Y))
    assert close(act(cube, None), act(H, Y))


# ---- what is missing -----------------------------------------------------------------------------------------------

HOLES = np.zeros(H.shape, dtype=bool)
HOLES[7, 0, 2] = HOLES[9] = True


def masked(dtype: str = "float32", fill: float = 99.0) -> np.ma.MaskedArray:
    h = (4 * H).astype(dtype)
    h[HOLES] = fill
    return np.ma.masked_array(h, mask=HOLES)


def with_none() -> np.ndarray:
    h = H.astype(object)
    h[HOLES] = None
    return h


MISSING = {
    "mask": masked,
    "mask of integers": lambda: masked("int64"),
    "list of masked images": lambda: list(masked()),
    "None": with_none,
    "NA": lambda: np.where(HOLES, pd.NA, H.astype(object)),
    "nested lists with None": lambda: with_none().tolist(),
    "dask of masks": lambda: da.from_array(masked(), chunks=(20, 2, 4), asarray=False),
    "DataArray of masks": lambda: xr.DataArray(masked(), dims=("image", "view", "feature")),
    "DataArray of dask of masks": lambda: xr.DataArray(
        da.from_array(masked(), chunks=(20, 2, 4), asarray=False), dims=("image", "view", "feature")
    ),
    "fill value by its name": lambda: xr.DataArray(
        masked().data, dims=("image", "view", "feature"), attrs={"_FillValue": np.float32(99.0)}
    ),
    "from_arrays": lambda: ik.from_arrays(masked()),
}


@pytest.mark.parametrize("kind", MISSING)
@pytest.mark.parametrize("name", [*OF_VIEWS, *OF_ROWS])
def test_missing_features_are_never_their_fill_value(name, kind):
    with pytest.raises(NonFiniteError, match=r"\d of \d+ features are missing.* image 7, view 0, feature 2"):
        (OF_VIEWS | OF_ROWS)[name](MISSING[kind]())


@pytest.mark.parametrize("name", OF_ROWS)
@pytest.mark.parametrize("kind", ["mask", "frame", "nullable frame"])
def test_missing_features_of_rows(name, kind):
    rows = masked()[:, 0]
    frame = pd.DataFrame(rows.data).mask(rows.mask)
    X = {"mask": rows, "frame": frame, "nullable frame": frame.convert_dtypes()}[kind]
    # The extrapolation meets them in the first of its subsets.
    count = r"\d+ of \d+" if name == "frechet_distance_infinite" else "5 of 240"
    with pytest.raises(NonFiniteError, match=rf"{count} features are missing.* image 7, view 0, feature 2"):
        OF_ROWS[name](X)


@pytest.mark.parametrize(
    "act",
    [
        ik.ICREstimator().fit(H).transform,
        ik.ICREstimator().fit(H).score,
        ik.FisherSpectrum().fit(H).transform,
        ik.AlignUniform().fit(H).transform,
        ik.AlignUniform(normalize=None).fit(H).transform,
        ik.InvariantInformation().fit(H).transform,
        ik.NC1Scorer().fit(H, Y).transform,
        ik.MeanViews().fit(H).transform,
        ik.MeanViews().fit_transform,
        ik.PerView(ik.FisherSpectrum().fit(H)).fit,
        ik.LinearProbe().fit(H, Y).predict,
        ik.KNNProbe().fit(H, Y).predict,
        ik.FrechetDistance().fit(H).evaluate,
        ik.KernelDistance().fit(H).evaluate,
        ik.AuthPct().fit(H).evaluate,
        ik.NearestRatio().fit(H).evaluate,
        ik.LinearCKA().fit(H).evaluate,
    ],
)
@pytest.mark.parametrize("value", ["mask", np.nan, np.inf, -np.inf])
def test_what_comes_after_the_fit_is_looked_through_too(act, value):
    h = masked() if value == "mask" else np.where(HOLES, value, H)
    with pytest.raises(NonFiniteError, match=r"\d of \d+ features .* image 7, view 0, feature 2"):
        act(h)


@pytest.mark.parametrize("est", [ik.ICREstimator(), ik.FisherSpectrum(), ik.AlignUniform(), ik.InvariantInformation()])
def test_rows_that_are_transformed_are_looked_through(est):
    with pytest.raises(NonFiniteError, match="image 7, view 0, feature 2"):
        est.fit(H).transform(masked()[:, 0])


NOTHING = {
    "mask": np.ma.masked_array(Y, mask=Y == 1),
    "NaN": np.where(Y == 1, np.nan, Y),
    "None among text": np.where(Y == 1, None, Y.astype(str).astype(object)),
    "NA": pd.Series(Y, dtype="Int64").where(Y != 1),
    "NA among text": pd.Series(Y.astype(str), dtype="string").where(Y != 1),
    "no category": pd.Series(Y.astype(str), dtype="category").where(Y != 1),
    "NaT": np.where(Y == 1, np.datetime64("NaT"), np.datetime64("2020-01-01") + Y),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_missing_labels(kind, tmp_path):
    y = NOTHING[kind]
    for act in (ik.nc1, ik.silhouette, ik.linear_probe):
        with pytest.raises(ValueError, match=r"20 of 60 labels, .* at number 1"):
            act(H, y)
    cube = ik.from_arrays(H, labels=y)
    assert "20 images without" in repr(cube)
    with pytest.raises(ValueError, match=r"20 of 60 labels, .* at number 1"):
        ik.nc1(cube)
    assert missing(ik.from_rows(H.reshape(-1, 4), n_views=2, labels=np.repeat(to_column(y, "y"), 2)).labels).sum() == 20
    with ik.CubeWriter(tmp_path / "x.cube", {"mid": 4}, [0.3], n_views=2, n_images=60) as writer:
        with pytest.raises(CubeFormatError, match="labels: 20 of 60 are missing, the first is number 1"):
            writer.append(range(60), {"mid": H}, labels=y)
        with pytest.raises(CubeFormatError, match="image_ids: 20 of 60 are missing, the first is number 1"):
            writer.append(y, {"mid": H})
        with pytest.raises(NonFiniteError):
            writer.append(range(60), {"mid": masked()})
    with pytest.raises(CubeFormatError, match="image ids are missing: 20 of 60, the first at row 1"):
        ik.from_arrays(H, image_ids=y)
    with pytest.raises(CubeFormatError, match="NaN at row 1, and in 20 of 60 rows"):
        ik.from_rows(H[:, 0], groups=y)
    with pytest.raises(CubeFormatError, match="NaN at row 1, and in 20 of 60 rows"):
        ik.ICREstimator().fit(H[:, 0], groups=y)


def test_a_label_that_only_some_rows_have():
    X, groups = H[:4, 0], ["a", "a", "b", "b"]
    assert missing(ik.from_rows(X, groups=groups, labels=[np.nan, np.nan, 1, 1]).labels).tolist() == [True, False]
    with pytest.raises(CubeFormatError, match="missing label of image 'a'"):
        ik.from_rows(X, groups=groups, labels=[np.nan, 0, 1, 1])
    with pytest.raises(CubeFormatError, match="image 'b' have different labels"):
        ik.from_rows(X, groups=groups, labels=[0, 0, 1, 2])


def test_missing_levels_match_none():
    cube = ik.from_arrays(np.stack([H, H], axis=2), sigmas=[0.1, 99.0])
    with pytest.raises(CubeFormatError, match="no level"):
        cube.select(sigma=np.ma.masked_array([99.0], mask=[True]))
    with pytest.raises(CubeFormatError, match="noise levels"):
        ik.from_arrays(np.stack([H, H], axis=2), sigmas=np.ma.masked_array([0.1, 99.0], mask=[False, True]))


# ---- what is no array ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (sparse.csr_matrix(H[:, 0]), "sparse csr_matrix"),
        (torch.from_numpy(H[:, 0]).to_sparse(), "sparse or quantised"),
        (lambda: torch.quantize_per_tensor(torch.from_numpy(H[:, 0]), 0.1, 0, torch.qint8), "sparse or quantised"),
        (torch.empty(60, 4, device="meta"), "without values"),
        ("out.cube", "open_cube"),
        ([[1.0, 2.0], [1.0]], "differ in shape"),
        (H[:, 0].astype(complex), "Complex data not supported"),
        (H[:, 0].astype("datetime64[s]"), "dtype datetime64"),
    ],
)
@pytest.mark.parametrize("act", [ik.ICREstimator().fit, ik.rankme, ik.RankMe().fit, ik.Moments.from_cube])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
def test_what_cannot_be_features_is_named(act, given, match):
    with pytest.raises(CubeFormatError, match=match):
        act(given() if callable(given) else given)


def test_columns_keep_one_type():
    assert to_column(np.array([1, 2], dtype=object), "ids").dtype == np.int64
    assert to_column(np.array(["a", "b"], dtype=object), "ids").dtype.kind == "U"
    assert to_column([True, False], "ids").dtype == bool
    mixed = to_column(np.array([1, "1"], dtype=object), "groups")
    assert mixed.dtype == object
    with pytest.raises(CubeFormatError, match="read the same"):
        ik.from_rows(H[:2, 0], groups=mixed)


def test_integers_of_objects_are_sorted_as_numbers():
    cube = ik.from_rows(H[:20, 0], groups=np.array([10, 9] * 10, dtype=object), n_views=10)
    assert cube.image_ids.tolist() == [9, 10]


@pytest.mark.parametrize(
    ("given", "axes"), [([], 1), ([1.0], 1), ([[1.0]], 2), (H, 3), (H.tolist(), 3), (OnlyArray(H), 3)]
)
def test_axes_are_counted_without_reading(given, axes):
    assert n_axes(given) == axes


def test_nothing_is_copied_that_is_an_array():
    assert to_numpy(H) is H
    tensor = torch.zeros(3, 2)
    assert np.shares_memory(to_numpy(tensor), tensor.numpy())
