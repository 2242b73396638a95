"""Datasets made of others: a part of one, two as one, one blurred, Tiny-ImageNet with its list of labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featbank._cache import user_path
from featbank._registry import nearest
from featbank.datasets._folder import FolderDataset
from featbank.datasets.sources import Dataset, pnm_bytes, require_two_classes, safe_name
from featbank.errors import DatasetError, InvalidInputError, UnknownNameError
from featbank.manifest import SPLITS, printable

__all__ = [
    "BlurredDataset",
    "PartDataset",
    "is_tiny_imagenet",
    "open_tiny_imagenet",
    "select_images",
    "with_test_images",
]

_LIST = Path("val") / "val_annotations.txt"


class PartDataset:
    """Chosen images of one or two other datasets; what `select_images` and `with_test_images` return.

    Parameters
    ----------
    name, location : str
        As in `Dataset`.
    rows : sequence of (Dataset, int, bytes, str or None, str or None)
        Of each image: where it is, its index there, its id here, its label, its split.
    classes : tuple of str
        Class names in their order.
    """

    def __init__(
        self,
        name: str,
        location: str,
        rows: Sequence[tuple[Dataset, int, bytes, str | None, str | None]],
        classes: tuple[str, ...],
    ) -> None:
        self.name, self.location, self.classes = safe_name(name), location, classes
        self._where = [(dataset, index) for dataset, index, _, _, _ in rows]
        sources = {id(one): one for one, _ in self._where}.values()
        self.decodes = any(getattr(one, "decodes", False) for one in sources)
        if all(hasattr(one, "path_of") for one in sources):
            self.path_of = self._path_of
        self.ids: tuple[bytes, ...] = tuple(row[2] for row in rows)
        self.labels: tuple[str | None, ...] = tuple(row[3] for row in rows)
        splits = tuple(row[4] for row in rows)
        self.splits: tuple[str, ...] | None = (
            None if None in splits else tuple(one for one in splits if one is not None)
        )
        named = [getattr(dataset, "groups", None) for dataset, _ in self._where]
        own = tuple(of[at] for of, (_, at) in zip(named, self._where, strict=True) if of is not None)
        self.groups: tuple[str, ...] | None = own if len(own) == len(rows) else None
        require_two_classes(self.labels, repr(location))

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`; raises `OSError` or `ImageDecodeError`."""
        dataset, at = self._where[index]
        return dataset.read(at)

    def _path_of(self, index: int) -> bytes:
        """Return the path of image `index`, for whoever reads it elsewhere; there if all images have one."""
        dataset, at = self._where[index]
        path: bytes = dataset.path_of(at)  # type: ignore[attr-defined]
        return path


def select_images(
    dataset: Dataset,
    *,
    classes: int | Sequence[str] | None = None,
    without: Sequence[str] = (),
    images_per_class: int | None = None,
    splits: Mapping[str, str] | None = None,
    name: str | None = None,
) -> Dataset:
    """Take some classes of a dataset, and some images of each.

    Parameters
    ----------
    dataset : Dataset
    classes : int or sequence of str, optional
        The first so many, in the dataset's order, or those named; all by default.
    without : sequence of str, default=()
        Classes to leave out, before any are counted; a dataset that has not got one is left as it is, because
        some publish it without its clutter.
    images_per_class : int, optional
        The first so many images of each class (and split, where the source has splits), in the dataset's
        order.
    splits : mapping of str to str, optional
        Other names for the splits the source has, e.g. ``{"test": "val"}``.
    name : str, optional
        Name of what is returned; the dataset's own by default.

    Returns
    -------
    Dataset
        In the order of `dataset`; images without a label are left out where classes or images are chosen.

    Raises
    ------
    UnknownNameError
        If a class of `classes` is not there.
    InvalidInputError
        If a number is out of range, or a split is none of train, val, test, none.
    DatasetError
        If fewer than two classes are left, or the source has no splits to rename.

    Examples
    --------
    >>> from featbank.datasets import open_dataset
    >>> part = select_images(open_dataset("digits"), without=["0"], classes=3, images_per_class=5)
    >>> part.classes, len(part.ids)
    (('1', '2', '3'), 15)
    """
    if images_per_class is not None and images_per_class < 1:
        raise InvalidInputError(f"images_per_class={images_per_class!r} must be at least 1")
    chosen = _classes(dataset, classes, set(without))
    renamed = _splits(dataset, splits or {})
    picking = bool(without) or classes is not None or images_per_class is not None
    counts: Counter[tuple[str | None, str | None]] = Counter()
    rows = []
    for index, (one, label) in enumerate(zip(dataset.ids, dataset.labels, strict=True)):
        if picking and label not in chosen:
            continue
        split = None if renamed is None else renamed[index]
        counts[split, label] += 1
        if images_per_class is None or counts[split, label] <= images_per_class:
            rows.append((dataset, index, one, label, split))
    present = {row[3] for row in rows}
    return PartDataset(
        dataset.name if name is None else name,
        dataset.location,
        rows,
        tuple(one for one in dataset.classes if one in present),
    )


def _classes(dataset: Dataset, asked: int | Sequence[str] | None, without: set[str]) -> set[str]:
    present = set(dataset.labels)
    there = [one for one in dataset.classes if one in present and one not in without]
    if asked is None:
        return set(there)
    if isinstance(asked, int):
        if asked < 2:
            raise InvalidInputError(f"classes={asked!r} must be at least 2, or a list of names")
        return set(there[:asked])
    for one in asked:
        if one not in there:
            raise UnknownNameError(
                f"{dataset.name!r} has no class {printable(one)!r}; it has {nearest(one, there)}"
            )
    return set(asked)


