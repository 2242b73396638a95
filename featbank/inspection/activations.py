"""What one image makes of itself inside a backbone: the maps at its cuts, from input to output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank.errors import InvalidInputError
from featbank.inspection._grid import bare, first_convolution, mosaic
from featbank.inspection.filters import filter_tiles
from featbank.manifest import printable
from featbank.plots.display import Display, color_bar, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from featbank.backbones import Backbone

__all__ = ["DARK_SHARE", "Activation", "ActivationsDisplay"]

#: A map that nowhere reaches this share of its cut's largest value counts as dark.
DARK_SHARE = 0.01
_COLUMNS = 12


@dataclass(frozen=True, eq=False)
class Activation:
    """What one cut answers to one image.

    Parameters
    ----------
    cut : str
        Name of the cut.
    values : ndarray of float32, shape (channels, h, w) or (n_features,)
        The features.
    names : tuple of str
        What the numbers stand for (classes, at ``logits``); empty if nobody knows.
    """

    cut: str
    values: NDArray[np.float32]
    names: tuple[str, ...] = ()

    @property
    def is_map(self) -> bool:
        """Whether there are maps, or single numbers."""
        return self.values.ndim == 3

    @property
    def signed(self) -> bool:
        """Whether values below 0 occur, as at a cut without ReLU."""
        return bool(self.values.min() < 0)

    @property
    def peaks(self) -> NDArray[np.float32]:
        """The largest size of each channel's values, shape (channels,)."""
        peaks: NDArray[np.float32] = np.abs(self.values).reshape(len(self.values), -1).max(axis=1)
        return peaks

    @property
    def n_dark(self) -> int:
        """Number of channels that stay dark: nowhere at `DARK_SHARE` of the cut's largest value."""
        peaks = self.peaks
        return int((peaks <= DARK_SHARE * peaks.max()).sum())

    def strongest(self, n: int) -> NDArray[np.int64]:
        """Return the numbers of the channels with the largest values, largest first.

        Where many reach the same (a ReLU6 ends at 6), those that are large in more places come first.
        """
        means = np.abs(self.values).reshape(len(self.values), -1).mean(axis=1)
        return np.lexsort((-means, -self.peaks))[:n].astype(np.int64)


