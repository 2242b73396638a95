"""Tables that grow line by line while a sweep runs, and are put in order when it is done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featbank import _atomic
from featbank._validation import check, parse_json, plain_file
from featbank.errors import InvalidInputError, RunError
from featbank.manifest import printable
from featbank.sweep import Fit, Hits
from featbank.sweep.records import FitId, fits_from_csv, fits_to_csv

__all__ = ["GrowingTables", "damaged"]

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
        from featbank.runs._models import FitHits

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
