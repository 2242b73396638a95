"""One record per fit, and the CSV file that holds them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from featbank.errors import InvalidInputError

__all__ = ["COLUMNS", "CURVE_METRICS", "FitResult", "Key", "fits_from_csv", "fits_to_csv"]

#: Which curve a fit belongs to: cut, head, temperature (None unless the cut is softmax).
Key = tuple[str, str, float | None]


@dataclass(frozen=True)
class FitResult:
    """One fit: what was asked, and how good it is. Accuracies and errors are in [0, 1]; None is not known.

    Parameters
    ----------
    cut, head : str
        Where features were read, and what was trained on them.
    temperature : float or None
        Temperature the softmax features were read at; None at any other cut.
    n_per_class : int or float
        Training samples per class; their mean over classes (not whole, then) where ``all`` was asked of
        classes of unequal size.
    repeat : int
        Number of the draw, from 0.
    n_train, n_features : int
        Training rows, and features of each.
    random_state : int
        Seed of the head.
    status : {"ok", "failed"}
        A failed fit has no accuracies.
    message : str
        Why it failed; empty otherwise.
    top1, top5 : float or None
        Accuracy on the test rows.
    val_top1, val_top5, train_top1, train_top5 : float or None
        Accuracy on the validation rows and on the fit's own training rows.
    best_top1, best_val_top1 : float or None
        Test and validation accuracy after the best epoch (chosen without the test rows).
    final_top1, final_val_top1 : float or None
        The same after the last epoch. None for heads that have no epochs.
    best_epoch, n_epochs : int or None
        The best epoch, from 1, and how many there were.
    ece : float or None
        Expected calibration error on the test rows, 15 bins.
    duration_s : float
        Seconds of fitting. Heads trained together share their time equally.
    """

    cut: str
    head: str
    temperature: float | None
    n_per_class: float
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

    @property
    def key(self) -> Key:
        """The curve this fit belongs to."""
        return self.cut, self.head, self.temperature


#: Columns of ``results.csv``.
COLUMNS = tuple(one.name for one in fields(FitResult))
#: What `SweepResult.curve` gives mean and interval of.
CURVE_METRICS = tuple(name for name in COLUMNS if name.endswith(("top1", "top5")) or name == "ece")
_TEXTS = ("cut", "head", "status", "message")
_WHOLE = ("repeat", "n_train", "n_features", "random_state", "best_epoch", "n_epochs")
_OPTIONAL = {one.name for one in fields(FitResult) if one.default is None} | {"temperature"}


def fits_to_csv(fits: Iterable[FitResult]) -> str:
    """Return fits as CSV text; see `SweepResult.to_csv`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in fits:
        values = (getattr(one, name) for name in COLUMNS)
        writer.writerow(["" if value is None else value for value in values])
    return buffer.getvalue()


def fits_from_csv(text: str) -> list[FitResult]:
    """Read back what `fits_to_csv` wrote.

    Raises
    ------
    InvalidInputError
        If the header is another, or a line cannot be read; the line is named.
    """
    reader = csv.reader(io.StringIO(text))
    header = next(reader, [])
    if tuple(header) != COLUMNS:
        odd = sorted(set(header).symmetric_difference(COLUMNS))
        raise InvalidInputError(f"not the columns of this version: {', '.join(odd) or 'another order'}")
    fits = []
    for line in reader:
        try:
            fits.append(_fit_from(dict(zip(COLUMNS, line, strict=True))))
        except ValueError as error:
            raise InvalidInputError(f"line {reader.line_num} cannot be read ({error})") from error
    return fits


def _fit_from(values: Mapping[str, str]) -> FitResult:
    read: dict[str, Any] = {}
    for name, text in values.items():
        if name in _TEXTS:
            read[name] = text
        elif not text and name in _OPTIONAL:
            read[name] = None
        elif name in _WHOLE or (name == "n_per_class" and "." not in text):
            read[name] = int(text)
        else:
            read[name] = float(text)
    if read["status"] not in ("ok", "failed"):
        raise ValueError(f"status {read['status']!r}")
    return FitResult(**read)
