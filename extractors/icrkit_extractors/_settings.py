"""What the user gives of an extraction, checked and recorded."""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from icrkit.exceptions import CubeFormatError
from icrkit_extractors._image_labels import class_labels
from icrkit_extractors._job import Encode, Forward, Images, Job, Source
from icrkit_extractors.noise import NoiseLaw
from icrkit_extractors.views import View

__all__ = ["checked_job", "shard_rows", "whole"]


def _checked_ids(image_ids: Iterable[int | str] | None, n: int) -> np.ndarray:
    if image_ids is None:
        return np.arange(n)
    values = list(image_ids)
    ids = np.asarray(values)
    if ids.shape != (n,):
        raise CubeFormatError(f"{len(values)} image ids for {n} images")
    if ids.dtype.kind not in "iuU" or any(isinstance(value, str) != isinstance(values[0], str) for value in values):
        raise CubeFormatError(f"image ids must be all integers or all strings, not {ids.dtype}")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < n:
        twice = unique[counts > 1]
        raise CubeFormatError(f"{len(twice)} image ids appear more than once, such as {twice[0].item()!r}")
    return ids


def _checked_labels(labels: Any, n: int) -> np.ndarray | None:
    if labels is None or labels is False:
        return None
    try:
        return class_labels(labels, n, "extract")
    except ValueError as error:
        raise CubeFormatError(str(error)) from error


def _checked_groups(groups: Any, n: int) -> np.ndarray | None:
    if groups is None:
        return None
    found = np.asarray(groups)
    if found.shape != (n,) or found.dtype.kind not in "iuU":
        raise CubeFormatError(
            f"groups has shape {found.shape} and dtype {found.dtype}; expected ({n},), integers or text: what each "
            "image belongs to, none missing"
        )
    return found


# More are a slip of the keyboard: each is a forward pass of every image at every level.
_MOST_VIEWS = 100_000


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be {least} or more, not {number}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be {most:,} or less, not {number:,}")
    return number


def _version() -> str:
    try:
        return metadata.version("icrkit")
    except metadata.PackageNotFoundError:
        return "not installed"


def _described(made: Any) -> dict[str, Any]:
    """What is known of views or an autoencoder."""
    # A function has no parameters to show: its name is what can be recorded. The config of a module is another thing.
    describe = getattr(made, "config", None)
    if callable(describe):
        return _config("views or encode", made)
    while isinstance(made, functools.partial):
        made = made.func
    name = getattr(made, "__qualname__", type(made).__qualname__)
    return {"name": f"{getattr(made, '__module__', '')}.{name}"}


def _config(option: str, made: Any) -> dict[str, Any]:
    """What an object says of itself."""
    config = made.config()
    if not isinstance(config, Mapping):
        raise TypeError(f"{option}: config() of {type(made).__name__} must give a dict, not {type(config).__name__}")
    return dict(config)


def _check_made(option: str, value: Any, methods: Sequence[str], expected: str) -> None:
    """Refuse what is not the object that extraction works with, before anything runs."""
    if isinstance(value, type):
        raise TypeError(f"{option} must be {expected}, not the class {value.__name__}: make one of it")
    missing = [f"{name}()" for name in methods if not callable(getattr(value, name, None))]
    if missing:
        raise TypeError(f"{option} must be {expected}, not {type(value).__name__}, which lacks {', '.join(missing)}")


def _check_function(option: str, value: Any, expected: str) -> None:
    """Refuse what cannot be called with images, ids, view and seed."""
    _check_made(option, value, ("__call__",), expected)
    try:
        signature = inspect.signature(value)
    except ValueError:  # some compiled functions have none
        return
    try:
        signature.bind(None, None, 0, 0)
    except TypeError:
        name = getattr(value, "__name__", type(value).__name__)
        raise TypeError(f"{option} must be {expected}, and {name} takes {signature}") from None


def _check_encode(encode: Any) -> None:
    _check_function("encode", encode, "callable (images, image_ids, view, seed) -> latents")
    # Modules can be called as well, but with images alone.
    if hasattr(encode, "encode") and hasattr(encode, "state_dict"):
        kind = type(encode).__name__
        raise TypeError(
            f"encode must be callable (images, image_ids, view, seed) -> latents, not the autoencoder {kind} itself: "
            "Latents(vae) makes one of it"
        )


def checked_job(
    src: Source,
    images: Images,
    sigmas: Iterable[float],
    *,
    noise: NoiseLaw,
    views: View,
    n_views: int = 2,
    labels: Any = None,
    groups: Any = None,
    seed: int = 0,
    image_ids: Iterable[int | str] | None = None,
    encode: Encode | None = None,
    fresh_noise: bool = False,
    batch_size: int = 256,
    attrs: Mapping[str, Any] | None = None,
) -> Job:
    _check_made("images", images, ("__len__", "__getitem__"), "an array of images, or what open_images gives")
    n = len(images)
    if n == 0:
        raise ValueError("images is empty")
    source = "a source of features, such as TorchSource(module, layers) or an object with __call__ and config"
    _check_made("src", src, ("__call__", "config"), source)
    _check_made("noise", noise, ("levels", "__call__", "config"), "a noise law, such as noise.EDM()")
    _check_function("views", views, "callable (images, image_ids, view, seed) -> images")
    if encode is not None:
        _check_encode(encode)
    asked = [*sigmas] if not isinstance(sigmas, str | bytes) else sigmas
    levels = noise.levels(asked)
    axis = [
        float(sigma) if math.isclose(sigma, level.ratio, rel_tol=1e-9) else level.ratio
        for sigma, level in zip(asked, levels, strict=True)
    ]
    job = Job(
        src=src,
        forward=Forward(src, noise),
        images=images,
        ids=_checked_ids(getattr(images, "image_ids", None) if image_ids is None else image_ids, n),
        labels=_checked_labels(getattr(images, "labels", None) if labels is None else labels, n),
        groups=_checked_groups(groups, n),
        noise=noise,
        levels=levels,
        sigmas=axis,
        views=views,
        encode=encode,
        n_views=whole("n_views", n_views, 1, _MOST_VIEWS),
        seed=whole("seed", seed, 0),
        fresh_noise=bool(fresh_noise),
        batch_size=whole("batch_size", batch_size, 1),
        record={},
    )
    describe = getattr(images, "config", None)
    job.record.update(
        {
            **_config("src", src),
            "noise": _config("noise", noise),
            "noise_draws": "fresh" if job.fresh_noise else "shared",
            "views": _described(views),
            **({} if encode is None else {"encode": _described(encode)}),
            **({"images": describe()} if describe else {}),
            "n_views": job.n_views,
            "seed": job.seed,
            # A network's last bits may depend on the batch, so resuming keeps it.
            "batch_size": job.batch_size,
            "icrkit_version": _version(),
            "numpy_version": np.__version__,
        }
    )
    taken = sorted({*job.record, "probe"} & set(attrs or {}))
    if taken:
        raise ValueError(f"attrs {taken} are recorded by extract itself; choose other names")
    job.record.update(attrs or {})
    return job


def shard_rows(shard: tuple[int, int] | None, n: int) -> range:
    """Rows of a shard: contiguous, so that shards in order are the images in order."""
    if shard is None:
        return range(n)
    i, count = (whole(f"shard[{k}]", value, 0) for k, value in enumerate(shard))
    if not i < count <= n:
        raise ValueError(f"shard must be (i, n) with 0 <= i < n and n at most the {n} images, not {tuple(shard)}")
    return range(i * n // count, (i + 1) * n // count)
