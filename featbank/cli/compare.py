"""``featbank compare``."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank.cli._options import CacheDir, Json
from featbank.cli._output import human_time, or_ends, print_json, print_table, say
from featbank.errors import BankNotFoundError, InvalidInputError, RunNotFoundError
from featbank.manifest import printable
from featbank.metrics.catalogue import mean_text, spelling
from featbank.sampling import Size, parse_size, size_label, size_order, size_words

if TYPE_CHECKING:
    from featbank.runs import Run
    from featbank.sweep import ComparedCurve, Comparison

__all__ = ["compare"]

_FORMATS = ("table", "csv", "latex", "markdown")


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
        str | None,
        typer.Option(
            help="top1, top5, ece, ece_scaled, val_top1, ... (default: the runs' first --metric, else top1)."
        ),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help="table; or csv, latex, markdown, which have all sizes.")
    ] = "table",
    all_sizes: Annotated[
        bool | None,
        typer.Option(
            "--all-sizes/--one-size",
            help="All sizes beside each other instead of one (default: with csv, latex and markdown, unless "
            "--samples says one).",
        ),
    ] = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Compare cuts and heads, best by validation first, with paired differences to it and fit times.

    Example: featbank compare RUN RUN --samples 16
    Example: featbank compare --format latex > table.tex
    """
    from featbank.sweep import compare as compare_sweeps
    from featbank.sweep.curves import main_metric

    if format_ not in _FORMATS:
        raise InvalidInputError(f"--format {format_!r} is not one of {', '.join(_FORMATS)}")
    if samples is not None and all_sizes:
        raise InvalidInputError(f"--samples {samples!r} is one size; leave it out for --all-sizes")

    runs = {run.path: run for target in targets or ["last"] for run in _runs(target, cache_dir)}
    results = {run.name: run.result() for run in runs.values()}
    known = {name: result for name, result in results.items() if result.fits}
    if all_sizes is None:
        all_sizes = samples is None and format_ != "table"
    if all_sizes:
        points = [result.points() for result in known.values()]
        metric = metric or main_metric(*points)
        with_it = {point.n_per_class for one in points for point in one if metric in point.scores}
        sizes: list[Size | None] = [*sorted(with_it, key=size_order)]
    else:
        sizes = [None if samples is None else parse_size(samples)]
    # without a size there is nothing to compare, and that is said
    found = [compare_sweeps(known, n_per_class=size, metric=metric) for size in sizes or [None]]
    for note in dict.fromkeys(note for one in found for note in one.notes):
        say(f"note: {printable(note)}")
    named = {run.name: run for run in runs.values()}
    if as_json:
        print_json({"sizes": [_as_json(one) for one in found]} if all_sizes else _as_json(found[0]))
    elif format_ == "csv":
        typer.echo(_as_csv(found), nl=False)
    elif format_ == "table" and not all_sizes:
        _print(found[0], named)
    else:
        _print_sizes(found, named, format_)


def _runs(target: str, cache_dir: str | None) -> list[Run]:
    """Return the run somebody means, or all runs of the bank."""
    from featbank._cache import banks_folder
    from featbank.banks import BankStore
    from featbank.runs import open_run, runs_of_bank

    try:
        return [open_run(target, cache_dir=cache_dir)]
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


