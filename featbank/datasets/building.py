"""From a dataset to its manifest: digests of its images, and a split for every row; what changed since."""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featbank._cache import DigestCache
from featbank._registry import nearest
from featbank.datasets.decode_pool import read_by_processes
from featbank.datasets.sources import Dataset, require_two_classes
from featbank.errors import DatasetError, ImageDecodeError, InvalidInputError
from featbank.manifest import SPLITS, Manifest, RowStatus, duplicates_across_labels, printable

__all__ = [
    "DEFAULT_SPLIT",
    "SourceFinding",
    "SplitRule",
    "assign_splits",
    "build_manifest",
    "check_classes",
    "compare_sources",
    "digest_fractions",
    "parse_split",
    "row_digests",
    "row_indices",
]

logger = logging.getLogger(__name__)

# Splits: so many images per class in name order, or fractions decided by each file's digest ---------

_EXAMPLE = "write counts per class like '28,4,8' or fractions like '0.7,0.1,0.2'"
_SHOWN_CLASSES = 5

_NONE = SPLITS.index("none")


@dataclass(frozen=True)
class SplitRule:
    """How rows are dealt out to train, val and test.

    Parameters
    ----------
    kind : {"counts", "fractions"}
        Counts are images per class; fractions are of all images.
    parts : tuple of float, length 3
        The shares of train, val and test; whole numbers where `kind` is ``"counts"``.

    Raises
    ------
    InvalidInputError
        If a part is negative or not finite, all are zero, counts are not whole, or fractions sum to over 1.

    Examples
    --------
    >>> str(SplitRule("counts", (28, 4, 8)))
    '28,4,8'
    """

    kind: Literal["counts", "fractions"]
    parts: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.kind not in ("counts", "fractions"):
            raise InvalidInputError(f"kind={self.kind!r} is not one of 'counts', 'fractions'")
        fault = None
        if len(self.parts) != 3:
            fault = f"has {len(self.parts)} numbers where train,val,test are wanted"
        elif not all(math.isfinite(part) and part >= 0 for part in self.parts):
            fault = "has a part that is negative or not finite"
        elif not any(self.parts):
            fault = "gives no image to any split"
        elif self.kind == "counts" and any(part != int(part) for part in self.parts):
            fault = "has counts that are not whole"
        elif self.kind == "fractions" and math.fsum(self.parts) > 1 + 1e-9:
            fault = f"has fractions that sum to {math.fsum(self.parts):.6g}, over 1"
        if fault:
            raise InvalidInputError(f"split={str(self)!r} {fault}; {_EXAMPLE}")

    def __str__(self) -> str:
        return ",".join(str(int(part)) if self.kind == "counts" else repr(float(part)) for part in self.parts)


def parse_split(text: str) -> SplitRule:
    """Read a split rule.

    Parameters
    ----------
    text : str
        Three numbers for train, val and test: whole numbers are counts per class, numbers with a point are
        fractions of all images.

    Returns
    -------
    SplitRule

    Raises
    ------
    InvalidInputError
        If the text is anything else.

    Examples
    --------
    >>> parse_split("28,4,8")
    SplitRule(kind='counts', parts=(28, 4, 8))
    >>> parse_split("0.7, 0.1, 0.2").kind
    'fractions'
    """
    cells = [cell.strip() for cell in text.split(",")]
    try:
        parts = [float(cell) for cell in cells]
    except ValueError:
        raise InvalidInputError(f"split={text!r} is not three numbers; {_EXAMPLE}") from None
    if len(parts) != 3:
        count = "1 number" if len(parts) == 1 else f"{len(parts)} numbers"
        raise InvalidInputError(f"split={text!r} has {count} where train,val,test are wanted; {_EXAMPLE}")
    if all(cell.isascii() and cell.isdigit() for cell in cells):
        return SplitRule("counts", (int(cells[0]), int(cells[1]), int(cells[2])))
    if not all(math.isfinite(part) and 0 <= part <= 1 for part in parts):
        raise InvalidInputError(
            f"split={text!r} is neither whole counts nor fractions within 0..1; {_EXAMPLE}"
        )
    return SplitRule("fractions", (parts[0], parts[1], parts[2]))


