"""One record per fit, from what was asked to what came of it, and the tables on disk that hold them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import BaseModel, create_model

from featbank import _atomic
from featbank._validation import CONFIG, Count, Line, Natural, Positive, Share, check, parse_json, plain_file
from featbank.errors import InvalidInputError, RunError
from featbank.manifest import printable, short_repr
from featbank.metrics.catalogue import bounds, less_is_better
from featbank.sampling import Size, parse_size

__all__ = [
    "COLUMNS",
    "CURVE_METRICS",
    "HITS_FILE",
    "RESULTS_FILE",
    "Draw",
    "Fit",
    "FitId",
    "GrowingTables",
    "Hits",
    "Key",
    "Predictions",
    "damaged",
    "fits_from_csv",
    "fits_to_csv",
    "rank",
    "with_val",
]

#: Which curve a fit belongs to: cut, head, temperature (None unless the cut is softmax).
Key = tuple[str, str, float | None]
#: Which fit of a sweep: its curve, samples per class, repeat.
FitId = tuple[Key, Size, int]


@dataclass(frozen=True, eq=False)
class Draw:
    """One draw of training samples, as positions among the rows that a sweep draws.

    Parameters
    ----------
    n_per_class : int or "all"
        What was drawn of each class; "all" where these are uneven.
    repeat : int
        Number of the draw, from 0.
    rows : ndarray of int64
        What is trained on.
    seed : int
        Seed of the heads.
    per_class : ndarray of int64
        Rows of each class, those held out among them.
    whole : bool
        Whether these are all training rows there are, so that every repeat draws the same.
    held : ndarray of int64
        What is held out of the draw to choose.
    """

    n_per_class: Size
    repeat: int
    rows: NDArray[np.int64]
    seed: int
    per_class: NDArray[np.int64]
    whole: bool
    held: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Hits:
    """Which of the rows it is judged by a fit got right.

    Parameters
    ----------
    split : {"test", "val"}
        Which rows; validation only where the bank has no test rows.
    top1 : ndarray of bool, shape (n_rows,)
        Whether the answer was right, in the order of the manifest.
    top5 : ndarray of bool, shape (n_rows,), or None
        Whether the true class was among the five likeliest; None where a head knows no probabilities.

    Examples
    --------
    >>> hits = Hits("test", np.array([True, False, True, True]))
    >>> float(hits.top1.mean()), hits.top5
    (0.75, None)
    """

    split: str
    top1: NDArray[np.bool_]
    top5: NDArray[np.bool_] | None = None

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a kept head answered on the rows it is judged by.

    Parameters
    ----------
    split : {"test", "val"}
        Which rows; validation only where the bank has no test rows.
    rows : ndarray of int64, shape (n_rows,)
        Row numbers in the bank's manifest.
    y_true, y_pred : ndarray of int64, shape (n_rows,)
        Indices into the bank's classes.
    p_true, p_pred : ndarray of float64, shape (n_rows,), or None
        Probability given to the true and to the predicted class; None where a head knows none.

    Examples
    --------
    >>> answers = Predictions("test", np.array([3, 8, 9]), np.array([0, 1, 1]), np.array([0, 1, 0]))
    >>> answers.rows[answers.y_true != answers.y_pred].tolist()  # what is taken for another class
    [9]
    """

    split: str
    rows: NDArray[np.int64]
    y_true: NDArray[np.int64]
    y_pred: NDArray[np.int64]
    p_true: NDArray[np.float64] | None = None
    p_pred: NDArray[np.float64] | None = None

    __repr__ = short_repr


def history_of(estimator: Any) -> dict[str, list[float]]:
    """Return the numbers per epoch that an estimator says of itself, without what is no list of numbers."""
    found = getattr(estimator, "history_", None)
    lists: dict[str, list[float]] = {}
    for name, values in found.items() if isinstance(found, Mapping) else ():
        with suppress(TypeError, ValueError):  # of estimators of others anything may be called so
            numbers = np.asarray(values)
            if numbers.ndim == 1 and numbers.dtype.kind in "fiu" and isinstance(name, str):
                lists[name] = numbers.tolist()
    return lists


