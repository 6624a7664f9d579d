"""Images beside their neighbours, with how similar they are."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from icrkit.plot._style import FAINT, INK, MUTED, PAPER, SMALL_TEXT, TEXT_SIZE, pyplot

__all__ = ["NeighborsDisplay"]

_INCHES = 0.95  # side of an image
_CAPTION = 0.42  # room below it
_GAP = 0.3  # between the query, its neighbours and the farthest, in images


class NeighborsDisplay:
    """A grid of query images, each with its nearest and, where given, its farthest images.

    Parameters
    ----------
    query_images : array (query, channel, height, width) or (query, height, width)
        uint8, or from -1 to 1; one or three channels.
    neighbor_images : array (query, neighbour, channel, height, width) or (query, neighbour, height, width)
        In the order in which they are drawn.
    similarity : array (query, neighbour)
        Written below each.
    query_ids, neighbor_ids : array (query,) and (query, neighbour)
        Likewise; any text or number.
    query_view : int, optional
        View that the query is, written into its image.
    neighbor_views : array (query, neighbour), optional
        Likewise.
    n_farthest : int
        So many of the last neighbours are the farthest, and stand apart.
    component : str, optional
        What they are neighbours by, for the heading.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray (query, 1 + neighbour) of matplotlib Axes

    Examples
    --------
    >>> import numpy as np
    >>> from icrkit.plot import NeighborsDisplay
    >>> images = np.zeros((4, 8, 8), np.uint8)
    >>> display = NeighborsDisplay(
    ...     query_images=images[:1], neighbor_images=images[None, 1:], similarity=[[0.9, 0.8, 0.1]], query_ids=[0],
    ...     neighbor_ids=[[1, 2, 3]], n_farthest=1,
    ... )
    >>> display.plot().axes_.shape
    (1, 4)
    """

    figure_: Any
    axes_: NDArray[Any]

    def __init__(
        self,
        *,
        query_images: ArrayLike,
        neighbor_images: ArrayLike,
        similarity: ArrayLike,
        query_ids: ArrayLike,
        neighbor_ids: ArrayLike,
        query_view: int | None = None,
        neighbor_views: ArrayLike | None = None,
        n_farthest: int = 0,
        component: str | None = None,
    ) -> None:
        self.query_images = np.asarray(query_images)
        self.neighbor_images = np.asarray(neighbor_images)
        self.similarity = np.asarray(similarity, dtype=np.float64)
        self.query_ids = np.asarray(query_ids)
        self.neighbor_ids = np.asarray(neighbor_ids)
        self.query_view = query_view
        self.neighbor_views = None if neighbor_views is None else np.asarray(neighbor_views)
        self.n_farthest = n_farthest
        self.component = component
        wanted = self.similarity.shape
        for name in ("neighbor_images", "neighbor_ids", "neighbor_views"):
            given = getattr(self, name)
            if given is not None and given.shape[:2] != wanted:
                raise ValueError(f"{name} has shape {given.shape}, and similarity {wanted}")

    @classmethod
    def from_estimator(
        cls, retrieval: Any, images: ArrayLike, *, names: ArrayLike | None = None, axes: Any = None
    ) -> Self:
        """Draw what a fitted :class:`icrkit.NeighborRetrieval` found.

        Parameters
        ----------
        retrieval : NeighborRetrieval
            Fitted.
        images : array (image, channel, height, width) or (image, height, width)
            The images whose features were fitted, in their order; uint8, or from -1 to 1.
        names : array (image,), optional
            Written instead of the ids.
        axes : array (query, 1 + neighbour) of Axes, optional
            As for :meth:`plot`.

        Returns
        -------
        NeighborsDisplay
            Drawn.

        Examples
        --------
        >>> import icrkit as ik
        >>> cube = ik.datasets.load_fashion_cube().select(sigma=0.057, tolerance=0.1)
        >>> found = ik.NeighborRetrieval(queries=[0, 1], n_neighbors=4).fit(cube)
        >>> images = ik.datasets.load_fashion_images("test").images
        >>> ik.plot.NeighborsDisplay.from_estimator(found, images).axes_.shape
        (2, 5)
        """
        check_is_fitted(retrieval)
        found = retrieval.neighbor_retrieval_
        pictures = np.asarray(images)
        most = int(max(found.queries.max(), found.images.max()))
        if len(pictures) <= most:
            raise ValueError(f"{len(pictures)} images were given, and image {most} is to be drawn")
        text = None if names is None else np.asarray(names)
        display = cls(
            query_images=pictures[found.queries],
            neighbor_images=pictures[found.images],
            similarity=found.similarity,
            query_ids=found.query_ids if text is None else text[found.queries],
            neighbor_ids=found.ids if text is None else text[found.images],
            query_view=None if found.views is None else retrieval.view,
            neighbor_views=found.views,
            n_farthest=retrieval.n_farthest,
            component=retrieval.component,
        )
        return display.plot(axes)

    def plot(self, axes: Any = None) -> Self:
        """Draw.

        Parameters
        ----------
        axes : array (query, 1 + neighbour) of Axes, optional
            A new figure by default, in which the farthest stand apart.

        Returns
        -------
        NeighborsDisplay
            Itself.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        n_queries, n_shown = self.similarity.shape
        if axes is None:
            self.axes_ = self._new_axes()
        else:
            self.axes_ = np.asarray(axes, dtype=object).reshape(n_queries, 1 + n_shown)
        self.figure_ = self.axes_[0, 0].figure
        for q, row in enumerate(self.axes_):
            _draw(row[0], self.query_images[q], str(self.query_ids[q]), "", self.query_view)
            for k, ax in enumerate(row[1:]):
                view = None if self.neighbor_views is None else int(self.neighbor_views[q, k])
                # A true minus sign, since a hyphen is easily overlooked at this size; none before a zero.
                similarity = f"{round(self.similarity[q, k], 2) + 0.0:.2f}".replace("-", "−")
                _draw(ax, self.neighbor_images[q, k], str(self.neighbor_ids[q, k]), similarity, view)
        by = "" if self.component is None else f" by the {self.component} component"
        n_nearest = n_shown - self.n_farthest
        headings = {0: "query", n_nearest + 1: "farthest"} | ({1: f"nearest{by}"} if n_nearest else {})
        for column, words in headings.items():
            if column <= n_shown:
                self.axes_[0, column].set_title(words, loc="left", fontsize=TEXT_SIZE, color=INK, pad=4)
        return self

    def _new_axes(self) -> NDArray[Any]:
        n_queries, n_shown = self.similarity.shape
        n_nearest = n_shown - self.n_farthest
        widths = [1.0, _GAP] + [1.0] * n_nearest
        columns = [0, *range(2, 2 + n_nearest)]
        if self.n_farthest:
            widths += ([_GAP] if n_nearest else []) + [1.0] * self.n_farthest
            columns += list(range(len(widths) - self.n_farthest, len(widths)))
        width, height = _INCHES * (sum(widths) + 0.06 * len(widths)), n_queries * (_INCHES + _CAPTION)
        figure = pyplot().figure(figsize=(width + 0.2, height + 0.35), facecolor=PAPER)
        grid = figure.add_gridspec(
            n_queries, len(widths), width_ratios=widths, wspace=0.06, hspace=_CAPTION / _INCHES,
            left=0.1 / (width + 0.2), right=1 - 0.1 / (width + 0.2), top=1 - 0.3 / (height + 0.35),
            bottom=(_CAPTION + 0.02) / (height + 0.35),
        )  # fmt: skip
        return np.array([[figure.add_subplot(grid[q, c]) for c in columns] for q in range(n_queries)], dtype=object)


def _draw(ax: Any, image: NDArray[Any], name: str, similarity: str, view: int | None) -> None:
    pixels = _pixels(image)
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_color(FAINT)
    ax.set_xlabel(similarity, fontsize=TEXT_SIZE, color=INK, labelpad=2)
    ax.annotate(
        name, (0.5, 0), xycoords="axes fraction", xytext=(0, -14 if similarity else -4), textcoords="offset points",
        ha="center", va="top", fontsize=SMALL_TEXT, color=MUTED,
    )  # fmt: skip
    if view is not None:
        ax.text(
            0.97, 0.03, f"view {view}", transform=ax.transAxes, ha="right", va="bottom", fontsize=SMALL_TEXT - 1.5,
            color=INK, bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1.2},
        )  # fmt: skip


def _pixels(image: NDArray[Any]) -> NDArray[np.uint8]:
    """(height, width) or (height, width, 3) of an image as extractors take it."""
    if image.dtype != np.uint8:
        image = np.rint((np.clip(image.astype(np.float64), -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    if image.ndim == 2:
        return image
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"an image has shape {image.shape}; wanted (height, width), (1 or 3, height, width)")
    return image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, 2)
