"""A list of paths or web addresses, one a line; what comes from the web is kept as a local copy."""

# Names must survive byte for byte, and pathlib has no bytes paths.
# ruff: noqa: PTH100, PTH110, PTH111, PTH113, PTH118, PTH119, PTH120, PTH122

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import Request, urlopen

from featbank._atomic import make_folder, write_file
from featbank._cache import user_path
from featbank.datasets._files import MAX_FILE_BYTES, read_regular_file, suffix_of
from featbank.datasets.sources import require_two_classes, safe_name
from featbank.errors import DatasetError, MissingDataError, one_line
from featbank.manifest import printable

__all__ = ["ListDataset"]

logger = logging.getLogger(__name__)

_SHOWN = 3
_TIMEOUT_S = 30.0
_THREADS = 8
_PART_BYTES = 1 << 20


class ListDataset:
    """Images that a text file lists: on each line a path or an address, and after a tab the label.

    Without a label the folder that the image lies in is its class, as in ``pets/cat/1.jpg``. Paths are
    relative to the folder of the list, absolute, or begin with ``~``. Of addresses (``http:``, ``https:``) a
    copy is kept below `data_root`, once it was fetched; an image that cannot be fetched is one that cannot
    be read, until a later call fetches it.

    Parameters
    ----------
    file : str or os.PathLike
        The list, UTF-8; bytes that are not stay as they are.
    name : str, optional
        Name of the dataset; default: the file's, without suffix.
    data_root : str or os.PathLike, default="data"
        Where copies are kept, in a folder of the dataset's name.
    download : bool, default=False
        Fetch what has no copy yet.

    Raises
    ------
    MissingDataError
        If the list cannot be read, files of it are not there, or no copy of any address is there or can be
        had.
    DatasetError
        If it is empty, lists an image twice, or says no label.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        *,
        name: str | None = None,
        data_root: str | os.PathLike[str] = "data",
        download: bool = False,
    ) -> None:
        path = os.path.abspath(os.fsencode(file))
        self.location = printable(path)
        stem = os.fsdecode(os.path.splitext(os.path.basename(path))[0])
        self.name = safe_name(stem if name is None else name)
        self._folder = os.path.dirname(path)
        self._copies = os.path.join(os.path.abspath(os.fsencode(user_path(data_root))), self.name.encode())
        try:
            lines = read_regular_file(path).splitlines()
        except OSError as error:
            raise MissingDataError(f"cannot read {self.location!r}: {error.strerror or error}") from error
        rows = [self._row(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        if not rows:
            raise DatasetError(
                f"{self.location!r} lists no images; write a path or an address on each line, and its "
                "label after a tab"
            )
        self._check(rows)
        rows.sort()
        self.ids: tuple[bytes, ...] = tuple(row[0] for row in rows)
        self.labels: tuple[str | None, ...] = tuple(row[1] for row in rows)
        self.classes: tuple[str, ...] = tuple(sorted({row[1] for row in rows}, key=os.fsencode))
        self.splits: tuple[str, ...] | None = None
        require_two_classes(self.labels, repr(self.location))
        self._fetch(download)

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`; raises `OSError` or `ImageDecodeError`."""
        return read_regular_file(self.path_of(index))

    def path_of(self, index: int) -> bytes:
        """Return the path of image `index` or of its copy, for whoever reads it elsewhere."""
        return self._path(self.ids[index])

    def _path(self, image: bytes) -> bytes:
        if not _is_address(image):
            return os.path.join(self._folder, os.path.expanduser(image))
        suffix = suffix_of(unquote_to_bytes(urlsplit(image).path))
        digest = hashlib.sha256(image).hexdigest()[:32].encode()
        return os.path.join(self._copies, digest + (suffix if suffix[1:].isalnum() else b""))

    def _row(self, number: int, line: bytes) -> tuple[bytes, str]:
        image, _, label = line.lstrip(b"\xef\xbb\xbf" if number == 1 else b"").partition(b"\t")
        image, label = image.strip(), label.strip()
        if not label:
            path = unquote_to_bytes(urlsplit(image).path) if _is_address(image) else image
            label = os.path.basename(os.path.dirname(path))
        if not image or not label or label in (b".", b".."):
            raise DatasetError(
                f"line {number} of {self.location!r} has no {'label' if image else 'image'}: write PATH, a "
                "tab and the label, or a path with the class as its folder"
            )
        return image, os.fsdecode(label)

    def _check(self, rows: Sequence[tuple[bytes, str]]) -> None:
        images = [row[0] for row in rows]
        counts = Counter(one if _is_address(one) else os.path.normpath(self._path(one)) for one in images)
        twice = [one for one, count in counts.items() if count > 1]
        if twice:
            raise DatasetError(
                f"{self.location!r} lists {len(twice)} images more than once, the first is "
                f"'{printable(twice[0])}'"
            )
        local = [one for one in images if not _is_address(one)]
        gone = [one for one in local if b"\0" in one or not os.path.isfile(self._path(one))]
        if gone:
            first = ", ".join(f"'{printable(one)}'" for one in gone[:_SHOWN])
            raise MissingDataError(
                f"{len(gone)} of the {len(local)} files that {self.location!r} lists are not there: {first}"
                f"{', ...' if len(gone) > _SHOWN else ''}; paths are relative to the folder of the list"
            )

    def _fetch(self, download: bool) -> None:
        addresses = [one for one in self.ids if _is_address(one)]
        missing = [one for one in addresses if not os.path.exists(self._path(one))]
        if not missing:
            return
        where = printable(self._copies)
        if not download:
            if len(missing) == len(addresses):
                raise MissingDataError(
                    f"the {len(missing)} images that {self.location!r} lists by address have no copy in "
                    f"{where!r}; fetch them with --download (download=True), or say where "
                    "they are with --data-root (data_root=...)"
                )
            logger.warning(
                "%d of %d images that %s lists by address have no copy in %s and cannot be read; --download "
                "fetches them",
                len(missing), len(addresses), self.location, where,
            )  # fmt: skip
            return
        make_folder(Path(os.fsdecode(self._copies)))
        with ThreadPoolExecutor(_THREADS) as threads:
            failed = [one for one in threads.map(self._fetch_one, missing) if one is not None]
        logger.info("fetched %d images to %s", len(missing) - len(failed), where)
        if not failed:
            return
        told = f"{len(failed)} of {len(missing)} images could not be fetched, the first is {failed[0]}"
        if len(failed) == len(addresses):
            raise MissingDataError(f"{told}; the others are not there either; mend {self.location!r}")
        logger.warning("%s; repeat the command to try again", told)

    def _fetch_one(self, address: bytes) -> str | None:
        """Fetch one image to its place; return why not."""
        try:
            with urlopen(
                Request(address.decode(), headers={"User-Agent": "featbank"}), timeout=_TIMEOUT_S
            ) as answer:
                length = answer.headers.get("Content-Length")
                parts, size = [], 0
                while part := answer.read(_PART_BYTES):
                    parts.append(part)
                    size += len(part)
                    if size > MAX_FILE_BYTES:
                        raise ValueError(f"it has more than the limit of {MAX_FILE_BYTES} bytes")
            if length is not None and length.isdecimal() and size < int(length):
                raise ValueError(f"it was cut short: {size} of {length} bytes came")
        except (URLError, HTTPException, OSError, ValueError) as error:
            return f"'{printable(address)}' ({one_line(error)})"
        write_file(Path(os.fsdecode(self._path(address))), parts)
        return None


def _is_address(image: bytes) -> bool:
    return image[:8].lower().startswith((b"http://", b"https://"))
