"""``featbank fit-head``."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank.cli._options import CacheDir, Json, Seed, split_commas
from featbank.cli._output import print_json, print_table, progress_bar, say
from featbank.errors import FitWarning, InvalidInputError, LeakWarning
from featbank.manifest import printable

if TYPE_CHECKING:
    from featbank.fitting import FittedRun

__all__ = ["fit_head", "noted_not_warned", "print_curve", "print_notes"]

#: Parameter of a head -> its option, where the two differ by more than a dash.
_OPTIONS = {"tolerance_epochs": "--tolerance", "C": "--C"}


def fit_head(
    bank: Annotated[
        str | None, typer.Argument(help="Path, or a part of the bank's name; the newest by default.")
    ] = None,
    cut: Annotated[
        list[str] | None, typer.Option("--cut", "-c", help="Which cuts; all of the bank by default.")
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            "--head",
            help="softmax, mlp, logreg, ncm, knn, svm, ridge; repeat it for more (default: softmax).",
        ),
    ] = None,
    samples_per_class: Annotated[
        str,
        typer.Option(
            "--samples-per-class",
            "-n",
            help="4..32 doubles, 4..32:4 steps by 4, 1,5,10 lists, all takes every training sample.",
        ),
    ] = "4..32",
    repeats: Annotated[int, typer.Option(help="Draws per size.")] = 5,
    temperature: Annotated[
        str | None,
        typer.Option(
            help="For --cut softmax: a list such as 0.5,1,1.5,2,4; costs no extraction (default: 1)."
        ),
    ] = None,
    lr: Annotated[
        str | None,
        typer.Option(
            help="softmax, mlp: learning rate at the start, a list such as 1e-3,1e-2 (a head of each), or "
            "auto (default: the head's own)."
        ),
    ] = None,
    solver: Annotated[str | None, typer.Option(help="softmax, mlp: adam or sgd (default: adam).")] = None,
    annealing: Annotated[
        str | None,
        typer.Option(help="softmax, mlp: inverse-time, cosine, step or constant (default: inverse-time)."),
    ] = None,
    annealing_epochs: Annotated[
        float | None, typer.Option(help="softmax, mlp: T of lr / (1 + t/T), in epochs.")
    ] = None,
    max_epochs: Annotated[
        int | None, typer.Option(help="softmax, mlp: passes over the training samples at most.")
    ] = None,
    tolerance: Annotated[
        int | None,
        typer.Option(
            help="Epochs without a better validation loss (softmax) or accuracy (mlp) to stop after."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="softmax, mlp: samples per step (default: 32).")
    ] = None,
    hidden_units: Annotated[int | None, typer.Option(help="mlp: width (default: 1000).")] = None,
    dropout: Annotated[float | None, typer.Option(help="softmax, mlp: share left out.")] = None,
    alpha: Annotated[float | None, typer.Option(help="softmax, mlp, ridge: weight decay.")] = None,
    c: Annotated[
        str | None,
        typer.Option(
            "--C",
            help="logreg, svm: inverse of the regularisation, a list such as 0.01,0.1,1 (a head of each), or "
            "auto (logreg: chosen on the validation rows).",
        ),
    ] = None,
    standardize: Annotated[
        bool | None,
        typer.Option(
            "--standardize/--no-standardize",
            help="Shift and scale features by the statistics of the training rows (default: yes).",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="softmax, mlp: cpu, cuda or cuda:N (default: cpu).")
    ] = None,
    save_heads: Annotated[
        str, typer.Option(help="best (one per curve, by validation), all, or none.")
    ] = "best",
    interval: Annotated[
        str,
        typer.Option(help="t (over the repeats) or bootstrap (over the test images): what ± and bands are."),
    ] = "t",
    check_leaks: Annotated[
        bool,
        typer.Option(
            "--check-leaks",
            help="Look for near-identical images across the splits first (see --leak-cosine).",
        ),
    ] = False,
    leak_cosine: Annotated[
        float | None,
        typer.Option(help="--check-leaks: cosine from which two images are near-identical (default: 0.9)."),
    ] = None,
    n_jobs: Annotated[
        int | None,
        typer.Option(
            "--n-jobs", "-j", help="ncm, knn, svm, ridge: processes; -1 is one per core (default: 1)."
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew, also where an interrupted run could be continued.")
    ] = False,
    name: Annotated[str, typer.Option(help="Run folder: the time, then this name.")] = "fit-head",
    random_state: Seed = 0,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Fit heads for growing numbers of samples per class; draws the accuracy-vs-samples curve.

    Interrupted, the same command goes on where it stopped.

    Example: featbank fit-head --cut fc7 --head softmax --samples-per-class 4..32 --repeats 5
    """
    from featbank.fitting import fit_heads

    heads = split_commas(head) or ["softmax"]
    head_params = _head_params(
        heads,
        {
            "lr": _values("--lr", lr),
            "solver": solver,
            "annealing": annealing,
            "annealing_epochs": annealing_epochs,
            "max_epochs": max_epochs,
            "tolerance_epochs": tolerance,
            "batch_size": batch_size,
            "hidden_units": hidden_units,
            "dropout": dropout,
            "alpha": alpha,
            "C": _values("--C", c),
            "standardize": standardize,
            "device": device,
        },
    )
    if save_heads not in ("best", "all", "none"):
        raise InvalidInputError(f"--save-heads {save_heads!r} is not one of best, all, none")
    if interval not in ("t", "bootstrap"):
        raise InvalidInputError(f"--interval {interval!r} is not one of t, bootstrap")
    if leak_cosine is not None and not check_leaks:
        raise InvalidInputError("--leak-cosine is for --check-leaks; add it")
    with noted_not_warned(), progress_bar("fit", "heads") as progress:
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
            progress=_without_earlier(progress),
            fresh=fresh,
            n_jobs=n_jobs,
            check_leaks=leak_cosine if leak_cosine is not None else check_leaks,
            interval=interval,  # type: ignore[arg-type]  # one of the two, checked above
            announce=say,
        )
    if as_json:
        print_notes(fitted)
        print_json(_as_json(fitted, interval))
    else:
        print_curve(fitted, interval)
    if fitted.result.failed:
        raise typer.Exit(1)


