"""What a study says of itself: its question, and published figures beside measured ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featbank.errors import RunError
from featbank.manifest import printable
from featbank.runs import Run

__all__ = ["STUDY_FILE", "Claim", "Comparison", "Study", "read_study"]

#: File in a run folder.
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
    data_root : str or None
        Folder of a torchvision dataset.
    """

    title: str
    question: str
    comparisons: tuple[Comparison, ...]
    differs: tuple[str, ...]
    claims: tuple[Claim, ...] = ()
    experiment: str = ""
    others: Mapping[str, str] = field(default_factory=dict)
    data_root: str | None = None


def read_study(run: Run) -> Study | None:
    """Read ``study.json`` of a run.

    Parameters
    ----------
    run : Run

    Returns
    -------
    Study or None
        None if the run belongs to no study.

    Raises
    ------
    RunError
        If the file is damaged; all its faults are named.
    """
    file = run.path / STUDY_FILE
    where = printable(str(file))
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{where!r} is damaged: {error}; run the study again") from error
    faults = _faults(found)
    if faults:
        raise RunError(f"{where!r} is damaged: {'; '.join(faults)}; run the study again")
    published, measured = (list(found.get(key) or []) for key in ("published", "measured"))
    return Study(
        str(found.get("title") or ""),
        str(found.get("question") or ""),
        tuple(_compared(published, measured)),
        tuple(found.get("differs") or ()),
        tuple(
            Claim(str(one["text"]), one.get("holds"), str(one.get("said") or ""))
            for one in found.get("claims") or ()
        ),
        str(found.get("experiment") or ""),
        {
            str(name): str(other)
            for name, other in (found.get("experiments") or {}).items()
            if name != found.get("experiment")
        },
        (found.get("data") or {}).get("data_root"),
    )


def _faults(found: Any) -> list[str]:
    if not isinstance(found, dict):
        return ["it is no JSON object"]
    faults = [
        f"{key} is no text" for key in ("title", "question") if not isinstance(found.get(key) or "", str)
    ]
    for key in ("published", "measured"):
        entries = [] if found.get(key) is None else found[key]
        if not isinstance(entries, list):
            faults.append(f"{key} is no list")
            continue
        for number, one in enumerate(entries, 1):
            if not isinstance(one, dict) or not {"label", "metric", "unit", "value"} <= one.keys():
                faults.append(f"{key} {number} lacks label, metric, unit or value")
            elif one["unit"] not in ("share", "temperature"):
                faults.append(f"{key} {number} has the unit {one['unit']!r}, not share or temperature")
            elif not isinstance(one["value"], (int, float, str, type(None))):
                faults.append(f"{key} {number} has the value {one['value']!r}")
    claims = found.get("claims") or []
    if not isinstance(claims, list) or not all(isinstance(one, dict) and "text" in one for one in claims):
        faults.append("claims is no list of objects with a text")
    faults += [
        f"{key} is no JSON object"
        for key in ("experiments", "data")
        if not isinstance(found.get(key) or {}, dict)
    ]
    differs = found.get("differs") or []
    if not isinstance(differs, list) or not all(isinstance(one, str) for one in differs):
        faults.append("differs is no list of texts")
    return faults


def _compared(published: list[dict[str, Any]], measured: list[dict[str, Any]]) -> list[Comparison]:
    mine = {(str(one["label"]), str(one["metric"])): one for one in measured}
    theirs = {(str(one["label"]), str(one["metric"])): one for one in published}
    return [
        Comparison(
            *key,
            published=theirs.get(key, {}).get("value"),
            measured=mine.get(key, {}).get("value"),
            low=mine.get(key, {}).get("low"),
            high=mine.get(key, {}).get("high"),
            source=str(theirs.get(key, {}).get("source") or ""),
            unit=(theirs.get(key) or mine[key])["unit"],
        )
        for key in dict.fromkeys([*theirs, *mine])
    ]
