"""The heads a run kept: in which order the page has them, and by what they are told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from featbank.manifest import printable
from featbank.plots.chart import percent, spelled
from featbank.runs import Run
from featbank.sampling import size_label, size_order, size_words
from featbank.sweep import Fit

__all__ = [
    "COLUMNS",
    "Asked",
    "Facet",
    "Kept",
    "S",
    "Subject",
    "facets",
    "head_facets",
    "kept_heads",
    "table_rows",
]

#: The table of kept heads has so many lines; how many are left out is said.
_MOST_LISTED = 200
#: Its columns, of which the first three are texts.
COLUMNS = ("Head", "Cut", "Kind", "Samples per class", "Validation", "Test", "Epochs", "Best epoch")


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
class Kept:
    """One kept head.

    Parameters
    ----------
    at : int
        Its number on the page.
    entry : dict
        What `Run.heads` says of it.
    fit : Fit or None
        Its line of ``results.csv``.
    """

    at: int
    entry: dict[str, Any]
    fit: Fit | None

    @property
    def name(self) -> str:
        """Name of its files."""
        return str(self.entry["name"])

    @property
    def cut(self) -> str:
        """Its cut, with the temperature if there is one."""
        return spelled(self.entry["cut"], self.entry["temperature"])

    @property
    def named(self) -> str:
        """The head in words."""
        facts = self.entry
        return f"{printable(facts['head'])} on {self.cut}, {size_words(facts)}, repeat {facts['repeat']}"

    @property
    def figures(self) -> list[tuple[str, str]]:
        """What is known of how good it is, as (name, value)."""
        facts, fit = self.entry, self.fit
        found = [
            ("test accuracy", facts["top1"]),
            ("validation accuracy", facts["val_top1"]),
            ("training accuracy", fit.train_top1 if fit else None),
            ("test top-5", fit.top5 if fit else None),
            ("calibration error (test)", fit.ece if fit else None),
        ]
        return [(name, percent(value)) for name, value in found if value is not None]


@dataclass(frozen=True)
class Facet:
    """One thing heads differ in: its name, its values, and which of them each head has."""

    name: str
    values: tuple[str, ...]
    of_heads: tuple[int, ...]


def kept_heads(run: Run) -> list[Kept]:
    """Return the kept heads: the best, then the best of each other curve, then the rest, good ones first."""

    def merit(entry: dict[str, Any]) -> float:
        return -float(entry["val_top1"] or entry["top1"] or 0.0)

    entries = sorted(run.heads(), key=merit)
    if any(one["saved"] for one in entries):
        best = run.best_head()["name"]
        entries.sort(key=lambda one: one["name"] != best)
    firsts: dict[Any, str] = {}
    for one in entries:
        firsts.setdefault((one["cut"], one["head"], one["temperature"]), one["name"])
    leading = set(firsts.values())
    entries.sort(key=lambda one: one["name"] not in leading)
    fits = {fit.id: fit for fit in run.result().fits}
    return [
        Kept(
            at,
            one,
            fits.get(((one["cut"], one["head"], one["temperature"]), one["n_per_class"], one["repeat"])),
        )
        for at, one in enumerate(entries)
    ]


def _size(one: Kept) -> str:
    return size_label(one.entry)


def head_facets(run: Run, heads: Sequence[Kept]) -> list[Facet]:
    """Return what has to be chosen to name one of the kept heads of a run."""
    depth = {cut: at for at, cut in enumerate(run.result().cuts)}

    def place(one: Kept) -> tuple[int, float]:
        return depth.get(one.entry["cut"], len(depth)), one.entry["temperature"] or 0.0

    asked: list[Asked[Kept]] = [
        ("Cut", lambda one: one.cut, place),
        ("Head", lambda one: printable(one.entry["head"]), lambda one: 0),
        ("Samples per class", _size, lambda one: size_order(one.entry["n_per_class"])),
        ("Repeat", lambda one: f"{one.entry['repeat']}", lambda one: one.entry["repeat"]),
    ]
    return facets(heads, asked)


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


def table_rows(heads: Sequence[Kept], n_epochs: dict[str, int]) -> list[tuple[Kept, tuple[str, ...]]]:
    """Return the lines of the table of kept heads: three cells of text, then numbers."""
    lines: list[tuple[Kept, tuple[str, ...]]] = []
    for one in heads[:_MOST_LISTED]:
        facts, n = one.entry, n_epochs.get(one.name, 0)
        best = facts["best_epoch"]
        epochs = ("–", "–") if n < 2 else (f"{n}", "–" if best is None else f"{best}")
        shares = percent(facts["val_top1"]), percent(facts["top1"])
        lines.append((one, (one.name, one.cut, printable(facts["head"]), _size(one), *shares, *epochs)))
    return lines
