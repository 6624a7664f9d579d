"""The cube file: a writer that may be killed, readers that check before they parse."""

from icrkit.io._durable import write_file
from icrkit.io._moments import read_moments, write_moments
from icrkit.io._open import open_cube
from icrkit.io._pack import pack
from icrkit.io._reader import IcrkitBackendEntrypoint
from icrkit.io._repair import Repair, repair
from icrkit.io._verify import verify
from icrkit.io._writer import CubeWriter

__all__ = [
    "CubeWriter",
    "IcrkitBackendEntrypoint",
    "Repair",
    "open_cube",
    "pack",
    "read_moments",
    "repair",
    "verify",
    "write_file",
    "write_moments",
]
