from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from featbank.backbones import TruncatedNetwork, load_backbone
from featbank.errors import InvalidInputError
from featbank.extraction import ExtractionSettings, choosing
from featbank.extraction import forward as arithmetic
from featbank.extraction.choosing import Chooser
from featbank.extraction.forward import CompileEstimate, Forward, check_arithmetic

CPU = torch.device("cpu")
CUTS = ("block3_pool", "fc7")


def off_by(part: float) -> Callable[[TruncatedNetwork], Any]:
    """Return a stand-in for the compiler whose networks are wrong by so much."""
    return lambda network: lambda batch: {cut: one * (1 + part) for cut, one in network(batch).items()}


def chosen(forward: Forward, images: np.ndarray, compile: str, n_batches: int) -> dict[str, float]:
    asked: dict[str, Any] = {"precision": "float32", "compile": compile, "n_batches": n_batches}
    return Chooser(forward, CUTS, lambda: images, **asked).choose()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def new_forward() -> Callable[[], Forward]:
    backbone = load_backbone("minivgg", weights="random")
    return lambda: Forward(backbone, device=CPU, precision="float32", batch_size=4)


@pytest.fixture
def cheap_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featbank.extraction.forward.compile_network", off_by(0.0))
    monkeypatch.setattr(choosing, "cannot_compile", lambda device: None)
    monkeypatch.setattr(Forward, "trial", lasting(0.01, compiled_s=0.001))


def lasting(eager_s: float, compiled_s: float) -> Callable[..., None]:
    """Return a stand-in for a batch that takes so long."""
    return lambda self, images, cuts: time.sleep(compiled_s if self.compiled else eager_s)


@pytest.mark.parametrize(("eager_s", "compiled_s", "repays"), [(1.0, 0.5, True), (1.0, 0.95, False)])
def test_compiling_must_repay_its_time(eager_s: float, compiled_s: float, repays: bool) -> None:
    estimate = CompileEstimate(eager_s, compiled_s, compile_s=10.0)
    assert estimate.repays(40) is repays
    assert not estimate.repays(10)
    assert not CompileEstimate(0.01, 0.001, compile_s=0.5).repays(100)  # a second of work is not worth it


@pytest.mark.usefixtures("cheap_compiler")
@pytest.mark.parametrize("repays", [True, False])
def test_auto_compiles_if_a_timed_batch_says_it_repays(
    images: np.ndarray,
    new_forward: Callable[[], Forward],
    monkeypatch: pytest.MonkeyPatch,
    repays: bool,
) -> None:
    estimate = CompileEstimate(1.0, 0.1 if repays else 0.99, 10.0)
    monkeypatch.setattr(Forward, "estimate_compile", lambda self, images, cuts: estimate)
    forward = new_forward()
    errors = chosen(forward, images, "auto", 100)
    assert forward.compiled is repays
    assert forward.arithmetic_name == ("float32+compiled" if repays else "float32")
    assert errors == dict.fromkeys(CUTS, 0.0)


