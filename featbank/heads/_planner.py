"""How many heads go into one stack."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["plan_stacks"]

#: Bytes of stacked weights beyond which a stack no longer fits the cache and trains no faster than its heads
#: alone.
STACK_BYTES = {"cpu": 8 * 2**20, "cuda": 512 * 2**20}
#: A head of this many bytes keeps the processor busy by itself.
WIDE_HEAD_BYTES = {"cpu": 1 * 2**20, "cuda": 64 * 2**20}


def plan_stacks(n_heads: int, widths: Sequence[int], device: str) -> list[range]:
    """Cut `n_heads` equal heads into stacks that are never slower than one head after another.

    Parameters
    ----------
    n_heads : int
    widths : sequence of int
        Columns, hidden units if any, classes.
    device : {"cpu", "cuda", ...}

    Returns
    -------
    list of range
        Which heads go together, in order.

    Examples
    --------
    >>> plan_stacks(5, (511, 32), "cpu"), plan_stacks(2, (25088, 32), "cpu")
    ([range(0, 5)], [range(0, 1), range(1, 2)])
    """
    kind = device if device in STACK_BYTES else "cuda"
    size = 4 * sum((low + 1) * high for low, high in pairwise(widths))
    together = 1 if size > WIDE_HEAD_BYTES[kind] else max(1, STACK_BYTES[kind] // size)
    return [range(first, min(first + together, n_heads)) for first in range(0, n_heads, together)]
