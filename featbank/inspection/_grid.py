"""Small pictures beside each other: one array of pixels, and a number on each of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
from featbank.plots.display import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import nn

__all__ = [
    "COLUMNS",
    "Mosaic",
    "bare",
    "draw_pictures",
    "first_convolution",
    "mosaic",
    "picture_axes",
    "wrapped",
]

#: Tiles are enlarged to about so many pixels, so that the lines between them are thin.
_TILE = 48
#: Photographs beside each other.
COLUMNS = 6


@dataclass(frozen=True)
class Mosaic:
    """Tiles laid out in rows.

    Parameters
    ----------
    pixels : ndarray of float64, shape (h, w) or (h, w, 3)
        NaN where no tile is.
    width, height : int
        Distance from tile to tile, in these pixels.
    strip : int
        Pixels above each tile that are kept free for its label.
    columns : int
        Tiles of a row.
    """

    pixels: NDArray[np.float64]
    width: int
    height: int
    strip: int
    columns: int

    def label(self, axes: Axes, labels: Sequence[str], *, size: float = 7.0) -> None:
        """Write a label above each tile."""
        for at, label in enumerate(labels):
            axes.text(
                (at % self.columns) * self.width,
                (at // self.columns) * self.height + 0.82 * self.strip,
                label,
                ha="left",
                va="baseline",
                fontsize=size,
                color="#3c4043",
                parse_math=False,
            )


def mosaic(tiles: NDArray[Any], columns: int, *, strip: float = 0.24) -> Mosaic:
    """Lay tiles out in the order of reading, with a little room between them and a strip above each.

    Parameters
    ----------
    tiles : ndarray, shape (n, h, w) or (n, h, w, 3)
        All of one size; each pixel is repeated so that tiles have about 48 pixels.
    columns : int
        Tiles of a row.
    strip : float, default=0.24
        Height of the strip for labels, as a share of a tile.
    """
    n, height, width = tiles.shape[:3]
    scale = max(1, round(_TILE / max(height, width)))
    large = np.asarray(tiles, dtype=np.float64).repeat(scale, axis=1).repeat(scale, axis=2)
    side = max(height, width) * scale
    gap, above = max(1, round(side / 24)), round(strip * side)
    rows = -(-n // columns)
    across, down = side + gap, side + gap + above
    pixels = np.full((rows * down - gap, columns * across - gap, *tiles.shape[3:]), np.nan)
    for at, tile in enumerate(large):
        top = (at // columns) * down + above + (side - tile.shape[0]) // 2
        left = (at % columns) * across + (side - tile.shape[1]) // 2
        pixels[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return Mosaic(pixels, across, down, above, columns)


def bare(axes: Axes) -> None:
    """Take ticks, grid and frame away: a picture has no scale. A label of the axes stays."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def picture_axes(n: int) -> Any:
    """Return axes for `n` photographs with a title of two lines each, on a new figure."""
    columns = min(COLUMNS, n)
    rows = -(-n // columns)
    figure = new_figure(max(5.0, 2.05 * columns), 0.9 + 2.3 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for left in grid[n:]:
        left.set_axis_off()
    return grid[:n]


def draw_pictures(
    panels: NDArray[Any], pictures: Sequence[NDArray[np.uint8] | None], titles: Sequence[str]
) -> None:
    """Draw each photograph with its title; one that is gone is said in its place."""
    for axes, title, pixels in zip(panels, titles, pictures, strict=False):
        if pixels is None:
            axes.text(0.5, 0.5, "image gone", ha="center", va="center", transform=axes.transAxes)
        else:
            axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) < 64 else "antialiased")
        axes.set_title(title, fontsize=8, loc="left", parse_math=False)
        bare(axes)
        axes.set_anchor("NW")


def wrapped(name: str, width: int) -> str:
    """Break a name into lines of `width` characters; no more than two, the second cut short."""
    lines = textwrap.wrap(name, width, break_on_hyphens=True) or [""]
    if len(lines) > 2:
        lines = [lines[0], lines[1][: width - 1] + "…"]
    return "\n".join(lines)


def first_convolution(module: nn.Module, owner: str) -> tuple[str, nn.Conv2d]:
    """Return path and module of the first convolution that sees the image's three colours.

    Raises
    ------
    InvalidInputError
        If there is none.
    """
    from torch import nn

    for path, part in module.named_modules():
        if isinstance(part, nn.Conv2d) and part.in_channels == 3 and part.groups == 1:
            return path, part
    raise InvalidInputError(
        f"backbone {owner!r} has no convolution of RGB images, so it has no filters to show"
    )
