"""Feature banks on disk: key, store, arrays read back by row, shards written once, verification, packing."""

from __future__ import annotations

from featbank.banks.archive import Archive, import_bank, open_archive, unpack
from featbank.banks.arrays import CutArray, StoredFeatures
from featbank.banks.bank import Bank, BankInfo, CutInfo, CutProgress, CutWriter
from featbank.banks.documents import CUT_FILE, FORMAT_VERSION, MANIFEST_FILE, BankKey, QuarantineRecord
from featbank.banks.exporting import export_bank
from featbank.banks.packing import pack
from featbank.banks.shards import SHARD_BYTES, ShardPlan, SlotTable, read_manifest, shard_rows_for
from featbank.banks.store import BankStore, open_bank
from featbank.banks.verification import (
    Finding,
    SetAside,
    VerifyReport,
    damaged_files,
    set_damaged_aside,
    verify_bank,
)

__all__ = [
    "CUT_FILE",
    "FORMAT_VERSION",
    "MANIFEST_FILE",
    "SHARD_BYTES",
    "Archive",
    "Bank",
    "BankInfo",
    "BankKey",
    "BankStore",
    "CutArray",
    "CutInfo",
    "CutProgress",
    "CutWriter",
    "Finding",
    "QuarantineRecord",
    "SetAside",
    "ShardPlan",
    "SlotTable",
    "StoredFeatures",
    "VerifyReport",
    "damaged_files",
    "export_bank",
    "import_bank",
    "open_archive",
    "open_bank",
    "pack",
    "read_manifest",
    "set_damaged_aside",
    "shard_rows_for",
    "unpack",
    "verify_bank",
]
