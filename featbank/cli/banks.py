"""``featbank banks ls|info|verify|pack|unpack|rm``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank.cli._options import CacheDir, Json
from featbank.cli._output import human_bytes, human_time, print_json, print_table, say

if TYPE_CHECKING:
    from featbank.banks import BankInfo, BankStore

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List, inspect, verify, pack and remove banks.")

_Bank = Annotated[
    str | None,
    typer.Argument(help="Path, or dataset/backbone, or a part that is unique; the newest by default."),
]


def _store(cache_dir: Path | None) -> BankStore:
    from featbank._cache import banks_folder
    from featbank.banks import BankStore

    return BankStore(banks_folder(cache_dir))


@app.command("ls")
def list_banks(cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """List the banks of the cache, newest first."""
    infos = sorted(_store(cache_dir).list(), key=lambda info: -info.changed)
    if as_json:
        print_json({"banks": [_as_dict(info) for info in infos]})
        return
    if not infos:
        say("no banks yet; 'featbank extract' makes one")
        return
    print_table(
        ("bank", "rows", "classes", "size", "cuts"),
        [
            (
                info.name,
                str(info.rows),
                str(len(info.classes)),
                human_bytes(info.size_bytes),
                info.error
                or " ".join(
                    cut.name if cut.complete else f"{cut.name} ({cut.rows_stored}/{cut.rows_needed})"
                    for cut in info.cuts
                ),
            )
            for info in infos
        ],
        numeric=("rows", "classes", "size"),
    )


@app.command("info")
def info(bank: _Bank = None, cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """Show what a bank holds and where it came from."""
    from featbank.banks import Bank

    opened = Bank.open(_store(cache_dir).resolve(bank))
    info = opened.info()
    if as_json:
        print_json({**_as_dict(info), "key": opened.key.to_dict(), "provenance": dict(opened.provenance)})
        return
    typer.echo(f"bank         {info.path}")
    for name, value in opened.key.to_dict().items():
        typer.echo(f"{name:<12} {value}")
    typer.echo(f"weights      {opened.provenance.get('weights', '?')}")
    typer.echo(f"images from  {opened.provenance.get('location', '?')}")
    splits = ", ".join(f"{count} {split}" for split, count in info.splits.items())
    typer.echo(
        f"rows         {info.rows} of {len(info.classes)} classes ({splits}), {info.quarantined} quarantined"
    )
    typer.echo(f"size         {human_bytes(info.size_bytes)}\n")
    print_table(
        ("cut", "shape", "stored as", "rows", "size", "error vs float32", "largest", "zeros", "time"),
        [
            (
                cut.name,
                "x".join(map(str, cut.shape)),
                cut.dtype,
                str(cut.rows_stored) if cut.complete else f"{cut.rows_stored} of {cut.rows_needed}",
                human_bytes(cut.size_bytes),
                _fact(cut.facts, "precision_error", "{:.2%}"),
                _fact(cut.facts, "max_abs", "{:.4g}"),
                _fact(cut.facts, "zero_share", "{:.0%}"),
                human_time(cut.facts["duration_s"]) if "duration_s" in cut.facts else "",
            )
            for cut in info.cuts
        ],
        numeric=("rows", "size", "error vs float32", "largest", "zeros", "time"),
    )


@app.command("verify")
def verify(bank: _Bank = None, cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """Check every byte of a bank against the digests it carries; exit 1 when something is wrong."""
    from featbank.banks import Bank

    report = Bank.open(_store(cache_dir).resolve(bank)).verify()
    if as_json:
        print_json(
            {
                "ok": report.ok,
                "n_shards": report.n_shards,
                "faults": [asdict(fault) for fault in report.faults],
            }
        )
    else:
        for fault in report.faults:
            typer.echo(str(fault))
        typer.echo(
            f"{report.n_shards} shards checked: "
            + ("all as written" if report.ok else f"{len(report.faults)} faults")
        )
    if not report.ok:
        raise typer.Exit(1)


@app.command("rm")
def remove(
    bank: Annotated[str, typer.Argument(help="Which bank; there is no default here.")],
    cut: Annotated[str | None, typer.Option("--cut", "-c", help="Remove this cut only.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    cache_dir: CacheDir = None,
) -> None:
    """Delete a bank, or one cut of it."""
    store = _store(cache_dir)
    path = store.resolve(bank)
    what = f"cut {cut} of {path}" if cut else str(path)
    if not yes:
        typer.confirm(f"Delete {what}?", abort=True, err=True)
    store.remove(path, cut=cut)
    say(f"removed {what}")


def _as_dict(info: BankInfo) -> dict[str, Any]:
    return {**asdict(info), "name": info.name}


def _fact(facts: Any, name: str, form: str) -> str:
    value = facts.get(name)
    return "" if value is None else form.format(value)
