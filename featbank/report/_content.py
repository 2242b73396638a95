"""What a page says, whatever it is of: the template has one place for each of these."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup
from pydantic import BaseModel

from featbank._validation import CONFIG, FileName, Line, Share, check
from featbank.plots import Display
from featbank.plots.chart import Table
from featbank.report._close_up import CloseUp, Subject
from featbank.report._source import Picture
from featbank.report._svg import alone, both, swatch
from featbank.runs.folder import STUDY_FILE, checked

__all__ = [
    "Comparison",
    "Content",
    "Figure",
    "Histories",
    "History",
    "Sample",
    "Study",
    "epochs_shown",
    "figure_of",
    "range_text",
    "read_study",
    "time_text",
    "title_text",
    "transform_text",
    "value_text",
]


@dataclass(frozen=True)
class Comparison:
    """One figure, published and measured.

    Parameters
    ----------
    label, metric : str
        What it is of, and what it is.
    published, measured : float, str or None
        The values; None where there is none.
    low, high : float or None
        The 95 % interval of the measured value.
    source : str
        Where the published value stands; empty if there is none.
    unit : {"share", "temperature"}
        What the values are: shares in 0..1, which a page shows in percent, or temperatures of a softmax.
    """

    label: str
    metric: str
    published: float | str | None
    measured: float | str | None
    low: float | None
    high: float | None
    source: str
    unit: str

    @property
    def is_share(self) -> bool:
        """Whether the values are shares in 0..1."""
        return self.unit == "share"

    @property
    def difference(self) -> float | None:
        """Measured minus published; None unless both are numbers."""
        if isinstance(self.published, (int, float)) and isinstance(self.measured, (int, float)):
            return float(self.measured) - float(self.published)
        return None


class _Model(BaseModel):
    model_config = CONFIG


class Number(_Model):
    """One figure as ``study.json`` has it, published or measured."""

    label: Line
    metric: Line
    unit: Literal["share", "temperature"]
    value: float | Line | None
    low: Share | None = None
    high: Share | None = None
    source: Line = ""


class Claim(_Model):
    """A published finding in words, whether it holds here (None: not known), and by which figures."""

    text: Line
    holds: bool | None = None
    said: Line = ""


class Study(_Model):
    """A study as ``study.json`` of a run or a training tells it.

    Parameters
    ----------
    title, question : str
    published, measured : list of Number
    differs : list of str
        Where the protocol is another than the published one.
    claims : list of Claim
    experiment : str
        Which experiment of the study this run is; empty if the file does not say.
    experiments : dict of str to str
        All of them, and the names of their runs.
    trainings : dict of str to list of str
        The networks that the study trained, and the names of their folders, one for each seed.
    """

    title: Line = ""
    question: Line = ""
    published: list[Number] = []
    measured: list[Number] = []
    differs: list[Line] = []
    claims: list[Claim] = []
    experiment: Line = ""
    experiments: dict[str, Line] = {}
    trainings: dict[str, list[FileName]] = {}

    @property
    def others(self) -> dict[str, str]:
        """The study's other experiments and the names of their runs."""
        return {name: run for name, run in self.experiments.items() if name != self.experiment}

    @property
    def comparisons(self) -> list[Comparison]:
        """Published figures in their order, then what was measured only."""
        theirs, mine = (
            {(one.label, one.metric): one for one in listed} for listed in (self.published, self.measured)
        )
        none = Number(label="", metric="", unit="share", value=None)
        return [
            Comparison(
                *key,
                published=theirs.get(key, none).value,
                measured=mine.get(key, none).value,
                low=mine.get(key, none).low,
                high=mine.get(key, none).high,
                source=theirs.get(key, none).source,
                unit=(theirs.get(key) or mine[key]).unit,
            )
            for key in dict.fromkeys([*theirs, *mine])
        ]


def read_study(folder: Path) -> Study | None:
    """Read ``study.json`` of a run or a training; None if it belongs to no study.

    Raises
    ------
    RunError
        If the file is damaged.
    """
    return checked(folder, STUDY_FILE, partial(check, Study))


