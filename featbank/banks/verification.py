"""Checks every byte of a bank, says what is wrong, file by file, and sets damaged files aside."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from featbank._atomic import fsync_folder, locked, make_folder
from featbank._cache import user_path
from featbank.banks import _documents as files
from featbank.banks._files import unreadable
from featbank.banks.index import MANIFEST_FILE, ShardPlan, StoredManifest, read_manifest
from featbank.banks.shards import CutLayout, Shard, check_hash, check_place, read_shard, shard_number
from featbank.errors import (
    BankError,
    BankNotFoundError,
    BankReadError,
    CacheWriteError,
    CorruptBankError,
    FeatbankError,
)
from featbank.manifest import printable, short_repr

__all__ = ["Finding", "SetAside", "VerifyReport", "damaged_files", "set_damaged_aside", "verify_bank"]


Kind = Literal[
    "corrupt",
    "missing",
    "duplicate",
    "foreign",
    "unreadable",
    "unfinished",
    "temporary",
    "aside",
    "unknown",
]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Parameters
    ----------
    kind : {"corrupt", "missing", "duplicate", "foreign", "unreadable", "unfinished", "temporary", "aside", \
"unknown"}
        The first five are faults. ``"corrupt"``: its bytes are not those that its digest stands for.
        ``"foreign"``: it is whole, and belongs elsewhere. ``"unreadable"``: it cannot be opened or used now,
        which says nothing of its bytes, and no repair touches it. ``"unfinished"`` is a cut still being
        extracted, ``"temporary"`` was left by a killed process, ``"aside"`` is what a repair has moved away,
        ``"unknown"`` is a file featbank has not written.
    path : pathlib.Path
        The file (for a missing shard: its folder).
    detail : str
        One line.
    """

    kind: Kind
    path: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {printable(str(self.path))}: {self.detail}"


#: A folder of this beginning holds what a repair has set aside; nothing looks into it.
ASIDE_PREFIX = "damaged-"

_FAULTS = ("corrupt", "missing", "duplicate", "foreign", "unreadable")


@dataclass
class VerifyReport:
    """What `verify_bank` found.

    Parameters
    ----------
    path : pathlib.Path
        The bank's folder.
    n_shards : int
        Shards that were hashed.
    size_bytes : int
        Their bytes.
    findings : list of Finding
        In the order of the files' names.
    lost : dict of str to tuple of ShardPlan, or None
        Cut -> the shards that hold rows of the manifest and are damaged, foreign or gone; None for a cut of
        which nothing can be read, not even how it is divided into shards.
    """

    path: Path
    n_shards: int = 0
    size_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    lost: dict[str, tuple[ShardPlan, ...] | None] = field(default_factory=dict)

    __repr__ = short_repr

    @property
    def faults(self) -> list[Finding]:
        """The findings that make the bank unusable, wholly or in part."""
        return [one for one in self.findings if one.kind in _FAULTS]

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    @property
    def unreadable(self) -> list[Finding]:
        """The faults of which nobody knows whether anything is damaged: these files cannot be read now."""
        return [one for one in self.findings if one.kind == "unreadable"]

    def _add(self, kind: Kind, path: Path, detail: str) -> None:
        self.findings.append(Finding(kind, path, detail))

    def _add_error(self, path: Path, error: Exception) -> None:
        """A file is damaged where its digest says so; whatever else goes wrong is not its fault."""
        known = isinstance(error, FeatbankError) and not isinstance(error, CorruptBankError)
        self._add("unreadable" if known else "corrupt", path, str(error))


def verify_bank(path: str | os.PathLike[str]) -> VerifyReport:
    """Check a bank: every shard's SHA-256, what it says of itself, the plan, and the small files.

    Works on banks that cannot be opened. A shard is parsed only if its bytes are those that were written;
    what cannot be read now is a finding of its own kind.

    Parameters
    ----------
    path : str or path-like
        The bank's folder.

    Returns
    -------
    VerifyReport

    Raises
    ------
    BankNotFoundError
        If there is no such folder, or nothing of a bank in it.
    """
    folder = user_path(path)
    report = VerifyReport(folder)
    names = {entry.name for entry in files.listed(folder)} if folder.is_dir() else set()
    cuts = []
    for name in sorted(names):
        if not name.startswith((".", ASIDE_PREFIX)) and (folder / name).is_dir():
            try:
                cuts += [folder / name] if files.holds_cut(folder / name) else []
            except BankReadError as error:
                report._add_error(folder / name, error)
    if not cuts and not report.findings and not names & {files.BANK_FILE, MANIFEST_FILE}:
        files.read_bank_document(folder)  # raises with the advice a reader gets
    key_digest: str | None = None
    try:
        key_digest = files.read_bank_document(folder, source=False).key.digest()
    except BankNotFoundError:
        report._add("missing", folder / files.BANK_FILE, "the bank file is gone")
    except BankError as error:
        report._add_error(folder / files.BANK_FILE, error)
    stored: StoredManifest | None = None
    try:
        stored = read_manifest(folder)
        if stored is None:
            report._add("missing" if cuts else "unfinished", folder / MANIFEST_FILE, "there is no manifest")
    except BankError as error:
        report._add_error(folder / MANIFEST_FILE, error)
    try:
        files.read_source(folder)
    except BankError as error:
        report._add_error(folder / files.SOURCE_FILE, error)
    try:
        files.read_quarantine(folder)
    except (BankError, LookupError, ValueError) as error:
        report._add_error(folder / files.QUARANTINE_FILE, error)
    known = {*(cut.name for cut in cuts), *(one.path.name for one in report.unreadable)}
    _other_files(
        report, folder, {files.BANK_FILE, files.SOURCE_FILE, MANIFEST_FILE, files.QUARANTINE_FILE}, known
    )
    for cut in cuts:
        _verify_cut(report, cut, key_digest, stored)
    return report


