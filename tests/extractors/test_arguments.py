"""Texts of the command line: levels, laws, views and options, and what is wrong with them."""

from __future__ import annotations

import click
import pytest

from icrkit_extractors import noise, views
from icrkit_extractors._arguments import item_of, law_of, levels_of, literal, options_of, shard_of, view_of


def test_levels_from_text():
    assert levels_of("0.02:2:5", None) == [0.02, 0.06325, 0.2, 0.6325, 2.0]
    assert levels_of("0.1, 0.3", None) == [0.1, 0.3]
    assert levels_of("0.1:0.2:2", None) == [0.1, 0.2]
    assert levels_of(None, noise.Clean()) == [0.0]


def test_ends_of_a_range_stay_as_typed():
    assert levels_of("0.0100006:157.4:3", None) == [0.0100006, 1.255, 157.4]
    with pytest.raises(click.BadParameter, match="0 < low < high"):
        levels_of("0:2:5", None)
    with pytest.raises(click.BadParameter, match="neither a list"):
        levels_of("a:2:5", None)
    with pytest.raises(click.UsageError, match=r"trained on 0\.0185 to 4\.91"):
        levels_of(None, noise.EDM())


def test_options_and_their_entries():
    given = options_of(["a=3", "b=(1, 2)", "c=word", "d.x=1.5", "d.input.1=[1]", "e=", "f=x=y"], "--set")
    assert given == {"a": 3, "b": (1, 2), "c": "word", "d": {"x": 1.5, "input.1": [1]}, "e": "", "f": "x=y"}
    for wrong in (["a"], ["1a=3"], [".a=3"], ["a.=3"], ["a=1", "a=2"], ["a=1", "a.b=2"], ["a.b=1", "a.b=2"]):
        with pytest.raises(click.BadParameter):
            options_of(wrong, "--set")


@pytest.mark.parametrize("text", ["word", "(" * 3000, "1" * 5000, "[1", "\0", ""])
def test_what_is_no_literal_is_text(text):
    assert literal(text) == text


def test_laws_and_views():
    assert law_of("flow:scale=1000,name=timestep,trained_range=(0.01,99)").config() == noise.Flow(
        scale=1000, name="timestep", trained_range=(0.01, 99)
    ).config()  # fmt: skip
    assert view_of("paper:4,rotation=5,brightness=(0.8,1.2),fill=reflect") == views.Paper(
        4, rotation=5, brightness=(0.8, 1.2), fill="reflect"
    )
    assert view_of("Digits") == views.Digits() and view_of("icrkit_extractors.views:Unchanged") == views.Unchanged()


def test_shards():
    assert shard_of(None) is None and shard_of("0/4") == (0, 4)
    for wrong in ("4/4", "-1/4", "1", "1/2/3", "1" * 5000 + "/2"):
        with pytest.raises(click.BadParameter):
            shard_of(wrong)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1", 1), ("-1", -1), ("1.0", "1.0"), ("sample", "sample"), ("a.b", "a.b"), ("{'mid': '1.0'}", {"mid": "1.0"})],
)
def test_items_of_outputs_from_text(text, wanted):
    assert item_of(text) == wanted and type(item_of(text)) is type(wanted)
