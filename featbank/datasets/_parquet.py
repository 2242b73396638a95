"""Parquet files with image bytes, laid out as Hugging Face writes them; what Arrow tables of images share."""

# ruff: noqa: PTH100, PTH110, PTH122, PTH111, PTH112, PTH118, PTH119, PTH120

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank.datasets._files import MAX_FILE_BYTES
from featbank.datasets._folder import splits_of_names
from featbank.datasets.sources import require_two_classes, safe_name
from featbank.errors import DatasetError, ImageDecodeError, MissingDataError, MissingPackageError, one_line
from featbank.manifest import printable

if TYPE_CHECKING:
    import pyarrow

__all__ = ["ArrowImages", "ParquetDataset", "chosen_columns", "import_pyarrow"]

_LABEL_NAMES = ("label", "labels", "class", "category", "target")
_IMAGE_NAMES = ("image", "img", "picture", "photo")
_SHOWN = 8


def import_pyarrow(what: str) -> Any:
    """Return pyarrow; raises `MissingPackageError` with the line that installs it."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingPackageError(
            f"{what} needs pyarrow; install it with: pip install 'featbank[parquet]'"
        ) from error
    return pyarrow


class ArrowImages:
    """Images that are a column of tables, part by part; who makes one says how a part is read.

    Parameters
    ----------
    parts : sequence of (str, str or None, pyarrow.Table)
        Of each part: what ids begin with, its split, its columns but that of the images.
    schema : pyarrow.Schema
        That of the whole, with the metadata of Hugging Face if there is any.
    location, name : str
        As of `Dataset`.
    path_column, label_column : str, optional
        What the columns of images and labels are called, where that cannot be seen.

    Raises
    ------
    DatasetError
        If it is not clear which columns are images and labels, or there are none.
    """

    #: Whoever reads is one of the decoding processes: each keeps the rows around the one it has read.
    decodes = True

    def __init__(
        self,
        parts: Sequence[tuple[str, str | None, pyarrow.Table]],
        schema: pyarrow.Schema,
        *,
        location: str,
        name: str,
        path_column: str | None,
        label_column: str | None,
    ) -> None:
        self.location, self.name = location, safe_name(name)
        asked = {"path_column": path_column, "label_column": label_column}
        self.columns = {role: one for role, one in asked.items() if one is not None}
        self._image, label, names = chosen_columns(schema, location, path_column, label_column)
        ids: list[bytes] = []
        labels: list[str | None] = []
        splits: list[str] = []
        places: list[NDArray[np.int64]] = []
        for number, (begin, split, table) in enumerate(parts):
            n = table.num_rows
            width = max(6, len(str(n)))
            ids += [os.fsencode(f"{begin}/{row:0{width}d}") for row in range(n)]
            labels += [_class_of(value, names) for value in table.column(label).to_pylist()]
            splits += [split or "none"] * n
            places.append(np.stack([np.full(n, number), np.arange(n)], axis=1).astype(np.int64))
        if not ids:
            raise DatasetError(f"{location!r} has no rows")
        order = sorted(range(len(ids)), key=ids.__getitem__)
        self.ids: tuple[bytes, ...] = tuple(ids[at] for at in order)
        self.labels: tuple[str | None, ...] = tuple(labels[at] for at in order)
        self._places = np.concatenate(places)[order]
        present = {one for one in labels if one is not None}
        self.classes: tuple[str, ...] = tuple(
            sorted(present, key=lambda one: (int(one), one) if one.isdecimal() else (-1, one))
            if names is None
            else dict.fromkeys(names)
        )
        has_splits = any(split is not None for _, split, _ in parts)
        self.splits: tuple[str, ...] | None = tuple(splits[at] for at in order) if has_splits else None
        require_two_classes(self.labels, repr(location))

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`; raises `OSError` or `ImageDecodeError`."""
        part, row = (int(one) for one in self._places[index])
        try:
            found = self._cell(part, row)
        except (ValueError, LookupError, NotImplementedError) as error:  # Arrow's errors are these
            raise OSError(one_line(error)) from error
        if isinstance(found, dict):
            path = found.get("path")
            found = found.get("bytes")
            if found is None and path:
                raise OSError(f"the row has no bytes, only the path {printable(str(path))!r}")
        if not isinstance(found, bytes):
            raise OSError("the row has no bytes")
        if len(found) > MAX_FILE_BYTES:
            raise ImageDecodeError("too-many-bytes", f"it has more than the limit of {MAX_FILE_BYTES}")
        return found

    def _cell(self, part: int, row: int) -> Any:
        """Return what the column of images has in one row."""
        raise NotImplementedError


