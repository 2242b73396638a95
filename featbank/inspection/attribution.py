"""Where a network looks: what changes when a part is hidden, and what its last map says for a class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank._settings import Progress
from featbank.errors import InvalidInputError
from featbank.inspection._grid import bare
from featbank.manifest import printable
from featbank.metrics.catalogue import percent
from featbank.plots.display import Display, color_bar, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "CamDisplay",
    "OcclusionDisplay",
]

Predict = Callable[[NDArray[np.uint8]], NDArray[Any]]


class OcclusionDisplay(Display):
    """How the probability of the true class changes when a patch hides a part of the image.

    A pixel's value is the mean change over all patches that cover it. White is no change; orange, and within
    the solid line, is where hiding costs probability, purple, and within the dashed one, where it adds some.
    Drawn on two axes: the image, the change.

    Parameters
    ----------
    image : array-like of uint8, shape (h, w, 3)
        What the network saw.
    tops, lefts : sequence of int
        First row and first column of the patches, ascending.
    patch : int
        Side of the patch, in pixels.
    probabilities : array-like of float, shape (len(tops), len(lefts))
        Probability of the class with the patch there, in [0, 1].
    whole : float
        Its probability for the whole image.
    class_name : str
        The class.
    title : str, optional
        Above the figure.

    Attributes
    ----------
    change : ndarray of float64, shape (h, w)
        Mean change per pixel, in percentage points; NaN where no patch came.

    Raises
    ------
    InvalidInputError
        If shapes do not fit.

    Examples
    --------
    >>> image = np.zeros((4, 4, 3), np.uint8)
    >>> display = OcclusionDisplay(image, [0, 2], [0, 2], 2, [[0.1, 0.9], [0.9, 0.9]], 0.9, "cat")
    >>> display.change[0].round().tolist()
    [-80.0, -80.0, 0.0, 0.0]
    """

    def __init__(
        self,
        image: ArrayLike,
        tops: Sequence[int],
        lefts: Sequence[int],
        patch: int,
        probabilities: ArrayLike,
        whole: float,
        class_name: str,
        *,
        title: str | None = None,
    ) -> None:
        self.image = np.asarray(image)
        self.probabilities = np.asarray(probabilities, dtype=np.float64)
        if self.image.ndim != 3 or self.image.shape[2] != 3:
            raise InvalidInputError(f"an image has shape (h, w, 3), got {self.image.shape}")
        if self.probabilities.shape != (len(tops), len(lefts)):
            raise InvalidInputError(
                f"{len(tops)} rows of {len(lefts)} patches cannot have probabilities of shape "
                f"{self.probabilities.shape}"
            )
        self.tops, self.lefts, self.patch = list(tops), list(lefts), patch
        self.whole = float(whole)
        self.class_name = class_name
        self.title = title
        self.change = self._per_pixel()

    def _per_pixel(self) -> NDArray[np.float64]:
        total = np.zeros(self.image.shape[:2])
        covered = np.zeros(self.image.shape[:2])
        for row, top in enumerate(self.tops):
            for column, left in enumerate(self.lefts):
                under = np.s_[top : top + self.patch, left : left + self.patch]
                total[under] += self.probabilities[row, column] - self.whole
                covered[under] += 1
        return 100.0 * np.divide(total, covered, out=np.full_like(total, np.nan), where=covered > 0)

    @classmethod
    def from_image(
        cls,
        predict: Predict,
        image: ArrayLike,
        target: int,
        *,
        class_name: str | None = None,
        patch: int | None = None,
        stride: int | None = None,
        batch_size: int = 32,
        progress: Progress | None = None,
        title: str | None = None,
    ) -> OcclusionDisplay:
        """Slide a patch over an image.

        Parameters
        ----------
        predict : callable
            Takes images (n, h, w, 3) uint8, returns probabilities (n, n_classes):
            ``featbank.prediction.RunClassifier(run).probabilities``, or any other network and head.
        image : array-like of uint8, shape (h, w, 3)
            RGB, as the network takes it.
        target : int
            Column of the true class.
        class_name : str, optional
            Its name; its number by default.
        patch : int, optional
            Side of the patch in pixels; a quarter of the image by default. It has the image's mean colour.
        stride : int, optional
            Pixels from one position to the next; a third of the patch by default. The last position
            touches the edge, wherever it falls.
        batch_size : int, default=32
            Patched images that are pushed together.
        progress : callable, optional
            Called with (positions done, positions in all).
        title : str, optional
            Above the figure.

        Returns
        -------
        OcclusionDisplay
            Not drawn yet.

        Raises
        ------
        InvalidInputError
            If the patch does not fit on the image, or an option is out of range.

        References
        ----------
        .. [1] M. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014,
           section 4.2.
        """
        pixels = np.asarray(image, dtype=np.uint8)
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise InvalidInputError(f"an image has shape (h, w, 3), got {pixels.shape}")
        side = min(pixels.shape[:2])
        patch = max(1, side // 4) if patch is None else patch
        if not 1 <= patch <= side:
            raise InvalidInputError(f"patch={patch!r} must be 1 to {side}, the side of the image in pixels")
        stride = max(1, patch // 3) if stride is None else stride
        if stride < 1 or batch_size < 1:
            raise InvalidInputError(f"stride={stride!r} and batch_size={batch_size!r} must be at least 1")
        whole = np.asarray(predict(pixels[None]))
        if whole.ndim != 2 or not 0 <= target < whole.shape[1]:
            raise InvalidInputError(
                f"target={target!r} is no column of the probabilities, which have shape {whole.shape}"
            )
        tops, lefts = (_positions(length, patch, stride) for length in pixels.shape[:2])
        places = [(top, left) for top in tops for left in lefts]
        colour = np.rint(pixels.mean(axis=(0, 1))).astype(np.uint8)
        found: list[NDArray[Any]] = []
        for start in range(0, len(places), batch_size):
            now = places[start : start + batch_size]
            batch = np.repeat(pixels[None], len(now), axis=0)
            for one, (top, left) in zip(batch, now, strict=True):
                one[top : top + patch, left : left + patch] = colour
            found.append(np.asarray(predict(batch))[:, target])
            if progress is not None:
                progress(min(start + batch_size, len(places)), len(places))
        probabilities = np.concatenate(found).reshape(len(tops), len(lefts))
        name = str(target) if class_name is None else class_name
        return cls(pixels, tops, lefts, patch, probabilities, float(whole[0, target]), name, title=title)

    def facts(self) -> dict[str, Any]:
        """Return the class, its probability on the whole image, and the place whose loss costs most."""
        row, column = np.unravel_index(int(self.probabilities.argmin()), self.probabilities.shape)
        return {
            "class": self.class_name,
            "probability": self.whole,
            "patch": self.patch,
            "positions": int(self.probabilities.size),
            "lowest": float(self.probabilities.min()),
            "lowest_at": {"top": self.tops[row], "left": self.lefts[column]},
            "highest": float(self.probabilities.max()),
        }

    _noun = "an occlusion"

    def _n_axes(self) -> int:
        return 2

    def _new_axes(self) -> Any:
        return new_figure(9.4, 4.6).subplots(1, 2)

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        """Draw the image and, beside it, the change per pixel."""
        from matplotlib.patches import Rectangle

        left, right = panels
        height, width = self.change.shape
        frame = (0, width, height, 0)
        facts = self.facts()
        at, low = facts["lowest_at"], facts["lowest"]
        left.imshow(self.image, interpolation="nearest", extent=frame)
        # White on black: seen on any image.
        for colour, line in (("black", 3.4), ("white", 1.4)):
            box = Rectangle((at["left"], at["top"]), self.patch, self.patch)
            box.set(fill=False, edgecolor=colour, linewidth=line)
            left.add_patch(box)
        bare(left)
        name = printable(self.class_name)
        left.set_title(
            f"{name}: {percent(self.whole)}\nwith the patch in the frame: {percent(low)}",
            fontsize=10,
            parse_math=False,
        )
        # Both directions on one scale, so that white is no change, whatever the image; never less than one
        # point, or the noise of an image that nothing changes would look like evidence.
        reach = max(1.0, float(np.nanmax(np.abs(self.change))))
        shown = right.imshow(
            self.change, cmap="PuOr", extent=frame, vmin=-reach, vmax=reach, interpolation="nearest"
        )
        lines = self._contours(right, frame, reach)
        right.grid(visible=False)
        right.set_xlabel("Column (pixels)")
        right.set_ylabel("Row (pixels)")
        right.set_title(f"mean over all {self.patch}×{self.patch} patches on a pixel", fontsize=10)
        if own:
            bar = color_bar(shown, right, "Change of the probability (percentage points)")
            if lines is not None:
                bar.add_lines(lines)
        return []

    def _contours(self, axes: Axes, frame: tuple[int, ...], reach: float) -> Any:
        """Draw lines at half of the scale, solid for losses, dashed for gains: in grey both are dark."""
        levels = [level for level in (-reach / 2, reach / 2) if _between(level, self.change)]
        if not levels or min(self.change.shape) < 2:
            return None
        return axes.contour(
            self.change,
            levels=levels,
            colors="black",
            linewidths=1.0,
            linestyles=["solid" if level < 0 else "dashed" for level in levels],
            extent=frame,
            origin="upper",
        )


def _between(level: float, values: NDArray[np.float64]) -> bool:
    return bool(np.nanmin(values) < level < np.nanmax(values))


def _positions(length: int, patch: int, stride: int) -> list[int]:
    """Return where patches begin, both edges reached."""
    return sorted({*range(0, length - patch + 1, stride), length - patch})


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
            share = "" if self.probability is None else f": {percent(self.probability)}"
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
