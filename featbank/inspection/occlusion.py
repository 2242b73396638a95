"""Where the evidence for a class lies: a patch slides over the image, and the probability is watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank._settings import Progress
from featbank.errors import InvalidInputError
from featbank.inspection._grid import bare
from featbank.manifest import printable
from featbank.plots.display import Display, color_bar, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["OcclusionDisplay"]

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
            f"{name}: {100 * self.whole:.1f} %\nwith the patch in the frame: {100 * low:.1f} %",
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
