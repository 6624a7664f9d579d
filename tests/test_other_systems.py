"""Systems that lack what POSIX has: every module is imported, and cubes are written and read, without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# What Windows does not have. Other packages are imported before it is taken away: they see to themselves.
WITHOUT = """
import importlib, os, pkgutil, sys
import icrkit, icrkit_extractors

def modules():
    for package in (icrkit, icrkit_extractors):
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not found.name.endswith("__main__"):
                yield found.name

names = sorted(modules())
for name in names:
    importlib.import_module(name)
for name in [*sys.modules]:
    if name.split(".")[0] in ("icrkit", "icrkit_extractors"):
        del sys.modules[name]
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
    sys.modules[name] = None
taken = {}
for name in (
    "register_at_fork", "fork", "O_DIRECTORY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "O_TMPFILE",
    "posix_fallocate", "posix_fadvise", "pread", "preadv", "pwrite", "pwritev", "fchmod", "fchown", "chown", "lchown",
    "geteuid", "getuid", "mkfifo", "sched_getaffinity", "killpg", "setsid", "sysconf", "statvfs", "getpgid", "uname",
    "fdatasync", "sync", "WNOHANG", "waitstatus_to_exitcode", "nice", "getloadavg",
):
    if hasattr(os, name):
        taken[name] = getattr(os, name)
        delattr(os, name)
import signal
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGXFSZ", "SIGPIPE", "SIGQUIT", "setitimer"):
    if hasattr(signal, name):
        delattr(signal, name)
"""
IMPORT = """
for name in names:
    importlib.import_module(name)
print(len(names))
"""
USE = """
for name in ("O_NONBLOCK", "geteuid"):
    setattr(os, name, taken[name])  # what the locks of this system need; Windows has its own
import warnings
import numpy as np
from icrkit.io import CubeWriter, open_cube, pack, repair, verify, write_file
from icrkit.moments import Moments
place = sys.argv[1]
rng = np.random.default_rng(0)
features = {"mid": rng.normal(size=(60, 2, 2, 3))}
for _ in range(2):
    with CubeWriter(place + "/a.cube", {"mid": 3}, [0.1, 1.0], 2, 60, block_size=20) as writer:
        if not writer.finished:
            writer.append(range(60), features)
cube = open_cube(place + "/a.cube")
assert np.allclose(cube["mid"].values, features["mid"])
assert verify(place + "/a.cube") == 3 and repair(place + "/a.cube").n_whole == 3
assert verify(pack(place + "/a.cube", place + "/a.h5")) == 1
assert np.allclose(open_cube(place + "/a.h5")["mid"].values, features["mid"])
Moments.from_cube(cube).save(place + "/m.h5")
Moments.load(place + "/m.h5")
write_file(place + "/page.html", b"a page")
write_file(place + "/page.html", b"another")
print(sorted(os.listdir(place)))
"""
ROOT = Path(__file__).parent.parent


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_both_packages_without_posix(tmp_path: Path) -> None:
    modules, files = run(WITHOUT + IMPORT + USE, str(tmp_path)).splitlines()
    assert int(modules) > 100
    assert files == "['a.cube', 'a.h5', 'm.h5', 'page.html']"
