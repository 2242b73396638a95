"""A CSV file that lists images: path, label and, if wanted, split."""

# Names must survive byte for byte, and pathlib has no bytes paths.
# ruff: noqa: PTH100, PTH116, PTH118, PTH119, PTH120, PTH122

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Sequence

from featbank._registry import nearest
from featbank.datasets._files import read_regular_file
from featbank.datasets._folder import SPLIT_FOLDERS
from featbank.datasets._names import require_two_classes, safe_name
from featbank.errors import DatasetError, MissingDataError
from featbank.manifest import SPLITS, printable

__all__ = ["CSVDataset"]

_SHOWN = 5
_SPLIT_NAMES = {**SPLIT_FOLDERS, "none": "none"}


class CSVDataset:
    """Images listed in a CSV file with the columns ``path``, ``label`` and, optionally, ``split``.

    Parameters
    ----------
    file : str or os.PathLike
        The CSV file, UTF-8, with a header. Paths are relative to its folder, or absolute; bytes that are not
        UTF-8 stay as they are. Splits are ``train``, ``val`` (``valid``, ``validation``), ``test``, ``none``.
        Other columns are ignored.
    name : str, optional
        Name of the dataset; default: the file's, without suffix.

    Raises
    ------
    DatasetError
        If the file has faults; all of them are gathered first.
    MissingDataError
        If the file cannot be read.
    """

    def __init__(self, file: str | os.PathLike[str], *, name: str | None = None) -> None:
        path = os.path.abspath(os.fsencode(file))
        self._folder = os.path.dirname(path)
        self.location = printable(path)
        stem = os.fsdecode(os.path.splitext(os.path.basename(path))[0])
        self.name = safe_name(stem if name is None else name)
        try:
            text = read_regular_file(path).decode("utf-8", "surrogateescape")
        except OSError as error:
            raise MissingDataError(
                f"cannot read {self.location!r}: {error.strerror or error}; name a CSV file with the columns "
                "path,label[,split]"
            ) from error
        rows, has_split = self._parse(text.removeprefix("\ufeff"))
        rows.sort()
        self.ids: tuple[bytes, ...] = tuple(row[0] for row in rows)
        self.labels: tuple[str | None, ...] = tuple(row[1] for row in rows)
        self.classes: tuple[str, ...] = tuple(sorted({row[1] for row in rows}, key=os.fsencode))
        self.splits: tuple[str, ...] | None = tuple(row[2] for row in rows) if has_split else None
        require_two_classes(self.classes, repr(self.location))

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`; raises `OSError` or `ImageDecodeError`."""
        return read_regular_file(self.path_of(index))

    def path_of(self, index: int) -> bytes:
        """Return the path of image `index`, for whoever reads it elsewhere."""
        return os.path.join(self._folder, self.ids[index])

    def _parse(self, text: str) -> tuple[list[tuple[bytes, str, str]], bool]:
        reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
        rows: list[tuple[bytes, str, str]] = []
        faults: list[str] = []
        first_lines: dict[bytes, int] = {}
        header: list[str] | None = None
        columns: dict[str, int] = {}
        try:
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if header is None:
                    header = [cell.strip().casefold() for cell in cells]
                    columns = self._columns(header)
                    continue
                faults += self._row(reader.line_num, cells, len(header), columns, first_lines, rows)
        except csv.Error as error:
            faults.append(f"line {reader.line_num} is not CSV ({error})")
        if header is None:
            raise DatasetError(
                f"{self.location!r} is empty; its first line must be path,label or path,label,split"
            )
        if faults:
            self._raise(faults)
        if not rows:
            raise DatasetError(f"{self.location!r} has a header but lists no images")
        return rows, "split" in columns

    def _columns(self, header: Sequence[str]) -> dict[str, int]:
        faults = [
            f"no column {wanted!r} (it has {nearest(wanted, header)})"
            for wanted in ("path", "label")
            if wanted not in header
        ]
        faults += [
            f"the column {one!r} stands {header.count(one)} times"
            for one in ("path", "label", "split")
            if header.count(one) > 1
        ]
        if faults:
            self._raise(faults)
        return {one: header.index(one) for one in ("path", "label", "split") if one in header}

    def _row(
        self,
        line: int,
        cells: list[str],
        n_columns: int,
        columns: dict[str, int],
        first_lines: dict[bytes, int],
        rows: list[tuple[bytes, str, str]],
    ) -> list[str]:
        """Add one line to `rows` and return what is wrong with it."""
        if len(cells) > n_columns:
            return [
                f"line {line} has {len(cells)} cells under {n_columns} columns (quote a cell with a comma)"
            ]
        found = {one: cells[at] if at < len(cells) else "" for one, at in columns.items()}
        label, faults = found["label"].strip(), []
        if not label:
            faults.append(f"line {line} has no label")
        split = _SPLIT_NAMES.get(found.get("split", "none").strip().casefold(), "")
        if not split:
            text = found["split"].strip()
            faults.append(
                f"line {line} has the unknown split {printable(text)!r} ({', '.join(SPLITS)} are known)"
                if text
                else f"line {line} has no split"
            )
        if not found["path"]:
            return [*faults, f"line {line} has no path"]
        faults += self._path_faults(line, os.fsencode(found["path"]), first_lines)
        rows.append((os.fsencode(found["path"]), label, split))
        return faults

    def _path_faults(self, line: int, path: bytes, first_lines: dict[bytes, int]) -> list[str]:
        full = os.path.normpath(os.path.join(self._folder, path))
        first = first_lines.setdefault(full, line)
        if first != line:
            return [f"line {line} lists '{printable(path)}' again (first in line {first})"]
        try:
            mode = os.stat(full).st_mode
        except (OSError, ValueError):  # ValueError: a NUL byte in the name
            return [f"line {line}: there is no file '{printable(path)}'"]
        return [] if stat.S_ISREG(mode) else [f"line {line}: '{printable(path)}' is not a file"]

    def _raise(self, faults: list[str]) -> None:
        shown = "; ".join(faults[:_SHOWN])
        rest = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise DatasetError(f"{self.location!r} has {count}: {shown}{rest}")
