"""The learning curve: accuracy against samples per class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featbank.errors import InvalidInputError
from featbank.manifest import printable
from featbank.metrics.catalogue import less_is_better, score_text, spelling
from featbank.plots.chart import (
    MARKERS,
    N_PLAIN,
    Chart,
    Entry,
    Look,
    Point,
    Series,
    Table,
    curve_point,
    depth,
    interval_text,
    linear_axis,
    missing_intervals,
    percent_axis,
    plain,
    reached,
    run_title,
    selected_points,
    size_axis,
    span_text,
    spelled,
)
from featbank.plots.display import Display
from featbank.sampling import size_label, size_order
from featbank.sweep import CurvePoint
from featbank.sweep.curves import IntervalKind, interval_of, judged_by, judged_rows, main_metric
from featbank.sweep.records import CURVE_METRICS, Key

if TYPE_CHECKING:
    from featbank.metrics import PowerLaw
    from featbank.runs import Run

__all__ = ["METRICS", "CurveDisplay"]

#: What can stand on the vertical axis, and the axis's name.
METRICS = {
    "top1": "Top-1 accuracy on test images (%)",
    "top5": "Top-5 accuracy on test images (%)",
    "val_top1": "Top-1 accuracy on validation images (%)",
    "val_top5": "Top-5 accuracy on validation images (%)",
    "train_top1": "Top-1 accuracy on training images (%)",
    "train_top5": "Top-5 accuracy on training images (%)",
}

#: With more curves than that not every one gets a band.
MOST_BANDS = 5


def _size_place(point: CurvePoint) -> float:
    """Return where a point stands on the axis: all of uneven classes at their mean."""
    return float(point.mean_per_class or 0) if point.n_per_class == "all" else float(point.n_per_class)


def _named(heads: Sequence[str]) -> tuple[str, list[str]]:
    """Return what heads are told apart by, and what to call each: ``logreg, by C`` and ``C = 0.1``, ..."""
    parted = [head.removesuffix(")").partition("(") for head in heads]
    families = {family for family, _, _ in parted}
    names = {given.partition("=")[0] for _, _, given in parted}
    if len(heads) > 1 and len(families) == len(names) == 1 and "," not in "".join(heads):
        (name,) = names
        if name:
            return f"{printable(*families)}, by {name}", [one.replace("=", " = ", 1) for _, _, one in parted]
    return "Head", [printable(head) for head in heads]


def _doublings(size: float, until: float) -> Iterator[float]:
    """Yield twice a size, four times it, ... up to `until`, which comes last.

    Examples
    --------
    >>> list(_doublings(32, 200)), list(_doublings(32, 32))
    ([64, 128, 200], [])
    """
    while size < until:
        size = min(2 * size, until)
        yield size


class CurveDisplay(Display):
    """Accuracy against samples per class: the mean over repeats and its interval, per cut and head.

    Several cuts are told apart by colour (dark to light in the order given: shallow to deep) and marker,
    several heads by line style and filled or open markers; a single cut's heads get colours of their own.
    The horizontal axis is logarithmic to base 2, because gains come with each doubling. All samples of uneven
    classes stand at their mean per class, ringed and without a line to them: so many of each class they are
    not. A band takes three draws of training samples; of two both are dots, and the legend says where there
    was one.

    Parameters
    ----------
    points : iterable of CurvePoint
        As `featbank.sweep.SweepResult.points` gives them.
    metric : str, optional
        One of ``top1``, ``top5``, ``val_top1``, ``val_top5``, ``train_top1``, ``train_top5``; by default
        ``top1``, or ``val_top1`` where nothing was scored on test images.
    cuts : sequence of str, optional
        Order of the cuts, shallow to deep; the order of appearance by default.
    laws : mapping from (cut, head, temperature) to `featbank.metrics.PowerLaw`, optional
        Drawn on as dotted lines with their bands up to `until`.
    until : float, optional
        Samples per class the laws are drawn to; four times the largest size by default.
    title : str, optional
        Above the figure.
    band : str, optional
        What the legend says of the bands; intervals over repeats by default.

    Raises
    ------
    InvalidInputError
        If there is no point, or the metric is unknown or none of the points has it.

    Examples
    --------
    >>> from featbank.sweep import Score
    >>> points = [
    ...     CurvePoint("fc7", "softmax", n, {"top1": Score(mean, mean - 0.02, mean + 0.02)})
    ...     for n, mean in [(4, 0.61), (8, 0.70), (16, 0.76)]
    ... ]
    >>> display = CurveDisplay(points).plot()
    >>> display.ax_.get_xlabel()
    'Training samples per class (images)'
    """

    page_title = "Accuracy by samples per class"
    on_page = True

    def __init__(
        self,
        points: Iterable[CurvePoint],
        *,
        metric: str | None = None,
        cuts: Sequence[str] | None = None,
        laws: Mapping[Key, PowerLaw] | None = None,
        until: float | None = None,
        title: str | None = None,
        band: str | None = None,
    ) -> None:
        everything = list(points)
        if metric is None:
            metric = main_metric(everything)
        known = {*METRICS, *(name for one in everything for name in one.scores)}
        if metric not in known:
            others = sorted(known - {*METRICS, *CURVE_METRICS})
            raise InvalidInputError(f"metric={metric!r} is not one of {', '.join([*METRICS, *others])}")
        self.points = [one for one in everything if metric in one.scores]
        if not self.points:
            why = (
                f"none of the {len(everything)} points has {metric}" if everything else "there are no points"
            )
            raise InvalidInputError(f"no curve to draw: {why}; see the failed fits in results.csv")
        #: What the axes are of.
        self.metric = metric
        self.page_title = f"{self._score_name().replace('accuracy', 'Accuracy')} by {self._unit()} per class"
        order = list(cuts or []) + [point.cut for point in self.points]
        series: dict[Key, list[CurvePoint]] = {}
        for point in sorted(self.points, key=lambda one: (order.index(one.cut), size_order(one.n_per_class))):
            series.setdefault(point.key, []).append(point)
        self.series = series
        self.laws = dict(laws or {})
        self.until = until
        self.title = title
        self.band = band

    @classmethod
    def from_run(
        cls,
        runs: Run | Sequence[Run],
        *,
        cuts: Sequence[str] = (),
        heads: Sequence[str] = (),
        metric: str | None = None,
        extrapolate: float | None = None,
        interval: IntervalKind = "t",
    ) -> CurveDisplay:
        """Make a display of the curves of one run, or of several in one figure.

        Parameters
        ----------
        runs : Run or sequence of Run
            A cut that several of them have is told apart by dataset and backbone, or by the run's name where
            these are the same too.
        cuts, heads : sequence of str, default=()
            Only these; see `featbank.plots.chart.selected_points`.
        metric : str, optional
            See `CurveDisplay`.
        extrapolate : float, optional
            Continue each curve to this many samples per class by a fitted power law.
        interval : {"t", "bootstrap"}, default="t"
            What the bands are; see `LearningCurve.points`.

        Returns
        -------
        CurveDisplay
            Not drawn yet.

        Raises
        ------
        InvalidInputError
            If there is no such cut or head, nothing was fitted, a curve has too few points to be continued,
            or `extrapolate` is not over its largest size.
        """
        several = [runs] if not isinstance(runs, Sequence) else runs
        several = list({run.path: run for run in several}.values())
        names = _told_apart(several)
        selected = {run.path: selected_points(run, cuts, heads, interval) for run in several}
        everything = [point for points in selected.values() for point in points]
        metric = metric or main_metric(*selected.values())
        points: list[CurvePoint] = []
        order: list[str] = []
        laws: dict[Key, PowerLaw] = {}
        for run in several:
            result = run.result()
            order += [names[run.path, cut] for cut in result.cuts]
            points += [replace(one, cut=names[run.path, one.cut]) for one in selected[run.path]]
            for cut, head, temperature in dict.fromkeys(one.key for one in selected[run.path]):
                if extrapolate is None:
                    break
                law = result.curve(cut, head, temperature).power_law(metric=metric)
                if extrapolate <= law.n_max:
                    raise InvalidInputError(
                        f"cannot extrapolate to {extrapolate:g} samples per class; it must be over the "
                        f"largest size fitted, {law.n_max:g}"
                    )
                laws[names[run.path, cut], head, temperature] = law
        title = "; ".join(dict.fromkeys(map(run_title, several)))
        band = _over_images(everything, several) if interval == "bootstrap" else None
        return cls(points, metric=metric, cuts=order, laws=laws, until=extrapolate, title=title, band=band)

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Say whether a run has a curve; one of a single size is a point, and still drawn."""
        return any(one.scores.keys() & METRICS.keys() for one in run.result().points())

    def charts(self) -> list[Chart]:
        """Return the one chart."""
        # the mean of one run's "all" may be a size of another run
        at = {(_size_place(point), f"{point.n_per_class}") for point in self.points}
        sizes = {
            place: ", ".join(sorted(name for one, name in at if one == place)) for place, _ in sorted(at)
        }
        largest, until = self._ends()
        further = {size: f"{size:g}" for size in _doublings(largest, until)}
        series = [one for _, one in self._lines()]
        unit, _, digits = spelling(self.metric)
        of = "validation" if self.metric.startswith("val_") else judged_rows(self.points)
        label = METRICS.get(self.metric, f"{self.metric} on {of} images{' (%)' if unit else ''}")
        return [
            Chart(
                f"Line chart of {self._score_name()} against training {self._unit()} per class. "
                + "; ".join(span_text(one, " %" if unit else "", digits) for one in series),
                size_axis(self._size_name(), further | sizes, [max(sizes), until]),
                percent_axis(label, reached(series))
                if unit
                else linear_axis(label, reached(series), floor=0.0),
                tuple(series),
                intervals="bars" if self._one_size() else "band",
                beyond=largest if further else None,
            )
        ]

    def _score_name(self) -> str:
        return "accuracy" if self.metric in METRICS else self.metric

    def _unit(self) -> str:
        return "groups" if all(one.unit == "groups" for one in self.points) else "samples"

    def _size_name(self) -> str:
        grouped = [one.unit == "groups" for one in self.points]
        if not any(grouped):
            return "Training samples per class (images)"
        return f"Training {'groups' if all(grouped) else 'groups or images'} per class"

    def _ends(self) -> tuple[float, float]:
        """Return the largest size, and how far laws go on behind it."""
        largest = max((law.n_max for law in self.laws.values()), default=max(map(_size_place, self.points)))
        return largest, (self.until or 4 * largest) if self.laws else largest

    def _lines(self) -> list[tuple[Key, Series]]:
        looks, banded = self._looks(), self._banded()
        found = []
        for key, points in self.series.items():
            cut, head, temperature = key
            name, spread = f"{printable(head)} on {spelled(cut, temperature)}", float(key in banded)
            mine = [Series(name, tuple(self._point(key, one, name) for one in points), looks[key], spread)]
            if key in self.laws:
                mine += _continued(self.laws[key], self._ends()[1], name, looks[key], spread)
            found += [(key, one) for one in mine]
        return found

    def _point(self, key: Key, point: CurvePoint, name: str) -> Point:
        place = _size_place(point)
        if self._one_size():  # curves are points above each other: side by side they do not hide
            place *= 1.8 ** ((list(self.series).index(key) + 1) / (len(self.series) + 1) - 0.5)
        uneven = point.n_per_class == "all"
        return curve_point(place, point, self.metric, name, apart=uneven, ring=uneven)

    def _one_size(self) -> bool:
        return len({point.n_per_class for point in self.points}) == 1

    def _places(self) -> list[tuple[str, float | None]]:
        return list(dict.fromkeys((cut, temperature) for cut, _, temperature in self.series))

    def _heads(self) -> list[str]:
        return list(dict.fromkeys(head for _, head, _ in self.series))

    def _looks(self) -> dict[Key, Look]:
        """Choose colour, line and marker of each curve."""
        places, heads = self._places(), self._heads()
        by_cut = len(places) > 1
        n = len(places) if by_cut else len(heads)
        # What has an order, and more heads than the palette has colours, goes from dark to light.
        ordered = by_cut or _named(heads)[0] != "Head" or n > N_PLAIN
        looks = {}
        for key in self.series:
            of = heads.index(key[1])
            at = places.index((key[0], key[2])) if by_cut else of
            # Markers begin anew after eight; then they are open where they were filled.
            filled = (of if by_cut else at // len(MARKERS)) % 2 == 0
            looks[key] = Look(depth(at, n) if ordered else plain(at), dash=of, marker=at, filled=filled)
        return looks

    def _banded(self) -> set[Key]:
        """Choose the curves that get a band: all of a few, of many the best head of each cut.

        Bands on top of each other hide the lines, and tell nobody which is whose.
        """
        if len(self.series) <= MOST_BANDS or self._one_size():
            return set(self.series)
        sign = -1.0 if less_is_better(self.metric) else 1.0
        last = {
            key: (size_order(points[-1].n_per_class), sign * points[-1].scores[self.metric].mean)
            for key, points in self.series.items()
        }
        best: dict[tuple[str, float | None], Key] = {}
        for key in self.series:
            cut, _, temperature = key
            rival = best.get((cut, temperature))
            if rival is None or last[key] > last[rival]:
                best[cut, temperature] = key
        return set(sorted(best.values(), key=lambda key: last[key], reverse=True)[:MOST_BANDS])

    def legend(self) -> list[Entry]:
        """Say colours and line styles once each, instead of every pair of them."""
        places, heads = self._places(), self._heads()
        keys, looks = [key for key, _ in self._lines()], self._looks()
        by_cut = len(places) > 1
        entries: list[Entry] = []

        def of(text: str, look: Look, mine: Sequence[Key]) -> Entry:
            return Entry(text, look, tuple(at for at, key in enumerate(keys) if key in mine))

        if by_cut:
            one_cut = len({cut for cut, _ in places}) == 1
            warm = any(temperature is not None for _, temperature in places)
            also = "; T of the softmax" if warm else ""
            entries.append(Entry("Softmax temperature T" if one_cut else f"Cut, shallow to deep{also}"))
            for cut, temperature in places:
                mine = [key for key in looks if (key[0], key[2]) == (cut, temperature)]
                said = f"T = {temperature:g}" if one_cut else spelled(cut, temperature)
                entries.append(of(said, replace(looks[mine[0]], dash=0, filled=True), mine))
        what, names = _named(heads)
        entries.append(Entry(what if by_cut else f"{what} on {spelled(*places[0])}"))
        for head, name in zip(heads, names, strict=True):
            mine = [key for key in looks if key[1] == head]
            look = replace(looks[mine[0]], color="grey", marker=0) if by_cut else looks[mine[0]]
            entries.append(of(name, look, mine))
        if self.laws:
            entries += [Entry("Extrapolation (grey area)"), Entry("fitted power law", Look("grey", dash=2))]
        return entries

    def notes(self) -> list[tuple[str, list[str]]]:
        """Say what the bands are, where there is none and why, and what a ring is."""
        banded = [one for one in self.points if one.interval(self.metric)]
        n_draws = {one.n_draws for one in banded if one.n_draws is not None}
        missing = [] if self.band else missing_intervals(self.points, self.metric)
        dots = any("2 draws" in why for why in missing)
        lines = []
        if banded:
            of = "-".join(str(one) for one in sorted({min(n_draws), max(n_draws)})) if n_draws else ""
            of_what = "folds" if any(one.n_folds for one in banded) else "draws"
            lines.append(self.band or interval_of(banded) + (f" ({of} {of_what})" if of else ""))
        if missing:
            lines.append(f"no interval: {'; '.join(missing)}")
        if dots:
            lines.append("small dots: the 2 draws")
        if (banded or dots) and (whose := self._whose()):
            lines.append(whose)
        everything = [one for one in self.points if one.n_per_class == "all"]
        # what "all" stands for where classes are uneven
        told = [f"{size_label(vars(one))}, mean {one.mean_per_class:.4g}" for one in everything]
        found = [("Band" if banded else "Spread", lines), ("Ring: all samples", list(dict.fromkeys(told)))]
        return [(head, told) for head, told in found if told]

    def _whose(self) -> str:
        """Say which curves have a band, where not all have."""
        banded = self._banded()
        if len(banded) == len(self.series):
            return ""
        if len(self._places()) == 1:
            return "of the best head"
        of_each = len(banded) == len(self._places())
        return "of each cut's best head" if of_each else f"of the {len(banded)} best curves"

    def caption(self) -> str:
        """Return in sentences what the figure shows."""
        repeated = any((point.n_repeats or 2) > 1 for point in self.points)
        lead = "Mean over the repeats, each with its own draw" if repeated else "One draw"
        if any(one.n_folds for one in self.points):
            lead = "Mean over the folds, each judged once by heads fitted to a draw from the others"
            return f"{lead}. {super().caption()}".rstrip()
        return f"{lead} of training images. {super().caption()}".rstrip()

    def table(self) -> Table:
        """Return the numbers."""
        rows = tuple(
            (
                spelled(cut, temperature),
                printable(head),
                size_label(vars(point)),
                score_text(point.mean(self.metric), self.metric),
                interval_text(point, self.metric) or "–",
                f"{point.n_repeats}",
                f"{point.n_failed}",
            )
            for (cut, head, temperature), points in self.series.items()
            for point in points
        )
        counted = "Groups per class" if "groups" in self._size_name() else "Samples per class"
        columns = (
            "Cut",
            "Head",
            counted,
            self._score_name().replace("accuracy", "Accuracy"),
            "95 % interval",
            "Repeats",
            "Failed",
        )
        return Table(columns, rows, 2)


def _continued(law: PowerLaw, until: float, name: str, look: Look, spread: float) -> list[Series]:
    """Return a curve as its law continues it: a dotted line, and a marker at its end."""
    further = np.geomspace(law.n_max, until, 60)
    low, high = law.band(further)
    columns = (further, 100 * law.predict(further), 100 * low, 100 * high)
    points = tuple(
        Point(x, y, under, over) for x, y, under, over in zip(*(one.tolist() for one in columns), strict=True)
    )
    named = f"{name}, as it would go on"
    said = (named, f"{points[-1].y:.1f} %", f"at {until:g} samples per class, by a fitted power law")
    end = Point(until, points[-1].y, said=said)
    return [
        Series(named, points, Look(look.color, dash=2, weight=0.8), spread=spread / 2),
        Series(named, (end,), replace(look, dash=None), spread=0.0),
    ]


def _told_apart(runs: Sequence[Run]) -> dict[tuple[Path, str], str]:
    """Name each run's cuts; one that several runs have also says of which dataset, or else of which run."""
    cuts = {run.path: [*run.result().cuts] for run in runs}
    counts = Counter(cut for known in cuts.values() for cut in known)
    titles = Counter(map(run_title, runs))
    names = {}
    for run in runs:
        whose = run_title(run) if titles[run_title(run)] == 1 else run.name
        for cut in cuts[run.path]:
            names[run.path, cut] = f"{cut} ({whose})" if counts[cut] > 1 else cut
    return names


def _over_images(points: Sequence[CurvePoint], runs: Sequence[Run]) -> str:
    """Say what bands over the images judged by are."""
    n_rows = {len(fit.hits.top1) for run in runs for fit in run.result().fits if fit.hits is not None}
    images = "test images" if judged_by(points) == "top1" else "validation images"
    grouped = {
        len(np.unique(np.concatenate(groups))) for run in runs if (groups := run.result().judged_groups)
    }
    if any(one.n_folds for one in points):
        n_rows = {run.result().n_rows["test"] for run in runs}
    over = "-".join(str(n) for n in sorted({min(n_rows), max(n_rows)}))
    if grouped:
        n_groups = "-".join(str(n) for n in sorted({min(grouped), max(grouped)}))
        return f"95 % interval over {n_groups} groups of {over} {images}"
    return f"95 % interval over {over} {images}"
