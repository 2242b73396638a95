"""CIFAR's 32-pixel images through minivgg, end to end, against the plain script; by hand (`make bench`).

Wanted: ten times the plain script. $FEATBANK_BENCH_CIFAR says how many images (10,000; there are 60,000),
$FEATBANK_BENCH_REPEATS how many rounds (3).
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from featbank.benchmark import run_benchmark
from featbank.cli.bench import print_benchmark

LIMIT = int(os.environ.get("FEATBANK_BENCH_CIFAR", "10000"))
REPEATS = int(os.environ.get("FEATBANK_BENCH_REPEATS", "3"))


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
            if member.isfile() and taken[folder] <= LIMIT // 10 + 1:
                tar.extract(member, tmp_path, filter="data")
    result = run_benchmark(
        tmp_path, backbone="minivgg", cuts=["fc7"], limit=LIMIT, repeats=REPEATS, baseline=True
    )
    print()  # noqa: T201
    print_benchmark(result)
    assert result.ratio_to_plain is not None
    print(f"wanted: end to end / plain 10, this is {result.ratio_to_plain.median:.1f}")  # noqa: T201
    assert result.n_images > 0.99 * LIMIT  # some are there twice
    # a rate counts only if what came out is the same
    assert result.plain_error is not None
    assert result.plain_error < 0.03
