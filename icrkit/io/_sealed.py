"""Files that carry their own digest, behind the end that HDF5 sees, so that it is compared before HDF5 parses."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icrkit._text import strict_json
from icrkit.exceptions import CubeCorruptError
from icrkit.io._durable import write_all

# Bytes of a seal; every sealed file ends with one.
SEAL_BYTES = 192

Kind = Literal["cube", "moments"]

_MARK = b"\nicrkit-pack "
# How far before the end of a file a seal is looked for that is not where it belongs.
_WINDOW = 4096
_PIECE = 2 << 20


@dataclass(frozen=True)
class Seal:
    """What a sealed file says of itself: what it is, bytes before the seal, and their sha256."""

    kind: Kind
    n_bytes: int
    sha256: str

    def encode(self) -> bytes:
        """The seal as it stands at the end of the file."""
        text = strict_json({"kind": self.kind, "bytes": self.n_bytes, "sha256": self.sha256}, indent=None)
        return (_MARK + text.encode()).ljust(SEAL_BYTES - 1) + b"\n"


def seal_file(kind: Kind, fd: int) -> None:
    """Hash the file behind a descriptor that may be read and written, and put its seal at its end."""
    n_bytes = os.fstat(fd).st_size
    os.lseek(fd, 0, os.SEEK_SET)
    sha256 = _sha256(fd, n_bytes)
    os.lseek(fd, n_bytes, os.SEEK_SET)
    write_all(fd, Seal(kind, n_bytes, sha256).encode())


def read_seal(path: str | Path) -> Seal | None:
    """Seal of a file, None where it has none; reads only the end of the file.

    Raises
    ------
    CubeCorruptError
        When the seal is damaged, or the file has lost or gained bytes.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _WINDOW))
        end = file.read(_WINDOW)
    place = end.rfind(_MARK)
    if place < 0:
        return None
    if len(end) - place != SEAL_BYTES:
        raise CubeCorruptError(
            f"{path} has lost or gained bytes since it was written: its digest is not {SEAL_BYTES} bytes before its end"
        )
    try:
        content = json.loads(end[place + len(_MARK) :])
        found = Seal(content.get("kind", "cube"), int(content["bytes"]), str(content["sha256"]))
    except (AttributeError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CubeCorruptError(f"{path}: the digest at its end is damaged") from error
    if found.n_bytes + SEAL_BYTES != size:
        raise CubeCorruptError(f"{path} has {size} bytes, and {found.n_bytes + SEAL_BYTES} were written")
    return found


def check_seal(path: str | Path) -> Seal | None:
    """Seal of a file whose every byte was compared with it; None where it has none."""
    found = read_seal(path)
    if found is None:
        return None
    with open(path, "rb", buffering=0) as file:
        sha256 = _sha256(file.fileno(), found.n_bytes)
    if sha256 != found.sha256:
        raise CubeCorruptError(
            f"{path}: its bytes changed after they were written (sha256 {sha256[:12]}, recorded {found.sha256[:12]})"
        )
    return found


def _sha256(fd: int, n_bytes: int) -> str:
    digest = hashlib.sha256()
    while n_bytes > 0:
        piece = os.read(fd, min(n_bytes, _PIECE))
        if not piece:
            break
        digest.update(piece)
        n_bytes -= len(piece)
    return digest.hexdigest()
