"""Which classes one head takes for which: a table, or a map of many classes, and the pairs confused most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featbank.report._answers import Answers

__all__ = ["Cell", "ClassLine", "Confusion", "confusion_of", "share_text"]

#: Up to so many classes the matrix is a table; beyond, it is a map.
MOST_CLASSES = 40
#: Pairs listed beside a table and beside a map.
FEW_PAIRS, MOST_PAIRS = 12, 60
_LONGEST_NAME = 18


@dataclass(frozen=True)
class Cell:
    """One cell: its classes, its count, the images of its true class, its shade 0..9."""

    true: int
    pred: int
    count: int
    total: int

    @property
    def pair(self) -> str:
        """Name of the pair of classes, unique in the page."""
        return f"{self.true}-{self.pred}"

    @property
    def shade(self) -> int:
        """How dark: 0 if empty, else by its share of the row, 1..9."""
        return min(9, 1 + 1000 * self.count // (112 * self.total)) if self.count else 0

    @property
    def kind(self) -> str:
        """Class of its look."""
        return f"{'right' if self.true == self.pred else 'wrong'} s{self.shade}" if self.count else ""


@dataclass(frozen=True)
class ClassLine:
    """What became of the images of one class: those right, and the class it is most often taken for."""

    true: int
    right: int
    total: int
    worst: Cell | None

    def texts(self, classes: Sequence[str]) -> list[str]:
        """Return what is written of it: both classes and their count, images, right ones, accuracy."""
        taken = [classes[self.worst.pred], f"{self.worst.count}"] if self.worst else ["", ""]
        return [
            classes[self.true],
            *taken,
            f"{self.total}",
            f"{self.right}",
            share_text(self.right, self.total),
        ]


@dataclass(frozen=True)
class Confusion:
    """The answers of one head, by pairs of classes.

    Parameters
    ----------
    n_right, n_rows : int
    table : tuple of tuple of Cell
        Every cell; empty where there are too many classes for a table.
    map : tuple of (str, str)
        Looks and outlines of the cells of a map of one unit per class; empty where there is a table.
    pairs : tuple of Cell
        Pairs of classes that were confused, most often first, as many as are listed.
    n_pairs : int
        How many such pairs there are.
    cells : tuple of Cell
        All that are not empty: wrong ones first, of these the most frequent.
    classes : tuple of ClassLine
        Least accurate first; classes without images last.
    """

    n_right: int
    n_rows: int
    table: tuple[tuple[Cell, ...], ...]
    map: tuple[tuple[str, str], ...]
    pairs: tuple[Cell, ...]
    n_pairs: int
    cells: tuple[Cell, ...]
    classes: tuple[ClassLine, ...]

    @property
    def n_wrong(self) -> int:
        """How many rows were answered wrongly."""
        return self.n_rows - self.n_right


def share_text(count: int, total: int) -> str:
    """Return a share in percent with one decimal, rounded up where it is between two.

    Examples
    --------
    >>> share_text(1, 16), share_text(2, 2), share_text(0, 0)
    ('6.3 %', '100.0 %', '–')
    """
    if not total:
        return "–"
    tenths = (2000 * count + total) // (2 * total)
    return f"{tenths // 10}.{tenths % 10} %"


def confusion_of(answers: Answers) -> Confusion:
    """Return what the page says of one head's answers."""
    rows = [_row(true, cells) for true, cells in enumerate(answers.cells)]
    n = len(rows)
    everything = [cell for row in rows for cell in row]
    wrong = [cell for cell in everything if cell.true != cell.pred]
    wrong.sort(key=lambda one: (-one.count, one.true, one.pred))
    tabular = n <= MOST_CLASSES
    lines = [_line(true, row) for true, row in enumerate(rows)]
    lines.sort(key=lambda one: one.right / one.total if one.total else 2.0)
    return Confusion(
        n_right=sum(cell.count for cell in everything if cell.true == cell.pred),
        n_rows=sum(cell.count for cell in everything),
        table=tuple(_whole(true, row, n) for true, row in enumerate(rows)) if tabular else (),
        map=() if tabular else _map(everything),
        pairs=tuple(wrong[: FEW_PAIRS if tabular else MOST_PAIRS]),
        n_pairs=len(wrong),
        cells=(*wrong, *(cell for cell in everything if cell.true == cell.pred)),
        classes=tuple(lines),
    )


def _row(true: int, cells: Sequence[int]) -> list[Cell]:
    total = sum(cells[1::2])
    return [Cell(true, pred, count, total) for pred, count in zip(cells[::2], cells[1::2], strict=True)]


def _whole(true: int, row: Sequence[Cell], n: int) -> tuple[Cell, ...]:
    known = {cell.pred: cell for cell in row}
    return tuple(known.get(pred) or Cell(true, pred, 0, 0) for pred in range(n))


def _line(true: int, row: Sequence[Cell]) -> ClassLine:
    wrong = [cell for cell in row if cell.pred != true]
    right = sum(cell.count for cell in row if cell.pred == true)
    worst = max(wrong, key=lambda one: one.count, default=None)
    return ClassLine(true, right, right + sum(cell.count for cell in wrong), worst)


def _map(cells: Sequence[Cell]) -> tuple[tuple[str, str], ...]:
    """Return one outline for all cells of one look: thousands of cells in a few elements."""
    drawn: dict[str, list[str]] = {}
    for cell in cells:
        drawn.setdefault(cell.kind, []).append(f"M{cell.pred} {cell.true}h1v1h-1z")
    return tuple((kind, "".join(drawn[kind])) for kind in sorted(drawn))


def shortened(name: str) -> str:
    """Return a name that fits beside a table."""
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
