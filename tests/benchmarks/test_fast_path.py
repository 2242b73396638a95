"""What the fast path must not change, and what several cuts in one pass cost; by hand (`make bench`)."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from featbank.backbones import largest_activation, load_backbone
from featbank.banks import Bank
from featbank.extraction import extract
from featbank.extraction.choosing import choose_batch_size
from featbank.extraction.forward import Forward
from featbank.sweep import run_sweep

CPU = torch.device("cpu")
POOLS = ("block1_pool", "block2_pool", "block3_pool", "block4_pool", "block5_pool", "fc7")

pytestmark = pytest.mark.shared


def test_all_pools_in_one_pass_against_the_deepest_alone() -> None:
    backbone = load_backbone("vgg16", weights="random")
    images = np.random.default_rng(0).integers(0, 255, (32, 224, 224, 3), dtype=np.uint8)
    for precision in ("float32", "bfloat16"):
        size = choose_batch_size(largest_activation(backbone), precision, CPU)
        forward = Forward(backbone, device=CPU, precision=precision, batch_size=size)
        times: dict[tuple[str, ...], list[float]] = {POOLS: [], ("fc7",): []}
        for cuts in times:
            forward.trial(images, cuts)
        for _ in range(5):
            for cuts, taken in times.items():
                started = time.perf_counter()
                forward(images, cuts)
                taken.append(time.perf_counter() - started)
        together, deepest = (statistics.median(taken) for taken in times.values())
        macs = [forward.network(cuts).macs for cuts in times]
        print(  # noqa: T201
            f"\n{precision}: {together:.2f} s for all pools and fc7, {deepest:.2f} s for fc7 alone: ratio "
            f"{together / deepest:.3f}, wanted 1.08; multiply-adds {macs[0]:,} and {macs[1]:,}"
        )
        assert macs[0] == macs[1]


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_the_fast_path_gives_the_curve_of_plain_float32(shared: Path, tmp_path: Path, precision: str) -> None:
    curves = {}
    for name, settings in (
        ("plain", {"precision": "float32", "compile": "off"}),
        ("fast", {"precision": precision, "compile": "auto"}),
    ):
        done = extract(
            shared / "data" / "caltech101-32",
            backbone="mobilenet_v2",
            weights=shared / "weights" / "mobilenet_v2-imagenet1k.safetensors",
            cuts=["avgpool"],
            split="28,4,8",
            cache_dir=tmp_path / name,  # in one cache the second would go on with the bank of the first
            **settings,
        )
        bank = Bank.open(done.bank)
        result = run_sweep(bank, heads=["softmax", "logreg"], samples_per_class="4,8,16,28", repeats=5)
        points = {(one["head"], one["n_per_class"]): one.mean("top1") for one in result.points()}
        curves[name] = (bank.key.precision, points)
    (plain, exact), (fast, found) = curves["plain"], curves["fast"]
    apart = {point: round(100 * (found[point] - exact[point]), 2) for point in exact}
    print(f"\n{fast} less {plain}, points of test accuracy: {apart}; wanted within 0.5")  # noqa: T201
