"""The files of one kept head in a run folder: its weights, its answers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featbank import _atomic
from featbank.errors import InvalidInputError
from featbank.sweep import Fit

__all__ = ["forget_kept", "save_kept", "with_null"]


def save_kept(folder: Path, fit: Fit, classes: Sequence[str]) -> dict[str, Any]:
    """Write the head of a fit and its answers into a run folder, and return what ``run.json`` says of it."""
    from featbank.heads import save_head

    answers = fit.predictions
    if answers is None:
        raise ValueError("a head without answers cannot be kept")
    entry: dict[str, Any] = {
        "name": fit.name,
        "cut": fit.cut,
        "head": fit.head,
        "temperature": fit.temperature,
        "n_per_class": fit.n_per_class,
        "fewest_per_class": fit.fewest_per_class,
        "most_per_class": fit.most_per_class,
        "repeat": fit.repeat,
        "top1": fit.top1,
        "val_top1": fit.val_top1,
        "best_epoch": fit.best_epoch,
    }
    try:
        # what it answers are numbers; the file says, without the run, what they stand for
        codes = fit.estimator.classes_ if hasattr(fit.estimator, "predict_columns") else ()
        named = {"class_names": [classes[code] for code in codes]}
        save_head(folder / "heads" / fit.name, fit.estimator, facts=entry | named)
        entry["saved"] = True
    except InvalidInputError:  # an estimator of the caller's own, which featbank has no format for
        entry["saved"] = False
    columns = {
        "rows": answers.rows,
        "y_true": answers.y_true,
        "y_pred": answers.y_pred,
        "p_true": answers.p_true,
        "p_pred": answers.p_pred,
    }
    plain = {name: None if one is None else one.tolist() for name, one in columns.items()}
    answered = _atomic.make_folder(folder / "predictions")
    _atomic.write_json(answered / f"{fit.name}.json", {"split": answers.split, **plain})
    return entry


def forget_kept(folder: Path, name: str) -> None:
    """Remove the files of a head that a better one replaced; `run.json` does not name it any more."""
    for file in (f"heads/{name}.safetensors", f"heads/{name}.json", f"predictions/{name}.json"):
        with contextlib.suppress(OSError):  # a file too many does no harm
            (folder / file).unlink()


def with_null(history: Mapping[str, Sequence[float]]) -> dict[str, list[float | None]]:
    """Make a history fit for JSON, which knows neither NaN nor infinity: a loss that is no number is null."""
    return {key: [one if math.isfinite(one) else None for one in values] for key, values in history.items()}
