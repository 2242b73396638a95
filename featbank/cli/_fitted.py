"""What commands print of fitted heads: the curve as a table, what was chosen, which head answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from featbank.cli._output import or_ends, print_table, say
from featbank.manifest import printable
from featbank.metrics.catalogue import mean_text, percent, spelling
from featbank.sampling import Size, size_label, size_order, size_words

if TYPE_CHECKING:
    from featbank.fitting import FittedRun
    from featbank.metrics import ClassScores
    from featbank.sweep import CurvePoint, SweepResult
    from featbank.sweep.curves import IntervalKind
    from featbank.sweep.records import Key

__all__ = ["answering", "print_curve", "print_notes", "print_scores"]


def answering(fitted: FittedRun) -> dict[str, Any] | None:
    """Return the head that answers `featbank predict`, if one was saved."""
    return fitted.run.best_head() if any(one["saved"] for one in fitted.run.heads()) else None


def print_scores(result: SweepResult, interval: IntervalKind = "t") -> None:
    """Print the curves as a table: one line per cut, head and temperature, one column per size."""
    from featbank.sweep.curves import judged_rows, main_metric, spelled_metric

    points = result.points(interval=interval)
    metric = main_metric(points)
    split = judged_rows(points)
    of = "groups of the " if result.judged_groups else ""
    said = _spread(points, metric, f"the {of}{split} images" if interval == "bootstrap" else None)
    unit = points[0].unit if points else "samples"
    typer.echo(f"\n{spelled_metric(metric, points)}{spelling(metric)[0]} by {unit} per class: {said}\n")
    _print_by_size(points, partial(_cell, metric))
    for at, text in enumerate([*_remarks(points, metric, interval), *result.resolution()]):
        typer.echo(text if at else f"\n{text}")


def print_curve(fitted: FittedRun, interval: IntervalKind = "t") -> None:
    """Print the curves, what was chosen, the head that answers, where all is, and the answer in sentences."""
    from featbank.runs import answer_of

    print_scores(fitted.result, interval)
    points = fitted.result.points(interval=interval)
    for name in ("C", "lr"):
        chosen = [point for point in points if _is_auto(fitted, point.head, name)]
        if any(name in point.ranges for point in chosen):
            typer.echo(f"\n{name} chosen, by samples per class: its range where draws differ\n")
            _print_by_size(chosen, partial(_range, name))
    print_notes(fitted)
    result = fitted.result
    typer.echo(f"\n{'images':<12}{_counts(result.n_rows, result.untrained, result.draws.get('folds'))}")
    best = answering(fitted)
    if best is not None:
        typer.echo(f"{'head':<12}{_said(fitted, best)}")
    typer.echo(f"{'bank':<12}{printable(str(fitted.run.source['bank']))}")
    typer.echo(f"{'run':<12}{fitted.run.path}")
    for kind, path in fitted.figures.items():
        typer.echo(f"{kind:<12}{path}")
    found = answer_of(fitted.result)
    if found is not None:
        typer.echo(f"\n{found}")


def _print_by_size(points: Sequence[CurvePoint], cell: Callable[[CurvePoint], str]) -> None:
    sizes = {point.n_per_class: size_label(vars(point)) for point in points}
    lines: dict[Key, dict[Size, str]] = {}
    for point in points:
        lines.setdefault(point.key, {})[point.n_per_class] = cell(point)
    columns = [sizes[size] for size in sorted(sizes, key=size_order)]
    print_table(
        ("cut", "head", *columns),
        [
            (
                cut if at is None else f"{cut} T={at:g}",
                head,
                *(cells.get(size, "") for size in sorted(sizes, key=size_order)),
            )
            for (cut, head, at), cells in lines.items()
        ],
        numeric=columns,
    )


def _spread(points: Sequence[CurvePoint], metric: str, over: str | None) -> str:
    """Say what stands in the cells."""
    from featbank.sweep.curves import interval_of

    with_interval = [point for point in points if point.interval(metric)]
    if not with_interval:
        return "mean"
    if over is not None:
        return f"mean and 95 % interval over {over}"
    draws = sorted({point.n_draws or 0 for point in with_interval})
    what = "folds" if any(point.n_folds for point in with_interval) else "draws"
    many = f"{draws[0]} {what}" if len(draws) == 1 else f"{draws[0]} to {draws[-1]} {what}"
    ends = or_ends(_cell(metric, point) for point in with_interval)
    return f"mean of {many} and half width of its {interval_of(with_interval)}{ends}"


def _remarks(points: Sequence[CurvePoint], metric: str, interval: str) -> Iterator[str]:
    """Say where there is no interval and why, and what the column ``all`` is."""
    from featbank.plots.chart import missing_intervals

    missing = missing_intervals(points, metric) if interval == "t" else []
    if missing:
        few = " (it takes 3)" if any("2 draws" in why for why in missing) else ""
        yield f"no interval{few}: {'; '.join(missing)}"
    if interval == "bootstrap" and metric not in ("top1", "val_top1"):
        yield f"no interval: --interval bootstrap knows those of accuracies only, not of {metric}"
    uneven = next((point for point in points if point.n_per_class == "all"), None)
    if uneven is not None:
        mean = uneven.mean_per_class
        yield f"{size_words(vars(uneven))}: every training image; {mean:.4g} per class on average"


def _is_auto(fitted: FittedRun, head: str, name: str) -> bool:
    """Say whether a head chose a parameter itself."""
    given: Mapping[str, Any] = fitted.run.facts["parameters"].get("head_params") or {}
    value = given.get(head, given.get(head.partition("(")[0], {})).get(name)
    return value == "auto" or f"{name}=auto" in head


def _range(name: str, point: CurvePoint) -> str:
    if name not in point.ranges:
        return ""
    low, high = point.ranges[name]
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _counts(n_rows: Mapping[str, int], untrained: Mapping[str, Any], n_folds: int | None = None) -> str:
    """Say how many images there are of each split, and what became of those of untrained classes.

    Examples
    --------
    >>> _counts({"train": 896, "val": 128, "test": 256}, {})
    '896 to train on, 128 for validation, 256 for the test'
    >>> _counts({"train": 8, "test": 6}, {"policy": "drop", "classes": {"c": {"val": 1, "test": 6}}})
    '8 to train on, 0 for validation, 6 for the test; left out 7 of 1 class without training images'
    """
    words = (("train", "to train on"), ("val", "for validation"), ("test", "for the test"))
    said = ", ".join(f"{n_rows.get(split, 0)} {what}" for split, what in words)
    if n_folds:
        said = f"{n_rows['test']} in {n_folds} folds, each for the test once"
    if not untrained:
        return said
    n_classes, n = len(untrained["classes"]), sum(sum(one.values()) for one in untrained["classes"].values())
    became = "left out" if untrained["policy"] == "drop" else "counted as wrong"
    return f"{said}; {became} {n} of {n_classes} class{'es' if n_classes > 1 else ''} without training images"


def _said(fitted: FittedRun, head: Mapping[str, Any]) -> str:
    """Say which head answers predictions, how good it is, and at which classes it is worst."""
    scores = fitted.run.per_class_scores(head["name"])
    known = {name: one for name, one in scores.items() if one.recall is not None}
    weakest = sorted(known, key=lambda name: known[name].recall or 0.0)[:3]
    listed = [f"{printable(name)} {_share(known[name])}" for name in weakest]
    at = "" if head["temperature"] is None else f" at T={head['temperature']:g}"
    score = head["top1"] if head["top1"] is not None else head["val_top1"]
    what = f"{head['head']} on {head['cut']}{at}, {size_words(head)}, one fit"
    unkept = fitted.run.unkept()
    instead = f"; the best, {printable(unkept)}, was not kept" if unkept else ""
    return f"{what}: {percent(score)}; weakest {', '.join(listed)}{instead}"


def _share(one: ClassScores) -> str:
    """Say a recall with its counts and interval: of eight images a percentage alone promises too much.

    Examples
    --------
    >>> from featbank.metrics import per_class_scores
    >>> _share(per_class_scores([[3, 5], [0, 1]])[0])
    '38 % (3 of 8; 95 %: 14 to 69)'
    """
    low, high = 100 * (one.recall_low or 0.0), 100 * (one.recall_high or 0.0)
    share = 100 * (one.recall or 0.0)
    return f"{share:.0f} % ({one.n_right} of {one.n_true}; 95 %: {low:.0f} to {high:.0f})"


def print_notes(fitted: FittedRun) -> None:
    """Say on standard error what has to be known to read the result."""
    for note in fitted.result.notes:
        say(f"note: {note}")


def _cell(metric: str, point: CurvePoint) -> str:
    mean = point.mean(metric)
    return "" if mean is None else mean_text(mean, point.interval(metric), metric)
