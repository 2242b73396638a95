"""Every accuracy there is at one size, side by side: what is worth looking at where there is no curve."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Self

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
from featbank.sweep.curves import interval_of

if TYPE_CHECKING:
    from featbank.runs import Run

__all__ = ["ScoresDisplay"]

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
        lines = [size_words(vars(self.points[0]))]
        if any(one.interval(metric) for one in self.points for metric in self.metrics):
            lines.append(f"bars: {interval_of(self.points)}")
        return [("Training samples", lines)]

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
