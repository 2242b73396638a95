"""`featbank bench` on the photographs beside the checkout; by hand (`make bench`), because it takes minutes.

No rate is asserted: a neighbour on the machine halves them all. What is printed is to be read, the ratios
above all, next to the targets: 0.90 of the floor, and so many times the plain script.
$FEATBANK_BENCH_LIMIT and $FEATBANK_BENCH_REPEATS say how many images and rounds (256 and 3).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from featbank.benchmark import run_benchmark
from featbank.cli.bench import print_benchmark

LIMIT = int(os.environ.get("FEATBANK_BENCH_LIMIT", "256"))
REPEATS = int(os.environ.get("FEATBANK_BENCH_REPEATS", "3"))
MOBILENET = "mobilenet_v2-imagenet1k.safetensors"


@pytest.mark.shared
@pytest.mark.parametrize(
    ("backbone", "cut", "weights", "wanted"),
    [
        ("mobilenet_v2", "avgpool", MOBILENET, 5.0),
        ("resnet18", "layer4", "random", 2.7),
        ("vgg16", "block4_pool", "random", None),
    ],
)
def test_bench(
    shared: Path, tmp_path: Path, backbone: str, cut: str, weights: str, wanted: float | None
) -> None:
    photographs, file = shared / "data" / "caltech101-32", shared / "weights" / weights
    if not photographs.is_dir() or not (weights == "random" or file.is_file()):
        pytest.skip(f"{photographs} or {file} is not there")
    result = run_benchmark(
        photographs,
        backbone=backbone,
        cuts=[cut],
        weights=weights if weights == "random" else file,
        limit=LIMIT,
        repeats=REPEATS,
        baseline=True,
        cache_dir=tmp_path,
    )
    print()  # noqa: T201
    print_benchmark(result)
    assert result.ratio_to_plain is not None
    print(  # noqa: T201
        f"wanted: end to end / floor 0.90, this is {result.ratio_to_floor.median:.2f}; "
        f"end to end / plain {wanted or 'anything'}, this is {result.ratio_to_plain.median:.2f}"
    )
    assert result.n_images == LIMIT
    # a rate counts only if what came out is the same
    assert result.plain_error is not None
    assert result.plain_error < 0.03


@pytest.mark.shared
def test_random_rows_of_large_features_are_read_as_fast_as_memmap_reads(shared: Path, tmp_path: Path) -> None:
    """VGG16's `block3_pool` has 401,408 bytes per image; it is what the target of 0.8 is said for."""
    photographs = shared / "data" / "caltech101-32"
    if not photographs.is_dir():
        pytest.skip(f"{photographs} is not there")
    result = run_benchmark(
        photographs,
        backbone="vgg16",
        cuts=["block3_pool"],
        weights="random",
        limit=min(LIMIT, 256),
        repeats=1,
        cache_dir=tmp_path,
    )
    print()  # noqa: T201
    print_benchmark(result)
    print(f"wanted: read / numpy.memmap 0.80, this is {result.read_ratio_to_memmap.median:.2f}")  # noqa: T201
    assert result.row_bytes == 401_408
