"""``featbank fit-head``."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank.cli._fitted import answering, print_curve, print_notes
from featbank.cli._options import CacheDir, Json, Seed, split_commas
from featbank.cli._output import print_json, progress_bar, say
from featbank.errors import FitWarning, InvalidInputError, LeakWarning

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
        str | None,
        typer.Option(
            "--samples-per-class",
            "-n",
            help="4..32 doubles, 4..32:4 steps by 4, 1,5,10 lists, all takes every training sample (default: "
            "4..32, as far as the smallest class reaches).",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Draws per size.")] = 5,
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
            "auto (logreg: chosen on the validation rows, or by cross-validation of the draw).",
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
    untrained_classes: Annotated[
        str,
        typer.Option(
            help="Validation and test images of classes without training images: drop, or keep (they are "
            "wrong then)."
        ),
    ] = "drop",
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
    if interval not in ("t", "bootstrap"):
        raise InvalidInputError(f"--interval {interval!r} is not one of t, bootstrap")
    if save_heads not in ("best", "all", "none"):
        raise InvalidInputError(f"--save-heads {save_heads!r} is not one of best, all, none")
    if untrained_classes not in ("drop", "keep"):
        raise InvalidInputError(f"--untrained-classes {untrained_classes!r} is not one of drop, keep")
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
            untrained_classes=untrained_classes,  # type: ignore[arg-type]  # one of the two, checked above
            interval=interval,  # type: ignore[arg-type]  # one of the two, checked above
            announce=say,
            val=_val(val),
        )
    if as_json:
        print_notes(fitted)
        print_json(_as_json(fitted, interval))
    else:
        print_curve(fitted, interval)  # type: ignore[arg-type]
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
        found["head"] = {**best, "per_class": fitted.run.per_class_accuracy(best["name"])}
    return found


def _val(text: str | None) -> Any:
    """Return a number where it is one; what else is allowed, the sweep knows."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


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
