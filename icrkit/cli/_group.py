"""The group of all commands: what can go wrong becomes one line and an exit status."""

from __future__ import annotations

import io
import sys
import warnings
from contextlib import suppress
from typing import Any

import click

from icrkit import __version__
from icrkit._signals import Terminated, drop_output, signals, stop_signal
from icrkit._surface import option_names, shell_words
from icrkit._text import printable

__all__ = ["main"]


class _BadData(click.ClickException):
    """One line on standard error, exit status 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        click.echo(f"icrkit: {printable(self.message)}", err=True)


class _Extract(click.Command):
    """Stands for ``extract`` in the list of commands, which then need not import the extractors."""

    def __init__(self) -> None:
        super().__init__("extract", short_help="Run a frozen network over views of images at noise levels.")


class _Icrkit(click.Group):
    """Turns what can go wrong into one line and an exit status."""

    def main(self, *args: Any, **options: Any) -> Any:
        with signals():
            return super().main(*args, **options)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "extract"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "extract":
            if ctx.meta.get(__name__) == "list":
                return _Extract()
            # The extractors bring their own command: this package knows of none of what it takes.
            from icrkit_extractors.cli import main as extract

            command: click.Command = extract
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        ctx.meta[__name__] = "list"
        super().format_commands(ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():

            def show_warning(message: Any, *_: Any, **__: Any) -> None:
                words = shell_words(" ".join(str(message).split()), self._names(ctx))
                click.echo(f"icrkit: warning: {printable(words)}", err=True)

            warnings.showwarning = show_warning
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="replace")  # a terminal without sigma still gets its table
            try:
                result = super().invoke(ctx)
                sys.stdout.flush()
            except BrokenPipeError:
                drop_output()  # the reader has seen enough (`| head`)
                raise SystemExit(141) from None
            # Whatever it is: the code of a network may raise what is not an Exception.
            except BaseException as error:
                self._end(ctx, error)
                raise
            return result

    def _end(self, ctx: click.Context, error: BaseException) -> None:
        """Raise what ends the process in a line; what is raised already stays where that is right."""
        if isinstance(error, KeyboardInterrupt) or stop_signal() is not None:
            # While a module is imported Ctrl-C may arrive as that module's ImportError.
            number = stop_signal() or (15 if isinstance(error, Terminated) else 2)
            resumable = ctx.invoked_subcommand in ("demo", "extract") and ctx.meta.get("resumable", True)
            resumes = "; the same command goes on from here" if resumable else ""
            click.echo(f"\nicrkit: {'interrupted' if number == 2 else 'terminated'}{resumes}", err=True)
            raise SystemExit(128 + number) from None
        if isinstance(error, click.ClickException):
            vars(error)["message"] = "\n".join(map(printable, error.message.split("\n")))
        if isinstance(error, click.ClickException | click.exceptions.Exit | click.Abort) or ctx.params["debug"]:
            return
        try:
            sys.stdout.flush()
        except OSError:
            drop_output()  # a full disk: said below, and not once more at exit
        # Where it happened, for an error that says only what.
        notes = " ".join(f"({' '.join(note.split())})" for note in getattr(error, "__notes__", ()))
        raise _BadData(shell_words(f"{_one_line(error, ctx)} {notes}".rstrip(), self._names(ctx))) from error

    def _names(self, ctx: click.Context) -> dict[str, str]:
        """What the parameters in messages are called in the command that is run."""
        command = None
        with suppress(ImportError):  # which may be what is to be said
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
        if command is None:
            return {}
        return option_names(command) | getattr(command, "python_names", _PYTHON_NAMES)


# Phrases of messages about features that were read, for commands that have no option of that name.
_PYTHON_NAMES = {
    "n_views=2 or more": "--n-views 2 or more",
    "take spatial_sign(X): all": "take --spatial-sign: all",
    "PerView(PCA(n_components)) first": "a PCA first",
    "use dtype='float64'": "store them as float64",
    "dtype='float64'": "float64 features",
    "or set regularization > 0": "or, in Python, set regularization > 0",
    "or regularization > 0": "or, in Python, regularization > 0",
    "icrkit.paired_difference": "icrkit compare",
    "icrkit.InvariantInformation": "icrkit score",
    "icrkit.ICREstimator measures": "icrkit score measures",
    "trained_range=None lets": "In Python trained_range=None lets",
    ", method_='gaussian'": "",
    "ranks": "in Python, AlphaReQ with ranks of its own",
    "; or use what there is with open_cube(path, allow_partial=True)": "; in Python, open_cube with allow_partial "
    "reads what there is",
    ", or open_cube(..., allow_partial=True)": "; in Python, open_cube with allow_partial reads what there is",
    "numpy.moveaxis brings them there, and names leave no doubt, "
    "xarray.DataArray(X, dims=('image', 'view', 'feature')), which is": "numpy.moveaxis brings them there before the "
    "file is saved, and a NetCDF file whose dims have these names is",
}


def _one_line(error: BaseException, ctx: click.Context) -> str:
    said = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{printable(error.filename)}: {error.strerror}"
    if isinstance(error, ValueError | OSError | ImportError):
        return said or type(error).__name__
    if isinstance(error, MemoryError):
        return f"not enough memory{f': {said}' if said else ''}"
    if isinstance(error, RecursionError):
        return f"something in the input is nested too deeply: {said}"
    if isinstance(error, OverflowError):
        return f"a number in the input is too large: {said}"
    if isinstance(error, SystemExit):
        return f"code that was run ended the process: sys.exit({said or 0})"
    command = f"icrkit --debug {ctx.invoked_subcommand}"
    return f"unexpected {type(error).__name__}: {said}; {command} ... shows the traceback"


@click.group(cls=_Icrkit, context_settings={"help_option_names": ["-h", "--help"]}, epilog="To begin with: icrkit demo")
@click.version_option(__version__, prog_name="icrkit")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Which noise level and layer of a diffusion model give the cleanest features, without labels."""
