"""What figures and tables say of points without an interval: how many draws there were, at which sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from featbank.sampling import size_order

__all__ = ["draws_of", "missing_intervals"]


def draws_of(point: Mapping[str, Any]) -> int | None:
    """Return how many different draws of training samples a point is the mean of; None if nobody knows."""
    n_draws = point.get("n_draws", point.get("n_repeats"))
    return None if n_draws is None else int(n_draws)


def missing_intervals(points: Iterable[Mapping[str, Any]], metric: str) -> list[str]:
    """Say where there is no interval and why.

    Parameters
    ----------
    points : iterable of mapping
        As `featbank.sweep.SweepResult.curve` gives them.
    metric : str
        What is shown of them.

    Returns
    -------
    list of str
        E.g. ``"32 (one draw)"``; no sizes where it holds for all, nothing where every point has an interval.

    Examples
    --------
    >>> point = {"n_per_class": 4, "n_draws": 5, "top1_mean": 0.5, "top1_low": 0.4, "top1_high": 0.6}
    >>> alone = {"n_per_class": 8, "n_draws": 1, "top1_mean": 0.5, "top1_low": None, "top1_high": None}
    >>> missing_intervals([point, alone], "top1"), missing_intervals([alone], "top1")
    (['8 (one draw)'], ['one draw'])
    """
    shown = [one for one in points if one.get(f"{metric}_mean") is not None]
    without: dict[str, list[str]] = {}
    for one in sorted(shown, key=lambda point: size_order(point["n_per_class"])):
        n_draws = draws_of(one)
        if one.get(f"{metric}_low") is None and n_draws is not None:
            why = "one draw" if n_draws == 1 else f"{n_draws} draws"
            if one.get("all_samples") and one["n_per_class"] != "all":
                why += ", all samples"
            without.setdefault(why, []).append(f"{one['n_per_class']}")
    if len(without) == 1 and sum(map(len, without.values())) == len(shown):
        return list(without)
    return [f"{', '.join(dict.fromkeys(sizes))} ({why})" for why, sizes in without.items()]