#: The rule where neither the source nor the user says anything.
DEFAULT_SPLIT = SplitRule("fractions", (0.7, 0.1, 0.2))


def digest_fractions(digests: NDArray[np.uint8], cuts: Sequence[float]) -> NDArray[np.intp]:
    """Return how many of the ascending `cuts` each digest lies at or above.

    The first eight bytes of a digest, read as a fraction of ``2**64``, are compared exactly.

    Parameters
    ----------
    digests : ndarray of uint8, shape (n_samples, 32)
    cuts : sequence of float
        Within 0..1, ascending.

    Returns
    -------
    ndarray of intp, shape (n_samples,)
        0 below the first cut, ``len(cuts)`` at or above the last.
    """
    heads = np.ascontiguousarray(digests[:, :8]).view(">u8").ravel().astype(np.uint64)
    # A cut at 1 lies above every digest, and 2**64 does not fit uint64. The tolerance closes 0.7+0.1+0.2.
    limits = [round(cut * 2.0**64) for cut in cuts if cut < 1 - 1e-9]
    return np.searchsorted(np.array(limits, dtype=np.uint64), heads, side="right")


def _counts_for(n: int) -> SplitRule:
    """Return about the usual shares of `n` images, three or more, with some in each part."""
    val, test = (math.ceil(part * n) for part in DEFAULT_SPLIT.parts[1:])
    return SplitRule("counts", (n - val - test, val, test))


def assign_splits(
    rule: SplitRule,
    *,
    labels: NDArray[np.int32],
    classes: Sequence[str],
    digests: NDArray[np.uint8],
    groups: Sequence[bytes] | None = None,
) -> NDArray[np.uint8]:
    """Deal rows out to splits.

    Counts take the first images of each class in row order (name order) for train, the next for val, the next
    for test. Fractions go by the digest, so a row keeps its split when others come or go, and identical
    files never stand on two sides.

    Parameters
    ----------
    rule : SplitRule
    labels : ndarray of int32, shape (n_samples,)
        Class of each row; rows without one (-1) go to no split.
    classes : sequence of str
        Class names.
    digests : ndarray of uint8, shape (n_samples, 32)
        SHA-256 of each image's bytes.
    groups : sequence of bytes, length n_samples, optional
        Group of each row. Fractions then go by the digest of its name, so that all of a group is on one side;
        of few groups the parts are rough.

    Returns
    -------
    ndarray of uint8, shape (n_samples,)
        Index into `featbank.manifest.SPLITS`.

    Raises
    ------
    InvalidInputError
        If counts ask for more images than a class has, or would tear groups apart.
    """
    if groups is not None:
        if rule.kind == "counts":
            raise InvalidInputError(
                f"split={str(rule)!r} counts images of a class, which would tear groups apart; give "
                f"fractions with --group and --group-by, such as '{DEFAULT_SPLIT}'"
            )
        digests = np.frombuffer(b"".join(hashlib.sha256(one).digest() for one in groups), np.uint8)
        digests = digests.reshape(-1, 32)
    if rule.kind == "fractions":
        train, val, test = rule.parts
        codes = digest_fractions(digests, [train, train + val, train + val + test]).astype(np.uint8)
        codes[labels < 0] = _NONE
        empty = [SPLITS[at] for at, part in enumerate(rule.parts) if part and not (codes == at).any()]
        if groups is not None and empty:
            logger.warning(
                "split=%r: none of %d groups comes to %s; name smaller groups, ask for a larger part, or "
                "judge each in turn with fit-head --folds",
                str(rule),
                len(set(groups)),
                " and ".join(empty),
            )
        elif empty:
            fewest = int(min(np.unique(labels[labels >= 0], return_counts=True)[1], default=0))
            logger.warning(
                "split=%r: none of %d images comes to %s%s",
                str(rule),
                len(labels),
                " and ".join(empty),
                f"; with classes this small count: --split {_counts_for(fewest)}" if fewest > 2 else "",
            )
        left = int(((codes == _NONE) & (labels >= 0)).sum())
        if left:
            logger.warning(
                "split=%r: the fractions sum to %.3g, %d of %d images are in no split",
                str(rule),
                math.fsum(rule.parts),
                left,
                len(labels),
            )
        return codes
    counts = [int(part) for part in rule.parts]
    have = np.bincount(labels[labels >= 0], minlength=len(classes))
    short = [(str(name), int(n)) for name, n in zip(classes, have, strict=True) if 0 < n < sum(counts)]
    if short:
        named = ", ".join(f"'{printable(name)}' has {n}" for name, n in short[:_SHOWN_CLASSES])
        rest = f" and {len(short) - _SHOWN_CLASSES} more" if len(short) > _SHOWN_CLASSES else ""
        raise InvalidInputError(
            f"split={str(rule)!r} takes {sum(counts)} images of each class, more than {len(short)} of "
            f"{int((have > 0).sum())} classes have: {named}{rest}. Use smaller counts, or fractions like "
            f"'{DEFAULT_SPLIT}'."
        )
    codes = np.full(len(labels), _NONE, dtype=np.uint8)
    dealt = np.repeat(np.arange(3, dtype=np.uint8), counts)
    for label in np.flatnonzero(have):
        codes[np.flatnonzero(labels == label)[: len(dealt)]] = dealt
    return codes


