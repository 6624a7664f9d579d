"""A network made ready: the module with all that `extract` must know beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from icrkit_extractors._torch import TorchSource
from icrkit_extractors.noise import NoiseLaw

if TYPE_CHECKING:
    from torch import nn

    from icrkit_extractors._job import Encode
    from icrkit_extractors.latents import Latents

__all__ = ["Network", "frozen"]


def frozen(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, its parameters without gradient.

    Modules of other people's may give nothing back where torch's own give themselves.
    """
    module.eval()
    module.requires_grad_(False)
    return module


@dataclass(frozen=True)
class Network:
    """A frozen network, its noise law and how it is called.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    noise : noise law or None
        The law it was trained with; None for an encoder of clean images.
    call : callable (module, x, conditioning), optional
        Runs one forward pass. Default: ``module(x, **conditioning)``.
    input_shape : (channel, height, width), optional
        Shape of one input, where the network fixes it.
    record : mapping
        What identifies the network, for the attributes of a cube: family, digest of the checkpoint, class conditioning.
    encode : callable (images, image_ids, view, seed) -> latents, optional
        The autoencoder that stands between images and the network, such as `icrkit_extractors.latents.Latents`.
    """

    module: nn.Module
    noise: NoiseLaw | None
    call: Callable[[Any, Any, Mapping[str, Any]], object] | None = None
    input_shape: tuple[int, int, int] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    encode: Latents | Encode | None = None

    def source(self, layers: Any = None, **options: Any) -> TorchSource:
        """The network as a source of features.

        Parameters
        ----------
        layers : str or sequence of str, optional
            Names or globs of modules.
        **options
            Further parameters of `TorchSource`; ``record`` is added to the network's own, and ``device`` is the
            autoencoder's too. Where the record has ``prefix_tokens``, that is the ``n_prefix`` by default.

        Returns
        -------
        TorchSource
        """
        record = {**self.record, **options.pop("record", {})}
        known = {"call": self.call, "input_shape": self.input_shape, "record": record}
        if "prefix_tokens" in record:
            known["n_prefix"] = record["prefix_tokens"]
        vae = getattr(self.encode, "vae", None)  # a function has none
        if vae is not None and options.get("device") is not None:
            vae.to(options["device"])
        return TorchSource(self.module, layers, **{**known, **options})