#: A page holds so many epochs of all histories together.
_MOST_EPOCHS_IN_ALL = 2000
#: Epochs of one head: so many where there is room, and never fewer than these.
_MOST_EPOCHS, _LEAST_EPOCHS = 200, 24
_HISTORY_SIZE = (440, 290)


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Parameters
    ----------
    key, title, caption : str
    drawings : tuple of Markup
    legend : tuple of (text, swatch or None, numbers of series)
        An entry without a swatch is a heading.
    table : Table
    """

    key: str
    title: str
    caption: str
    drawings: tuple[Markup, ...]
    legend: tuple[tuple[str, Markup | None, tuple[int, ...]], ...]
    table: Table


def figure_of(key: str, display: Display, *, small: bool = False) -> Figure:
    """Return a display as a figure of the page; `small` ones have one drawing for every screen."""
    legend = [(one.text, swatch(one.look) if one.look else None, one.series) for one in display.legend()]
    drawn = (alone(one, _HISTORY_SIZE) if small else both(one) for one in display.charts() if one.series)
    return Figure(key, display.page_title, display.caption(), tuple(drawn), tuple(legend), display.table())


@dataclass(frozen=True)
class History:
    """How one head was trained: its number on the page, and the figure."""

    at: int
    figure: Figure


@dataclass(frozen=True)
class Histories:
    """The histories of the heads that were trained in epochs.

    Parameters
    ----------
    lines : tuple of History
        In the order of the heads.
    n_epochs : dict of str to int
        How many epochs each head had, by its name.
    left_out : int
        How many more histories there are than the page holds.
    """

    lines: tuple[History, ...]
    n_epochs: dict[str, int]
    left_out: int


def epochs_shown(n_histories: int) -> int:
    """Return how many epochs of each of several histories a page has room for."""
    return max(_LEAST_EPOCHS, min(_MOST_EPOCHS, _MOST_EPOCHS_IN_ALL // max(n_histories, 1)))


@dataclass(frozen=True)
class Sample:
    """A training image of one class."""

    name: str
    picture: Picture


def range_text(low: int, high: int) -> str:
    """Return two counts as a page has them, and one where they are equal."""
    return f"{low}" if low == high else f"{low} – {high}"


def title_text(name: str) -> str:
    """Return the name of a parameter as a page has it."""
    return name.replace("_", " ").capitalize()


def value_text(value: Any) -> str:
    """Return the value of a parameter as a page has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = {name: one for name, one in value.items() if one not in (None, {})}
    if isinstance(value, list):
        return ", ".join(map(value_text, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def transform_text(transform: dict[str, Any]) -> str:
    """Return several parameters in one line."""
    return "; ".join(f"{name.replace('_', ' ')} {value_text(value)}" for name, value in transform.items())


def time_text(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@dataclass(frozen=True)
class Content:
    """What a page says of a run, or of trainings.

    Parameters
    ----------
    of, name : str
        "run" or "training", and the name of its folder.
    title, question : str
    answer : Markup
    further : str
        What else came out.
    warnings : sequence of str
        What must be known before anything is read off the page.
    study : Study or None
    figures : sequence of Figure
        The first one answers the question.
    no_figure : str
        What is said where there is none.
    noun, listed : str
        What a page looks at closely, "head" or "network", and the title of their table.
    columns : tuple of str
        Of that table.
    n_texts : int
        How many of its first columns are texts.
    kept : sequence of (Subject, tuple of str)
        Its lines.
    n_kept : int
        How many there are with those left out.
    left_out_in : str
        Where the answers are that the page has no room for.
    histories : Histories
    closely : CloseUp or None
    data : str or None
        What the images are; None where nobody knows.
    splits : Table or None
    samples : sequence of Sample
    n_classes : int
    cost_figures : sequence of (str, str)
    cost_tables : sequence of (str, Table)
    cost_said : str
    provenance : sequence of (str, list of (str, str))
    notes : sequence of str
    no_notes : str
        What is said where there are none.
    """

    of: str
    name: str
    title: str
    question: str
    answer: Markup
    further: str
    warnings: Sequence[str]
    study: Study | None
    figures: Sequence[Figure]
    no_figure: str
    noun: str
    listed: str
    columns: tuple[str, ...]
    n_texts: int
    kept: Sequence[tuple[Subject, tuple[str, ...]]]
    n_kept: int
    left_out_in: str
    histories: Histories
    closely: CloseUp | None
    data: str | None
    splits: Table | None
    samples: Sequence[Sample]
    n_classes: int
    cost_figures: Sequence[tuple[str, str]]
    cost_tables: Sequence[tuple[str, Table]]
    cost_said: str
    provenance: Sequence[tuple[str, list[tuple[str, str]]]]
    notes: Sequence[str]
    no_notes: str

    @property
    def contents(self) -> list[tuple[str, str]]:
        """Names and places of the page's sections, in its order."""
        figures = [(one.title, f"h-{one.key}") for one in self.figures]
        published = [("Published and measured", "h-published")]
        study = self.study
        return [
            *figures[:1],
            *(published if study and (study.comparisons or study.claims) else []),
            *figures[1:],
            *([(self.listed, "heads"), (f"One {self.noun} closely", "closely")] if self.kept else []),
            ("Data", "data"),
            ("Cost", "cost"),
            ("Provenance", "provenance"),
            ("Notes", "notes"),
        ]
