"""Which training samples a head sees: nested, class-balanced, seeded draws, and the text that asks for it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank.errors import InvalidInputError
from featbank.manifest import printable

__all__ = ["Size", "deal_folds", "draw_nested", "hold_out", "parse_sizes"]

#: Samples per class, or ``"all"`` for every training sample there is. What was fitted keeps ``"all"`` where
#: classes are uneven; where they are even, all are so many per class.
Size = int | Literal["all"]

_HOW = "Write 4..32 (doubling), 4..32:4 (steps of 4), 1,5,10 (a list) or all."
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_RANGE = re.compile(r"(-?[0-9]{1,9})\.\.(-?[0-9]{1,9})(?::(-?[0-9]{1,9}))?")
_MOST_SIZES = 1000
_MOST_NAMED = 5


def parse_sizes(text: str) -> list[Size]:
    """Read what ``--samples-per-class`` takes.

    Parameters
    ----------
    text : str
        ``"4..32"`` doubles, ``"4..32:4"`` steps by 4, ``"1,5,10"`` lists, ``"all"`` takes every training
        sample; parts are joined by commas. A range stops at its upper end and contains it only when it is
        hit exactly: ``"4..30"`` is 4, 8, 16.

    Returns
    -------
    list of int or "all"
        Ascending, each size once, ``"all"`` last.

    Raises
    ------
    InvalidInputError
        If the text is empty or cannot be read, a range runs backwards, a size or a step is below 1, or
        there are more than 1000 sizes.

    Examples
    --------
    >>> parse_sizes("4..32")
    [4, 8, 16, 32]
    >>> parse_sizes("1,2,4..12:4,all")
    [1, 2, 4, 8, 12, 'all']
    """
    if not text.strip():
        raise InvalidInputError(f"samples_per_class={text!r} is empty. {_HOW}")
    numbers: set[int] = set()
    everything = False
    for part in (one.strip() for one in text.split(",")):
        if part == "all":
            everything = True
        elif _NUMBER.fullmatch(part):
            _check_start(text, int(part))
            numbers.add(int(part))
        elif match := _RANGE.fullmatch(part):
            numbers.update(_expand(text, *match.groups()))
        else:
            raise InvalidInputError(
                f"samples_per_class={text!r} cannot be read: {part!r} is no number, range or 'all'. {_HOW}"
            )
        if len(numbers) > _MOST_SIZES:
            raise InvalidInputError(
                f"samples_per_class={text!r} is more than {_MOST_SIZES} sizes. Use a larger step or doubling."
            )
    return [*sorted(numbers), *(["all"] if everything else [])]  # type: ignore[list-item]  # mypy widens "all"


def parse_size(text: str) -> Size:
    """Read one size, as ``--samples`` takes it and ``results.csv`` has it.

    Raises
    ------
    InvalidInputError
        If it is neither a whole number from 1 nor ``"all"``.

    Examples
    --------
    >>> parse_size("16"), parse_size("all")
    (16, 'all')
    """
    if text == "all":
        return "all"
    if not _NUMBER.fullmatch(text) or int(text) < 1:
        raise InvalidInputError(f"{text!r} samples per class: give a whole number such as 16, or all")
    return int(text)


def size_order(size: Size) -> float:
    """Return what sizes are sorted by; all there are come last.

    Examples
    --------
    >>> sorted(["all", 16, 4], key=size_order)
    [4, 16, 'all']
    """
    return math.inf if size == "all" else size


def size_label(at: Mapping[str, Any]) -> str:
    """Return a size for the head of a column or a tick; see `size_words`.

    Examples
    --------
    >>> size_label({"n_per_class": 16})
    '16'
    >>> size_label({"n_per_class": "all", "fewest_per_class": 10, "most_per_class": 90})
    'all (10-90 per class)'
    """
    size, fewest, most = (at.get(name) for name in ("n_per_class", "fewest_per_class", "most_per_class"))
    if size != "all" or fewest is None:
        return f"{size}"
    return f"all ({fewest}{'' if fewest == most else f'-{most}'} per class)"


def size_words(at: Mapping[str, Any]) -> str:
    """Return a size in words.

    Parameters
    ----------
    at : mapping
        A point of a curve, a fit or a kept head: ``n_per_class``, and where known how many samples the class
        with the fewest and with the most has, ``fewest_per_class`` and ``most_per_class``, and the ``unit``
        that is drawn, ``"groups"`` or ``"samples"``.

    Examples
    --------
    >>> size_words({"n_per_class": 16})
    '16 samples per class'
    >>> size_words({"n_per_class": "all", "fewest_per_class": 10, "most_per_class": 90})
    'all samples (10-90 per class)'
    >>> size_words({"n_per_class": 16, "unit": "groups", "fewest_per_class": 20, "most_per_class": 31})
    '16 groups (20-31 images) per class'
    >>> size_words({"n_per_class": 16, "fewest_per_class": 9, "most_per_class": 16})
    'up to 16 samples (9-16) per class'
    """
    label, size = size_label(at), at["n_per_class"]
    if size == "all":
        return f"all samples{label.removeprefix('all')}"
    fewest, most = at.get("fewest_per_class"), at.get("most_per_class")
    unit = at.get("unit") or "samples"
    s = "" if size == 1 else "s"
    if unit == "groups":
        images = "" if fewest is None else f" ({fewest}{'' if fewest == most else f'-{most}'} images)"
        return f"{size} group{s}{images} per class"
    if fewest is not None and fewest < size:
        return f"up to {size} sample{s} ({fewest}-{most}) per class"
    return f"{size} sample{s} per class"


def _check_start(text: str, number: int) -> None:
    if number < 1:
        raise InvalidInputError(
            f"samples_per_class={text!r} asks for {number} samples per class; the smallest size is 1. {_HOW}"
        )


def _expand(text: str, first: str, last: str, step: str | None) -> Iterable[int]:
    low, high = int(first), int(last)
    _check_start(text, low)
    if high < low:
        raise InvalidInputError(
            f"samples_per_class={text!r} runs backwards: {high} is less than {low}. "
            f"Write the smaller number first, e.g. {max(high, 1)}..{low}."
        )
    if step is None:
        return [low << power for power in range((high // low).bit_length())]
    if int(step) < 1:
        raise InvalidInputError(f"samples_per_class={text!r} has step {step}; a step is at least 1. {_HOW}")
    # One too many is enough for the caller to refuse it; "1..999999999:1" must not fill the memory.
    return range(low, high + 1, int(step))[: _MOST_SIZES + 1]


def draw_nested(
    y: ArrayLike,
    sizes: Sequence[Size],
    *,
    repeats: int = 1,
    random_state: int = 0,
    class_names: Sequence[str] | None = None,
    groups: ArrayLike | None = None,
    up_to: bool = False,
) -> list[dict[Size, NDArray[np.int64]]]:
    """Draw nested, class-balanced training subsets without replacement.

    Within a repeat a smaller subset lies inside every larger one. Each (random_state, repeat, class) has a
    generator of its own, so asking for one more size, repeat or class changes no other draw. A size that
    takes every sample of every class leaves nothing to draw: the repeats of it coincide, and their spread
    says only how much the head's own random start matters.

    Parameters
    ----------
    y : array-like of int, shape (n_samples,)
        Class codes of the training rows; a negative code marks a row without a label, which is never drawn.
    sizes : sequence of int or "all"
        Samples per class; ``"all"`` takes every labelled row, balanced or not.
    repeats : int, default=1
        Number of independent draws.
    random_state : int, default=0
        Seed, not negative.
    class_names : sequence of str, optional
        Name of each code, for messages.
    groups : array-like of int, shape (n_samples,), optional
        Group of each row, such as its patient. `sizes` then count groups of a class, and each that is drawn
        brings all its rows of that class.
    up_to : bool, default=False
        Let a class that has fewer than a size give all it has, instead of refusing the size.

    Returns
    -------
    list (one entry per repeat) of dict from size to ndarray of int64, shape (n_drawn,)
        Sorted positions in `y`.

    Raises
    ------
    InvalidInputError
        If a class has fewer samples (or groups) than a size asks for, `y` holds no label, or `sizes`,
        `repeats` or `random_state` are out of range.

    Examples
    --------
    >>> draws = draw_nested([0, 0, 0, 1, 1, 1], [1, 2, "all"], repeats=2)
    >>> [len(rows) for rows in draws[0].values()]
    [2, 4, 6]
    >>> set(draws[0][1].tolist()) <= set(draws[0][2].tolist())
    True
    >>> draw_nested([0, 0, 0, 1, 1], [3])
    Traceback (most recent call last):
        ...
    featbank.errors.InvalidInputError: n_per_class=3 (--samples-per-class) asks for more samples than 1 of 2
    classes has: class 1 has 2. Use at most 2, drop this class, or add --up-to, which takes what it has.
    >>> draw_nested([0, 0, 0, 1, 1], [3], up_to=True)[0][3].tolist()
    [0, 1, 2, 3, 4]
    >>> draw_nested([0, 0, 0, 1, 1], [1], groups=[7, 7, 7, 7, 8])[0][1].tolist()
    [0, 1, 2, 4]
    """
    labels = np.asarray(y)
    if labels.ndim != 1 or not (labels.size == 0 or np.issubdtype(labels.dtype, np.integer)):
        raise InvalidInputError(
            f"y must be one row of class codes, got shape {labels.shape}, dtype {labels.dtype}"
        )
    for name, value in (("repeats", repeats), ("random_state", random_state)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise InvalidInputError(f"{name}={value!r} must be a whole number")
    if repeats < 1:
        raise InvalidInputError(f"repeats={repeats!r} must be at least 1")
    if random_state < 0:
        raise InvalidInputError(f"random_state={random_state!r} must not be negative")
    for size in sizes:
        if size != "all" and size < 1:
            raise InvalidInputError(f"n_per_class={size!r} must be at least 1, or 'all'")
    by_code = np.argsort(labels, kind="stable").astype(np.int64)  # of one code in order
    codes, starts = np.unique(labels[by_code], return_index=True)
    rows_of = {
        int(code): rows for code, rows in zip(codes, np.split(by_code, starts[1:]), strict=False) if code >= 0
    }
    if not rows_of:
        raise InvalidInputError("no training row has a label; check the split and the labels")
    group_of = None if groups is None else np.asarray(groups)
    units = rows_of if group_of is None else {code: np.unique(group_of[at]) for code, at in rows_of.items()}
    largest = max((size for size in sizes if size != "all"), default=0)
    if not up_to:
        what = "samples" if groups is None else "groups"
        _check_counts(largest, {code: len(one) for code, one in units.items()}, class_names, what)
    everything = np.sort(np.concatenate(list(rows_of.values())))
    draws: list[dict[Size, NDArray[np.int64]]] = []
    for repeat in range(repeats):
        orders = {code: _order(one, random_state, repeat, code) for code, one in units.items()}

        def drawn(size: int, orders: dict[int, NDArray[Any]] = orders) -> NDArray[np.int64]:
            parts = [order[:size] for order in orders.values()]
            if group_of is not None:
                of_class = zip(rows_of.values(), parts, strict=True)
                parts = [rows[np.isin(group_of[rows], part)] for rows, part in of_class]
            return np.sort(np.concatenate(parts))

        draws.append({size: everything.copy() if size == "all" else drawn(size) for size in sizes})
    return draws


def _order(rows: NDArray[Any], random_state: int, repeat: int, code: int) -> NDArray[Any]:
    """Return the rows, or groups, of a class in the order they are drawn in."""
    seed = np.random.SeedSequence([random_state, repeat, code])
    return np.random.Generator(np.random.PCG64(seed)).permutation(rows)


def hold_out(
    y: ArrayLike,
    drawn: NDArray[np.int64],
    fraction: float,
    *,
    groups: ArrayLike | None = None,
    random_state: int = 0,
    repeat: int = 0,
) -> NDArray[np.int64]:
    """Choose which rows of a draw are held out, to stop training and choose by.

    Of n rows of a class ``ceil((n - 1) * fraction)`` are: one of two already, never all, none of one. They
    are nested as draws of rows are: a row that is held out of a smaller draw is held out of every larger one
    of the repeat. Where whole groups are drawn, a larger draw may hold other groups out.

    Parameters
    ----------
    y : array-like of int, shape (n_samples,)
        Class codes of the training rows.
    drawn : ndarray of int64
        What `draw_nested` drew of them, with the same `random_state` in this `repeat`.
    fraction : float
        Over 0 and under 1.
    groups : array-like of int, shape (n_samples,), optional
        Group of each row: of n groups of a class that are drawn, so many are held out, all of each. One of
        several classes counts in that of most of its rows, and stays where a class would be left without.
    random_state, repeat : int

    Returns
    -------
    ndarray of int64, shape (n_held_out,)
        Sorted positions in `y`.

    Examples
    --------
    >>> y = [0] * 8 + [1] * 8
    >>> draws = draw_nested(y, [1, 2, 4, 8])
    >>> held = [hold_out(y, rows, 0.25) for rows in draws[0].values()]
    >>> [len(rows) for rows in held], set(held[2].tolist()) <= set(held[3].tolist())
    ([0, 2, 2, 4], True)
    """
    labels = np.asarray(y)
    if len(drawn) == int((labels >= 0).sum()):  # all there are: one draw, however often it is repeated
        repeat = 0
    group_of = None if groups is None else np.unique(groups, return_inverse=True)[1]
    home = np.arange(0) if group_of is None else _most_frequent(group_of, labels)
    is_drawn = np.zeros(len(labels), dtype=bool)
    is_drawn[drawn] = True
    held = [np.empty(0, dtype=np.int64)]
    for code in np.unique(labels[drawn]).tolist():
        order = _order(np.flatnonzero(labels == code).astype(np.int64), random_state, repeat, code)
        order = order[is_drawn[order]]
        if group_of is not None:  # the groups of the class as their first rows come
            own, first = np.unique(group_of[order], return_index=True)
            order = own[np.argsort(first)]
            order = order[home[order] == code]
        # how many are held of the first 1, 2, 3, ...; the tolerance keeps 30 x 0.1 at 3
        counts = np.ceil(np.arange(len(order)) * fraction - 1e-9)
        held.append(order[np.diff(counts, prepend=0.0) > 0])
    if group_of is None:
        return np.sort(np.concatenate(held))
    kept = np.isin(group_of[drawn], np.concatenate(held), invert=True)
    for code in np.setdiff1d(labels[drawn], labels[drawn[kept]]).tolist():
        # a class all of whose groups are at home in others
        kept |= group_of[drawn] == group_of[drawn][labels[drawn] == code][0]
    return np.sort(drawn[~kept])


def _most_frequent(group_of: NDArray[np.int64], labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return the class that most rows of each group have, the first of several; -1 for one without any."""
    known = labels >= 0
    pairs, counts = np.unique(np.stack([group_of[known], labels[known]]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    groups, first = np.unique(pairs[0][order], return_index=True)
    found = np.full(int(group_of.max()) + 1 if len(group_of) else 0, -1)
    found[groups] = pairs[1][order][first]
    return found


def deal_folds(
    y: ArrayLike, n_folds: int, *, groups: ArrayLike | None = None, random_state: int = 0
) -> NDArray[np.int64]:
    """Deal rows out to folds: each class evenly, each group whole.

    Parameters
    ----------
    y : array-like of int, shape (n_samples,)
        Class codes, none negative.
    n_folds : int
        From 2.
    groups : array-like of int, shape (n_samples,), optional
        Group of each row, such as its patient; each row is a group of its own by default.
    random_state : int, default=0
        Seed.

    Returns
    -------
    ndarray of int64, shape (n_samples,)
        Fold of each row, from 0. Large groups are dealt first, each to the fold that has the smallest part of
        its classes.

    Raises
    ------
    InvalidInputError
        If there are fewer groups than folds, or `n_folds` is below 2.

    Examples
    --------
    >>> folds = deal_folds([0, 0, 0, 0, 1, 1], 2)
    >>> np.bincount(folds).tolist(), sorted(folds[4:].tolist())
    ([3, 3], [0, 1])
    >>> folds = deal_folds([0, 0, 0, 0, 1, 1], 2, groups=[7, 7, 8, 8, 7, 8])
    >>> bool(folds[0] == folds[1] == folds[4] != folds[2] == folds[3] == folds[5])
    True
    """
    labels = np.asarray(y)
    if n_folds < 2:
        raise InvalidInputError(f"n_folds={n_folds!r} must be at least 2")
    n_classes = int(labels.max()) + 1 if labels.size else 0
    group_of = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    n_groups = int(group_of.max()) + 1 if labels.size else 0
    if n_groups < n_folds:
        raise InvalidInputError(
            f"{n_groups} {'groups' if groups is not None else 'rows'} cannot be dealt "
            f"out to {n_folds} folds; ask for at most {n_groups}"
        )
    in_class = np.bincount(labels, minlength=n_classes)
    rng = np.random.default_rng(random_state)
    order = rng.permutation(n_groups)
    sizes = np.bincount(group_of)
    order = order[np.argsort(-sizes[order], kind="stable")]
    by_group = np.argsort(group_of, kind="stable")
    ends = np.cumsum(sizes)
    dealt = np.zeros((n_folds, n_classes))
    folds = np.empty(len(labels), dtype=np.int64)
    for group in order.tolist():
        rows = by_group[ends[group] - sizes[group] : ends[group]]
        classes, counts = np.unique(labels[rows], return_counts=True)
        has = (dealt[:, classes] * counts / in_class[classes]).sum(axis=1)
        fold = int(np.lexsort((dealt.sum(axis=1), has))[0])
        dealt[fold, classes] += counts
        folds[rows] = fold
    return folds


def _check_counts(
    size: int, counts: dict[int, int], class_names: Sequence[str] | None, what: str = "samples"
) -> None:
    short = {code: count for code, count in counts.items() if count < size}
    if not short:
        return

    def name(code: int) -> str:
        return f"class {code}" if class_names is None else f"class '{printable(class_names[code])}'"

    said = [f"{name(code)} has {count}" for code, count in list(short.items())[:_MOST_NAMED]]
    rest = len(short) - len(said)
    these, have = ("this class", "has") if len(short) == 1 else ("these classes", "have")
    raise InvalidInputError(
        f"n_per_class={size} (--samples-per-class) asks for more {what} than {len(short)} of {len(counts)} "
        f"classes {have}: {', '.join(said)}{f' and {rest} more' if rest else ''}. "
        f"Use at most {min(short.values())}, drop {these}, or add --up-to, which takes what "
        f"{'it has' if len(short) == 1 else 'they have'}."
    )
