"""How many images go through the network together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from featbank.backbones import largest_activation, load_backbone, truncate
from featbank.banks import Bank
from featbank.errors import InvalidInputError
from featbank.extraction import choosing, extract
from featbank.extraction.choosing import choose_batch_size
from featbank.extraction.forward import Forward, arithmetic, check_numbers

CPU = torch.device("cpu")
#: Numbers in the largest output of a layer: 96 x 112 x 112, 64 x 112 x 112, 64 x 224 x 224.
MOBILENET, RESNET, VGG = 1_204_224, 802_816, 3_211_264

Folder = Callable[..., Path]


@pytest.mark.parametrize(
    ("activation", "precision", "size"),
    [
        (MOBILENET, "float32", 4),
        (MOBILENET, "bfloat16", 8),
        (RESNET, "float32", 4),
        (RESNET, "bfloat16", 8),
        (VGG, "float32", 2),
        (VGG, "bfloat16", 2),
        (32 * 32 * 32, "float32", 32),
        (1, "float32", 32),
    ],
)
def test_on_a_cpu_the_cache_decides(activation: int, precision: str, size: int) -> None:
    assert choose_batch_size(activation, precision, CPU) == size


@pytest.mark.parametrize(
    ("gib", "activation", "precision", "size"),
    [(80, VGG, "bfloat16", 256), (80, VGG, "float32", 128), (8, VGG, "float32", 16), (1, VGG, "float32", 2)],
)
def test_on_a_card_its_memory_decides(
    monkeypatch: pytest.MonkeyPatch, gib: int, activation: int, precision: str, size: int
) -> None:
    card = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert choose_batch_size(activation, precision, torch.device("cuda")) == size


def test_no_tensor_on_a_card_has_more_numbers_than_its_kernels_count(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(total_memory=2**50)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    sizes = [choose_batch_size(one, "bfloat16", torch.device("cuda")) for one in (2**23 - 1, 2**23, 2**31)]
    assert sizes == [256, 128, 1]
    check_numbers(668, VGG)
    told = (
        r"^batch_size=669 makes 2148335616 numbers in one layer, a card's kernels count to 2147483647; "
        r"use batch_size <= 668$"
    )
    with pytest.raises(InvalidInputError, match=told):
        check_numbers(669, VGG)


@pytest.mark.parametrize(
    ("name", "largest"), [("mobilenet_v2", MOBILENET), ("resnet18", RESNET), ("vgg16", VGG)]
)
def test_the_largest_activation_is_found(name: str, largest: int) -> None:
    assert largest_activation(load_backbone(name, weights="random")) == largest


def settings(cache: Path, **options: object) -> dict[str, object]:
    fixed = {"backbone": "minivgg", "weights": "random", "precision": "float32", "compile": "off"}
    return {**fixed, "cuts": ["fc7"], "cache_dir": cache, **options}


def batch_size_of(bank: Path) -> int:
    return Bank.open(bank).key.batch_size


@pytest.mark.slow
def test_memory_decides_unless_a_number_is_given(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photo_folder()
    monkeypatch.setattr(choosing, "_CACHE_BYTES", 32 * 32 * 32 * 4 * 8)
    assert batch_size_of(extract(data, **settings(tmp_path / "one")).bank) == 8  # type: ignore[arg-type]
    assert batch_size_of(extract(data, **settings(tmp_path / "two", batch_size=5)).bank) == 5  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_bank_that_is_there_is_continued_with_its_own_batch_size(
    photo_folder: Folder, tmp_path: Path
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    first = extract(data, **settings(cache, batch_size=5))  # type: ignore[arg-type]
    other = extract(data, **settings(cache, cuts=["block5_pool"]))  # type: ignore[arg-type]
    assert other.bank == first.bank
    assert set(Bank.open(first.bank).cuts) == {"fc7", "block5_pool"}
    again = extract(data, **settings(cache))  # type: ignore[arg-type]
    assert (again.bank, again.pushed) == (first.bank, 0)
    # of two that have as much the one asked for last comes first; in another precision there is none
    extract(data, **settings(cache, batch_size=32))  # type: ignore[arg-type]
    extract(data, **settings(cache, batch_size=5, cuts=["block4_pool"]))  # type: ignore[arg-type]
    assert extract(data, **settings(cache)).bank == first.bank  # type: ignore[arg-type]
    assert batch_size_of(extract(data, **settings(cache, precision="bfloat16")).bank) == 32  # type: ignore[arg-type]


@pytest.mark.parametrize("n_images", [1, 4, 7, 12])
def test_images_go_through_batch_by_batch(n_images: int) -> None:
    backbone = load_backbone("minivgg", weights="random")
    images = np.random.default_rng(0).integers(0, 255, (n_images, 32, 32, 3), dtype=np.uint8)
    forward = Forward(backbone, device=CPU, precision="float32", batch_size=4)
    seen: list[int] = []
    network = forward.network(("fc7",))
    network.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    together = forward(images, ["fc7"])["fc7"]
    assert seen == [4] * -(-n_images // 4)
    alone = [forward(images[row : row + 1], ["fc7"])["fc7"] for row in range(n_images)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lowered_weights_give_what_autocast_gives(dtype: torch.dtype) -> None:
    network = truncate(load_backbone("minivgg", weights="random"), ["block3_pool", "fc7", "logits"])
    batch = torch.rand(3, 3, 32, 32)
    lowered = network.lowered(dtype)
    name = str(dtype).removeprefix("torch.")
    with arithmetic(name, CPU):
        wanted, found = network(batch), lowered(batch)
    assert wanted["fc7"].dtype == dtype
    for cut, values in wanted.items():
        assert torch.equal(found[cut], values)
    assert {one.dtype for one in network.parameters()} == {torch.float32}
    lows = [one.dtype for one in lowered.parameters()]
    assert dtype in lows
    norms = [one for one in lowered.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    assert norms
    assert {one.weight.dtype for one in norms} == {torch.float32}
