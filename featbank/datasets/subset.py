"""Parts of a dataset, and two datasets as one: what a published protocol takes of the images there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from featbank._registry import nearest
from featbank.datasets._names import require_two_classes, safe_name
from featbank.datasets.sources import Dataset
from featbank.errors import DatasetError, InvalidInputError, UnknownNameError
from featbank.manifest import SPLITS, printable

__all__ = ["PartDataset", "select_images", "with_test_images"]


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
