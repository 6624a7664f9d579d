"""What a caller hands to the writer: taken whole, or refused with the place of what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from icrkit.exceptions import CubeFormatError, NonFiniteError
from icrkit.io._incoming import checked_features, dtype_name, levels_of, scalars
from icrkit.io._layout import Layout


def layout(**changes: Any) -> Layout:
    options: dict[str, Any] = {"layers": {"mid": 3}, "sigmas": (0.1, 1.0), "n_views": 2, "n_images": 10}
    return Layout(**(options | changes))


IDS = ["a", "b", "c", "d"]


class TestFeatures:
    def test_come_through_as_they_are(self) -> None:
        given = np.random.default_rng(0).standard_normal((4, 2, 2, 3))
        for values in (given, given.tolist(), torch.tensor(given)):
            np.testing.assert_array_equal(checked_features(layout(), {"mid": values}, IDS)["mid"], given)

    def test_one_level_needs_no_axis(self) -> None:
        given = np.ones((4, 2, 3), np.float32)
        found = checked_features(layout(sigmas=(0.1,)), {"mid": given}, IDS)["mid"]
        assert found.shape == (4, 2, 1, 3)

    @pytest.mark.parametrize("names", [[], ["up"], ["mid", "up"]])
    def test_layers_must_be_those_of_the_store(self, names: list[str]) -> None:
        with pytest.raises(CubeFormatError, match=r"layers given: .*; the store has \['mid'\]"):
            checked_features(layout(), {name: np.ones((4, 2, 2, 3)) for name in names}, IDS)

    @pytest.mark.parametrize("shape", [(3, 2, 2, 3), (4, 2, 3), (4, 2, 2, 4), (2, 4, 2, 3), (4, 1, 2, 3)])
    def test_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(CubeFormatError) as error:
            checked_features(layout(), {"mid": np.ones(shape)}, IDS)
        assert str(shape) in str(error.value) and "(4, 2, 2, 3)" in str(error.value)

    @pytest.mark.parametrize("dtype", ["complex128", "bool", "U3", object])
    def test_types(self, dtype: Any) -> None:
        with pytest.raises(CubeFormatError, match="wanted numbers"):
            checked_features(layout(), {"mid": np.ones((4, 2, 2, 3)).astype(dtype)}, IDS)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_the_first_bad_cell_is_placed(self, bad: float) -> None:
        given = np.ones((4, 2, 2, 3))
        given[2, 1, 0, 2] = given[3, 0, 0, 0] = bad
        with pytest.raises(NonFiniteError) as error:
            checked_features(layout(), {"mid": given}, IDS)
        for part in ("'mid'", "2 NaN or inf", str(bad), "image 'c'", "view 1", "sigma=0.1", "feature 2", "No block"):
            assert part in str(error.value)

    def test_what_overflows_when_it_is_stored(self) -> None:
        given = np.ones((4, 2, 2, 3))
        given[1, 0, 1, 0] = 1e5
        checked_features(layout(dtype="float32"), {"mid": given}, IDS)
        with pytest.raises(NonFiniteError, match=r"1 values beyond the range of float16; the first \(100000\.0\)"):
            checked_features(layout(dtype="float16"), {"mid": given}, IDS)
        with pytest.raises(NonFiniteError, match="beyond the range of float16"):
            checked_features(layout(dtype="float16"), {"mid": given.astype(int)}, IDS)


class TestScalars:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            (range(3), [0, 1, 2]),
            (np.array([3, 1], np.uint8), [3, 1]),
            (np.array([True, False]), [1, 0]),
            (["ü", "b"], ["ü", "b"]),
            (np.array(["ab", "c"], object), ["ab", "c"]),
            (torch.tensor([5, 6]), [5, 6]),
            ([], []),
        ],
    )
    def test_as_plain_python_values(self, given: Any, kept: list[Any]) -> None:
        found = scalars(given, "image_ids")
        assert found == kept
        assert all(type(value) in (int, str) for value in found)

    def test_labels_may_be_floats_and_ids_may_not(self) -> None:
        assert scalars([0.5, 1.0], "labels") == [0.5, 1.0]
        with pytest.raises(CubeFormatError, match="image_ids are float64; wanted integers or text"):
            scalars([0.5, 1.0], "image_ids")

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            (np.array([2**63], np.uint64), "beyond int64"),
            (["a\0b"], "NUL"),
            ([[1, 2]], r"shape \(1, 2\)"),
            (np.array([1, "a"], object), "object"),
            (np.array([1j]), "complex128"),
        ],
    )
    def test_what_a_file_cannot_keep(self, given: Any, match: str) -> None:
        with pytest.raises(CubeFormatError, match=match):
            scalars(given, "labels")

    def test_their_number(self) -> None:
        with pytest.raises(CubeFormatError, match=r"labels has shape \(2,\); wanted \(3,\)"):
            scalars([1, 2], "labels", 3)


def test_levels_are_float64_to_the_last_bit() -> None:
    assert levels_of(0.3) == (0.3,)
    assert levels_of([1, 2]) == (1.0, 2.0)
    assert levels_of(np.array([0.1], np.float32)) == (float(np.float32(0.1)),)


@pytest.mark.parametrize(("given", "name"), [("f4", "float32"), (np.float16, "float16"), ("bfloat", "bfloat")])
def test_names_of_types_and_of_what_is_none(given: Any, name: str) -> None:
    assert dtype_name(given) == name
