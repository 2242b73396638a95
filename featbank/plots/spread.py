"""What figures and tables say of points without an interval: how many draws there were, at which sizes."""

from __future__ import annotations

from collections.abc import Iterable

from featbank.sampling import size_order
from featbank.sweep import CurvePoint

__all__ = ["missing_intervals"]


def missing_intervals(points: Iterable[CurvePoint], metric: str) -> list[str]:
    """Say where there is no interval and why.

    Parameters
    ----------
    points : iterable of CurvePoint
    metric : str
        What is shown of them.

    Returns
    -------
    list of str
        E.g. ``"32 (one draw)"``; no sizes where it holds for all, nothing where every point has an interval.

    Examples
    --------
    >>> from featbank.sweep import Score
    >>> point = CurvePoint("fc7", "mlp", 4, {"top1": Score(0.5, 0.4, 0.6)}, n_draws=5)
    >>> alone = CurvePoint("fc7", "mlp", 8, {"top1": Score(0.5)}, n_draws=1)
    >>> missing_intervals([point, alone], "top1"), missing_intervals([alone], "top1")
    (['8 (one draw)'], ['one draw'])
    """
    shown = [one for one in points if metric in one.scores]
    without: dict[str, list[str]] = {}
    for one in sorted(shown, key=lambda point: size_order(point.n_per_class)):
        if one.interval(metric) is None and one.n_draws is not None:
            why = "one draw" if one.n_draws == 1 else f"{one.n_draws} draws"
            if one.all_samples and one.n_per_class != "all":
                why += ", all samples"
            without.setdefault(why, []).append(f"{one.n_per_class}")
    if len(without) == 1 and sum(map(len, without.values())) == len(shown):
        return list(without)
    return [f"{', '.join(dict.fromkeys(sizes))} ({why})" for why, sizes in without.items()]
