"""A folder of class folders, or of train/val/test folders above class folders."""

# Names must survive byte for byte, and pathlib has no bytes paths.
# ruff: noqa: PTH118, PTH119

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from dataclasses import dataclass, field

from featbank.datasets._files import (
    IMAGE_SUFFIXES,
    UNDECODED_SUFFIXES,
    read_regular_file,
    suffix_of,
    tell_undecoded,
)
from featbank.datasets._names import require_two_classes, safe_name
from featbank.errors import DatasetError
from featbank.manifest import printable

__all__ = ["SPLIT_FOLDERS", "FolderDataset"]

logger = logging.getLogger(__name__)

#: Folder names (any case) that are splits, and the split each stands for.
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

_LITTER_FILES = frozenset({b"thumbs.db", b"desktop.ini"})
_LITTER_FOLDERS = frozenset({b"__macosx", b"lost+found"})
_WANTED = "wanted: FOLDER/CLASS/image.jpg, or FOLDER/train/CLASS/image.jpg beside val/ and test/"


@dataclass
class _Listing:
    """One folder's entries that count, and what a whole scan left out."""

    folders: list[bytes] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)


@dataclass
class _LeftOut:
    suffixes: Counter[str] = field(default_factory=Counter)
    undecoded: Counter[str] = field(default_factory=Counter)
    odd: list[tuple[bytes, str]] = field(default_factory=list)
    strays: list[bytes] = field(default_factory=list)


class FolderDataset:
    """Images in class folders.

    Files are found below each class folder at any depth. A file counts as an image by its suffix; what it
    really is shows when it is decoded. Hidden files are left out, as are links that leave the folder, links
    to folders, pipes, sockets and devices (a log warning names them).

    Parameters
    ----------
    folder : str or os.PathLike
        The folder. When all its sub-folders are named ``train``, ``val`` (``valid``, ``validation``) or
        ``test``, they are splits and the class folders stand below them.
    name : str, optional
        Name of the dataset; default: the folder's.

    Raises
    ------
    DatasetError
        If there are no images, fewer than two classes, images outside class folders only, or a sub-folder
        cannot be listed.
    """

    def __init__(self, folder: str | os.PathLike[str], *, name: str | None = None) -> None:
        self._root = os.path.realpath(os.fsencode(folder))
        self.location = printable(self._root)
        self.name = safe_name(os.fsdecode(os.path.basename(self._root)) if name is None else name)
        left_out = _LeftOut()
        rows = self._scan(left_out)
        self._report(left_out)
        rows.sort()
        if not rows:
            raise DatasetError(f"no images in {self.location!r}; {_WANTED}")
        self.ids: tuple[bytes, ...] = tuple(row[0] for row in rows)
        self.labels: tuple[str | None, ...] = tuple(os.fsdecode(row[1]) for row in rows)
        self.classes: tuple[str, ...] = tuple(os.fsdecode(one) for one in sorted({row[1] for row in rows}))
        splits = tuple(row[2] for row in rows)
        self.splits: tuple[str, ...] | None = splits if splits[0] else None
        require_two_classes(self.classes, repr(self.location))

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`; raises `OSError` or `ImageDecodeError`."""
        return read_regular_file(self.path_of(index))

    def path_of(self, index: int) -> bytes:
        """Return the path of image `index`, for whoever reads it elsewhere."""
        return os.path.join(self._root, self.ids[index])

    def _scan(self, left_out: _LeftOut) -> list[tuple[bytes, bytes, str]]:
        top = self._list(b"", left_out)
        names = [os.fsdecode(folder).casefold() for folder in top.folders]
        if not names:
            if top.images:
                raise DatasetError(
                    f"{self.location!r} holds {len(top.images)} images but no class folders; {_WANTED}"
                )
            return []
        left_out.strays += top.images
        if not all(name in SPLIT_FOLDERS for name in names):
            return self._scan_classes(top.folders, "", left_out)
        rows: list[tuple[bytes, bytes, str]] = []
        for folder, name in zip(top.folders, names, strict=True):
            inside = self._list(folder, left_out)
            if inside.images and not inside.folders:
                raise DatasetError(
                    f"'{printable(folder)}/' in {self.location!r} holds {len(inside.images)} images "
                    f"but no class folders; {_WANTED}"
                )
            left_out.strays += inside.images
            rows += self._scan_classes(inside.folders, SPLIT_FOLDERS[name], left_out)
        return rows

    def _scan_classes(
        self, folders: list[bytes], split: str, left_out: _LeftOut
    ) -> list[tuple[bytes, bytes, str]]:
        rows = []
        for folder in folders:
            label = folder.rpartition(b"/")[2]
            todo, images = [folder], 0
            while todo:
                inside = self._list(todo.pop(), left_out)
                todo += inside.folders
                images += len(inside.images)
                rows += [(image, label, split) for image in inside.images]
            if not images:
                logger.warning(
                    "class folder '%s' in %s has no images: left out", printable(folder), self.location
                )
        return rows

    def _list(self, folder: bytes, left_out: _LeftOut) -> _Listing:
        """List one folder (relative to the root), in the order of its names' bytes."""
        listing = _Listing()
        try:
            with os.scandir(os.path.join(self._root, folder)) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            where = printable(folder) or "."
            raise DatasetError(
                f"cannot list '{where}' in {self.location!r}: {error.strerror}; make it readable or "
                "move it away"
            ) from error
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            relative = folder + b"/" + entry.name if folder else entry.name
            problem = self._sort_in(entry, relative, listing, left_out)
            if problem:
                left_out.odd.append((relative, problem))
        return listing

    def _sort_in(
        self, entry: os.DirEntry[bytes], relative: bytes, listing: _Listing, left_out: _LeftOut
    ) -> str | None:
        """Put one entry where it belongs, or say why it belongs nowhere."""
        try:
            linked, mode = entry.is_symlink(), entry.stat().st_mode
        except OSError as error:  # a dangling link, a loop, an entry that went away
            return error.strerror
        if stat.S_ISDIR(mode):
            # A link to a folder could show the same images twice, or never end.
            if linked:
                return "a link to a folder"
            if entry.name.lower() not in _LITTER_FOLDERS:
                listing.folders.append(relative)
            return None
        if not stat.S_ISREG(mode):
            return "a pipe, socket or device"
        if linked and not os.path.realpath(entry.path).startswith(self._root.rstrip(b"/") + b"/"):
            return "a link out of the folder"
        suffix = suffix_of(entry.name)
        if suffix in IMAGE_SUFFIXES:
            listing.images.append(relative)
        elif entry.name.lower() not in _LITTER_FILES:
            others = left_out.undecoded if suffix in UNDECODED_SUFFIXES else left_out.suffixes
            others[printable(suffix) or "no suffix"] += 1
        return None

    def _report(self, left_out: _LeftOut) -> None:
        tell_undecoded(left_out.undecoded, self.location)
        if left_out.suffixes:
            logger.warning(
                "skipped %d files in %s that are not images by their suffix (%s)",
                left_out.suffixes.total(),
                self.location,
                ", ".join(f"{suffix}: {count}" for suffix, count in sorted(left_out.suffixes.items())),
            )
        if left_out.odd:
            first, problem = left_out.odd[0]
            logger.warning(
                "skipped %d entries in %s that are no files of it, the first is '%s': %s",
                len(left_out.odd),
                self.location,
                printable(first),
                problem,
            )
        if left_out.strays:
            logger.warning(
                "skipped %d images in %s outside class folders, the first is '%s'",
                len(left_out.strays),
                self.location,
                printable(left_out.strays[0]),
            )
