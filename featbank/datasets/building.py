"""From a dataset to its manifest: hash every file, give every row its split."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from featbank._registry import nearest
from featbank.datasets._digests import row_digests
from featbank.datasets._names import look_alikes, require_two_classes, told_apart
from featbank.datasets.duplicates import duplicates_across_labels
from featbank.datasets.sources import Dataset
from featbank.datasets.splits import DEFAULT_SPLIT, SplitRule, assign_splits, parse_split
from featbank.errors import DatasetError, InvalidInputError
from featbank.manifest import SPLITS, Manifest, RowStatus, printable

__all__ = ["build_manifest", "check_classes", "row_indices"]

logger = logging.getLogger(__name__)

_SHOWN = 3
_TRAIN, _NONE = SPLITS.index("train"), SPLITS.index("none")


def build_manifest(
    dataset: Dataset,
    *,
    split: str | SplitRule | None = None,
    limit: int | None = None,
    skip_empty_classes: bool = False,
    override_split: bool = False,
) -> Manifest:
    """Hash every image of a dataset and give every row its split.

    Parameters
    ----------
    dataset : Dataset
    split : str or SplitRule, optional
        Counts per class such as ``"28,4,8"`` or fractions such as ``"0.7,0.1,0.2"`` for train, val, test; see
        `assign_splits`. Default: the splits the source itself has, as they are. A source that says nothing is
        split 0.7, 0.1, 0.2 by digest.
    limit : int, optional
        Keep so many rows only. They are taken in turn from each class (of each split of the source), in
        order, so that a small limit still has all classes; the kept rows stay in the dataset's order.
    skip_empty_classes : bool, default=False
        Warn of classes none of whose images can be read, instead of refusing them. With a `limit` these are
        always only warned of.
    override_split : bool, default=False
        Let `split` replace the splits the source itself has; without, the two together are refused.

    Returns
    -------
    Manifest
        All rows `RowStatus.OK` but those whose file could not be read at all: these are quarantined, and
        their digest is that of the word "unreadable", a zero byte and their id.

    Raises
    ------
    InvalidInputError
        If `split` or `limit` cannot work, or `split` would replace the source's own splits unasked.
    DatasetError
        If the dataset does not hold together, has fewer than two classes, or no file of it, or of a class of
        it, can be read.
    """
    rule = parse_split(split) if isinstance(split, str) else split
    if limit is not None and (isinstance(limit, bool) or limit != int(limit) or limit < 1):
        raise InvalidInputError(f"limit={limit!r} must be a whole number of at least 1, or None for all rows")
    labels = _label_indices(dataset)
    source = _split_codes(dataset)
    if rule is None and override_split:
        raise InvalidInputError("override_split=True (--override-split) needs the split to take instead")
    if rule is not None and source is not None and (source != _NONE).any():
        _check_override(dataset, source, rule, override_split)
    kept = _taken_in_turn(labels, source, limit)
    labels = labels[kept]
    digests, statuses = _hashed(dataset, kept)
    if rule is not None:
        splits = assign_splits(rule, labels=labels, classes=dataset.classes, digests=digests)
    elif source is None:
        splits = assign_splits(DEFAULT_SPLIT, labels=labels, classes=dataset.classes, digests=digests)
    else:
        splits = source[kept]
    _warn_of_untrained(dataset, labels, splits)
    manifest = Manifest(
        ids=tuple(dataset.ids[index] for index in kept),
        labels=labels,
        classes=tuple(dataset.classes),
        splits=splits,
        digests=digests,
        statuses=statuses,
    )
    check_classes(manifest, dataset.name, refuse=not skip_empty_classes and limit is None)
    _warn_of_labels(manifest, dataset.name)
    return manifest


def check_classes(manifest: Manifest, name: str, *, refuse: bool, before: Manifest | None = None) -> None:
    """Refuse, or warn of, classes none of whose images can be read.

    Parameters
    ----------
    manifest : Manifest
    name : str
        Name of the dataset, for the message.
    refuse : bool
        Raise instead of warning.
    before : Manifest, optional
        The same rows as they were; classes that could not be read then are not told again.

    Raises
    ------
    DatasetError
        If there is such a class and `refuse` is True.
    """
    lost = _unreadable(manifest) - (_unreadable(before) if before is not None else set())
    if not lost:
        return
    listed = ", ".join(
        f"'{printable(manifest.classes[code])}' ({int((manifest.labels == code).sum())})"
        for code in sorted(lost)[:_SHOWN]
    )
    more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
    fault = f"none of the images of {listed}{more} in {name} can be read"
    if refuse:
        raise DatasetError(
            f"{fault}; mend or replace them, or go on without these classes by --skip-empty-classes "
            "(skip_empty_classes=True)"
        )
    logger.warning("%s: nothing can be learned of these classes", fault)


def _unreadable(manifest: Manifest) -> set[int]:
    readable = manifest.statuses == RowStatus.OK
    return {int(code) for code in np.setdiff1d(manifest.labels, manifest.labels[readable]) if code >= 0}


def _warn_of_labels(manifest: Manifest, name: str) -> None:
    """Tell of labels that look the same, and of one file under two labels."""
    counts = np.bincount(manifest.labels[manifest.labels >= 0], minlength=len(manifest.classes))
    present = [one for one, n in zip(manifest.classes, counts, strict=True) if n]
    groups = look_alikes(present)
    if groups:
        logger.warning(
            "%d labels of %s look like another one and are classes of their own: %s%s",
            sum(len(group) - 1 for group in groups),
            name,
            "; ".join(" and ".join(told_apart(group)) for group in groups[:_SHOWN]),
            "; ..." if len(groups) > _SHOWN else "",
        )
    pairs = duplicates_across_labels(manifest)
    if pairs:
        listed = "; ".join(
            " = ".join(
                f"'{printable(manifest.ids[row])}' ({printable(manifest.classes[manifest.labels[row]])})"
                for row in pair
            )
            for pair in pairs[:_SHOWN]
        )
        logger.warning(
            "%d images of %s are byte for byte images of another class: %s%s",
            len(pairs),
            name,
            listed,
            "; ..." if len(pairs) > _SHOWN else "",
        )


def row_indices(dataset: Dataset, manifest: Manifest) -> NDArray[np.int64]:
    """Return, for each row of a manifest, the index to hand to ``dataset.read``.

    Parameters
    ----------
    dataset : Dataset
    manifest : Manifest
        Of this dataset, perhaps limited or older.

    Returns
    -------
    ndarray of int64, shape (n_samples,)
        -1 where the dataset no longer has the row's id.
    """
    index_of = {one: index for index, one in enumerate(dataset.ids)}
    return np.array([index_of.get(one, -1) for one in manifest.ids], dtype=np.int64)


def _check_override(
    dataset: Dataset, source: NDArray[np.uint8], rule: SplitRule, override_split: bool
) -> None:
    counts = np.bincount(source, minlength=len(SPLITS))
    has = ", ".join(f"{name} {count}" for name, count in zip(SPLITS, counts.tolist(), strict=True) if count)
    if not override_split:
        raise InvalidInputError(
            f"split={str(rule)!r} would replace the split that {dataset.name!r} has itself ({has}): leave it "
            "out to keep that, or add --override-split (override_split=True)"
        )
    logger.warning("split '%s' replaces the split that %s has itself (%s)", rule, dataset.name, has)


def _label_indices(dataset: Dataset) -> NDArray[np.int32]:
    n = len(dataset.ids)
    if len(dataset.labels) != n or (dataset.splits is not None and len(dataset.splits) != n):
        raise DatasetError(
            f"{dataset.name!r} has {n} ids, {len(dataset.labels)} labels"
            + ("" if dataset.splits is None else f" and {len(dataset.splits)} splits")
            + "; it must have as many of each"
        )
    if len(set(dataset.ids)) != n:
        raise DatasetError(f"{dataset.name!r} has an id twice; ids must be unique")
    index_of = {name: index for index, name in enumerate(dataset.classes)}
    for label in dataset.labels:
        if label is not None and label not in index_of:
            known = nearest(label, dataset.classes)
            raise DatasetError(
                f"{dataset.name!r} has the label {label!r}, which is none of its classes: {known}"
            )
    require_two_classes(dataset.labels, repr(dataset.name))
    return np.array([-1 if one is None else index_of[one] for one in dataset.labels], dtype=np.int32)


def _split_codes(dataset: Dataset) -> NDArray[np.uint8] | None:
    if dataset.splits is None:
        return None
    unknown = sorted(set(dataset.splits) - set(SPLITS))
    if unknown:
        raise DatasetError(f"{dataset.name!r} has the split {unknown[0]!r}; known: {', '.join(SPLITS)}")
    return np.array([SPLITS.index(one) for one in dataset.splits], dtype=np.uint8)


def _taken_in_turn(
    labels: NDArray[np.int32], source: NDArray[np.uint8] | None, limit: int | None
) -> NDArray[np.int64]:
    n = len(labels)
    if limit is None or limit >= n:
        return np.arange(n, dtype=np.int64)
    # Groups of one split and class; a source's own splits count, or a small limit would be all test images.
    groups = labels.astype(np.int64) + (0 if source is None else source.astype(np.int64) * (labels.max() + 2))
    ranks = np.empty(n, dtype=np.int64)
    by_group = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[by_group], prepend=groups.min() - 1))
    sizes = np.diff(starts, append=n)
    ranks[by_group] = np.arange(n) - np.repeat(starts, sizes)
    in_turn = np.lexsort((groups, ranks))
    return np.sort(in_turn[:limit]).astype(np.int64)


def _hashed(dataset: Dataset, kept: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    n = len(kept)
    read = row_digests(dataset, kept)
    digests = np.frombuffer(b"".join(digest for digest, _ in read), dtype=np.uint8).reshape(n, 32).copy()
    reasons = {row: reason for row, (_, reason) in enumerate(read) if reason is not None}
    statuses = np.full(n, RowStatus.OK, dtype=np.uint8)
    statuses[list(reasons)] = RowStatus.QUARANTINED
    if reasons:
        first = min(reasons)
        example = f"'{printable(dataset.ids[int(kept[first])])}': {reasons[first]}"
        if len(reasons) == n:
            raise DatasetError(
                f"none of the {n} images of {dataset.name!r} can be read, the first is {example}"
            )
        logger.warning(
            "%d of %d images of %s cannot be read, the first is %s", len(reasons), n, dataset.name, example
        )
    return digests, statuses


def _warn_of_untrained(dataset: Dataset, labels: NDArray[np.int32], splits: NDArray[np.uint8]) -> None:
    present = np.unique(labels[(labels >= 0) & (splits != _NONE)])
    trained = np.unique(labels[(labels >= 0) & (splits == _TRAIN)])
    missing = np.setdiff1d(present, trained)
    if len(missing):
        logger.warning(
            "%d of %d classes of %s have no training image, the first is '%s'",
            len(missing),
            len(present),
            dataset.name,
            printable(dataset.classes[int(missing[0])]),
        )
