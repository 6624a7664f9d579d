"""Training steps of checkpoints: as they are given, in their names, or as training wrote them inside."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["steps_of"]

# Words before a number, in the names that trainers give: what counts comes first.
_WORDS = {
    "step": ("global_?step", "train_?step", "steps?", "iterations?", "iters?", "it"),
    "epoch": ("epochs?", "ep"),
}
# A whole number, perhaps of thousands or millions; not the first digits of a decimal one or of one with an exponent.
_NUMBER = r"(\d+(?:\.\d+)?[km](?![a-z\d])|\d+(?!\d|\.\d|e[+-]?\d|[km](?![a-z\d])))"
_UNITS = {"k": 10**3, "m": 10**6}
_NAMED = {
    kind: re.compile(rf"(?<![a-z])(?:{'|'.join(words)})[-_=.]?{_NUMBER}", re.IGNORECASE)
    for kind, words in _WORDS.items()
}
_SOLE = re.compile(_NUMBER, re.IGNORECASE)
# Numbers that are no steps: decimal ones, such as a loss or the rate of an average, and those of processes and parts.
_OTHER = re.compile(
    r"(?:rank|shard|part|worker)[-_=]?\d+|\d+[-_]of[-_]\d+|\d+\.\d+(?:e[+-]?\d+|(?![\dkm]))|(?<![a-z\d])\.\d+|\d+e[+-]?\d+",
    re.IGNORECASE,
)
# A folder's number counts where it is the name, or stands behind one of these: run3/model.pt has no step.
_FOLDER = re.compile(rf"(checkpoint[-_=]?|ckpt[-_=]?|snapshot[-_=]?|model[-_=]?|){_NUMBER}", re.IGNORECASE)
_SUFFIX = re.compile(r"\.(?:pt|pth|ckpt|bin|npz|safetensors|pkl|onnx|tar)$", re.IGNORECASE)
# What Lightning adds where a name is taken.
_VERSION = re.compile(r"-v\d+$")


def _value(number: str) -> int:
    """A number as it is written: 500, 100k, 1.5M."""
    unit = _UNITS.get(number[-1].lower())
    return int(number) if unit is None else round(float(number[:-1]) * unit)


def _in_words(name: str, path: str) -> tuple[str, int] | None:
    for kind, pattern in _NAMED.items():
        numbers = sorted({_value(number) for number in pattern.findall(name)})
        if len(numbers) > 1:
            raise ValueError(f"{path} names several {kind}s, {numbers}: give --step once for each checkpoint")
        if numbers:
            return kind, numbers[0]
    return None


def _in_folders(path: str) -> tuple[str, int, bool] | None:
    """Kind and number of the nearest folder that has one, and whether it is called a step or a checkpoint."""
    # Two folders up: checkpoint-500/unet/model.safetensors.
    for folder in reversed(Path(path).parts[:-1][-2:]):
        folder = _VERSION.sub("", _SUFFIX.sub("", folder))
        if (found := _in_words(folder, path)) is not None:
            return *found, True
        if (whole := _FOLDER.fullmatch(folder)) is not None:
            return "step", _value(whole[2]), whole[1][:1].lower() in ("c", "s")
    return None


def _in_name(path: str) -> tuple[str, int] | None:
    """Kind and number of the step in a path; None where there is none."""
    name = _VERSION.sub("", _SUFFIX.sub("", Path(path).name))
    named = _in_words(name, path)
    if named is not None:
        return named
    numbers = _SOLE.findall(_OTHER.sub(" ", name))
    above = _in_folders(path)
    if len(numbers) == 1:
        # A model's own number may stand beside the step: checkpoint-500/model_2.pt.
        if above is not None and above[2] and above[:2] != ("step", _value(numbers[0])):
            raise ValueError(
                f"{path} has the {above[0]} {above[1]} in the name of its folder, and {numbers[0]} in its own: give "
                "--step once for each checkpoint"
            )
        return "step", _value(numbers[0])
    if above is not None:
        return above[:2]
    if numbers:
        raise ValueError(
            f"{path} has several numbers in its name, {', '.join(numbers)}, and none is called a step: give --step "
            "once for each checkpoint"
        )
    return None


def steps_of(
    given: Sequence[int], paths: Sequence[str], stored: Callable[[str], int | None] = lambda path: None
) -> list[int]:
    """Training step of each checkpoint.

    Parameters
    ----------
    given : sequence of int
        Steps in the order of the checkpoints; may be empty.
    paths : sequence of str
        Checkpoints. A number that is called a step (or iteration) counts before one that is called an epoch, and that
        before a sole number; 500k and 1.5M are thousands and millions. Decimal numbers (a loss), the version that
        Lightning adds, numbers of processes and shards and, where the file has no number, names of folders other than a
        step's do not count.
    stored : callable (path) -> int or None
        Step that a checkpoint holds, for names without one.

    Returns
    -------
    list of int

    Raises
    ------
    ValueError
        If a step is not to be found, could be one of several numbers, is counted in another unit than the others, or
        appears twice.

    Examples
    --------
    >>> steps_of([], ["epoch=0-val_loss=0.91.ckpt", "epoch=1-val_loss=0.55.ckpt"])
    [0, 1]
    >>> steps_of([], ["epoch=4-step=500.ckpt", "epoch=9-step=1000-v1.ckpt", "1500.ckpt/nnet_ema.pth"])
    [500, 1000, 1500]
    """
    if given:
        if len(given) != len(paths):
            raise ValueError(f"{len(given)} --step for {len(paths)} checkpoints: one each, in the same order")
        return _distinct(list(given))
    kinds: dict[str, str] = {}
    steps = []
    for path in paths:
        found = _in_name(path)
        if found is None:
            inside = stored(path)
            if inside is None:
                raise ValueError(f"no step in the name of {path}: give --step once for each checkpoint")
            found = "step", inside
        kinds.setdefault(found[0], path)
        steps.append(found[1])
    if len(kinds) > 1:
        said = " and ".join(f"{path} names its {kind}" for kind, path in kinds.items())
        raise ValueError(f"{said}: all of one course count the same; give --step once for each checkpoint")
    return _distinct(steps)


def _distinct(steps: list[int]) -> list[int]:
    twice = [step for step in steps if steps.count(step) > 1]
    if twice:
        raise ValueError(f"step {twice[0]} appears twice: each checkpoint needs its own --step")
    return steps
