"""Accuracy against depth: what each cut of the backbone is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

from featbank._cuts import SOFTMAX, CutName
from featbank.errors import InvalidInputError
from featbank.manifest import printable
from featbank.plots.chart import (
    Chart,
    Entry,
    Series,
    Table,
    category_axis,
    curve_point,
    interval_text,
    missing_intervals,
    percent,
    percent_axis,
    reached,
    span_text,
    spelled,
)
from featbank.plots.display import PointsDisplay, run_title, usual_size
from featbank.plots.style import Look, plain
from featbank.sampling import Size, size_words
from featbank.sweep import CurvePoint
from featbank.sweep.curves import interval_of, judged_by

if TYPE_CHECKING:
    from featbank.runs import Run

__all__ = ["CutsDisplay"]


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
        lines = [size_words(vars(self.points[0]))]
        if any(one.interval(self.metric) for one in self.points):
            lines.append(f"bars: {interval_of(self.points)}")
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
