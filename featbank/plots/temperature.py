"""Accuracy against the temperature of the softmax that features are read through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from featbank.errors import InvalidInputError, MissingPackageError, UnknownNameError
from featbank.manifest import printable
from featbank.plots.chart import (
    Chart,
    Entry,
    Series,
    Table,
    curve_point,
    interval_text,
    missing_intervals,
    percent,
    percent_axis,
    reached,
    size_axis,
)
from featbank.plots.display import PointsDisplay, run_title, usual_size
from featbank.plots.style import Look, plain
from featbank.sampling import Size, size_order, size_words
from featbank.sweep import CurvePoint
from featbank.sweep.curves import interval_of, judged_by

if TYPE_CHECKING:
    from featbank.runs import Run

__all__ = ["TemperatureDisplay"]


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
        lines = [size_words(vars(self.points[0]))]
        if any(one.interval(metric) for one in self.points):
            lines.append(f"band: {interval_of(self.points)}")
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
