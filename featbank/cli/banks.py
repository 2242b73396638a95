"""``featbank banks ls|info|verify|pack|export|unpack|import|rm``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank.cli._terminal import (
    CacheDir,
    Json,
    human_bytes,
    human_date,
    human_time,
    print_json,
    print_table,
    say,
    split_commas,
)
from featbank.cli.verify import verify
from featbank.manifest import printable

if TYPE_CHECKING:
    from featbank.banks import Bank, BankInfo, BankStore

__all__ = ["agreed", "app"]

app = typer.Typer(
    no_args_is_help=True, help="List, inspect, verify, repair, pack, export, import and remove banks."
)

_Bank = Annotated[
    str | None,
    typer.Argument(help="Path, or dataset/backbone, or a part that is unique; the newest by default."),
]


def _store(cache_dir: str | None) -> BankStore:
    from featbank._cache import banks_folder
    from featbank.banks import BankStore

    return BankStore(banks_folder(cache_dir))


@app.command("ls")
def list_banks(cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """List the banks of the cache, newest first.

    Example: featbank banks ls
    """
    store = _store(cache_dir)
    described = {info.path: info for info in store.list()}
    infos = [described[path] for path in store.newest_first() if path in described]
    if as_json:
        print_json({"banks": [_as_dict(info) for info in infos]})
        return
    if not infos:
        say("no banks yet; 'featbank extract' makes one")
        return
    print_table(
        ("bank", "changed", "rows", "classes", "size", "cuts"),
        [
            (
                info.name,
                human_date(info.changed),
                str(info.rows),
                str(len(info.classes)),
                human_bytes(info.size_bytes),
                info.error
                or " ".join(
                    cut.name
                    if cut.complete
                    else f"{cut.name} (unfinished, {cut.rows_stored} of {cut.rows_needed})"
                    for cut in info.cuts
                ),
            )
            for info in infos
        ],
        numeric=("rows", "classes", "size"),
    )


@app.command("info")
def info(bank: _Bank = None, cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """Show what a bank holds and where it came from.

    Example: featbank banks info photos
    """
    from featbank.banks import Bank

    opened = Bank.open(_store(cache_dir).resolve(bank))
    info = opened.info()
    if as_json:
        print_json({**_as_dict(info), "key": opened.key.to_dict(), "provenance": dict(opened.provenance)})
        return
    typer.echo(f"bank           {info.path}")
    for name, value in opened.key.to_dict().items():
        typer.echo(f"{name:<14} {printable(str(value))}")
    typer.echo(f"weights        {printable(str(opened.provenance.get('weights', '?')))}")
    typer.echo(f"images from    {printable(str(opened.provenance.get('location', '?')))}")
    splits = ", ".join(f"{count} {split}" for split, count in info.splits.items())
    typer.echo(
        f"rows           {info.rows} of {len(info.classes)} classes ({splits}), "
        f"{info.quarantined} quarantined"
    )
    for name in ("torch", "device"):
        values = sorted({str(cut.facts[name]) for cut in info.cuts if cut.facts.get(name)})
        typer.echo(f"{name:<14} {printable(', '.join(values) or '?')}")
    typer.echo(f"changed        {human_date(info.changed)}")
    typer.echo(f"size           {human_bytes(info.size_bytes)}\n")
    print_table(
        ("cut", "shape", "stored as", "rows", "size", "error vs float32", "largest", "zeros", "time"),
        [
            (
                cut.name,
                "x".join(map(str, cut.shape)),
                cut.dtype,
                str(cut.rows_stored)
                if cut.complete
                else f"{cut.rows_stored} of {cut.rows_needed}, unfinished",
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
    for cut in info.cuts:
        for note in _notes(cut.name, cut.facts):
            typer.echo(note)


app.command("verify")(verify)


@app.command("pack")
def pack_bank(
    bank: Annotated[str, typer.Argument(help="Path, or dataset/backbone, or a part that is unique.")],
    file: Annotated[
        str, typer.Argument(metavar="PATH", help="The HDF5 file to write; replaced if it exists.")
    ],
    compression: Annotated[
        str | None,
        typer.Option(
            metavar="zstd|gzip",
            help="Compress the features, without loss; off by default. h5py reads zstd with hdf5plugin.",
        ),
    ] = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Write a bank as one plain HDF5 file that any HDF5 reader opens; it is verified first.

    Example: featbank banks pack photos photos.h5 --compression zstd
    """
    from featbank.banks import Bank, pack

    written = pack(Bank.open(_store(cache_dir).resolve(bank)), file, compression=compression)
    size_bytes = written.stat().st_size
    if as_json:
        print_json({"file": written, "size_bytes": size_bytes, "compression": compression})
    else:
        typer.echo(f"{written}  {human_bytes(size_bytes)}")


