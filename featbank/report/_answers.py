"""What each kept head answered: as much of it as a page has room for, and the images it got wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError, RunError
from featbank.inspection import Mistake, find_mistakes
from featbank.manifest import Manifest, printable
from featbank.metrics.accuracy import confusion_cells
from featbank.report._kept import Kept, S, Subject
from featbank.report._source import Picture, RunSource
from featbank.runs import Run

__all__ = ["Answers", "Gallery", "Seen", "cells_of", "embed", "read_answers", "with_room"]

#: The page holds answers of so many heads or networks at most, and so many bytes besides those of the first.
_MOST_HEADS, _MOST_ANSWER_BYTES = 150, 400_000
#: What the page holds of misclassified images, and how large they are.
_MOST_IMAGES, _MOST_BYTES, _SIDE = 160, 1_600_000, 192
#: The part of them that is for the first head alone where there are several.
_FIRST_SHARE = 0.6


@dataclass(frozen=True, eq=False)
class Answers:
    """What one kept head, or trained network, answered.

    Parameters
    ----------
    head : Subject
    split : {"test", "val"}
    cells : list of list of int
        The confusion matrix without zeros, one list per true class: predicted class and count in turn. (Of a
        thousand classes and a hundred heads, whole matrices would fill the memory.)
    mistakes : list of Mistake
        Worst first; empty where the bank's manifest is gone.
    """

    head: Subject
    split: str
    cells: list[list[int]]
    mistakes: list[Mistake]


@dataclass(frozen=True)
class Seen:
    """One embedded image: its picture, its file, its true class."""

    picture: Picture
    name: str
    true: int


@dataclass(frozen=True)
class Gallery:
    """The embedded images, and where each row of the manifest stands among them."""

    images: list[Seen] = field(default_factory=list)
    places: dict[int, int] = field(default_factory=dict)

    def of(self, answers: Answers, index: dict[str, int]) -> list[tuple[int, int, int | None, int | None]]:
        """Return image, predicted class, and the two probabilities in percent of a head's mistakes.

        Parameters
        ----------
        answers : Answers
        index : dict of str to int
            Number of each class.

        Returns
        -------
        list of (int, int, int or None, int or None)
            Worst first; those mistakes whose images are embedded.
        """
        return [
            (self.places[one.row], index[one.predicted], _rounded(one.p_predicted), _rounded(one.p_true))
            for one in answers.mistakes
            if one.row in self.places
        ]


def _rounded(share: float | None) -> int | None:
    return None if share is None else round(100 * share)


def read_answers(run: Run, heads: Sequence[Kept], source: RunSource) -> tuple[list[Answers], int]:
    """Return the answers of as many heads as there is room for, in their order, and how many are left out.

    What cannot be read is said in `source.missing`.
    """
    return with_room(heads, lambda one: _read(run, one, source))


def with_room(subjects: Sequence[S], read: Callable[[S], Answers | None]) -> tuple[list[Answers], int]:
    """Return the answers of as many as there is room for, in their order, and how many are left out."""
    found: list[Answers] = []
    size_bytes = n_read = 0
    for one in subjects:
        if len(found) == _MOST_HEADS or size_bytes > _MOST_ANSWER_BYTES:
            break
        n_read += 1
        answers = read(one)
        if answers is None:
            continue
        if found:
            # a line for each class comes with the cells
            size_bytes += len(json.dumps(answers.cells, separators=(",", ":"))) + 14 * len(answers.cells)
        found.append(answers)
    return found, len(subjects) - n_read


def _read(run: Run, head: Kept, source: RunSource) -> Answers | None:
    n_classes = len(run.classes)
    try:
        told = run.predictions(head.name)
        if not len(told.rows):
            return None
        found = confusion_cells(told.y_true, told.y_pred, n_classes)
    except (RunError, InvalidInputError) as error:
        _say(source, f"The answers of {printable(head.name)} are not shown: {error}.")
        return None
    mistakes: list[Mistake] = []
    if source.manifest is not None:
        try:
            mistakes = find_mistakes(told, source.manifest)
        except InvalidInputError as error:
            _say(source, f"No misclassified image is shown: {error}.")
    return Answers(head, told.split, cells_of(*found, n_classes), mistakes)


def cells_of(
    true: NDArray[np.int64], pred: NDArray[np.int64], counts: NDArray[np.int64], n_classes: int
) -> list[list[int]]:
    """Return the cells of a confusion matrix, by rows and columns, as `Answers` has them."""
    of_rows = np.split(np.stack([pred, counts], axis=1), np.searchsorted(true, np.arange(1, n_classes)))
    return [cells.ravel().tolist() for cells in of_rows]


def _say(source: RunSource, said: str) -> None:
    if said not in source.missing:
        source.missing.append(said)


def _wanted(answers: Answers) -> list[Mistake]:
    """Return mistakes in the order they are wanted: of every confused pair the worst one, then the others."""
    first: dict[Any, Mistake] = {}
    later = []
    for one in answers.mistakes:
        if first.setdefault((one.true, one.predicted), one) is not one:
            later.append(one)
    return [*first.values(), *later]


def _queue(told: Sequence[Answers]) -> Iterator[tuple[Mistake, bool]]:
    """Yield mistakes in the order in which they get room, and whether it is the first head's own room."""
    wanted = [_wanted(one) for one in told]
    for one in wanted[0]:
        yield one, True
    for turn in range(max(map(len, wanted))):
        for mine in wanted:
            if turn < len(mine):
                yield mine[turn], False


def embed(told: Sequence[Answers], source: RunSource) -> Gallery:
    """Return the images there is room for: most of it for the first head's mistakes, the rest in turns."""
    gallery = Gallery()
    manifest = source.manifest
    if manifest is None or not told:
        return gallery
    share = 1.0 if len(told) == 1 else _FIRST_SHARE
    size_bytes = 0
    tried: set[int] = set()
    for one, own in _queue(told):
        part = share if own else 1.0
        if len(gallery.images) >= part * _MOST_IMAGES or size_bytes > part * _MOST_BYTES:
            if own:
                continue
            break
        if one.row in tried:
            continue
        tried.add(one.row)
        picture = source.picture(one.row, _SIDE)
        if picture is not None:
            size_bytes += len(picture.uri)
            gallery.places[one.row] = len(gallery.images)
            gallery.images.append(Seen(picture, one.id, _label(manifest, one.row)))
    return gallery


def _label(manifest: Manifest, row: int) -> int:
    return int(manifest.labels[row])
