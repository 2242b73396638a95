"""Scores at one number of samples per class: by depth of the cut, of every head, by temperature."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from featbank._cuts import SOFTMAX, CutName
from featbank.errors import InvalidInputError, MissingPackageError, UnknownNameError
from featbank.manifest import printable
from featbank.metrics.catalogue import percent
from featbank.plots.chart import (
    Chart,
    Entry,
    Look,
    Series,
    Table,
    category_axis,
    curve_point,
    interval_text,
    missing_intervals,
    percent_axis,
    plain,
    reached,
    size_axis,
    span_text,
    spelled,
)
from featbank.plots.display import Display
from featbank.plots.figures import run_title, selected_points, usual_size
from featbank.sampling import Size, size_order, size_words
from featbank.sweep import CurvePoint
from featbank.sweep.curves import interval_of, judged_by

if TYPE_CHECKING:
    from featbank.runs import Run

__all__ = [
    "CutsDisplay",
    "ScoresDisplay",
    "TemperatureDisplay",
]


class PointsDisplay(Display):
    """A display of points of a run's curves at one size."""

    points: list[CurvePoint]

    @classmethod
    def from_run(
        cls,
        run: Run,
        *,
        cuts: Sequence[str] = (),
        heads: Sequence[str] = (),
        n_per_class: Size | None = None,
    ) -> Self:
        """Make a display of a run.

        Parameters
        ----------
        run : Run
        cuts, heads : sequence of str, default=()
            Only these; see `featbank.plots.figures.selected_points`.
        n_per_class : int or "all", optional
            At so many samples per class; by default the largest size that every curve has.

        Raises
        ------
        InvalidInputError
            If there is no such cut, head or size, or nothing that this figure is of.
        """
        return cls._of_points(run, selected_points(run, cuts, heads), n_per_class)

    @classmethod
    def _of_points(cls, run: Run, points: list[CurvePoint], n_per_class: Size | None) -> Self:
        raise NotImplementedError

    def _samples(self, drawn: str, metrics: Sequence[str]) -> list[str]:
        """Say how many training samples it is at, and what is drawn of intervals if there are any."""
        lines = [size_words(vars(self.points[0]))]
        if any(one.interval(metric) for one in self.points for metric in metrics):
            lines.append(f"{drawn}: {interval_of(self.points)}")
        return lines