@dataclass(frozen=True)
class Fit:
    """One fit: what was asked, and how good it is. Accuracies and errors are in [0, 1]; None is not known.

    Parameters
    ----------
    cut, head : str
        Where features were read, and what was trained on them.
    temperature : float or None
        Temperature the softmax features were read at; None at any other cut.
    n_per_class : int or "all"
        Training samples per class; "all" where all were asked for and classes have more or fewer.
    repeat : int
        Number of the draw, from 0.
    n_train, n_features : int
        Training rows, those held out of the draw among them, and features of each.
    random_state : int
        Seed of the head.
    status : {"ok", "failed"}
        A failed fit has no accuracies.
    message : str
        Why it failed, or what it warned of; empty otherwise.
    top1, top5 : float or None
        Accuracy on the test rows.
    val_top1, val_top5, train_top1, train_top5 : float or None
        Accuracy on the validation rows (or those held out of the draw) and on the fit's own training rows.
    best_top1, best_val_top1 : float or None
        Test and validation accuracy after the best epoch (chosen without the test rows).
    final_top1, final_val_top1 : float or None
        The same after the last epoch. None for heads that have no epochs.
    best_epoch, n_epochs : int or None
        The best epoch, from 1, and how many there were.
    ece, ece_scaled : float or None
        Expected calibration error on the test rows, 15 bins: as the head answers, and with its scores divided
        by `calibration_temperature`.
    calibration_temperature : float or None
        The temperature at which the head's scores fit the validation rows best; over 1 for a head that is
        surer than it is right.
    duration_s : float
        Seconds of fitting. Heads trained together share their time equally.
    C, lr : float or None
        Inverse regularisation and learning rate the head was fitted with, its own choice where it was told
        ``"auto"``; None for heads that have no such parameter.
    n_classes, fewest_per_class, most_per_class : int or None
        Classes of the training rows, and rows of the class that has fewest and of the one that has most.
    n_val : int or None
        Labels that were spent beside those of the draw, to stop, choose and scale: validation rows.
    metrics : mapping of str to float
        Other scores that were asked for, on the rows it is judged by, and with ``val_`` before their names on
        the validation rows; see `featbank.metrics.catalogue.names`.
    hits : Hits or None
        Which of these rows it got right; None where that was not recorded.
    estimator : object
        The head, if it was kept; ``predict`` takes original features. None for all others, and when read back
        from a run.
    predictions : Predictions or None
        Answers of a head that was kept.
    replaces : str
        Name of the head kept before, in whose place this one is kept; empty otherwise.
    draw : Draw or None
        Which rows it is fitted to, as long as it is under way.

    Examples
    --------
    >>> fit = Fit("fc7", "ncm", None, 4, repeat=0, n_train=8, n_features=256, random_state=0, top1=0.8)
    >>> fit.key, fit.status, fit.top1
    (('fc7', 'ncm', None), 'ok', 0.8)
    """

    cut: str
    head: str
    temperature: float | None
    n_per_class: Size
    repeat: int
    n_train: int
    n_features: int
    random_state: int
    status: Literal["ok", "failed"] = "ok"
    message: str = ""
    top1: float | None = None
    top5: float | None = None
    val_top1: float | None = None
    val_top5: float | None = None
    train_top1: float | None = None
    train_top5: float | None = None
    best_top1: float | None = None
    best_val_top1: float | None = None
    final_top1: float | None = None
    final_val_top1: float | None = None
    best_epoch: int | None = None
    n_epochs: int | None = None
    ece: float | None = None
    duration_s: float = 0.0
    C: float | None = None
    lr: float | None = None
    ece_scaled: float | None = None
    calibration_temperature: float | None = None
    n_classes: int | None = None
    fewest_per_class: int | None = None
    most_per_class: int | None = None
    n_val: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    hits: Hits | None = field(default=None, repr=False, compare=False)
    estimator: Any = field(default=None, repr=False, compare=False)
    predictions: Predictions | None = field(default=None, repr=False, compare=False)
    replaces: str = field(default="", repr=False, compare=False)
    draw: Draw | None = field(default=None, repr=False, compare=False)

    @property
    def id(self) -> FitId:
        """What tells it from all others of its sweep."""
        return self.key, self.n_per_class, self.repeat

    @property
    def name(self) -> str:
        """A name for the files of its head.

        Examples
        --------
        >>> Fit("fc7", "logreg(C=0.1)", None, 16, 0, 48, 4096, 7).name
        'fc7-logreg-C=0.1-n16-r0'
        """
        at = "" if self.temperature is None else f"-T{self.temperature:g}"
        stem = f"{self.cut}{at}-{self.head.removesuffix(')').replace('(', '-')}"
        safe = "".join(char if char.isalnum() or char in "._@+-=" else "_" for char in stem)
        size = "all" if self.n_per_class == "all" else f"n{self.n_per_class}"
        return f"{safe}-{size}-r{self.repeat}"

    @property
    def history(self) -> dict[str, list[float]]:
        """Loss and accuracy per epoch of a head that was kept; empty for heads that have no epochs."""
        return history_of(self.estimator)

    def score(self, metric: str) -> float | None:
        """Return one of its scores, by the name of the column or of a metric that was asked for."""
        found: float | None = getattr(self, metric) if metric in CURVE_METRICS else self.metrics.get(metric)
        return found

    def validated(self, metric: str | None) -> float | None:
        """Return another score on the validation rows; without test rows these are what it is judged by."""
        return self.metrics.get(f"{metric}" if self.top1 is None else f"val_{metric}")

    def without_head(self) -> Fit:
        """Return what is left of it when its head is not kept."""
        return replace(self, estimator=None, predictions=None, replaces="", draw=None)

    @property
    def mean_per_class(self) -> float | None:
        """Training samples of a class on average."""
        return self.n_train / self.n_classes if self.n_classes else None

    @property
    def key(self) -> Key:
        """The curve this fit belongs to."""
        return self.cut, self.head, self.temperature


