"""Numbers, lists and criteria as sentences have them."""

from __future__ import annotations

import pytest

from icrkit.readings._reading import CRITERIA
from icrkit.report._words import TERMS, capital, interval, listed, number, share, with_unit


def test_every_criterion_has_its_terms() -> None:
    assert set(TERMS) == set(CRITERIA)
    for name, terms in TERMS.items():
        assert terms.other in CRITERIA and terms.other != name
        assert (terms.best == "highest") is CRITERIA[name].greater_is_better


@pytest.mark.parametrize(
    ("value", "criterion", "words"),
    [(0.48351, "icr", "0.484"), (1.009, "icr", "1.009"), (4.094, "information", "4.09"), (9.997, "information", "10.0"),
     (23.44, "information", "23.4"), (-0.37, "information", "-0.37")],
)  # fmt: skip
def test_numbers(value: float, criterion: str, words: str) -> None:
    assert number(value, criterion) == words
    assert with_unit(value, criterion) == words + (" nats" if criterion == "information" else "")


def test_interval() -> None:
    assert interval(3.891, 4.294, "information") == "3.89 to 4.29"
    assert interval(0.45, 0.52, "icr") == "0.450 to 0.520"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0%"),
        (0.0012, "0.12%"),
        (0.05, "5%"),
        (0.088, "8.8%"),
        (0.0996, "10%"),
        (0.18, "18%"),
        (1.0, "100%"),
        (float("nan"), "–"),
    ],
)
def test_shares(value: float, words: str) -> None:
    assert share(value) == words


def test_lists() -> None:
    assert listed([0.1]) == "0.1"
    assert listed([0.1, 0.3, 1.0]) == "0.1, 0.3 or 1"
    assert listed(["mid", "up"], "and") == "mid and up"
    assert capital("held-out ICR") == "Held-out ICR" and capital("") == ""
