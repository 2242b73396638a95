"""The figures there are, by name, and what of a run they show.

A new figure is one file with a display that has ``from_run``, and one line here. Other packages add theirs by
the entry point ``featbank.figures``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank._cuts import CutName
from featbank._registry import Registry, nearest
from featbank.errors import FeatbankError, InvalidInputError, MissingPackageError
from featbank.plots.display import Display
from featbank.sampling import Size, size_order, size_words
from featbank.sweep import CurvePoint
from featbank.sweep.curves import IntervalKind

if TYPE_CHECKING:
    from featbank.runs import Run

__all__ = [
    "FIGURES",
    "draw_all",
    "head_title",
    "kept_head",
    "run_title",
    "selected_points",
    "suited",
    "usual_size",
]

logger = logging.getLogger(__name__)

FIGURES: Registry[Any] = Registry(
    "figure",
    group="featbank.figures",
    accepts=(
        "subclass of featbank.plots.Display with from_run",
        lambda one: isinstance(one, type) and issubclass(one, Display) and hasattr(one, "from_run"),
    ),
)
#: In the order that a page has them in.
FIGURES.register_place("temperature", "featbank.plots.points:TemperatureDisplay")
FIGURES.register_place("curve", "featbank.plots.curve:CurveDisplay")
FIGURES.register_place("scores", "featbank.plots.points:ScoresDisplay")
FIGURES.register_place("cuts", "featbank.plots.points:CutsDisplay")
FIGURES.register_place("history", "featbank.plots.heads:HistoryDisplay")
FIGURES.register_place("confusion", "featbank.plots.heads:ConfusionDisplay")
FIGURES.register_place("times", "featbank.plots.points:TimesDisplay")


def suited(run: Run) -> dict[str, Any]:
    """Return the displays whose figures the results of a run allow, by name."""
    found: dict[str, Any] = {}
    for name in FIGURES if run.result().points() else ():
        try:
            display = FIGURES.get(name)
        except MissingPackageError as error:  # somebody else's, and the run is done
            logger.warning("%s", error)
            continue
        if display.suits(run):
            found[name] = display
    return found


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
        Name -> file.
    """
    options: dict[str, dict[str, Any]] = {"curve": {"interval": interval}}
    return {
        name: one.from_run(run, **options.get(name, {})).save(run.figures / f"{name}.png")
        for name, one in suited(run).items()
    }


def selected_points(
    run: Run, cuts: Sequence[str] = (), heads: Sequence[str] = (), interval: IntervalKind = "t"
) -> list[CurvePoint]:
    """Return the points of a run's curves.

    Parameters
    ----------
    run : Run
    cuts, heads : sequence of str, default=()
        Only these; all by default. A cut may be called by an alias, and the name of a head stands for all of
        its family: ``"logreg"`` for ``"logreg(C=0.1)"`` and ``"logreg(C=1)"``.
    interval : {"t", "bootstrap"}, default="t"
        See `LearningCurve.points`.

    Raises
    ------
    InvalidInputError
        If there is no such cut or head.
    """
    points = run.result().points(interval=interval)
    wanted_cuts = _meant(cuts, [one.cut for one in points], "cut", _aliases(run) if cuts else {})
    wanted_heads = _meant(heads, [one.head for one in points], "head", {})
    return [
        one
        for one in points
        if (not cuts or one.cut in wanted_cuts) and (not heads or one.head in wanted_heads)
    ]


def _meant(names: Sequence[str], known: Sequence[str], kind: str, aliases: Mapping[str, str]) -> set[str]:
    """Return what names stand for: themselves, the cut an alias names, or all heads of a family."""
    found: set[str] = set()
    for name in names:
        named = name if kind == "head" else _canonical(name, aliases)
        mine = {one for one in known if one == named or (kind == "head" and one.startswith(f"{name}("))}
        if not mine:
            raise InvalidInputError(
                f"the run has no fits of {kind} {name!r}; it has {nearest(name, dict.fromkeys(known))}"
            )
        found |= mine
    return found


def _canonical(name: str, aliases: Mapping[str, str]) -> str:
    """Return a cut by its own name, with its pooling and view."""
    parts = CutName.parse(name)
    return str(replace(parts, base=aliases.get(parts.base, parts.base)))


def _aliases(run: Run) -> dict[str, str]:
    from featbank.backbones import get_spec

    try:
        cuts = get_spec(run.source["backbone"]).cuts
    except FeatbankError:  # a backbone that is unknown here, or whose family is not installed
        return {}
    return {alias: cut.name for cut in cuts for alias in cut.aliases}


def usual_size(points: Sequence[CurvePoint], n_per_class: Size | None) -> Size:
    """Return the size asked for, by default the largest that every curve has.

    Raises
    ------
    InvalidInputError
        If the size asked for was not fitted.
    """
    sizes = sorted({one.n_per_class for one in points}, key=size_order)
    if n_per_class is not None:
        if n_per_class not in sizes:
            listed = ", ".join(map(str, sizes))
            raise InvalidInputError(f"{n_per_class} samples per class were not fitted; the run has {listed}")
        return n_per_class
    n_curves = len({one.key for one in points})
    full = [size for size in sizes if sum(one.n_per_class == size for one in points) == n_curves]
    return (full or sizes)[-1]


def kept_head(run: Run, name: str | None, cuts: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a run says of one kept head.

    Parameters
    ----------
    run : Run
    name : str or None
        Its name, or a part of it; by default the saved one with the best validation accuracy.
    cuts : sequence of str, default=()
        Only heads of these.

    Raises
    ------
    RunError
        If there is no such head.
    InvalidInputError
        If none of these cuts has one.
    """
    if not cuts:
        return run.entry(name)
    entries = run.heads() if name is None else [run.entry(name)]
    wanted = _meant(cuts, [one["cut"] for one in entries], "cut", _aliases(run))
    mine = [one for one in entries if one["cut"] in wanted]
    return max(mine, key=lambda one: (one["saved"], one["val_top1"] or 0.0))


def run_title(run: Run) -> str:
    """Return what a run is of, for people: dataset and backbone."""
    return f"{run.source['dataset']}, {run.source['backbone']}"


def head_title(run: Run, entry: Mapping[str, Any]) -> str:
    """Say which kept head of a run it is: ``"digits, vgg16: softmax on fc7, 16 samples per class"``."""
    at = "" if entry["temperature"] is None else f" at T = {entry['temperature']:g}"
    return f"{run_title(run)}: {entry['head']} on {entry['cut']}{at}, {size_words(entry)}"
