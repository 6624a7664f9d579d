"""The demo, and the demo of a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from icrkit._surface import results_alone
from icrkit.cli._echo import say, say_json, say_result

__all__ = ["COMMANDS"]


@click.command()
@click.option("--train", is_flag=True, help="Train a network, and watch its features turn.")
@click.option(
    "--out", show_default="icrkit-demo, or icrkit-demo-train", type=click.Path(file_okay=False), help="Folder to write."
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def demo(train: bool, out: str | None, quiet: bool, as_json: bool) -> None:
    """From real images to a chosen noise level, in about a minute.

    Runs a small diffusion model that ships with icrkit at 12 noise levels on 3,000 images, finds the level with the
    cleanest features without labels, checks it against the accuracy of a probe with few, and writes a figure and a
    page. Run again into the same folder, it goes on from the features that are there.

    With --train it trains another on 128 digits until it copies them, reads features of held-out digits on the way,
    without labels and without samples, and says when to stop; copies and held-out loss are shown beside that. It needs
    torch.
    """
    if train:
        _training_demo(out, quiet, as_json)
        return
    from icrkit.demo import run_demo

    with results_alone():
        result = run_demo(out or "icrkit-demo", progress=not quiet)
    if as_json:
        say_json(result.sweep.to_dict())
        return
    say_result(result.sweep)
    _say_files(result.files)


def _training_demo(out: str | None, quiet: bool, as_json: bool) -> None:
    from icrkit.demo_training import run_training_demo

    click.get_current_context().meta["resumable"] = False  # unlike the other demo it begins anew
    with results_alone():
        result = run_training_demo(out or "icrkit-demo-train", progress=not quiet)
    if as_json:
        say_json(result.course.to_dict())
        return
    say_result(result.course)
    for note in result.notes:
        say(note)
    _say_files(result.files)


def _say_files(files: Mapping[str, Path]) -> None:
    say()
    for name, path in files.items():
        say(f"{name:8}{path}")


COMMANDS = (demo,)
