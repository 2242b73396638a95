"""Which precision is used is a matter of proof, not of hope."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from featbank.backbones import TruncatedNetwork, load_backbone
from featbank.errors import InvalidInputError
from featbank.extraction import choosing
from featbank.extraction.forward import (
    ERROR_LIMIT,
    Forward,
    arithmetic,
    check_arithmetic,
    native_precisions,
    relative_error,
)

CPU = torch.device("cpu")


def settle(precision: str, **asked: object) -> tuple[Forward, dict[str, float]]:
    backbone = load_backbone("minivgg", weights="random")
    images = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    forward = Forward(backbone, device=CPU, precision="float32", batch_size=4)
    wanted = {"precision": precision, "compile": "off", "n_batches": 1} | asked
    return forward, choosing.Chooser(forward, ("block3_pool", "fc7"), lambda: images, **wanted).choose()


def test_relative_error_is_the_l2_ratio() -> None:
    exact = torch.tensor([[3.0, 4.0]])
    assert relative_error(exact, exact) == 0
    assert relative_error(torch.tensor([[3.0, 4.5]]), exact) == pytest.approx(0.1)
    assert relative_error(torch.tensor([[3.0, float("nan")]]), exact) == float("inf")
    assert relative_error(torch.zeros(1, 2), torch.zeros(1, 2)) == 0


def test_auto_takes_the_native_precision_when_it_is_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "native_precisions", lambda device: ("bfloat16", "float32"))
    forward, errors = settle("auto")
    assert forward.precision == "bfloat16"
    assert set(errors) == {"block3_pool", "fc7"}
    assert all(0 < error < ERROR_LIMIT for error in errors.values())


def test_auto_falls_back_and_says_so_when_it_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choosing, "native_precisions", lambda device: ("bfloat16", "float32"))
    monkeypatch.setattr(choosing, "ERROR_LIMIT", 1e-6)
    forward, _ = settle("auto")
    assert forward.precision == "float32"
    assert "bfloat16 changes the features of " in caplog.text
    assert "using float32" in caplog.text


def test_on_a_card_float16_comes_after_bfloat16(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    card = torch.device("cuda")
    for capability, wanted in (
        ((9, 0), ("bfloat16", "float16", "float32")),
        ((7, 5), ("float16", "float32")),
        ((6, 1), ("float32",)),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, it=capability: it)
        assert native_precisions(card) == wanted
    # random weights: bfloat16 is about 0.4 % off, float16 an eighth of it
    monkeypatch.setattr(choosing, "native_precisions", lambda device: ("bfloat16", "float16", "float32"))
    monkeypatch.setattr(choosing, "ERROR_LIMIT", 2e-3)
    forward, _ = settle("auto")
    assert forward.precision == "float16"
    assert "using float16 or float32" in caplog.text


def test_a_precision_that_was_asked_for_is_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choosing, "ERROR_LIMIT", 1e-6)
    forward, _ = settle("bfloat16")
    assert forward.precision == "bfloat16"
    assert "it was asked for, so it is used" in caplog.text


def test_float32_needs_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("pushed a batch")

    monkeypatch.setattr(TruncatedNetwork, "forward", never)
    _, errors = settle("float32")
    assert errors == {"block3_pool": 0.0, "fc7": 0.0}


def test_float16_is_for_cuda() -> None:
    with pytest.raises(InvalidInputError, match="precision='float16' needs a CUDA device, this is 'cpu'"):
        check_arithmetic("float16", "off", CPU)


def test_arithmetic_computes_as_it_says() -> None:
    a = torch.ones(2, 2)
    with arithmetic("bfloat16", CPU):
        assert (a @ a).dtype == torch.bfloat16
    with arithmetic("float32", CPU):
        assert (a @ a).dtype == torch.float32


def switches() -> tuple[Any, ...]:
    return torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn


def tf32_switches() -> tuple[str, ...]:
    return tuple(one.fp32_precision for one in switches())


@pytest.fixture
def tf32_as_before() -> Iterator[None]:
    before, everywhere = tf32_switches(), torch.backends.fp32_precision
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    torch.backends.fp32_precision = everywhere
    for switch, precision in zip(switches(), before, strict=True):
        switch.fp32_precision = precision


# the switches can be read and set without a card; whether a card obeys them only a card can show
@pytest.mark.parametrize("place", ["nowhere", "everywhere", "matmul", "old names"])
@pytest.mark.usefixtures("tf32_as_before")
def test_float32_on_a_card_is_never_tf32(place: str) -> None:
    if place == "everywhere":
        torch.backends.fp32_precision = "tf32"
    elif place == "matmul":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    elif place == "old names":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    before = tf32_switches()
    with arithmetic("float32", torch.device("cuda")):
        assert tf32_switches() == ("ieee",) * 3
    assert tf32_switches() == before


def test_tf32_comes_back_when_the_last_of_several_cards_is_done() -> None:
    before, card = tf32_switches(), torch.device("cuda")
    assert before != ("ieee",) * 3
    one, other = arithmetic("float32", card), arithmetic("float32", card)
    # inference mode is a thread's own and is left in the order it was entered, so each card has its thread
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        first.submit(one.__enter__).result()
        second.submit(other.__enter__).result()
        first.submit(one.__exit__, None, None, None).result()
        while_the_other_computes = tf32_switches()
        second.submit(other.__exit__, None, None, None).result()
    assert while_the_other_computes == ("ieee",) * 3
    assert tf32_switches() == before


def test_padding_changes_nothing() -> None:
    backbone = load_backbone("minivgg", weights="random")
    forward = Forward(backbone, device=CPU, precision="float32", batch_size=8)
    images = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
    full = forward(images, ["fc7"])["fc7"]
    part = forward(images[:3], ["fc7"])["fc7"]
    assert part.shape == (3, 256)
    assert torch.equal(part, full[:3])
