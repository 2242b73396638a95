"""A small bank with two cuts, as a folder and as a packed file, for the scenarios that attack banks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from featbank.banks import Bank, BankKey, BankStore, QuarantineRecord, pack
from featbank.manifest import Manifest, RowStatus

#: cut -> (row shape, dtype, bytes per shard)
CUTS: dict[str, tuple[tuple[int, ...], str, int]] = {
    "block5_pool": ((3, 2, 2), "float16", 8 * 24),
    "logits": ((4,), "float32", 8 * 16),
}
N_IMAGES = 13


def key() -> BankKey:
    return BankKey(
        backbone="minivgg",
        weights_sha256="ab" * 32,
        transform={"resize": [32, 32]},
        image_size=32,
        precision="float32",
        dtype="float16",
        batch_size=4,
        decoder="pillow-12.3.0",
    )


def manifest(n_images: int = N_IMAGES) -> Manifest:
    digests = b"".join(hashlib.sha256(f"image {i}".encode()).digest() for i in range(n_images))
    return Manifest(
        ids=tuple(f"c{i % 2}/{i:03d}.png".encode() for i in range(n_images)),
        labels=(np.arange(n_images) % 2).astype(np.int32),
        classes=("c0", "c1"),
        splits=np.zeros(n_images, np.uint8),
        digests=np.frombuffer(digests, np.uint8).reshape(-1, 32),
        statuses=np.zeros(n_images, np.uint8),
    )


def make(root: Path) -> Bank:
    """Make the bank below `root`; its last image could not be read, and two slots have lost their rows."""
    bank = BankStore(root).create_or_open("shapes", key(), {"location": "photos", "weights": "random"})
    whole = manifest()
    for rows in (whole, _without_first(whole)):
        bank.set_manifest(rows)
        for cut, (shape, dtype, shard_bytes) in CUTS.items():
            writer = bank.cut_writer(cut, shape, dtype, shard_bytes=shard_bytes)
            for plan in writer.missing():
                random = np.random.default_rng(plan.number)
                features = random.standard_normal((plan.n_rows, *shape)).astype(dtype)
                statuses = np.zeros(plan.n_rows, np.uint8)
                if plan.stop == N_IMAGES:
                    statuses[-1], features[-1] = RowStatus.QUARANTINED, 0
                writer.write(plan, features, statuses)
            writer.finish({"precision_error": 0.01, "duration_s": 0.5})
    bad = whole.digests[-1].tobytes().hex()
    bank.write_quarantine([QuarantineRecord(whole.ids[-1], bad, "truncated", "cut short")])
    return Bank.open(bank.path)


def _without_first(whole: Manifest) -> Manifest:
    keep = slice(2, None)
    return Manifest(
        whole.ids[keep],
        whole.labels[keep],
        whole.classes,
        whole.splits[keep],
        whole.digests[keep],
        whole.statuses[keep],
    )


def packed(bank: Bank, path: Path, compression: str | None = None) -> Path:
    return pack(bank, path, compression=compression)


def content(folder: Path) -> dict[str, bytes]:
    """All files of a bank but its lock and mark: name -> bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".verified.json", ".order.json")
    }


def resealed(document: dict[str, Any]) -> bytes:
    """JSON with a true SHA-256 of itself, as an attacker would write it."""
    import json

    document = {name: value for name, value in document.items() if name != "sha256"}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return json.dumps({**document, "sha256": hashlib.sha256(text.encode()).hexdigest()}).encode()
