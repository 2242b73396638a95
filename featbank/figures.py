"""The figures of a run: which displays its results allow, made from the run folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
        A cut that several of them have is told apart by dataset and backbone, or by the run's name where
        these are the same too.
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
        If there is no such cut or head, nothing was fitted, a curve has too few points to be continued, or
        `extrapolate` is not over its largest size.
    """
    runs = list({run.path: run for run in ([runs] if isinstance(runs, Run) else runs)}.values())
    names = _told_apart(runs)
    selected = {run.path: _selected(run.result(), cuts, heads) for run in runs}
    everything = [point for points in selected.values() for point in points]
    metric = metric or _scored_by(everything)
    points: list[dict[str, Any]] = []
    order: list[str] = []
    laws: dict[Key, PowerLaw] = {}
    for run in runs:
        result = run.result()
        order += [names[run.path, cut] for cut in result.cuts]
        points += [{**point, "cut": names[run.path, point["cut"]]} for point in selected[run.path]]
        if extrapolate is not None:
            keys = [(point["cut"], point["head"], point["temperature"]) for point in selected[run.path]]
            for cut, head, temperature in dict.fromkeys(keys):
                law = result.power_law((cut, head, temperature), metric=metric)
                if extrapolate <= law.n_max:
                    raise InvalidInputError(
                        f"extrapolate={extrapolate:g} must be over the largest size fitted, {law.n_max:g}"
                    )
                laws[names[run.path, cut], head, temperature] = law
    title = ", ".join(dict.fromkeys(_title(run) for run in runs))
    return CurveDisplay(points, metric=metric, cuts=order, laws=laws, until=extrapolate, title=title)


def _scored_by(points: Sequence[Mapping[str, Any]]) -> str:
    tested = any(point["top1_mean"] is not None for point in points)
    validated = any(point["val_top1_mean"] is not None for point in points)
    return "val_top1" if validated and not tested else "top1"


def _told_apart(runs: Sequence[Run]) -> dict[tuple[Path, str], str]:
    """Name each run's cuts; one that several runs have also says of which dataset, or else of which run."""
    cuts = {run.path: [*run.result().cuts] for run in runs}
    counts = Counter(cut for known in cuts.values() for cut in known)
    titles = Counter(_title(run) for run in runs)
    names = {}
    for run in runs:
        whose = _title(run) if titles[_title(run)] == 1 else run.name
        for cut in cuts[run.path]:
            names[run.path, cut] = f"{cut} ({whose})" if counts[cut] > 1 else cut
    return names


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
    histories = _epochs(run)
    if entry["name"] not in histories:
        known = ", ".join(histories) or "none"
        raise InvalidInputError(f"head {entry['name']!r} was not trained in epochs; those that were: {known}")
    return HistoryDisplay(histories[entry["name"]], best_epoch=entry["best_epoch"], title=entry["name"])


def _epochs(run: Run) -> dict[str, dict[str, list[float]]]:
    """Return the histories with a loss; a head that was solved in one step has a line of other things."""
    return {name: found for name, found in run.histories().items() if found.get("train_loss")}


def cuts(run: Run, n_per_class: float | None = None) -> CutsDisplay:
    """Accuracy against the depth of the cut, with the training accuracy beside it."""
    result = run.result()
    points = [point for point in result.curve() if point["temperature"] is None]
    depth = [cut for cut in result.cuts if cut != "softmax"]
    return CutsDisplay(points, cuts=depth, n_per_class=n_per_class, title=_title(run))


def temperature(run: Run, n_per_class: float | None = None) -> TemperatureDisplay:
    """Best and final accuracy against the temperature of the softmax."""
    points = run.result().curve()
    split: Literal["test", "val"] = "test" if _scored_by(points) == "top1" else "val"
    return TemperatureDisplay(points, split=split, n_per_class=n_per_class, title=_title(run))


def confusion(run: Run, head: str | None = None) -> ConfusionDisplay:
    """Confusion matrix of a kept head on the test rows; the best by validation accuracy by default."""
    entry = run.entry(head)
    return ConfusionDisplay(
        run.confusion(entry["name"]), run.classes, title=f"{_title(run)}: {entry['name']}"
    )


def _title(run: Run) -> str:
    return f"{run.source['dataset']}, {run.source['backbone']}"


#: Kind of figure -> what makes it from one run.
FIGURES: dict[str, Callable[..., Any]] = {
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
    points = run.result().curve()
    wanted = ["curve"]
    n_cuts = len({point["cut"] for point in points if point["temperature"] is None})
    if n_cuts > 1 and _scored_by(points) == "top1":
        wanted.append("cuts")
    if len({point["temperature"] for point in points} - {None}) > 1:
        wanted.append("temperature")
    saved = [entry for entry in run.heads() if entry["saved"]]
    if saved:
        wanted.append("confusion")
        if run.best_head()["name"] in _epochs(run):
            wanted.append("history")
    return {kind: FIGURES[kind](run).plot().save(run.figures / f"{kind}.png") for kind in wanted}