class ActivationsDisplay(Display):
    r"""Feature maps of one image, a band per cut, top to bottom from input to output.

    Brightness is the size of an activation relative to the largest of its cut, so that a dark map is one
    that says little. The channels that answer most come first and bear their numbers; single numbers (a
    cut such as ``fc7``) are squares in the order of their number. Above the cuts stand the image and, each
    beside its own map, filters of the first convolution. Drawn on `n_bands` axes, top to bottom.

    Parameters
    ----------
    image : array-like of uint8, shape (h, w, 3)
        What the network saw.
    activations : sequence of Activation
        In the order they are drawn.
    filters : array-like of float, shape (n, 3, h, w), optional
        Filters of the first convolution.
    responses : array-like of float, shape (n, h, w), optional
        What each of them makes of the image.
    maps : int, default=12
        Maps per cut.
    title : str, optional
        Above the figure.

    Raises
    ------
    InvalidInputError
        If there is nothing to draw, or shapes do not fit.

    Examples
    --------
    >>> relu = Activation("block1_pool", np.maximum(0, np.random.default_rng(0).normal(size=(32, 16, 16))))
    >>> relu.values[:5] = 0
    >>> display = ActivationsDisplay(np.zeros((32, 32, 3), np.uint8), [relu]).plot()
    >>> display.ax_[1].get_ylabel()
    'block1_pool\n32 maps, 16×16\n5 dark'
    """

    def __init__(
        self,
        image: ArrayLike,
        activations: Sequence[Activation],
        *,
        filters: ArrayLike | None = None,
        responses: ArrayLike | None = None,
        maps: int = _COLUMNS,
        title: str | None = None,
    ) -> None:
        self.image = np.asarray(image)
        if self.image.ndim != 3 or self.image.shape[2] != 3:
            raise InvalidInputError(f"an image has shape (h, w, 3), got {self.image.shape}")
        if not activations:
            raise InvalidInputError("no activations to draw; name at least one cut")
        wrong = [one for one in activations if one.values.ndim not in (1, 3) or not one.values.size]
        if wrong:
            raise InvalidInputError(
                f"cut {wrong[0].cut!r} has values of shape {wrong[0].values.shape}; maps (channels, h, w) "
                "and vectors (n,) can be drawn"
            )
        if maps < 1:
            raise InvalidInputError(f"maps={maps!r} must be at least 1")
        self.activations = tuple(activations)
        self.filters = None if filters is None else np.asarray(filters, dtype=np.float64)
        self.responses = None if responses is None else np.asarray(responses, dtype=np.float64)
        if (self.filters is None) != (self.responses is None):
            raise InvalidInputError("filters and responses go together; give both or neither")
        self.maps = maps
        self.title = title

    @classmethod
    def from_image(
        cls,
        backbone: Backbone,
        image: ArrayLike,
        cuts: Sequence[str] | None = None,
        *,
        filters: bool = True,
        maps: int = _COLUMNS,
        device: str | None = None,
        title: str | None = None,
    ) -> ActivationsDisplay:
        """Push one image through a backbone.

        Parameters
        ----------
        backbone : Backbone
            From `featbank.load_backbone`.
        image : array-like of uint8, shape (size, size, 3)
            RGB, as `Preprocessing.apply_geometry` leaves it.
        cuts : sequence of str, optional
            Names or aliases; all of the backbone's table by default. Drawn in the order of the table.
        filters : bool, default=True
            Whether to show filters of the first convolution beside their maps.
        maps : int, default=12
            Maps per cut.
        device : str, optional
            ``"cpu"``, ``"cuda"``, ...
        title : str, optional
            Above the figure.

        Returns
        -------
        ActivationsDisplay
            Not drawn yet.

        Raises
        ------
        UnknownNameError
            If there is no such cut.
        InvalidInputError
            If the device is not there or an option is out of range.
        """
        from featbank.extraction.forward import Forward, choose_device

        pixels = np.asarray(image)
        asked = list(cuts) if cuts is not None else list(backbone.spec.cut_names)
        resolved = [cut.name for cut in backbone.spec.resolve(asked)]
        table = [one for one in backbone.spec.cut_names if one in resolved]
        names = table + [one for one in resolved if one not in table]
        forward = Forward(backbone, device=choose_device(device), precision="float32", batch_size=1)
        found = forward(pixels[None], names)
        known = backbone.class_names or ()
        activations = []
        for name in names:
            values = found[name][0].float().cpu().numpy()
            fitting = name == "logits" and len(known) == len(values)
            activations.append(Activation(name, values, known if fitting else ()))
        if not filters:
            return cls(pixels, activations, maps=maps, title=title)
        weights, responses = _first_maps(backbone, pixels)
        return cls(pixels, activations, filters=weights, responses=responses, maps=maps, title=title)

    def facts(self) -> list[dict[str, Any]]:
        """Return for each cut its name, shape, number of channels, how many stay dark, and the strongest."""
        return [
            {
                "cut": one.cut,
                "shape": list(one.values.shape),
                "channels": len(one.values),
                "dark": one.n_dark,
                "strongest": one.strongest(self.maps).tolist(),
            }
            for one in self.activations
        ]

    @property
    def n_bands(self) -> int:
        """How many axes it is drawn on: the image, the filters if there are any, and one for each cut."""
        return 1 + (self.filters is not None) + len(self.activations)

    _noun = "this image"

    def _n_axes(self) -> int:
        return self.n_bands

    def _new_axes(self) -> Any:
        columns = min(self.maps, _COLUMNS)
        heights = [2.2] + [1.24] * (self.filters is not None)
        heights += [self._rows(one, columns) for one in self.activations]
        figure = new_figure(2.9 + 0.78 * columns, max(4.2, 1.0 + 0.92 * sum(heights)))
        return figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        columns = min(self.maps, _COLUMNS)
        panels[0].imshow(self.image, interpolation="nearest")
        self._name(panels[0], f"input\n{self.image.shape[1]}×{self.image.shape[0]} px")
        if self.filters is not None:
            self._pairs(panels[1], columns)
        for axes, one in zip(panels[-len(self.activations) :], self.activations, strict=True):
            last = self._band(axes, one, columns)
        if own:
            label = "Size of the activation (% of the cut's largest)"
            color_bar(last, list(panels), label, shrink=0.5)
        return []

    def _rows(self, one: Activation, columns: int) -> float:
        """How many tiles high a band is."""
        if one.is_map:
            return 1.24 * -(-min(self.maps, len(one.values)) // columns)
        wide = _columns_of(len(one.values))
        return max(0.5, columns * -(-len(one.values) // wide) / wide)

    @staticmethod
    def _name(axes: Axes, label: str) -> None:
        bare(axes)
        axes.set_anchor("W")
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9, parse_math=False)

    def _band(self, axes: Axes, one: Activation, columns: int) -> Any:
        size = 100.0 * np.abs(one.values.astype(np.float64)) / max(float(one.peaks.max()), 1e-12)
        if one.is_map:
            shown = one.strongest(self.maps)
            grid = mosaic(size[shown], columns)
            pixels = grid.pixels
            what = f"{len(size)} maps, {size.shape[2]}×{size.shape[1]}"
        else:
            wide = _columns_of(len(size))
            pixels = np.full((-(-len(size) // wide), wide), np.nan)
            pixels.flat[: len(size)] = size
            what = f"{len(size)} numbers"
        image = axes.imshow(pixels, cmap=_heat(), vmin=0, vmax=100, interpolation="nearest")
        if one.is_map:
            grid.label(axes, [str(number) for number in shown.tolist()])
        self._name(axes, f"{printable(one.cut)}\n{what}\n{_remark(one)}")
        return image

    def _pairs(self, axes: Axes, columns: int) -> None:
        """Draw filters of the first convolution, each beside what it makes of the image."""
        if self.filters is None or self.responses is None:
            return
        strength = np.abs(self.responses).reshape(len(self.responses), -1).max(axis=1)
        shown = np.argsort(-strength, kind="stable")[: max(1, columns // 2)]
        colours = filter_tiles(self.filters[shown], shared=False)
        heat = _heat()(np.abs(self.responses[shown]) / max(float(strength.max()), 1e-12))[..., :3]
        side = heat.shape[1]
        tiles = [tile for at in range(len(shown)) for tile in (_enlarged(colours[at], side), heat[at])]
        grid = mosaic(np.stack(tiles), columns)
        axes.imshow(np.nan_to_num(grid.pixels, nan=1.0), interpolation="nearest")
        labels = [text for number in shown.tolist() for text in (str(number), "")]
        grid.label(axes, labels)
        self._name(axes, f"first convolution\nfilter beside its map\n{len(self.filters)} maps, sign left out")


def _heat() -> Any:
    import matplotlib

    return matplotlib.colormaps["inferno"].with_extremes(bad="white")


def _columns_of(n: int) -> int:
    """How wide a block of `n` numbers is drawn: one line up to 64, later eight times as wide as high."""
    return max(2 * _COLUMNS, n) if n <= 64 else max(64, int(np.ceil(np.sqrt(n * 8))))


def _remark(one: Activation) -> str:
    if one.signed and not one.is_map:
        top = int(one.values.argmax())
        return f"largest: {printable(one.names[top])[:18] if one.names else f'number {top}'}"
    return f"{one.n_dark} dark" + (", sign left out" if one.signed else "")


def _enlarged(tile: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Repeat the pixels of a filter up to about `side`, white around."""
    scale = max(1, side // max(tile.shape[:2]))
    large = tile.repeat(scale, axis=0).repeat(scale, axis=1)[:side, :side]
    framed = np.full((side, side, 3), np.nan)
    top, left = (side - large.shape[0]) // 2, (side - large.shape[1]) // 2
    framed[top : top + large.shape[0], left : left + large.shape[1]] = large
    return framed


def _first_maps(
    backbone: Backbone, pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the filters of the first convolution and what they make of an image."""
    import torch

    _, convolution = first_convolution(backbone.module, backbone.name)
    found: list[torch.Tensor] = []
    # A hook, not a cut: the convolution need not be a node of the traced graph. A clone, because an in-place
    # ReLU may follow.
    hook = convolution.register_forward_hook(lambda _, __, output: found.append(output.detach().clone()))
    batch = torch.from_numpy(np.ascontiguousarray(pixels[None]))  # (1, h, w, 3)
    try:
        with torch.inference_mode():
            backbone.module(backbone.preprocessing.normalise(batch))
    finally:
        hook.remove()
    return convolution.weight.detach().cpu().numpy(), found[0][0].cpu().numpy()  # (channels, h, w)
