"""``featbank fit-head``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank.cli._options import CacheDir, Json, Seed, split_commas
from featbank.cli._output import print_json, print_table, progress_bar, say
from featbank.errors import InvalidInputError

if TYPE_CHECKING:
    from featbank.fitting import FittedRun

__all__ = ["fit_head", "print_curve"]


def fit_head(
    bank: Annotated[
        str | None, typer.Argument(help="Path, or a part of the bank's name; the newest by default.")
    ] = None,
    cut: Annotated[
        list[str] | None, typer.Option("--cut", "-c", help="Which cuts; all of the bank by default.")
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option("--head", help="softmax, mlp, logreg, ncm, knn, svm, ridge; repeat it for more."),
    ] = None,
    samples_per_class: Annotated[
        str,
        typer.Option(
            "--samples-per-class", "-n", help="4..32 doubles, 4..32:4 steps by 4, 1,5,10 lists, all."
        ),
    ] = "4..32",
    repeats: Annotated[int, typer.Option(help="Draws per size.")] = 5,
    temperature: Annotated[
        str | None, typer.Option(help="For --cut softmax: 0.5,1,1.5,2,4; costs no extraction.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at the start.")] = None,
    solver: Annotated[str | None, typer.Option(help="adam or sgd.")] = None,
    annealing: Annotated[str | None, typer.Option(help="inverse-time, cosine, step or constant.")] = None,
    annealing_epochs: Annotated[float | None, typer.Option(help="T of lr / (1 + t/T), in epochs.")] = None,
    max_epochs: Annotated[int | None, typer.Option(help="Passes over the training samples at most.")] = None,
    tolerance: Annotated[
        int | None, typer.Option(help="Epochs without a better validation accuracy to stop after.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per step.")] = None,
    hidden_units: Annotated[int | None, typer.Option(help="Of the mlp.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight decay.")] = None,
    c: Annotated[
        float | None, typer.Option("--C", help="Of logreg and svm: inverse of the regularisation.")
    ] = None,
    save_heads: Annotated[
        str, typer.Option(help="best (one per curve, by validation), all, or none.")
    ] = "best",
    name: Annotated[str, typer.Option(help="Last part of the run folder's name.")] = "fit-head",
    random_state: Seed = 0,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Fit heads for growing numbers of samples per class; draws the accuracy-vs-samples curve.

    Example: featbank fit-head --cut fc7 --head softmax --samples-per-class 4..32 --repeats 5
    """
    from featbank.fitting import fit_heads
    from featbank.heads.catalogue import parameters

    heads = split_commas(head) or ["softmax"]
    given = {
        "lr": lr,
        "solver": solver,
        "annealing": annealing,
        "annealing_epochs": annealing_epochs,
        "max_epochs": max_epochs,
        "tolerance_epochs": tolerance,
        "batch_size": batch_size,
        "hidden_units": hidden_units,
        "alpha": alpha,
        "C": c,
    }
    given = {option: value for option, value in given.items() if value is not None}
    for option in given:
        if not any(option in parameters(one) for one in heads):
            raise InvalidInputError(f"none of the heads {', '.join(heads)} has a parameter {option!r}")
    head_params: dict[str, dict[str, Any]] = {
        one: {option: value for option, value in given.items() if option in parameters(one)} for one in heads
    }
    if save_heads not in ("best", "all", "none"):
        raise InvalidInputError(f"--save-heads {save_heads!r} is not one of best, all, none")
    with progress_bar("fit", "heads") as progress:
        fitted = fit_heads(
            bank,
            cuts=split_commas(cut) or None,
            heads=heads,
            samples_per_class=samples_per_class,
            repeats=repeats,
            temperatures=_numbers(temperature),
            random_state=random_state,
            head_params=head_params,
            save_heads=save_heads,  # type: ignore[arg-type]  # one of the three, checked above
            name=name,
            command=sys.argv,
            cache_dir=cache_dir,
            progress=lambda done, total, _: progress(done, total),
        )
    if as_json:
        print_json(
            {
                "run": fitted.run.path,
                "curve": fitted.result.curve(),
                "figures": fitted.figures,
                "notes": fitted.result.notes,
                "failed": len(fitted.result.failed),
            }
        )
    else:
        print_curve(fitted)
    if fitted.result.failed:
        raise typer.Exit(1)


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInputError(f"--temperature {text!r} is not a list of numbers such as 0.5,1,2") from None


def print_curve(fitted: FittedRun) -> None:
    """Print the curve as a table: one line per cut, head and temperature, one column per size."""
    points = fitted.result.curve()
    metric = "top1" if any(point["top1_mean"] is not None for point in points) else "val_top1"
    sizes = sorted({point["n_per_class"] for point in points})
    lines: dict[tuple[str, str, float | None], dict[float, str]] = {}
    for point in points:
        key = (point["cut"], point["head"], point["temperature"])
        lines.setdefault(key, {})[point["n_per_class"]] = _cell(point, metric)
    columns = [f"{size:g}" for size in sizes]
    split = "test" if metric == "top1" else "validation"
    typer.echo(f"\n{split} accuracy in % by samples per class: mean and half width of the 95 % interval\n")
    print_table(
        ("cut", "head", *columns),
        [
            (cut if at is None else f"{cut} T={at:g}", head, *(cells.get(size, "") for size in sizes))
            for (cut, head, at), cells in lines.items()
        ],
        numeric=columns,
    )
    for note in fitted.result.notes:
        say(f"note: {note}")
    typer.echo(f"run     {fitted.run.path}")
    for kind, path in fitted.figures.items():
        typer.echo(f"{kind:<12}{path}")


def _cell(point: dict[str, Any], metric: str) -> str:
    mean, high = point[f"{metric}_mean"], point[f"{metric}_high"]
    if mean is None:
        return ""
    return f"{100 * mean:.1f}" if high is None else f"{100 * mean:.1f} ±{100 * (high - mean):.1f}"