def _as_csv(found: Sequence[Comparison]) -> str:
    """Return a line for each curve and size, numbers as exact as they are known."""
    lines: list[dict[str, Any]] = []
    for comparison in found:
        for one in comparison.curves:
            values = {**vars(one), "n_per_class": comparison.n_per_class, "metric": comparison.metric}
            difference = values.pop("difference")
            values |= {
                f"difference_{end}": None if difference is None or value != value else value
                for end, value in (difference._asdict() if difference else _NO_DIFFERENCE).items()
            }
            values["ranked_by"] = comparison.ranked_by
            lines.append(values)
    text = io.StringIO()
    first = ("run", "cut", "head", "temperature", "n_per_class", "metric", "mean", "low", "high")
    writer = csv.DictWriter(
        text, [*first, *(name for name in lines[0] if name not in first)], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


_NO_DIFFERENCE = dict.fromkeys(("mean", "low", "high"))


def _print_sizes(found: Sequence[Comparison], runs: dict[str, Run], format_: str) -> None:
    """Print a line for each curve and a column for each size, the best of each column set off."""
    from featbank.sweep.curves import interval_of

    several = len({one.run for comparison in found for one in comparison.curves}) > 1
    sizes = [size_label({**vars(one.curves[0]), "n_per_class": one.n_per_class}) for one in found]
    columns = [*(("run",) if several else ()), "cut", "head", *sizes]
    n_names = len(columns) - len(sizes)
    cells: dict[tuple[str, ...], list[str]] = {}
    best: set[tuple[int, int]] = set()
    for at, comparison in reversed(list(enumerate(found))):  # in the order of the largest size
        for number, one in enumerate(comparison.curves):
            heat = "" if one.temperature is None else f" T={one.temperature:g}"
            names = (*((_short(runs[one.run]),) if several else ()), f"{one.cut}{heat}", one.head)
            cells.setdefault(names, [""] * len(found))[at] = _mean(one, comparison.metric)
            if number == 0:
                best.add((list(cells).index(names), n_names + at))
    sure = any(one.low is not None for comparison in found for one in comparison.curves)
    ranked = " and ".join(dict.fromkeys(one.ranked_by for one in found))
    curves = [one for comparison in found for one in comparison.curves]
    units, drawn = " or ".join(dict.fromkeys(one.unit for one in curves)), _draws(curves)
    about = f"{found[0].metric}{spelling(found[0].metric)[0]} by {units} per class: mean over the {drawn}"
    ends = or_ends(cell for line in cells.values() for cell in line)
    about += f" ± half width of the {interval_of(curves)}{ends}" if sure else ""
    rows = [[*map(printable, names), *line] for names, line in cells.items()]
    if format_ == "latex":
        typer.echo(_latex(columns, rows, n_names, best, f"{about}; bold: best by {ranked}"), nl=False)
    elif format_ == "markdown":
        typer.echo(_markdown(columns, rows, n_names, best, f"{about}; bold: best by {ranked}"), nl=False)
    else:
        typer.echo(f"\n{about}; best at the largest size by {ranked} first\n")
        print_table(columns, rows, numeric=sizes)


def _draws(curves: Sequence[ComparedCurve]) -> str:
    """Say what curves are the mean over."""
    return " or ".join(dict.fromkeys("folds" if one.n_folds else "draws" for one in curves))


def _latex(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    n_names: int,
    best: set[tuple[int, int]],
    about: str,
) -> str:
    """Return a tabular with the rules of booktabs."""
    aligned = "l" * n_names + "r" * (len(columns) - n_names)
    body = []
    for line, row in enumerate(rows):
        cells = [
            rf"\textbf{{{_in_latex(cell)}}}" if (line, at) in best else _in_latex(cell)
            for at, cell in enumerate(row)
        ]
        body.append(" & ".join(cells) + r" \\")
    head = " & ".join(map(_in_latex, columns)) + r" \\"
    opening = [f"% {about}", rf"\begin{{tabular}}{{{aligned}}}", r"\toprule", head, r"\midrule"]
    return "\n".join([*opening, *body, r"\bottomrule", r"\end{tabular}", ""])


def _in_latex(text: str) -> str:
    r"""Return a text that LaTeX prints as it stands here.

    Examples
    --------
    >>> print(_in_latex("block5_pool & 50 %"), _in_latex("95.0 ±0.4"))
    block5\_pool \& 50 \% 95.0\,$\pm$\,0.4
    """
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    spelt = re.sub(r"[\\~^&%$#_{}]", lambda found: signs.get(found[0], f"\\{found[0]}"), text)
    return spelt.replace(" ±", r"\,$\pm$\,")


def _markdown(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    n_names: int,
    best: set[tuple[int, int]],
    about: str,
) -> str:
    """Return a table as Markdown has it, and below it what it shows."""
    lines = [[*columns], ["---"] * n_names + ["--:"] * (len(columns) - n_names)]
    for line, row in enumerate(rows):
        cells = [cell.replace("|", r"\|") for cell in row]
        lines.append([f"**{cell}**" if (line, at) in best else cell for at, cell in enumerate(cells)])
    return "".join(f"| {' | '.join(row)} |\n" for row in lines) + f"\n{about}\n"


def _print(comparison: Comparison, runs: dict[str, Run]) -> None:
    from featbank.sweep.curves import interval_of

    several = len({one.run for one in comparison.curves}) > 1
    n_draws = sorted({one.n_draws for one in comparison.curves})
    over = "-".join(str(n) for n in sorted({n_draws[0], n_draws[-1]}))
    what = _draws(comparison.curves)
    drawn = f"one {what[:-1]}" if over == "1" else f"mean of {over} {what}"
    sure = any(one.low is not None for one in comparison.curves)
    sizes = "; ".join(
        dict.fromkeys(
            size_words({**vars(one), "n_per_class": comparison.n_per_class}) for one in comparison.curves
        )
    )
    ranked = comparison.ranked_by != comparison.metric
    by = f" by {comparison.ranked_by}" if ranked else ""
    ends = or_ends(_mean(one, comparison.metric) for one in comparison.curves)
    typer.echo(
        f"\n{comparison.metric}{spelling(comparison.metric)[0]}, {sizes}: {drawn}"
        + (
            f" and half width of its {interval_of(comparison.curves)}{ends}"
            if sure
            else " (an interval takes 3 different draws)"
        )
        + f";\nbest{by} first; difference to the best on the same subsets"
        + (", and its interval\n" if sure else "\n")
    )
    columns = (
        *(("run",) if several else ()),
        "cut",
        "head",
        comparison.metric,
        *((comparison.ranked_by,) if ranked else ()),
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
                _mean(one, comparison.metric) + (f" ({one.n_failed} failed)" if one.n_failed else ""),
                *((mean_text(one.rank, None, comparison.ranked_by),) if ranked else ()),
                "best" if number == 0 else _difference(one, comparison.metric),
                _seconds(one.fit_s),
                human_time(one.total_s),
            )
        )
    print_table(columns, rows, numeric=(comparison.metric, comparison.ranked_by, "one fit", "all fits"))


def _short(run: Run) -> str:
    return f"{printable(run.name)} ({printable(run.source['dataset'])}, {printable(run.source['backbone'])})"


def _mean(one: ComparedCurve, metric: str) -> str:
    ends = None if one.low is None or one.high is None else (one.low, one.high)
    return mean_text(one.mean, ends, metric)


def _difference(one: ComparedCurve, metric: str) -> str:
    if one.difference is None:
        return "not paired"
    _, factor, digits = spelling(metric)
    mean, low, high = (f"{factor * value:+.{digits}f}" for value in one.difference)
    return mean if one.difference.low != one.difference.low else f"{mean} [{low}, {high}]"


def _seconds(duration_s: float) -> str:
    return f"{1000 * duration_s:.3g} ms" if duration_s < 1 else human_time(duration_s)
