"""The one look at a folder of images: what is in it, what is left out of it, and what is told of that."""

# Names must survive byte for byte, and pathlib has no bytes paths.
# ruff: noqa: PTH116, PTH118, PTH120

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from featbank._cache import user_path
from featbank.datasets._files import IMAGE_SUFFIXES, UNDECODED_SUFFIXES, suffix_of
from featbank.errors import DatasetError, MissingDataError
from featbank.manifest import printable

__all__ = ["Folder", "Scan", "list_images", "scan_images"]

logger = logging.getLogger(__name__)

_LITTER_FILES = frozenset({b"thumbs.db", b"ehthumbs.db", b"desktop.ini", b"icon\r"})
#: Folders (any case) that systems, servers and tools leave behind, as they are called in full: a class may
#: begin with ``_``, ``@``, ``#`` or ``$``, but none is called like one of these.
_LITTER_FOLDERS = frozenset(
    name.encode()
    for name in (
        # thumbnails and other shadows of files
        "@eadir", "@__thumb", "_thumbs", "__macosx", "__pycache__",
        # recycle bins
        "$recycle.bin", "recycler", "#recycle", "@recycle", "network trash folder",
        # of file systems and of the snapshots of servers
        "system volume information", "lost+found", "found.000", "$extend", "#snapshot", "~snapshot",
        "@recently-snapshot", "@sharebin", "@sharesnap", "temporary items",
    )
)  # fmt: skip
_SHOWN = 5


@dataclass(eq=False, slots=True)
class Folder:
    """One folder of a scan; paths are relative to where the scan began, and ``b""`` is the beginning."""

    path: bytes
    parent: Folder | None = None
    #: Device and inode: links are recognised by it.
    key: tuple[int, int] = (0, 0)
    #: Whether a link leads here, or to a folder around it.
    linked: bool = False
    #: Why it could not be entered; "" if it could.
    problem: str = ""
    images: list[bytes] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)
    #: Suffixes of files that are no images, here and below.
    other: Counter[str] = field(default_factory=Counter)
    #: Images here and below.
    n_images: int = 0

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]

    @property
    def filled(self) -> list[Folder]:
        """Its folders that hold images, at any depth."""
        return [one for one in self.folders if one.n_images]

    def walk(self) -> Iterator[bytes]:
        """Yield the images here and below."""
        todo = [self]
        while todo:
            folder = todo.pop()
            todo += folder.folders
            yield from folder.images

    def around(self) -> Iterator[Folder]:
        """Yield the folder itself, the one it is in, and so on."""
        folder: Folder | None = self
        while folder is not None:
            yield folder
            folder = folder.parent


@dataclass
class Scan:
    """A folder with all that is below it, and what was left out."""

    top: Folder
    location: str
    litter: Counter[str] = field(default_factory=Counter)
    outside: list[bytes] = field(default_factory=list)
    odd: list[tuple[bytes, str]] = field(default_factory=list)

    def tell(self) -> None:
        """Log what was left out, and which links lead out: a line for each kind."""
        if self.litter:
            logger.warning(
                "skipped %d hidden or system entries in %s (%s)",
                self.litter.total(),
                self.location,
                ", ".join(f"{count} {name}" for name, count in self.litter.most_common(_SHOWN))
                + (", ..." if len(self.litter) > _SHOWN else ""),
            )
        undecoded = Counter(
            {one: n for one, n in self.top.other.items() if one.encode() in UNDECODED_SUFFIXES}
        )
        for what, suffixes in (
            (
                "left out %d images in %s whose format is not decoded (%s): convert them to JPEG or PNG",
                undecoded,
            ),
            ("skipped %d files in %s that are not images by their suffix (%s)", self.top.other - undecoded),
        ):
            if suffixes:
                said = ", ".join(f"{suffix}: {count}" for suffix, count in sorted(suffixes.items()))
                logger.warning(what, suffixes.total(), self.location, said)
        if self.outside:
            logger.warning(
                "%d links in %s lead out of it and are followed, the first is '%s'",
                len(self.outside),
                self.location,
                printable(self.outside[0]),
            )
        if self.odd:
            first, problem = self.odd[0]
            logger.warning(
                "skipped %d entries in %s that are no files of it, the first is '%s': %s",
                len(self.odd),
                self.location,
                printable(first),
                problem,
            )


def scan_images(root: bytes) -> Scan:
    """Look through a folder and all below it.

    A file counts as an image by its suffix; what it really is shows when it is decoded. Links are followed,
    to folders and to files, also out of the folder. One that leads back to a folder around it is not, nor is
    one that stands in a linked folder and leads to a folder that was seen already: it would never end. A
    link to nothing that is called like an image is an image, which then cannot be read. Hidden files and
    folders, and those that systems leave behind, are left out.

    Parameters
    ----------
    root : bytes
        The folder.

    Returns
    -------
    Scan

    Raises
    ------
    DatasetError
        If a folder cannot be listed.
    """
    return _Scanner(root).run()


