"""``featbank plot``."""

from __future__ import annotations

from inspect import signature
from typing import Annotated, Any

import typer

from featbank._cache import user_path
from featbank.cli._options import Json, RunsDir, known_runs, split_commas
from featbank.cli._output import print_json, say
from featbank.errors import InvalidInputError
from featbank.sampling import parse_size

__all__ = ["plot"]

#: Options that only some figures take -> the parameters of their displays' ``from_run``.
_PARAMETERS = {
    "--cut": ("cuts",),
    "--head": ("heads", "head"),
    "--metric": ("metric",),
    "--extrapolate": ("extrapolate",),
    "--interval": ("interval",),
    "--samples": ("n_per_class",),
}


def plot(
    kind: Annotated[
        str,
        typer.Argument(help="One of {figures}."),
    ],
    run: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, names, or parts of names of runs (curve takes several); the newest by default.",
            autocompletion=known_runs,
        ),
    ] = None,
    cut: Annotated[
        list[str] | None, typer.Option("--cut", "-c", help="Only these (names or aliases).")
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option("--head", help="Only these heads; history, confusion: which kept head."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="curve: top1, top5, val_top1, val_top5, train_top1 or train_top5 (default: top1), or what "
            "the run was fitted with by --metric, of your own too (my_module:function)."
        ),
    ] = None,
    extrapolate: Annotated[
        float | None, typer.Option(help="curve: go on to so many samples by a power law.")
    ] = None,
    interval: Annotated[
        str | None,
        typer.Option(help="curve: t (over the repeats, the default) or bootstrap (over the test images)."),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(help="cuts, scores, temperature: at so many samples per class, or all (default: most)."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="In inches, e.g. 3.3x2.4 for a column of a journal."),
    ] = None,
    font_size: Annotated[
        float | None, typer.Option(help="Points (default: 10; 7 below 4 inches, 8 below 6).")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Above the figure, or none.")] = None,
    legend: Annotated[
        str | None,
        typer.Option(help="outside (with notes), inside (lines alone) or none; by the width by default."),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="png, svg, pdf or eps (default: by the ending of --out, else png)."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--out",
            "--output",
            "-o",
            metavar="PATH",
            help="A .png, .svg, .pdf or .eps file (default: figures/KIND.png in the run).",
        ),
    ] = None,
    cache_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Draw a figure of a run again, for a screen or for a paper.

    Example: featbank plot curve RUN --cut fc7 --size 3.3x2.4 --title none --legend inside --out curve.pdf
    """
    from featbank.plots import FIGURES
    from featbank.plots.display import FORMATS, check_format
    from featbank.runs import open_run

    if kind not in FIGURES:
        raise InvalidInputError(f"plot {kind!r}: the kinds are {', '.join(FIGURES)}")
    made = FIGURES.get(kind)
    takes = signature(made.from_run).parameters
    given = {
        "--cut": cut,
        "--head": head,
        "--metric": metric,
        "--extrapolate": extrapolate,
        "--interval": interval,
        "--samples": samples,
    }
    for option, value in given.items():
        if value is not None and not any(one in takes for one in _PARAMETERS[option]):
            able = _able(*_PARAMETERS[option])
            raise InvalidInputError(f"plot {kind} takes no {option} (got {value!r}); it is for plot {able}")
    if interval not in (None, "t", "bootstrap"):
        raise InvalidInputError(f"--interval {interval!r} is not one of t, bootstrap")
    if legend not in (None, "outside", "inside", "none"):
        raise InvalidInputError(f"--legend {legend!r} is not one of outside, inside, none")
    if format_ is not None and format_ not in FORMATS:
        raise InvalidInputError(f"--format {format_!r} is not one of {', '.join(FORMATS)}")
    runs = [open_run(one, cache_dir=cache_dir) for one in run or ["last"]]
    several = "runs" in takes
    if not several and len(runs) > 1:
        raise InvalidInputError(
            f"plot {kind} takes one run, got {len(runs)}; only {_able('runs')} takes several"
        )
    heads = split_commas(head)
    if "head" in takes and len(heads) > 1:
        raise InvalidInputError(f"plot {kind} takes one --head, got {len(heads)}")
    values: dict[str, Any] = {
        "cuts": split_commas(cut),
        "heads": heads,
        "head": heads[0] if heads else None,
        "metric": metric,
        "extrapolate": extrapolate,
        "interval": interval or "t",
        "n_per_class": None if samples is None else parse_size(samples),
    }
    display = made.from_run(
        runs if several else runs[0], **{name: one for name, one in values.items() if name in takes}
    )
    if title is not None:
        display.title = None if title == "none" else title
    path = user_path(output) if output else runs[0].figures / f"{kind}.{format_ or 'png'}"
    kept = format_ or check_format(path)  # a wrong ending is told before anything is drawn
    display.plot(size=_size(size), font_size=font_size, legend=legend)
    written = display.save(path, kept)
    if as_json:
        print_json(
            {"figure": written, "caption": display.caption()} if display.caption() else {"figure": written}
        )
    else:
        typer.echo(written)
        if legend in ("inside", "none") and display.caption():
            say(f"caption: {display.caption()}")


def _able(*parameters: str) -> str:
    """Name the figures whose displays take one of these parameters."""
    from featbank.plots import FIGURES

    known = {name: signature(one.from_run).parameters for name, one in FIGURES.working().items()}
    return ", ".join(name for name, takes in known.items() if any(one in takes for one in parameters))


def _size(text: str | None) -> tuple[float, float] | None:
    """Read ``3.3x2.4``.

    Examples
    --------
    >>> _size("3.3x2.4"), _size(None)
    ((3.3, 2.4), None)
    """
    if text is None:
        return None
    try:
        width, height = (float(one) for one in text.lower().replace("×", "x").split("x"))
    except ValueError:
        raise InvalidInputError(f"--size {text!r} is no width and height in inches such as 3.3x2.4") from None
    return width, height
