"""What a page says, whatever it is of: the template has one place for each of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from featbank.plots.chart import Table
from featbank.report._close_up import CloseUp
from featbank.report._facts import Sample
from featbank.report._figures import Figure, Histories
from featbank.report._kept import Subject
from featbank.report.study import Study

__all__ = ["Content"]


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
