"""``python -m icrkit``."""

from icrkit.cli import main

if __name__ == "__main__":
    main(prog_name="icrkit")
