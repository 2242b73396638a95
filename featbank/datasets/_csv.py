"""A CSV file that lists images: path, label and, if wanted, split."""

# Names must survive byte for byte, and pathlib has no bytes paths; lists of words read best as words.
# ruff: noqa: PTH100, PTH111, PTH116, PTH118, PTH119, PTH120, PTH122, SIM905

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import logging
import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from featbank._registry import nearest
from featbank.datasets._files import open_regular_file, read_regular_file
from featbank.datasets._folder import SPLIT_FOLDERS
from featbank.datasets.sources import require_two_classes, safe_name
from featbank.errors import DatasetError, MissingDataError
from featbank.manifest import SPLITS, printable

__all__ = ["CSVDataset", "ListedImages"]

logger = logging.getLogger(__name__)

_ROLES = ("path", "label", "split", "group")
#: ``split_column`` of a file in which no column says a split.
_NO_COLUMN = "none"
#: What separates cells: commas, or what spreadsheets write where a comma stands in numbers.
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_PLAIN = ("utf-8-sig", ",")
_SHOWN = 5
_SPLIT_NAMES = {**SPLIT_FOLDERS, "training": "train", "dev": "val", "testing": "test", "none": "none"}
#: A column whose name is made of these (and of fillers) may say a split, whatever its values.
_SPLIT_WORDS = frozenset(
    "set subset fold kfold partition phase usage dataset train training val valid validation test testing "
    "traintest trainval holdout".split()
)
#: Equal values in a column whose name is made of these (and of fillers) stand for images of one origin.
_GROUP_WORDS = frozenset(
    "patient subject participant person individual donor animal identity user author writer speaker "
    "performer photographer household family owner site hospital clinic center centre institution scanner "
    "device camera station location place plot field farm tree plant video movie clip sequence burst scene "
    "shot track session visit exam study series case slide wsi specimen biopsy lesion tumor tumour nodule "
    "well plate batch album group cluster".split()
)
_FILLERS = frozenset(
    "id uid uuid idx index no nr num number name code key hash is in of for data source original orig "
    "official parent default random cv new old file path instance".split()
)
#: Without one repetition in so many rows, no later one is waited for.
_MANY = 100_000
#: The sides of a split that images of one origin must not stand on both of.
_SIDES = {"train": 1, "val": 2, "test": 2, "none": 0}


@dataclass
class _Rows:
    """What a file lists, in its order; `groups` has the sides that each value of a column stands on."""

    ids: list[bytes] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    groups: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass
class _Faults:
    """The first faults, and how many there are: a wrong folder makes one of every row."""

    first: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, fault: str) -> None:
        self.count += 1
        if self.count <= _SHOWN:
            self.first.append(fault)