def _verify_cut(
    report: VerifyReport, folder: Path, key_digest: str | None, stored: StoredManifest | None
) -> None:
    document: files.CutDocument | None = None
    damaged_document = False
    if key_digest is not None:
        try:
            document = files.read_cut_document(folder, key_digest)
        except BankError as error:
            damaged_document = isinstance(error, CorruptBankError)
            report._add_error(folder / files.CUT_FILE, error)
            if not damaged_document:
                return  # how the cut is divided into shards is not known now
    layout = document.layout if document else None
    plans = stored.table.plan(layout.shard_rows) if stored and layout else None
    present: dict[int, Path] = {}
    whole: set[int] = set()
    for entry in files.listed(folder):
        number = shard_number(entry.name)
        if number is None:
            continue
        path = folder / entry.name
        try:
            size_bytes = path.stat().st_size
        except FileNotFoundError:  # gone since it was listed, or a link to nothing
            continue
        except OSError as error:
            report._add_error(path, unreadable(path, error, what="shard"))
            present.setdefault(number, path)
            whole.add(number)
            continue
        report.n_shards += 1
        report.size_bytes += size_bytes
        if number in present:
            report._add("duplicate", path, f"shard {number} is also in {present[number].name!r}")
        present.setdefault(number, path)
        try:
            shard = _checked_shard(path, number, layout, plans, key_digest, stored)
        except FileNotFoundError:
            present.pop(number)
        except _ForeignError as error:
            report._add("foreign", path, str(error))
        except BankError as error:
            report._add_error(path, error)
            if not isinstance(error, CorruptBankError):
                whole.add(number)  # nothing says that it is not
        else:
            whole.add(number)
            if layout is None:
                layout = shard.layout
                plans = stored.table.plan(layout.shard_rows) if stored else None
    _other_files(report, folder, {files.CUT_FILE, *(path.name for path in present.values())}, set())
    if stored is None:
        return
    if layout is None:
        if present or damaged_document:
            report.lost[folder.name] = None
        else:
            report._add("unfinished", folder, "no shard is extracted yet")
        return
    plans = plans or stored.table.plan(layout.shard_rows)
    needed = np.flatnonzero(stored.rows_in(plans)).tolist()
    recorded = document.shards if document else frozenset()
    lost = []
    for number in needed:
        plan = plans[number]
        if number not in present and (number in recorded or damaged_document):
            report._add("missing", folder, f"shard {number} (slots {plan.start} to {plan.stop - 1}) is gone")
        if number not in whole and (number in present or number in recorded or damaged_document):
            lost.append(plan)
    if lost or damaged_document:
        report.lost[folder.name] = tuple(lost)
    begun = [number for number in needed if number not in recorded]
    if begun and not damaged_document:
        done = sum(number in present for number in needed)
        report._add("unfinished", folder, f"{done} of {len(needed)} shards are extracted")


class _ForeignError(Exception):
    """A shard is whole, and belongs elsewhere."""


def _checked_shard(
    path: Path,
    number: int,
    layout: CutLayout | None,
    plans: Sequence[ShardPlan] | None,
    key_digest: str | None,
    stored: StoredManifest | None,
) -> Shard:
    """Read a shard whose hash is right; raises `BankError`, or `_ForeignError` where it does not belong."""
    fault = check_hash(path)
    if fault is not None:
        raise CorruptBankError(fault)
    shard = read_shard(path)
    if key_digest is not None and (shard.layout.key_digest, shard.layout.cut) != (
        key_digest,
        path.parent.name,
    ):
        raise _ForeignError(
            f"it belongs to cut {shard.layout.cut!r} of the bank with key {shard.layout.key_digest[:8]}"
        )
    layout = layout or shard.layout
    if stored is not None:
        plans = plans if plans is not None else stored.table.plan(layout.shard_rows)
        if number >= len(plans):
            raise _ForeignError(f"the manifest plans {len(plans)} shards, this is number {number}")
        plan = plans[number]
        try:
            check_place(shard, layout, plan, stored.table.digests[plan.start : plan.stop])
        except CorruptBankError as error:
            raise _ForeignError(str(error)) from error
    return shard


