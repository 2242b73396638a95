"""One head closely: its answers and their images, written for the best head and kept ready for the others."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from featbank.manifest import printable
from featbank.report._answers import Answers, Gallery, Seen, embed
from featbank.report._confusion import FEW_PAIRS, MOST_CLASSES, MOST_PAIRS, Confusion, confusion_of, shortened
from featbank.report._kept import Facet, Subject
from featbank.report._source import RunSource

__all__ = ["CloseUp", "Mistake", "close_up"]

#: Misclassified images that are seen without opening anything: all if they are few, else so many.
_FEW, _N_SHOWN = 18, 12
_SPLITS = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class Mistake:
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
    shown, folded, others : tuple of Mistake
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
    shown: tuple[Mistake, ...]
    folded: tuple[Mistake, ...]
    others: tuple[Mistake, ...]
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
    manifest = None if source is None else source.manifest
    # mistakes name classes as the bank has them
    index = {name: at for at, name in enumerate(manifest.classes)} if manifest else {}
    mine = [Mistake(at, gallery.images[at], *more) for at, *more in gallery.of(told[0], index)]
    known = {one.at for one in mine}
    others = tuple(Mistake(at, seen) for at, seen in enumerate(gallery.images) if at not in known)
    classes = tuple(map(printable, classes))
    written = [_written(one, gallery, index, classes) for one in told]
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


def _written(
    answers: Answers, gallery: Gallery, index: dict[str, int], classes: Sequence[str]
) -> dict[str, Any]:
    """Return what the page says of one head, counted and in words; the script only puts it in its place."""
    confusion, images = confusion_of(answers), gallery.of(answers, index)
    n_wrong, split = f"{confusion.n_wrong:,}", _SPLITS[answers.split]
    sure = ", worst first. Beside each class, the probability the head gave it"
    return {
        "at": answers.head.at,
        "named": answers.head.named,
        "said": f"{confusion.n_right:,} of {confusion.n_rows:,} {split} images right, {n_wrong} wrong.",
        "seen": f"{len(images)} of {n_wrong} are in this page"
        f"{sure if images and images[0][2] is not None else ''}.",
        "shown": _N_SHOWN if len(images) > _FEW else _FEW,
        "figures": answers.head.figures,
        "cells": [part for one in confusion.cells for part in (one.true, one.pred, one.count, one.shade)],
        "classes": [(line.true, line.texts(classes)[-1]) for line in confusion.classes],
        "images": [-1 if part is None else part for line in images for part in line],
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
