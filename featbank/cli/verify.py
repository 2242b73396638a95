"""``featbank banks verify``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank._cache import user_path
from featbank.cli._terminal import CacheDir, Device, Json, counted, human_bytes, print_json, progress_bar
from featbank.errors import BankNotFoundError, BankReadError, FeatbankError, InvalidInputError
from featbank.manifest import printable

if TYPE_CHECKING:
    from featbank.banks import BankStore, Finding, VerifyReport
    from featbank.datasets import SourceFinding
    from featbank.extraction import RepairResult

__all__ = ["verify"]

#: A bank made with --limit lacks most of its source; the first few say so as well as all of them.
_NEW_SHOWN = 5


@dataclass(frozen=True)
class _Repair:
    """What the options say of repairing, and of where things are now."""

    repair: bool
    sources: bool
    data: str | None
    data_root: str | None
    weights: str | None
    device: str | None


@dataclass
class _Checked:
    """What became of one bank."""

    path: Path
    report: VerifyReport | None = None
    findings: Sequence[Finding] = ()
    repaired: RepairResult | None = None
    changed: list[SourceFinding] | None = None
    error: str | None = None

    @property
    def wrong(self) -> list[SourceFinding]:
        return [one for one in self.changed or () if one.kind != "new"]

    @property
    def only_unreadable(self) -> bool:
        return self.report is not None and self.report.faults == self.report.unreadable and not self.wrong

    @property
    def ok(self) -> bool:
        return self.report is not None and self.report.ok and not self.wrong and self.error is None


def verify(
    banks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[BANK]...",
            help="Paths, or dataset/backbone, or parts that are unique; all banks of the cache by default.",
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All banks of the cache, as without any name.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Set damaged shards aside and extract the rows they held again."),
    ] = False,
    sources: Annotated[
        bool, typer.Option("--sources", help="Also read every image again: is it the one that was extracted?")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Where the images of one bank are now, if not where they were extracted from."),
    ] = None,
    data_root: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where torchvision datasets lie.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Where the weights of one bank are now, if not where they were (for --repair)."),
    ] = None,
    device: Device = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Check every byte of the banks against the digests they carry; exit 1 when something is wrong.

    Exit 3 when nothing is known to be wrong, but a file cannot be read now: no repair touches such a file.

    Example: featbank banks verify photos --repair --sources
    """
    if every and banks:
        raise InvalidInputError(f"--all and {banks[0]!r} exclude each other; give names, or --all")
    folders = _folders(banks or [], cache_dir)
    for option, value in (("--data", data), ("--weights", weights)):
        if value is not None and len(folders) > 1:
            raise InvalidInputError(
                f"{option} {value!r} is for one bank, and {len(folders)} are to be checked; name one"
            )
    asked = _Repair(repair, sources, data, data_root, weights, device)
    found = []
    for folder in folders:
        done = _Checked(folder)
        found.append(done)
        try:
            _check(done, asked, quiet=as_json)
        except (FeatbankError, OSError) as error:
            if len(folders) == 1:
                raise
            done.error = str(error)
        if not as_json:
            _print(done)
    if as_json:
        print_json({"ok": all(one.ok for one in found), "banks": [_as_dict(one) for one in found]})
    elif len(found) > 1:
        faulty = [one for one in found if not one.ok]
        what = f"{len(faulty)} of {len(found)} banks with faults" if faulty else "all as written"
        n_shards = sum(one.report.n_shards for one in found if one.report)
        size_bytes = sum(one.report.size_bytes for one in found if one.report)
        typer.echo(f"{len(found)} banks, {n_shards} shards, {human_bytes(size_bytes)} checked: {what}")
    if not all(one.ok for one in found):
        unknown = all(one.ok or one.only_unreadable for one in found)
        raise typer.Exit(BankReadError.exit_code if unknown else 1)


def _folders(names: Sequence[str], cache_dir: str | None) -> list[Path]:
    """Find the banks that are meant, each once; also by the path of one whose ``bank.json`` is gone."""
    from featbank._cache import banks_folder
    from featbank.banks import BankStore

    store = BankStore(banks_folder(cache_dir))
    if not names:
        return store.paths() or [store.newest()]  # which says how to make one
    return list({path.resolve(): path for path in (_folder(name, store) for name in names)}.values())


