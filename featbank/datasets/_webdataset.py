"""WebDataset shards: plain tar files whose entries of one key are one sample, read where they are."""

# Names must survive byte for byte, and pathlib has no bytes paths.
# ruff: noqa: PTH100, PTH110, PTH111, PTH112, PTH118, PTH119, PTH120, PTH208

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from featbank.datasets._archive import Member, read_exactly, tar_members
from featbank.datasets._files import IMAGE_SUFFIXES, MAX_FILE_BYTES, open_regular_file, suffix_of
from featbank.datasets._folder import splits_of_names
from featbank.datasets.sources import require_two_classes, safe_name
from featbank.errors import DatasetError, ImageDecodeError, MissingDataError
from featbank.manifest import printable

__all__ = ["WebDataset"]

logger = logging.getLogger(__name__)

_LABELS = ("cls", "label", "class")
_MOST_LABEL_BYTES = 1 << 20
_MOST_SHARDS = 100_000
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


class WebDataset:
    """Images in tar files as WebDataset has them: ``KEY.jpg`` beside ``KEY.cls`` or ``KEY.json``.

    A key is a path up to the first dot of its file's name. The image is the entry with the suffix of one, the
    first by name where there are several. The label is what ``KEY.cls`` says, or what ``KEY.json`` has under
    ``label``, ``cls`` or ``class``; a number is the name of its class. Shards of several splits, by the words
    in their names (``train-000.tar``, ``val-000.tar``), make splits.

    Parameters
    ----------
    shards : str
        A file, a folder of ``.tar`` files, or a pattern with ``{000..010}`` or ``{train,val}``; several are
        joined by ``::``.
    name : str, optional
        Name of the dataset; default: that of the folder.
    label_column : str, optional
        The suffix of another entry that has the label, or another key of ``KEY.json``.

    Raises
    ------
    MissingDataError
        If a shard is not there or cannot be read.
    DatasetError
        If a shard is no tar or is cut short, is listed twice or has an entry twice, or there are no images or
        no labels.
    """

    def __init__(self, shards: str, *, name: str | None = None, label_column: str | None = None) -> None:
        files = [os.path.abspath(os.path.expanduser(one)) for one in _expanded(shards)]
        # a pattern that is written out here and now is found again from elsewhere
        where = [os.path.abspath(os.path.expanduser(one)) for one in shards.split("::")]
        self.location = printable(f"webdataset:{'::'.join(where)}")
        missing = [one for one in files if not os.path.exists(one)]
        if missing or not files:
            first = f"the first is {printable(missing[0])!r}" if missing else "the folder holds no .tar"
            raise MissingDataError(
                f"{len(missing)} of {len(files)} shards of {self.location!r} are not there, {first}; write "
                "'webdataset:FOLDER', or a pattern as in 'webdataset:shards/train-{000..010}.tar'"
            )
        twice = [one for one, count in Counter(files).items() if count > 1]
        if twice:
            raise DatasetError(f"shard {printable(twice[0])!r} is listed twice in {self.location!r}")
        folder = os.path.commonpath([os.path.dirname(one) for one in files])
        self.name = safe_name(os.path.basename(folder) if name is None else name)
        self.columns = {} if label_column is None else {"label_column": label_column}
        self._files = [os.fsencode(one) for one in files]
        asked = _LABELS if label_column is None else (label_column,)
        rows: list[tuple[bytes, str | None, int, int, int]] = []
        suffixes: Counter[str] = Counter()
        for shard, file in enumerate(self._files):
            inside = os.path.relpath(file, os.fsencode(folder))
            for key, image, label in _samples(file, asked, suffixes):
                one = inside + b"/" + key + suffix_of(image.path)
                rows.append((one, label, shard, image.offset, image.size))
        if not rows:
            raise DatasetError(f"no images in {self.location!r}; its entries are {_listed(suffixes)}")
        rows.sort()
        if all(row[1] is None for row in rows):
            raise DatasetError(
                f"no sample of {self.location!r} has a label; wanted: KEY.cls, or KEY.json with one of "
                f"{', '.join(asked)} (--label-column names another); its entries are {_listed(suffixes)}"
            )
        self.ids: tuple[bytes, ...] = tuple(row[0] for row in rows)
        self.labels: tuple[str | None, ...] = tuple(row[1] for row in rows)
        self._places = np.array([row[2:] for row in rows], np.int64)
        self.classes: tuple[str, ...] = tuple(sorted({one for one in self.labels if one}, key=_by_number))
        splits = splits_of_names([os.fsdecode(os.path.basename(one)) for one in self._files])
        self.splits: tuple[str, ...] | None = (
            None if splits is None else tuple(splits[row[2]] for row in rows)
        )
        n_bare = sum(label is None for label in self.labels)
        if n_bare:
            logger.warning("%d of %d images of %s have no label", n_bare, len(rows), self.location)
        require_two_classes(self.labels, repr(self.location))

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`; raises `OSError` or `ImageDecodeError`."""
        shard, offset, size = (int(one) for one in self._places[index])
        if size > MAX_FILE_BYTES:
            raise ImageDecodeError("too-many-bytes", f"{size} bytes is over the limit of {MAX_FILE_BYTES}")
        with open_regular_file(self._files[shard]) as file:
            return read_exactly(file.fileno(), size, offset)


def _expanded(shards: str) -> Iterator[str]:
    """Yield the files that a pattern stands for.

    Examples
    --------
    >>> list(_expanded("a-{08..10}.tar::{x,y}.tar"))
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'x.tar', 'y.tar']
    """
    todo = shards.split("::")[::-1]
    n = 0
    while todo:
        one = todo.pop()
        found = _BRACES.search(one)
        if found is None:
            if os.path.isdir(os.path.expanduser(one)):
                inside = sorted(os.listdir(os.path.expanduser(one)))
                yield from (os.path.join(one, file) for file in inside if file.lower().endswith(".tar"))
            else:
                yield one
            continue
        first, last, words = found.groups()
        if words is None:
            numbers = range(int(first), int(last) + 1)
            n += len(numbers)
            if n > _MOST_SHARDS:
                raise DatasetError(
                    f"{one!r} stands for more than {_MOST_SHARDS} shards; write a smaller range"
                )
            parts: Sequence[str] = [f"{number:0{len(first)}d}" for number in numbers]
        else:
            parts = words.split(",")
        todo += [one[: found.start()] + part + one[found.end() :] for part in reversed(parts)]


def _samples(
    file: bytes, asked: Sequence[str], suffixes: Counter[str]
) -> Iterator[tuple[bytes, Member, str | None]]:
    """Yield key, image and label of each sample of a shard."""
    images: dict[bytes, list[Member]] = {}
    said: dict[bytes, list[tuple[str, Member]]] = {}
    seen: set[bytes] = set()
    for member in tar_members(file, printable(file)):
        folder, _, base = member.path.rpartition(b"/")
        stem, _, end = base.partition(b".")
        if member.kind != "file" or not stem:
            continue
        key = folder.removeprefix(b"./") + b"/" + stem if folder.removeprefix(b".") else stem
        if key + b"." + end in seen:
            raise DatasetError(
                f"{printable(file)!r} has the entry '{printable(member.path)}' twice: one of two samples "
                "would be lost; give each a key of its own"
            )
        seen.add(key + b"." + end)
        suffix = printable(end)
        suffixes[suffix] += 1
        if b"." + end.lower() in IMAGE_SUFFIXES:
            images.setdefault(key, []).append(member)
        elif suffix in asked or suffix == "json":
            said.setdefault(key, []).append((suffix, member))
    with open_regular_file(file) as opened:
        for key, found in images.items():
            label = None
            for suffix, member in sorted(said.get(key, ()), key=lambda one: one[0] == "json"):
                if label is None and member.size <= _MOST_LABEL_BYTES:
                    data = read_exactly(opened.fileno(), member.size, member.offset)
                    label = _label(data, suffix, asked, printable(member.path), printable(file))
            yield key, min(found), label


def _label(data: bytes, suffix: str, asked: Sequence[str], entry: str, file: str) -> str | None:
    if suffix != "json" or suffix in asked:
        return os.fsdecode(data).strip() or None
    try:
        said = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{entry!r} of {file!r} is no JSON ({error}); mend the shard") from error
    for one in asked:
        value = said.get(one) if isinstance(said, dict) else None
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return str(value).strip() or None
    return None


def _by_number(label: str) -> tuple[int, str]:
    return (int(label), label) if re.fullmatch(r"\d{1,18}", label) else (-1, label)


def _listed(suffixes: Counter[str]) -> str:
    return ", ".join(f"{n} .{suffix}" for suffix, n in suffixes.most_common(5)) or "none"
