"""Feature banks on disk: key, store, arrays read back by row, shards written once, verification, packing."""

from __future__ import annotations

from featbank.banks.archive import Archive, import_bank, open_archive, unpack
from featbank.banks.arrays import CutArray
from featbank.banks.bank import Bank, BankInfo, CutInfo, CutProgress
from featbank.banks.documents import FORMAT_VERSION, BankKey, QuarantineRecord
from featbank.banks.exporting import export_bank
from featbank.banks.packing import pack
from featbank.banks.store import BankStore, open_bank
from featbank.banks.verification import Finding, VerifyReport, verify_bank

__all__ = [
    "FORMAT_VERSION",
    "Archive",
    "Bank",
    "BankInfo",
    "BankKey",
    "BankStore",
    "CutArray",
    "CutInfo",
    "CutProgress",
    "Finding",
    "QuarantineRecord",
    "VerifyReport",
    "export_bank",
    "import_bank",
    "open_archive",
    "open_bank",
    "pack",
    "unpack",
    "verify_bank",
]
