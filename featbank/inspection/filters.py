"""The filters of a backbone's first convolution, which are small RGB pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank.errors import InvalidInputError
from featbank.inspection._grid import bare, first_convolution, mosaic
from featbank.manifest import printable
from featbank.plots.display import Display, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from featbank.backbones import Backbone

__all__ = ["FiltersDisplay", "filter_tiles"]

Scaling = Literal["both", "shared", "per-filter"]
_TITLES = {"shared": "one scale for all", "per-filter": "each on its own scale"}


def filter_tiles(weights: ArrayLike, *, shared: bool) -> NDArray[np.float64]:
    """Turn filters into colours: a weight of 0 is mid grey, the largest is black or full colour.

    Parameters
    ----------
    weights : array-like of float, shape (n, 3, h, w)
        Filters of a convolution of RGB images.
    shared : bool
        Whether one scale holds for all: filters then compare, and weak ones are grey. Otherwise each is
        scaled by its own largest weight: all show their pattern, none its strength. One without a
        thousandth of the strongest stays grey.

    Returns
    -------
    ndarray of float64, shape (n, h, w, 3)
        In [0, 1].

    Examples
    --------
    >>> weights = [[[[1.0]], [[0.0]], [[-1.0]]], [[[0.5]], [[0.0]], [[0.0]]]]
    >>> filter_tiles(weights, shared=True)[:, 0, 0].tolist()
    [[1.0, 0.5, 0.0], [0.75, 0.5, 0.5]]
    >>> filter_tiles(weights, shared=False)[1, 0, 0].tolist()
    [1.0, 0.5, 0.5]
    """
    values = np.asarray(weights, dtype=np.float64)
    axes = None if shared else (1, 2, 3)
    largest = np.abs(values).max(axis=axes, keepdims=True)
    # What is a thousandth of the strongest filter is rounding or a dead filter; its pattern would mislead.
    alive = largest > 1e-3 * np.abs(values).max()
    scaled = np.divide(values, largest, out=np.zeros_like(values), where=alive)
    return np.moveaxis(0.5 + 0.5 * scaled, 1, -1)


class FiltersDisplay(Display):
    """Filters of the first convolution as RGB pictures: on one scale, and each on its own.

    Mid grey is a weight of 0; a channel's colour is added where its weight is over 0, taken away below.
    Drawn on one axes, or on two for ``scaling="both"``.

    Parameters
    ----------
    weights : array-like of float, shape (n_filters, 3, h, w)
        The filters.
    scaling : {"both", "shared", "per-filter"}, default="both"
        One scale for all filters, each on its own, or one beside the other.
    most : int, default=64
        Filters shown at most, the first ones.
    title : str, optional
        Above the figure.

    Raises
    ------
    InvalidInputError
        If the weights are no filters of RGB images, or an option is out of range.

    Examples
    --------
    >>> display = FiltersDisplay(np.random.default_rng(0).normal(size=(32, 3, 3, 3))).plot()
    >>> [axes.get_title(loc="left") for axes in display.ax_]
    ['one scale for all', 'each on its own scale']
    """

    def __init__(
        self,
        weights: ArrayLike,
        *,
        scaling: Scaling = "both",
        most: int = 64,
        title: str | None = None,
    ) -> None:
        values = np.asarray(weights, dtype=np.float64)
        if values.ndim != 4 or values.shape[1] != 3 or not values.size:
            raise InvalidInputError(f"filters of RGB images have shape (n, 3, h, w), got {values.shape}")
        if scaling not in get_args(Scaling):
            raise InvalidInputError(f"scaling={scaling!r} is not one of {', '.join(get_args(Scaling))}")
        if most < 1:
            raise InvalidInputError(f"most={most!r} must be at least 1")
        self.n_filters = len(values)
        self.weights = values[:most]
        self.scaling: Scaling = scaling
        self.title = title

    @classmethod
    def from_backbone(
        cls, backbone: Backbone, *, scaling: Scaling = "both", most: int = 64
    ) -> FiltersDisplay:
        """Take the first convolution of a backbone.

        Parameters
        ----------
        backbone : Backbone
            From `featbank.load_backbone`.
        scaling, most
            As above.

        Returns
        -------
        FiltersDisplay
            Not drawn yet.

        Raises
        ------
        InvalidInputError
            If the backbone has no convolution of RGB images, or an option is out of range.
        """
        path, convolution = first_convolution(backbone.module, backbone.name)
        weights = convolution.weight.detach().cpu().numpy()
        title = f"{backbone.name} ({printable(backbone.weights)}), first convolution {path}"
        return cls(weights, scaling=scaling, most=most, title=title)

    _noun = "a grid of filters"

    @property
    def _kinds(self) -> list[str]:
        return ["shared", "per-filter"] if self.scaling == "both" else [self.scaling]

    @property
    def _columns(self) -> int:
        return min(8, len(self.weights))

    def _n_axes(self) -> int:
        return len(self._kinds)

    def _new_axes(self) -> Any:
        n, columns = len(self._kinds), self._columns
        rows = -(-len(self.weights) // columns)
        width = max(0.4 + (0.3 + 0.55 * columns) * n, 3.4 * n)
        return new_figure(width, 1.45 + 0.68 * rows).subplots(1, n, squeeze=False)

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        for axes, kind in zip(panels, self._kinds, strict=True):
            self._grid(axes, shared=kind == "shared", columns=self._columns)
            axes.set_title(_TITLES[kind], fontsize=10)
        return []

    def _grid(self, axes: Axes, *, shared: bool, columns: int) -> None:
        grid = mosaic(filter_tiles(self.weights, shared=shared), columns)
        axes.imshow(np.nan_to_num(grid.pixels, nan=1.0), interpolation="nearest")
        bare(axes)
        axes.set_anchor("N")
        grid.label(axes, [str(at) for at in range(len(self.weights))])
        shown = len(self.weights)
        height, width = self.weights.shape[2:]
        of = f"{shown} filters" if shown == self.n_filters else f"{shown} of {self.n_filters} filters"
        grey = "grey: weight 0"
        axes.set_xlabel(f"{of} of {width}×{height} weights ({grey})", fontsize=9)
