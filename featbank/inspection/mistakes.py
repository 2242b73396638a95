"""The test images a head gets wrong, worst first."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
from featbank.inspection._grid import bare, draw_pictures, picture_axes, wrapped
from featbank.inspection.images import RunImages
from featbank.manifest import Manifest, printable
from featbank.metrics.catalogue import percent
from featbank.plots.display import Display
from featbank.plots.figures import head_title

if TYPE_CHECKING:
    from featbank.runs import Run
    from featbank.sweep import Predictions

__all__ = ["Mistake", "MistakesDisplay", "find_mistakes"]


@dataclass(frozen=True)
class Mistake:
    """One image that was taken for another class.

    Parameters
    ----------
    row : int
        Row of the run's manifest.
    id : str
        Its id there (the file's path when the head was fitted), fit for a terminal.
    true, predicted : str
        Class names.
    p_true, p_predicted : float or None
        Probability of each, in [0, 1]; None where the head knows none.

    Examples
    --------
    >>> one = Mistake(row=3, id="cat/3.jpg", true="cat", predicted="dog", p_true=0.04, p_predicted=0.95)
    >>> f"{one.id} is taken for a {one.predicted} ({one.p_predicted:.0%})"
    'cat/3.jpg is taken for a dog (95%)'
    """

    row: int
    id: str
    true: str
    predicted: str
    p_true: float | None
    p_predicted: float | None


def find_mistakes(predictions: Predictions, manifest: Manifest) -> list[Mistake]:
    """List the rows a head gets wrong, worst first.

    Parameters
    ----------
    predictions : featbank.sweep.Predictions
        What a kept head answered; `featbank.runs.Run.predictions` reads it.
    manifest : Manifest
        ``Run.manifest``, whose rows these are.

    Returns
    -------
    list of Mistake
        The one whose true class got the lowest probability first (the largest loss); of equal ones the
        surer. Without probabilities in the order of the rows.

    Raises
    ------
    InvalidInputError
        If these are not the manifest's rows.

    Examples
    --------
    >>> import featbank
    >>> run = featbank.open_run()
    >>> worst, *others = find_mistakes(run.predictions(), run.manifest)
    >>> worst.true != worst.predicted, worst.p_true <= others[0].p_true
    (True, True)
    """
    rows, classes = predictions.rows, manifest.classes
    if rows.size and (rows.max() >= len(manifest) or (manifest.labels[rows] != predictions.y_true).any()):
        raise InvalidInputError(
            "the answers are not those of the manifest's rows: the run is damaged; run the command again"
        )
    wrong = np.flatnonzero(predictions.y_true != predictions.y_pred)
    p_true, p_pred = predictions.p_true, predictions.p_pred
    if p_true is not None and p_pred is not None:
        wrong = wrong[np.lexsort((wrong, -p_pred[wrong], p_true[wrong]))]
    return [
        Mistake(
            row=int(rows[at]),
            id=printable(manifest.ids[int(rows[at])]),
            true=classes[int(predictions.y_true[at])],
            predicted=classes[int(predictions.y_pred[at])],
            p_true=None if p_true is None else float(p_true[at]),
            p_predicted=None if p_pred is None else float(p_pred[at]),
        )
        for at in wrong.tolist()
    ]


class MistakesDisplay(Display):
    r"""Misclassified images with true and predicted class and their probabilities, worst first.

    Drawn on one axes per mistake (one, if there is none).

    Parameters
    ----------
    mistakes : sequence of Mistake
        Those to draw, in this order.
    images : sequence of (ndarray of uint8 of shape (h, w, 3), or None)
        One for each of them; None where the image is no longer there.
    n_wrong, n_rows : int
        How many were wrong, of how many.
    split : str, default="test"
        Which rows.
    title : str, optional
        Above the figure.

    Raises
    ------
    InvalidInputError
        If there are not as many images as mistakes.

    Examples
    --------
    >>> one = Mistake(3, "cat/3.jpg", "cat", "dog", 0.04, 0.95)
    >>> display = MistakesDisplay([one], [np.zeros((9, 16, 3), np.uint8)], n_wrong=1, n_rows=40).plot()
    >>> display.ax_[0].get_title(loc="left")
    'cat: 4.0 %\ntaken for dog: 95.0 %'
    """

    def __init__(
        self,
        mistakes: Sequence[Mistake],
        images: Sequence[NDArray[np.uint8] | None],
        *,
        n_wrong: int,
        n_rows: int,
        split: str = "test",
        title: str | None = None,
    ) -> None:
        if len(mistakes) != len(images):
            raise InvalidInputError(f"{len(mistakes)} mistakes need as many images, got {len(images)}")
        self.mistakes = tuple(mistakes)
        self.images = tuple(images)
        self.n_wrong, self.n_rows = n_wrong, n_rows
        self.split = split
        self.title = title

    @classmethod
    def from_predictions(
        cls,
        predictions: Predictions,
        images: RunImages,
        *,
        most: int = 24,
        title: str | None = None,
    ) -> MistakesDisplay:
        """Find the mistakes of a kept head and read their images again.

        Parameters
        ----------
        predictions : featbank.sweep.Predictions
            What it answered on the rows of a run.
        images : RunImages
            Of that run.
        most : int, default=24
            How many to show.
        title : str, optional
            Above the figure.

        Returns
        -------
        MistakesDisplay
            Not drawn yet.

        Raises
        ------
        InvalidInputError
            If `most` is below 1, or these are not the answers on the run's rows.
        MissingDataError
            If not one of the images to be shown is there; of some that are gone the log says which.
        """
        if most < 1:
            raise InvalidInputError(f"most={most!r} must be at least 1")
        found = find_mistakes(predictions, images.manifest)
        return cls(
            found[:most],
            images.thumbnails([one.row for one in found[:most]]),
            n_wrong=len(found),
            n_rows=len(predictions.rows),
            split=predictions.split,
            title=title,
        )

    @classmethod
    def from_run(
        cls,
        run: Run,
        *,
        head: str | None = None,
        most: int = 24,
        data: str | os.PathLike[str] | None = None,
        data_root: str | os.PathLike[str] | None = None,
    ) -> MistakesDisplay:
        """Make a display of the images that a kept head of a run gets wrong, worst first.

        Parameters
        ----------
        run : Run
            Where the head was fitted.
        head : str, optional
            Its name; the best by validation accuracy by default.
        most : int, default=24
            How many to show.
        data, data_root : path, optional
            Where the images are now, if they have moved; see `RunImages`.

        Returns
        -------
        MistakesDisplay
            Not drawn yet.

        Raises
        ------
        RunError
            If there is no such head.
        MissingDataError
            If the images are gone.
        InvalidInputError
            If `most` is below 1.
        """
        entry = run.entry(head)
        images = RunImages(run.manifest, run.provenance(), data, data_root=data_root)
        predictions = run.predictions(entry["name"])
        return cls.from_predictions(predictions, images, most=most, title=head_title(run, entry))

    _noun = "this page of mistakes"

    def _n_axes(self) -> int:
        return max(1, len(self.mistakes))

    def _new_axes(self) -> Any:
        return picture_axes(self._n_axes())

    def _heading(self) -> str:
        said = self.heading()
        return f"{self.title}\n{said}" if self.title else said

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        draw_pictures(panels, self.images, list(map(_said, self.mistakes)))
        if not self.mistakes:
            bare(panels[0])
            panels[0].text(0.5, 0.5, "no mistakes", ha="center", va="center")
        return []

    def facts(self) -> dict[str, Any]:
        """Return how many are wrong of how many, and what is known of those that are drawn."""
        return {
            "split": self.split,
            "wrong": self.n_wrong,
            "of": self.n_rows,
            "mistakes": [
                {**asdict(one), "found": image is not None}
                for one, image in zip(self.mistakes, self.images, strict=True)
            ],
        }

    def heading(self) -> str:
        """Return how many images are wrong and which are shown."""
        rows = {"val": "validation"}.get(self.split, self.split)
        said = f"{self.n_wrong} of {self.n_rows} {rows} images wrong"
        if not self.mistakes:
            return said
        sure = self.mistakes[0].p_true is not None
        first = "the least probable true class first" if sure else "in the order of the rows"
        return f"{said}, {first}" + (
            f"; {len(self.mistakes)} shown" if len(self.mistakes) < self.n_wrong else ""
        )


def _said(one: Mistake) -> str:
    shares = ["" if share is None else f": {percent(share)}" for share in (one.p_true, one.p_predicted)]
    true, predicted = (wrapped(printable(name), 17) for name in (one.true, one.predicted))
    return f"{true}{shares[0]}\ntaken for {predicted}{shares[1]}"