class CutsDisplay(PointsDisplay):
    """Test accuracy of each cut, shallow to deep, with the training accuracy beside it.

    Parameters
    ----------
    points : iterable of CurvePoint
        With ``top1`` and, where known, ``train_top1``. Where nothing was scored on test images, ``val_top1``
        is drawn instead.
    n_per_class : int or "all", optional
        Which size to show; by default the largest that every cut and head has.
    cuts : sequence of str, optional
        Order of the cuts, shallow to deep; the order of appearance by default.
    title : str, optional
        Above the figure.

    Raises
    ------
    InvalidInputError
        If there is no point, or not one of the size asked for.

    Examples
    --------
    >>> from featbank.sweep import Score
    >>> points = [
    ...     CurvePoint(cut, "mlp", 28, {"top1": Score(test), "train_top1": Score(1.0)})
    ...     for cut, test in [("block3_pool", 0.2876), ("block4_pool", 0.5322), ("block5_pool", 0.7129)]
    ... ]
    >>> display = CutsDisplay(points).plot()
    >>> [label.get_text() for label in display.ax_.get_xticklabels()]
    ['block3_pool', 'block4_pool', 'block5_pool']
    """

    page_title = "Accuracy by depth"
    on_page = True

    def __init__(
        self,
        points: Iterable[CurvePoint],
        *,
        n_per_class: Size | None = None,
        cuts: Sequence[str] | None = None,
        title: str | None = None,
    ) -> None:
        everything = list(points)
        #: The accuracy that is drawn.
        self.metric = judged_by(everything)
        known = [one for one in everything if self.metric in one.scores]
        if not known:
            why = "none of the points has top1 or val_top1" if everything else "there are no points"
            raise InvalidInputError(f"no cut to draw: {why}; see the failed fits in results.csv")
        self.n_per_class = usual_size(known, n_per_class)
        self.points = [one for one in known if one.n_per_class == self.n_per_class]
        names = [(one.cut, one.temperature) for one in self.points]
        order = [*(cuts or []), *(cut for cut, _ in names)]
        self.cuts = sorted(dict.fromkeys(names), key=lambda one: order.index(one[0]))
        self.heads = list(dict.fromkeys(one.head for one in self.points))
        self.title = title

    @classmethod
    def _of_points(cls, run: Run, points: list[CurvePoint], n_per_class: Size | None) -> Self:
        cold = [one for one in points if one.temperature is None]
        if points and not cold:
            raise InvalidInputError(
                "the run has only the cut 'softmax', which has no depth; draw its temperatures instead: "
                "featbank plot temperature"
            )
        depth = [cut for cut in run.result().cuts if CutName.parse(cut).base != SOFTMAX]
        return cls(cold, cuts=depth, n_per_class=n_per_class, title=run_title(run))

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Say whether a run has cuts of different depth."""
        return len({one.cut for one in run.result().points() if one.temperature is None}) > 1

    def _size(self) -> tuple[float, float]:
        return max(8.0, 4.0 + 0.55 * len(self.cuts)), 4.8

    def _judged(self) -> str:
        return "test" if self.metric == "top1" else "validation"

    def _looks(self, head: str) -> tuple[Look, Look]:
        """Return how the accuracy of a head is drawn, and its accuracy on its training images."""
        of = self.heads.index(head)
        look = Look(plain(of), marker=of)
        return look, Look(look.color, dash=2, marker=of, filled=False, weight=0.8)

    def charts(self) -> list[Chart]:
        """Return the one chart."""
        names = [spelled(cut, temperature) for cut, temperature in self.cuts]
        series: list[Series] = []
        for of, head in enumerate(self.heads):
            mine = {(one.cut, one.temperature): one for one in self.points if one.head == head}
            shift = 0.06 * (of - (len(self.heads) - 1) / 2)  # equal values must not hide each other
            look, training = self._looks(head)
            for metric, split, drawn in (
                ("train_top1", "training", training),
                (self.metric, self._judged(), look),
            ):
                points = tuple(
                    curve_point(at + shift, mine[cut], metric, f"{printable(head)} on {name}, {split} images")
                    for at, (cut, name) in enumerate(zip(self.cuts, names, strict=True))
                    if cut in mine
                )
                # the interval of what is mostly 100 % only clutters
                spread = float(metric == self.metric)
                if any(point.y == point.y for point in points):
                    series.append(Series(f"{printable(head)}, {split}", points, drawn, spread=spread))
        ticks = [
            printable(cut) if temperature is None else f"T = {temperature:g}"
            for cut, temperature in self.cuts
        ]
        return [
            Chart(
                "Line chart of accuracy against the depth of the cut. " + "; ".join(map(span_text, series)),
                category_axis("Cut of the backbone (shallow to deep)", ticks),
                percent_axis("Top-1 accuracy (%)", reached(series)),
                tuple(series),
                intervals="bars",
            )
        ]

    def legend(self) -> list[Entry]:
        """Say heads and images once each, instead of every pair of them."""
        named = [one.name for one in self.charts()[0].series]
        entries = [Entry("Head")]
        for head in self.heads:
            mine = tuple(at for at, name in enumerate(named) if name.rpartition(", ")[0] == printable(head))
            entries.append(Entry(printable(head), self._looks(head)[0], mine))
        entries.append(Entry("Images"))
        for split, look in (
            (self._judged(), Look("grey", marker=0)),
            ("training", Look("grey", dash=2, marker=0, filled=False, weight=0.8)),
        ):
            if mine := tuple(at for at, name in enumerate(named) if name.endswith(f", {split}")):
                entries.append(Entry(split, look, mine))
        return entries

    def notes(self) -> list[tuple[str, list[str]]]:
        """Say how many training samples it is at, and what the bars are."""
        lines = self._samples("bars", [self.metric])
        for why in missing_intervals(self.points, self.metric):
            lines.append(f"no interval: {why}" + (" (dots)" if "2 draws" in why else ""))
        return [("Training samples", lines)]

    def table(self) -> Table:
        """Return the numbers."""
        rows = tuple(
            (
                spelled(point.cut, point.temperature),
                printable(head),
                percent(point.mean(self.metric)),
                interval_text(point, self.metric) or "–",
                percent(point.mean("train_top1")),
            )
            for head in self.heads
            for cut in self.cuts
            for point in self.points
            if point.head == head and (point.cut, point.temperature) == cut
        )
        judged = f"{self._judged().capitalize()} accuracy"
        return Table(("Cut", "Head", judged, "95 % interval", "Training accuracy"), rows, 2)


#: What is known of a fit, as it is called, in the order in which there is room.
_SHARES = {
    "top1": "test",
    "val_top1": "validation",
    "train_top1": "training",
    "top5": "test top-5",
    "val_top5": "val. top-5",
}


class ScoresDisplay(PointsDisplay):
    """Test, validation and training accuracy of every head and cut at one number of samples per class.

    Parameters
    ----------
    points : iterable of CurvePoint
        As `featbank.sweep.SweepResult.points` gives them.
    n_per_class : int or "all", optional
        Which size to show; by default the largest that every cut and head has.
    title : str, optional
        Above the figure.

    Raises
    ------
    InvalidInputError
        If there is no point, or not one of the size asked for.

    Examples
    --------
    >>> from featbank.sweep import Score
    >>> points = [CurvePoint("fc7", head, 16, {"top1": Score(0.7), "val_top1": Score(0.8)})
    ...           for head in ("softmax", "mlp")]
    >>> display = ScoresDisplay(points).plot()
    >>> [label.get_text() for label in display.ax_.get_xticklabels()]
    ['softmax', 'mlp']
    """

    page_title = "Accuracy at one size"
    on_page = True

    def __init__(
        self, points: Iterable[CurvePoint], *, n_per_class: Size | None = None, title: str | None = None
    ) -> None:
        everything = [one for one in points if any(name in one.scores for name in _SHARES)]
        if not everything:
            raise InvalidInputError(
                "no accuracy to draw: there are no points; see the failed fits in results.csv"
            )
        self.n_per_class = usual_size(everything, n_per_class)
        self.points = [one for one in everything if one.n_per_class == self.n_per_class]
        known = [name for name in _SHARES if any(name in one.scores for one in self.points)]
        #: The scores that are shown, and those of them that are drawn.
        self.metrics = known[:4]
        self.title = title
        self.page_title = f"Accuracy at {size_words(vars(self.points[0]))}"

    @classmethod
    def _of_points(cls, run: Run, points: list[CurvePoint], n_per_class: Size | None) -> Self:
        return cls(points, n_per_class=n_per_class, title=run_title(run))

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Say whether a run has one size, so that its curve is a point, and no other figure says more."""
        points = [one for one in run.result().points() if one.scores.keys() & _SHARES.keys()]
        one_size = len({one.n_per_class for one in points}) == 1
        several = (len({one.cut for one in points}), len({one.temperature for one in points}))
        return one_size and several == (1, 1)

    def _size(self) -> tuple[float, float]:
        return max(6.5, 4.0 + 0.7 * len(self.points)), 4.4

    def _names(self) -> list[str]:
        return [f"{printable(one.head)} on {spelled(one.cut, one.temperature)}" for one in self.points]

    def charts(self) -> list[Chart]:
        """Return the one chart."""
        names = self._names()
        if len(names) == 1:
            known = enumerate(self.metrics)
            told = [curve_point(at, self.points[0], one, _SHARES[one].capitalize()) for at, one in known]
            series = [Series(names[0], tuple(told), Look(plain(0), dash=None, marker=0))]
            x = category_axis("Images it is judged by (split)", [_SHARES[one] for one in self.metrics])
        else:
            series = []
            for at, one in enumerate(self.metrics[:3]):
                points = tuple(
                    curve_point(place + 0.06 * (at - 1), point, one, f"{name}, {_SHARES[one]}")
                    for place, (point, name) in enumerate(zip(self.points, names, strict=True))
                )
                look = Look(plain(at), dash=None, marker=at, filled=at == 0)
                series.append(Series(_SHARES[one], points, look))
            cuts = [spelled(one.cut, one.temperature) for one in self.points]
            heads = [printable(one.head) for one in self.points]
            # what all have in common only takes the room of what tells them apart
            ticks = heads if len(set(cuts)) == 1 else cuts if len(set(heads)) == 1 else names
            what = "Head and cut" if ticks is names else "Cut" if ticks is cuts else "Head"
            x = category_axis(f"{what} (name)", ticks)
        return [
            Chart(
                f"Chart of accuracies at one size. {'; '.join(map(span_text, series))}",
                x,
                percent_axis("Accuracy (%)", reached(series)),
                tuple(series),
                intervals="bars",
            )
        ]

    def legend(self) -> list[Entry]:
        """Name the images that each accuracy is of."""
        if len(self.points) == 1:
            return []
        series = self.charts()[0].series
        return [Entry("Images"), *(Entry(one.name, one.look, (at,)) for at, one in enumerate(series))]

    def notes(self) -> list[tuple[str, list[str]]]:
        """Say how many training samples it is at, and what the bars are."""
        return [("Training samples", self._samples("bars", self.metrics))]

    def table(self) -> Table:
        """Return the numbers."""
        first = self.metrics[0]
        rows = tuple(
            (
                name,
                *(percent(one.mean(metric)) for metric in self.metrics),
                interval_text(one, first) or "–",
                f"{one.n_repeats}",
            )
            for one, name in zip(self.points, self._names(), strict=True)
        )
        shares = [_SHARES[one].capitalize() for one in self.metrics]
        return Table(("Head", *shares, f"95 % interval, {_SHARES[first]}", "Repeats"), rows, 1)


