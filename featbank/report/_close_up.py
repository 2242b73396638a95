"""One head or network closely: by what it is chosen, which classes it takes for which, its images."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from featbank.inspection import Mistake
from featbank.manifest import Manifest, printable
from featbank.plots.chart import SPLIT_NAMES
from featbank.report._source import Picture, RunSource

__all__ = [
    "Answers",
    "Asked",
    "Cell",
    "CloseUp",
    "Confusion",
    "Facet",
    "Subject",
    "cells_of",
    "close_up",
    "confusion_of",
    "facets",
    "share_text",
    "with_room",
]


class Subject(Protocol):
    """What a page looks at closely: a kept head, or a trained network."""

    @property
    def at(self) -> int:
        """Its number on the page."""

    @property
    def named(self) -> str:
        """What it is, in words."""

    @property
    def figures(self) -> list[tuple[str, str]]:
        """What is known of how good it is, as (name, value)."""


S = TypeVar("S", bound=Subject)

#: Something subjects differ in: its name, its value for one of them, and by what values are ordered.
Asked = tuple[str, Callable[[S], str], Callable[[S], Any]]


@dataclass(frozen=True)
class Facet:
    """One thing heads differ in: its name, its values, and which of them each head has."""

    name: str
    values: tuple[str, ...]
    of_heads: tuple[int, ...]


def facets(subjects: Sequence[S], asked: Sequence[Asked[S]]) -> list[Facet]:
    """Return what has to be chosen to name one of the subjects; nothing that follows from the rest."""
    found: list[Facet] = []
    told: list[tuple[str, ...]] = [() for _ in subjects]
    for name, value, order in asked:
        mine = [value(one) for one in subjects]
        if len(set(zip(told, mine, strict=True))) == len(set(told)):
            continue
        values = tuple(dict.fromkeys(value(one) for one in sorted(subjects, key=order)))
        found.append(Facet(name, values, tuple(values.index(one) for one in mine)))
        told = [(*before, one) for before, one in zip(told, mine, strict=True)]
    return found


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
class Shown:
    """One embedded image; what the first head took it for, with both probabilities, if it did."""

    at: int
    seen: Seen
    pred: int | None = None
    p_pred: int | None = None
    p_true: int | None = None

    @property
    def pair(self) -> str:
        """Name of the pair of classes; empty where the first head is right."""
        return "" if self.pred is None else f"{self.seen.true}-{self.pred}"

    def texts(self, classes: Sequence[str]) -> list[str]:
        """Return what is written below it: both classes with the probabilities the head gave them."""
        return _caption(classes, self.seen.true, self.pred, self.p_pred, self.p_true)


def _caption(
    classes: Sequence[str], true: int, pred: int | None, p_pred: int | None, p_true: int | None
) -> list[str]:
    def share(value: int | None) -> str:
        return "" if value is None else Markup(f" {value}&nbsp;%")  # a number of ours

    if pred is None:
        return [classes[true], "", "", "", ""]
    return [classes[true], share(p_true), "taken for ", classes[pred], share(p_pred)]


@dataclass(frozen=True)
class Gallery:
    """The embedded images, where each row of the manifest stands among them, and the number of each class."""

    images: list[Seen] = field(default_factory=list)
    places: dict[int, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)

    def of(self, answers: Answers) -> list[Shown]:
        """Return those mistakes of a head whose images are embedded, worst first."""
        return [
            Shown(
                self.places[one.row],
                self.images[self.places[one.row]],
                self.classes[one.predicted],
                _rounded(one.p_predicted),
                _rounded(one.p_true),
            )
            for one in answers.mistakes
            if one.row in self.places
        ]


def _rounded(share: float | None) -> int | None:
    return None if share is None else round(100 * share)


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


def cells_of(
    true: NDArray[np.int64], pred: NDArray[np.int64], counts: NDArray[np.int64], n_classes: int
) -> list[list[int]]:
    """Return the cells of a confusion matrix, by rows and columns, as `Answers` has them."""
    of_rows = np.split(np.stack([pred, counts], axis=1), np.searchsorted(true, np.arange(1, n_classes)))
    return [cells.ravel().tolist() for cells in of_rows]


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
    manifest = source.manifest
    if manifest is None or not told:
        return Gallery()
    # mistakes name classes as the bank has them
    gallery = Gallery(classes={name: at for at, name in enumerate(manifest.classes)})
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


#: Misclassified images that are seen without opening anything: all if they are few, else so many.
_FEW, _N_SHOWN = 18, 12


@dataclass(frozen=True)
class CloseUp:
    """What the page shows of one head at a time.

    Parameters
    ----------
    heads : tuple of Subject
        Those whose answers are in the page; the first one's are written out.
    facets : tuple of Facet
        By what one of them is chosen.
    said, seen : str
        How many images the first one got right, and which of the others are embedded.
    confusion : Confusion
        Of the first head.
    short, classes : tuple of str
        Names of the classes, shortened and whole.
    shown, folded, others : tuple of Shown
        The images embedded: the first head's mistakes, worst first, and those of other heads.
    data : Markup
        What the script needs for the other heads, as JSON.
    left_out : int
        Heads whose answers are not in the page.
    """

    heads: tuple[Subject, ...]
    facets: tuple[Facet, ...]
    said: str
    seen: str
    confusion: Confusion
    short: tuple[str, ...]
    classes: tuple[str, ...]
    shown: tuple[Shown, ...]
    folded: tuple[Shown, ...]
    others: tuple[Shown, ...]
    data: Markup
    left_out: int

    @property
    def first(self) -> Subject:
        """The head that is written out."""
        return self.heads[0]

    @property
    def n_images(self) -> int:
        """How many images are embedded."""
        return len(self.shown) + len(self.folded) + len(self.others)

    @property
    def numbers(self) -> set[int]:
        """Numbers of the heads that can be chosen."""
        return {one.at for one in self.heads}

    @property
    def targets(self) -> defaultdict[str, str]:
        """Where the link of each confused pair leads when the page runs no script; empty: to no image."""
        images = [*self.shown, *self.folded]
        return defaultdict(str, {one.pair: f"image-{one.at}" for one in reversed(images)})


def close_up(
    told: Sequence[Answers],
    classes: Sequence[str],
    asked: Sequence[Facet],
    source: RunSource | None = None,
    *,
    left_out: int = 0,
) -> CloseUp | None:
    """Return what the page shows of some answers, the first ones written out; None if there are none.

    Parameters
    ----------
    told : sequence of Answers
    classes : sequence of str
    asked : sequence of Facet
        By what one of them is chosen.
    source : RunSource, optional
        Where the misclassified images are.
    left_out : int, default=0
        How many have no room.
    """
    if not told:
        return None
    gallery = Gallery() if source is None else embed(told, source)
    mine = gallery.of(told[0])
    known = {one.at for one in mine}
    others = tuple(Shown(at, seen) for at, seen in enumerate(gallery.images) if at not in known)
    classes = tuple(map(printable, classes))
    written = [_written(one, gallery, classes) for one in told]
    n_shown = written[0]["shown"]
    return CloseUp(
        heads=tuple(one.head for one in told),
        facets=tuple(asked),
        said=written[0]["said"],
        seen=written[0]["seen"],
        confusion=confusion_of(told[0]),
        short=tuple(map(shortened, classes)),
        classes=classes,
        shown=tuple(mine[:n_shown]),
        folded=tuple(mine[n_shown:]),
        others=others,
        data=_data(written, classes, asked),
        left_out=left_out,
    )


def _written(answers: Answers, gallery: Gallery, classes: Sequence[str]) -> dict[str, Any]:
    """Return what the page says of one head, counted and in words; the script only puts it in its place."""
    confusion, images = confusion_of(answers), gallery.of(answers)
    n_wrong, split = f"{confusion.n_wrong:,}", SPLIT_NAMES[answers.split]
    sure = ", worst first. Beside each class, the probability the head gave it"
    return {
        "at": answers.head.at,
        "named": answers.head.named,
        "said": f"{confusion.n_right:,} of {confusion.n_rows:,} {split} images right, {n_wrong} wrong.",
        "seen": f"{len(images)} of {n_wrong} are in this page"
        f"{sure if images and images[0].p_pred is not None else ''}."
        if confusion.n_wrong
        else "None: every image was recognised.",
        "shown": _N_SHOWN if len(images) > _FEW else _FEW,
        "figures": answers.head.figures,
        "cells": [part for one in confusion.cells for part in (one.true, one.pred, one.count, one.shade)],
        "classes": [(line.true, line.texts(classes)[-1]) for line in confusion.classes],
        "images": [
            -1 if part is None else part
            for one in images
            for part in (one.at, one.pred, one.p_pred, one.p_true)
        ],
    }


def _data(heads: Sequence[dict[str, Any]], classes: Sequence[str], asked: Sequence[Facet]) -> Markup:
    """Return what the script reads. Nothing in it can end the element it stands in."""
    told_once = {
        "classes": list(classes),
        "pairs": FEW_PAIRS if len(classes) <= MOST_CLASSES else MOST_PAIRS,
        "heads": [{**one, "facets": [facet.of_heads[at] for facet in asked]} for at, one in enumerate(heads)],
    }
    text = json.dumps(told_once, separators=(",", ":"))  # ASCII alone
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # no sign left that HTML knows
