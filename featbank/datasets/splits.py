"""Splits: so many images per class in name order, or fractions decided by each file's digest."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
from featbank.manifest import SPLITS, printable

__all__ = ["DEFAULT_SPLIT", "SplitRule", "assign_splits", "digest_fractions", "parse_split"]

_EXAMPLE = "write counts per class like '28,4,8' or fractions like '0.7,0.1,0.2'"
_SHOWN = 5
logger = logging.getLogger(__name__)

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
        named = ", ".join(f"'{printable(name)}' has {n}" for name, n in short[:_SHOWN])
        rest = f" and {len(short) - _SHOWN} more" if len(short) > _SHOWN else ""
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
