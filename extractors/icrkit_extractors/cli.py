"""``icrkit extract``: images and a network in, a cube out. Parses, calls the public API, prints."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from icrkit import _surface
from icrkit._surface import results_alone, worded
from icrkit._text import count, printable, strict_json
from icrkit_extractors import images as image_sources
from icrkit_extractors import models, noise, views
from icrkit_extractors._arguments import VIEWS, item_of, law_of, levels_of, options_of, shard_of, view_of
from icrkit_extractors._checkpoint import stored_step
from icrkit_extractors._onnx import OnnxSource
from icrkit_extractors._plan import plan_lines
from icrkit_extractors._shapes import shape_words
from icrkit_extractors._steps import steps_of
from icrkit_extractors.run import estimate, extract, extract_course, least_images

__all__ = ["main"]


# ---- the command ----------------------------------------------------------------------------------------------------


def _steps_of(given: tuple[int, ...], pairs: Sequence[tuple[str, str | None]]) -> list[int]:
    try:
        return steps_of(given, [path or name for name, path in pairs], stored_step)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _pairs(model: tuple[str, ...], checkpoint: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """Model and checkpoint of each cube."""
    if len(model) > 1 and len(checkpoint) > 1:
        raise click.UsageError("several --model or several --checkpoint, not both")
    if checkpoint:
        return [(one, path) for one in model for path in checkpoint]
    return [(one, None) for one in model]


def _shown(layers: Mapping[str, Any]) -> str:
    width = max(map(len, layers), default=0)
    rows = (f"{name:{width}}  {'' if shape is None else shape_words(shape)}" for name, shape in layers.items())
    return "\n".join(printable(row).rstrip() for row in rows)


_ONNX_SETTINGS = ("threads", "given", "image_layout")


def _class_name(name: str) -> str:
    """Python's name of a noise law; one that a shell makes by a function of its own has its own in capitals."""
    law = noise.LAWS[name]
    return law.__name__ if isinstance(law, type) else name.upper()


# What parameters of the Python interface are in this command, beside those that have its options' names.
_PYTHON_NAMES = {
    "noise": "--noise", "views": "--views", "key": "--images-key", "compile": "--compile/", "sources": "--checkpoint",
    **{name: f"--images-set {name}=" for name in ("layout", "value_range", "background", "labels")},
    "encode": "--set autoencoder=", "providers": "--device", **{name: f"--set {name}=" for name in _ONNX_SETTINGS},
    "call": "a function of yours around it (--family module; where only a name differs, --noise LAW:name=...)",
    "available_layers()": "--list-layers", "TorchSource(module, layers=[...])": "--layers NAME",
    "attrs['step']": "--step",
    # What a store was begun with, where another run goes on with it.
    "and this writer has": "and this run has", "or choose another path": "or choose another --out",
    "n_images = ": "images = ", "n_views = ": "--n-views = ", "n_shards = ": "--shard I/", "sigmas = ": "--sigmas = ",
    "attrs.seed": "--seed", "attrs.batch_size": "--batch-size", "attrs.noise.": "--noise ", "attrs.views.": "--views ",
    "attrs.model_sha256": "--model or --checkpoint (sha256)", "attrs.images.fingerprint": "--images (sha256)",
    "attrs.noise_draws": "--fresh-noise (draws)", "attrs.": "",
    "is read by the family edm": "is read by --family edm",
    "2 * images - 1": '--images-set "value_range=(0,1)"', "noise.from_scheduler": "--noise scheduler:PATH",
    **{f"noise.{_class_name(name)}{end}": f"--noise {name}" for name in noise.LAWS for end in ("", "(")},
    **{f"views.{view.__name__}": f"--views {name}" for name, view in VIEWS.items()},
    **{f"views.{view.__name__}(": f"--views {name}" for name, view in VIEWS.items()},
}  # fmt: skip


