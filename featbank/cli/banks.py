"""``featbank banks ls|info|verify|pack|unpack|rm``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank.cli._options import CacheDir, Json
from featbank.cli._output import human_bytes, human_time, print_json, print_table, say
from featbank.errors import BankNotFoundError

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
    typer.echo(f"bank           {info.path}")
    for name, value in opened.key.to_dict().items():
        typer.echo(f"{name:<14} {value}")
    typer.echo(f"weights        {opened.provenance.get('weights', '?')}")
    typer.echo(f"images from    {opened.provenance.get('location', '?')}")
    splits = ", ".join(f"{count} {split}" for split, count in info.splits.items())
    typer.echo(
        f"rows           {info.rows} of {len(info.classes)} classes ({splits}), "
        f"{info.quarantined} quarantined"
    )
    typer.echo(f"size           {human_bytes(info.size_bytes)}\n")
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
                _zeros(cut.facts),
                human_time(cut.facts["duration_s"]) if "duration_s" in cut.facts else "",
            )
            for cut in info.cuts
        ],
        numeric=("rows", "size", "error vs float32", "largest", "zeros", "time"),
    )


@app.command("verify")
def verify(bank: _Bank = None, cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """Check every byte of a bank against the digests it carries; exit 1 when something is wrong."""
    from featbank.banks import verify_bank

    report = verify_bank(_damaged_or_not(bank, cache_dir))
    if as_json:
        print_json(
            {
                "bank": report.path,
                "ok": report.ok,
                "n_shards": report.n_shards,
                "size_bytes": report.size_bytes,
                "findings": [asdict(finding) for finding in report.findings],
            }
        )
    else:
        for finding in report.findings:
            typer.echo(str(finding))
        n_faults = len(report.faults)
        typer.echo(
            f"{report.path}: {report.n_shards} shards, {human_bytes(report.size_bytes)} checked: "
            + ("all as written" if report.ok else f"{n_faults} fault{'s' if n_faults > 1 else ''}")
        )
    if not report.ok:
        raise typer.Exit(1)


def _damaged_or_not(bank: str | None, cache_dir: Path | None) -> Path:
    """Find a bank to verify, also by the path of one whose ``bank.json`` is gone."""
    try:
        return _store(cache_dir).resolve(bank)
    except BankNotFoundError:
        if bank is None or not Path(bank).is_dir():
            raise
        return Path(bank)


@app.command("pack")
def pack_bank(
    bank: Annotated[str, typer.Argument(help="Path, or dataset/backbone, or a part that is unique.")],
    file: Annotated[Path, typer.Argument(help="The HDF5 file to write; replaced if it exists.")],
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Write a bank as one plain HDF5 file that any HDF5 reader opens; it is verified first."""
    from featbank.banks import Bank, pack

    written = pack(Bank.open(_store(cache_dir).resolve(bank)), file)
    size_bytes = written.stat().st_size
    if as_json:
        print_json({"file": written, "size_bytes": size_bytes})
    else:
        typer.echo(f"{written}  {human_bytes(size_bytes)}")


@app.command("unpack")
def unpack_bank(
    file: Annotated[Path, typer.Argument(help="A file that 'banks pack' wrote.")],
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Make a bank from a packed file, under its own name in the cache."""
    from featbank.banks import unpack

    bank = unpack(file, _store(cache_dir))
    if as_json:
        print_json({"bank": bank.path})
    else:
        typer.echo(bank.path)


@app.command("rm")
def remove(
    bank: Annotated[str, typer.Argument(help="Which bank; there is no default here.")],
    cut: Annotated[str | None, typer.Option("--cut", "-c", help="Remove this cut only.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Delete a bank, or one cut of it."""
    store = _store(cache_dir)
    path = store.resolve(bank)
    what = f"cut {cut} of {path}" if cut else str(path)
    if not yes and not _agreed(f"Delete {what}?"):
        say("nothing was removed; --yes removes without asking")
        raise typer.Exit(1)
    freed = store.remove(path, cut=cut)
    if as_json:
        print_json({"bank": path, "cut": cut, "freed_bytes": freed})
    else:
        typer.echo(f"removed {what}: {human_bytes(freed)}")


def _agreed(question: str) -> bool:
    # typer.confirm leaves a blank on standard output, where --json promises one object and nothing else
    sys.stderr.write(f"{question} [y/N]: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _as_dict(info: BankInfo) -> dict[str, Any]:
    return {**asdict(info), "name": info.name}


def _fact(facts: Any, name: str, form: str) -> str:
    value = facts.get(name)
    return "" if value is None else form.format(value)


def _zeros(facts: Mapping[str, Any]) -> str:
    return f"{facts['n_zero'] / facts['n_values']:.0%}" if facts.get("n_values") else ""
