"""``featbank compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from featbank.cli._options import CacheDir, Json
from featbank.cli._output import human_time, print_json, print_table, say
from featbank.errors import BankNotFoundError, RunNotFoundError
from featbank.manifest import printable
from featbank.sampling import parse_size, size_words

if TYPE_CHECKING:
    from featbank.runs import Run
    from featbank.sweep import ComparedCurve, Comparison

__all__ = ["compare"]


def compare(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[BANK|RUN]...",
            help="Runs, or banks (all their runs), by folder or part of the name; the newest run by default.",
        ),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(
            help="At so many samples per class, or all (default: the largest that all have, with an interval "
            "if there is one)."
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="top1, top5, ece, ece_scaled, val_top1, ... (default: top1).")
    ] = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Compare cuts and heads, best by validation first, with paired differences to it and fit times.

    Example: featbank compare RUN RUN --samples 16
    """
    from featbank.sweep import compare as compare_sweeps

    runs = {run.path: run for target in targets or ["last"] for run in _runs(target, cache_dir)}
    results = {run.name: run.result() for run in runs.values()}
    comparison = compare_sweeps(
        {name: result for name, result in results.items() if result.fits},
        n_per_class=None if samples is None else parse_size(samples),
        metric=metric,
    )
    for note in comparison.notes:
        say(f"note: {printable(note)}")
    if as_json:
        print_json(_as_json(comparison))
    else:
        _print(comparison, {run.name: run for run in runs.values()})


def _runs(target: str, cache_dir: str | None) -> list[Run]:
    """Return the run somebody means, or all runs of the bank."""
    from featbank._cache import banks_folder
    from featbank.banks import BankStore
    from featbank.runs import resolve_run, runs_of_bank

    try:
        return [resolve_run(target, cache_dir)]
    except RunNotFoundError as no_run:
        try:
            bank = BankStore(banks_folder(cache_dir)).resolve(target)
        except BankNotFoundError:
            raise no_run from None
        found = runs_of_bank(bank, cache_dir)
        if not found:
            raise RunNotFoundError(
                f"no run of bank {printable(target)!r}; make one with featbank fit-head"
            ) from None
        return found


def _as_json(comparison: Comparison) -> dict[str, object]:
    return {
        "metric": comparison.metric,
        "ranked_by": comparison.ranked_by,
        "n_per_class": comparison.n_per_class,
        "curves": [
            {**vars(one), "difference": one.difference._asdict() if one.difference else None}
            for one in comparison.curves
        ],
        "notes": list(comparison.notes),
    }


def _print(comparison: Comparison, runs: dict[str, Run]) -> None:
    several = len({one.run for one in comparison.curves}) > 1
    n_draws = sorted({one.n_draws for one in comparison.curves})
    over = "-".join(str(n) for n in sorted({n_draws[0], n_draws[-1]}))
    drawn = "one draw" if over == "1" else f"mean of {over} draws"
    sure = any(one.low is not None for one in comparison.curves)
    sizes = "; ".join(
        dict.fromkeys(
            size_words({**vars(one), "n_per_class": comparison.n_per_class}) for one in comparison.curves
        )
    )
    by = "" if comparison.ranked_by == comparison.metric else f" by {comparison.ranked_by}"
    typer.echo(
        f"\n{comparison.metric} in %, {sizes}: {drawn}"
        + (" and half width of the 95 % interval" if sure else " (an interval takes 3 different draws)")
        + f";\nbest{by} first; difference to the best on the same subsets"
        + (", and its interval\n" if sure else "\n")
    )
    columns = (
        *(("run",) if several else ()),
        "cut",
        "head",
        comparison.metric,
        *(() if comparison.ranked_by == comparison.metric else (comparison.ranked_by,)),
        "difference to the best",
        "one fit",
        "all fits",
    )
    rows = []
    for number, one in enumerate(comparison.curves):
        at = one.cut if one.temperature is None else f"{one.cut} T={one.temperature:g}"
        rows.append(
            (
                *((_short(runs[one.run]),) if several else ()),
                printable(at),
                printable(one.head),
                _mean(one) + (f" ({one.n_failed} failed)" if one.n_failed else ""),
                *(() if comparison.ranked_by == comparison.metric else (f"{100 * one.rank:.1f}",)),
                "best" if number == 0 else _difference(one),
                _seconds(one.fit_s),
                human_time(one.total_s),
            )
        )
    print_table(columns, rows, numeric=(comparison.metric, comparison.ranked_by, "one fit", "all fits"))


def _short(run: Run) -> str:
    return f"{printable(run.name)} ({printable(run.source['dataset'])}, {printable(run.source['backbone'])})"


def _mean(one: ComparedCurve) -> str:
    if one.low is None or one.high is None:
        return f"{100 * one.mean:.1f}"
    # the wider side: the other may have been cut off at 0 or 100 %
    return f"{100 * one.mean:.1f} ±{100 * max(one.high - one.mean, one.mean - one.low):.1f}"


def _difference(one: ComparedCurve) -> str:
    if one.difference is None:
        return "not paired"
    mean, low, high = (100 * value for value in one.difference)
    return f"{mean:+.1f}" if low != low else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _seconds(duration_s: float) -> str:
    return f"{1000 * duration_s:.3g} ms" if duration_s < 1 else human_time(duration_s)
