"""Numbers of a CSV file at the rows that they belong to; what does not fit is named (see tests/test_cli_metrics.py)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import icrkit as ik
from icrkit.readings._outside import read_outside


@pytest.fixture
def cubes() -> dict[str, ik.Cube]:
    h = np.random.default_rng(0).standard_normal((20, 2, 2, 3))
    both = ik.from_arrays({"mid": h, "up": h}, sigmas=[0.1, 1.0])
    return {"a": both, "b": ik.from_arrays(h[:, :, 0])}


def table(cubes: dict[str, ik.Cube]) -> pd.DataFrame:
    places = [
        (name, layer, sigma, None) for name, cube in cubes.items() for layer in cube.layers for sigma in cube.sigmas
    ]
    return pd.DataFrame(places, columns=["cube", "layer", "sigma", "step"])


def test_numbers_stand_where_all_their_keys_match(cubes, tmp_path):
    path = tmp_path / "outside.csv"
    path.write_text("cube,layer,sigma,fid,accuracy\na,mid,0.10000001,3,0.5\na,up,1,4,\n")
    outside = read_outside(str(path), cubes, (), ())
    joined = table(cubes)
    outside.join(joined)
    assert outside.keys == ("cube", "layer", "sigma") and outside.names == ["fid", "accuracy"]
    np.testing.assert_array_equal(joined["fid"], [3, np.nan, np.nan, 4, np.nan])
    np.testing.assert_array_equal(joined["accuracy"], [0.5] + [np.nan] * 4)


def test_a_number_of_a_cube_stands_at_all_its_rows(cubes, tmp_path):
    path = tmp_path / "outside.csv"
    path.write_text("\ufeffcube, fid\nb, 7\na, 3\n", encoding="utf-8")
    joined = table(cubes)
    read_outside(str(path), cubes, (), ()).join(joined)
    assert joined["fid"].tolist() == [3, 3, 3, 3, 7]


def test_places_that_are_not_there_are_refused(cubes, tmp_path):
    path = tmp_path / "outside.csv"
    for line, words in (
        ("c,mid,0.1,1", r"line 2: no cube is called 'c'; there are a, b"),
        ("a,low,0.1,1", "line 2: no layer 'low'"),
        ("a,mid,0.2,1", "line 2: no level sigma=0.2"),
        ("a,mid,0.1,inf", "line 2: the fid is 'inf', which is not a finite number"),
        ("a,mid,0.1,\0", r"line 2: the fid is '\\x00', which is not"),
        (f"a,mid,0.1,{'1' * 5000}", r"line 2: the fid is '1{40}\.\.\.', which is not a finite number"),
        (f"a,mid,0.1,{'1' * 200_000}", "not a CSV table in UTF-8: field larger than"),
        ("a,mid,0.1", "line 2: 3 values for 4 columns"),
    ):
        path.write_text(f"cube,layer,sigma,fid\n{line}\n")
        with pytest.raises(ValueError, match=words):
            read_outside(str(path), cubes, (), ())
    path.write_text("cube,layer,sigma,fid\na,mid,0.1,1\n")
    with pytest.raises(ValueError, match="no row for any cube, layer and level that is compared"):
        read_outside(str(path), {"a": cubes["a"]}, ("up",), ())
