"""What a run came from: its manifest, its bank and the images, where they still are."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featbank.banks import Bank, BankInfo
from featbank.datasets import Dataset
from featbank.errors import FeatbankError, ImageDecodeError, MissingDataError
from featbank.inspection import RunImages
from featbank.manifest import Manifest, printable
from featbank.runs import Run

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Picture", "RunSource"]

#: Images up to this side are enlarged by whole pixels instead of being compressed.
_TINY = 64


@dataclass(frozen=True)
class Picture:
    """An image for the page: a ``data:`` URI, its size, and whether its pixels are to be seen."""

    uri: str
    width: int
    height: int
    tiny: bool


class RunSource:
    """The bank and the images a run came from; what is missing is said, never an error.

    Parameters
    ----------
    run : Run
    data : str, path or Dataset, optional
        Where the images are now, if not where they were.
    data_root : path, optional
        Folder of a torchvision dataset.

    Raises
    ------
    MissingDataError
        If there are no images at `data`, or no dataset in `data_root`.
    InvalidInputError
        If `data_root` is given for what is no torchvision dataset.

    Attributes
    ----------
    bank : Bank or None
    manifest : Manifest or None
    missing : list of str
        Sentences that say what could not be had.
    """

    def __init__(
        self,
        run: Run,
        data: str | os.PathLike[str] | Dataset | None = None,
        data_root: str | os.PathLike[str] | None = None,
    ) -> None:
        self.missing: list[str] = []
        self._unreadable: dict[int, str] = {}
        self.bank = self._open_bank(run)
        self.manifest: Manifest | None = None
        self._images: RunImages | None = None
        try:
            self.manifest = run.manifest
        except (FeatbankError, OSError) as error:
            self.missing.append(f"No image is shown: {_words(error)}.")
            return
        came = {} if self.bank is None else self.bank.provenance
        try:
            self._images = RunImages(self.manifest, came, data, data_root=data_root)
        except MissingDataError as error:
            if data is not None or data_root is not None:
                raise
            self.missing.append(f"No image is shown: {_words(error)}.")

    def _open_bank(self, run: Run) -> Bank | None:
        try:
            return run.open_bank(check="size")
        except (FeatbankError, OSError) as error:
            why = _words(error)
        self.missing.append(
            f"{why[:1].upper()}{why[1:]}. Without its bank this page does not know what the extraction cost."
        )
        return None

    def info(self) -> BankInfo | None:
        """Return sizes and times of the bank's cuts; None, and it is said, if they cannot be read."""
        if self.bank is None:
            return None
        try:
            return self.bank.info()
        except (FeatbankError, OSError) as error:
            self.missing.append(f"What the extraction cost cannot be read: {_words(error)}.")
            return None

    def picture(self, row: int, longest: int) -> Picture | None:
        """Return the image of a row, its longer side at most `longest` pixels; None if it is not there."""
        if self._images is None:
            return None
        try:
            image = self._images.read(row)
        except (MissingDataError, ImageDecodeError) as error:
            self._unreadable.setdefault(row, _words(error))
            return None
        return _embedded(image, longest)

    def remarks(self) -> list[str]:
        """Return what could not be had, images that are gone or have changed since among it."""
        found = list(self.missing)
        if self._unreadable:
            first = self._unreadable[min(self._unreadable)]
            n = len(self._unreadable)
            images = "1 image is not shown: " if n == 1 else f"{n} images are not shown; the first: "
            found.append(f"{images}{first}.")
        return found


def _words(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(" ".join(said.split())).rstrip(".")


def _embedded(image: Image, longest: int) -> Picture:
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    tiny = max(image.size) <= _TINY
    if tiny:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.thumbnail((longest, longest), Pillow.Resampling.LANCZOS, reducing_gap=3.0)
        image.save(buffer, "JPEG", quality=80, optimize=True)
    kind = "png" if tiny else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(uri, *image.size, tiny)
