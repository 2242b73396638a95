"""Feature banks on disk: key, store, arrays read back by row, shards written once, verification, packing."""

from __future__ import annotations

from featbank.banks._documents import CUT_FILE, QuarantineRecord
from featbank.banks.archive import Archive, open_archive
from featbank.banks.arrays import CutArray, SoftmaxArray
from featbank.banks.bank import Bank
from featbank.banks.importing import import_bank, unpack
from featbank.banks.index import (
    MANIFEST_FILE,
    SHARD_BYTES,
    ShardPlan,
    SlotTable,
    read_manifest,
    shard_rows_for,
)
from featbank.banks.key import FORMAT_VERSION, BankKey
from featbank.banks.listing import BankInfo, CutInfo, CutProgress
from featbank.banks.packing import pack
from featbank.banks.store import BankStore, open_bank
from featbank.banks.verification import (
    Finding,
    SetAside,
    VerifyReport,
    damaged_files,
    set_damaged_aside,
    verify_bank,
)
from featbank.banks.writer import CutWriter

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
    "SoftmaxArray",
    "VerifyReport",
    "damaged_files",
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