def rank(metric: str | None, value: float | None, accuracy: float | None) -> tuple[bool, float, float]:
    """Return what heads are chosen by, the largest first: another metric, or accuracy where there is none.

    A head that has no such metric, as one without probabilities has no log loss, comes behind all that have.

    Parameters
    ----------
    metric : str or None
        Name of the metric, which says whether less is better.
    value, accuracy : float or None
        The metric and the accuracy on the validation rows.

    Examples
    --------
    >>> rank("log_loss", 0.7, 0.5) > rank("log_loss", None, 0.9)
    True
    """
    less = metric is not None and less_is_better(metric)
    return value is not None, -(value or 0.0) if less else value or 0.0, accuracy or 0.0


def with_val(metrics: Iterable[str]) -> list[str]:
    """Return the names of scores, and those of the same scores of validation rows behind them.

    Examples
    --------
    >>> with_val(["macro_f1"])
    ['macro_f1', 'val_macro_f1']
    """
    names = list(metrics)
    return [*names, *(f"val_{name}" for name in names)]


#: Columns of ``results.csv``.
COLUMNS = tuple(one.name for one in fields(Fit) if one.compare and one.name != "metrics")
#: Columns of other scores begin so.
_METRIC = "metric:"
#: What `LearningCurve.points` gives mean and interval of.
CURVE_METRICS = tuple(name for name in COLUMNS if name.endswith(("top1", "top5")) or name.startswith("ece"))
_TEXTS = ("cut", "head", "status", "message")
_WHOLE = (
    "repeat",
    "n_train",
    "n_features",
    "random_state",
    "best_epoch",
    "n_epochs",
    "n_classes",
    "fewest_per_class",
    "most_per_class",
    "n_val",
)
_OPTIONAL = {one.name for one in fields(Fit) if one.default is None and one.name in COLUMNS} | {"temperature"}
#: Characters of a message that are kept; a reader of CSV files gives up on cells of 131,072.
_LONGEST_MESSAGE = 2000
_REQUIRED = [one.name for one in fields(Fit) if one.default is MISSING and one.name in COLUMNS]


def fits_to_csv(fits: Iterable[Fit], *, header: bool = True, metrics: Iterable[str] = ()) -> str:
    """Return fits as CSV text; see `SweepResult.to_csv`.

    Parameters
    ----------
    fits : iterable of Fit
    header : bool, default=True
        Without, these are lines to be appended.
    metrics : iterable of str
        Names of the other scores, each of which has a column.
    """
    metrics = tuple(metrics)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if header:
        writer.writerow([*COLUMNS, *(f"{_METRIC}{name}" for name in metrics)])
    for one in fits:
        if len(one.message) > _LONGEST_MESSAGE:
            one = replace(one, message=one.message[:_LONGEST_MESSAGE] + " ...")
        values = [*(getattr(one, name) for name in COLUMNS), *(one.metrics.get(name) for name in metrics)]
        writer.writerow(["" if value is None else value for value in values])
    return buffer.getvalue()


