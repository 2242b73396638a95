"""The figures of a run for the page: the numbers of the displays, as charts, legends and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from featbank import figures
from featbank.manifest import printable
from featbank.plots import CurveDisplay, CutsDisplay, TemperatureDisplay
from featbank.plots.curve import METRICS, all_words, size_place
from featbank.report._axes import category_axis, percent_axis, size_axis
from featbank.report._charts import Chart, Point, Series, both, swatch
from featbank.runs import Run
from featbank.sampling import size_label, size_words
from featbank.sweep import CurvePoint

__all__ = ["Entry", "Figure", "Table", "depth_color", "percent", "run_figures", "spelled"]

#: Steps of the page's colour ramp from shallow to deep, and number of its plain colours.
_N_DEPTHS, _N_COLORS = 12, 7


@dataclass(frozen=True)
class Table:
    """A table: column names, rows of texts, and how many of the first columns are texts, not numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_texts: int = 1


@dataclass(frozen=True)
class Entry:
    """One line of a legend: a swatch and a name, or a heading; the series it stands for."""

    name: str
    swatch: Markup | None = None
    series: tuple[int, ...] = ()


@dataclass(frozen=True)
class Figure:
    """One figure of the page."""

    key: str
    title: str
    caption: str
    drawings: tuple[Markup, ...]
    legend: tuple[Entry, ...]
    table: Table


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent, ``"–"`` where it is not known.

    Examples
    --------
    >>> percent(0.9574), percent(None)
    ('95.7 %', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def spelled(cut: str, temperature: float | None) -> str:
    """Return how a cut is called on the page.

    Examples
    --------
    >>> spelled("fc7", None), spelled("softmax", 1.5)
    ('fc7', 'softmax at T = 1.5')
    """
    return printable(cut) if temperature is None else f"{printable(cut)} at T = {temperature:g}"


def depth_color(at: int, of: int) -> str:
    """Return the colour class of one of several things that have an order."""
    return f"d{round(at * (_N_DEPTHS - 1) / max(of - 1, 1))}"


def run_figures(run: Run) -> list[Figure]:
    """Return the figures a run's results allow, first the one that answers it; none if every fit failed."""
    points = run.result().points()
    if not points:
        return []
    one_size = len({point.n_per_class for point in points}) == 1
    found = [_of_one_size(points) if one_size else _curve(figures.curve(run))]
    tested = any("top1" in point.scores for point in points)
    if tested and len({point.cut for point in points if point.temperature is None}) > 1:
        found.append(_cuts(figures.cuts(run)))
    if len({point.temperature for point in points} - {None}) > 1:
        found.insert(0, _temperature(figures.temperature(run)))
    if one_size and len(found) > 1:  # a curve of one size says nothing that the others do not
        found = [one for one in found if one.key != "curve"]
    return found


def _interval(point: CurvePoint, metric: str) -> str:
    interval = point.interval(metric)
    return "" if interval is None else f"{100 * interval[0]:.1f} – {100 * interval[1]:.1f} %"


def _more(point: CurvePoint, metric: str) -> str:
    between, repeats = _interval(point, metric), point.n_repeats or 0
    n = size_words(vars(point))
    draws = f"{repeats} repeat{'' if repeats == 1 else 's'}" if repeats else ""
    return "; ".join(part for part in (n, between and f"95 % interval {between}", draws) if part)


def _point(x: float, point: CurvePoint, metric: str, name: str) -> Point:
    mean = point.mean(metric)
    low, high = point.interval(metric) or (None, None)
    return Point(
        x,
        math.nan if mean is None else 100 * mean,
        None if low is None else 100 * low,
        None if high is None else 100 * high,
        (name, percent(mean), _more(point, metric)),
        apart=point.n_per_class == "all" and x == size_place(point),
    )


def _reached(series: Sequence[Series]) -> list[float]:
    values = [[point.y, point.low, point.high] for one in series for point in one.points]
    return [value for three in values for value in three if value is not None and math.isfinite(value)]


def _span(one: Series) -> str:
    ends = [point for point in one.points if math.isfinite(point.y)]
    if not ends:
        return f"{one.name}: not known"
    if len(ends) == 1:
        return f"{one.name}: {ends[0].y:.1f} %"
    return f"{one.name}: from {ends[0].y:.1f} % to {ends[-1].y:.1f} %"


def _curve(display: CurveDisplay) -> Figure:
    metric = display.metric
    cuts = list(dict.fromkeys((cut, temperature) for cut, _, temperature in display.series))
    heads = list(dict.fromkeys(head for _, head, _ in display.series))
    by_cut = len(cuts) > 1
    series = []
    for (cut, head, temperature), points in display.series.items():
        at, of = cuts.index((cut, temperature)), heads.index(head)
        name = f"{printable(head)} on {spelled(cut, temperature)}"
        series.append(
            Series(
                name,
                tuple(_point(size_place(point), point, metric, name) for point in points),
                depth_color(at, len(cuts)) if by_cut else f"h{of % _N_COLORS}",
                dash=of,
                marker=at if by_cut else of,
                filled=of % 2 == 0,
            )
        )
    keys = list(display.series)
    sizes = {size_place(point): f"{point.n_per_class}" for point in display.points}
    uneven = dict.fromkeys(all_words(point) for point in display.points if point.n_per_class == "all")
    y = percent_axis(METRICS[metric], _reached(series))
    label = "Line chart of accuracy against training samples per class. " + "; ".join(map(_span, series))
    # a band between points needs two of them
    axis, alone = size_axis("Training samples per class (images)", sizes), len(sizes) == 1
    chart = Chart(label, axis, y, tuple(series), whiskers=alone)
    legend: list[Entry] = []
    if by_cut:
        one_cut = len({cut for cut, _ in cuts}) == 1
        legend.append(Entry("Temperature" if one_cut else "Cut, shallow to deep"))
        for at, (cut, temperature) in enumerate(cuts):
            mine = tuple(i for i, key in enumerate(keys) if (key[0], key[2]) == (cut, temperature))
            look = swatch(depth_color(at, len(cuts)), 0, at)
            legend.append(Entry(spelled(cut, temperature), look, mine))
    if len(heads) > 1 or not by_cut:
        legend.append(Entry("Head" if by_cut else f"Head on {spelled(*cuts[0])}"))
        for of, head in enumerate(heads):
            mine = tuple(i for i, key in enumerate(keys) if key[1] == head)
            look = swatch(
                "grey" if by_cut else f"h{of % _N_COLORS}", of, 0 if by_cut else of, filled=of % 2 == 0
            )
            legend.append(Entry(printable(head), look, mine))
    banded = any(point.low is not None for one in series for point in one.points)
    repeated = any((point.n_repeats or 2) > 1 for point in display.points)
    caption = "Mean over the repeats, each with its own draw" if repeated else "One draw"
    caption += " of training images"
    caption += f"; the {'bar' if alone else 'band'} is the 95 % interval of that mean." if banded else "."
    caption += f" Without a line to it: {'; '.join(uneven)}." if uneven else ""
    rows = tuple(
        (
            spelled(cut, temperature),
            printable(head),
            size_label(vars(point)),
            percent(point.mean(metric)),
            _interval(point, metric) or "–",
            f"{point.n_repeats}",
            f"{point.n_failed}",
        )
        for (cut, head, temperature), points in display.series.items()
        for point in points
    )
    columns = ("Cut", "Head", "Samples per class", "Accuracy", "95 % interval", "Repeats", "Failed")
    table = Table(columns, rows, 2)
    return Figure("curve", "Accuracy by samples per class", caption, (both(chart),), tuple(legend), table)


#: What is known of a fit, as it is called on the page.
_SHARES = {
    "top1": "test",
    "val_top1": "validation",
    "train_top1": "training",
    "top5": "test top-5",
    "val_top5": "val. top-5",
}


def _certainty(point: CurvePoint, metric: str) -> tuple[str, str]:
    return _interval(point, metric) or "–", f"{point.n_repeats}"


def _of_one_size(points: Sequence[CurvePoint]) -> Figure:
    """Return every accuracy of each curve side by side, for there is no size to draw them against."""
    named = [f"{printable(p.head)} on {spelled(p.cut, p.temperature)}" for p in points]
    known = [one for one in _SHARES if any(one in point.scores for point in points)][:4]
    known = known or ["top1"]
    if len(points) == 1:
        told = {one: _point(at, points[0], one, _SHARES[one].capitalize()) for at, one in enumerate(known)}
        series = [Series(named[0], tuple(told.values()), "h0", joined=False)]
        axis = category_axis("Images it is judged by", [_SHARES[one] for one in known])
        legend: tuple[Entry, ...] = ()
    else:
        series = []
        for at, one in enumerate(known[:3]):
            mine = tuple(
                _point(x + 0.06 * (at - 1), point, one, f"{name}, {_SHARES[one]}")
                for x, (point, name) in enumerate(zip(points, named, strict=True))
            )
            series.append(Series(_SHARES[one], mine, f"h{at}", marker=at, filled=at == 0, joined=False))
        cuts = [spelled(p.cut, p.temperature) for p in points]
        heads = [printable(p.head) for p in points]
        # what all have in common only takes the room of what tells them apart
        ticks = heads if len(set(cuts)) == 1 else cuts if len(set(heads)) == 1 else named
        axis = category_axis("Head and cut" if ticks is named else "Cut" if ticks is cuts else "Head", ticks)
        legend = tuple(
            Entry(one.name.capitalize(), swatch(one.color, 0, one.marker, filled=one.filled), (at,))
            for at, one in enumerate(series)
        )
    label = f"Chart of accuracies at one size. {'; '.join(map(_span, series))}"
    y = percent_axis("Accuracy (%)", _reached(series))
    rows = tuple(
        (name, *(percent(p.mean(one)) for one in known), *_certainty(p, known[0]))
        for p, name in zip(points, named, strict=True)
    )
    shares = [_SHARES[one].capitalize() for one in known]
    columns = ("Head", *shares, f"95 % interval, {_SHARES[known[0]]}", "Repeats")
    size = size_words(vars(points[0]))
    return Figure(
        "curve",
        f"Accuracy at {size}",
        f"All fits have {size}; bars are 95 % intervals over the repeats.",
        (both(Chart(label, axis, y, tuple(series), whiskers=True)),),
        legend,
        Table(columns, rows, 1),
    )


def _cuts(display: CutsDisplay) -> Figure:
    names = [spelled(cut, temperature) for cut, temperature in display.cuts]
    series: list[Series] = []
    rows = []
    for of, head in enumerate(display.heads):
        mine = {(p.cut, p.temperature): p for p in display.points if p.head == head}
        shift = 0.06 * (of - (len(display.heads) - 1) / 2)  # equal values must not hide each other
        for metric, split in (("top1", "test"), ("train_top1", "training")):
            points = tuple(
                _point(at + shift, mine[cut], metric, f"{printable(head)} on {name}, {split} images")
                for at, (cut, name) in enumerate(zip(display.cuts, names, strict=True))
                if cut in mine
            )
            if metric == "train_top1":  # the interval of a value that is mostly 100 % only clutters
                points = tuple(Point(p.x, p.y, said=p.said) for p in points)
            if any(math.isfinite(point.y) for point in points):
                dash = 0 if metric == "top1" else 2
                series.append(
                    Series(f"{printable(head)}, {split}", points, f"h{of % _N_COLORS}", dash, of, dash == 0)
                )
        rows += [
            (
                name,
                printable(head),
                percent(mine[cut].mean("top1")),
                _interval(mine[cut], "top1") or "–",
                percent(mine[cut].mean("train_top1")),
            )
            for cut, name in zip(display.cuts, names, strict=True)
            if cut in mine
        ]
    label = "Line chart of accuracy against the depth of the cut. " + "; ".join(map(_span, series))
    chart = Chart(
        label,
        category_axis("Cut of the backbone (shallow to deep)", names),
        percent_axis("Top-1 accuracy (%)", _reached(series)),
        tuple(series),
        whiskers=True,
    )
    legend = tuple(
        Entry(one.name, swatch(one.color, one.dash, one.marker, filled=one.filled), (at,))
        for at, one in enumerate(series)
    )
    caption = f"At {size_words(vars(display.points[0]))}; bars are 95 % intervals over the repeats."
    columns = ("Cut", "Head", "Test accuracy", "95 % interval", "Training accuracy")
    return Figure(
        "cuts", "Accuracy by depth", caption, (both(chart),), legend, Table(columns, tuple(rows), 2)
    )


def _temperature(display: TemperatureDisplay) -> Figure:
    split = "test" if display.split == "test" else "validation"
    series: list[Series] = []
    rows = []
    for of, head in enumerate(display.heads):
        mine = [(one, one.temperature) for one in display.points if one.head == head and one.temperature]
        for at, (line, metric) in enumerate(display.lines.items()):
            name = ", ".join(part for part in (printable(head), line) if part)
            points = tuple(_point(t, one, metric, f"{name}, T = {t:g}") for one, t in mine)
            color = f"h{(2 * of + at) % _N_COLORS}"
            series.append(Series(name, points, color, at, of, at == 0))
        rows += [
            (
                printable(head),
                f"{temperature:g}",
                *(percent(point.mean(metric)) for metric in display.lines.values()),
                *(_interval(point, metric) or "–" for metric in display.lines.values()),
            )
            for point, temperature in mine
        ]
    best = [
        f"{one.name}: highest at T = {top.x:g} ({top.y:.1f} %)"
        for one in series
        if (top := max((p for p in one.points if math.isfinite(p.y)), key=lambda p: p.y, default=None))
    ]
    temperatures = {point.x: f"{point.x:g}" for one in series for point in one.points}
    chart = Chart(
        "Line chart of accuracy against the softmax temperature. " + "; ".join(best),
        size_axis("Softmax temperature T (dimensionless)", temperatures),
        percent_axis(f"Top-1 accuracy on {split} images (%)", _reached(series)),
        tuple(series),
        whiskers=True,
    )
    legend = tuple(
        Entry(one.name, swatch(one.color, one.dash, one.marker, filled=one.filled), (at,))
        for at, one in enumerate(series)
    )
    lines = [line or "accuracy" for line in display.lines]
    columns = (
        "Head",
        "T",
        *(line.capitalize() for line in lines),
        *(f"95 % interval, {one}" for one in lines),
    )
    caption = f"At {size_words(vars(display.points[0]))}; bars are 95 % intervals. {'; '.join(best)}."
    title = "Accuracy by softmax temperature"
    return Figure("temperature", title, caption, (both(chart),), legend, Table(columns, tuple(rows), 1))