class _Extract(click.Command):
    """Prints the result alone on standard output, whatever the network's own code prints; what that code says of its
    input or device becomes an error that says what to look at."""

    python_names = _PYTHON_NAMES

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with results_alone():
                result = super().invoke(ctx)
        except (ValueError, OSError, ImportError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, click.exceptions.Exit | click.Abort | click.ClickException):
                raise
            said = f"the code ended the process: sys.exit({error})" if isinstance(error, SystemExit) else str(error)
            raise ValueError(
                f"the network did not run: {type(error).__name__}: {said}{_place(error)} (--size and --channels change "
                "the images, --device says where it runs, --batch-size how much memory it takes; icrkit --debug "
                "extract shows the traceback)"
            ) from error
        click.echo(result)


def _place(error: BaseException) -> str:
    """The last line of code that is neither ours nor an installed package's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _INSTALLED.search(frame.filename) and frame.filename[:1] != "<"]
    return f", in {own[-1].filename}, line {own[-1].lineno}" if own else ""


# Where a line is not the user's: packages, the standard library, and this one.
_INSTALLED = re.compile(
    "|".join(
        [r"[\\/](?:site|dist)-packages[\\/]"]
        + [f"^{re.escape(str(Path(one.__file__).parent))}" for one in (image_sources, _surface, traceback)]
    )
)


def _device(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[a-z]+(:\d{1,4})?", value):
        raise click.BadParameter(f"{value!r} is not a device such as cpu, cuda or cuda:1")
    return value


@click.command("extract", cls=_Extract, no_args_is_help=True)
@click.option(
    "--family",
    required=True,
    type=click.Choice(["onnx", *models.FAMILIES]),
    help="; ".join([*(f"{name}: {kind.description}" for name, kind in models.FAMILIES.items()), "onnx: ONNX file"])
    + ".",
)
@click.option(
    "--model",
    required=True,
    multiple=True,
    metavar="MODEL",
    help="File, folder or package.module:function; several for a course.",
)
@click.option("--checkpoint", multiple=True, metavar="FILE", help="File of weights; several for a course, a cube each.")
@click.option("--code", type=click.Path(exists=True, file_okay=False), help="Your checkout of the network's code.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Option of the family; see its page in docs."
)
@click.option(
    "--step",
    type=click.IntRange(0),
    metavar="N",
    multiple=True,
    help="Training step of each checkpoint; else as in its name: step=500, epoch=3, or its only number.",
)
@click.option("--images", "images_path", metavar="PATH", help="Folder, .npy, .npz, idx, .h5 or .zarr.")
@click.option("--images-key", metavar="NAME", help="Array of the file that holds the images.")
@click.option(
    "--images-set",
    multiple=True,
    metavar="NAME=VALUE",
    help="What a file of images does not say: layout, value_range, background, labels.",
)
@click.option(
    "--size", type=click.IntRange(1, 65_536), metavar="N", help="Resize to N x N: short side, then centre crop."
)
@click.option("--channels", type=click.Choice(["1", "3"]), help="Convert to grey or to RGB.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="First N images only.")
@click.option("--layers", multiple=True, metavar="NAME", help="Layer by name or glob; may be repeated.")
@click.option(
    "--pool",
    default="mean",
    show_default=True,
    metavar="HOW",
    help="What is kept of a layer's positions: mean, none, class, patches or grid:K.",
)
@click.option(
    "--feature-axis",
    type=int,
    metavar="AXIS",
    help="Axis of the features, where it is neither channel nor token width.",
)
@click.option("--n-prefix", type=click.IntRange(0), metavar="N", help="Class and register tokens before the patches.")
@click.option(
    "--output-index", metavar="ITEM", help="Which item of a layer that gives several; 1.0 is item 0 of item 1."
)
@click.option(
    "--sigmas", metavar="LEVELS", help="Noise levels sigma/alpha: 0.05,0.1,0.2 or low:high:count (geometric)."
)
@click.option(
    "--noise",
    "noise_text",
    metavar="LAW",
    help="Noise law, where it is not the network's own: edm, ddpm:linear, flow, sit, clean, ...",
)
@click.option(
    "--views",
    "views_text",
    metavar="VIEWS",
    help="What counts as the same image: paper:LEVEL, fashion, digits, unchanged, package.module:name.",
)
@click.option(
    "--n-views", default=2, show_default=True, type=click.IntRange(1, 10_000), metavar="N", help="Views of each image."
)
@click.option("--fresh-noise", is_flag=True, help="New noise at every level.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    metavar="N",
    help="Of the draws of views and noise.",
)
@click.option(
    "--batch-size",
    default=256,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Images in one pass through the network.",
)
@click.option(
    "--device", callback=_device, metavar="DEVICE", help="cpu, cuda, cuda:1, mps; the network's own by default."
)
@click.option("--autocast", type=click.Choice(["bfloat16", "float16"]), help="Run the network in half precision.")
@click.option("--compile", "compiled", is_flag=True, help="Run it through torch.compile.")
@click.option("--out", type=click.Path(), help="Store to write; with several checkpoints the folder of their cubes.")
@click.option("--shard", metavar="I/N", help="Part I (from 0) of N of the images: N processes write one store.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on with a store that is unfinished.")
@click.option("--moments-only", is_flag=True, help="Keep no features, only their moments.")
@click.option("--list-layers", is_flag=True, help="Show the layers and their shapes, and stop.")
@click.option("--dry-run", is_flag=True, help="Show what it will take, and stop.")
@click.option("--quiet", is_flag=True, help="No progress bar, which only a terminal gets.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    family: str,
    model: tuple[str, ...],
    checkpoint: tuple[str, ...],
    code: str | None,
    settings: tuple[str, ...],
    step: tuple[int, ...],
    images_path: str | None,
    images_key: str | None,
    images_set: tuple[str, ...],
    size: int | None,
    channels: str | None,
    limit: int | None,
    layers: tuple[str, ...],
    pool: str,
    feature_axis: int | None,
    n_prefix: int | None,
    output_index: str | None,
    sigmas: str | None,
    noise_text: str | None,
    views_text: str | None,
    n_views: int,
    fresh_noise: bool,
    seed: int,
    batch_size: int,
    device: str | None,
    autocast: str | None,
    compiled: bool,
    out: str | None,
    shard: str | None,
    resume: bool,
    moments_only: bool,
    list_layers: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> str:
    """Run a frozen network over views of images at noise levels, and keep its features.

    \b
    See which layers there are, then run it (--dry-run shows first what it will take):
      icrkit extract --family diffusers --model NET --list-layers
      icrkit extract --family diffusers --model NET --images PHOTOS \\
          --layers mid_block --sigmas 0.02:2:10 --views paper --out net.cube
      icrkit sweep net.cube

    The same command goes on where an interrupted one stopped.
    """
    click.get_current_context().meta["resumable"] = not moments_only  # sums that were in memory begin anew
    if quiet or not sys.stderr.isatty():  # a log gets no progress bar of transformers either
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    pairs = _pairs(model, checkpoint)
    law = None if noise_text is None else law_of(noise_text)
    pooling: dict[str, Any] = {"pool": pool, "feature_axis": feature_axis}
    if n_prefix is not None:  # else the network's own
        pooling["n_prefix"] = n_prefix
    torch_options = {
        **pooling,
        "output_index": None if output_index is None else item_of(output_index),
        "device": device,
        "autocast": autocast,
        "compile": compiled,
    }
    onnx_options = {**pooling, "providers": _providers(device)}
    load = functools.partial(_load, family, code=code, settings=options_of(settings, "--set"), layers=layers or None)
    if family == "onnx" and (autocast or compiled or output_index is not None):
        raise click.UsageError("--autocast, --compile and --output-index are for torch; an ONNX file is run as it is")
    options = onnx_options if family == "onnx" else torch_options
    source, network = load(*pairs[0], options)
    if network is not None:
        law = network.noise if law is None else law
    pictures = None
    if images_path is not None:
        wanted: dict[str, Any] = {
            "size": size,
            "channels": None if channels is None else int(channels),
            "key": images_key,
        }
        wanted |= _known(
            options_of(images_set, "--images-set"), image_sources.open_images, "--images-set", "path", *wanted
        )
        pictures = image_sources.open_images(images_path, **wanted)
        pictures = pictures if limit is None else pictures.take(limit)

    if list_layers:
        shapes = _layers(source, network, law, pictures, sigmas)
        return strict_json(shapes) if as_json else _shown(shapes)
    if pictures is None:
        raise click.UsageError("--images is needed")
    if law is None:
        raise click.UsageError(
            f"--noise is needed: this network does not say what noise it knows; one of {', '.join(noise.LAWS)}"
        )
    if not layers and family != "onnx":
        raise click.UsageError("--layers is needed; --list-layers shows what there is")
    given: dict[str, Any] = {
        "noise": law,
        "views": view_of(_asked_views(pictures.shape) if views_text is None else views_text),
        "n_views": n_views,
        "seed": seed,
        "encode": None if network is None else network.encode,
        "fresh_noise": fresh_noise,
        "batch_size": batch_size,
        "shard": shard_of(shard),
    }
    levels = levels_of(sigmas, law)
    steps = [] if len(pairs) == 1 and not step else _steps_of(step, pairs)
    if network is not None and network.encode is None and network.input_shape not in (None, pictures.shape[1:]):
        warnings.warn(
            f"the network was made for inputs {network.input_shape} and the images are {pictures.shape[1:]}: "
            "--size and --channels change them",
            stacklevel=2,
        )
    if dry_run:
        cost = estimate(source, pictures, levels, **given)
        cost = dataclasses.replace(
            cost, forwards=cost.forwards * len(pairs), bytes=cost.bytes * len(pairs), seconds=cost.seconds * len(pairs)
        )
        if as_json:
            further = {"images_per_second": cost.images_per_second, "layer_bytes": cost.layer_bytes}
            return strict_json({**vars(cost), **further})
        return "\n".join(map(printable, plan_lines(cost, moments_only)))
    if out is None:
        raise click.UsageError("--out is needed: the folder of the store to write, such as features.cube")
    given |= {"resume": resume, "progress": not quiet, "moments_only": moments_only}
    if not steps:
        made = [(None, out, extract(source, pictures, levels, out=out, **given))]
    else:
        if (Path(out) / "cube.json").exists():
            raise click.UsageError(f"{out} is a cube: the cubes of checkpoints go into a folder of their own")
        # The first is there already; each of the others is loaded when its turn comes.
        sources = [(steps[0], source)] + [
            (number, lambda pair=pair: load(*pair, options)[0])
            for number, pair in zip(steps[1:], pairs[1:], strict=True)
        ]
        course = extract_course(sources, pictures, levels, out=out, **given)
        made = [(number, str(Path(out) / f"step-{number:08d}.cube"), result) for number, result in course]
    facts = [_facts(number, path, result, len(pictures)) for number, path, result in made]
    if as_json:
        return strict_json(facts[0] if len(facts) == 1 else facts)
    return "\n".join([*map(_line, facts), *_next(facts, out)])


def _load(
    family: str,
    name: str,
    path: str | None,
    options: dict[str, Any],
    *,
    code: str | None,
    settings: dict[str, Any],
    layers: Any,
) -> tuple[Any, Any]:
    """Source of features, and the network it runs (None for ONNX)."""
    if family == "onnx":
        if path is not None or code is not None:
            raise click.UsageError("an ONNX model holds its own weights and code: neither --checkpoint nor --code")
        settings = _known(settings, OnnxSource, "--set", *options, "path", "layers")
        return OnnxSource(name, layers=layers, **options, **settings), None
    with worded({name: f"--set {name}=" for name in models.options(family)}):
        network = models.load(family, name, checkpoint=path, code=code, **settings)
    return network.source(layers, **options), network


def _known(given: dict[str, Any], function: Any, option: str, *others: str) -> dict[str, Any]:
    """What a function takes by name; ``others`` have options of their own."""
    known = [name for name in inspect.signature(function).parameters if name not in others]
    for name in given:
        if name not in known:
            raise click.BadParameter(f"there is no {name!r}; there are {', '.join(known)}", param_hint=option)
    return given


def _asked_views(shape: tuple[int, ...]) -> str:
    """There is no default: what counts as the same image is the question that ICR answers for."""
    small = shape[1] == 1 and min(shape[2:]) <= 32
    raise click.UsageError(
        "--views is needed: what may change while an image stays the same. "
        + ("digits or fashion for small grey images, " if small else "")
        + "paper:1 shifts by up to an eighth of the side, paper:2 mirrors too, paper changes colours too, unchanged "
        "leaves all as it is"
    )


def _providers(device: str | None) -> list[str] | None:
    if device is None:
        return None
    return ["CPUExecutionProvider"] if device == "cpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]


def _layers(source: Any, network: Any, law: Any, pictures: Any, sigmas: str | None) -> dict[str, Any]:
    if network is None:
        return dict(source.available_layers())
    if pictures is not None:
        x0 = views.as_unit_range(np.asarray(pictures[0:2]))
        if network.encode is not None:
            x0 = network.encode(x0, [0, 1][: len(x0)], 0, 0)
    elif network.input_shape is not None:
        x0 = np.zeros((2, *network.input_shape), dtype=np.float32)
    else:
        return dict(source.available_layers())
    if law is None:  # what the network is told beside the images is not known: names without shapes
        return dict(source.available_layers())
    if sigmas is not None or isinstance(law, noise.Clean):
        level = levels_of(sigmas, law)[0]
    else:  # shapes are the same at every level
        level = math.sqrt(math.prod(getattr(law, "trained_range", None) or (1.0, 1.0)))
    x, conditioning = law(source.place(x0), source.place(np.zeros_like(x0)), level)
    return dict(source.available_layers(x, conditioning))


def _facts(step: int | None, path: str, result: Any, n_asked: int) -> dict[str, Any]:
    about: dict[str, Any] = {"path": path, **({} if step is None else {"step": step})}
    if isinstance(result, dict):
        return {**about, "moments": {name: [int(n) for n in m.n_images.shape] for name, m in result.items()}}
    return {
        **about,
        "n_images": result.n_images,
        "complete": result.n_images == n_asked,
        "n_views": result.n_views,
        "sigmas": result.sigmas.tolist(),
        "layers": result.n_features,
    }


def _line(fact: Mapping[str, Any]) -> str:
    if "moments" in fact:
        return printable(f"{fact['path']}: moments of {', '.join(fact['moments'])}")
    layers = ", ".join(f"{name} ({d} features)" for name, d in fact["layers"].items())
    sizes = {"image": fact["n_images"], "view": fact["n_views"], "level": len(fact["sigmas"])}
    held = " x ".join(count(n, what) for what, n in sizes.items())
    return printable(f"{fact['path']}: {held}, {layers}")


_LEAST_OF_A_COURSE = 40  # images: two for each of the twenty folds in which a turn is tested


def _next(facts: Sequence[Mapping[str, Any]], out: str) -> list[str]:
    """The command that reads what was made, where one does."""
    if "moments" in facts[0]:
        return []
    if not all(fact["complete"] for fact in facts):
        return ["other shards are still missing"]
    views, images = (min(fact[name] for fact in facts) for name in ("n_views", "n_images"))
    if views < 2:
        return []  # a set of features for other commands: no ICR without views
    if len(facts) > 2:
        command = "course"
    elif len(facts[0]["sigmas"]) > 2:  # a sweep needs levels between others
        command = "sweep"
    else:
        command = "score" if len(facts) == 1 else "compare"
    if command in ("course", "sweep"):
        least, d = min((least_images(d, views), d) for d in facts[0]["layers"].values())
        if command == "course":
            least = max(least, _LEAST_OF_A_COURSE)
        if images < least:
            return [
                f"hint: too few images for icrkit {command}: {count(d, 'feature')} need {count(least, 'image')} of "
                f"{count(views, 'view')}, and several times as many for a sound answer"
            ]
    if command == "course":
        return [f"next: icrkit course {printable(shlex.quote(out))}"]
    paths = facts[:1] if command == "sweep" else facts
    return [f"next: icrkit {command} {' '.join(printable(shlex.quote(fact['path'])) for fact in paths)}"]
