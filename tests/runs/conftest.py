"""A small real bank, made without a backbone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from featbank.banks import Bank, BankKey, BankStore
from featbank.fitting import fit_heads
from featbank.manifest import SPLITS, Manifest

KEY = BankKey(
    backbone="minivgg",
    weights_sha256="ab" * 32,
    transform={"mode": "squash", "mean": [0.5, 0.5, 0.5]},
    image_size=32,
    precision="float32",
    dtype="float16",
    batch_size=64,
    decoder="pillow-13",
)


@pytest.fixture
def flowers(tmp_path: Path) -> Bank:
    """24 train, 6 val and 12 test rows of each of 3 classes, at two cuts of 40 features."""
    return _flowers(tmp_path)


@pytest.fixture(scope="session")
def _two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    flowers = _flowers(folder)
    for name in ("a-good", "b-bad"):
        fit_heads(
            flowers,
            cuts=["fc7"],
            heads=["softmax", "ncm"],
            samples_per_class="2",
            repeats=1,
            head_params={"softmax": {"max_epochs": 3}},
            name=name,
            cache_dir=folder / "cache",
        )
    return folder / "cache"


@pytest.fixture
def cache(_two_runs: Path, tmp_path: Path) -> Path:
    """A cache with the bank of flowers and two runs of it; the bad one is the newer."""
    shutil.copytree(_two_runs, tmp_path / "cache")
    return tmp_path / "cache"


def _flowers(tmp_path: Path) -> Bank:
    """24 train, 6 val and 12 test rows of each of 3 classes, at two cuts of 40 features."""
    counts = {"train": 24, "val": 6, "test": 12}
    labels = np.concatenate([np.tile(np.arange(3), n) for n in counts.values()])
    rng = np.random.default_rng(1)
    centres = 1.5 * rng.normal(size=(3, 40))
    manifest = Manifest(
        ids=tuple(f"{row:03d}.png".encode() for row in range(len(labels))),
        labels=labels.astype(np.int32),
        classes=("aster", "bellis", "crocus"),
        splits=np.concatenate([np.full(3 * n, SPLITS.index(s)) for s, n in counts.items()]).astype(np.uint8),
        digests=rng.integers(0, 256, (len(labels), 32), dtype=np.uint8),
        statuses=np.zeros(len(labels), np.uint8),
    )
    made = BankStore(tmp_path / "cache" / "banks").create_or_open("flowers", KEY, {"location": "here"})
    made.set_manifest(manifest)
    for cut, noise in (("block4_pool", 6.0), ("fc7", 3.0)):
        features = (centres[labels] + noise * rng.normal(size=(len(labels), 40))).astype(np.float16)
        writer = made.cut_writer(cut, (40,), "float16")
        for plan in writer.missing():
            block = np.zeros((plan.n_rows, 40), np.float16)
            used = min(plan.stop, len(labels)) - plan.start
            block[:used] = features[plan.start : plan.start + used]
            writer.write(plan, block, np.zeros(plan.n_rows, np.uint8))
        writer.finish({})
    return made
