"""The figures of a run: which displays its results allow, made from the run folder alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank._registry import nearest
from featbank.errors import InvalidInputError
from featbank.metrics import PowerLaw
from featbank.plots import ConfusionDisplay, CurveDisplay, CutsDisplay, HistoryDisplay, TemperatureDisplay
from featbank.runs import Run
from featbank.sweep import SweepResult

if TYPE_CHECKING:
    from featbank.sweep.results import Key

__all__ = ["FIGURES", "confusion", "curve", "cuts", "draw_all", "history", "temperature"]


def _selected(result: SweepResult, cuts: Sequence[str], heads: Sequence[str]) -> list[dict[str, Any]]:
    points = result.curve()
    for kind, wanted in (("cut", cuts), ("head", heads)):
        known = list(dict.fromkeys(point[kind] for point in points))
        for name in wanted:
            if name not in known:
                raise InvalidInputError(
                    f"the run has no fits of {kind} {name!r}; it has {nearest(name, known)}"
                )
    return [
        point
        for point in points
        if (not cuts or point["cut"] in cuts) and (not heads or point["head"] in heads)
    ]


def curve(
    runs: Run | Sequence[Run],
    *,
    cuts: Sequence[str] = (),
    heads: Sequence[str] = (),
    metric: str | None = None,
    extrapolate: float | None = None,
) -> CurveDisplay:
    """Accuracy against samples per class, of one run or several in one figure.

    Parameters
    ----------
    runs : Run or sequence of Run
        Curves that two runs share are told apart by dataset and backbone.
    cuts, heads : sequence of str, default=()
        Only these; all by default.
    metric : str, optional
        See `CurveDisplay`.
    extrapolate : float, optional
        Continue each curve to this many samples per class by a fitted power law.

    Returns
    -------
    CurveDisplay
        Not drawn yet.

    Raises
    ------
    InvalidInputError
        If there is no such cut or head, nothing was fitted, or a curve has too few points to be continued.
    """
    runs = [runs] if isinstance(runs, Run) else list(runs)
    points: list[dict[str, Any]] = []
    order: list[str] = []
    laws: dict[Key, PowerLaw] = {}
    for number, run in enumerate(runs):
        result = run.result()
        others = {
            point["cut"] for other in runs[:number] + runs[number + 1 :] for point in other.result().curve()
        }
        suffix = f" ({run.source['dataset']}, {run.source['backbone']})"
        names = {cut: f"{cut}{suffix}" if cut in others else cut for cut in result.cuts}
        chosen = _selected(result, cuts, heads)
        order += [names[cut] for cut in result.cuts]
        points += [{**point, "cut": names[point["cut"]]} for point in chosen]
        if extrapolate is not None:
            keys = dict.fromkeys((point["cut"], point["head"], point["temperature"]) for point in chosen)
            for cut, head, temperature in keys:
                law = result.power_law((cut, head, temperature), metric=metric or "top1")
                laws[names[cut], head, temperature] = law
    title = ", ".join(dict.fromkeys(f"{run.source['dataset']}, {run.source['backbone']}" for run in runs))
    return CurveDisplay(points, metric=metric, cuts=order, laws=laws, until=extrapolate, title=title)


def history(run: Run, head: str | None = None) -> HistoryDisplay:
    """Loss and accuracy per epoch of a kept head; the best by validation accuracy by default.

    Raises
    ------
    RunError
        If there is no such head.
    InvalidInputError
        If the head was not trained in epochs.
    """
    entry = run.entry(head)
    histories = run.histories()
    if entry["name"] not in histories:
        known = ", ".join(histories) or "none"
        raise InvalidInputError(f"head {entry['name']!r} was not trained in epochs; those that were: {known}")
    return HistoryDisplay(histories[entry["name"]], best_epoch=entry["best_epoch"], title=entry["name"])


def cuts(run: Run, n_per_class: float | None = None) -> CutsDisplay:
    """Accuracy against the depth of the cut, with the training accuracy beside it."""
    result = run.result()
    points = [point for point in result.curve() if point["temperature"] is None]
    depth = [cut for cut in result.cuts if cut != "softmax"]
    return CutsDisplay(points, cuts=depth, n_per_class=n_per_class, title=_title(run))


def temperature(run: Run, n_per_class: float | None = None) -> TemperatureDisplay:
    """Best and final accuracy against the temperature of the softmax."""
    return TemperatureDisplay(run.result().curve(), n_per_class=n_per_class, title=_title(run))


def confusion(run: Run, head: str | None = None) -> ConfusionDisplay:
    """Confusion matrix of a kept head on the test rows; the best by validation accuracy by default."""
    entry = run.entry(head)
    return ConfusionDisplay(
        run.confusion(entry["name"]), run.classes, title=f"{_title(run)}: {entry['name']}"
    )


def _title(run: Run) -> str:
    return f"{run.source['dataset']}, {run.source['backbone']}"


#: Kind of figure -> what makes it from one run.
FIGURES: dict[str, Callable[[Run], Any]] = {
    "curve": curve,
    "cuts": cuts,
    "temperature": temperature,
    "history": history,
    "confusion": confusion,
}


def draw_all(run: Run) -> dict[str, Path]:
    """Draw every figure the results of a run allow, as PNG, into its ``figures`` folder.

    Returns
    -------
    dict of str to pathlib.Path
        Kind -> file.
    """
    result = run.result()
    wanted = ["curve"]
    if len({point["cut"] for point in result.curve() if point["temperature"] is None}) > 1:
        wanted.append("cuts")
    if len({point["temperature"] for point in result.curve()} - {None}) > 1:
        wanted.append("temperature")
    saved = [entry for entry in run.heads() if entry["saved"]]
    if saved:
        wanted.append("confusion")
        if run.best_head()["name"] in run.histories():
            wanted.append("history")
    return {kind: FIGURES[kind](run).plot().save(run.figures / f"{kind}.png") for kind in wanted}
