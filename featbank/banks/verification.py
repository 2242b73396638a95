"""Checks every byte of a bank, says what is wrong, file by file, and sets damaged files aside."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from featbank._atomic import fsync_folder, locked, make_folder
from featbank._bucket import BucketPath
from featbank._cache import user_path
from featbank.banks import documents as files
from featbank.banks.documents import ASIDE_PREFIX, MANIFEST_FILE, BankDocument, CutDocument, CutLayout
from featbank.banks.shards import (
    MisplacedError,
    ShardPlan,
    StoredManifest,
    check_hash,
    check_place,
    read_manifest,
    read_shard,
    shard_number,
)
from featbank.errors import (
    BankError,
    BankNotFoundError,
    BankReadError,
    CacheWriteError,
    CorruptBankError,
    FeatbankError,
)
from featbank.manifest import printable, short_repr

Kind = Literal[
    "corrupt", "missing", "duplicate", "foreign", "unreadable", "unfinished", "temporary", "aside", "unknown"
]
_FAULTS = ("corrupt", "missing", "duplicate", "foreign", "unreadable")
_T = TypeVar("_T")


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

    Examples
    --------
    >>> import featbank
    >>> bank = featbank.open_bank("digits")
    >>> (shard,) = bank.path.glob("fc7/*.h5")
    >>> size = shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    >>> (fault,) = verify_bank(bank.path).faults
    >>> fault.kind, fault.path == shard, fault.detail
    ('corrupt', True, 'its bytes have sha256 ..., not what its name says')
    """

    kind: Kind
    path: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {printable(str(self.path))}: {self.detail}"


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

    Examples
    --------
    >>> import featbank
    >>> bank = featbank.open_bank("digits")
    >>> (shard,) = bank.path.glob("fc7/*.h5")
    >>> shard.unlink()
    >>> report = verify_bank(bank.path)
    >>> report.ok, [one.kind for one in report.faults], list(report.lost)
    (False, ['missing'], ['fc7'])
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

    def _tell(self, path: Path, error: Exception) -> None:
        """A file is damaged where its digest says so; whatever else goes wrong is not its fault."""
        known = isinstance(error, FeatbankError) and not isinstance(error, CorruptBankError)
        misplaced = isinstance(error, MisplacedError)
        self._add("foreign" if misplaced else "unreadable" if known else "corrupt", path, str(error))

    def _tried(
        self, path: Path, read: Callable[[], _T | None], gone: tuple[Kind, str] | None = None
    ) -> _T | None:
        """Read a file, or tell why that cannot be done, and what its absence is."""
        found = None
        try:
            found = read()
        except BankNotFoundError:
            pass
        except BankError as error:
            self._tell(path, error)
            return None
        if found is None and gone is not None:
            self._add(gone[0], path, gone[1])
        return found


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

    Examples
    --------
    >>> import featbank
    >>> bank = featbank.open_bank("digits")
    >>> report = verify_bank(bank.path)
    >>> report.ok, report.n_shards
    (True, 2)
    """
    folder = user_path(path)
    report = VerifyReport(folder)
    names = {entry.name for entry in files.listed(folder)} if folder.is_dir() else set()
    cuts = []
    for name in sorted(names):
        cut = folder / name
        if not name.startswith((".", ASIDE_PREFIX)) and cut.is_dir():
            cuts += [cut] if report._tried(cut, partial(files.holds_cut, cut)) else []
    if not cuts and not report.findings and not names & {files.BANK_FILE, MANIFEST_FILE}:
        BankDocument.read(folder)  # raises with the advice a reader gets
    document = report._tried(
        folder / files.BANK_FILE,
        partial(BankDocument.read, folder, source=False),
        ("missing", "the bank file is gone"),
    )
    stored = report._tried(
        folder / MANIFEST_FILE,
        partial(read_manifest, folder),
        ("missing" if cuts else "unfinished", "there is no manifest"),
    )
    report._tried(folder / files.SOURCE_FILE, partial(files.read_source, folder))
    report._tried(folder / files.QUARANTINE_FILE, partial(files.read_quarantine, folder))
    plans = {name for name in names if files.PLAN_FILE.fullmatch(name)}
    for name in sorted(plans):
        report._tried(folder / name, partial(files.read_plan, folder / name))
    known = {files.BANK_FILE, files.SOURCE_FILE, MANIFEST_FILE, files.QUARANTINE_FILE}
    known |= {*plans, *(cut.name for cut in cuts), *(one.path.name for one in report.unreadable)}
    _tell_others(report, folder, known)
    for cut in cuts:
        _verify_cut(report, cut, document.key.digest() if document else None, stored)
    return report


def _verify_cut(
    report: VerifyReport, folder: Path, key_digest: str | None, stored: StoredManifest | None
) -> None:
    document: CutDocument | None = None
    damaged_document = False
    if key_digest is not None:
        try:
            document = CutDocument.read(folder, key_digest)
        except BankError as error:
            damaged_document = isinstance(error, CorruptBankError)
            report._tell(folder / files.CUT_FILE, error)
            if not damaged_document:
                return  # how the cut is divided into shards is not known now
    layout, present, whole = _verify_shards(
        report, folder, key_digest, document.layout if document else None, stored
    )
    _tell_others(report, folder, {files.CUT_FILE, *(path.name for path in present.values())})
    if stored is None:
        return
    if layout is None:
        if present or damaged_document:
            report.lost[folder.name] = None
        else:
            report._add("unfinished", folder, "no shard is extracted yet")
        return
    plans = stored.table.plan(layout.shard_rows)
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


def _verify_shards(
    report: VerifyReport,
    folder: Path,
    key_digest: str | None,
    layout: CutLayout | None,
    stored: StoredManifest | None,
) -> tuple[CutLayout | None, dict[int, Path], set[int]]:
    """Check each shard of a cut; return what they look like, those that are there, and those not damaged.

    Without a ``cut.json`` that can be read, the first one that is whole says what they look like.
    """
    plans = stored.table.plan(layout.shard_rows) if stored and layout else []
    present: dict[int, Path] = {}
    whole: set[int] = set()
    for entry in files.listed(folder):
        number, path = shard_number(entry.name), folder / entry.name
        if number is None:
            continue
        try:
            size_bytes = path.stat().st_size
            report.n_shards += 1
            report.size_bytes += size_bytes
            if number in present:
                report._add("duplicate", path, f"shard {number} is also in {present[number].name!r}")
            present.setdefault(number, path)
            fault = check_hash(path)
            if fault is not None:
                raise CorruptBankError(fault)
            shard = read_shard(path)
            stranger = None if key_digest is None else shard.layout.stranger(key_digest, folder.name)
            if stranger is not None:
                raise MisplacedError(stranger)
            if stored is not None:
                plans = plans if layout else stored.table.plan(shard.layout.shard_rows)
                if number >= len(plans):
                    raise MisplacedError(f"the manifest plans {len(plans)} shards, this is number {number}")
                check_place(shard, layout or shard.layout, plans[number], stored.table)
            layout = layout or shard.layout
            whole.add(number)
        except FileNotFoundError:  # gone since it was listed, or a link to nothing
            if present.get(number) == path:
                present.pop(number)
        except BankError as error:
            report._tell(path, error)
            if not isinstance(error, CorruptBankError):
                whole.add(number)  # nothing says that it is not
        except OSError as error:
            report._tell(path, files.unreadable(path, error, what="shard"))
            present.setdefault(number, path)
            whole.add(number)
    return layout, present, whole


def _is_begun_cut(folder: Path) -> bool:
    """Say whether a folder is all that a run left which died before its first shard."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    return all(one.name == files.LOCK_FILE or one.name.startswith(".tmp-") for one in files.listed(folder))


def _tell_others(report: VerifyReport, folder: Path, known: set[str]) -> None:
    """Tell what stands in a folder beside the files that are known."""
    for name in [entry.name for entry in files.listed(folder)]:
        if name.startswith(".tmp-"):
            report._add("temporary", folder / name, "left by a process that was killed, or is still writing")
        elif name.startswith(ASIDE_PREFIX):
            report._add("aside", folder / name, "moved away by a repair; delete it when nobody needs it")
        elif name in known or name in (files.LOCK_FILE, files.VERIFIED_FILE):
            continue
        elif _is_begun_cut(folder / name):
            report._add("unfinished", folder / name, "no shard is extracted yet")
        elif shard_number(name) is None:
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
    names = (f"{ASIDE_PREFIX}{stamp}{f'-{number}' if number > 1 else ''}" for number in count(1))
    aside = next(report.path / name for name in names if not (report.path / name).exists())
    if isinstance(aside, BucketPath):
        for path in paths:
            if isinstance(path, BucketPath):
                path.copy_to(aside / path.relative_to(report.path))
                path.unlink()
        return SetAside(aside, tuple(paths))
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
