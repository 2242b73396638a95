"""Checks every byte of a bank and says what is wrong, file by file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from featbank._cache import user_path
from featbank.banks import _bank_files as files
from featbank.banks._manifest_file import MANIFEST_FILE, StoredManifest, read_manifest
from featbank.banks._sealed import unreadable
from featbank.banks._shard_file import (
    CutLayout,
    ShardFacts,
    check_facts,
    check_hash,
    read_facts,
    shard_number,
)
from featbank.banks.slots import ShardPlan
from featbank.errors import BankError, BankNotFoundError, BankReadError, CorruptBankError, FeatbankError
from featbank.manifest import printable, short_repr

__all__ = ["Finding", "VerifyReport", "verify_bank"]


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
            facts = _checked_facts(path, number, layout, plans, key_digest, stored)
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
                layout = facts.layout
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


class _ForeignError(Exception):
    """A shard is whole, and belongs elsewhere."""


def _checked_facts(
    path: Path,
    number: int,
    layout: CutLayout | None,
    plans: Sequence[ShardPlan] | None,
    key_digest: str | None,
    stored: StoredManifest | None,
) -> ShardFacts:
    """Read a shard whose hash is right; raises `BankError`, or `_ForeignError` where it does not belong."""
    fault = check_hash(path)
    if fault is not None:  # never handed to libhdf5
        raise CorruptBankError(fault)
    facts = read_facts(path)
    if key_digest is not None and (facts.layout.key_digest, facts.layout.cut) != (
        key_digest,
        path.parent.name,
    ):
        raise _ForeignError(
            f"it belongs to cut {facts.layout.cut!r} of the bank with key {facts.layout.key_digest[:8]}"
        )
    layout = layout or facts.layout
    if stored is not None:
        plans = plans if plans is not None else stored.table.plan(layout.shard_rows)
        if number >= len(plans):
            raise _ForeignError(f"the manifest plans {len(plans)} shards, this is number {number}")
        plan = plans[number]
        try:
            check_facts(facts, layout, plan, stored.table.digests[plan.start : plan.stop])
        except CorruptBankError as error:
            raise _ForeignError(str(error)) from error
    return facts


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
