"""A small bank with known features: several segments, duplicates, cuts with shards of different length."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from featbank.banks import Bank, BankKey, BankStore
from featbank.manifest import SPLITS, Manifest, RowStatus

_spec = importlib.util.spec_from_file_location("headers", Path(__file__).parents[1] / "faults" / "headers.py")
headers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(headers)

KEY = BankKey(
    backbone="minivgg",
    weights_sha256="ab" * 32,
    transform={"resize": [32, 32], "mean": {"r": 0.5}},
    image_size=32,
    precision="float32",
    dtype="float16",
    batch_size=4,
    decoder="pillow-12.3.0",
)
PROVENANCE = {"location": "/data/my photos", "created": "2026-01-02T03:04:05+00:00"}

#: cut -> (row shape, dtype, bytes per shard): 8, 12 and 4 rows per shard.
CUTS: dict[str, tuple[tuple[int, ...], str, int]] = {
    "block1_pool": ((3, 2, 2), "float16", 8 * 24),
    "fc7": ((5,), "float16", 14 * 10),
    "logits": ((4,), "float32", 1),
}


@contextmanager
def shards_of_before() -> Iterator[None]:
    """Shards that do not nest, as they were made once: three lengths tell three cuts apart."""

    def whole_batches(row_bytes: int, batch_size: int, shard_bytes: int) -> int:
        return max(batch_size, shard_bytes // row_bytes // batch_size * batch_size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featbank.banks.bank.shard_rows_for", whole_batches)
        yield


@pytest.fixture(autouse=True, scope="package")
def _shards_of_before() -> Iterator[None]:
    with shards_of_before():
        yield


def digest_of(content: str) -> bytes:
    return hashlib.sha256(content.encode()).digest()


def make_manifest(
    contents: Sequence[str], ids: Sequence[bytes] | None = None, n_classes: int = 3
) -> Manifest:
    n = len(contents)
    digests = np.frombuffer(b"".join(map(digest_of, contents)), np.uint8).reshape(n, 32)
    return Manifest(
        ids=tuple(ids)
        if ids is not None
        else tuple(f"c{i % n_classes}/{i:04d}.jpg".encode() for i in range(n)),
        labels=(np.arange(n) % n_classes).astype(np.int32),
        classes=tuple(f"c{i}" for i in range(n_classes)),
        splits=(np.arange(n) % len(SPLITS)).astype(np.uint8),
        digests=digests,
        statuses=np.zeros(n, np.uint8),
    )


def feature(cut: str, digest: bytes) -> np.ndarray[Any, Any]:
    """The one right answer for an image: known from its digest alone."""
    shape, dtype, _ = CUTS[cut]
    seed = hashlib.sha256(cut.encode() + digest).digest()
    return np.random.default_rng(list(seed)).standard_normal(shape).astype(dtype)


def expected(cut: str, manifest: Manifest) -> np.ndarray[Any, Any]:
    return np.stack([feature(cut, digest.tobytes()) for digest in manifest.digests])


def extract(
    bank: Bank,
    cuts: Sequence[str] = tuple(CUTS),
    *,
    quarantined: frozenset[bytes] = frozenset(),
    facts: dict[str, Any] | None = None,
    finish: bool = True,
    limit: int | None = None,
) -> int:
    """What the extractor does; returns how many images were pushed."""
    pushed = 0
    first_rows = bank.slot_first_rows()
    for cut in cuts:
        shape, dtype, shard_bytes = CUTS[cut]
        with shards_of_before():
            writer = bank.cut_writer(cut, shape, dtype, shard_bytes=shard_bytes)
        for plan in writer.missing()[:limit]:
            features = np.zeros((plan.n_rows, *shape), dtype)
            statuses = np.zeros(plan.n_rows, np.uint8)
            for place, slot in enumerate(range(plan.start, plan.stop)):
                digest = bank.slot_table.digests[slot].tobytes()
                if first_rows[slot] < 0:
                    statuses[place] = RowStatus.ABSENT
                elif digest in quarantined:
                    statuses[place] = RowStatus.QUARANTINED
                else:
                    features[place] = feature(cut, digest)
                    pushed += 1
            writer.write(plan, features, statuses)
        if finish:
            writer.finish(facts if facts is not None else {"precision_error": 0.01, "duration_s": 0.25})
    return pushed


def tree(folder: Path) -> dict[str, bytes]:
    """All authoritative files: name -> bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".verified.json", ".order.json")
    }


def new_key(**changes: Any) -> BankKey:
    return replace(KEY, **changes)


@pytest.fixture
def store(tmp_path: Path) -> BankStore:
    return BankStore(tmp_path / "cache" / "banks")


def shapes_manifest() -> Manifest:
    # 37 rows, 33 images: four rows repeat an image
    contents = [f"image {i}" for i in range(33)]
    return make_manifest([*contents[:10], "image 3", "image 3", *contents[10:], "image 0", "image 32"])


@pytest.fixture
def manifest() -> Manifest:
    return shapes_manifest()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made_once")
    made = BankStore(root).create_or_open("shapes", KEY, PROVENANCE)
    made.set_manifest(shapes_manifest())
    extract(made)
    return root


@pytest.fixture
def bank(made_once: Path, store: BankStore) -> Bank:
    """A copy of a bank that is made once: writing is slow, every file is fsynced."""
    shutil.copytree(made_once, store.root)
    return Bank.open(store.resolve())


@pytest.fixture(scope="session")
def grown_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three segments, some rows removed, the order changed: the hardest case for the row map."""
    made = BankStore(tmp_path_factory.mktemp("grown_once")).create_or_open("shapes", KEY, PROVENANCE)
    contents = [f"image {i}" for i in range(33)]
    mixed = [*contents[3:], *(f"new {i}" for i in range(2, 14)), "image 9", "new 4"]
    np.random.default_rng(5).shuffle(mixed)
    for names in (contents, ["new 1", *contents[5:20], "new 2", "new 3", "new 1"], mixed):
        made.set_manifest(make_manifest(names))
        extract(made)
    return made.path


@pytest.fixture
def grown(grown_once: Path) -> Bank:
    return Bank.open(grown_once)


@pytest.fixture
def kit() -> SimpleNamespace:
    """The functions above, for tests (which cannot import a conftest) and for the scripts they start."""
    return SimpleNamespace(
        KEY=KEY,
        PROVENANCE=PROVENANCE,
        CUTS=CUTS,
        file=Path(__file__),
        digest_of=digest_of,
        make_manifest=make_manifest,
        feature=feature,
        expected=expected,
        extract=extract,
        tree=tree,
        new_key=new_key,
        headers=headers,
        forged=headers.forged,
    )
