"""Damaged files of a bank, set aside: moved into a folder inside the bank, never deleted."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from featbank._atomic import fsync_folder, locked, make_folder
from featbank.banks import _bank_files as files
from featbank.banks._manifest_file import MANIFEST_FILE
from featbank.banks._shard_file import shard_number
from featbank.banks.verification import ASIDE_PREFIX, VerifyReport
from featbank.errors import BankReadError, CacheWriteError, CorruptBankError

__all__ = ["SetAside", "damaged_files", "set_damaged_aside"]


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
