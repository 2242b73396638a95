"""Checks every byte of a bank and says what is wrong, file by file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from featbank.banks import _bank_files as files
from featbank.banks._manifest_file import MANIFEST_FILE, StoredManifest, read_manifest
from featbank.banks._shard_file import CutLayout, check_facts, check_hash, read_facts, shard_number
from featbank.banks.slots import ShardPlan
from featbank.errors import BankError, BankNotFoundError
from featbank.manifest import printable

__all__ = ["Finding", "VerifyReport", "verify_bank"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Parameters
    ----------
    kind : {"corrupt", "missing", "duplicate", "foreign", "unfinished", "temporary", "aside", "unknown"}
        The first four are faults. ``"unfinished"`` is a cut still being extracted, ``"temporary"`` was left
        by a killed process, ``"aside"`` is what a repair has moved away, ``"unknown"`` is a file featbank has
        not written.
    path : pathlib.Path
        The file (for a missing shard: its folder).
    detail : str
        One line.
    """

    kind: Literal["corrupt", "missing", "duplicate", "foreign", "unfinished", "temporary", "aside", "unknown"]
    path: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {printable(str(self.path))}: {self.detail}"


#: A folder of this beginning holds what a repair has set aside; nothing looks into it.
ASIDE_PREFIX = "damaged-"

_FAULTS = ("corrupt", "missing", "duplicate", "foreign")


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

    @property
    def faults(self) -> list[Finding]:
        """The findings that make the bank unusable, wholly or in part."""
        return [one for one in self.findings if one.kind in _FAULTS]

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def _add(self, kind: str, path: Path, detail: str) -> None:
        self.findings.append(Finding(kind, path, detail))  # type: ignore[arg-type]  # the literals below


def verify_bank(path: str | os.PathLike[str]) -> VerifyReport:
    """Check a bank: every shard's SHA-256, what it says of itself, the plan, and the small files.

    Works on banks that cannot be opened. A shard is parsed only if its bytes are those that were written.

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
    folder = Path(path)
    report = VerifyReport(folder)
    cuts = files.cut_folders(folder) if folder.is_dir() else []
    if not cuts and not any((folder / name).exists() for name in (files.BANK_FILE, MANIFEST_FILE)):
        files.read_bank_document(folder)  # raises with the advice a reader gets
    key_digest: str | None = None
    try:
        key_digest = files.read_bank_document(folder, source=False).key.digest()
    except BankNotFoundError:
        report._add("missing", folder / files.BANK_FILE, "the bank file is gone")
    except BankError as error:
        report._add("corrupt", folder / files.BANK_FILE, str(error))
    stored: StoredManifest | None = None
    try:
        stored = read_manifest(folder)
        if stored is None:
            kind = "missing" if cuts else "unfinished"
            report._add(kind, folder / MANIFEST_FILE, "there is no manifest")
    except BankError as error:
        report._add("corrupt", folder / MANIFEST_FILE, str(error))
    try:
        files.read_source(folder)
    except BankError as error:
        report._add("corrupt", folder / files.SOURCE_FILE, str(error))
    try:
        files.read_quarantine(folder)
    except (BankError, LookupError, ValueError) as error:
        report._add("corrupt", folder / files.QUARANTINE_FILE, str(error))
    known = {files.BANK_FILE, files.SOURCE_FILE, MANIFEST_FILE, files.QUARANTINE_FILE}
    _other_files(report, folder, known, {cut.name for cut in cuts})
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
            damaged_document = True
            report._add("corrupt", folder / files.CUT_FILE, str(error))
    layout = document.layout if document else None
    present: dict[int, Path] = {}
    whole: set[int] = set()
    for name in sorted(entry.name for entry in folder.iterdir()):
        number = shard_number(name)
        if number is None:
            continue
        path = folder / name
        report.n_shards += 1
        report.size_bytes += path.stat().st_size
        if number in present:
            report._add("duplicate", path, f"shard {number} is also in {present[number].name!r}")
        present.setdefault(number, path)
        n_faults = len(report.faults)
        layout = _verify_shard(report, path, number, layout, key_digest, stored)
        if len(report.faults) == n_faults:
            whole.add(number)
    _other_files(report, folder, {files.CUT_FILE, *(path.name for path in present.values())}, set())
    if stored is None:
        return
    if layout is None:
        if present or damaged_document:
            report.lost[folder.name] = None
        else:
            report._add("unfinished", folder, "no shard is extracted yet")
        return
    plans = stored.table.plan(layout.shard_rows)
    starts = np.array([plan.start for plan in plans], np.int64)
    needed = np.unique(np.searchsorted(starts, stored.row_slots, side="right") - 1).tolist()
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


def _verify_shard(
    report: VerifyReport,
    path: Path,
    number: int,
    layout: CutLayout | None,
    key_digest: str | None,
    stored: StoredManifest | None,
) -> CutLayout | None:
    fault = check_hash(path)
    if fault is not None:  # never handed to libhdf5
        report._add("corrupt", path, fault)
        return layout
    try:
        facts = read_facts(path)
        if key_digest is not None and (facts.layout.key_digest, facts.layout.cut) != (
            key_digest,
            path.parent.name,
        ):
            report._add(
                "foreign",
                path,
                f"it belongs to cut {facts.layout.cut!r} of the bank with key {facts.layout.key_digest[:8]}",
            )
            return layout
        if layout is None:
            layout = facts.layout
        if stored is not None:
            plans = stored.table.plan(layout.shard_rows)
            if number >= len(plans):
                report._add(
                    "foreign", path, f"the manifest plans {len(plans)} shards, this is number {number}"
                )
                return layout
            plan = plans[number]
            check_facts(facts, layout, plan, stored.table.digests[plan.start : plan.stop])
    except BankError as error:
        report._add("corrupt", path, str(error))
    return layout


def _is_begun_cut(folder: Path) -> bool:
    """Say whether a folder is all that a run left which died before its first shard."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    return all(one.name == files.LOCK_FILE or one.name.startswith(".tmp-") for one in folder.iterdir())


def _other_files(report: VerifyReport, folder: Path, files_known: set[str], folders_known: set[str]) -> None:
    known = {files.LOCK_FILE, files.VERIFIED_FILE, *files_known, *folders_known}
    for name in sorted(entry.name for entry in folder.iterdir()):
        if name.startswith(".tmp-"):
            report._add("temporary", folder / name, "left by a process that was killed, or is still writing")
        elif name.startswith(ASIDE_PREFIX):
            report._add("aside", folder / name, "moved away by a repair; delete it when nobody needs it")
        elif name not in known and _is_begun_cut(folder / name):
            report._add("unfinished", folder / name, "no shard is extracted yet")
        elif name not in known and shard_number(name) is None:
            report._add("unknown", folder / name, "featbank has not written this")