def _without_earlier(progress: Callable[[int, int], None]) -> Callable[[int, int, str], None]:
    """Leave out of the rate and the time left what an interrupted run had done before."""
    earlier: int | None = None

    def told(done: int, total: int, _: str) -> None:
        nonlocal earlier
        if earlier is None:
            earlier = done
        progress(done - earlier, total - earlier)

    return told


def _as_json(fitted: FittedRun, interval: str) -> dict[str, Any]:
    found = {
        "run": fitted.run.path,
        "resumed": fitted.n_resumed,
        "rows": fitted.result.n_rows,
        "interval": interval,
        "curve": fitted.result.curve(interval=interval),  # type: ignore[arg-type]  # checked by the command
        "figures": fitted.figures,
        "notes": fitted.result.notes,
        "failed": len(fitted.result.failed),
    }
    if fitted.result.near_duplicates:
        found["near_duplicates"] = fitted.result.near_duplicates
    best = _answering(fitted)
    if best is not None:
        found["head"] = {**best, "per_class": fitted.run.per_class_accuracy(best["name"])}
    return found


def _answering(fitted: FittedRun) -> dict[str, Any] | None:
    """Return the head that answers `featbank predict`, if one was saved."""
    return fitted.run.best_head() if any(one["saved"] for one in fitted.run.heads()) else None


