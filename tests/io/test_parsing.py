"""Whatever a parser raises ends as one error that names the file."""

from __future__ import annotations

import struct
import tokenize
import zlib

import pytest

from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeTooLargeError
from icrkit.io._parsing import parse_json, parsing


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"), RuntimeError(), TypeError("x"), AttributeError("x"), IndexError("x"), struct.error("x"),
        zlib.error("x"), tokenize.TokenError("x"), NotImplementedError("x"), SystemError("x"), RecursionError("x"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "x"), ValueError("x"), OSError("x"), AssertionError("x"),
    ],
)  # fmt: skip
def test_damage(error: Exception) -> None:
    with pytest.raises(CubeCorruptError, match="a file, member 'x'"), parsing("a file", "member 'x'"):
        raise error


@pytest.mark.parametrize("error", [MemoryError(), OverflowError("x")])
def test_size(error: Exception) -> None:
    with pytest.raises(CubeTooLargeError, match="a file"), parsing("a file"):
        raise error


@pytest.mark.parametrize(
    "error", [CubeFormatError("x"), FileNotFoundError(2, "x", "y"), ImportError(), KeyboardInterrupt()]
)
def test_what_says_it_all_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, parsing("a file"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("raw", [b"[" * 200_000, b"{", b"\xff\xfe\xfa", b"1" * 10_000])
def test_json(raw: bytes) -> None:
    with pytest.raises(CubeCorruptError, match="a file"):
        parse_json(raw, "a file")
