"""The images behind the rows of a run, read again from where they came from."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank.datasets import Dataset, decode_image
from featbank.datasets.building import row_digests
from featbank.datasets.sources import reopen_dataset
from featbank.errors import FeatbankError, MissingDataError
from featbank.manifest import Manifest, printable

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

__all__ = ["RunImages"]

#: Thumbnails are no larger, in pixels.
_THUMBNAIL = 160


class RunImages:
    """Reads the image of any row of a run again: the image with those bytes, whatever it is called now.

    Parameters
    ----------
    manifest : Manifest
        ``Run.manifest``: the rows as they were when the heads were fitted and scored.
    provenance : mapping
        ``Run.provenance()``: where the images were, and how they were read.
    data : str, path or Dataset, optional
        Where the images are now, as for `featbank.extract`.
    data_root : path, optional
        Folder of a torchvision dataset.

    Raises
    ------
    MissingDataError
        If there is no dataset where the bank says, or the bank is gone; `data` tells another place.
    InvalidInputError
        If `data_root` is given for what is no torchvision dataset.

    Examples
    --------
    >>> import featbank
    >>> run = featbank.open_run()
    >>> images = RunImages(run.manifest, run.provenance())
    >>> images.read(0).size
    (8, 8)
    """

    def __init__(
        self,
        manifest: Manifest,
        provenance: Mapping[str, Any],
        data: str | os.PathLike[str] | Dataset | None = None,
        *,
        data_root: str | os.PathLike[str] | None = None,
    ) -> None:
        self.manifest = manifest
        try:
            self._dataset = reopen_dataset(provenance, data, data_root=data_root)
        except FeatbankError as error:
            said = provenance.get("location")
            if data is not None or data_root is not None or said is None:
                raise
            raise MissingDataError(
                f"the run's images are no longer where they came from, {printable(str(said))!r}; say where "
                "they are with --data"
            ) from error
        self._index_of = {one: index for index, one in enumerate(self._dataset.ids)}
        self._by_digest: dict[bytes, int] = {}
        # A renamed image has a name that the manifest does not know, so these are looked through first.
        listed = set(manifest.ids)
        groups: tuple[list[int], list[int]] = ([], [])
        for index, one in enumerate(self._dataset.ids):
            groups[one in listed].append(index)
        self._unhashed = [part for part in groups if part]

    def read(self, row: int) -> Image.Image:
        """Read one image.

        Parameters
        ----------
        row : int
            Row of the manifest.

        Returns
        -------
        PIL.Image.Image
            Upright, mode ``"RGB"``.

        Raises
        ------
        MissingDataError
            If no image of the dataset has the bytes of the row's image any more.
        ImageDecodeError
            If it cannot be decoded.
        """
        digest = self.manifest.digests[row].tobytes()
        problem = "is gone from"
        index = self._index_of.get(self.manifest.ids[row])
        if index is not None:
            try:
                return decode_image(self._checked(index, digest))
            except MissingDataError as error:
                problem = str(error)
        index = self._renamed(digest)
        if index is not None:
            with contextlib.suppress(MissingDataError):  # it has changed since it was hashed
                return decode_image(self._checked(index, digest))
        name, where = printable(self.manifest.ids[row]), printable(self._dataset.location)
        raise MissingDataError(
            f"image {name!r} {problem} {where!r}, and no other image there has its bytes; "
            "say where it is with --data"
        )

    def thumbnails(self, rows: Sequence[int]) -> list[NDArray[np.uint8] | None]:
        """Read several images for one picture, no larger than 160 pixels.

        Parameters
        ----------
        rows : sequence of int
            Rows of the manifest.

        Returns
        -------
        list of (ndarray of uint8 of shape (h, w, 3), or None)
            None for an image that is no longer there, which the log says.

        Raises
        ------
        MissingDataError
            If not one of them is there.
        """
        found: list[NDArray[np.uint8] | None] = []
        missing: list[MissingDataError] = []
        for row in rows:
            try:
                image = self.read(row)
            except MissingDataError as error:
                found.append(None)
                missing.append(error)
                continue
            image.thumbnail((_THUMBNAIL, _THUMBNAIL))
            found.append(np.asarray(image))
        if missing and len(missing) == len(found):
            raise missing[0]
        if missing:
            logger.warning(
                "%d of %d images are not shown; the first: %s", len(missing), len(found), missing[0]
            )
        return found

    def _checked(self, index: int, digest: bytes) -> bytes:
        """Return the bytes of an image of the dataset if they have a digest; the error says what they are."""
        try:
            data = self._dataset.read(index)
        except OSError as error:
            raise MissingDataError(f"cannot be read ({error.strerror or error}) in") from error
        if hashlib.sha256(data).digest() != digest:
            raise MissingDataError("is another one now in")
        return data

    def _renamed(self, digest: bytes) -> int | None:
        """Find an image by its digest; hashes the dataset the first time that one is missed."""
        while digest not in self._by_digest and self._unhashed:
            part = self._unhashed.pop(0)
            logger.info("reading %d images of %s to find one by its digest", len(part), self._dataset.name)
            digests, unreadable = row_digests(self._dataset, part)
            for place, index in enumerate(part):
                if place not in unreadable:
                    self._by_digest.setdefault(digests[place].tobytes(), index)
        return self._by_digest.get(digest)

    def row_of(self, image: str | os.PathLike[str]) -> int | None:
        """Return the row whose id is `image` (or the end of a path to it), None if there is none.

        Parameters
        ----------
        image : str or path
            An id such as ``"cat/01.jpg"``, or a path that ends in one.
        """
        wanted = os.fsencode(Path(image).as_posix())
        for row, known in enumerate(self.manifest.ids):
            if wanted == known or wanted.endswith(b"/" + known):
                return row
        return None