def fits_from_csv(text: str, *, growing: bool = False) -> list[Fit]:
    """Read back what `fits_to_csv` wrote, also by a version that had fewer columns.

    Parameters
    ----------
    text : str
        The whole file.
    growing : bool, default=False
        The file is still being written, or its writer was killed: a last line that is not whole is left out.

    Raises
    ------
    InvalidInputError
        If the header is another, or a line cannot be read; the line is named.
    """
    if growing:
        text = text[: text.rfind("\n") + 1]
    reader = csv.reader(io.StringIO(text))
    header = _next_line(reader) or []
    known = {name for name in header if name.startswith(_METRIC)} | set(COLUMNS)
    unknown, lacking = set(header) - known, set(_REQUIRED) - set(header)
    if unknown or lacking or len(set(header)) != len(header):
        odd = sorted(unknown | lacking)
        said = ", ".join(one[:40] for one in odd[:5]) or "one stands twice"
        raise InvalidInputError(f"not the columns of this version: {said}")
    fits = []
    n_lines = text.count("\n")
    while (line := _next_line(reader)) is not None:
        try:
            fits.append(_fit_from(dict(zip(header, line, strict=True))))
        except ValueError as error:
            if growing and reader.line_num >= n_lines:  # power was lost before the last page was on disk
                break
            raise InvalidInputError(f"line {reader.line_num} cannot be read ({error})") from error
    return fits


def _next_line(reader: Any) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        raise InvalidInputError(f"line {reader.line_num} cannot be read ({error})") from error


def _fit_from(values: Mapping[str, str]) -> Fit:
    read: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    for name, text in values.items():
        if name.startswith(_METRIC):
            if text:
                metrics[name.removeprefix(_METRIC)] = float(text)
        elif name in _TEXTS:
            read[name] = text
        elif not text and name in _OPTIONAL:
            read[name] = None
        elif name == "n_per_class":
            read[name] = parse_size(text)
        elif name in _WHOLE:
            read[name] = int(text)
        else:
            read[name] = float(text)
    _check()(read)
    for name, value in metrics.items():
        low, high = bounds(name)
        if not (low <= value <= high and math.isfinite(value)):
            raise ValueError(f"{name} is not within {low:g} and {high:g}: {value}")
    return Fit(**read, metrics=metrics)


@cache
def _check() -> Callable[[dict[str, Any]], object]:
    """Return what raises `ValueError` for a line that no fit gives."""
    hints = get_type_hints(Fit) | dict.fromkeys(_WHOLE, Count) | dict.fromkeys(_TEXTS, Line)
    hints |= {"status": Literal["ok", "failed"], "duration_s": Annotated[float, Ge(0)]}
    hints |= dict.fromkeys(("temperature", "C", "lr", "calibration_temperature"), Positive)
    hints |= dict.fromkeys(CURVE_METRICS, Share)
    hints |= {name: hints[name] | None for name in _OPTIONAL}
    defaults = {
        one.name: ... if one.default is MISSING else one.default for one in fields(Fit) if one.name in COLUMNS
    }
    columns: dict[str, Any] = {name: (hints[name], default) for name, default in defaults.items()}
    model = create_model("fit", __config__=CONFIG, **columns)
    return partial(check, model)


RESULTS_FILE, HITS_FILE = "results.csv", "hits.jsonl"
#: More than a table of a million fits.
_MOST_BYTES = 4 * 2**30