# The manifest ---------------------------------------------------------------------------------------

_SHOWN = 3
#: Longer than any path: a cell that says more is no name.
_LONGEST_GROUP = 4096
_SHOWN_DIGITS = 12
_TRAIN = SPLITS.index("train")
#: Rows whose files are looked at, and read, before the next: the memory of a million is that of these.
_BLOCK = 8192
_ROWS_PER_TASK = 32
_MAX_THREADS = 8
# Faults of this process, not of a file: quarantining images for them would lose good data.
_OUR_FAULT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
#: Characters without ink that are no format characters: joiners, selectors, fillers, the blank of Braille.
_INKLESS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def build_manifest(
    dataset: Dataset,
    *,
    split: str | SplitRule | None = None,
    limit: int | None = None,
    skip_empty_classes: bool = False,
    override_split: bool = False,
    group_by: str | None = None,
    digests: DigestCache | None = None,
    rehash: bool = False,
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
    group_by : str, optional
        A regular expression that is searched for in each id: images for which it finds the same text (its
        groups, where it has such) belong together, and no split tears them apart. A dataset that names
        groups itself (a CSV with ``--group``) needs none.
    digests : DigestCache, optional
        Digests known from before: a file that has not changed since is not read. It gets the new ones; its
        `save` keeps them.
    rehash : bool, default=False
        Read all files, also those whose digest is known.

    Returns
    -------
    Manifest
        All rows `RowStatus.OK` but those whose file could not be read at all: these are quarantined, and
        their digest is that of the word "unreadable", a zero byte and their id.

    Raises
    ------
    InvalidInputError
        If `split` or `limit` cannot work, or `split` would replace the source's own splits unasked; if
        `group_by` cannot be read or does not find all ids, or the source's own splits tear a group apart.
    DatasetError
        If the dataset does not hold together, has fewer than two classes, or no file of it, or of a class of
        it, can be read.

    Examples
    --------
    >>> from featbank.datasets import open_dataset
    >>> manifest = build_manifest(open_dataset("digits"), split="10,2,5", limit=170)
    >>> len(manifest), len(manifest.rows("train")), len(manifest.rows("test"))
    (170, 100, 50)
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
    groups = _groups(dataset, group_by)
    kept = _taken_in_turn(labels, source, limit)
    labels = labels[kept]
    hashes, statuses = _hashed(dataset, kept, digests, rehash)
    own = None if groups is None else [groups[index] for index in kept]
    number_of: dict[bytes, int] = {one: number for number, one in enumerate(sorted(set(own or ())))}
    if rule is None and source is None:
        rule = DEFAULT_SPLIT
    if rule is not None:
        splits = assign_splits(rule, labels=labels, classes=dataset.classes, digests=hashes, groups=own)
    elif source is not None:
        splits = source[kept]
    if own is not None:
        _check_groups(dataset, own, splits)
    _warn_of_untrained(dataset, labels, splits)
    manifest = Manifest(
        ids=dataset.ids if len(kept) == len(dataset.ids) else tuple(dataset.ids[index] for index in kept),
        labels=labels,
        classes=tuple(dataset.classes),
        splits=splits,
        digests=hashes,
        statuses=statuses,
        groups=None if own is None else np.array([number_of[one] for one in own], dtype=np.int32),
        group_names=tuple(number_of),
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
    if manifest.ids == dataset.ids:  # as mostly: no table of millions of names
        return np.arange(len(manifest), dtype=np.int64)
    index_of = {one: index for index, one in enumerate(dataset.ids)}
    return np.array([index_of.get(one, -1) for one in manifest.ids], dtype=np.int64)


def _groups(dataset: Dataset, group_by: str | None) -> list[bytes] | None:
    """Return the group of each image, None if nobody names groups."""
    named: Sequence[str] | None = getattr(dataset, "groups", None)
    if group_by is None:
        encoded = None if named is None else [os.fsencode(one) for one in named]
        longest = max(encoded or [b""], key=len)
        if len(longest) > _LONGEST_GROUP:
            raise InvalidInputError(
                f"{dataset.name!r} has a group of {len(longest)} bytes, {printable(longest[:40])!r}...: "
                f"{_LONGEST_GROUP} are the most; is --group a column of names?"
            )
        return encoded
    if named is not None:
        raise InvalidInputError(
            f"group_by={group_by!r} (--group-by) and groups that {dataset.name!r} names itself (--group): "
            "give one of them"
        )
    try:
        pattern = re.compile(os.fsencode(group_by))
    except (re.error, UnicodeEncodeError) as error:
        raise InvalidInputError(
            f"group_by={group_by!r} (--group-by) is no regular expression: {error}"
        ) from error
    found = [pattern.search(one) for one in dataset.ids]
    lost = [one for one, match in zip(dataset.ids, found, strict=True) if match is None]
    if lost:
        raise InvalidInputError(
            f"group_by={group_by!r} (--group-by) finds nothing in {len(lost)} of {len(found)} ids, first in "
            f"{printable(lost[0])!r}: every image needs a group"
        )
    return [
        b"\0".join(part or b"" for part in match.groups()) if match.re.groups else match.group()
        for match in found
        if match is not None
    ]


def _check_groups(dataset: Dataset, groups: Sequence[bytes], splits: NDArray[np.uint8]) -> None:
    """Refuse a split that tears a group apart, and groups that are none."""
    sides: dict[bytes, set[int]] = {}
    for one, split in zip(groups, splits.tolist(), strict=True):
        sides.setdefault(one, set()).add(split)
    torn = [one for one, on in sides.items() if len(on - {_NONE}) > 1]
    if torn:
        names = ", ".join(SPLITS[split] for split in sorted(sides[torn[0]] - {_NONE}))
        raise InvalidInputError(
            f"{len(torn)} of {len(sides)} groups of {dataset.name!r} stand on several sides of its own "
            f"split, first {printable(torn[0])!r} ({names}): mend the split, or replace it with --split "
            "0.7,0.1,0.2 --override-split"
        )
    if len(sides) == 1:
        raise InvalidInputError(
            f"all {len(groups)} images of {dataset.name!r} are one group, {printable(groups[0])!r}: no split "
            "keeps it on one side"
        )
    logger.log(
        logging.WARNING if len(sides) == len(groups) else logging.INFO,
        "%s: %d images in %d groups",
        dataset.name,
        len(groups),
        len(sides),
    )


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


def unreadable_digest(image_id: bytes) -> bytes:
    """Return what stands for the digest of an image that cannot be read; no two of them are alike."""
    return hashlib.sha256(b"unreadable\0" + image_id).digest()


def row_digests(
    dataset: Dataset,
    indices: NDArray[np.int64] | Sequence[int],
    cache: DigestCache | None = None,
    *,
    rehash: bool = False,
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Hash images: the files of a cache are looked at, the others read on several threads.

    Where reading decodes, as in torchvision's datasets, the decoding processes do it: an image that crashes
    or hangs them costs one row.

    Parameters
    ----------
    dataset : Dataset
    indices : sequence of int, length n
        Which images.
    cache : DigestCache, optional
        Digests of files from before; those of images with a ``path_of`` are looked for, and kept, there.
    rehash : bool, default=False
        Look for none of them.

    Returns
    -------
    digests : ndarray of uint8, shape (n, 32)
        SHA-256 of each; of one that cannot be read its `unreadable_digest`.
    problems : dict of int to str
        For the places in `indices` that cannot be read, why.

    Raises
    ------
    OSError
        If this process is out of memory or files: that is no image's fault.
    """
    if getattr(dataset, "decodes", False):
        digests, problems = read_by_processes(dataset, [int(one) for one in indices], _sha256, 32)
    else:
        digests, problems = _hash_files(dataset, np.asarray(indices), cache, rehash)
    for row in problems:
        digests[row] = np.frombuffer(unreadable_digest(dataset.ids[int(indices[row])]), np.uint8)
    return digests, problems


def _sha256(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(data).digest(), np.uint8)


def _hash_files(
    dataset: Dataset, indices: NDArray[np.int64], cache: DigestCache | None, rehash: bool
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    path_of: Callable[[int], bytes] | None = getattr(dataset, "path_of", None)
    digests, problems = np.empty((len(indices), 32), np.uint8), dict[int, str]()

    def hashed(rows: NDArray[np.intp]) -> None:
        for row in rows.tolist():
            try:
                digests[row] = _sha256(dataset.read(int(indices[row])))
            except (OSError, ImageDecodeError) as error:
                if isinstance(error, OSError) and error.errno in _OUR_FAULT:
                    raise
                problems[row] = getattr(error, "strerror", None) or str(error)

    # Reading and hashing let go of the interpreter lock; more threads than this do not help one disk.
    threads = ThreadPoolExecutor(min(_MAX_THREADS, 2 * (os.cpu_count() or 1)))
    try:
        for start in range(0, len(indices), _BLOCK):
            todo, known = np.arange(start, min(start + _BLOCK, len(indices))), None
            if cache is not None and path_of is not None:
                paths = [os.fsencode(path_of(one)) for one in indices[todo].tolist()]
                known = cache.find([os.path.abspath(one) for one in paths])  # noqa: PTH100
                if not rehash:
                    digests[todo] = known.digests
                    todo = todo[~known.known]
            list(threads.map(hashed, np.split(todo, range(_ROWS_PER_TASK, len(todo), _ROWS_PER_TASK))))
            if cache is not None and known is not None:
                read = np.array([row for row in todo.tolist() if row not in problems], np.intp)
                cache.add(known, read - start, digests[read])
    finally:
        threads.shutdown(cancel_futures=True)
    return digests, problems


def _hashed(
    dataset: Dataset, kept: NDArray[np.int64], cache: DigestCache | None, rehash: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    n = len(kept)
    digests, problems = row_digests(dataset, kept, cache, rehash=rehash)
    statuses = np.full(n, RowStatus.OK, dtype=np.uint8)
    statuses[list(problems)] = RowStatus.QUARANTINED
    if problems:
        first = min(problems)
        example = f"'{printable(dataset.ids[int(kept[first])])}': {problems[first]}"
        if len(problems) == n:
            raise DatasetError(
                f"none of the {n} images of {dataset.name!r} can be read, the first is {example}"
            )
        logger.warning(
            "%d of %d images of %s cannot be read, the first is %s", len(problems), n, dataset.name, example
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


def look_alikes(labels: Iterable[str]) -> list[tuple[str, ...]]:
    r"""Return the groups of labels that a person cannot tell apart, or only by upper and lower case.

    Examples
    --------
    >>> look_alikes(["Cat", "dog", "cat ", "bird", "dog\u200b"])
    [('Cat', 'cat '), ('dog', 'dog\u200b')]
    """
    groups: dict[str, list[str]] = {}
    for label in dict.fromkeys(labels):
        groups.setdefault(_seen(label), []).append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def told_apart(labels: Sequence[str]) -> list[str]:
    """Return labels in quotes, with the codes of their characters where the eye sees no difference."""
    shown = [f"'{printable(one)}'" for one in labels]
    visible = {unicodedata.normalize("NFC", _INKLESS.sub("", one)) for one in shown}
    return shown if len(visible) == len(shown) else [ascii(one) for one in labels]


def _seen(label: str) -> str:
    """Return what is left of a label without case, form and characters that show nothing."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    inked = "".join(" " if char.isspace() else char for char in _INKLESS.sub("", text))
    return " ".join("".join(char for char in inked if unicodedata.category(char) not in ("Cf", "Cc")).split())


@dataclass(frozen=True)
class SourceFinding:
    """One image that is no longer what a manifest says.

    Parameters
    ----------
    kind : {"changed", "missing", "new"}
        Other bytes than listed; listed, but not there or not readable; there, but not listed.
    id : bytes
        As in the manifest or the dataset; escape it with `featbank.manifest.printable` before showing it.
    detail : str
        What was found, in words.

    Examples
    --------
    >>> from featbank.datasets import open_dataset, select_images
    >>> digits = open_dataset("digits")
    >>> before = build_manifest(select_images(digits, images_per_class=2))
    >>> for one in compare_sources(select_images(digits, images_per_class=3), before)[:2]:
    ...     print(one.kind, one.id, one.detail)
    new b'0/0020.pgm' the manifest does not list it
    new b'1/0021.pgm' the manifest does not list it
    """

    kind: Literal["changed", "missing", "new"]
    id: bytes
    detail: str


def compare_sources(dataset: Dataset, manifest: Manifest) -> list[SourceFinding]:
    """Read every image of a manifest again and say what differs.

    The time and size of a file are not asked: a copy that keeps them, or a disk that rots, changes neither.

    Parameters
    ----------
    dataset : Dataset
        The same source, opened anew.
    manifest : Manifest
        Of a bank.

    Returns
    -------
    list of SourceFinding
        In the order of the manifest, then what is new in the order of the dataset; empty if all is as it was.
        An image that could not be read when it was listed, and cannot now, is as it was. A manifest made with
        ``limit`` lists a part of its source: the rest is ``"new"``.

    Examples
    --------
    >>> from featbank.datasets import build_manifest, open_dataset
    >>> digits = open_dataset("digits")
    >>> compare_sources(digits, build_manifest(digits))
    []
    """
    indices = row_indices(dataset, manifest)
    digests, problems = row_digests(dataset, indices[indices >= 0])
    findings, place = [], -1
    for one, index, expected in zip(manifest.ids, indices.tolist(), manifest.digests, strict=True):
        if index < 0:
            findings.append(SourceFinding("missing", one, "the source no longer lists it"))
            continue
        place += 1
        listed, found = expected.tobytes(), digests[place].tobytes()
        if found == listed:
            continue
        if place in problems:
            findings.append(SourceFinding("missing", one, f"cannot be read: {problems[place]}"))
            continue
        said = "could not be read when it was listed, and can be now"
        if listed != unreadable_digest(one):
            digits = [digest.hex()[:_SHOWN_DIGITS] for digest in (found, listed)]
            said = f"its SHA-256 starts with {digits[0]}, the manifest's with {digits[1]}"
        findings.append(SourceFinding("changed", one, said))
    known = set(manifest.ids)
    new = [one for one in dataset.ids if one not in known]
    return findings + [SourceFinding("new", one, "the manifest does not list it") for one in new]
