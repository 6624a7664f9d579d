"""``python -m icrkit``, and the ``icrkit`` command."""

from __future__ import annotations

import sys

from icrkit._signals import signals, stop_signal

__all__ = ["main"]


def main() -> None:
    """Run the command; Ctrl-C ends it in one line from the first moment on, while modules are still imported."""
    try:
        with signals():
            from icrkit.cli import main as icrkit  # click takes a while: it comes inside

            icrkit(prog_name="icrkit")
    except KeyboardInterrupt:
        number = stop_signal() or 2
        sys.stderr.write(f"\nicrkit: {'interrupted' if number == 2 else 'terminated'}\n")
        raise SystemExit(128 + number) from None


if __name__ == "__main__":
    main()
