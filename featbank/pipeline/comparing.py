"""Published beside measured, and where the two protocols differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featbank.pipeline.claims import StudyPoint
from featbank.pipeline.study import Experiment, Figure
from featbank.sampling import size_order

__all__ = ["computed_differences", "measure"]


def measure(figure: Figure, points: Sequence[StudyPoint]) -> dict[str, Any]:
    """Find the measured number that stands beside a published one.

    Parameters
    ----------
    figure : Figure
    points : sequence of StudyPoint

    Returns
    -------
    dict
        ``label``, ``metric``, ``what``, ``value`` (None where nothing was measured), ``low``, ``high`` (its
        95 % interval, None for a temperature and where there is none), ``experiment``, ``cut``, ``head``,
        ``n_per_class``, ``fewest_per_class``, ``most_per_class``, ``temperature``, ``n_repeats``.

    Examples
    --------
    >>> from featbank.sweep import Score
    >>> point = StudyPoint("fc7", "softmax", 28, {"top1": Score(0.75, 0.74, 0.76)}, experiment="fc7")
    >>> measure(Figure("test", 0.7554, "top1", "fc7"), [point])["value"]
    0.75
    """
    found: dict[str, Any] = {
        "label": figure.label,
        "metric": figure.metric,
        "what": figure.what,
        "experiment": figure.experiment,
        "cut": figure.cut,
        "head": figure.head,
        "n_per_class": figure.n_per_class,
        "temperature": figure.temperature,
        "value": None,
        "low": None,
        "high": None,
        "n_repeats": None,
    }
    line = [
        one
        for one in points
        if one.experiment == figure.experiment
        and figure.metric in one.scores
        and figure.cut in (None, one.cut)
        and figure.head in (None, one.head)
        and figure.temperature in (None, one.temperature)
    ]
    if figure.n_per_class is None:
        largest = max((one.n_per_class for one in line), key=size_order, default=None)
        line = [one for one in line if one.n_per_class == largest]
    else:
        line = [one for one in line if one.is_of_size(figure.n_per_class)]
    if not line:
        return found
    best = max(line, key=lambda one: one.scores[figure.metric].mean)
    names = ("cut", "head", "n_per_class", "fewest_per_class", "most_per_class", "temperature", "n_repeats")
    found |= {name: getattr(best, name) for name in names}
    if figure.what == "temperature":
        return found | {"value": best.temperature}
    score = best.scores[figure.metric]
    return found | {"value": score.mean, "low": score.low, "high": score.high}


def computed_differences(
    experiments: Iterable[tuple[Experiment, Experiment, Mapping[str, Any]]], limit: int | None
) -> list[str]:
    """Say where a run departs from its file.

    Parameters
    ----------
    experiments : iterable of (Experiment, Experiment, mapping)
        As the file has it, as it was run, and the source of its run (see `featbank.runs.Run.source`) with
        ``n_classes``, the number of classes there were.
    limit : int or None
        What ``--limit`` said.

    Returns
    -------
    list of str
        Sentences, each once.
    """
    said: dict[str, None] = {}
    for written, run, source in experiments:
        if run.backbone.name != written.backbone.name:
            said.setdefault(f"backbone {run.backbone.name} instead of {written.backbone.name}")
        if source["weights"] == "random":
            said.setdefault(f"{run.backbone.name} has RANDOM weights: its features are those of no training")
        elif written.backbone.weights and run.backbone.weights != written.backbone.weights:
            said.setdefault(
                f"{run.backbone.name} has the weights {source['weights']} instead of "
                f"{written.backbone.weights}"
            )
        expected, there = written.data.n_classes_published, source["n_classes"]
        if expected is not None and expected != there:
            said.setdefault(f"{there} classes here, {expected} in the report")
    if limit is not None:
        said.setdefault(f"at most {limit} images (--limit)")
    return list(said)