def test_few_batches_are_not_even_timed(
    images: np.ndarray, new_forward: Callable[[], Forward], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr(Forward, "estimate_compile", never)
    forward = new_forward()
    chosen(forward, images, "auto", 3)
    assert not forward.compiled


def test_the_estimate_comes_from_the_batch(images: np.ndarray, new_forward: Callable[[], Forward]) -> None:
    estimate = new_forward().estimate_compile(images, CUTS)
    assert 0 < estimate.compiled_s < estimate.eager_s < 60
    assert estimate.compile_s > 1


@pytest.mark.parametrize(("n", "lanes", "times"), [(4, 2, 1.0), (3, 2, 1.0), (16, 1, 4.0), (16, 3, 4 / 3)])
def test_the_estimate_is_of_all_lanes(
    images: np.ndarray, monkeypatch: pytest.MonkeyPatch, n: int, lanes: int, times: float
) -> None:
    backbone = load_backbone("minivgg", weights="random")
    forward = Forward(backbone, device=CPU, precision="float32", batch_size=4, lanes=lanes)
    one = CompileEstimate(3.0, 2.0, 10.0)
    monkeypatch.setattr("featbank.extraction.forward.estimate_compile", lambda run, network, device: one)
    found = forward.estimate_compile(np.concatenate([images] * 4)[:n], CUTS)
    assert found == CompileEstimate(3.0 * times, 2.0 * times, 10.0)


def test_a_slow_machine_compiles_slowly(
    images: np.ndarray, new_forward: Callable[[], Forward], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = new_forward()
    found = []
    for slowness in (0.5, 1.0, 4.0):
        monkeypatch.setattr(arithmetic, "_yardstick", lambda at=slowness: at * arithmetic._YARDSTICK_S)
        found.append(forward.estimate_compile(images, CUTS).compile_s)
    assert found[0] == found[1] == pytest.approx(found[2] / 4)


@pytest.mark.usefixtures("cheap_compiler")
@pytest.mark.parametrize("repays", [True, False])
def test_auto_asks_the_clock_on_a_card_too(
    images: np.ndarray,
    new_forward: Callable[[], Forward],
    monkeypatch: pytest.MonkeyPatch,
    repays: bool,
) -> None:
    class Card(Forward):  # all but its name is the CPU
        def network(self, cuts: Any) -> TruncatedNetwork:
            device, self.device = self.device, CPU
            network = super().network(cuts)
            self.device = device
            return network

        def estimate_compile(self, images: Any, cuts: Any) -> CompileEstimate:
            assert self.device.type == "cuda"
            self.device = CPU
            return CompileEstimate(1.0, 0.1 if repays else 0.99, 10.0)

    forward = new_forward()
    forward.__class__ = Card
    forward.device = torch.device("cuda")
    chosen(forward, images, "auto", 100)
    assert forward.compiled is repays


def test_a_compiled_network_that_is_off_is_not_used(
    images: np.ndarray,
    new_forward: Callable[[], Forward],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("featbank.extraction.forward.compile_network", off_by(1e-3))
    monkeypatch.setattr(choosing, "cannot_compile", lambda device: None)
    monkeypatch.setattr(
        Forward, "estimate_compile", lambda self, images, cuts: CompileEstimate(1.0, 0.1, 1.0)
    )
    forward = new_forward()
    errors = chosen(forward, images, "auto", 100)
    assert not forward.compiled
    assert errors == dict.fromkeys(CUTS, 0.0)
    assert "the compiled network is 0.001 off float32" in caplog.text
    assert "going on without compiling" in caplog.text


@pytest.mark.usefixtures("cheap_compiler")
@pytest.mark.parametrize("compile", ["auto", "on"])
def test_a_compiled_network_that_is_slower_is_used_if_asked_for_only(
    images: np.ndarray,
    new_forward: Callable[[], Forward],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    compile: str,
) -> None:
    monkeypatch.setattr(
        Forward, "estimate_compile", lambda self, images, cuts: CompileEstimate(1.0, 0.1, 1.0)
    )
    monkeypatch.setattr(Forward, "trial", lasting(0.001, compiled_s=0.02))
    forward = new_forward()
    errors = chosen(forward, images, compile, 100)
    assert errors == dict.fromkeys(CUTS, 0.0)
    assert forward.compiled is (compile == "on")
    told = "going on without compiling" in caplog.text and "for what takes" in caplog.text
    assert told is (compile == "auto")


def test_a_compiler_that_fails_is_told(
    images: np.ndarray,
    new_forward: Callable[[], Forward],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(network: TruncatedNetwork) -> None:
        raise RuntimeError("no registers left")

    monkeypatch.setattr("featbank.extraction.forward.compile_network", broken)
    monkeypatch.setattr(choosing, "cannot_compile", lambda device: None)
    monkeypatch.setattr(
        Forward, "estimate_compile", lambda self, images, cuts: CompileEstimate(1.0, 0.1, 1.0)
    )
    forward = new_forward()
    chosen(forward, images, "auto", 100)
    assert not forward.compiled
    said = "the network could not be compiled (RuntimeError: no registers left); going on without compiling"
    assert said in caplog.text
    with pytest.raises(InvalidInputError) as caught:
        chosen(new_forward(), images, "on", 100)
    assert str(caught.value) == (
        "compile='on': the network could not be compiled (RuntimeError: no registers left); use auto or off"
    )


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InvalidInputError) as caught:
        check_arithmetic("auto", "on", CPU)
    assert str(caught.value) == (
        "compile='on' cannot be had here: there is no C++ compiler 'no-such-compiler'; use auto or off"
    )
    check_arithmetic("auto", "auto", CPU)
    with pytest.raises(InvalidInputError, match="compile='yes' is not one of auto, on, off"):
        ExtractionSettings(backbone="minivgg", cuts=CUTS, compile="yes")