class ParquetDataset(ArrowImages):
    """Images in Parquet files: a column of ``struct<bytes, path>`` or of binary, and one of labels.

    Class names are those of Hugging Face's metadata, else the labels themselves. Files of several splits, by
    the words in their names (``train-00000-of-00002.parquet``), make splits. A row is known as
    ``FILE/NUMBER``. Rows are read by row groups, of which each process keeps one.

    Parameters
    ----------
    files : str or os.PathLike
        A file, a folder of ``.parquet`` files (at any depth), or a pattern with ``*``.
    name : str, optional
        Name of the dataset; default: that of the file or folder.
    path_column, label_column : str, optional
        What the columns of images and labels are called, where that cannot be seen.

    Raises
    ------
    MissingDataError
        If there is no such file.
    MissingPackageError
        If pyarrow is not installed.
    DatasetError
        If a file is none or damaged, or has no images, no labels or several of either.
    """

    def __init__(
        self,
        files: str | os.PathLike[str],
        *,
        name: str | None = None,
        path_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        import_pyarrow("a Parquet file")
        from pyarrow import ArrowException, parquet

        place = os.path.abspath(os.path.expanduser(os.fspath(files)))
        if os.path.isdir(place):
            found = sorted(glob.glob(os.path.join(glob.escape(place), "**", "*.parquet"), recursive=True))  # noqa: PTH207
        else:
            found = [place] if os.path.exists(place) else sorted(glob.glob(place))  # noqa: PTH207
        if not found:
            raise MissingDataError(
                f"no .parquet file at {printable(place)!r}; name a file, a folder or FOLDER/*"
            )
        single = found == [place]
        # a file of another suffix is opened again only by the word before its place
        by_suffix = single and os.path.splitext(place)[1].lower() == ".parquet"
        location = printable(place if by_suffix else f"parquet:{place}")
        folder = (
            os.path.dirname(place) if single else os.path.commonpath([os.path.dirname(one) for one in found])
        )
        stem = os.path.splitext(os.path.basename(place))[0] if single else os.path.basename(folder)
        if stem == "data" and not single:  # as the hub has it: NAME/data/train-00000-of-00001.parquet
            stem = os.path.basename(os.path.dirname(folder))
        self._files = found
        said_splits = splits_of_names([os.path.basename(one) for one in found])
        splits: list[str | None] = [*said_splits] if said_splits else [None] * len(found)
        parts, schema = [], None
        self._groups: list[list[int]] = []
        for file, split in zip(found, splits, strict=True):
            try:
                with parquet.ParquetFile(file) as opened:
                    own = opened.schema_arrow
                    schema = own if schema is None else schema
                    image, label, _ = chosen_columns(own, printable(file), path_column, label_column)
                    _check_groups(opened.metadata, image, file)
                    ends = [opened.metadata.row_group(at).num_rows for at in range(opened.num_row_groups)]
                    self._groups.append(np.cumsum(ends).tolist())
                    parts.append((os.path.relpath(file, folder), split, opened.read([label])))
            except DatasetError:
                raise
            except (ArrowException, OSError, ValueError, LookupError) as error:  # names that are no text, too
                said = one_line(error)
                raise DatasetError(
                    f"{printable(file)!r} is no Parquet file, is cut short or damaged ({said}): nothing was "
                    "taken from it; copy or download it again"
                ) from error
        super().__init__(
            parts,
            schema,
            location=location,
            name=stem if name is None else name,
            path_column=path_column,
            label_column=label_column,
        )
        self._kept: tuple[tuple[int, int], Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def _cell(self, part: int, row: int) -> Any:
        from pyarrow import parquet

        ends = self._groups[part]
        group = int(np.searchsorted(ends, row, side="right"))
        kept = self._kept
        if kept is None or kept[0] != (part, group):
            with parquet.ParquetFile(self._files[part]) as opened:
                table = opened.read_row_group(group, columns=[self._image], use_threads=False)
            kept = self._kept = ((part, group), table.column(0))
        return kept[1][row - (ends[group - 1] if group else 0)].as_py()


def _check_groups(metadata: Any, image: str, file: str) -> None:
    """Refuse a file without the bytes of its images, or whose row groups are too large to be held."""
    n_null = largest = 0
    for at in range(metadata.num_row_groups):
        group = metadata.row_group(at)
        for column in (group.column(one) for one in range(group.num_columns)):
            if column.path_in_schema in (image, f"{image}.bytes"):
                largest = max(largest, column.total_uncompressed_size)
                known = column.statistics is not None and column.statistics.has_null_count
                n_null += column.statistics.null_count if known else 0
    if metadata.num_rows and n_null == metadata.num_rows:
        raise DatasetError(
            f"{printable(file)!r} has no bytes of images: its column {image!r} has paths alone; write it "
            "with the images inside (datasets: embed_external_files=True), or give the folder of the images"
        )
    if largest > MAX_FILE_BYTES:
        raise DatasetError(
            f"{printable(file)!r} has a row group of {largest} bytes of images, over the limit of "
            f"{MAX_FILE_BYTES}; write it again with fewer rows in each (row_group_size=100)"
        )


def chosen_columns(
    schema: pyarrow.Schema, location: str, image: str | None, label: str | None
) -> tuple[str, str, list[str] | None]:
    """Return the columns of images and of labels, and the names of classes if they are told."""
    import pyarrow

    types = pyarrow.types
    features: dict[str, Any] = {}
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = said.get("info", {}).get("features", {}) or {}
    except (ValueError, AttributeError, RecursionError):
        features = {}
    told = {one: kind for one, kind in features.items() if isinstance(kind, dict)}

    def is_binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def is_image(field: Any) -> bool:
        kind = field.type
        if types.is_struct(kind):
            return any(kind.field(at).name == "bytes" for at in range(kind.num_fields))
        return is_binary(kind)

    def is_label(field: Any) -> bool:
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        return bool(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind))

    def choose(asked: str | None, fits: Any, kind: str, usual: Sequence[str], what: str, option: str) -> str:
        known = [field.name for field in schema if fits(field)]
        if asked is not None:
            if asked in known:
                return asked
        else:
            for group in (
                [one for one in known if told.get(one, {}).get("_type") == kind],
                [one for one in known if one.lower() in usual],
                known if kind == "Image" else [],
            ):
                named = [one for one in group if one.lower() in usual[:1]]
                if len(group) == 1 or named:
                    return str((named or group)[0])
                if group:
                    known = group
                    break
        has = ", ".join(f"{field.name}: {str(field.type)[:40]}" for field in list(schema)[:_SHOWN])
        given = f" called {asked!r}" if asked is not None else ""
        several = (
            f"; say which of {', '.join(known)} with {option}" if len(known) > 1 and asked is None else ""
        )
        raise DatasetError(
            f"{location!r} has {'several columns' if several else 'no column'} of {what}{given}{several} (it "
            f"has {printable(has)})"
        )

    image = choose(image, is_image, "Image", _IMAGE_NAMES, "image bytes", "--path-column")
    label = choose(label, is_label, "ClassLabel", _LABEL_NAMES, "labels", "--label-column")
    names = told.get(label, {}).get("names")
    if not (isinstance(names, list) and all(isinstance(one, str) for one in names)):
        return image, label, None
    # ImageNet has two classes 'crane'; only the number tells them apart
    counts = Counter(names)
    names = [f"{one} ({at})" if counts[one] > 1 else one for at, one in enumerate(names)]
    return image, label, names


def _class_of(value: Any, names: list[str] | None) -> str | None:
    """Return the name of a class; numbers below 0 and what is beyond the names are no class."""
    if value is None or isinstance(value, str):
        return value or None
    if value < 0 or (names is not None and value >= len(names)):
        return None
    return str(value) if names is None else names[value]
