"""Bytes that are on the disk or not there at all: what is synced, in which order, and what a failure leaves."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from icrkit.exceptions import CubeLockedError
from icrkit.io._durable import append_line, make_folder, new_file, sync_folder, write_all, write_file


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
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    # After tmp_path, whose making writes a file too.
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

    def test_a_planted_temporary_file_or_link_is_not_touched(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Where the name can be guessed, which takes a broken source of chance.
        monkeypatch.setattr(secrets, "token_hex", lambda n: "0" * 2 * n)
        victim = tmp_path / "victim"
        victim.write_bytes(b"precious")
        planted = tmp_path / f"a.{'0' * 16}.part"
        planted.symlink_to(victim)
        with pytest.raises(FileExistsError):
            write_file(tmp_path / "a", b"hello")
        assert victim.read_bytes() == b"precious"
        assert planted.is_symlink()
        planted.unlink()
        planted.write_bytes(b"another's")
        with pytest.raises(FileExistsError):
            write_file(tmp_path / "a", b"hello")
        assert contents(tmp_path) == {"victim": b"precious", planted.name: b"another's"}

    def test_temporary_names_cannot_be_guessed(self, tmp_path: Path) -> None:
        names = []
        for _ in range(3):
            with new_file(tmp_path / "a") as fd:
                names += [path.name for path in tmp_path.iterdir() if path.name != "a"]
                write_all(fd, b"hello")
        assert len(set(names)) == 3
        assert all(re.fullmatch(r"a\.[0-9a-f]{16}\.part", name) for name in names)

    def test_an_error_names_the_file_that_was_asked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(path: Any, *_: Any) -> int:
            raise OSError(errno.EROFS, "read only", str(path))

        monkeypatch.setattr(os, "open", fail)
        with pytest.raises(OSError, match="read only") as error:
            write_file(tmp_path / "a.html", b"x")
        assert error.value.filename == str(tmp_path / "a.html")

    @pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "a"])
    def test_names_of_every_length(self, tmp_path: Path, name: str) -> None:
        write_file(tmp_path / name, b"hello")
        assert contents(tmp_path) == {name: b"hello"}

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o400])
    def test_keeps_the_mode_of_what_it_replaces(
        self, tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a"
        path.write_bytes(b"old")
        path.chmod(mode)
        if not os.access(path, os.W_OK):
            with pytest.raises(PermissionError, match="protected"):
                write_file(path, b"hello")
            assert path.read_bytes() == b"old"
            return
        seen = []
        real = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(stat.S_IMODE(os.stat(a).st_mode)), real(a, b)))
        write_file(path, b"hello")
        assert path.read_bytes() == b"hello"
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert seen == [mode]  # and never was wider

    def test_nobody_else_may_open_the_unfinished_file(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"old")
        (tmp_path / "a").chmod(0o644)
        with new_file(tmp_path / "a") as fd:
            assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600

    def test_a_protected_file_is_not_replaced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a").write_bytes(b"old")
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write whatever the mode says
        with pytest.raises(PermissionError, match="protected against writing"):
            write_file(tmp_path / "a", b"hello")
        assert contents(tmp_path) == {"a": b"old"}

    @pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
    def test_a_new_file_gets_what_the_umask_says(self, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            write_file(tmp_path / "a", b"hello")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask

    def test_a_link_stays_a_link_and_its_target_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "far").mkdir()
        target, link = tmp_path / "far" / "target", tmp_path / "link"
        link.symlink_to(Path("far") / "target")
        write_file(link, b"first")  # it leads to nothing yet
        target.chmod(0o600)
        write_file(link, b"hello")
        assert link.is_symlink()
        assert target.read_bytes() == b"hello"
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert os.listdir(tmp_path / "far") == ["target"]
        assert sorted(os.listdir(tmp_path)) == ["far", "link"]

    def test_a_link_that_is_not_to_be_followed_is_replaced_itself(self, tmp_path: Path) -> None:
        target, link = tmp_path / "target", tmp_path / "link"
        target.write_bytes(b"precious")
        link.symlink_to(target)
        write_file(link, b"hello", follow_link=False)
        assert not link.is_symlink()
        assert contents(tmp_path) == {"target": b"precious", "link": b"hello"}

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        with pytest.raises(OSError, match="symbolic links"):
            write_file(tmp_path / "a", b"hello")
        assert (tmp_path / "a").is_symlink()

    def test_folders_and_places_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(IsADirectoryError, match="expected a file"):
            write_file(tmp_path, b"hello")
        with pytest.raises(FileNotFoundError):
            write_file(tmp_path / "none" / "a", b"hello")
        assert contents(tmp_path) == {}

    def test_devices_and_pipes_are_written_to_as_they_are(self, tmp_path: Path) -> None:
        write_file(os.devnull, b"hello")
        assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            write_file(pipe, b"hello")
            assert os.read(reader, 100) == b"hello"
        finally:
            os.close(reader)
        assert stat.S_ISFIFO(pipe.stat().st_mode)

    def test_many_writers_of_one_path_all_succeed(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        code = (
            "import sys; from pathlib import Path; from icrkit.io import write_file\n"
            "sys.stdin.readline()\n"
            "for k in range(100): write_file(sys.argv[1], sys.argv[2].encode() * 10_000)"
        )
        writers = [
            subprocess.Popen([sys.executable, "-c", code, str(path), word], stdin=subprocess.PIPE, text=True)
            for word in "xyz"
        ]
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        seen = set()
        while any(writer.poll() is None for writer in writers):
            if path.exists():
                seen.add(path.read_bytes())
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.close()
        assert [writer.returncode for writer in writers] == [0, 0, 0]
        assert os.listdir(tmp_path) == ["a"]
        assert seen | {path.read_bytes()} <= {word.encode() * 10_000 for word in "xyz"}

    def test_an_error_in_the_middle_of_a_new_file(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"old")
        for error in (FileExistsError, ValueError, KeyboardInterrupt):
            with pytest.raises(error), new_file(tmp_path / "a") as fd:
                write_all(fd, b"half of it")
                raise error
            assert contents(tmp_path) == {"a": b"old"}

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
    def test_file_systems_that_sync_no_folder(
        self, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.fsync

        def fsync(fd: int) -> None:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(number, "not here")
            real(fd)

        monkeypatch.setattr(os, "fsync", fsync)
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

    def test_refuses_a_file_that_another_wrote_to(self, tmp_path: Path) -> None:
        path = tmp_path / "manifest"
        append_line(path, b"one\n", 0)
        for length in (0, 3, 5):
            with pytest.raises(CubeLockedError, match=f"has 4 bytes, and this process left it with {length}"):
                append_line(path, b"two\n", length)
        assert path.read_bytes() == b"one\n"

    def test_follows_no_link(self, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_bytes(b"")
        (tmp_path / "manifest").symlink_to(victim)
        with pytest.raises(OSError, match="symbolic links"):
            append_line(tmp_path / "manifest", b"one\n", 0)
        assert victim.read_bytes() == b""


def test_a_new_folder_and_those_above_it_are_synced(calls: Calls, tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    assert calls.seen == ["fsync folder", "fsync folder"]
    make_folder(tmp_path / "a" / "b")
    assert len(calls.seen) == 2


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")
