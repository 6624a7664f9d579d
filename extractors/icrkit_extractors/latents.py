"""Latents of images through a frozen autoencoder, for networks that denoise in its space."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from icrkit.exceptions import MissingDependencyError, NonFiniteError, UnsafeModelError
from icrkit_extractors._frameworks import importing
from icrkit_extractors._identity import weights_digest
from icrkit_extractors._streams import normals
from icrkit_extractors._torch_modules import unwrap
from icrkit_extractors._torch_state import device_of, evaluating
from icrkit_extractors.views import as_unit_range

if TYPE_CHECKING:
    import torch

__all__ = ["Latents", "open_autoencoder"]


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError('Latents needs torch: pip install "icrkit[torch]"') from error
    return torch


def _setting(vae: Any, name: str) -> Any:
    """An entry of the autoencoder's configuration; None where there is none."""
    return getattr(getattr(vae, "config", None), name, None)


def _per_channel(name: str, value: Any) -> np.ndarray:
    """A number, or one a channel, as (1 or channel, 1, 1)."""
    numbers = np.atleast_1d(np.asarray(value, dtype=np.float32))
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be a finite number, or one for each channel of the latents, not {value!r}")
    return numbers[:, None, None]


def _posterior(encoded: Any) -> Any:
    """What has the mean and the standard deviation among what `encode` gave."""
    encoded = encoded[0] if isinstance(encoded, tuple) else encoded
    found = getattr(encoded, "latent_dist", encoded)
    if not (hasattr(found, "mean") and hasattr(found, "std")) or callable(found.mean):
        raise TypeError(
            f"encode gave a {type(encoded).__name__}, without the mean and std of a posterior; extract(encode=...) "
            "takes any callable (images, image_ids, view, seed) -> latents in place of Latents"
        )
    return found


