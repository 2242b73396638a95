"""``featbank fit-head``."""

from __future__ import annotations

import contextlib
import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank.cli._fitted import answering, print_curve, print_notes
from featbank.cli._options import (
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
    split_commas,
)
from featbank.cli._output import print_json, progress_bar, say
from featbank.errors import FitWarning, InvalidInputError, LeakWarning

if TYPE_CHECKING:
    from featbank._settings import Progress
    from featbank.fitting import FittedRun
    from featbank.heads import Parameter

__all__ = ["FitHeadCommand", "fit_head", "noted_not_warned", "print_curve", "print_notes"]

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
    from featbank.heads import catalogue

    found = []
    for head in catalogue.names():
        with contextlib.suppress(MissingPackageError):
            catalogue.parameters(head)
            found.append(head)
    return found


@cache
def _head_options() -> list[Any]:
    """Return an option for each parameter that the tables say something of."""
    from featbank.heads import catalogue

    able: dict[str, list[str]] = {}
    defaults: dict[str, set[Any]] = {}
    tables: dict[str, Parameter] = {}
    for head in _working_heads():
        kind = catalogue.kind(head)
        signature = inspect.signature(kind.cls).parameters
        for name, one in kind.parameters.items():
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
    from featbank.heads import catalogue

    named = [one for one in heads if ":" not in one]
    tables = {one: catalogue.kind(one).parameters for one in named}
    found: dict[str, dict[str, Any]] = {one: {} for one in named}
    for name, text in options.items():
        able = [one for one in named if name in tables[one]]
        if not able:
            every = ", ".join(one for one in _working_heads() if name in catalogue.parameters(one))
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