@app.command("export")
def export_bank(
    bank: _Bank = None,
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="parquet, npy, safetensors or zarr.")
    ] = "parquet",
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File or new folder; named after the bank, here, by default.",
        ),
    ] = None,
    cut: Annotated[
        list[str] | None, typer.Option("--cut", "-c", help="These cuts only; repeat it for more.")
    ] = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Write features, ids, labels and splits in a format of others.

    Example: featbank banks export digits --to parquet --output digits.parquet
    """
    from featbank.banks import Bank
    from featbank.banks import export_bank as export

    opened = Bank.open(_store(cache_dir).resolve(bank))
    written = export(opened, output, to=to, cuts=split_commas(cut) or None)
    inside = written.rglob("*") if written.is_dir() else [written]
    size_bytes = sum(one.stat().st_size for one in inside if one.is_file())
    if as_json:
        print_json({"path": written, "size_bytes": size_bytes, "format": to})
    else:
        typer.echo(f"{printable(str(written))}  {human_bytes(size_bytes)}")


@app.command("unpack")
def unpack_bank(
    file: Annotated[str, typer.Argument(metavar="PATH", help="A file that 'banks pack' wrote.")],
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Make a bank from a packed file, under its own name in the cache; it may come from anybody.

    Example: featbank banks unpack photos.h5 --cache-dir elsewhere
    """
    from featbank.banks import unpack

    _print_made(unpack(file, _store(cache_dir)), as_json)


@app.command("import")
def import_foreign(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A packed file, or the folder of a bank; made by anybody.")
    ],
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Take in a bank that somebody else made: checked as if it meant harm, then written anew.

    Example: featbank banks import photos.h5
    """
    from featbank.banks import import_bank

    _print_made(import_bank(path, _store(cache_dir)), as_json)


def _print_made(bank: Bank, as_json: bool) -> None:
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
    """Delete a bank, or one cut of it.

    Example: featbank banks rm photos --cut fc7
    """
    from featbank.banks.documents import folder_bytes

    store = _store(cache_dir)
    path = store.resolve(bank, inside=True)
    what = f"cut {cut} of {path}" if cut else str(path)
    if not yes and not agreed(f"Delete {what}?"):
        say("nothing was removed; --yes removes without asking")
        raise typer.Exit(1)
    shared = folder_bytes(path / cut if cut else path, shared=True)
    freed = store.remove(path, cut=cut) - shared
    if as_json:
        print_json({"bank": path, "cut": cut, "freed_bytes": freed, "shared_bytes": shared})
    else:
        kept = f", {human_bytes(shared)} are shared with another bank and stay" if shared else ""
        typer.echo(f"removed {what}: {human_bytes(freed)}{kept}")


def agreed(question: str) -> bool:
    """Ask on standard error; only y and yes are a yes."""
    # typer.confirm leaves a blank on standard output, where --json promises one object and nothing else
    sys.stderr.write(f"{question} [y/N]: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _as_dict(info: BankInfo) -> dict[str, Any]:
    return {**asdict(info), "name": info.name}


def _fact(facts: Any, name: str, form: str) -> str:
    value = facts.get(name)
    return "" if value is None else form.format(value)


def _notes(cut: str, facts: Mapping[str, Any]) -> list[str]:
    """What nobody may overlook about the numbers of a cut."""
    notes = []
    if facts.get("n_clipped"):
        notes.append(
            f"{cut}: {facts['n_clipped']} values in {facts.get('n_clipped_rows')} images were beyond float16 "
            f"and are clipped to 65504"
        )
    if facts.get("mixed"):
        notes.append(f"{cut}: its shards are of {facts['mixed']}: their last bits may differ")
    if facts.get("on_overflow") == "float32":
        notes.append(f"{cut}: stored in float32, because float16 could not hold it")
    if facts.get("n_nonfinite"):
        notes.append(f"{cut}: {facts['n_nonfinite']} values are no finite numbers")
    return notes


def _zeros(facts: Mapping[str, Any]) -> str:
    return f"{facts['n_zero'] / facts['n_values']:.0%}" if facts.get("n_values") else ""