def _splits(dataset: Dataset, names: Mapping[str, str]) -> list[str] | None:
    strange = [one for pair in names.items() for one in pair if one not in SPLITS]
    if strange:
        raise InvalidInputError(f"splits has {strange[0]!r}; known: {', '.join(SPLITS)}")
    if dataset.splits is None:
        if names:
            raise DatasetError(f"{dataset.name!r} has no splits of its own to rename; give it a split")
        return None
    return [names.get(one, one) for one in dataset.splits]


def with_test_images(dataset: Dataset, test: Dataset, *, name: str | None = None) -> Dataset:
    """Put the images of another dataset beside a dataset, as its test images.

    Parameters
    ----------
    dataset : Dataset
        Has splits; its own test images become part of no split.
    test : Dataset
        Its classes are classes of `dataset`, perhaps not all of them; letters in upper and lower case do not
        matter. Splits of its own are ignored.
    name : str, optional
        Name of what is returned; that of `dataset` by default.

    Returns
    -------
    Dataset
        The rows of `dataset` first, with their ids; the ids of the others begin with ``~test_data/``.

    Raises
    ------
    DatasetError
        If `test` has a class that `dataset` has not, or `dataset` has no splits.
    """
    if dataset.splits is None:
        raise DatasetError(f"{dataset.name!r} has no splits of its own, so no other images can be its test")
    by_lower = {one.casefold(): one for one in dataset.classes}
    strange = sorted({one for one in test.labels if one is not None and one.casefold() not in by_lower})
    if strange:
        rest = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise DatasetError(
            f"the test images in {test.location!r} have the class {printable(strange[0])!r}{rest}, which is "
            f"none of {dataset.name!r}: {nearest(strange[0], dataset.classes)}"
        )
    rows: list[tuple[Dataset, int, bytes, str | None, str | None]] = [
        (dataset, index, one, dataset.labels[index], "none" if split == "test" else split)
        for index, (one, split) in enumerate(zip(dataset.ids, dataset.splits, strict=True))
    ]
    for index, (one, label) in enumerate(zip(test.ids, test.labels, strict=True)):
        own = None if label is None else by_lower[label.casefold()]
        rows.append((test, index, b"~test_data/" + one, own, "test"))
    return PartDataset(dataset.name if name is None else name, dataset.location, rows, dataset.classes)


class BlurredDataset:
    """The images of a dataset after a Gaussian blur whose kernel is a part of each image's width.

    Parameters
    ----------
    dataset : Dataset
    per_width : float
        Kernel widths per image width, over 0: 75 blurs an image of 750 pixels with a kernel of 11 (10, made
        odd). An image of less than twice as many pixels across stays as it is.

    Raises
    ------
    InvalidInputError
        If `per_width` is not over 0.

    Examples
    --------
    >>> from featbank.datasets import decode_image, open_dataset
    >>> sharp = open_dataset("digits")  # 8 x 8 pixels
    >>> blurred = BlurredDataset(sharp, per_width=2.5)  # by a kernel of 3 x 3
    >>> contrasts = [np.asarray(decode_image(one.read(0))).std().round() for one in (sharp, blurred)]
    >>> blurred.name, [int(one) for one in contrasts]
    ('digits-blurred', [83, 47])
    """

    decodes = True

    def __init__(self, dataset: Dataset, per_width: float) -> None:
        if not 0 < per_width < float("inf"):
            raise InvalidInputError(f"per_width={per_width!r} must be a finite number over 0")
        self._dataset, self._per_width = dataset, per_width
        self.name = safe_name(f"{dataset.name}-blurred")
        self.location = dataset.location
        self.ids, self.labels = dataset.ids, dataset.labels
        self.classes, self.splits = dataset.classes, dataset.splits

    def read(self, index: int) -> bytes:
        """Return the blurred image as a PPM file; raises `OSError` or `ImageDecodeError`."""
        from featbank.datasets.decoding import decode_image

        pixels = np.asarray(decode_image(self._dataset.read(index)))  # (height, width, 3)
        return pnm_bytes(blur_pixels(pixels, kernel_width(pixels.shape[1], self._per_width)))


def kernel_width(image_width: int, per_width: float) -> int:
    """Return the odd number of pixels nearest to ``image_width / per_width``, at least 1; a tie goes up.

    Examples
    --------
    >>> kernel_width(750, 75), kernel_width(640, 75), kernel_width(32, 75)
    (11, 9, 1)
    """
    return max(1, 2 * int(image_width / per_width / 2) + 1)


def blur_pixels(pixels: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Blur an image by a Gaussian kernel of `width` pixels, as OpenCV's ``GaussianBlur`` with sigma 0 does.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, 3)
    width : int
        Odd; 1 changes nothing.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)

    References
    ----------
    OpenCV, ``getGaussianKernel``: sigma = 0.3 * ((width - 1) * 0.5 - 1) + 0.8; borders are mirrored without
    repeating the last pixel.
    """
    if width == 1:
        return pixels
    from scipy.ndimage import convolve1d

    sigma = 0.3 * ((width - 1) * 0.5 - 1) + 0.8
    offsets = np.arange(width) - width // 2
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    blurred = pixels.astype(np.float64)
    for axis in (0, 1):
        blurred = convolve1d(blurred, kernel, axis=axis, mode="mirror")
    return np.rint(blurred).astype(np.uint8)


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
