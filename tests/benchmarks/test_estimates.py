"""What an extraction is estimated to take, without data and with, and what it takes; by hand (`make bench`).

Wanted: on a quiet machine each estimate within a third of the truth. Every command is a process of its own,
with a cache and a compiler's cache of its own. $FEATBANK_BENCH_REPEATS says how many rounds (1).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

REPEATS = int(os.environ.get("FEATBANK_BENCH_REPEATS", "1"))
N_CIFAR = int(os.environ.get("FEATBANK_BENCH_CIFAR", "10000"))
RANDOM = ("--weights", "random")


def said(*command: object) -> float:
    """Return the seconds that an extraction says it takes, or took."""
    with tempfile.TemporaryDirectory(prefix="featbank-estimates-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "featbank", "extract", *map(str, command), "--json"],
            env={
                **os.environ,
                "FEATBANK_CACHE": f"{folder}/cache",
                "TORCHINDUCTOR_CACHE_DIR": f"{folder}/compiled",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout)["duration_s"])


def tell(name: str, data: object, n_images: int, *options: object) -> None:
    rows = []
    for _ in range(REPEATS):
        made_up = said(*options, "--dry-run", "--images", n_images)
        dry_run = said(data, *options, "--limit", n_images, "--dry-run")
        rows.append((made_up, dry_run, said(data, *options, "--limit", n_images)))
    made_up, dry_run, truth = map(median, zip(*rows, strict=True))
    print(f"\n{name}, {n_images} images: took {truth:.1f} s", end="")  # noqa: T201
    for what, found in (("--dry-run", dry_run), ("--dry-run --images", made_up)):
        off = "within a third" if 2 / 3 <= found / truth <= 4 / 3 else "OFF"
        print(f"; {what} {found:.1f} s, {found / truth:.2f} times: {off}", end="")  # noqa: T201


def test_digits() -> None:
    tell("minivgg, digits", "digits", 1797, "--backbone", "minivgg", "--cut", "fc7")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("backbone", "cut", "n_images"),
    [("mobilenet_v2", "avgpool", 1280), ("vgg16", "block4_pool", 256), ("minivgg", "fc7", 1280)],
)
def test_photographs(shared: Path, backbone: str, cut: str, n_images: int) -> None:
    photographs = shared / "data" / "caltech101-32"
    if not photographs.is_dir():
        pytest.skip(f"{photographs} is not there")
    tell(f"{backbone}, photographs", photographs, n_images, "--backbone", backbone, "--cut", cut, *RANDOM)


@pytest.mark.shared
def test_small_images(shared: Path, tmp_path: Path) -> None:
    archive = shared / "data" / "cifar10-jpeg.tar.gz"
    if not archive.is_file():
        pytest.skip(f"{archive} is not there")
    taken: Counter[str] = Counter()
    with tarfile.open(archive) as tar:
        for member in tar:
            folder = member.name.rpartition("/")[0]
            taken[folder] += member.isfile()
            if member.isfile() and taken[folder] <= N_CIFAR // 10 + 1:
                tar.extract(member, tmp_path, filter="data")
    tell("minivgg, CIFAR", tmp_path, N_CIFAR, "--backbone", "minivgg", "--cut", "fc7")
