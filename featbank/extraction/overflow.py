"""Features that float16 cannot hold: refused, stored in float32, or clipped and counted; never silent."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank.errors import FeatureOverflowError, InvalidInputError

if TYPE_CHECKING:
    from featbank.banks import Bank

__all__ = [
    "CLIPPED",
    "ON_OVERFLOW",
    "as_stored",
    "check_policy",
    "cut_dtype",
    "key_dtype",
    "stored_dtype",
    "tell_clipped",
]

logger = logging.getLogger(__name__)

#: What can be done with a cut that has values beyond 65504.
ON_OVERFLOW = ("error", "float32", "clip")
#: The `dtype` of the key of a bank in which float16 cannot overflow because larger values are clipped.
CLIPPED = "float16-clip"

_BLOCK_ROWS = 512


def check_policy(on_overflow: str) -> None:
    """Raise `InvalidInputError` for a policy that does not exist."""
    if on_overflow not in ON_OVERFLOW:
        raise InvalidInputError(f"on_overflow={on_overflow!r} is not one of {', '.join(ON_OVERFLOW)}")


def key_dtype(dtype: str, on_overflow: str) -> str:
    """Return what stands in the key: clipping changes numbers, so a bank that is clipped is another bank.

    Examples
    --------
    >>> key_dtype("float16", "error"), key_dtype("float16", "clip"), key_dtype("float32", "clip")
    ('float16', 'float16-clip', 'float32')
    """
    return CLIPPED if on_overflow == "clip" and dtype == "float16" else dtype


def stored_dtype(cut: str, dtype: str) -> np.dtype[np.floating]:
    """Return what a cut is stored as: the key's `dtype`, but logits in float32 (softmax comes from them).

    Examples
    --------
    >>> str(stored_dtype("fc7", "float16-clip")), str(stored_dtype("logits", "float16"))
    ('float16', 'float32')
    """
    return np.dtype(np.float32 if cut == "logits" else dtype.removesuffix("-clip"))


def as_stored(
    values: NDArray[np.float32], cut: str, dtype: str, *, cut_dtype: str | None = None
) -> NDArray[np.float32]:
    """Return what a bank would give back of features that have just been computed.

    Parameters
    ----------
    values : ndarray of float32, shape (n_samples, *shape)
        What came out at the cut.
    cut : str
        The cut.
    dtype : str
        That of the bank's key.
    cut_dtype : str, optional
        What the cut is stored as, ``bank[cut].dtype.name``, where that is not what the key says: a cut that
        overflowed float16 and was stored in float32.

    Returns
    -------
    ndarray of float32, shape (n_samples, *shape)

    Raises
    ------
    FeatureOverflowError
        If a value does not fit, which the bank would not have taken either.

    Examples
    --------
    >>> as_stored(np.float32([[0.1, 1e6]]), "fc7", "float16-clip").tolist()
    [[0.0999755859375, 65504.0]]
    """
    stored = np.dtype(cut_dtype) if cut_dtype is not None else stored_dtype(cut, dtype)
    limit = np.finfo(stored).max
    largest = np.abs(values).max(initial=0)
    if not largest <= limit:
        if dtype != CLIPPED or not largest < np.inf:
            raise FeatureOverflowError(
                f"{cut!r} of an image reaches {largest:.4g}, {stored} ends at {limit:.4g}, and the bank "
                f"behind it holds nothing beyond; extract with --on-overflow float32, or clip, and fit again"
            )
        values = np.clip(values, -limit, limit)
    return values.astype(stored).astype(np.float32)


def cut_dtype(bank: Bank, cut: str, dtype: str) -> np.dtype[Any]:
    """Return what a cut of this bank is stored as: what it is already, if an overflow has made it float32."""
    wanted = stored_dtype(cut, dtype)
    if cut in bank.cuts or cut in bank.partial_cuts:
        there: np.dtype[Any] = bank[cut].dtype
        if wanted == np.float16 and there == np.float32 and dtype != CLIPPED:
            logger.info("cut %r of bank %s is stored in float32: an earlier run had to", cut, bank.name)
            return there
    return wanted


def tell_clipped(bank: Bank, cut: str) -> dict[str, int]:
    """Count the values of a whole cut that stand at the limit of float16, and say so.

    Returns
    -------
    dict of str to int
        ``n_clipped`` values in ``n_clipped_rows`` rows of the manifest; empty if the cut is not clipped.
    """
    array = bank[cut]
    if bank.key.dtype != CLIPPED or array.dtype != np.float16:
        return {}
    limit = np.finfo(np.float16).max
    good = np.flatnonzero(bank.rows_ok(cut))
    n_values = n_rows = 0
    for start in range(0, len(good), _BLOCK_ROWS):
        block = array.read(good[start : start + _BLOCK_ROWS], dtype=np.float16)
        over = np.abs(block.reshape(len(block), -1)) >= limit
        n_values += int(over.sum())
        n_rows += int(over.any(axis=1).sum())
    if n_values:
        logger.warning(
            "cut %r: %d values in %d of %d images are beyond float16 and were clipped to +-65504; they are "
            "not what the network gave (--on-overflow float32 keeps them)",
            cut,
            n_values,
            n_rows,
            len(good),
        )
    return {"n_clipped": n_values, "n_clipped_rows": n_rows}