def _folder(name: str, store: BankStore) -> Path:
    try:
        return store.resolve(name)
    except BankNotFoundError:
        if not name or not user_path(name).is_dir():
            raise
        return user_path(name)


def _check(done: _Checked, asked: _Repair, *, quiet: bool) -> None:
    from featbank.banks import verify_bank

    done.report = verify_bank(done.path)
    done.findings = list(done.report.findings)
    if asked.repair and not done.report.ok:
        if not quiet:
            _print_findings(done.findings)
        from featbank.extraction import repair_bank

        with progress_bar("repair", "images") as progress:
            done.repaired = repair_bank(
                done.path,
                data=asked.data,
                data_root=asked.data_root,
                weights=asked.weights,
                device=asked.device,
                progress=progress,
            )
        done.report = done.repaired.report
    if asked.sources:
        from featbank.banks import Bank
        from featbank.datasets import compare_sources
        from featbank.extraction.repairing import source_of

        opened = Bank.open(done.path, check="size")
        source = source_of(opened, asked.data, asked.data_root)
        done.changed = compare_sources(source, opened.manifest)


def _print(done: _Checked) -> None:
    report = done.report
    if report is not None:
        if done.repaired is not None:
            _print_repair(done.repaired)
        _print_findings(report.findings)
        new = [one for one in done.changed or () if one.kind == "new"]
        for one in [*done.wrong, *new[:_NEW_SHOWN]]:
            typer.echo(f"{one.kind}: image {printable(one.id)}: {one.detail}")
        if len(new) > _NEW_SHOWN:
            typer.echo(
                f"new: and {counted(len(new) - _NEW_SHOWN, 'more image')} that the manifest does not list"
            )
        n_faults = len(report.faults)
        found = "all as written" if report.ok else f"{counted(n_faults, 'fault')}"
        checked = f"{counted(report.n_shards, 'shard')}, {human_bytes(report.size_bytes)} checked"
        typer.echo(f"{printable(str(report.path))}: {checked}: {found}")
        if done.changed is not None:
            typer.echo(_said_of_sources(done.changed))
    if done.error is not None:
        typer.echo(f"{printable(str(done.path))}: {printable(done.error)}")


def _print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        typer.echo(str(finding))


def _print_repair(repaired: RepairResult) -> None:
    if repaired.folder is not None:
        typer.echo(f"now in {repaired.folder}: {counted(len(repaired.set_aside), 'damaged file')}")
    typer.echo(
        f"{counted(repaired.shards, 'shard')} extracted again, {counted(repaired.pushed, 'image')} pushed"
    )
    for path in repaired.differing:
        typer.echo(
            f"differs: {path}: whole, but not what it replaces byte for byte (other machine or versions)"
        )


def _said_of_sources(changed: list[SourceFinding]) -> str:
    counts = {kind: sum(one.kind == kind for one in changed) for kind in ("changed", "missing", "new")}
    if not changed:
        return "images: all as they were extracted"
    return (
        "images: "
        + ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        + "; 'featbank extract' takes them as they are now (those beyond its --limit it leaves out again)"
    )


def _as_dict(done: _Checked) -> dict[str, Any]:
    report, changed = done.report, done.changed
    return {
        "bank": done.path,
        "ok": done.ok,
        "n_shards": report.n_shards if report else 0,
        "size_bytes": report.size_bytes if report else 0,
        "findings": [asdict(finding) for finding in done.findings],
        "repair": _of_repair(done.repaired) if done.repaired else None,
        "sources": None if changed is None else [{**asdict(one), "id": printable(one.id)} for one in changed],
        "error": done.error,
    }


def _of_repair(repaired: RepairResult) -> dict[str, Any]:
    return {
        "folder": repaired.folder,
        "set_aside": repaired.set_aside,
        "shards": repaired.shards,
        "pushed": repaired.pushed,
        "differing": repaired.differing,
        "findings": [asdict(finding) for finding in repaired.report.findings],
    }
