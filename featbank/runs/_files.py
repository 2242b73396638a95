"""What stands in the files of a run: tables that grow line by line, and models that JSON is checked by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Len, Lt
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, FailFast, Strict, model_validator

from featbank import _atomic
from featbank._validation import (
    CONFIG,
    Count,
    FileName,
    Json,
    Line,
    Natural,
    Positive,
    Share,
    check,
    parse_json,
    plain_file,
)
from featbank.banks import BankKey
from featbank.errors import InvalidInputError, RunError
from featbank.manifest import printable
from featbank.sweep import Fit, Hits
from featbank.sweep.records import FitId, fits_from_csv, fits_to_csv

__all__ = [
    "Answers",
    "FitHits",
    "GrowingTables",
    "RunFacts",
    "check_histories",
    "damaged",
]

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


_Size = Annotated[int, Ge(1), Le(65_536)]
#: What estimators of others give may be off by a rounding.
_Probability = Annotated[float, Strict(), Ge(-0.001), Le(1.001)]
_Loss = Annotated[float, Strict(), Ge(-1e38), Le(1e38)]


class _Model(BaseModel):
    model_config = CONFIG


class _Source(_Model):
    """Where features came from: a bank by its name, and the key that says how they were computed."""

    bank: Line
    key_digest: Line
    dataset: FileName
    backbone: FileName
    weights: Line | None
    weights_path: Line | None
    weights_sha256: Line
    random_state: int | None
    transform: Json
    image_size: _Size
    precision: Line
    dtype: Line
    cut_dtypes: dict[str, Literal["float16", "float32"]]
    batch_size: _Size
    decoder: Line
    format_version: Natural
    provenance: Json

    @model_validator(mode="after")
    def _is_a_key(self) -> _Source:
        try:
            key = BankKey(**{one.name: getattr(self, one.name) for one in fields(BankKey)})
        except InvalidInputError as error:
            raise ValueError(str(error)) from None
        if key.digest() != self.key_digest:
            raise ValueError("is not what the key_digest is of")
        if self.transform.get("image_size", self.image_size) != self.image_size:
            raise ValueError("has two sizes of images")
        return self


class _Entry(_Model):
    """A kept head."""

    name: FileName
    cut: Line
    head: Line
    temperature: Positive | None
    n_per_class: Natural | Literal["all"]
    fewest_per_class: Natural | None = None
    most_per_class: Natural | None = None
    unit: Literal["samples", "groups"] = "samples"
    repeat: Count
    top1: Share | None
    val_top1: Share | None
    val_metric: _Loss | None = None
    best_epoch: Natural | None
    saved: bool


class _Sweep(_Model):
    digest: Line | None = None
    n_fits: Count | None = None


class _Parameters(_Model):
    head_params: dict[str, Json] | None = None
    metrics: list[Line] = []
    untrained_classes: Literal["drop", "keep"] = "drop"
    folds: Annotated[int, Ge(2)] | None = None
    val: Annotated[float, Strict(), Ge(0), Le(1)] | Literal["none"] | None = None
    val_per_class: Natural | None = None
    draw: Literal["images", "groups"] = "images"
    random_state: Count = 0


class _Draws(_Model):
    judged: Line
    subsets: dict[str, list[Line]]
    shares: dict[str, Share] = {}
    folds: Annotated[int, Ge(2)] | None = None
    unit: Literal["samples", "groups"] = "samples"
    grouped: bool = False
    held_out: Annotated[float, Strict(), Gt(0), Lt(1)] | None = None


class _Rows(_Model):
    val: Count
    test: Count


class _Untrained(_Model):
    policy: Literal["drop", "keep"] = "drop"
    classes: dict[Line, _Rows] = {}


def _draws(value: dict[str, Any]) -> dict[str, Any]:
    return check(_Draws, value) and value if value else value


class RunFacts(_Model):
    """``run.json``."""

    format: Literal[1]
    name: Line
    created: Line
    status: Literal["running", "finished"]
    command: Line = ""
    parameters: _Parameters
    sweep: _Sweep = _Sweep()
    source: _Source
    classes: Annotated[list[Line], Len(1), FailFast()]
    cuts: list[Line]
    notes: list[Line]
    heads: list[_Entry]
    versions: dict[str, Line] = {}
    rows: dict[str, Count] = {}
    draws: Annotated[Json, AfterValidator(_draws)] = {}
    near_duplicates: Json = {}
    untrained: _Untrained = _Untrained()
    continued: list[Line] = []

    @model_validator(mode="after")
    def _heads_differ(self) -> RunFacts:
        names = [one.name for one in self.heads]
        if len(set(names)) < len(names):
            raise ValueError("has two heads of one name")
        return self


class Answers(_Model):
    """``predictions/NAME.json``: one column for each of these, all of one length."""

    split: Literal["test", "val"]
    rows: Annotated[list[Count], FailFast()]
    y_true: Annotated[list[Count], FailFast()]
    y_pred: Annotated[list[Count], FailFast()]
    p_true: list[_Probability] | None
    p_pred: list[_Probability] | None

    @model_validator(mode="after")
    def _one_length(self) -> Answers:
        columns = (self.rows, self.y_true, self.y_pred, self.p_true, self.p_pred)
        if len({len(one) for one in columns if one is not None}) > 1:
            raise ValueError("has columns of several lengths")
        return self


class FitHits(_Model):
    """A line of ``hits.jsonl``: which fit, and which of its rows it got right, a bit each in hexadecimal."""

    cut: Line
    head: Line
    temperature: Positive | None
    n_per_class: Natural | Literal["all"]
    repeat: Count
    split: Literal["test", "val"]
    n_rows: Natural
    top1: str
    top5: str | None


def check_histories(found: Any) -> dict[str, dict[str, list[float | None]]]:
    """Return ``histories.json``: head -> what was followed -> its value after each epoch, None for no number.

    Raises
    ------
    ValueError
        If it is anything else, an accuracy is not in 0..1, or a head has lines of several lengths.
    """
    histories: dict[str, dict[str, list[float | None]]] = check(
        dict[str, dict[str, Annotated[list[_Loss | None], FailFast()]]], found
    )
    for name, history in histories.items():
        if len({len(values) for values in history.values()}) > 1:
            raise ValueError(f"{name!r} has lines of several lengths")
        for key, values in history.items():
            if key.endswith("accuracy"):
                check(Annotated[list[Share | None], FailFast()], values)
    return histories
