"""The images behind the rows of a bank, read again from where they came from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from featbank.banks import Bank
from featbank.datasets import Dataset, decode_image, open_dataset, row_indices
from featbank.errors import FeatbankError, MissingDataError
from featbank.manifest import printable

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["BankImages"]


class BankImages:
    """Reads the image of any row of a bank again.

    Parameters
    ----------
    bank : Bank
        Whose rows.
    data : str, path or Dataset, optional
        Where the images are now, as for `featbank.extract`; by default where the bank says they came from.
    data_root : path, optional
        Folder of a torchvision dataset.

    Raises
    ------
    MissingDataError
        If the dataset is not where the bank says (`data` tells another place), or none of its images has an
        id of the bank.

    Examples
    --------
    >>> images = BankImages(bank)  # doctest: +SKIP
    >>> images.read(0).size  # doctest: +SKIP
    (320, 240)
    """

    def __init__(
        self,
        bank: Bank,
        data: str | os.PathLike[str] | Dataset | None = None,
        *,
        data_root: str | os.PathLike[str] | None = None,
    ) -> None:
        self.bank = bank
        said = bank.provenance.get("location")
        source = said if data is None else data
        if source is None:
            raise MissingDataError(
                f"bank {bank.name!r} does not say where its images came from; say it with --data"
            )
        try:
            dataset = open_dataset(source, data_root=data_root)
        except FeatbankError as error:
            if data is not None:
                raise
            raise MissingDataError(
                f"the images of bank {bank.name!r} are no longer where they came from, "
                f"{printable(str(said))!r}; say where they are with --data"
            ) from error
        self._dataset = dataset
        self._indices = row_indices(dataset, bank.manifest)
        if len(self._indices) and not (self._indices >= 0).any():
            raise MissingDataError(
                f"{printable(dataset.location)!r} has none of the {len(self._indices)} images of bank "
                f"{bank.name!r}; say where they are with --data"
            )

    def read(self, row: int) -> Image.Image:
        """Read one image.

        Parameters
        ----------
        row : int
            Row of the bank's manifest.

        Returns
        -------
        PIL.Image.Image
            Upright, mode ``"RGB"``.

        Raises
        ------
        MissingDataError
            If the file is gone, or its bytes are no longer those that were extracted.
        ImageDecodeError
            If it cannot be decoded.
        """
        manifest = self.bank.manifest
        name = printable(manifest.ids[row])
        index = int(self._indices[row])
        where = printable(self._dataset.location)
        if index < 0:
            raise MissingDataError(f"image {name!r} is gone from {where!r}; say where it is with --data")
        try:
            data = self._dataset.read(index)
        except OSError as error:
            raise MissingDataError(
                f"image {name!r} of {where!r} cannot be read ({error.strerror or error}); "
                "say where the images are with --data"
            ) from error
        if hashlib.sha256(data).digest() != manifest.digests[row].tobytes():
            raise MissingDataError(
                f"image {name!r} of {where!r} is another than the one that was extracted; "
                "extract again, or say where the old images are with --data"
            )
        return decode_image(data)

    def row_of(self, image: str | os.PathLike[str]) -> int | None:
        """Return the row whose id is `image` (or the end of a path to it), None if there is none.

        Parameters
        ----------
        image : str or path
            An id such as ``"cat/01.jpg"``, or a path that ends in one.
        """
        wanted = os.fsencode(Path(image).as_posix())
        for row, known in enumerate(self.bank.manifest.ids):
            if wanted == known or wanted.endswith(b"/" + known):
                return row
        return None
