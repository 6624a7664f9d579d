"""Bytes that are on the disk or not there at all: what is synced, in which order, and what a failure leaves."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from icrkit.io._durable import append_line, sync_folder, write_file


class Calls:
    """Records the system calls that matter, and may fail at one of them or write a few bytes at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self.fail_at: str | None = None
        self.most = 1 << 30
        for name in ("write", "fsync", "replace"):
            monkeypatch.setattr(os, name, self.spy(name, getattr(os, name)))

    def spy(self, name: str, real: Any) -> Any:
        def call(*args: Any) -> Any:
            word = name
            if name == "fsync":
                word = "fsync folder" if stat.S_ISDIR(os.fstat(args[0]).st_mode) else "fsync file"
            self.seen.append(word)
            if word == self.fail_at:
                if name == "write":
                    real(args[0], args[1][:3])  # part of it arrives before the disk is full
                raise OSError(errno.ENOSPC, "disk full")
            return real(args[0], args[1][: self.most]) if name == "write" else real(*args)

        return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestWriteFile:
    def test_is_on_the_disk_before_its_name_is(self, calls: Calls, tmp_path: Path) -> None:
        write_file(tmp_path / "a", b"hello")
        assert contents(tmp_path) == {"a": b"hello"}
        assert calls.seen == ["write", "fsync file", "replace", "fsync folder"]

    def test_goes_on_where_a_write_was_cut_short(self, calls: Calls, tmp_path: Path) -> None:
        calls.most = 2
        write_file(tmp_path / "a", b"hello")
        assert contents(tmp_path) == {"a": b"hello"}
        assert calls.seen.count("write") == 3

    @pytest.mark.parametrize("step", ["write", "fsync file", "replace"])
    @pytest.mark.parametrize("before", [{}, {"a": b"old"}])
    def test_a_failure_leaves_what_was_there(
        self, calls: Calls, tmp_path: Path, step: str, before: dict[str, bytes]
    ) -> None:
        for name, data in before.items():
            (tmp_path / name).write_bytes(data)
        calls.fail_at = step
        with pytest.raises(OSError, match="disk full"):
            write_file(tmp_path / "a", b"hello")
        assert contents(tmp_path) == before

    def test_a_stale_temporary_file_is_no_hindrance(self, tmp_path: Path) -> None:
        (tmp_path / "a.part").write_bytes(b"something longer than what comes")
        write_file(tmp_path / "a", b"hello")
        assert contents(tmp_path) == {"a": b"hello"}

    def test_an_interrupt_leaves_no_temporary_file_either(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(fd: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_file(tmp_path / "a", b"hello")
        assert contents(tmp_path) == {}

    def test_no_descriptor_stays_open(self, calls: Calls, tmp_path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for calls.fail_at in ("write", "fsync file", "replace", "fsync folder"):
            with pytest.raises(OSError):
                write_file(tmp_path / "a", b"hello")
        assert len(os.listdir("/proc/self/fd")) == before


class TestAppendLine:
    def test_one_write_then_fsync_and_the_folder_for_a_new_file(self, calls: Calls, tmp_path: Path) -> None:
        path = tmp_path / "manifest"
        append_line(path, b"one\n", 0)
        assert calls.seen == ["write", "fsync file", "fsync folder"]
        append_line(path, b"two\n", 4)
        assert calls.seen[3:] == ["write", "fsync file"]
        assert path.read_bytes() == b"one\ntwo\n"

    @pytest.mark.parametrize("step", ["write", "fsync file"])
    def test_a_failure_takes_the_line_back(self, calls: Calls, tmp_path: Path, step: str) -> None:
        path = tmp_path / "manifest"
        append_line(path, b"one\n", 0)
        calls.fail_at = step
        with pytest.raises(OSError, match="disk full"):
            append_line(path, b"two\n", 4)
        assert path.read_bytes() == b"one\n"
        calls.fail_at = None
        append_line(path, b"two\n", 4)
        assert path.read_bytes() == b"one\ntwo\n"


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")
