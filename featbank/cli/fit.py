"""``featbank fit-head``, and what commands print of fitted heads: curves as a table, which head answers."""

from __future__ import annotations

import contextlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank.cli._terminal import (
    Address,
    CacheDir,
    CpusPerTask,
    EngineName,
    GpusPerTask,
    Json,
    NamingCommand,
    Seed,
    engine_of,
    known_cuts,
    known_heads,
    or_ends,
    print_json,
    print_table,
    progress_bar,
    say,
    split_commas,
)
from featbank.errors import FitWarning, InvalidInputError, LeakWarning
from featbank.manifest import printable
from featbank.metrics.catalogue import mean_text, percent, spelling
from featbank.sampling import Size, size_label, size_order, size_words

if TYPE_CHECKING:
    from featbank._registry import Progress
    from featbank.fitting import FittedRun
    from featbank.heads import Parameter
    from featbank.metrics import ClassScores
    from featbank.sweep import CurvePoint, SweepResult
    from featbank.sweep.curves import IntervalKind
    from featbank.sweep.records import Key

__all__ = [
    "FitHeadCommand",
    "answering",
    "fit_head",
    "noted_not_warned",
    "print_curve",
    "print_notes",
    "print_scores",
]

_PANEL = "Parameters of heads"
_DRAWS = "What is drawn"
_JUDGED = "How heads are judged and kept"
_VIEWS = "Views of the training images"
#: A parameter of more heads than this is one of all.
_FEW_HEADS = 6
#: Parameters whose help says that lists are understood, as they are for all.
_LISTED = ("lr", "C")


