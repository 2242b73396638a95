"""``featbank runs ls|info|export|rm``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank.cli._options import Json, RunsDir, known_runs
from featbank.cli._output import human_bytes, human_date, print_json, print_table, say
from featbank.cli.banks import agreed
from featbank.errors import RunError
from featbank.manifest import printable
from featbank.metrics.catalogue import percent, spelling
from featbank.sampling import Size, size_label, size_words

if TYPE_CHECKING:
    from featbank.runs import BestCurve, Run, RunInfo

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List, inspect, export and remove runs.")


@app.command("ls")
def list_runs(
    bank: Annotated[
        str | None,
        typer.Argument(help="Only runs of this bank: path, dataset/backbone, or a part that is unique."),
    ] = None,
    cache_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """List the runs of the cache, newest first: when, on which bank, what was fitted, the best curve.

    Example: featbank runs ls digits
    """
    from featbank.runs import describe_run
    from featbank.runs import list_runs as paths_of_runs

    wanted = None if bank is None else _bank(bank, cache_dir)
    infos = [describe_run(path) for path in reversed(paths_of_runs(cache_dir))]
    if wanted is not None:
        infos = [one for one in infos if one.bank is not None and one.bank.resolve() == wanted]
    if as_json:
        print_json({"runs": [_as_dict(one) for one in infos]})
        return
    if not infos:
        of = "" if bank is None else f" of bank {printable(bank)!r}"
        say(f"no runs{of} yet; 'featbank fit-head' makes one")
        return
    columns = ("run", "began", "data", "cuts", "heads", "per class", "fits", "best", "size")
    print_table(columns, [_row(one) for one in infos], numeric=("fits", "size"))
    for one in infos:
        if one.error is not None:
            say(f"{printable(one.name)}: {printable(one.error)}")


def _bank(bank: str, cache_dir: str | None) -> Path:
    from featbank._cache import banks_folder
    from featbank.banks import BankStore

    return BankStore(banks_folder(cache_dir)).resolve(bank).resolve()


def _row(info: RunInfo) -> tuple[str, ...]:
    if info.error is not None:
        return printable(info.name), "", "", "", "", "", "", "damaged", human_bytes(info.size_bytes)
    fits = str(info.n_fits)
    if info.status != "finished":
        fits += f" of {info.n_planned}, {info.status}" if info.n_planned else f", {info.status}"
    if info.n_failed:
        fits += f", {info.n_failed} failed"
    return (
        printable(info.name),
        human_date(info.created),
        printable(f"{info.dataset}/{info.backbone}"),
        _few(info.cuts),
        _few(info.heads),
        _range(info.sizes),
        fits,
        "" if info.best is None else _best(info.best, size_label(vars(info.best))),
        human_bytes(info.size_bytes),
    )


def _range(sizes: Sequence[Size]) -> str:
    return "" if not sizes else f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]}..{sizes[-1]}"


def _few(names: Sequence[str], shown: int = 2) -> str:
    """Name the first and count the others; a name more is no longer than the count."""
    if len(names) > shown + 1:
        names = [*names[:shown], f"+{len(names) - shown}"]
    return " ".join(map(printable, names))


def _best(best: BestCurve, size: str) -> str:
    at = printable(best.cut) if best.temperature is None else f"{printable(best.cut)} T={best.temperature:g}"
    where = " on val" if best.metric == "val_top1" else ""
    if best.chosen_by == best.metric and not where:  # nothing was validated, or nothing else is there
        where = " (best by test)" if best.metric == "top1" else " (best by the same images)"
    unit, factor, digits = spelling(best.metric)
    named = "" if best.metric in ("top1", "val_top1") else f"{best.metric} "
    score = f"{named}{factor * best.mean:.{digits}f}{' %' if unit else ''}"
    return f"{score}{where}: {at} {printable(best.head)}, {size}"


@app.command("info")
def info(
    run: Annotated[
        str,
        typer.Argument(
            help="A run's folder, its name or a part of it; the newest by default.", autocompletion=known_runs
        ),
    ] = "last",
    cache_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Show what a run was given, what it found, and the heads it kept for predict and show.

    Example: featbank runs info last
    """
    from featbank.runs import describe_run, open_run

    opened = open_run(run, cache_dir=cache_dir)
    found = describe_run(opened.path)
    if as_json:
        print_json(
            {**_as_dict(found), "parameters": opened.facts["parameters"], "heads_kept": opened.heads()}
        )
        return
    if found.error is not None:
        raise RunError(found.error)
    _print_info(opened, found)


def _print_info(run: Run, found: RunInfo) -> None:
    planned = f" of {found.n_planned}" if found.n_planned and found.status != "finished" else ""
    facts = {
        "run": str(found.path),
        "began": human_date(found.created),
        "command": str(run.facts.get("command", "")),
        "status": found.status,
        "bank": f"{found.bank}{'' if found.bank and found.bank.is_dir() else ' (gone)'}",
        "cuts": ", ".join(found.cuts),
        "heads": ", ".join(found.heads),
        "per class": ", ".join(map(str, found.sizes)),
        "fits": f"{found.n_fits}{planned}{f', {found.n_failed} failed' if found.n_failed else ''}",
        "best": "" if found.best is None else _best(found.best, size_words(vars(found.best))),
        "size": human_bytes(found.size_bytes),
    }
    for name, value in facts.items():
        if value:
            typer.echo(f"{name:<10} {printable(value)}")
    if not run.heads():
        return
    typer.echo("")
    print_table(
        ("kept head", "val", "test"),
        [(printable(one["name"]), percent(one["val_top1"]), percent(one["top1"])) for one in run.heads()],
        numeric=("val", "test"),
    )


@app.command("export")
def export(
    run: Annotated[
        str,
        typer.Argument(
            help="A run's folder, its name or a part of it; the newest by default.", autocompletion=known_runs
        ),
    ] = "last",
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="A new folder; named as the run, here, by default."
        ),
    ] = None,
    cache_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Copy a run to a folder that anyone can open and make again: results, heads, rows, versions, README.

    Example: featbank runs export last --output for-the-paper
    """
    from featbank.runs import export_run_folder, open_run

    written = export_run_folder(open_run(run, cache_dir=cache_dir), output)
    files = [one for one in written.rglob("*") if one.is_file()]
    size_bytes = sum(one.stat().st_size for one in files)
    if as_json:
        print_json({"path": written, "files": len(files), "size_bytes": size_bytes})
    else:
        typer.echo(f"{printable(str(written))}  {len(files)} files, {human_bytes(size_bytes)}")


@app.command("rm")
def remove(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Folders, names, or parts of names; there is no default here.",
            autocompletion=known_runs,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    cache_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Delete runs with their heads, figures and reports; the banks stay.

    Example: featbank runs rm fit-head-2 --yes
    """
    from featbank.runs import find_run, remove_run

    paths = list(dict.fromkeys(find_run(one, cache_dir, inside=True) for one in runs))
    shown = ", ".join(printable(str(path)) for path in paths)
    if not yes and not agreed(f"Delete {shown}?"):
        say("nothing was removed; --yes removes without asking")
        raise typer.Exit(1)
    freed = {path: remove_run(path, cache_dir) for path in paths}
    if as_json:
        removed = [{"run": path, "freed_bytes": size} for path, size in freed.items()]
        print_json({"removed": removed, "freed_bytes": sum(freed.values())})
    else:
        for path, size in freed.items():
            typer.echo(f"removed {printable(str(path))}: {human_bytes(size)}")


def _as_dict(found: RunInfo) -> dict[str, Any]:
    return {**asdict(found), "name": found.name}
