"""Crops of images: a CSV with the box of each, ``path,x,y,w,h,label``."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from featbank.datasets._csv import ListedImages
from featbank.datasets._files import read_regular_file
from featbank.datasets.sources import image_bytes
from featbank.errors import ImageDecodeError
from featbank.manifest import printable

__all__ = ["CropsDataset"]

logger = logging.getLogger(__name__)

_BOX = ("x", "y", "w", "h")
_MOST = 1 << 31


class CropsDataset(ListedImages):
    """Boxes of images, each a row: what is inside is cut out and is the image.

    Parameters
    ----------
    file : str or os.PathLike
        A CSV as that of images, with the columns ``x``, ``y`` (of the upper left corner), ``w`` and ``h``
        besides: pixels of the image as a person sees it, upright; fractions are rounded.
    name, path_column, label_column, split_column, group_column
        As of a CSV of images, see `open_dataset`.

    Notes
    -----
    A row is known as ``PATH#X,Y,W,H``, and its digest is that of the pixels in the box, as a PPM file. A box
    that is not inside its image costs its row (``crop-outside`` in ``quarantine.jsonl``).

    Raises
    ------
    MissingDataError, DatasetError
        As a CSV of images; also for a box that is none.
    """

    _more = _BOX
    #: A crop is decoded when it is read, so that is left to the decoding processes.
    decodes = True
    _kept: tuple[str, Any] | None = None

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
        super().__init__(
            file,
            name=name,
            path_column=path_column,
            label_column=label_column,
            split_column=split_column,
            group_column=group_column,
        )
        self.location = f"crops:{self.location}"
        files = [one.rpartition(b"#")[0] for one in self.ids]
        if self.groups is not None and len(set(zip(files, self.groups, strict=True))) == len(set(files)):
            return  # no split may tear such a group apart
        sides: dict[bytes, set[bool]] = {}
        several: Counter[bytes] = Counter(files)
        for one, split in zip(files, self.splits or ("none",) * len(files), strict=True):
            if split != "none":
                sides.setdefault(one, set()).add(split == "train")
        torn = sum(len(one) > 1 for one in sides.values())
        shared = sum(count > 1 for count in several.values())
        if torn if self.splits is not None else shared:
            logger.warning(
                "%s: boxes of one image stand on both sides of the split (%d images)%s: accuracies will be "
                "flattered; --group-by '^[^#]*', or a column 'split', keeps those of an image together",
                self.location,
                torn or shared,
                "" if self.splits is not None else ", if featbank makes it",
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def _part_of(self, line: int, cells: Sequence[str]) -> tuple[bytes, str | None]:
        box = []
        for text in cells:
            number = math.nan
            with contextlib.suppress(ValueError):
                number = float(text)
            if not abs(number) < _MOST:
                return b"", f"line {line} has the box {', '.join(cells)!r}, not four numbers x, y, w, h"
            box.append(round(number))
        if min(box[:2]) < 0 or min(box[2:]) < 1:
            return b"", (
                f"line {line} has the box {', '.join(cells)!r}, which begins outside of the image or is empty"
            )
        return b"#%d,%d,%d,%d" % tuple(box), None

    def read(self, index: int) -> bytes:
        """Return the crop `index` as a PPM file; raises `OSError` or `ImageDecodeError`."""
        from featbank.datasets.decoding import decode_image

        path, _, box = os.fsdecode(self.ids[index]).rpartition("#")
        x, y, w, h = (int(one) for one in box.split(","))
        kept = self._kept
        if kept is None or kept[0] != path:  # boxes of one image follow each other
            image = decode_image(read_regular_file(self._full(os.fsencode(path))))
            kept = self._kept = (path, image)
        image = kept[1]
        if x + w > image.width or y + h > image.height:
            raise ImageDecodeError(
                "crop-outside",
                f"{x},{y},{w},{h} is not inside {printable(path)!r}, {image.width} x {image.height} pixels",
            )
        return image_bytes(image.crop((x, y, x + w, y + h)))