class ListedImages:
    """What a CSV file lists; how that is read is for those that are made of it.

    Parameters
    ----------
    file, name, path_column, label_column, split_column, group_column
        As of `CSVDataset`.

    Raises
    ------
    DatasetError, MissingDataError
        As `CSVDataset`.
    """

    #: Columns that say, besides the path, which part of an image is meant.
    _more: tuple[str, ...] = ()

    def __init__(
        self,
        file: str | os.PathLike[str],
        *,
        name: str | None = None,
        path_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        group_column: str | None = None,
    ) -> None:
        path = os.path.abspath(os.fsencode(file))
        self._folder = os.path.dirname(path)
        self.location = printable(path)
        self._asked = dict(zip(_ROLES, (path_column, label_column, split_column, group_column), strict=True))
        stem = os.fsdecode(os.path.splitext(os.path.basename(path))[0])
        self.name = safe_name(stem if name is None else name)
        try:
            self._form = _form(path)
            header, columns = self._choose_columns(path)
            rows = self._read(path, header, columns)
        except OSError as error:
            raise MissingDataError(
                f"cannot read {self.location!r}: {error.strerror or error}; name a CSV file with the columns "
                "path,label[,split]"
            ) from error
        order = sorted(range(len(rows.ids)), key=rows.ids.__getitem__)
        self.ids: tuple[bytes, ...] = tuple(rows.ids[at] for at in order)
        self.labels: tuple[str | None, ...] = tuple(rows.labels[at] for at in order)
        self.classes: tuple[str, ...] = tuple(sorted(set(rows.labels), key=os.fsencode))
        has_split = "split" in columns
        self.splits: tuple[str, ...] | None = tuple(rows.splits[at] for at in order) if has_split else None
        has_group = "group" in columns
        self.groups: tuple[str, ...] | None = tuple(rows.group[at] for at in order) if has_group else None
        require_two_classes(self.classes, repr(self.location))
        if self._form != _PLAIN:
            encoding, separator = self._form
            wide = " and in UTF-16" if encoding == "utf-16" else ""
            logger.warning("%s: read as separated by %s%s", self.location, _SEPARATORS[separator], wide)
        if has_split and split_column is None and header[columns["split"]].casefold() != "split":
            counts = Counter(rows.splits)
            logger.warning(
                "%s: its column %r is taken as the split (%s); --split-column none takes none",
                self.location,
                header[columns["split"]],
                ", ".join(f"{one} {counts[one]}" for one in SPLITS if counts[one]),
            )
        if not has_group:
            self._tell_groups(rows.groups, len(self.ids), has_split=has_split)

    @property
    def columns(self) -> dict[str, str]:
        """What `open_dataset` has to be told, besides the place, to open the file again as it is."""
        return {f"{role}_column": asked for role, asked in self._asked.items() if asked is not None}

    def _full(self, path: bytes) -> bytes:
        return os.path.join(self._folder, os.path.expanduser(path))

    def _choose_columns(self, path: bytes) -> tuple[list[str], dict[str, int]]:
        """Read the file once to find out which column is what; its other faults are left for later."""
        with contextlib.closing(_lines(path, *self._form)) as lines:
            try:
                _, cells = next(lines)
            except StopIteration:
                raise DatasetError(
                    f"{self.location!r} is empty; its first line must be path,label or path,label,split"
                ) from None
            except csv.Error as error:
                self._raise([str(error)])
            header = [cell.strip() for cell in cells]
            columns = self._named(header)
            if "split" not in columns and self._asked["split"] is None:
                others = {at: name for at, name in enumerate(header) if at not in columns.values()}
                found = self._split_among(others, lines)
                if found is not None:
                    columns["split"] = found
        return header, columns

    def _named(self, header: Sequence[str]) -> dict[str, int]:
        folded = [one.casefold() for one in header]
        columns: dict[str, int] = {}
        faults: list[str] = []
        for role, asked in self._asked.items():
            if role == "group" and asked is None:
                continue
            wanted = role if asked is None else asked
            count = folded.count(wanted.strip().casefold())
            if count == 1:
                columns[role] = folded.index(wanted.strip().casefold())
            elif count:
                faults.append(f"the column {wanted!r} stands {count} times")
            elif role != "split" or asked not in (None, _NO_COLUMN):
                name_it = f"; name it with --{role}-column" if asked is None else ""
                faults.append(f"no column {wanted!r} (it has {nearest(wanted, header)}{name_it})")
        faults += [
            f"the column {header[at]!r} cannot be two things"
            for at, count in Counter(columns.values()).items()
            if count > 1
        ]
        for one in self._more:
            if folded.count(one) == 1:
                columns[one] = folded.index(one)
            else:
                faults.append(f"the column {one!r} stands {folded.count(one)} times")
        if faults:
            self._raise(faults)
        return columns

    def _split_among(self, names: Mapping[int, str], lines: Iterator[tuple[int, list[str]]]) -> int | None:
        """Return the column that says a split under another name; refuse one that says it in part."""
        splits: dict[int, list[str]] = {at: [] for at in names}  # of columns that say nothing else so far
        values: dict[int, set[str]] = {at: set() for at, name in names.items() if _may_split(name)}
        with contextlib.suppress(csv.Error):
            for _, cells in lines:
                for at in list(splits):
                    value = _cell(cells, at).casefold()
                    if value and value not in _SPLIT_NAMES:
                        del splits[at]
                    else:
                        splits[at].append(_SPLIT_NAMES.get(value, ""))
                for at, seen in values.items():
                    if len(seen) <= _SHOWN:
                        seen.add(_cell(cells, at))
                if not splits and all(len(seen) > _SHOWN for seen in values.values()):
                    break
        whole = [at for at, said in splits.items() if "train" in said and {"val", "test"} & set(said)]
        if any(splits[at] != splits[whole[0]] for at in whole):
            ways = ", ".join(f"--split-column {shlex.quote(names[at])}" for at in whole)
            raise DatasetError(
                f"{self.location!r} has {len(whole)} columns that say different splits; take one with "
                f"{ways}, or none with --split-column {_NO_COLUMN}"
            )
        if whole:
            return whole[0]
        for at, seen in values.items():
            known = {_SPLIT_NAMES.get(value.casefold(), "none") for value in seen} - {"none"}
            shown = ", ".join(repr(printable(value)) for value in sorted(seen)[:_SHOWN])
            says = f"the column {names[at]!r} ({shown}{', ...' if len(seen) > _SHOWN else ''})"
            clear = known or {"split", "train", "test"} & _words(names[at]) or "split" in names[at].casefold()
            if len(seen) > 1 and clear:
                raise DatasetError(
                    f"{self.location!r} looks split by {says}, but not all of it is train, val, test or "
                    f"none: mend it, or leave it with --split-column {_NO_COLUMN}"
                )
            if len(seen) > 1 or known:
                logger.warning(
                    "%s: %s may be a split, but does not say what is train and what is val or test: it is "
                    "not used; if it is one, write these words into it and give --split-column %s",
                    self.location,
                    says,
                    shlex.quote(names[at]),
                )
        return None

    def _read(self, path: bytes, header: Sequence[str], columns: Mapping[str, int]) -> _Rows:
        rows, faults = _Rows(), _Faults()
        groups = {
            at: name for at, name in enumerate(header) if _may_group(name) and at not in columns.values()
        }
        rows.groups = {name: {} for name in groups.values()}
        first_lines: dict[bytes, int] = {}
        names: dict[str, str] = {}  # one object for each label, not one for each row
        try:
            for line, cells in itertools.islice(_lines(path, *self._form), 1, None):
                before = faults.count
                if len(cells) > len(header):
                    faults.add(
                        f"line {line} has {len(cells)} cells under {len(header)} columns (quote a cell "
                        f"with a {_SEPARATORS[self._form[1]][:-1]})"
                    )
                    continue
                label = _cell(cells, columns["label"])
                if not label:
                    faults.add(f"line {line} has no label")
                group = _cell(cells, columns["group"]) if "group" in columns else ""
                if "group" in columns and not group:
                    faults.add(f"line {line} has no group in its column {header[columns['group']]!r}")
                split = self._split_of(line, cells, header, columns.get("split"), faults)
                at = columns["path"]
                image = os.fsencode(cells[at]) if at < len(cells) else b""
                part, fault = self._part_of(line, [_cell(cells, columns[one]) for one in self._more])
                if fault is None:
                    self._check_image(line, image, part, first_lines, faults)
                else:
                    faults.add(fault)
                if faults.count > before:
                    continue
                rows.ids.append(image + part)
                rows.labels.append(names.setdefault(label, label))
                rows.splits.append(split)
                rows.group.append(names.setdefault(group, group))
                for at, name in list(groups.items()):
                    value = _cell(cells, at)
                    if value:
                        rows.groups[name][value] = rows.groups[name].get(value, 0) | _SIDES[split]
                    if len(rows.groups[name]) == len(rows.ids) == _MANY:
                        del groups[at], rows.groups[name]  # a value for each image
        except csv.Error as error:
            faults.add(str(error))
        if faults.count:
            self._raise(faults.first, faults.count)
        if not rows.ids:
            raise DatasetError(f"{self.location!r} has a header but lists no images")
        return rows

    def _split_of(
        self, line: int, cells: Sequence[str], header: Sequence[str], at: int | None, faults: _Faults
    ) -> str:
        if at is None:
            return "none"
        text = _cell(cells, at)
        split = _SPLIT_NAMES.get(text.casefold())
        if split is None:
            where = "" if header[at].casefold() == "split" else f" in its column {header[at]!r}"
            known = ", ".join(SPLITS)
            faults.add(
                f"line {line} has the unknown split {printable(text)!r}{where} ({known} are known)"
                if text
                else f"line {line} has no split{where}"
            )
            return "none"
        return split

    def _part_of(self, line: int, cells: Sequence[str]) -> tuple[bytes, str | None]:
        """Return what a row's id has besides the path, by the cells of `_more`, or a fault."""
        return b"", None

    def _check_image(
        self, line: int, image: bytes, part: bytes, first_lines: dict[bytes, int], faults: _Faults
    ) -> None:
        if not image:
            faults.add(f"line {line} has no path")
            return
        full = os.path.normpath(self._full(image))
        known = full.removeprefix(self._folder + b"/")
        # Nearly every path is written as it is known, and then there is one object of it, not two.
        first = first_lines.setdefault((image if known == image else known) + part, line)
        if first != line:
            faults.add(f"line {line} lists '{printable(image + part)}' again (first in line {first})")
            return
        try:
            mode = os.stat(full).st_mode
        except (OSError, ValueError):  # ValueError: a NUL byte in the name
            faults.add(f"line {line}: there is no file '{printable(image)}'{_odd_byte(image)}")
            return
        if not stat.S_ISREG(mode):
            faults.add(f"line {line}: '{printable(image)}' is not a file")

    def _tell_groups(self, groups: Mapping[str, Mapping[str, int]], n_rows: int, *, has_split: bool) -> None:
        for name, sides in groups.items():
            if not 1 < len(sides) < n_rows:
                continue
            torn = sum(side == 3 for side in sides.values())
            if has_split and not torn:
                continue
            on_both = (
                f"{torn} of its {len(sides)} values stand on both sides of the split"
                if has_split
                else f"a split by featbank puts its {len(sides)} values on both sides"
            )
            logger.warning(
                "%s: the column %r looks like groups of images of one origin, and %s: accuracies will be "
                "flattered, and --check-leaks cannot see it; %s",
                self.location,
                printable(name),
                on_both,
                "give a split that keeps each value on one side, in a column 'split'"
                if has_split
                else f"--group {shlex.quote(printable(name))} keeps each value on one side",
            )

    def _raise(self, faults: Sequence[str], n_faults: int | None = None) -> NoReturn:
        n_faults = len(faults) if n_faults is None else n_faults
        shown = "; ".join(faults[:_SHOWN])
        rest = f"; and {n_faults - _SHOWN} more" if n_faults > _SHOWN else ""
        count = "1 fault" if n_faults == 1 else f"{n_faults} faults"
        raise DatasetError(f"{self.location!r} has {count}: {shown}{rest}")


