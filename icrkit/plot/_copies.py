"""Generated images over the training images nearest to them, checkpoint by checkpoint."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icrkit.plot._style import FAINT, INK, MUTED, PAPER, SMALL_TEXT, TEXT_SIZE, WARM, pyplot

__all__ = ["CopiesDisplay"]

_INCHES = 0.75  # side of an image
_LEFT = 1.35  # room for the words beside them


class CopiesDisplay:
    """Generated images of some checkpoints, each over the training image nearest to it; copies are framed.

    Parameters
    ----------
    steps : array (n_steps,)
        Of the checkpoints.
    generated, nearest : array (n_steps, n, channel, height, width), uint8
        One or three channels.
    copied : array (n_steps, n), bool
        Which generated images count as copies.
    rule : str
        What counts as a copy: "nearer to it than ...", for the heading.
    selection : str
        Which images are shown, where they are not all: a sentence for the heading.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray (2 n_steps, n) of matplotlib Axes
        Generated and nearest images in turn.

    Examples
    --------
    >>> import numpy as np
    >>> from icrkit.plot._copies import CopiesDisplay
    >>> images = np.zeros((2, 3, 1, 8, 8), np.uint8)
    >>> display = CopiesDisplay(steps=[100, 200], generated=images, nearest=images, copied=np.ones((2, 3), bool))
    >>> display.plot().axes_.shape
    (4, 3)
    """

    figure_: Any
    axes_: NDArray[Any]

    def __init__(
        self,
        *,
        steps: ArrayLike,
        generated: ArrayLike,
        nearest: ArrayLike,
        copied: ArrayLike,
        rule: str = "",
        selection: str = "",
    ) -> None:
        self.steps = np.asarray(steps)
        self.generated, self.nearest = np.asarray(generated), np.asarray(nearest)
        self.copied = np.asarray(copied, dtype=bool)
        self.rule, self.selection = rule, selection
        shapes = {self.copied.shape, self.generated.shape[:2], self.nearest.shape[:2]}
        if self.copied.ndim != 2 or len(shapes) > 1 or len(self.steps) != len(self.copied):
            raise ValueError(
                f"generated, nearest and copied must agree in steps and images: {self.generated.shape}, "
                f"{self.nearest.shape}, {self.copied.shape} for {len(self.steps)} steps"
            )

    def plot(self, figure: Any = None) -> Self:
        """Draw.

        Parameters
        ----------
        figure : matplotlib Figure, optional
            An empty one; a new one by default.

        Returns
        -------
        CopiesDisplay
            Itself.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        n_steps, n = self.copied.shape
        if figure is None:
            figure = pyplot().figure()
        words = "\n".join(filter(None, (self.rule and f"Framed: {self.rule}", self.selection)))
        top = 0.15 + 0.35 * bool(words) + 0.2 * words.count("\n")
        width, height = _LEFT + n * (_INCHES + 0.06) + 0.1, top + n_steps * (2 * _INCHES + 0.3)
        figure.set_size_inches(width, height)
        figure.set_facecolor(PAPER)
        if words:
            figure.text(0.1 / width, 1 - 0.12 / height, words, fontsize=TEXT_SIZE, color=INK, va="top")
        self.figure_ = figure
        self.axes_ = np.empty((2 * n_steps, n), dtype=object)
        # Two rows of images close together, then a gap.
        pair, between = 2 * _INCHES + 0.06, 0.24
        for k, step in enumerate(self.steps):
            edge = height - top - k * (pair + between)
            figure.text(0.1 / width, (edge - 0.12) / height, f"step {step}", fontsize=TEXT_SIZE, color=INK, va="top")
            for row, name in enumerate(("generated", "nearest in training")):
                low = edge - (row + 1) * _INCHES - row * 0.06
                figure.text(
                    0.1 / width, (low + 0.08) / height, name, fontsize=SMALL_TEXT, color=MUTED, va="bottom"
                )  # fmt: skip
                for j in range(n):
                    left = _LEFT + j * (_INCHES + 0.06)
                    ax = figure.add_axes((left / width, low / height, _INCHES / width, _INCHES / height))
                    framed = row == 0 and self.copied[k, j]
                    _draw(ax, (self.generated, self.nearest)[row][k, j], framed)
                    self.axes_[2 * k + row, j] = ax
        return self


def _draw(ax: Any, image: NDArray[np.uint8], framed: bool) -> None:
    pixels = np.moveaxis(image, 0, -1)
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_color(WARM if framed else FAINT)
    ax.spines[:].set_linewidth(2.5 if framed else 0.8)
