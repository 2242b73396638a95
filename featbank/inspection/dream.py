"""The input that excites a channel most, made by gradient ascent from noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank._registry import Progress
from featbank.errors import InvalidInputError
from featbank.inspection._grid import bare, mosaic
from featbank.manifest import printable
from featbank.plots.display import Display, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from featbank.backbones import Backbone

__all__ = ["Dream", "DreamDisplay"]

_COLUMNS = 8


@dataclass(frozen=True, eq=False)
class Dream:
    """Synthesised inputs of one cut.

    Parameters
    ----------
    cut : str
        Name of the cut.
    channels : ndarray of int64, shape (n,)
        Which channels, the one of the highest gain first.
    images : ndarray of uint8, shape (n, size, size, 3)
        The inputs.
    gains : ndarray of float64, shape (n,)
        By how much the mean activation of the channel over its map is larger than at the noise that the
        ascent started from.
    n_channels : int
        Channels the cut has.
    n_tried : int
        Channels that were tried, from which the shown ones were chosen.
    names : tuple of str
        What the channels stand for (classes, at ``logits``); empty if nobody knows.
    """

    cut: str
    channels: NDArray[np.int64]
    images: NDArray[np.uint8]
    gains: NDArray[np.float64]
    n_channels: int
    n_tried: int
    names: tuple[str, ...] = ()


class DreamDisplay(Display):
    """Inputs that excite channels most, a grid per cut, channels of the highest gain first.

    Drawn on one axes per cut, top to bottom.

    Parameters
    ----------
    dreams : sequence of Dream
        One per cut, in the order they are drawn.
    title : str, optional
        Above the figure.

    Raises
    ------
    InvalidInputError
        If there is nothing to draw.

    Examples
    --------
    >>> import featbank
    >>> backbone = featbank.load_backbone("minivgg")
    >>> display = DreamDisplay.from_backbone(backbone, ["block1_pool"], n=2, candidates=4, steps=8)
    >>> display.dreams[0].images.shape
    (2, 32, 32, 3)
    """

    def __init__(self, dreams: Sequence[Dream], *, title: str | None = None) -> None:
        if not dreams or not all(len(one.channels) for one in dreams):
            raise InvalidInputError("no dreams to draw; name at least one cut and one channel")
        self.dreams = tuple(dreams)
        self.title = title

    @classmethod
    def from_backbone(
        cls,
        backbone: Backbone,
        cuts: Sequence[str] | None = None,
        *,
        channels: Sequence[int] | None = None,
        n: int = 8,
        candidates: int = 64,
        steps: int = 96,
        lr: float = 0.06,
        jitter: int | None = None,
        blur: float = 0.5,
        decay: float = 0.01,
        image_size: int | None = None,
        random_state: int = 0,
        device: str | None = None,
        progress: Progress | None = None,
    ) -> DreamDisplay:
        """Synthesise inputs by gradient ascent on the mean activation of a channel.

        Each step moves the image by `lr` (in units of the pixel range) along the gradient divided by its
        root mean square (from 64 pixels on together with blurred copies of it, for the coarse shapes),
        shifted at random by up to `jitter` pixels; a `decay` pulls it towards the mean
        colour, and every fourth step a Gaussian `blur` takes high frequencies away, less and less towards
        the end. Candidates get an eighth of the steps, those of the highest gain go all the way.

        Parameters
        ----------
        backbone : Backbone
            From `featbank.load_backbone`.
        cuts : sequence of str, optional
            Names or aliases; all of the backbone's table by default.
        channels : sequence of int, optional
            Take these channels of every cut, in this order, instead of choosing by gain.
        n : int, default=8
            Channels per cut.
        candidates : int, default=64
            How many channels of a cut are tried, spread evenly over all it has.
        steps : int, default=96
            Steps of the ascent.
        lr : float, default=0.06
            Length of a step, over 0.
        jitter : int, optional
            Largest shift in pixels; a sixteenth of the image by default. 0 for none.
        blur : float, default=0.5
            Standard deviation of the first blur in pixels; 0 for none.
        decay : float, default=0.01
            Share of the distance to the mean colour that a step takes away, in [0, 1).
        image_size : int, optional
            Side in pixels; the backbone's own by default.
        random_state : int, default=0
            Seed of the noise and of the jitter.
        device : str, optional
            ``"cpu"``, ``"cuda"``, ...
        progress : callable, optional
            Called with (cuts done, cuts in all).

        Returns
        -------
        DreamDisplay
            Not drawn yet.

        Raises
        ------
        UnknownNameError
            If there is no such cut.
        InvalidInputError
            If an option is out of range, or a cut has no such channel.

        References
        ----------
        .. [1] D. Erhan et al., "Visualizing Higher-Layer Features of a Deep Network", 2009.
        .. [2] J. Yosinski et al., "Understanding Neural Networks Through Deep Visualization", 2015,
           section 3 (decay and blur).
        .. [3] C. Olah, A. Mordvintsev, L. Schubert, "Feature Visualization", Distill 2017 (jitter).
        """
        from featbank.inspection._ascent import Ascent, Settings

        settings = Settings(
            steps=steps,
            lr=lr,
            jitter=jitter,
            blur=blur,
            decay=decay,
            image_size=image_size,
            random_state=random_state,
            device=device,
        )
        if n < 1 or candidates < 1:
            raise InvalidInputError(f"n={n!r} and candidates={candidates!r} must be at least 1")
        if channels is not None and not len(channels):
            raise InvalidInputError("no dreams to draw; name at least one cut and one channel")
        asked = list(cuts) if cuts is not None else list(backbone.spec.cut_names)
        names = [cut.name for cut in backbone.spec.resolve(asked)]
        dreams = []
        for done, cut in enumerate(names):
            if progress is not None:
                progress(done, len(names))
            ascent = Ascent(backbone, cut, settings)
            chosen, images, gains, n_tried = ascent.dream(channels, n=n, candidates=candidates)
            dreams.append(Dream(cut, chosen, images, gains, ascent.n_channels, n_tried, ascent.names))
        if progress is not None:
            progress(len(names), len(names))
        said = f"{backbone.name} ({printable(backbone.weights)}): inputs that excite a channel most"
        return cls(dreams, title=said)

    def facts(self) -> list[dict[str, Any]]:
        """Return for each cut its name, the channels shown, their gains, and how many were tried."""
        return [
            {
                "cut": one.cut,
                "channels": one.channels.tolist(),
                "gains": one.gains.tolist(),
                "names": [one.names[at] for at in one.channels] if one.names else None,
                "tried": one.n_tried,
                "of": one.n_channels,
            }
            for one in self.dreams
        ]

    _noun = "this dream"

    @property
    def _columns(self) -> int:
        return min(_COLUMNS, max(len(one.channels) for one in self.dreams))

    def _n_axes(self) -> int:
        return len(self.dreams)

    def _new_axes(self) -> Any:
        columns = self._columns
        rows = [-(-len(one.channels) // columns) for one in self.dreams]
        figure = new_figure(max(5.0, 1.75 + 1.05 * columns), 0.7 + 1.34 * sum(rows))
        return figure.subplots(len(rows), 1, height_ratios=rows, squeeze=False)

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        for axes, one in zip(panels, self.dreams, strict=True):
            self._grid(axes, one, self._columns)
        return []

    @staticmethod
    def _grid(axes: Axes, one: Dream, columns: int) -> None:
        grid = mosaic(one.images / 255.0, columns)
        axes.imshow(np.nan_to_num(grid.pixels, nan=1.0), interpolation="nearest")
        bare(axes)
        axes.set_anchor("W")
        labels = []
        for channel, gain in zip(one.channels.tolist(), one.gains.tolist(), strict=True):
            name = printable(one.names[channel])[:10] if one.names else f"{channel}"
            much = f"+{gain:.1f}" if gain >= 1 else f"+{gain:.2f}"
            labels.append(f"{name}: {much}" if gain > 0 else f"{name}: asleep")
        grid.label(axes, labels, size=7.5)
        chosen = f"{len(one.channels)} of {one.n_channels} channels"
        if one.n_tried > len(one.channels):
            chosen += f"\nbest of {one.n_tried} tried"
        axes.set_ylabel(
            f"{printable(one.cut)}\n{chosen}",
            rotation=0,
            ha="right",
            va="center",
            fontsize=9,
            parse_math=False,
        )
