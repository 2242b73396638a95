"""One record per fit, and the CSV file that holds them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
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
        Training rows, those held out of the draw among them, and features of each.
    random_state : int
        Seed of the head.
    status : {"ok", "failed"}
        A failed fit has no accuracies.
    message : str
        Why it failed; empty otherwise.
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
    C: float | None = None
    lr: float | None = None
    ece_scaled: float | None = None
    calibration_temperature: float | None = None

    @property
    def key(self) -> Key:
        """The curve this fit belongs to."""
        return self.cut, self.head, self.temperature


#: Columns of ``results.csv``.
COLUMNS = tuple(one.name for one in fields(FitResult))
#: What `SweepResult.curve` gives mean and interval of.
CURVE_METRICS = tuple(name for name in COLUMNS if name.endswith(("top1", "top5")) or name.startswith("ece"))
_TEXTS = ("cut", "head", "status", "message")
_WHOLE = ("repeat", "n_train", "n_features", "random_state", "best_epoch", "n_epochs")
_OPTIONAL = {one.name for one in fields(FitResult) if one.default is None} | {"temperature"}
_REQUIRED = [one.name for one in fields(FitResult) if one.default is MISSING]


def fits_to_csv(fits: Iterable[FitResult], *, header: bool = True) -> str:
    """Return fits as CSV text; see `SweepResult.to_csv`. Without `header`, lines to be appended."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if header:
        writer.writerow(COLUMNS)
    for one in fits:
        values = (getattr(one, name) for name in COLUMNS)
        writer.writerow(["" if value is None else value for value in values])
    return buffer.getvalue()


def fits_from_csv(text: str, *, growing: bool = False) -> list[FitResult]:
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
    header = next(reader, [])
    unknown, lacking = set(header) - set(COLUMNS), set(_REQUIRED) - set(header)
    if unknown or lacking or len(set(header)) != len(header):
        odd = sorted(unknown | lacking)
        raise InvalidInputError(f"not the columns of this version: {', '.join(odd) or 'one stands twice'}")
    fits = []
    for line in reader:
        try:
            fits.append(_fit_from(dict(zip(header, line, strict=True))))
        except ValueError as error:
            number = reader.line_num
            if growing and next(reader, None) is None:  # power was lost before the last page was on disk
                break
            raise InvalidInputError(f"line {number} cannot be read ({error})") from error
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
