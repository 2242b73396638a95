"""The figures of a run: which displays its results allow, made from the run folder alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from featbank._registry import nearest
from featbank.backbones import get_spec
from featbank.errors import BankError, FeatbankError, InvalidInputError, UnknownNameError
from featbank.inspection import MistakesDisplay, RunImages
from featbank.metrics import PowerLaw
from featbank.plots import (
    ConfusionDisplay,
    CurveDisplay,
    CutsDisplay,
    HistoryDisplay,
    TemperatureDisplay,
    TimesDisplay,
)
from featbank.runs import Run
from featbank.sampling import Size, size_words
from featbank.sweep import CurvePoint
from featbank.sweep.curves import IntervalKind, judged_by

if TYPE_CHECKING:
    from featbank.sweep.records import Key

__all__ = [
    "FIGURES",
    "confusion",
    "curve",
    "cuts",
    "draw_all",
    "history",
    "mistakes",
    "temperature",
    "times",
]


def _selected(
    run: Run, cuts: Sequence[str], heads: Sequence[str], interval: IntervalKind
) -> list[CurvePoint]:
    points = run.result().points(interval=interval)
    known = {
        "cut": dict.fromkeys(one.cut for one in points),
        "head": dict.fromkeys(one.head for one in points),
    }
    wanted_cuts = {one for name in cuts for one in _meant(name, list(known["cut"]), "cut", _aliases(run))}
    wanted_heads = {one for name in heads for one in _meant(name, list(known["head"]), "head", {})}
    return [
        one
        for one in points
        if (not cuts or one.cut in wanted_cuts) and (not heads or one.head in wanted_heads)
    ]


def _meant(name: str, known: Sequence[str], kind: str, aliases: Mapping[str, str]) -> list[str]:
    """Return what a name stands for: itself, the cut an alias names, or all heads of a family."""
    named = aliases.get(name, name)
    found = [one for one in known if one == named or (kind == "head" and one.startswith(f"{name}("))]
    if not found:
        raise InvalidInputError(f"the run has no fits of {kind} {name!r}; it has {nearest(name, known)}")
    return found


def _aliases(run: Run) -> dict[str, str]:
    try:
        cuts = get_spec(run.source["backbone"]).cuts
    except FeatbankError:  # a backbone that is unknown here, or whose family is not installed
        return {}
    return {alias: cut.name for cut in cuts for alias in cut.aliases}


def _band(points: Sequence[CurvePoint], runs: Sequence[Run], interval: str) -> str | None:
    """Say what the bands are, where they are not the intervals over repeats."""
    if interval == "t":
        return None
    n_rows = {len(hits.top1) for run in runs for hits in run.result().hits.values()}
    images = "test images" if judged_by(points) == "top1" else "validation images"
    return f"95 % interval over\n{'-'.join(str(n) for n in sorted({min(n_rows), max(n_rows)}))} {images}"


def curve(
    runs: Run | Sequence[Run],
    *,
    cuts: Sequence[str] = (),
    heads: Sequence[str] = (),
    metric: str | None = None,
    extrapolate: float | None = None,
    interval: IntervalKind = "t",
) -> CurveDisplay:
    """Accuracy against samples per class, of one run or several in one figure.

    Parameters
    ----------
    runs : Run or sequence of Run
        A cut that several of them have is told apart by dataset and backbone, or by the run's name where
        these are the same too.
    cuts, heads : sequence of str, default=()
        Only these; all by default. A cut may be called by an alias, and the name of a head stands for all of
        its family: ``"logreg"`` for ``"logreg(C=0.1)"`` and ``"logreg(C=1)"``.
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
        If there is no such cut or head, nothing was fitted, a curve has too few points to be continued, or
        `extrapolate` is not over its largest size.
    """
    runs = list({run.path: run for run in ([runs] if isinstance(runs, Run) else runs)}.values())
    names = _told_apart(runs)
    selected = {run.path: _selected(run, cuts, heads, interval) for run in runs}
    everything = [point for points in selected.values() for point in points]
    metric = metric or judged_by(everything)
    points: list[CurvePoint] = []
    order: list[str] = []
    laws: dict[Key, PowerLaw] = {}
    for run in runs:
        result = run.result()
        order += [names[run.path, cut] for cut in result.cuts]
        points += [replace(one, cut=names[run.path, one.cut]) for one in selected[run.path]]
        if extrapolate is not None:
            curves = result.curves()
            for cut, head, temperature in dict.fromkeys(one.key for one in selected[run.path]):
                law = curves[cut, head, temperature].power_law(metric=metric)
                if extrapolate <= law.n_max:
                    raise InvalidInputError(
                        f"cannot extrapolate to {extrapolate:g} samples per class; it must be over the "
                        f"largest size fitted, {law.n_max:g}"
                    )
                laws[names[run.path, cut], head, temperature] = law
    title = ", ".join(dict.fromkeys(_title(run) for run in runs))
    band = _band(everything, runs, interval)
    return CurveDisplay(
        points, metric=metric, cuts=order, laws=laws, until=extrapolate, title=title, band=band
    )


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
    title = f"{_title(run)}: {_spelled(entry)}"
    return HistoryDisplay(histories[entry["name"]], best_epoch=entry["best_epoch"], title=title)


def _epochs(run: Run) -> dict[str, dict[str, list[float]]]:
    """Return the histories with a loss; a head that was solved in one step has a line of other things."""
    return {name: found for name, found in run.histories().items() if found.get("train_loss")}


def cuts(run: Run, n_per_class: Size | None = None) -> CutsDisplay:
    """Accuracy against the depth of the cut, with the training accuracy beside it."""
    result = run.result()
    everything = result.points()
    points = [one for one in everything if one.temperature is None]
    if everything and not points:
        raise InvalidInputError(
            "the run has only the cut 'softmax', which has no depth; draw its temperatures instead: "
            "featbank plot temperature"
        )
    depth = [cut for cut in result.cuts if cut != "softmax"]
    return CutsDisplay(points, cuts=depth, n_per_class=n_per_class, title=_title(run))


def temperature(run: Run, n_per_class: Size | None = None) -> TemperatureDisplay:
    """Best and final accuracy against the temperature of the softmax."""
    points = run.result().points()
    split: Literal["test", "val"] = "test" if judged_by(points) == "top1" else "val"
    heads = dict.fromkeys(one.head for one in points if one.temperature is not None)
    chosen_by = {head: said for head in heads if (said := _epoch_chosen_by(run, head, points)) is not None}
    return TemperatureDisplay(
        points, split=split, n_per_class=n_per_class, chosen_by=chosen_by, title=_title(run)
    )


def _epoch_chosen_by(run: Run, head: str, points: Sequence[CurvePoint]) -> str | None:
    """Say what the best epoch of a head is best by; None for heads without epochs."""
    from featbank.heads import make

    given: Mapping[str, Any] = run.facts["parameters"].get("head_params") or {}
    family = head.partition("(")[0]
    try:
        default = make(family).get_params().get("monitor")
    except UnknownNameError:  # an estimator of the caller's own
        return None
    monitor = given.get(head, given.get(family, {})).get("monitor", default)
    if monitor is None:
        return None
    validated = any("val_top1" in one.scores for one in points)
    return f"validation {monitor}" if validated else "training loss"


def confusion(run: Run, head: str | None = None) -> ConfusionDisplay:
    """Confusion matrix of a kept head on the test rows; the best by validation accuracy by default."""
    entry = run.entry(head)
    title = f"{_title(run)}: {_spelled(entry)}"
    return ConfusionDisplay(run.confusion(entry["name"]), run.classes, title=title)


def times(run: Run) -> TimesDisplay:
    """Seconds of fitting per cut and head, all fits together, and of the passes that extracted the cuts.

    A pass is drawn once, however many cuts came from it. The extraction is left out where the bank is gone.
    """
    result = run.result()
    fits = [one for one in result.fits if one.status == "ok"]
    order = list(dict.fromkeys([*result.cuts, *(one.cut for one in fits)]))
    note = f"{len(fits)} fits in all"
    parts: list[dict[str, Any]] = []
    try:
        bank = run.open_bank()
        known = {cut: bank.facts("logits" if cut == "softmax" else cut) for cut in order}
        passes = _passes(known)
        for members, duration_s in passes:
            parts.append({"what": "extract", "cut": _of_pass(members, order), "duration_s": duration_s})
        note += f"\nextract: {len(bank)} images"
        note += ",\na pass of several cuts once" if any(len(members) > 1 for members, _ in passes) else ""
    except (BankError, UnknownNameError):
        note += "\nthe bank is gone:\nextraction not known"
    parts += [{"what": f"fit {one.head}", "cut": one.cut, "duration_s": one.duration_s} for one in fits]
    parts.sort(key=lambda part: order.index(part["cut"]) if part["cut"] in order else -1)
    return TimesDisplay(parts, title=_title(run), note=note)


def _passes(facts: Mapping[str, Mapping[str, Any]]) -> list[tuple[list[str], float]]:
    """Return (cuts, seconds) of the passes over the images: what the bank says of each cut, shared ones once.

    The time of a pass is taken when each cut is settled; that of the last one is all of it.
    """
    found: dict[str, list[str]] = {}
    for cut, said in facts.items():
        if said.get("duration_s") is not None:
            found.setdefault(said.get("passes") or f"of {cut} alone", []).append(cut)
    return [(cuts, max(facts[cut]["duration_s"] for cut in cuts)) for cuts in found.values()]


def _of_pass(members: Sequence[str], order: Sequence[str]) -> str | None:
    """Name the cuts of a pass: None for all there are, else from shallow to deep, the middle left out."""
    if len(members) == len(order) > 1:
        return None
    named = sorted(members, key=order.index)
    return " + ".join(named if len(named) < 3 else [named[0], f"{len(named) - 2} more", named[-1]])


def mistakes(
    run: Run,
    head: str | None = None,
    *,
    most: int = 24,
    data: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
) -> MistakesDisplay:
    """Show the test images that a kept head gets wrong, worst first.

    Parameters
    ----------
    run : Run
        Where the head was fitted.
    head : str, optional
        Its name; the best by validation accuracy by default.
    most : int, default=24
        How many to show.
    data, data_root : path, optional
        Where the images are now, if they have moved; see `RunImages`.

    Returns
    -------
    MistakesDisplay
        Not drawn yet.

    Raises
    ------
    RunError
        If there is no such head.
    MissingDataError
        If the images are gone.
    InvalidInputError
        If `most` is below 1.
    """
    entry = run.entry(head)
    images = RunImages(run.manifest, run.provenance(), data, data_root=data_root)
    title = f"{_title(run)}: {_spelled(entry)}"
    return MistakesDisplay.from_predictions(run.predictions(entry["name"]), images, most=most, title=title)


def _spelled(entry: Mapping[str, Any]) -> str:
    """Say which head it is, for people: ``"softmax on fc7, 16 per class"``."""
    at = "" if entry["temperature"] is None else f" at T = {entry['temperature']:g}"
    return f"{entry['head']} on {entry['cut']}{at}, {size_words(entry)}"


def _title(run: Run) -> str:
    return f"{run.source['dataset']}, {run.source['backbone']}"


#: Kind of figure -> what makes it from one run.
FIGURES: dict[str, Callable[..., Any]] = {
    "curve": curve,
    "cuts": cuts,
    "temperature": temperature,
    "history": history,
    "confusion": confusion,
    "times": times,
}


def draw_all(run: Run, *, interval: IntervalKind = "t") -> dict[str, Path]:
    """Draw every figure the results of a run allow, as PNG, into its ``figures`` folder.

    Parameters
    ----------
    run : Run
        The run.
    interval : {"t", "bootstrap"}, default="t"
        What the bands of the curve are; see `LearningCurve.points`.

    Returns
    -------
    dict of str to pathlib.Path
        Kind -> file.
    """
    points = run.result().points()
    wanted = ["curve"]
    n_cuts = len({one.cut for one in points if one.temperature is None})
    if n_cuts > 1:
        wanted.append("cuts")
    if len({one.temperature for one in points} - {None}) > 1:
        wanted.append("temperature")
    if points:
        wanted.append("times")
    saved = [entry for entry in run.heads() if entry["saved"]]
    if saved:
        wanted.append("confusion")
        if run.best_head()["name"] in _epochs(run):
            wanted.append("history")
    options: dict[str, dict[str, Any]] = {"curve": {"interval": interval}}
    return {
        kind: FIGURES[kind](run, **options.get(kind, {})).plot().save(run.figures / f"{kind}.png")
        for kind in wanted
    }
