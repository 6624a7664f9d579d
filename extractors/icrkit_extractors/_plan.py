"""What an extraction will take, in words."""

from __future__ import annotations

from icrkit_extractors.run import Estimate

__all__ = ["plan_lines"]


def _seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def plan_lines(cost: Estimate, moments_only: bool = False) -> list[str]:
    """Lines of ``--dry-run``: layers and their bytes, forward passes, time, and layers too wide for the images.

    Parameters
    ----------
    cost : Estimate
        Of the extraction.
    moments_only : bool
        Whether moments take the place of features.

    Returns
    -------
    list of str
    """
    sizes = cost.layer_moments if moments_only else cost.layer_bytes
    layers = ", ".join(f"{name} ({d} features, {_size(sizes[name])})" for name, d in cost.layers.items())
    return [
        f"layers: {layers}",
        f"forward passes: {cost.forwards} ({cost.n_images} images x {cost.n_views} views x {cost.n_levels} levels)",
        f"moments, in memory: {_size(sum(sizes.values()))}" if moments_only else f"features: {_size(cost.bytes)}",
        f"time: about {_seconds(cost.seconds)} at {cost.images_per_second:.0f} img/s",
        *_too_wide(cost),
    ]


def _too_wide(cost: Estimate) -> list[str]:
    """Layers for which ICR has too few images, and the way out."""
    if cost.n_views < 2:
        return []
    wide = [(name, cost.least_images(name)) for name in cost.layers if cost.least_images(name) > cost.n_images]
    if not wide:
        return []
    name, least = max(wide, key=lambda pair: pair[1])
    others = f" and {len(wide) - 1} more" if len(wide) > 1 else ""
    return [
        f"hint: ICR needs more images than {cost.n_images} for {name}{others}: {least} for its "
        f"{cost.layers[name]} features at {cost.n_views} views, and several times as many for a sound answer. Fewer "
        "features: --pool mean or grid:K, or a PCA afterwards"
    ]
