"""Class folders inside a zip or tar archive, read where they are; only a compressed tar is unpacked."""

# Names must survive byte for byte, and pathlib has no bytes paths.
# ruff: noqa: PTH107, PTH118, PTH119

from __future__ import annotations

import bz2
import gzip
import logging
import os
import stat
import struct
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from featbank.datasets._files import (
    IMAGE_SUFFIXES,
    MAX_FILE_BYTES,
    Folder,
    Listing,
    open_regular_file,
    suffix_of,
)
from featbank.datasets._folder import ClassFolders
from featbank.datasets.sources import ARCHIVE_SUFFIXES
from featbank.errors import CacheWriteError, DatasetError, ImageDecodeError, MissingDataError, one_line
from featbank.manifest import printable

__all__ = ["ArchiveDataset", "Member", "read_exactly", "tar_members"]

logger = logging.getLogger(__name__)

#: An archive may unpack to so many times its size, or to what one image may have, whichever is more.
_MAX_RATIO = 100
_LONGEST_PATH = 4096
_COPY_BYTES = _MOST_HEADER_BYTES = 1 << 20
_COMPRESSED: dict[bytes, Callable[[str], Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open}
_SUFFIXES = (b".tar.gz", b".tar.bz2", *(one.encode() for one in ARCHIVE_SUFFIXES))
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    struct.error,
)
_ZIP_STORED, _ZIP_DEFLATED, _ZIP_ENCRYPTED = 0, 8, 1
_LOCAL_HEADER = struct.Struct("<4s22xHH")