class TemperatureDisplay(PointsDisplay):
    """Accuracy of the best and of the final epoch against the softmax temperature T.

    The best epoch is the one training chose, never the best on the test rows. The temperature that the
    validation images choose is marked for each line; the one with the highest mean of what is drawn is said
    beside it, because reading that off the test images is no choice one may report.

    Parameters
    ----------
    points : iterable of CurvePoint
        Those without a temperature are left out.
    split : {"test", "val"}, default="test"
        Which rows the accuracy is of.
    n_per_class : int or "all", optional
        Which size to show; the largest by default.
    chosen_by : mapping of str to str, optional
        Head -> what its best epoch was chosen by, e.g. ``"validation loss"``.
    title : str, optional
        Above the figure.

    Raises
    ------
    InvalidInputError
        If no point has a temperature, or not one of the size asked for.

    Examples
    --------
    >>> from featbank.sweep import Score
    >>> points = [
    ...     CurvePoint("softmax", "mlp", 16, {"best_top1": Score(best), "final_top1": Score(final)}, t)
    ...     for t, best, final in [(0.5, 0.38, 0.36), (1.0, 0.43, 0.41), (1.5, 0.45, 0.43), (2.0, 0.44, 0.42)]
    ... ]
    >>> TemperatureDisplay(points).plot().ax_.get_xlabel()
    'Softmax temperature T (dimensionless)'
    """

    page_title = "Accuracy by softmax temperature"
    on_page = True

    def __init__(
        self,
        points: Iterable[CurvePoint],
        *,
        split: Literal["test", "val"] = "test",
        n_per_class: Size | None = None,
        chosen_by: Mapping[str, str] | None = None,
        title: str | None = None,
    ) -> None:
        if split not in ("test", "val"):
            raise InvalidInputError(f"split={split!r} is not one of test, val")
        metric = "top1" if split == "test" else "val_top1"
        known = [one for one in points if one.temperature is not None]
        if not known:
            raise InvalidInputError(
                "no point has a temperature; fit with --cut softmax --temperature 0.5,1,2"
            )
        sizes = sorted({one.n_per_class for one in known}, key=size_order)
        self.n_per_class = sizes[-1] if n_per_class is None else usual_size(known, n_per_class)
        self.split = split
        self.points = sorted(
            (one for one in known if one.n_per_class == self.n_per_class),
            key=lambda one: one.temperature or 0.0,
        )
        self.heads = list(dict.fromkeys(one.head for one in self.points))
        best, final = ([one.mean(f"{which}_{metric}") for one in self.points] for which in ("best", "final"))
        # Heads that are solved in one step have one epoch: two equal lines would say that there is a choice.
        epochs = best != final
        #: Name of each line and the score it is of; a head without epochs has one line only.
        self.lines = (
            {"best epoch": f"best_{metric}", "final epoch": f"final_{metric}"} if epochs else {"": metric}
        )
        self.chosen_by = dict(chosen_by or {})
        self.title = title

    @classmethod
    def _of_points(cls, run: Run, points: list[CurvePoint], n_per_class: Size | None) -> Self:
        split: Literal["test", "val"] = "test" if judged_by(points) == "top1" else "val"
        named = dict.fromkeys(one.head for one in points if one.temperature is not None)
        chosen_by = {
            head: said for head in named if (said := _epoch_chosen_by(run, head, points)) is not None
        }
        return cls(points, split=split, n_per_class=n_per_class, chosen_by=chosen_by, title=run_title(run))

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Say whether a run has several temperatures."""
        return len({one.temperature for one in run.result().points()} - {None}) > 1

    def _size(self) -> tuple[float, float]:
        return 9.2, 4.8

    def _lines(self) -> Iterator[tuple[str, str, Series]]:
        """Yield the name of each line, the score it is of, and the line."""
        for of, head in enumerate(self.heads):
            mine = [one for one in self.points if one.head == head]
            for at, (line, metric) in enumerate(self.lines.items()):
                # Where the last epoch is the best, the lines coincide: both must be seen.
                look = Look(
                    plain(len(self.lines) * of + at),
                    dash=at,
                    marker=of,
                    filled=not at,
                    weight=0.8 if at else 1.4,
                )
                name = ", ".join(part for part in (printable(head), line) if part)
                chosen = self.choice(head, metric)
                points = tuple(
                    curve_point(
                        one.temperature,
                        one,
                        metric,
                        f"{name}, T = {one.temperature:g}",
                        ring=one.temperature == chosen,
                    )
                    for one in mine
                    if one.temperature and metric in one.scores
                )
                if points:
                    yield head, metric, Series(name, points, look)

    def charts(self) -> list[Chart]:
        """Return the one chart."""
        series = [one for _, _, one in self._lines()]
        temperatures = {one.temperature: f"{one.temperature:g}" for one in self.points if one.temperature}
        rows = "test" if self.split == "test" else "validation"
        return [
            Chart(
                f"Line chart of accuracy against the softmax temperature. {'; '.join(self._highest_words())}",
                size_axis("Softmax temperature T (dimensionless)", temperatures),
                percent_axis(f"Top-1 accuracy on {rows} images (%)", reached(series)),
                tuple(series),
            )
        ]

    def _highest_words(self) -> list[str]:
        tops = [(one.name, max(one.points, key=lambda point: point.y)) for _, _, one in self._lines()]
        return [f"{name}: highest at T = {top.x:g} ({top.y:.1f} %)" for name, top in tops]

    def choice(self, head: str, metric: str) -> float | None:
        """Return the temperature with the highest mean on validation images, None where there are none.

        Parameters
        ----------
        head : str
            One of `heads`.
        metric : str
            A value of `lines`.
        """
        return self._highest(head, metric if "val_" in metric else metric.replace("top1", "val_top1"))

    def _highest(self, head: str, metric: str) -> float | None:
        points = [one for one in self.points if one.head == head and metric in one.scores]
        return max(points, key=lambda one: one.scores[metric].mean).temperature if points else None

    def legend(self) -> list[Entry]:
        """Name the lines, and say where they are highest."""
        entries: list[Entry] = []
        told: str | None = None
        names = {metric: line for line, metric in self.lines.items()}
        for at, (head, metric, one) in enumerate(self._lines()):
            if head != told:
                entries.append(Entry(f"Head {printable(head)}"))
            told = head
            short = names[metric] if len(self.heads) == 1 and names[metric] else one.name
            label = self._label(head, names[metric], metric)
            entries.append(Entry(label or short, one.look, (at,), short=short))
        return entries

    def _label(self, head: str, name: str, metric: str) -> str:
        epoch = f" (by {self.chosen_by[head]})" if name == "best epoch" and head in self.chosen_by else ""
        chosen, highest = self.choice(head, metric), self._highest(head, metric)
        said = [name + epoch] if name else []
        if chosen is not None:
            said.append(f"ring: T = {chosen:g}, by validation accuracy")
        if self.split == "test" and highest is not None:
            said.append(f"highest on test: T = {highest:g}" + (" too" if highest == chosen else ""))
        return "\n".join(said)

    def notes(self) -> list[tuple[str, list[str]]]:
        """Say how many training samples it is at, and what the bands are."""
        metric = next(iter(self.lines.values()))
        lines = self._samples("band", [metric])
        lines += [f"no interval: {why}" for why in missing_intervals(self.points, metric)]
        return [("Training samples", lines)]

    def caption(self) -> str:
        """Return in sentences what the figure shows."""
        return f"{super().caption()} {'; '.join(self._highest_words())}."

    def table(self) -> Table:
        """Return the numbers."""
        rows = tuple(
            (
                printable(head),
                f"{point.temperature:g}",
                *(percent(point.mean(metric)) for metric in self.lines.values()),
                *(interval_text(point, metric) or "–" for metric in self.lines.values()),
            )
            for head in self.heads
            for point in self.points
            if point.head == head
        )
        lines = [line or "accuracy" for line in self.lines]
        intervals = (f"95 % interval, {one}" for one in lines)
        return Table(("Head", "T", *(line.capitalize() for line in lines), *intervals), rows, 1)


def _epoch_chosen_by(run: Run, head: str, points: Sequence[CurvePoint]) -> str | None:
    """Say what the best epoch of a head is best by; None for heads without epochs."""
    from featbank.heads import make

    given: Mapping[str, Any] = run.facts["parameters"].get("head_params") or {}
    family = head.partition("(")[0]
    try:
        default = getattr(make(family), "monitor", None)
    except (UnknownNameError, MissingPackageError):  # an estimator of the caller's own, or not installed here
        return None
    monitor = given.get(head, given.get(family, {})).get("monitor", default)
    if monitor is None:
        return None
    validated = any("val_top1" in one.scores for one in points)
    return f"validation {monitor}" if validated else "training loss"
