"""``featbank banks ls|info|verify|pack|unpack|import|rm``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank.cli._options import CacheDir, Device, Json
from featbank.cli._output import human_bytes, human_time, print_json, print_table, progress_bar, say
from featbank.errors import BankNotFoundError
from featbank.manifest import printable

if TYPE_CHECKING:
    from featbank.banks import Bank, BankInfo, BankStore, Finding
    from featbank.datasets import SourceFinding
    from featbank.extraction import RepairResult

__all__ = ["app"]

#: A bank made with --limit lacks most of its source; the first few say so as well as all of them.
_NEW_SHOWN = 5

app = typer.Typer(no_args_is_help=True, help="List, inspect, verify, repair, pack, import and remove banks.")

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
    """Show what a bank holds and where it came from."""
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


@app.command("verify")
def verify(
    bank: _Bank = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Set damaged shards aside and extract the rows they held again."),
    ] = False,
    sources: Annotated[
        bool, typer.Option("--sources", help="Also read every image again: is it the one that was extracted?")
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="Where the images are now, if not where they were extracted from.")
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="Where torchvision datasets lie.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Where the weights are now, if not where they were (for --repair).")
    ] = None,
    device: Device = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Check every byte of a bank against the digests it carries; exit 1 when something is wrong.

    Example: featbank banks verify photos --repair --sources
    """
    from featbank.banks import verify_bank

    folder = _damaged_or_not(bank, cache_dir)
    report = verify_bank(folder)
    findings, n_shards, size_bytes = list(report.findings), report.n_shards, report.size_bytes
    repaired: RepairResult | None = None
    if repair and not report.ok:
        if not as_json:
            _print_findings(report.findings)
        from featbank.extraction import repair_bank

        with progress_bar("repair", "images") as progress:
            repaired = repair_bank(
                folder, data=data, data_root=data_root, weights=weights, device=device, progress=progress
            )
        report = repaired.report
    changed = _compared(folder, data, data_root) if sources else []
    wrong = [one for one in changed if one.kind != "new"]
    if as_json:
        print_json(
            {
                "bank": report.path,
                "ok": report.ok and not wrong,
                "n_shards": n_shards,
                "size_bytes": size_bytes,
                "findings": [asdict(finding) for finding in findings],
                "repair": _of_repair(repaired) if repaired else None,
                "sources": [{**asdict(one), "id": printable(one.id)} for one in changed] if sources else None,
            }
        )
    else:
        if repaired is not None:
            _print_repair(repaired)
        _print_findings(report.findings)
        new = [one for one in changed if one.kind == "new"]
        for one in [*wrong, *new[:_NEW_SHOWN]]:
            typer.echo(f"{one.kind}: image {printable(one.id)}: {one.detail}")
        if len(new) > _NEW_SHOWN:
            typer.echo(f"new: and {len(new) - _NEW_SHOWN} more images that the manifest does not list")
        n_faults = len(report.faults)
        typer.echo(
            f"{report.path}: {report.n_shards} shards, {human_bytes(report.size_bytes)} checked: "
            + ("all as written" if report.ok else f"{n_faults} fault{'s' if n_faults > 1 else ''}")
        )
        if sources:
            typer.echo(_said_of_sources(changed))
    if not report.ok or wrong:
        raise typer.Exit(1)


def _compared(folder: Path, data: str | None, data_root: Path | None) -> list[SourceFinding]:
    from featbank.banks import Bank
    from featbank.datasets import compare_sources
    from featbank.extraction import source_of

    opened = Bank.open(folder, check="size")
    return compare_sources(source_of(opened, data, data_root), opened.manifest)


def _print_findings(findings: list[Finding]) -> None:
    for finding in findings:
        typer.echo(str(finding))


def _said_of_sources(changed: list[SourceFinding]) -> str:
    counts = {kind: sum(one.kind == kind for one in changed) for kind in ("changed", "missing", "new")}
    if not changed:
        return "images: all as they were extracted"
    return (
        "images: "
        + ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        + "; 'featbank extract' takes them as they are now (those beyond its --limit it leaves out again)"
    )


def _print_repair(repaired: RepairResult) -> None:
    if repaired.folder is not None:
        typer.echo(f"{len(repaired.set_aside)} damaged files are now in {repaired.folder}")
    typer.echo(f"{repaired.shards} shards extracted again, {repaired.pushed} images pushed")
    for path in repaired.differing:
        typer.echo(
            f"differs: {path}: whole, but not what it replaces byte for byte (other machine or versions)"
        )


def _of_repair(repaired: RepairResult) -> dict[str, Any]:
    return {
        "folder": repaired.folder,
        "set_aside": repaired.set_aside,
        "shards": repaired.shards,
        "pushed": repaired.pushed,
        "differing": repaired.differing,
        "findings": [asdict(finding) for finding in repaired.report.findings],
    }


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
    """Make a bank from a packed file, under its own name in the cache; it may come from anybody."""
    from featbank.banks import unpack

    _print_made(unpack(file, _store(cache_dir)), as_json)


@app.command("import")
def import_foreign(
    path: Annotated[Path, typer.Argument(help="A packed file, or the folder of a bank; made by anybody.")],
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Take in a bank that somebody else made: read by a process that can do no harm, then written anew."""
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


def _notes(cut: str, facts: Mapping[str, Any]) -> list[str]:
    """What nobody may overlook about the numbers of a cut."""
    notes = []
    if facts.get("n_clipped"):
        notes.append(
            f"{cut}: {facts['n_clipped']} values in {facts.get('n_clipped_rows')} images were beyond float16 "
            f"and are clipped to 65504"
        )
    if facts.get("on_overflow") == "float32":
        notes.append(f"{cut}: stored in float32, because float16 could not hold it")
    if facts.get("n_nonfinite"):
        notes.append(f"{cut}: {facts['n_nonfinite']} values are no finite numbers")
    return notes


def _zeros(facts: Mapping[str, Any]) -> str:
    return f"{facts['n_zero'] / facts['n_values']:.0%}" if facts.get("n_values") else ""