class FitHeadCommand(NamingCommand):
    """``fit-head`` with an option for every parameter of every head, read from the tables of their classes.

    They are made when the command is run or explained: the classes take a second to import. Their values
    stand in ``ctx.meta``.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options of the command and those of the heads."""
        own = super().get_params(ctx)
        taken = {one.name for one in own}
        return [*own, *(one for one in _head_options() if one.name not in taken)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; what is for heads is set aside."""
        rest = super().parse_args(ctx, args)
        own = {one.name for one in super().get_params(ctx)}
        for_heads = {name: ctx.params.pop(name) for name in [*ctx.params] if name not in own}
        ctx.meta[_PANEL] = {name: value for name, value in for_heads.items() if value is not None}
        return rest


def _option_of(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"


@cache
def _working_heads() -> list[str]:
    """Name the heads whose classes can be had; a broken plug-in is told where it is asked for."""
    from featbank.errors import MissingPackageError
    from featbank.heads.catalogue import names, parameters

    found = []
    for head in names():
        with contextlib.suppress(MissingPackageError):
            parameters(head)
            found.append(head)
    return found


@cache
def _head_options() -> list[Any]:
    """Return an option for each parameter that the tables say something of."""
    from featbank.heads.catalogue import kind

    able: dict[str, list[str]] = {}
    defaults: dict[str, set[Any]] = {}
    tables: dict[str, Parameter] = {}
    for head in _working_heads():
        found = kind(head)
        signature = inspect.signature(found.cls).parameters
        for name, one in found.parameters.items():
            if one.help:
                able.setdefault(name, []).append(head)
                defaults.setdefault(name, set()).add(signature[name].default)
                tables.setdefault(name, one)
    asked = []
    for name, one in tables.items():
        flag = one.values == (True, False)
        option = _option_of(name)
        said = "" if len(able[name]) > _FEW_HEADS else f"{', '.join(able[name])}: "
        said += one.help if flag or one.kinds else f"{one.help}; {str(one).replace(chr(39), '')}"
        said += ", or a list, a head of each" if name in _LISTED else ""
        if len(defaults[name]) == 1 and None not in defaults[name]:
            said += f" (default: {defaults[name].pop()})"
        told = typer.Option(
            f"{option}/--no-{option[2:]}" if flag else option, help=f"{said}.", rich_help_panel=_PANEL
        )
        hint = Annotated[bool | None, told] if flag else Annotated[str | None, told]
        asked.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint))

    def options() -> None:
        """Stand for the command that has these options, so that typer makes them."""

    options.__signature__ = inspect.Signature(asked)  # type: ignore[attr-defined]
    options.__annotations__ = {one.name: one.annotation for one in asked}
    app = typer.Typer(add_completion=False)
    app.command()(options)
    return [one for one in typer.main.get_command(app).params if one.name in tables]


def fit_head(
    ctx: typer.Context,
    bank: Annotated[
        str | None, typer.Argument(help="Path, or a part of the bank's name; the newest by default.")
    ] = None,
    cut: Annotated[
        list[str] | None,
        typer.Option(
            "--cut", "-c", help="Which cuts; all of the bank by default.", autocompletion=known_cuts
        ),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            "--head",
            help="{heads}, or my_module:MyHead; repeat it for more (default: softmax).",
            autocompletion=known_heads,
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="An evaluation of the field, in place of --head, its parameters and --val: dino-knn, "
            "dinov3-logreg, simpleshot, or one of ./pipelines/protocols."
        ),
    ] = None,
    samples_per_class: Annotated[
        str | None,
        typer.Option(
            "--samples-per-class",
            "-n",
            help="4..32 doubles, 4..32:4 steps by 4, 1,5,10 lists, all takes every training sample (default: "
            "4..32, from 1 where classes are small, as far as the smallest class reaches).",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Draws per size.", rich_help_panel=_DRAWS)] = 5,
    up_to: Annotated[
        bool,
        typer.Option(
            "--up-to",
            help="Let classes that have fewer samples than a size give all they have.",
            rich_help_panel=_DRAWS,
        ),
    ] = False,
    draw: Annotated[
        str,
        typer.Option(
            help="What sizes count: images, or groups (patients, places) with all their images; see extract "
            "--group.",
            rich_help_panel=_DRAWS,
        ),
    ] = "images",
    folds: Annotated[
        int | None,
        typer.Option(
            help="Deal all images out to so many folds, groups whole; each is the test set once (in place of "
            "the split and --repeats).",
            rich_help_panel=_DRAWS,
        ),
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option(
            help="For --cut softmax: a list such as 0.5,1,1.5,2,4; costs no extraction (default: 1)."
        ),
    ] = None,
    val: Annotated[
        str | None,
        typer.Option(
            help="What stops training and chooses: a part of each draw, such as 0.2, or none (the training "
            "loss); by default the validation rows, or none where there are no such rows.",
            metavar="FRACTION|none",
        ),
    ] = None,
    val_per_class: Annotated[
        int | None,
        typer.Option(
            help="Spend so many validation labels of each class only (default: all there are).",
            rich_help_panel=_DRAWS,
        ),
    ] = None,
    save_heads: Annotated[
        str, typer.Option(help="best (one per curve, by validation), all, or none.", rich_help_panel=_JUDGED)
    ] = "best",
    interval: Annotated[
        str,
        typer.Option(
            help="t (over the repeats) or bootstrap (over the test images): what ± and bands are.",
            rich_help_panel=_JUDGED,
        ),
    ] = "t",
    check_leaks: Annotated[
        bool,
        typer.Option(
            "--check-leaks",
            help="Look for near-identical images across the splits first (see --leak-cosine).",
            rich_help_panel=_JUDGED,
        ),
    ] = False,
    leak_cosine: Annotated[
        float | None,
        typer.Option(
            help="--check-leaks: cosine from which two images are near-identical (default: 0.9).",
            rich_help_panel=_JUDGED,
        ),
    ] = None,
    untrained_classes: Annotated[
        str,
        typer.Option(
            help="Validation and test images of classes without training images: drop, or keep (they are "
            "wrong then).",
            rich_help_panel=_JUDGED,
        ),
    ] = "drop",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="What heads stop by, C and heads are chosen by, curves and comparisons are of: "
            "{metrics}, or my_module:function of your own; repeat it for more scores (default: accuracy).",
            rich_help_panel=_JUDGED,
        ),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(
            help="Train on this view of the images too, see extract --view: heads with gradients draw one "
            "for each image and epoch, others take all; repeat it for more.",
            rich_help_panel=_VIEWS,
        ),
    ] = None,
    average_views: Annotated[
        bool,
        typer.Option(
            "--average-views",
            help="Average the probabilities over an image and its views.",
            rich_help_panel=_VIEWS,
        ),
    ] = False,
    n_jobs: Annotated[
        int | None,
        typer.Option("--n-jobs", "-j", help="Heads of your own: processes; -1 is one per core (default: 1)."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="--head tail: the bank's weights file, if it has moved."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew, also where an interrupted run could be continued.")
    ] = False,
    name: Annotated[str, typer.Option(help="Run folder: the time, then this name.")] = "fit-head",
    random_state: Seed = 0,
    engine: EngineName = "local",
    address: Address = None,
    cpus_per_task: CpusPerTask = None,
    gpus_per_task: GpusPerTask = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Fit heads for growing numbers of samples per class; draws the accuracy-vs-samples curve.

    Interrupted, the same command goes on where it stopped.

    Example: featbank fit-head --cut fc7 --head softmax --samples-per-class 4..32 --repeats 5
    """
    given = locals()
    from featbank.fitting import fit_heads
    from featbank.sweep import SweepSettings
    from featbank.sweep.protocols import find_protocol

    heads = split_commas(head) or ["softmax"]
    if protocol is not None and (head or ctx.meta[_PANEL]):
        also = [f"--head {', '.join(heads)}"] if head else [_option_of(one) for one in ctx.meta[_PANEL]]
        raise InvalidInputError(find_protocol(protocol).refusal(also[0]))
    said = {"heads": heads, "head_params": _head_params(heads, ctx.meta[_PANEL])}
    if interval not in ("t", "bootstrap"):
        raise InvalidInputError(f"--interval {interval!r} is not one of t, bootstrap")
    if leak_cosine is not None and not check_leaks:
        raise InvalidInputError("--leak-cosine is for --check-leaks; add it")
    settings = SweepSettings(
        **{one.name: given[one.name] for one in fields(SweepSettings) if one.name in given}
        | {
            "cuts": split_commas(cut) or None,
            **({} if protocol is not None else said),
            "temperatures": _numbers(temperature),
            "val": _val(val),
            "metrics": split_commas(metric),
            "views": split_commas(view),
        }
    )
    with noted_not_warned(), progress_bar("fit", "heads") as progress:
        fitted = fit_heads(
            bank,
            settings,
            name=name,
            command=sys.argv,
            cache_dir=cache_dir,
            progress=_without_earlier(progress),
            fresh=fresh,
            n_jobs=n_jobs,
            engine=engine_of(engine, address, cpus_per_task, gpus_per_task),
            check_leaks=leak_cosine if leak_cosine is not None else check_leaks,
            interval=interval,  # type: ignore[arg-type]  # one of the two, checked above
            announce=say,
            weights=weights,
        )
    if as_json:
        print_notes(fitted)
        print_json(_as_json(fitted, interval))
    else:
        print_curve(fitted, interval)  # type: ignore[arg-type]
    if fitted.result.failed:
        raise typer.Exit(1)


def _without_earlier(progress: Progress) -> Progress:
    """Leave out of the rate and the time left what an interrupted run had done before."""
    earlier: int | None = None

    def told(done: int, total: int) -> None:
        nonlocal earlier
        if earlier is None:
            earlier = done
        progress(done - earlier, total - earlier)

    return told


def _as_json(fitted: FittedRun, interval: str) -> dict[str, Any]:
    from featbank.runs import answer_of

    said = answer_of(fitted.result)
    found = {
        "run": fitted.run.path,
        "resumed": fitted.n_resumed,
        "rows": fitted.result.n_rows,
        "interval": interval,
        "curve": [one.to_dict() for one in fitted.result.points(interval=interval)],  # type: ignore[arg-type]
        "figures": fitted.figures,
        "notes": [*fitted.result.notes, *fitted.result.resolution()],
        "failed": len(fitted.result.failed),
        "answer": None if said is None else str(said),
    }
    if fitted.result.untrained:
        found["untrained"] = fitted.result.untrained
    if fitted.result.near_duplicates:
        found["near_duplicates"] = fitted.result.near_duplicates
    best = answering(fitted)
    if best is not None:
        scores = fitted.run.per_class_scores(best["name"])
        found["head"] = {
            **best,
            "per_class": fitted.run.per_class_accuracy(best["name"]),
            "per_class_scores": {name: asdict(one) for name, one in scores.items()},
        }
    return found


def _val(text: str | None) -> Any:
    """Return a number where it is one; what else is allowed, the sweep knows."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _head_params(heads: Sequence[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Give each head those of the options that it has; an option that none of them has is an error."""
    from featbank.heads.catalogue import kind, parameters

    named = [one for one in heads if ":" not in one]
    tables = {one: kind(one).parameters for one in named}
    found: dict[str, dict[str, Any]] = {one: {} for one in named}
    for name, text in options.items():
        able = [one for one in named if name in tables[one]]
        if not able:
            every = ", ".join(one for one in _working_heads() if name in parameters(one))
            raise InvalidInputError(
                f"{_option_of(name)} is for --head {every}, got --head {', '.join(heads)}"
            )
        for one in able:
            # a word that another head takes is refused by this one in its own words
            others = [tables[other][name] for other in able if other != one]
            found[one][name] = _values(_option_of(name), text, [tables[one][name], *others])
    return found


def _values(option: str, text: Any, parameters: Sequence[Parameter]) -> Any:
    """Return what an option says for one head, a list where it lists values."""
    if not isinstance(text, str):
        return text
    values = []
    for part in text.split(","):
        for one in parameters:
            with contextlib.suppress(ValueError):
                values.append(one.read(part.strip()))
                break
        else:
            raise InvalidInputError(f"{option} {text!r} is not {parameters[0]}, and no list of such values")
    return values if len(values) > 1 else values[0]


@contextlib.contextmanager
def noted_not_warned() -> Iterator[None]:
    """Silence what a result's notes say again, so that it is said once, at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        warnings.simplefilter("ignore", LeakWarning)
        yield


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInputError(f"--temperature {text!r} is not a list of numbers such as 0.5,1,2") from None


def answering(fitted: FittedRun) -> dict[str, Any] | None:
    """Return the head that answers `featbank predict`, if one was saved."""
    return fitted.run.best_head() if any(one["saved"] for one in fitted.run.heads()) else None


def print_scores(result: SweepResult, interval: IntervalKind = "t") -> None:
    """Print the curves as a table: one line per cut, head and temperature, one column per size."""
    from featbank.sweep.curves import judged_rows, main_metric, spelled_metric

    points = result.points(interval=interval)
    metric = main_metric(points)
    split = judged_rows(points)
    of = "groups of the " if result.judged_groups else ""
    said = _spread(points, metric, f"the {of}{split} images" if interval == "bootstrap" else None)
    unit = points[0].unit if points else "samples"
    typer.echo(f"\n{spelled_metric(metric, points)}{spelling(metric)[0]} by {unit} per class: {said}\n")
    _print_by_size(points, partial(_cell, metric))
    for at, text in enumerate([*_remarks(points, metric, interval), *result.resolution()]):
        typer.echo(text if at else f"\n{text}")


def print_curve(fitted: FittedRun, interval: IntervalKind = "t") -> None:
    """Print the curves, what was chosen, the head that answers, where all is, and the answer in sentences."""
    from featbank.runs import answer_of

    print_scores(fitted.result, interval)
    points = fitted.result.points(interval=interval)
    for name in ("C", "lr"):
        chosen = [point for point in points if _is_auto(fitted, point.head, name)]
        if any(name in point.ranges for point in chosen):
            typer.echo(f"\n{name} chosen, by samples per class: its range where draws differ\n")
            _print_by_size(chosen, partial(_range, name))
    print_notes(fitted)
    result = fitted.result
    typer.echo(f"\n{'images':<12}{_counts(result.n_rows, result.untrained, result.draws.get('folds'))}")
    best = answering(fitted)
    if best is not None:
        typer.echo(f"{'head':<12}{_said(fitted, best)}")
    typer.echo(f"{'bank':<12}{printable(str(fitted.run.source['bank']))}")
    typer.echo(f"{'run':<12}{fitted.run.path}")
    for kind, path in fitted.figures.items():
        typer.echo(f"{kind:<12}{path}")
    found = answer_of(fitted.result)
    if found is not None:
        typer.echo(f"\n{found}")


def _print_by_size(points: Sequence[CurvePoint], cell: Callable[[CurvePoint], str]) -> None:
    sizes = {point.n_per_class: size_label(vars(point)) for point in points}
    lines: dict[Key, dict[Size, str]] = {}
    for point in points:
        lines.setdefault(point.key, {})[point.n_per_class] = cell(point)
    columns = [sizes[size] for size in sorted(sizes, key=size_order)]
    print_table(
        ("cut", "head", *columns),
        [
            (
                cut if at is None else f"{cut} T={at:g}",
                head,
                *(cells.get(size, "") for size in sorted(sizes, key=size_order)),
            )
            for (cut, head, at), cells in lines.items()
        ],
        numeric=columns,
    )


def _spread(points: Sequence[CurvePoint], metric: str, over: str | None) -> str:
    """Say what stands in the cells."""
    from featbank.sweep.curves import interval_of

    with_interval = [point for point in points if point.interval(metric)]
    if not with_interval:
        return "mean"
    if over is not None:
        return f"mean and 95 % interval over {over}"
    draws = sorted({point.n_draws or 0 for point in with_interval})
    what = "folds" if any(point.n_folds for point in with_interval) else "draws"
    many = f"{draws[0]} {what}" if len(draws) == 1 else f"{draws[0]} to {draws[-1]} {what}"
    ends = or_ends(_cell(metric, point) for point in with_interval)
    return f"mean of {many} and half width of its {interval_of(with_interval)}{ends}"


def _remarks(points: Sequence[CurvePoint], metric: str, interval: str) -> Iterator[str]:
    """Say where there is no interval and why, and what the column ``all`` is."""
    from featbank.plots.chart import missing_intervals

    missing = missing_intervals(points, metric) if interval == "t" else []
    if missing:
        few = " (it takes 3)" if any("2 draws" in why for why in missing) else ""
        yield f"no interval{few}: {'; '.join(missing)}"
    if interval == "bootstrap" and metric not in ("top1", "val_top1"):
        yield f"no interval: --interval bootstrap knows those of accuracies only, not of {metric}"
    uneven = next((point for point in points if point.n_per_class == "all"), None)
    if uneven is not None:
        mean = uneven.mean_per_class
        yield f"{size_words(vars(uneven))}: every training image; {mean:.4g} per class on average"


def _is_auto(fitted: FittedRun, head: str, name: str) -> bool:
    """Say whether a head chose a parameter itself."""
    given: Mapping[str, Any] = fitted.run.facts["parameters"].get("head_params") or {}
    value = given.get(head, given.get(head.partition("(")[0], {})).get(name)
    return value == "auto" or f"{name}=auto" in head


def _range(name: str, point: CurvePoint) -> str:
    if name not in point.ranges:
        return ""
    low, high = point.ranges[name]
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _counts(n_rows: Mapping[str, int], untrained: Mapping[str, Any], n_folds: int | None = None) -> str:
    """Say how many images there are of each split, and what became of those of untrained classes.

    Examples
    --------
    >>> _counts({"train": 896, "val": 128, "test": 256}, {})
    '896 to train on, 128 for validation, 256 for the test'
    >>> _counts({"train": 8, "test": 6}, {"policy": "drop", "classes": {"c": {"val": 1, "test": 6}}})
    '8 to train on, 0 for validation, 6 for the test; left out 7 of 1 class without training images'
    """
    words = (("train", "to train on"), ("val", "for validation"), ("test", "for the test"))
    said = ", ".join(f"{n_rows.get(split, 0)} {what}" for split, what in words)
    if n_folds:
        said = f"{n_rows['test']} in {n_folds} folds, each for the test once"
    if not untrained:
        return said
    n_classes, n = len(untrained["classes"]), sum(sum(one.values()) for one in untrained["classes"].values())
    became = "left out" if untrained["policy"] == "drop" else "counted as wrong"
    return f"{said}; {became} {n} of {n_classes} class{'es' if n_classes > 1 else ''} without training images"


def _said(fitted: FittedRun, head: Mapping[str, Any]) -> str:
    """Say which head answers predictions, how good it is, and at which classes it is worst."""
    scores = fitted.run.per_class_scores(head["name"])
    known = {name: one for name, one in scores.items() if one.recall is not None}
    weakest = sorted(known, key=lambda name: known[name].recall or 0.0)[:3]
    listed = [f"{printable(name)} {_share(known[name])}" for name in weakest]
    at = "" if head["temperature"] is None else f" at T={head['temperature']:g}"
    score = head["top1"] if head["top1"] is not None else head["val_top1"]
    what = f"{head['head']} on {head['cut']}{at}, {size_words(head)}, one fit"
    unkept = fitted.run.unkept()
    instead = f"; the best, {printable(unkept)}, was not kept" if unkept else ""
    return f"{what}: {percent(score)}; weakest {', '.join(listed)}{instead}"


def _share(one: ClassScores) -> str:
    """Say a recall with its counts and interval: of eight images a percentage alone promises too much.

    Examples
    --------
    >>> from featbank.metrics import per_class_scores
    >>> _share(per_class_scores([[3, 5], [0, 1]])[0])
    '38 % (3 of 8; 95 %: 14 to 69)'
    """
    low, high = 100 * (one.recall_low or 0.0), 100 * (one.recall_high or 0.0)
    share = 100 * (one.recall or 0.0)
    return f"{share:.0f} % ({one.n_right} of {one.n_true}; 95 %: {low:.0f} to {high:.0f})"


def print_notes(fitted: FittedRun) -> None:
    """Say on standard error what has to be known to read the result."""
    for note in fitted.result.notes:
        say(f"note: {note}")


def _cell(metric: str, point: CurvePoint) -> str:
    mean = point.mean(metric)
    return "" if mean is None else mean_text(mean, point.interval(metric), metric)
