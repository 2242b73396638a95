"""The batch size that memory decides against 32 and others on this CPU; by hand (`make bench`)."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch

from featbank.backbones import largest_activation, load_backbone
from featbank.extraction.choosing import choose_batch_size
from featbank.extraction.forward import Forward

CPU = torch.device("cpu")
N_IMAGES, ROUNDS = 32, 3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "cut"),
    [("mobilenet_v2", "avgpool"), ("resnet18", "avgpool"), ("vgg16", "block4_pool"), ("vgg16", "fc7")],
)
def test_the_chosen_batch_size_against_others(name: str, cut: str, precision: str) -> None:
    backbone = load_backbone(name, weights="random")
    images = np.random.default_rng(0).integers(0, 255, (N_IMAGES, 224, 224, 3), dtype=np.uint8)
    chosen = choose_batch_size(largest_activation(backbone), precision, CPU)
    rates: dict[tuple[bool, int], list[float]] = {}
    for compiled in (False, True):
        forwards = {
            size: Forward(backbone, device=CPU, precision=precision, batch_size=size, compiled=compiled)
            for size in sorted({1, 2, 4, 8, 16, 32, chosen})
        }
        for forward in forwards.values():
            forward.trial(images, [cut])
        for _ in range(ROUNDS):
            for size, forward in forwards.items():
                started = time.perf_counter()
                forward.trial(images, [cut])
                rates.setdefault((compiled, size), []).append(N_IMAGES / (time.perf_counter() - started))
    for compiled in (False, True):
        found = {size: statistics.median(all_) for (which, size), all_ in rates.items() if which is compiled}
        best, usual = max(found.values()), found[32]
        how = f"{name} {cut} {precision}{' compiled' if compiled else ''}"
        said = ", ".join(f"{size}: {rate:.0f}" for size, rate in found.items())
        print(f"\n{how}: images/s by batch size {said}", end="")  # noqa: T201
        ratios = f"{found[chosen] / usual:.2f} times 32, {found[chosen] / best:.2f} of the best"
        print(f"; chosen {chosen}: {ratios}")  # noqa: T201
