"""Where a network looks: how much each place of its last map speaks for a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank.errors import InvalidInputError
from featbank.inspection._grid import bare
from featbank.inspection.occlusion import OcclusionDisplay
from featbank.manifest import printable
from featbank.plots.display import Display, color_bar, new_figure

__all__ = ["CamDisplay"]

#: A channel is moved by this part of its spread to see what the score does.
_STEP = 0.05
#: How many moved maps are scored at a time.
_AT_ONCE = 32
#: What the mean of a map may differ from the score, for it to be the score itself.
_EXACT = 1e-3


class CamDisplay(Display):
    """The class activation map of an image: where its features speak for a class.

    Drawn on two axes: the image, the map over it; on a third the occlusion map, where there is one.

    Parameters
    ----------
    image : array-like of uint8, shape (h, w, 3)
        What the network saw.
    evidence : array-like of float, shape (rows, columns)
        How much each place speaks for the class, in units of the head's score.
    class_name : str
        The class.
    probability : float or None
        What the head gives it, in [0, 1]; None where it knows none.
    cut : str
        Which cut's map it is.
    exact : bool
        Whether the mean of `evidence` is the score itself, up to a constant of the head.
    occlusion : OcclusionDisplay, optional
        Of the same image and class.
    title : str, optional
        Above the figure.

    Raises
    ------
    InvalidInputError
        If shapes do not fit.

    Examples
    --------
    >>> maps = np.zeros((2, 3, 3))
    >>> maps[0, 2, 2] = 9.0
    >>> score = lambda batch: batch.mean(axis=(2, 3)) @ [1.0, -1.0]
    >>> evidence, exact = CamDisplay.evidence_of(maps, score)
    >>> exact, evidence.round(3).tolist()
    (True, [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    """

    def __init__(
        self,
        image: ArrayLike,
        evidence: ArrayLike,
        class_name: str,
        *,
        probability: float | None,
        cut: str,
        exact: bool,
        occlusion: OcclusionDisplay | None = None,
        title: str | None = None,
    ) -> None:
        self.image = np.asarray(image)
        self.evidence = np.asarray(evidence, dtype=np.float64)
        if self.image.ndim != 3 or self.image.shape[2] != 3:
            raise InvalidInputError(f"an image has shape (h, w, 3), got {self.image.shape}")
        if self.evidence.ndim != 2 or not self.evidence.size:
            raise InvalidInputError(f"evidence has shape (rows, columns), got {self.evidence.shape}")
        self.class_name, self.probability = class_name, probability
        self.cut, self.exact, self.occlusion, self.title = cut, exact, occlusion, title

    @staticmethod
    def evidence_of(
        maps: ArrayLike, score: Callable[[NDArray[np.float32]], NDArray[Any]]
    ) -> tuple[NDArray[np.float64], bool]:
        """Weigh the channels of a map by how the score changes with them, and add them up.

        For a linear head on the mean of the map the weights are those of the head: the class activation map
        of [1]_. For others they are the gradient of the score with respect to the channel, summed over the
        map [2]_, as a central difference; negative evidence is kept.

        Parameters
        ----------
        maps : array-like of shape (channels, h, w)
            What the image gives.
        score : callable
            Takes maps (n, channels, h, w), returns what the head gives the class, (n,).

        Returns
        -------
        evidence : ndarray of float64, shape (h, w)
        exact : bool
            Whether its mean is the score less that of an empty map.

        References
        ----------
        .. [1] B. Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, section 2.
        .. [2] R. Selvaraju et al., "Grad-CAM", ICCV 2017, section 3.
        """
        whole = np.asarray(maps, dtype=np.float32)
        spread = whole.std(axis=(1, 2)) + 0.1 * whole.std() + 1e-6
        steps = (_STEP * spread).astype(np.float32)
        weights = np.empty(len(whole))
        for start in range(0, len(whole), _AT_ONCE):
            channels = np.arange(start, min(start + _AT_ONCE, len(whole)))
            moved = np.repeat(whole[None], 2 * len(channels), axis=0)
            at = np.arange(len(channels))
            moved[at, channels] += steps[channels, None, None]
            moved[at + len(channels), channels] -= steps[channels, None, None]
            up, down = np.split(np.asarray(score(moved), dtype=np.float64), 2)
            weights[channels] = (up - down) / (2.0 * steps[channels])
        evidence = np.tensordot(weights, whole.astype(np.float64), axes=1)
        full, empty = np.asarray(score(np.stack([whole, np.zeros_like(whole)])), dtype=np.float64)
        off = abs(evidence.mean() - (full - empty))
        return evidence, bool(off <= _EXACT * max(abs(full - empty), np.abs(evidence).mean()))

    def facts(self) -> dict[str, Any]:
        """Return the class, its probability, and the place that speaks most for it, in pixels."""
        row, column = np.unravel_index(int(self.evidence.argmax()), self.evidence.shape)
        high, wide = (
            side / cells for side, cells in zip(self.image.shape[:2], self.evidence.shape, strict=True)
        )
        found: dict[str, Any] = {
            "class": self.class_name,
            "probability": self.probability,
            "cut": self.cut,
            "map": list(self.evidence.shape),
            "exact": self.exact,
            "highest": float(self.evidence.max()),
            "highest_at": {"row": int((row + 0.5) * high), "column": int((column + 0.5) * wide)},
        }
        return found if self.occlusion is None else {**found, "occlusion": self.occlusion.facts()}

    _noun = "a class activation map"

    def _n_axes(self) -> int:
        return 2 if self.occlusion is None else 3

    def _new_axes(self) -> Any:
        return new_figure(4.7 * self._n_axes(), 4.6).subplots(1, self._n_axes())

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        """Draw the image, the map over it in grey, and what hiding parts of it costs."""
        left, middle = panels[:2]
        height, width = self.image.shape[:2]
        frame = (0, width, height, 0)
        if self.occlusion is not None:
            self.occlusion._draw(np.array([left, panels[2]]), own=own)
        else:
            left.imshow(self.image, interpolation="nearest", extent=frame)
            bare(left)
            share = "" if self.probability is None else f": {100 * self.probability:.1f} %"
            left.set_title(f"{printable(self.class_name)}{share}", fontsize=10, parse_math=False)
        middle.imshow(self.image.mean(axis=2), cmap="gray", extent=frame, vmin=0, vmax=255)
        shown = middle.imshow(
            self.evidence, cmap="inferno", extent=frame, interpolation="bilinear", alpha=0.65
        )
        bare(middle)
        how = "weights of the head" if self.exact else "weighted by gradients"
        middle.set_title(f"map of {printable(self.cut)}, {how}", fontsize=10, parse_math=False)
        if own:
            color_bar(shown, middle, f"Evidence for {printable(self.class_name)} (score)")
        return []