class _Header(tarfile.TarInfo):
    """A header whose long names and facts of its own are bounded: tarfile reads them whole."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        long = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if self.type in (*long, *tarfile.GNU_TYPES[:2]) and not 0 <= self.size <= _MOST_HEADER_BYTES:
            raise tarfile.HeaderError(f"a header of {self.size} bytes")
        found: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return found


class Member(NamedTuple):
    """One entry of an archive; `offset` is where its bytes are, of a zip where its own header is."""

    path: bytes
    kind: str = "file"
    offset: int = 0
    #: Bytes in the archive, and those that they unpack to.
    stored: int = 0
    size: int = 0
    method: int = _ZIP_STORED
    crc: int = -1
    target: bytes = b""


class ArchiveDataset(ClassFolders):
    """Images in class folders inside a ``.zip``, ``.tar``, ``.tar.gz`` or ``.tar.bz2`` file.

    Folders stand for what they stand for in a folder of folders, ids are paths inside the archive, and the
    digests are those of the images: a bank of the unpacked folder is a bank of the archive. Of two entries of
    one name the last counts, as when the archive is unpacked; links lead to images of the archive or
    nowhere. Zip and tar are read where they are. Compressed tars cannot be: they are unpacked, once for each
    command, to a temporary file (in ``$TMPDIR``) that goes with the dataset.

    Parameters
    ----------
    file : str or os.PathLike
        The archive; what it is shows in its bytes.
    name : str, optional
        Name of the dataset; default: the file's, without suffix.
    layout, skip_empty_classes
        As of a folder, see `open_dataset`.

    Raises
    ------
    MissingDataError
        If the file cannot be read.
    DatasetError
        If it is no archive, is cut short or damaged, is encrypted or compressed in another way, has names
        that lead out of it, or unpacks to more than 100 times its size (and more than 1 GiB); or as a folder.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        *,
        name: str | None = None,
        layout: str | None = None,
        skip_empty_classes: bool = False,
    ) -> None:
        path = os.path.realpath(os.fsencode(file))
        location = printable(path)
        self._file, members = _opened(path, location, weakref.ref(self))
        found = _ArchiveListing(members, location)
        stem = os.path.basename(path)
        end = next((one for one in _SUFFIXES if stem.lower().endswith(one)), b"")
        super().__init__(
            found,
            name=os.fsdecode(stem[: len(stem) - len(end)]) if name is None else name,
            layout=layout,
            skip_empty_classes=skip_empty_classes,
        )
        kept = [found.images[one] for one in self.ids]
        # arrays, because decoding processes share these and each would have a copy of lists
        self._places = np.array([(one.offset, one.stored, one.size) for one in kept], np.int64).reshape(-1, 3)
        self._checks = np.array([(one.method, one.crc) for one in kept], np.int64).reshape(-1, 2)

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`; raises `OSError` or `ImageDecodeError`."""
        offset, stored, size = (int(one) for one in self._places[index])
        method, crc = (int(one) for one in self._checks[index])
        if max(size, stored) > MAX_FILE_BYTES:
            told = f"{max(size, stored)} bytes is over the limit of {MAX_FILE_BYTES}"
            raise ImageDecodeError("too-many-bytes", told)
        with open_regular_file(self._file) as file:
            if crc >= 0:  # the names in a zip's own headers may be longer than those in its directory
                mark, *lengths = _LOCAL_HEADER.unpack(read_exactly(file.fileno(), _LOCAL_HEADER.size, offset))
                if mark != b"PK\3\4":
                    raise OSError(f"the archive is damaged: no entry begins at byte {offset}")
                offset += _LOCAL_HEADER.size + sum(lengths)
            data = read_exactly(file.fileno(), stored, offset)
        if method == _ZIP_DEFLATED:
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = unpacker.decompress(data, size + 1)
            except zlib.error as error:
                raise OSError(f"it is damaged in the archive: {error}") from error
        if len(data) != size or (crc >= 0 and zlib.crc32(data) != crc):
            raise OSError("it is damaged in the archive: its checksum or size is another")
        return data


class _ArchiveListing(Listing):
    """What an archive holds, arranged as folders."""

    def __init__(self, members: Iterable[Member], location: str) -> None:
        super().__init__(location)
        self.images: dict[bytes, Member] = {}
        folders: dict[bytes, Folder | None] = {b"": self.top}  # None: left out, with all that is in it
        links: dict[bytes, Member] = {}
        twice: list[bytes] = []
        order = [self.top]

        def folder_of(path: bytes) -> Folder | None:
            todo = []
            while path not in folders:
                todo.append(path)
                path = path.rpartition(b"/")[0]
            inside = folders[path]
            for one in reversed(todo):
                if inside is not None and self.leaves_out(one.rpartition(b"/")[2], inside, is_folder=True):
                    inside = None
                if inside is not None:
                    made = Folder(one, inside)
                    inside.folders.append(made)
                    order.append(made)
                    inside = made
                folders[one] = inside
            return inside

        outside: list[bytes] = []
        for member in members:
            path = _plain_path(member.path)
            if path is None:
                outside.append(member.path)
            elif len(path) > _LONGEST_PATH or b"\0" in path:
                self._odd.append((path[:_LONGEST_PATH], "no file has such a name"))
            elif member.kind == "folder":
                folder_of(path)
            elif not path:
                continue
            elif member.kind == "file" or (member.target and suffix_of(path) in IMAGE_SUFFIXES):
                folder, base = folder_of(path.rpartition(b"/")[0]), path.rpartition(b"/")[2]
                if folder is None:
                    continue
                if path in self.images or path in links:
                    twice.append(path)
                    self.images.pop(path, None)
                    links.pop(path, None)
                elif self.leaves_out(base, folder, is_folder=False):
                    continue
                (self.images if member.kind == "file" else links)[path] = member
            else:
                self._odd.append((path, "a link" if member.kind == "link" else "a pipe, device or the like"))
        if outside:
            raise DatasetError(
                f"{location!r} has {len(outside)} entries whose names lead out of it, the first is "
                f"'{printable(outside[0][:_LONGEST_PATH])}': it was made to do harm or by mistake; pack the "
                "images again"
            )
        for path, link in links.items():
            end = self.images.get(_plain_path(link.target) or b"")
            if end is None:
                self._odd.append((path, "a link that leads to no image of the archive"))
            else:
                self.images[path] = end
        for path in self.images:
            folder = folders[path.rpartition(b"/")[0]]
            if folder is not None:
                folder.images.append(path)
        for one in order:
            one.images.sort()
            one.folders.sort(key=lambda inside: inside.path)
        self.count(order)
        if twice:
            logger.warning(
                "%d entries of %s have the name of an earlier one, and replace it; the first is '%s'",
                len(twice),
                location,
                printable(twice[0]),
            )


def _plain_path(path: bytes) -> bytes | None:
    """Return a path without ``.``, empty parts and what makes it absolute; None if it leads out."""
    parts = [one for one in path.split(b"/") if one not in (b"", b".")]
    return None if b".." in parts else b"/".join(parts)


def _opened(path: bytes, location: str, owner: weakref.ref[Any]) -> tuple[bytes, Iterable[Member]]:
    """Return the file to read images from, and what is in it."""
    try:
        with open_regular_file(path) as file:
            start = file.read(512) or b""
        if start[:2] in _COMPRESSED:
            path = _unpacked(path, location, owner)
        # a tar may end in a zip that it holds
        elif start[257:262] != b"ustar" and zipfile.is_zipfile(os.fsdecode(path)):
            return path, _zip_members(path, location)
        return path, tar_members(path, location)
    except OSError as error:
        raise MissingDataError(f"cannot read {location!r}: {error.strerror or error}") from error


def _damaged(location: str, found: int | None, error: BaseException) -> DatasetError:
    said = one_line(error)
    whole = "" if found is None else f" behind its entry {found}"
    return DatasetError(
        f"{location!r} is no archive, is cut short or damaged{whole} ({said}): nothing was taken from it; "
        "copy or download it again, or give a .zip, .tar, .tar.gz or .tar.bz2 of class folders"
    )


def _too_large(location: str) -> DatasetError:
    return DatasetError(
        f"{location!r} unpacks to more than {_MAX_RATIO} times its size; if that is right, unpack it and "
        "give the folder"
    )


def _zip_members(path: bytes, location: str) -> list[Member]:
    members, odd = [], []
    try:
        with zipfile.ZipFile(os.fsdecode(path)) as archive:
            for one in archive.infolist():
                # as they stand in the archive: Python takes bytes that are not said to be UTF-8 for cp437
                name = one.orig_filename.encode("utf-8" if one.flag_bits & 0x800 else "cp437", "replace")
                if b"/" not in name and one.create_system == 0:
                    name = name.replace(b"\\", b"/")
                mode = one.external_attr >> 16
                kind = "folder" if name.endswith(b"/") else "file"
                if kind == "file" and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                    kind = "link" if stat.S_ISLNK(mode) else "other"
                method, crc = one.compress_type, one.CRC
                readable = method in (_ZIP_STORED, _ZIP_DEFLATED) and not one.flag_bits & _ZIP_ENCRYPTED
                if kind == "file" and not readable and suffix_of(name) in IMAGE_SUFFIXES:
                    odd.append(name)
                members.append(
                    Member(name, kind, one.header_offset, one.compress_size, one.file_size, method, crc)
                )
    except _DAMAGE as error:
        raise _damaged(location, None, error) from error
    if odd:
        raise DatasetError(
            f"{len(odd)} images of {location!r} are encrypted, or compressed by another method than deflate, "
            f"the first is '{printable(odd[0])}'; unpack it and give the folder"
        )
    total = sum(one.size for one in members)
    if total > max(MAX_FILE_BYTES, _MAX_RATIO * os.stat(path).st_size):  # noqa: PTH116
        raise _too_large(location)
    return members


def tar_members(path: bytes, location: str) -> Iterator[Member]:
    """Yield what a tar that is not compressed holds.

    Parameters
    ----------
    path : bytes
        The file.
    location : str
        What it is called in messages.

    Raises
    ------
    DatasetError
        If it is no tar, is cut short or damaged.
    """
    n, last = 0, -1
    try:
        with (
            open(path, "rb") as file,  # noqa: PTH123
            tarfile.open(
                fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape", tarinfo=_Header
            ) as tar,
        ):
            while (one := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep a thousand bytes of each
                if one.offset <= last or one.size < 0:
                    raise tarfile.ReadError("an entry that leads back")
                n, last = n + 1, one.offset
                name = os.fsencode(one.name)
                kind = "file" if one.isreg() and not one.issparse() else "folder" if one.isdir() else "other"
                target = b""
                if one.islnk() or one.issym():
                    kind, target = "link", os.fsencode(one.linkname)
                    if one.issym():
                        target = os.path.normpath(os.path.join(name.rpartition(b"/")[0], target))
                yield Member(name, kind, one.offset_data, one.size, one.size, target=target)
            # tarfile takes whatever is no header for the end
            file.seek(tar.offset)
            block = file.read(tarfile.BLOCKSIZE)
            if block.strip(b"\0") or 0 < len(block) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("what follows is no entry, nor the end")
            if last >= 0 and not block:
                logger.warning(
                    "%s ends without the mark of its end, behind entry %d: it may be cut short", location, n
                )
    except _DAMAGE as error:
        raise _damaged(location, n, error) from error


def _unpacked(path: bytes, location: str, owner: weakref.ref[Any]) -> bytes:
    """Unpack a compressed tar to a temporary file, which goes when its owner does."""
    limit = max(MAX_FILE_BYTES, _MAX_RATIO * os.stat(path).st_size)  # noqa: PTH116
    with open(path, "rb") as file:  # noqa: PTH123
        opener = _COMPRESSED[file.read(2)]
    descriptor, temporary = tempfile.mkstemp(prefix="featbank-", suffix=".tar")
    dataset = owner()
    if dataset is not None:
        weakref.finalize(dataset, _remove, os.getpid(), temporary)
    size = 0
    with open(descriptor, "wb") as file, opener(os.fsdecode(path)) as source:  # noqa: PTH123
        while True:
            try:
                part = source.read(_COPY_BYTES)
            except (*_DAMAGE, OSError) as error:  # a wrong checksum is an OSError here
                raise _damaged(location, None, error) from error
            if not part:
                break
            size += len(part)
            if size > limit:
                raise _too_large(location)
            try:
                file.write(part)
            except OSError as error:
                raise CacheWriteError(
                    f"cannot unpack {location!r} to {temporary!r} ({error.strerror}): point TMPDIR to a "
                    "place with more room, or unpack it and give the folder"
                ) from error
    logger.info(
        "%s is unpacked to a temporary file of %d bytes, each time anew: unpack it for good to spare that",
        location,
        size,
    )
    return os.fsencode(temporary)


def _remove(process: int, path: str) -> None:
    if os.getpid() == process:  # not in a fork
        with suppress(OSError):
            os.remove(path)


def read_exactly(descriptor: int, n_bytes: int, offset: int) -> bytes:
    """Return so many bytes from a place in a file; raises `OSError` where it ends before."""
    parts, got = [], 0
    while got < n_bytes and (part := os.pread(descriptor, n_bytes - got, offset + got)):
        parts.append(part)
        got += len(part)
    if got < n_bytes:
        raise OSError(f"the archive ends inside it: {got} of {n_bytes} bytes are there")
    return b"".join(parts)