class GrowingTables:
    """``results.csv`` (one line per fit) and ``hits.jsonl`` (the rows it got right) of one run.

    Lines are appended as fits are finished: a killed process loses none that was written, and a sweep of
    thousands of fits does not write its table thousands of times. A fit's hits go first, so that every line
    of ``results.csv`` has its own. A last line that is not whole is no line.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / RESULTS_FILE
        self.hits = folder / HITS_FILE

    def append(self, fits: Sequence[Fit], metrics: Sequence[str] = ()) -> None:
        """Add lines; raises `CacheWriteError` if that fails, and then adds none to the table it failed on."""
        _atomic.append_lines(self.hits, _hits_to_lines(fits))
        lines = fits_to_csv(fits, header=False, metrics=metrics)
        _atomic.append_lines(self.results, _encode(lines), header=_encode(fits_to_csv((), metrics=metrics)))

    def replace(self, fits: Sequence[Fit], metrics: Sequence[str] = ()) -> None:
        """Write both tables anew, each whole or not at all; raises `CacheWriteError`."""
        _atomic.write_file(self.hits, _hits_to_lines(fits))
        _atomic.write_file(self.results, _encode(fits_to_csv(fits, metrics=metrics)))

    def stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Return what tells the tables from themselves once they have changed."""
        found: list[tuple[int, int, int] | None] = []
        for path in (self.results, self.hits):
            try:
                one = path.stat()
            except OSError:  # reading says what it is
                found.append(None)
            else:
                found.append((one.st_ino, one.st_size, one.st_mtime_ns))
        return tuple(found)

    def read_fits(self, *, growing: bool) -> list[Fit]:
        """Return the fits, without their hits; raises `RunError` if the table is damaged."""
        text = self._text(RESULTS_FILE)
        if not text or (growing and "\n" not in text):
            return []
        try:
            return fits_from_csv(text, growing=growing)
        except InvalidInputError as error:
            raise damaged(self.folder, RESULTS_FILE, error) from error

    def _text(self, name: str) -> str:
        """Return what stands in a table, nothing if it is not there."""
        try:
            return plain_file(self.folder, name, _MOST_BYTES).read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise damaged(self.folder, name, error) from error

    def read_hits(self) -> dict[FitId, Hits]:
        """Return the hits there are; none for a run of a version that did not record them."""
        lines = self._text(HITS_FILE).rpartition("\n")[0].splitlines()
        found: dict[FitId, Hits] = {}
        for number, line in enumerate(lines, 1):
            try:
                one = check(FitHits, parse_json(line.encode("utf-8", "surrogateescape")))
                top5 = None if one.top5 is None else _unpacked(one.top5, one.n_rows)
                key = (one.cut, one.head, one.temperature), one.n_per_class, one.repeat
                found[key] = Hits(one.split, _unpacked(one.top1, one.n_rows), top5)
            except ValueError as error:
                if number == len(lines):  # power was lost before the last page was on disk
                    break
                said = f"line {number} cannot be read ({error})"
                raise damaged(self.folder, HITS_FILE, said) from error
        return found


def damaged(folder: Path, name: str, error: object) -> RunError:
    """Return the error for a file of a run that is not what was written, or cannot be read now."""
    file = printable(str(folder / name))
    if isinstance(error, OSError):
        return RunError(f"{file!r} cannot be read ({error.strerror}): check its rights and the disk")
    return RunError(f"{file!r} is damaged: {error}; run the command again")


def _hits_to_lines(fits: Iterable[Fit]) -> bytes:
    """Return one JSON object per fit; the rows it got right as the hexadecimal digits of one bit each."""
    lines = []
    for fit in fits:
        one = fit.hits
        if one is None:
            continue
        line = {
            "cut": fit.cut,
            "head": fit.head,
            "temperature": fit.temperature,
            "n_per_class": fit.n_per_class,
            "repeat": fit.repeat,
            "split": one.split,
            "n_rows": len(one.top1),
            "top1": _packed(one.top1),
            "top5": None if one.top5 is None else _packed(one.top5),
        }
        lines.append(json.dumps(line, separators=(",", ":")) + "\n")
    return "".join(lines).encode("ascii")


def _packed(right: NDArray[np.bool_]) -> str:
    return np.packbits(right).tobytes().hex()


def _unpacked(text: str, n_rows: int) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))
    if not n_rows <= len(bits) < n_rows + 8:
        raise ValueError(f"{len(bits)} bits for {n_rows} rows")
    return bits[:n_rows].astype(bool)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class FitHits(BaseModel):
    """A line of ``hits.jsonl``: which fit, and which of its rows it got right, a bit each in hexadecimal."""

    model_config = CONFIG

    cut: Line
    head: Line
    temperature: Positive | None
    n_per_class: Natural | Literal["all"]
    repeat: Count
    split: Literal["test", "val"]
    n_rows: Natural
    top1: str
    top5: str | None