class _Scanner:
    def __init__(self, root: bytes) -> None:
        self._root = root
        self._real = os.path.realpath(root)
        self._scan = Scan(Folder(b"", key=_key(os.stat(root))), printable(self._real))
        # A link to a folder around the whole would begin it anew.
        above, self._above = self._real, set()
        while above != os.path.dirname(above):
            above = os.path.dirname(above)
            self._above.add(_key(os.stat(above)))
        self._seen: set[tuple[int, int]] = set()

    def run(self) -> Scan:
        todo, order = [self._scan.top], []
        while todo:
            folder = todo.pop()
            order.append(folder)
            if not folder.problem:
                self._list(folder)
                todo += reversed(folder.folders)
        for folder in reversed(order):  # what is inside comes before what it is in
            folder.n_images += len(folder.images)
            if folder.parent is not None:
                folder.parent.n_images += folder.n_images
                folder.parent.other += folder.other
            folder.parent = None  # no circle: what a scan has listed goes when nobody wants it any more
        return self._scan

    def _list(self, folder: Folder) -> None:
        """List one folder, in the order of its names' bytes."""
        self._seen.add(folder.key)
        try:
            with os.scandir(os.path.join(self._root, folder.path)) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            where = printable(folder.path) or "."
            raise DatasetError(
                f"cannot list '{where}' in {self._scan.location!r}: {error.strerror}; make it readable or "
                "move it away"
            ) from error
        for entry in entries:
            path = folder.path + b"/" + entry.name if folder.path else entry.name
            problem = self._sort_in(entry, path, folder)
            if problem:
                self._scan.odd.append((path, problem))

    def _sort_in(self, entry: os.DirEntry[bytes], path: bytes, folder: Folder) -> str | None:
        """Put one entry where it belongs, or say why it belongs nowhere."""
        name, suffix = entry.name, suffix_of(entry.name)
        hidden, is_image = name.startswith(b"."), suffix in IMAGE_SUFFIXES
        if is_image and not hidden and entry.is_file(follow_symlinks=False):  # without a look at the file
            folder.images.append(path)
            return None
        linked = entry.is_symlink()
        try:
            status = entry.stat()
        except OSError as error:  # a link to nothing or to itself, an entry that went away
            if hidden:
                return None
            if linked and is_image:
                folder.images.append(path)
                return None
            problem = f"a link that leads nowhere ({error.strerror})" if linked else str(error.strerror)
            if linked and not suffix:
                # It may have been a class.
                folder.folders.append(Folder(path, folder, problem=problem))
            return problem
        is_folder = stat.S_ISDIR(status.st_mode)
        if hidden or (is_folder and name.lower() in _LITTER_FOLDERS):
            # Only what could have been an image is worth a word, which .DS_Store is not.
            if is_folder or is_image:
                self._scan.litter[printable(name) if is_folder else "hidden images"] += 1
            return None
        if not (is_folder or stat.S_ISREG(status.st_mode)):
            return "a pipe, socket or device"
        if not (is_folder or is_image):
            if name.lower() not in _LITTER_FILES:
                folder.other[printable(suffix) or "no suffix"] += 1
            return None
        if is_folder:
            inside = Folder(path, folder, _key(status), linked or folder.linked)
            if inside.linked:
                if inside.key in self._above or any(one.key == inside.key for one in folder.around()):
                    return "it leads back to a folder that it is in"
                if linked and folder.linked and inside.key in self._seen:
                    return "a link in a linked folder, to a folder that was seen already"
            folder.folders.append(inside)
        else:
            folder.images.append(path)
        if linked and not os.path.realpath(entry.path).startswith(self._real.rstrip(b"/") + b"/"):
            self._scan.outside.append(path)
        return None


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def list_images(path: str | os.PathLike[str]) -> list[Path]:
    """Return a file itself, or the images of a folder and its sub-folders in name order.

    Parameters
    ----------
    path : str or path
        A file of any name, or a folder, which is looked through as that of a dataset is.

    Raises
    ------
    MissingDataError
        If nothing is there, or the folder holds no image.
    DatasetError
        If a folder cannot be listed.
    """
    path = user_path(path)
    if not path.is_dir():
        # A link to nothing is told as a file that cannot be read, here as in a folder.
        if not (path.exists() or path.is_symlink()):
            raise MissingDataError(f"no image at {printable(str(path))!r}; give a file or a folder of images")
        return [path]
    scan = scan_images(os.fsencode(path))
    scan.tell()
    if not scan.top.n_images:
        raise MissingDataError(f"no images in {printable(str(path))!r}; its files have no suffix of an image")
    return sorted(path / os.fsdecode(one) for one in scan.top.walk())
