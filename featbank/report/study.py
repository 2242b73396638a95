"""What a study says of itself: its question, and published figures beside measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from featbank._validation import CONFIG, FileName, Line, Share, check
from featbank.runs.folder import checked

__all__ = ["STUDY_FILE", "Claim", "Comparison", "Study", "read_study"]

#: File in the folder of a run or a training.
STUDY_FILE = "study.json"


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


@dataclass(frozen=True)
class Claim:
    """A published finding in words, whether it holds here (None: not known), and by which figures."""

    text: str
    holds: bool | None
    said: str


@dataclass(frozen=True)
class Study:
    """A study as its run folder tells it.

    Parameters
    ----------
    title, question : str
    comparisons : tuple of Comparison
        Published figures in their order, then what was measured only.
    differs : tuple of str
        Where the protocol is another than the published one.
    claims : tuple of Claim
    experiment : str
        Which experiment of the study this run is; empty if the file does not say.
    others : mapping of str to str
        The study's other experiments and the names of their runs.
    trainings : mapping of str to tuple of str
        The networks that the study trained, and the names of their folders, one for each seed.
    """

    title: str
    question: str
    comparisons: tuple[Comparison, ...]
    differs: tuple[str, ...]
    claims: tuple[Claim, ...] = ()
    experiment: str = ""
    others: Mapping[str, str] = field(default_factory=dict)
    trainings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_study(folder: Path) -> Study | None:
    """Read ``study.json`` of a run or a training.

    Parameters
    ----------
    folder : pathlib.Path

    Returns
    -------
    Study or None
        None if it belongs to no study.

    Raises
    ------
    RunError
        If the file is damaged.
    """
    found = checked(folder, STUDY_FILE, partial(check, _Record))
    if found is None:
        return None
    return Study(
        found.title,
        found.question,
        tuple(_compared(found.published, found.measured)),
        tuple(found.differs),
        tuple(Claim(one.text, one.holds, one.said) for one in found.claims),
        found.experiment,
        {name: other for name, other in found.experiments.items() if name != found.experiment},
        {name: tuple(folders) for name, folders in found.trainings.items()},
    )


class _Model(BaseModel):
    model_config = CONFIG


class _Number(_Model):
    label: Line
    metric: Line
    unit: Literal["share", "temperature"]
    value: float | Line | None
    low: Share | None = None
    high: Share | None = None
    source: Line = ""


class _Verdict(_Model):
    text: Line
    holds: bool | None = None
    said: Line = ""


class _Record(_Model):
    """``study.json``."""

    title: Line = ""
    question: Line = ""
    published: list[_Number] = []
    measured: list[_Number] = []
    differs: list[Line] = []
    claims: list[_Verdict] = []
    experiment: Line = ""
    experiments: dict[str, Line] = {}
    trainings: dict[str, list[FileName]] = {}


def _compared(published: list[_Number], measured: list[_Number]) -> list[Comparison]:
    theirs, mine = ({(one.label, one.metric): one for one in listed} for listed in (published, measured))
    none = _Number(label="", metric="", unit="share", value=None)
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