def _values(option: str, text: str | None) -> Any:
    """Return a number, "auto", or a list of them, as an option says it."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    try:
        values = [part if part == "auto" else float(part) for part in parts]
    except ValueError:
        raise InvalidInputError(
            f"{option} {text!r} is no number, auto, or a list such as 0.01,0.1,1"
        ) from None
    return values if len(values) > 1 else values[0]


def _head_params(heads: Sequence[str], options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Give each head those of the options that it has; an option that none of them has is an error."""
    from featbank.heads.catalogue import names, parameters

    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        if not any(option in parameters(one) for one in heads):
            flag = _OPTIONS.get(option, f"--{option.replace('_', '-')}")
            able = ", ".join(one for one in names() if option in parameters(one))
            raise InvalidInputError(f"{flag} is for --head {able}, got --head {', '.join(heads)}")
    return {
        one: {option: value for option, value in given.items() if option in parameters(one)} for one in heads
    }


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


def print_curve(fitted: FittedRun, interval: str = "t") -> None:
    """Print the curve as a table: one line per cut, head and temperature, one column per size."""
    points = fitted.result.curve(interval=interval)  # type: ignore[arg-type]  # "t" or "bootstrap"
    metric = "top1" if any(point["top1_mean"] is not None for point in points) else "val_top1"
    sizes = sorted({point["n_per_class"] for point in points})
    lines: dict[tuple[str, str, float | None], dict[float, str]] = {}
    for point in points:
        key = (point["cut"], point["head"], point["temperature"])
        lines.setdefault(key, {})[point["n_per_class"]] = _cell(point, metric)
    columns = [f"{size:g}" for size in sizes]
    split = "test" if metric == "top1" else "validation"
    over = "" if interval == "t" else f" over the {split} images"
    typer.echo(
        f"\n{split} accuracy in % by samples per class: mean and half width of the 95 % interval{over}\n"
    )
    print_table(
        ("cut", "head", *columns),
        [
            (cut if at is None else f"{cut} T={at:g}", head, *(cells.get(size, "") for size in sizes))
            for (cut, head, at), cells in lines.items()
        ],
        numeric=columns,
    )
    print_notes(fitted)
    typer.echo(f"\n{'images':<12}{_counts(fitted.result.n_rows)}")
    best = _answering(fitted)
    if best is not None:
        typer.echo(f"{'head':<12}{_said(fitted, best)}")
    typer.echo(f"{'bank':<12}{printable(str(fitted.run.source['bank']))}")
    typer.echo(f"{'run':<12}{fitted.run.path}")
    for kind, path in fitted.figures.items():
        typer.echo(f"{kind:<12}{path}")


def _counts(n_rows: Mapping[str, int]) -> str:
    """Say how many images there are of each split.

    Examples
    --------
    >>> _counts({"train": 896, "val": 128, "test": 256})
    '896 to train on, 128 for validation, 256 for the test'
    """
    words = (("train", "to train on"), ("val", "for validation"), ("test", "for the test"))
    return ", ".join(f"{n_rows.get(split, 0)} {what}" for split, what in words)


def _said(fitted: FittedRun, head: Mapping[str, Any]) -> str:
    """Say which head answers predictions, how good it is, and at which classes it is worst."""
    shares = fitted.run.per_class_accuracy(head["name"])
    weakest = sorted(shares, key=lambda one: shares[one])[:3]
    at = "" if head["temperature"] is None else f" at T={head['temperature']:g}"
    score = head["top1"] if head["top1"] is not None else head["val_top1"]
    return (
        f"{head['head']} on {head['cut']}{at}, {head['n_per_class']:g} per class: {100 * score:.1f} %; "
        f"weakest {', '.join(f'{printable(one)} {100 * shares[one]:.0f} %' for one in weakest)}"
    )


def print_notes(fitted: FittedRun) -> None:
    """Say on standard error what has to be known to read the result."""
    for note in fitted.result.notes:
        say(f"note: {note}")


def _cell(point: dict[str, Any], metric: str) -> str:
    mean, low, high = (point[f"{metric}_{end}"] for end in ("mean", "low", "high"))
    if mean is None:
        return ""
    # the wider side: the other may have been cut off at 0 or 100 %
    return (
        f"{100 * mean:.1f}" if high is None else f"{100 * mean:.1f} ±{100 * max(high - mean, mean - low):.1f}"
    )
