"""The ``icrkit`` command: parse, call the public interface, print or write.

Modules import what takes time inside their functions, so that ``--version`` and ``--help`` answer at once.
"""

from icrkit.cli import _demo, _matrix, _memorization, _readings, _store
from icrkit.cli._group import main

for _command in (*_demo.COMMANDS, *_store.COMMANDS, *_readings.COMMANDS, *_matrix.COMMANDS, *_memorization.COMMANDS):
    main.add_command(_command)

__all__ = ["main"]
