"""``featbank plot``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from featbank.cli._options import CacheDir, Json, split_commas
from featbank.cli._output import print_json
from featbank.errors import InvalidInputError
from featbank.sampling import parse_size

__all__ = ["plot"]

#: Kind of figure -> the options that only some kinds take.
_TAKES: dict[str, tuple[str, ...]] = {
    "curve": ("--cut", "--head", "--metric", "--extrapolate", "--interval"),
    "history": ("--head",),
    "cuts": ("--samples",),
    "temperature": ("--samples",),
    "confusion": ("--head",),
    "times": (),
}


def plot(
    kind: Annotated[str, typer.Argument(help="curve, history, cuts, temperature, confusion or times.")],
    run: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, names, or parts of names of runs (curve takes several); the newest by default."
        ),
    ] = None,
    cut: Annotated[
        list[str] | None, typer.Option("--cut", "-c", help="curve: only these cuts (names or aliases).")
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option("--head", help="curve: only these heads; history, confusion: which kept head."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="curve: top1, top5, val_top1, val_top5, train_top1 or train_top5 (default: top1)."),
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
        typer.Option(help="cuts, temperature: at so many samples per class, or all (default: most)."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A .png or .svg file (default: figures/KIND.png in the run).",
        ),
    ] = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Draw a figure of a run again.

    Example: featbank plot curve RUN --cut fc7 --cut block5_pool --output curve.svg
    """
    from featbank import figures
    from featbank.runs import resolve_run

    if kind not in figures.FIGURES:
        raise InvalidInputError(f"plot {kind!r}: the kinds are {', '.join(figures.FIGURES)}")
    given = {
        "--cut": cut,
        "--head": head,
        "--metric": metric,
        "--extrapolate": extrapolate,
        "--interval": interval,
        "--samples": samples,
    }
    for option, value in given.items():
        if value is not None and option not in _TAKES[kind]:
            others = ", ".join(one for one in _TAKES if option in _TAKES[one])
            raise InvalidInputError(f"plot {kind} takes no {option} (got {value!r}); it is for plot {others}")
    if interval not in (None, "t", "bootstrap"):
        raise InvalidInputError(f"--interval {interval!r} is not one of t, bootstrap")
    runs = [resolve_run(one, cache_dir) for one in run or ["last"]]
    if kind != "curve" and len(runs) > 1:
        raise InvalidInputError(f"plot {kind} takes one run, got {len(runs)}; only curve takes several")
    heads = split_commas(head)
    if kind in ("history", "confusion") and len(heads) > 1:
        raise InvalidInputError(f"plot {kind} takes one --head, got {len(heads)}")
    display: Any
    if kind == "curve":
        display = figures.curve(
            runs,
            cuts=split_commas(cut),
            heads=heads,
            metric=metric,
            extrapolate=extrapolate,
            interval=interval or "t",  # type: ignore[arg-type]  # one of the two, checked above
        )
    elif kind in ("cuts", "temperature"):
        size = None if samples is None else parse_size(samples)
        display = figures.FIGURES[kind](runs[0], size)
    elif kind == "times":
        display = figures.times(runs[0])
    else:
        display = figures.FIGURES[kind](runs[0], heads[0] if heads else None)
    path = display.plot().save(output or runs[0].figures / f"{kind}.png")
    if as_json:
        print_json({"figure": path})
    else:
        typer.echo(path)