class CSVDataset(ListedImages):
    """Images listed in a CSV file with the columns ``path``, ``label`` and, optionally, ``split``.

    Parameters
    ----------
    file : str or os.PathLike
        The CSV file, UTF-8 (or UTF-16 with a byte order mark), with a header; separated by commas, or by the
        semicolons or tabs of its header. Paths are relative to its folder, absolute, or begin with ``~``;
        bytes that are not UTF-8 stay as they are. Splits are ``train`` (``training``), ``val`` (``valid``,
        ``validation``, ``dev``), ``test`` (``testing``) and ``none``.
    name : str, optional
        Name of the dataset; default: the file's, without suffix.
    path_column, label_column : str, optional
        What the two columns are called; default ``"path"`` and ``"label"``.
    split_column : str, optional
        What the column of splits is called, ``"none"`` if there is none. Default: ``"split"``, else the one
        column whose values are all splits, train and another among them, which a warning names.
    group_column : str, optional
        The column of what images must not be torn apart by a split: patient, place, video. None by default.

    Notes
    -----
    Other columns are ignored. A warning names one that may say a split but does not use its words, and one
    whose name says that images with the same value have one origin (``patient_id``, ``site``, ``video``),
    unless the file's own split keeps them apart.

    Raises
    ------
    DatasetError
        If the file has faults, all of which are gathered first; if two columns say two splits; or if a
        column says a split in part only.
    MissingDataError
        If the file cannot be read.
    """

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`; raises `OSError` or `ImageDecodeError`."""
        return read_regular_file(self.path_of(index))

    def path_of(self, index: int) -> bytes:
        """Return the path of image `index`, for whoever reads it elsewhere."""
        return self._full(self.ids[index])


def _form(path: bytes) -> tuple[str, str]:
    """Return the encoding, by a byte order mark, and what separates cells, by the first line."""
    with io.BufferedReader(open_regular_file(path)) as raw:
        start = raw.read(2**16)
    is_wide = start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding = "utf-16" if is_wide else "utf-8-sig"
    header = start.decode(encoding, "replace").lstrip().partition("\n")[0]
    # with a comma anywhere in it, it is what it always was
    return encoding, "," if "," in header else max(_SEPARATORS, key=header.count)


def _lines(path: bytes, encoding: str, separator: str) -> Generator[tuple[int, list[str]]]:
    """Yield the number and the cells of every line with something in it; the file is never held whole."""
    raw = io.BufferedReader(open_regular_file(path))
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    with io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline="") as text:
        reader = csv.reader(text, skipinitialspace=True, delimiter=separator)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise csv.Error(f"line {reader.line_num} is not CSV ({error})") from error
        except UnicodeDecodeError as error:
            raise csv.Error(
                f"line {reader.line_num + 1}, or one soon after it, is not UTF-16 ({error.reason}); save the "
                "list as UTF-8"
            ) from error


def _odd_byte(name: bytes) -> str:
    """Say which byte of a name is not UTF-8: a list in Latin-1 names files that are not called so."""
    try:
        name.decode()
    except UnicodeDecodeError as error:
        return f" (not UTF-8: byte 0x{name[error.start]:02x}; save the list as UTF-8)"
    return ""


def _cell(cells: Sequence[str], at: int) -> str:
    return cells[at].strip() if at < len(cells) else ""


def _words(name: str) -> set[str]:
    """Return the words of a column's name: ``patient_id``, ``PatientID`` and ``patient id`` have the same."""
    words = [one.lower() for one in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    return {one.removesuffix("s") if one.removesuffix("s") in _GROUP_WORDS else one for one in words}


def _may_split(name: str) -> bool:
    words = _words(name)
    return "split" in name.casefold() or bool(words & _SPLIT_WORDS and words <= _SPLIT_WORDS | _FILLERS)


def _may_group(name: str) -> bool:
    words = _words(name)
    return bool(words & _GROUP_WORDS and words <= _GROUP_WORDS | _FILLERS)