def _is_begun_cut(folder: Path) -> bool:
    """Say whether a folder is all that a run left which died before its first shard."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    return all(one.name == files.LOCK_FILE or one.name.startswith(".tmp-") for one in files.listed(folder))


def _other_files(report: VerifyReport, folder: Path, files_known: set[str], folders_known: set[str]) -> None:
    known = {files.LOCK_FILE, files.VERIFIED_FILE, *files_known, *folders_known}
    for name in [entry.name for entry in files.listed(folder)]:
        if name.startswith(".tmp-"):
            report._add("temporary", folder / name, "left by a process that was killed, or is still writing")
        elif name.startswith(ASIDE_PREFIX):
            report._add("aside", folder / name, "moved away by a repair; delete it when nobody needs it")
        elif name not in known and _is_begun_cut(folder / name):
            report._add("unfinished", folder / name, "no shard is extracted yet")
        elif name not in known and shard_number(name) is None:
            report._add("unknown", folder / name, "featbank has not written this")


# setting aside ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SetAside:
    """What was moved.

    Parameters
    ----------
    folder : pathlib.Path or None
        Where it is now; None if there was nothing to move.
    moved : tuple of pathlib.Path
        Where the files stood before.
    """

    folder: Path | None
    moved: tuple[Path, ...]


def damaged_files(report: VerifyReport) -> list[Path]:
    """Return the files a report finds fault with, of which one too many stand or which are damaged.

    Raises
    ------
    CorruptBankError
        If ``bank.json`` or the manifest is among them: without key and rows nothing can be extracted again.
    BankReadError
        If a file cannot be read now: nobody knows yet whether it is damaged.
    """
    if report.unreadable:
        first, more = report.unreadable[0], len(report.unreadable) - 1
        raise BankReadError(
            f"bank {str(report.path)!r} is not repaired, nothing was changed: "
            f"{first.detail}{f' (and {more} more such files)' if more else ''}"
        )
    lost = [fault for fault in report.faults if fault.path.name in (files.BANK_FILE, MANIFEST_FILE)]
    if lost:
        raise CorruptBankError(
            f"bank {str(report.path)!r} cannot be repaired, {lost[0].path.name} is {lost[0].kind} and says "
            f"what was extracted from what; copy this file from where it is whole, or remove the bank and "
            f"run `featbank extract` again"
        )
    bad = {fault.path for fault in report.faults if fault.kind in ("corrupt", "foreign")}
    standing: dict[tuple[Path, int], list[Path]] = defaultdict(list)
    for folder in {fault.path.parent for fault in report.faults if fault.kind == "duplicate"}:
        for entry in files.listed(folder):
            path, number = folder / entry.name, shard_number(entry.name)
            if number is not None and path not in bad:
                standing[folder, number].append(path)
    twins = [path for paths in standing.values() for path in paths[1:]]  # whole, but one of them is enough
    return sorted({*bad, *twins})


def set_damaged_aside(report: VerifyReport) -> SetAside:
    """Move the files a report finds fault with into ``damaged-<time>/`` inside the bank.

    Parameters
    ----------
    report : VerifyReport
        What `verify_bank` found, just now.

    Returns
    -------
    SetAside

    Raises
    ------
    CorruptBankError
        If the bank cannot be repaired, or a link leads out of it; nothing is moved.
    BankReadError
        If a file cannot be read now; nothing is moved.
    CacheWriteError
        If a file cannot be moved; those moved before stay where they are now.
    """
    paths = damaged_files(report)
    if not paths:
        return SetAside(None, ())
    inside = report.path.resolve()
    for path in paths:
        if not path.parent.resolve().is_relative_to(inside):
            raise CorruptBankError(
                f"{str(path)!r} lies behind a link out of the bank, and is not moved: put the files "
                f"themselves into {str(report.path)!r} and run the same command again"
            )
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = _unused(report.path / f"{ASIDE_PREFIX}{stamp}")
    with locked(report.path / files.LOCK_FILE):
        for path in paths:
            target = aside / path.relative_to(report.path)
            make_folder(target.parent)
            try:
                os.replace(path, target)  # noqa: PTH105 - as in _atomic
                fsync_folder(target.parent)
                fsync_folder(path.parent)
            except OSError as error:
                raise CacheWriteError(
                    f"cannot move {str(path)!r} to {str(target)!r} ({error.strerror}): check the permissions "
                    f"of the bank's folder and run the same command again"
                ) from error
    return SetAside(aside, tuple(paths))


def _unused(folder: Path) -> Path:
    number = 1
    candidate = folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
