"""Tiny-ImageNet as Stanford packs it: training images in class folders, the others flat beside a list."""

from __future__ import annotations

import os
from pathlib import Path

from featbank._cache import user_path
from featbank.datasets._folder import FolderDataset
from featbank.datasets.sources import Dataset
from featbank.datasets.subset import PartDataset
from featbank.errors import DatasetError
from featbank.manifest import printable

__all__ = ["is_tiny_imagenet", "open_tiny_imagenet"]

_LIST = Path("val") / "val_annotations.txt"


def is_tiny_imagenet(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder is laid out as ``tiny-imagenet-200.zip`` is."""
    return (user_path(folder) / _LIST).is_file()


def open_tiny_imagenet(folder: str | os.PathLike[str]) -> Dataset:
    """Open Tiny-ImageNet as its archive has it.

    Parameters
    ----------
    folder : str or path
        Holds ``train/CLASS/images/*.JPEG``, ``val/images/*.JPEG`` and ``val/val_annotations.txt``. Images of
        ``test``, whose labels are not published, are left out.

    Returns
    -------
    Dataset
        Splits ``train`` and ``val``; classes are WordNet numbers.

    Raises
    ------
    DatasetError
        If an image of ``val`` is not in the list, or has a class no training image has.
    """
    # Its val/images is no class; said outright, it stays until the list has given its labels.
    folder = user_path(folder)
    found = FolderDataset(folder, layout="split/class")
    labels = _listed(folder / _LIST)
    splits = found.splits or ("train",) * len(found.ids)
    classes = {one for one, split in zip(found.labels, splits, strict=True) if split == "train"}
    rows: list[tuple[Dataset, int, bytes, str | None, str | None]] = []
    for index, (one, split) in enumerate(zip(found.ids, splits, strict=True)):
        if split == "test":
            continue
        label = found.labels[index]
        if split == "val":
            label = labels.get(one.rpartition(b"/")[2])
            if label not in classes:
                said = (
                    "is not in"
                    if label is None
                    else f"has the class {printable(label)!r}, unknown to train, in"
                )
                raise DatasetError(f"image '{printable(one)}' of {found.location!r} {said} '{_LIST}'")
        rows.append((found, index, one, label, split))
    order = tuple(one for one in found.classes if one in classes)
    return PartDataset(found.name, found.location, rows, order)


def _listed(file: Path) -> dict[bytes, str]:
    """Read name and class of each line; the box that follows them is not wanted."""
    found = {}
    for line in file.read_bytes().splitlines():
        cells = line.split(b"\t")
        if len(cells) >= 2:
            found[cells[0]] = os.fsdecode(cells[1].strip())
    return found