class Latents:
    """Latents of views: an autoencoder's posterior mean, or a draw from the posterior that belongs to the view.

    Parameters
    ----------
    vae : AutoencoderKL
        Of diffusers; or any object whose ``encode(images)`` gives a posterior with ``mean`` and ``std``, such as
        that of CompVis. It may be in training: a call leaves its mode and the random state as they were.
    draw : {"mean", "sample"}
        The posterior's mean; or mean + std * eps, where eps is the view's own: a function of (seed, image id, view) and
        of nothing else.
    scale, shift : float or sequence of float, optional
        Latents are (z - shift) * scale; one number, or one a channel. Default: the configuration's
        ``scaling_factor`` and ``shift_factor`` (0 where it has none); where it has ``latents_mean`` and
        ``latents_std``, scaling_factor / latents_std and latents_mean.
    batch_size : int, optional
        Images encoded at a time; all that come by default.
    device : device, optional
        Where to move the autoencoder; it stays where it is by default.

    Raises
    ------
    MissingDependencyError
        If torch is not installed.
    ValueError
        If `draw` is another one, `batch_size` is below 1, or `scale` is neither given nor in a configuration.

    Notes
    -----
    The autoencoder runs in its own type; the draw, shift and scale are float32. Another batch changes no draw, and the
    posterior in its last bits only.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> class Halves:
    ...     def encode(self, x):
    ...         mean = x[:, :, ::2, ::2]
    ...         return SimpleNamespace(mean=mean, std=0 * mean + 0.1)
    >>> encode = Latents(Halves(), draw="sample", scale=2.0)
    >>> encode(np.zeros((3, 1, 8, 8), np.float32), [4, 5, 6], view=0, seed=0).shape
    (3, 1, 4, 4)
    """

    def __init__(
        self,
        vae: Any,
        draw: Literal["mean", "sample"] = "mean",
        scale: Any = None,
        shift: Any = None,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        torch = _import_torch()
        if draw not in ("mean", "sample"):
            raise ValueError(f"draw must be 'mean' or 'sample', not {draw!r}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        if isinstance(vae, torch.nn.Module):
            vae = unwrap(vae)
        if not callable(getattr(vae, "encode", None)):
            raise TypeError(
                f"vae must be an autoencoder, an object with encode(images), not {type(vae).__name__}; a function goes "
                "to extract as it is, encode=function (images, image_ids, view, seed) -> latents"
            )
        mean, std = _setting(vae, "latents_mean"), _setting(vae, "latents_std")
        if shift is None:
            shift = mean if mean is not None else _setting(vae, "shift_factor") or 0.0
        if scale is None:
            scale = _setting(vae, "scaling_factor")
            if scale is None:
                raise ValueError(f"{type(vae).__name__} has no scaling_factor in its configuration: give scale=")
            if std is not None:
                scale = scale / np.asarray(std, dtype=np.float64)
        self.vae, self.draw, self.batch_size = vae, draw, batch_size
        self._is_module = isinstance(vae, torch.nn.Module)
        self.scale, self.shift = _per_channel("scale", scale), _per_channel("shift", shift)
        if device is not None:
            vae.to(torch.device(device))
        # Each block of the encoder but the last halves the sides.
        blocks = _setting(vae, "block_out_channels")
        self._factor = 1 if blocks is None else 2 ** (len(blocks) - 1)

    def _place(self) -> tuple[torch.device, torch.dtype]:
        """Where the weights are, and their type."""
        torch = _import_torch()
        weight = next(self.vae.parameters(), None) if self._is_module else None
        return (torch.device("cpu"), torch.float32) if weight is None else (device_of(self.vae), weight.dtype)

    def _encoded(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the posterior, float32."""
        torch = _import_torch()
        device, dtype = self._place()
        with (
            evaluating(self.vae, device) if self._is_module else nullcontext(),
            torch.inference_mode(),
            torch.autocast(device.type, enabled=False),
        ):
            found = _posterior(self.vae.encode(torch.from_numpy(images).to(device, dtype)))
            # The draw is made in numpy: on every device the same.
            mean, std = found.mean.float().cpu().numpy(), found.std.float().cpu().numpy()
        return mean, std

    def _check(self, images: np.ndarray) -> None:
        channels, height, width = images.shape[1:]
        wanted = _setting(self.vae, "in_channels")
        if wanted is not None and channels != wanted:
            way_out = f": open_images(..., channels={wanted}) converts" if wanted in (1, 3) else ""
            raise ValueError(f"the autoencoder takes {wanted} channels, and the images have {channels}{way_out}")
        if height % self._factor or width % self._factor:
            raise ValueError(
                f"images of {height} x {width}: the autoencoder needs sides that are multiples of {self._factor}, such "
                f"as open_images(..., size={max(1, round(min(height, width) / self._factor)) * self._factor}) gives"
            )

    def __call__(self, images: np.ndarray, image_ids: Iterable[int | str], view: int, seed: int) -> np.ndarray:
        """Latents of one view of each image.

        Parameters
        ----------
        images : ndarray (n, channel, height, width)
            float32 in [-1, 1], or uint8.
        image_ids : iterable of int or str, of length n
            Identities of the images, on which the draws depend, beside view and seed.
        view : int
            Number of the view.
        seed : int
            Seed of the whole extraction.

        Returns
        -------
        ndarray (n, channel', height', width'), float32

        Raises
        ------
        ValueError
            If images have another shape, type, range or number of channels, their sides are not multiples of the
            autoencoder's factor, or the ids are another number.
        NonFiniteError
            If the autoencoder gives NaN or infinity; names view and image.
        TypeError
            If it gives no posterior.
        """
        images, ids = as_unit_range(images), list(image_ids)
        if len(ids) != len(images):
            raise ValueError(f"{len(ids)} image ids for {len(images)} images")
        if not ids:
            raise ValueError("there is no image to encode")
        self._check(images)
        size = self.batch_size or len(images)
        parts = []
        for start in range(0, len(images), size):
            named = ids[start : start + size]
            mean, std = self._encoded(images[start : start + size])
            if self.draw == "sample":
                mean = mean + std * normals(seed, named, view, mean.shape[1:], purpose="latent")
            if not {len(self.scale), len(self.shift)} <= {1, mean.shape[1]}:
                raise ValueError(f"scale and shift are not for the {mean.shape[1]} channels that the latents have")
            latents = (mean - self.shift) * self.scale
            broken = ~np.isfinite(latents).all(axis=(1, 2, 3))
            if broken.any():
                half = "; in float16 many autoencoders overflow, use float32 or bfloat16" * (
                    "16" in str(self._place()[1])
                )
                raise NonFiniteError(
                    f"the autoencoder gave NaN or infinity: view {view}, image {named[int(broken.argmax())]!r}{half}"
                )
            parts.append(latents)
        return np.concatenate(parts)

    def config(self) -> dict[str, Any]:
        """What identifies the latents, for the attributes of a cube: draw, scale, shift, a digest of the weights."""
        record: dict[str, Any] = {
            "autoencoder": type(self.vae).__name__,
            "draw": self.draw,
            "scale": self.scale.ravel().tolist(),
            "shift": self.shift.ravel().tolist(),
            "batch_size": self.batch_size,
            "dtype": str(self._place()[1]).removeprefix("torch."),
        }
        if self._is_module:
            record["weights_sha256"] = weights_digest(self.vae)
        return record


def open_autoencoder(folder: str | Path, **options: Any) -> Latents:
    """Latents through the AutoencoderKL in a local folder.

    Parameters
    ----------
    folder : path
        What diffusers' ``save_pretrained`` wrote: ``config.json`` and safetensors; or a pipeline with such a folder
        ``vae`` inside. Nothing is downloaded.
    **options
        Those of `Latents`: draw, scale, shift, batch_size, device.

    Returns
    -------
    Latents

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no ``config.json`` in it.
    ValueError
        If it holds another class than AutoencoderKL.
    UnsafeModelError
        If its weights are not safetensors: pickles are not read.
    MissingDependencyError
        If diffusers is not installed.
    """
    with importing("diffusers", 'open_autoencoder needs diffusers: pip install "icrkit[diffusers]"'):
        from diffusers import AutoencoderKL
    where = Path(folder)
    if not (where / "config.json").is_file() and (where / "vae" / "config.json").is_file():
        where = where / "vae"
    about = where / "config.json"
    if not about.is_file():
        raise FileNotFoundError(2, "no autoencoder: a local folder with config.json is needed", str(about))
    try:
        name = json.loads(about.read_text(encoding="utf-8")).get("_class_name")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{about} is not the configuration of a model: {error}") from error
    if name != "AutoencoderKL":
        raise ValueError(f"{about} is of {name!r}, and only AutoencoderKL is read; Latents(vae) takes a loaded one")
    if not any(where.glob("diffusion_pytorch_model*.safetensors")):
        raise UnsafeModelError(
            f"{where} holds no .safetensors, and pickled weights (.bin) run code: convert them first"
        )
    loader: Any = AutoencoderKL
    # Only with this package can memory be spared while loading; asking without it is a warning.
    spare = importlib.util.find_spec("accelerate") is not None
    vae = loader.from_pretrained(str(where), use_safetensors=True, local_files_only=True, low_cpu_mem_usage=spare)
    return Latents(vae, **options)
