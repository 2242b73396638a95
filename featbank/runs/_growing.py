"""Tables that grow line by line while a sweep runs, and are put in order when it is done."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featbank import _atomic
from featbank._validation import plain_file
from featbank.errors import InvalidInputError, RunError
from featbank.manifest import printable
from featbank.sweep import FitResult, Hits
from featbank.sweep.records import fits_from_csv, fits_to_csv
from featbank.sweep.results import FitId

__all__ = ["GrowingTables"]

#: More than a table of a million fits.
_MOST_BYTES = 4 * 2**30
RESULTS_FILE, HITS_FILE = "results.csv", "hits.csv"
_HITS_COLUMNS = ("cut", "head", "temperature", "n_per_class", "repeat", "split", "n_rows", "top1", "top5")


class GrowingTables:
    """``results.csv`` (one line per fit) and ``hits.csv`` (the rows it got right) of one run.

    Lines are appended as fits are finished: a killed process loses none that was written, and a sweep of
    thousands of fits does not write its table thousands of times. A fit's hits go first, so that every line
    of ``results.csv`` has its own. A last line that is not whole is no line.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / RESULTS_FILE
        self.hits = folder / HITS_FILE

    def append(self, fits: Iterable[FitResult], hits: Mapping[FitId, Hits]) -> None:
        """Add lines; raises `CacheWriteError` if that fails, and then adds none to the table it failed on."""
        for file, lines, header in (
            (self.hits, _hits_to_csv(hits, header=False), _hits_to_csv({}, header=True)),
            (self.results, fits_to_csv(fits, header=False), fits_to_csv(())),
        ):
            _atomic.append_lines(file, _encode(lines), header=_encode(header))

    def replace(self, fits: Iterable[FitResult], hits: Mapping[FitId, Hits]) -> None:
        """Write both tables anew, each whole or not at all; raises `CacheWriteError`."""
        _atomic.write_file(self.hits, _encode(_hits_to_csv(hits, header=True)))
        _atomic.write_file(self.results, _encode(fits_to_csv(fits)))

    def read_fits(self, *, growing: bool) -> list[FitResult]:
        """Return the fits; raises `RunError` if the table is damaged."""
        text = self._text(RESULTS_FILE)
        if not text or (growing and "\n" not in text):
            return []
        try:
            return fits_from_csv(text, growing=growing)
        except InvalidInputError as error:
            file = printable(str(self.results))
            raise RunError(f"{file!r} is damaged: {error}; run the command again") from error

    def _text(self, name: str) -> str:
        """Return what stands in a table, nothing if it is not there."""
        try:
            return plain_file(self.folder, name, _MOST_BYTES).read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return ""
        except OSError as error:
            file = printable(str(self.folder / name))
            raise RunError(
                f"{file!r} cannot be read ({error.strerror}): check its rights and the disk"
            ) from error

    def read_hits(self) -> dict[FitId, Hits]:
        """Return the hits there are; none for a run of a version that did not record them."""
        text = self._text(HITS_FILE)
        text = text[: text.rfind("\n") + 1]
        found: dict[FitId, Hits] = {}
        reader = csv.reader(io.StringIO(text))
        next(reader, None)
        for line in reader:
            try:
                one = dict(zip(_HITS_COLUMNS, line, strict=True))
                temperature = float(one["temperature"]) if one["temperature"] else None
                size = float(one["n_per_class"]) if "." in one["n_per_class"] else int(one["n_per_class"])
                n_rows = int(one["n_rows"])
                top1, top5 = (_unpacked(one[name], n_rows) for name in ("top1", "top5"))
                if top1 is None:
                    raise ValueError("no answers")
            except ValueError as error:
                number = reader.line_num
                if next(reader, None) is None:  # power was lost before the last page was on disk
                    break
                file = printable(str(self.hits))
                raise RunError(
                    f"{file!r} is damaged: line {number} cannot be read ({error}); run the command again"
                ) from error
            key = one["cut"], one["head"], temperature
            found[key, size, int(one["repeat"])] = Hits(one["split"], top1, top5)
        return found


def _hits_to_csv(hits: Mapping[FitId, Hits], *, header: bool) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if header:
        writer.writerow(_HITS_COLUMNS)
    for ((cut, head, temperature), size, repeat), one in hits.items():
        at = "" if temperature is None else temperature
        packed = _packed(one.top1), "" if one.top5 is None else _packed(one.top5)
        writer.writerow([cut, head, at, size, repeat, one.split, len(one.top1), *packed])
    return buffer.getvalue()


def _packed(right: NDArray[np.bool_]) -> str:
    return np.packbits(right).tobytes().hex()


def _unpacked(text: str, n_rows: int) -> NDArray[np.bool_] | None:
    if not text:
        return None
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))
    if not n_rows <= len(bits) < n_rows + 8:
        raise ValueError(f"{len(bits)} bits for {n_rows} rows")
    return bits[:n_rows].astype(bool)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
