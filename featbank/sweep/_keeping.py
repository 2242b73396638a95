"""Which fitted heads are worth keeping; the same ones in whatever order fits are finished."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Literal

from featbank.sampling import size_order
from featbank.sweep._fitting import Outcome
from featbank.sweep._scoring import history_of
from featbank.sweep.records import FitResult, Key
from featbank.sweep.results import KeptHead, head_name

__all__ = ["Keeper"]


class Keeper:
    """Chooses heads as they come: the best of each curve, all, or none.

    The best is that with the best validation accuracy at the largest size; of equals the earliest repeat,
    which is always the first where nothing was validated.

    Parameters
    ----------
    keep : {"best", "all", "none"}
    done : iterable of FitResult
        Fits of an earlier part of the sweep, whose heads were chosen in the same way.
    """

    def __init__(self, keep: Literal["best", "all", "none"], done: Iterable[FitResult]) -> None:
        self.keep = keep
        self._best: dict[Key, FitResult] = {}
        for fit in done:
            if fit.status == "ok" and self._is_better(fit):
                self._best[fit.key] = fit

    def _is_better(self, fit: FitResult) -> bool:
        rival = self._best.get(fit.key)
        return rival is None or _rank(fit) > _rank(rival)

    def choose(self, outcomes: Sequence[Outcome]) -> tuple[list[KeptHead], tuple[str, ...]]:
        """Return those of new fits to keep, and the names of heads kept before that they replace."""
        good = [one for one in outcomes if one.predictions is not None and one.estimator is not None]
        if self.keep == "none":
            return [], ()
        if self.keep == "all":
            return [_kept(one) for one in good], ()
        before = dict(self._best)
        chosen: dict[Key, Outcome] = {}
        for one in good:
            if self._is_better(one.record):
                self._best[one.record.key] = one.record
                chosen[one.record.key] = one
        dropped = tuple(head_name(before[key]) for key in chosen if key in before)
        return [_kept(one) for one in chosen.values()], dropped


def _rank(fit: FitResult) -> tuple[float, float, int]:
    return size_order(fit.n_per_class), fit.val_top1 or 0.0, -fit.repeat


def _kept(outcome: Outcome) -> KeptHead:
    # The copy of a rotated softmax head carries weights on features, not the training rows they span.
    estimator = outcome.estimator
    light = copy.copy(estimator) if hasattr(estimator, "predict_columns") else estimator
    if outcome.predictions is None:
        raise ValueError("a head without answers cannot be kept")
    return KeptHead(outcome.record, light, history_of(estimator), outcome.predictions)
