"""Which classes are taken for which, down to the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featbank import figures
from featbank.errors import InvalidInputError, RunError
from featbank.inspection import Mistake as Wrong
from featbank.inspection import find_mistakes
from featbank.manifest import Manifest, printable
from featbank.metrics import per_class_accuracy
from featbank.plots import ConfusionDisplay
from featbank.report._figures import Table, percent, spelled
from featbank.report._source import Picture, RunSource
from featbank.runs import Run
from featbank.sweep import Predictions

__all__ = ["Cell", "Confusion", "Mistake", "run_confusion"]

#: Up to so many classes the matrix is a table; beyond, the pairs are listed.
_MOST_CLASSES = 40
_MOST_PAIRS, _FEW_PAIRS = 60, 12
#: What the page holds of misclassified images, and how large they are.
_MOST_IMAGES, _MOST_BYTES, _SIDE = 160, 1_600_000, 192
#: Misclassified images that are seen without opening anything: all if they are few, else so many.
_FEW, _N_SHOWN = 18, 12
_LONGEST_NAME = 18


@dataclass(frozen=True)
class Cell:
    """One cell: its classes, its count, its shade 0..9, and what a screen reader says of it."""

    true: int
    pred: int
    count: int
    shade: int
    said: str

    @property
    def pair(self) -> str:
        """Name of the pair of classes, unique in the page."""
        return f"{self.true}-{self.pred}"


@dataclass(frozen=True)
class Mistake:
    """One misclassified image, of a pair of classes, with the probabilities of the two."""

    pair: str
    picture: Picture
    name: str
    true: str
    pred: str
    sure: str


@dataclass(frozen=True)
class Confusion:
    """The answers of one head.

    Parameters
    ----------
    head, split : str
        Its name; the rows it answered on.
    named : str
        The head in words.
    n_right, n_rows : int
    short, classes : tuple of str
        Names of the classes, shortened and whole.
    cells : tuple of tuple of Cell
        The matrix; empty where there are too many classes for a table.
    pairs : tuple of Cell
        Pairs of classes that were confused, most often first.
    n_pairs : int
        How many such pairs there are.
    shown, folded : tuple of Mistake
        The images embedded, the worst first.
    per_class : Table
    """

    head: str
    split: str
    named: str
    n_right: int
    n_rows: int
    short: tuple[str, ...]
    classes: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    pairs: tuple[Cell, ...]
    n_pairs: int
    shown: tuple[Mistake, ...]
    folded: tuple[Mistake, ...]
    per_class: Table

    @property
    def n_wrong(self) -> int:
        """How many rows were answered wrongly."""
        return self.n_rows - self.n_right

    @property
    def targets(self) -> dict[str, str]:
        """Where the link of each confused pair leads when the page runs no script."""
        first = {f"{cell.true}-{cell.pred}": "confusion" for row in [*self.cells, self.pairs] for cell in row}
        images = [*self.shown, *self.folded]
        return first | {one.pair: f"image-{at}" for at, one in reversed([*enumerate(images)])}

    @property
    def n_images(self) -> int:
        """How many images are embedded."""
        return len(self.shown) + len(self.folded)


def run_confusion(run: Run, source: RunSource) -> Confusion | None:
    """Return the answers of the best head of a run (by validation accuracy); None if it kept none."""
    try:
        entry = run.best_head()
        answers = run.predictions(entry["name"])
    except RunError as error:
        source.missing.append(f"No confusion matrix: {error}.")
        return None
    if not len(answers.rows):
        return None
    display = figures.confusion(run, entry["name"])
    classes = tuple(printable(name) for name in run.classes)
    everyone = range(len(classes)) if len(classes) <= _MOST_CLASSES else range(0)
    cells = tuple(tuple(_cell(display, classes, true, pred) for pred in everyone) for true in everyone)
    wrong = np.flatnonzero(answers.y_true != answers.y_pred)
    embedded = _embed(answers, source)
    n_shown = _N_SHOWN if len(embedded) > _FEW else _FEW
    confused = [(int(true), int(pred)) for true, pred in np.argwhere(display.matrix) if true != pred]
    confused.sort(key=lambda pair: (-display.matrix[pair], pair))
    n_listed = _FEW_PAIRS if cells else _MOST_PAIRS
    return Confusion(
        head=entry["name"],
        split="validation" if answers.split == "val" else "test",
        named=f"{printable(entry['head'])} on {spelled(entry['cut'], entry['temperature'])}, "
        f"{entry['n_per_class']:g} samples per class",
        n_right=len(answers.rows) - len(wrong),
        n_rows=len(answers.rows),
        short=tuple(map(_short, classes)),
        classes=classes,
        cells=cells,
        pairs=tuple(_cell(display, classes, *pair) for pair in confused[:n_listed]),
        n_pairs=len(confused),
        shown=tuple(embedded[:n_shown]),
        folded=tuple(embedded[n_shown:]),
        per_class=_per_class(display, classes),
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _cell(display: ConfusionDisplay, classes: Sequence[str], true: int, pred: int) -> Cell:
    count, total = int(display.matrix[true, pred]), int(display.matrix[true].sum())
    if not count:
        return Cell(true, pred, 0, 0, "")
    share = 100 * count / total
    what = "recognised" if true == pred else f"taken for {classes[pred]}"
    said = f"{count} of {total} images of {classes[true]} {what} ({share:.0f} %)"
    return Cell(true, pred, count, min(9, 1 + int(share // 11.2)), said)


def _chosen(answers: Predictions, manifest: Manifest) -> list[tuple[tuple[int, int], Wrong]]:
    """Return mistakes in the order they are wanted: of every confused pair the worst one, then the others.

    Raises
    ------
    InvalidInputError
        If the manifest has other rows now than those that were answered.
    """
    index = {name: at for at, name in enumerate(manifest.classes)}
    first: list[tuple[tuple[int, int], Wrong]] = []
    later: list[tuple[tuple[int, int], Wrong]] = []
    seen: set[tuple[int, int]] = set()
    for one in find_mistakes(answers, manifest):
        pair = index[one.true], index[one.predicted]
        (later if pair in seen else first).append((pair, one))
        seen.add(pair)
    return first + later


def _embed(answers: Predictions, source: RunSource) -> list[Mistake]:
    """Return the mistakes the page has room for, worst first; none where their images cannot be had."""
    if source.manifest is None:
        return []
    try:
        chosen = _chosen(answers, source.manifest)
    except InvalidInputError as error:
        source.missing.append(f"No misclassified image is shown: {error}.")
        return []
    found: list[tuple[tuple[float, float, int], Mistake]] = []
    size_bytes = 0
    for (true, pred), one in chosen:
        if len(found) == _MOST_IMAGES or size_bytes > _MOST_BYTES:
            break
        picture = source.picture(one.row, _SIDE)
        if picture is None:
            continue
        size_bytes += len(picture.uri)
        names = printable(one.true), printable(one.predicted)
        sure = ""
        worst = (0.0, 0.0, one.row)
        if one.p_true is not None and one.p_predicted is not None:
            sure = f"{percent(one.p_predicted, 0)} to {percent(one.p_true, 0)}"
            worst = (one.p_true, -one.p_predicted, one.row)
        found.append((worst, Mistake(f"{true}-{pred}", picture, one.id, *names, sure)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def _per_class(display: ConfusionDisplay, classes: Sequence[str]) -> Table:
    accuracy = per_class_accuracy(display.matrix)
    rows = []
    for at in np.argsort(np.where(np.isnan(accuracy), 2.0, accuracy), kind="stable").tolist():
        counts = display.matrix[at].copy()
        right, total = int(counts[at]), int(counts.sum())
        counts[at] = 0
        most = int(counts.argmax())
        taken = f"{classes[most]} ({counts[most]})" if counts[most] else "–"
        rows.append((classes[at], taken, f"{total}", f"{right}", percent(float(accuracy[at]))))
    return Table(("Class", "Most often taken for", "Images", "Right", "Accuracy"), tuple(rows), 2)
