"""Several devices take the batches in turns, and nobody can tell from what comes out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from featbank.backbones import TruncatedNetwork
from featbank.errors import InvalidInputError
from featbank.extraction import Forward, choose_devices, choosing, compiling, extract
from featbank.extraction._pass import in_turns
from featbank.extraction.images import BatchLoader


def devices(*names: str) -> list[Any]:
    return [SimpleNamespace(device=torch.device(name), name=name) for name in names]


def test_jobs_come_back_in_order_whichever_device_is_slow() -> None:
    seen: list[tuple[str, int]] = []

    def compute(forward: Any, job: int) -> int:
        time.sleep(0.02 if forward.name == "cuda:0" else 0.0)
        seen.append((forward.name, job))
        return job * job

    found = list(in_turns(devices("cuda:0", "cuda:1"), compute, range(7)))
    assert found == [(job, job * job) for job in range(7)]
    assert sorted(seen) == sorted((f"cuda:{job % 2}", job) for job in range(7))


def test_a_gpu_computes_while_the_batch_before_is_stored() -> None:
    started = threading.Event()

    def compute(forward: Any, job: int) -> int:
        if job == 1:
            started.set()
        return job

    jobs = in_turns(devices("cuda"), compute, range(3))
    assert next(jobs) == (0, 0)
    assert started.wait(5)  # though nobody has asked for job 1 yet
    assert list(jobs) == [(1, 1), (2, 2)]


def test_one_cpu_does_one_thing_at_a_time() -> None:
    drawn: list[int] = []

    def jobs() -> Iterator[int]:
        for job in range(3):
            drawn.append(job)
            yield job

    computed = in_turns(devices("cpu"), lambda forward, job: threading.get_ident(), jobs())
    assert next(computed) == (0, threading.get_ident())
    assert drawn == [0]


def test_an_error_on_a_device_comes_at_its_turn() -> None:
    def compute(forward: Any, job: int) -> int:
        if job == 2:
            raise RuntimeError("device lost")
        return job

    jobs = in_turns(devices("cuda:0", "cuda:1"), compute, range(5))
    assert [next(jobs), next(jobs)] == [(0, 0), (1, 1)]
    with pytest.raises(RuntimeError, match="device lost"):
        next(jobs)


@pytest.mark.usefixtures("batch_by_batch")
def test_two_devices_give_the_bytes_of_one(
    photo_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photo_folder()

    def run(cache: str) -> dict[str, bytes]:
        settings = {"backbone": "minivgg", "weights": "random", "precision": "float32", "batch_size": 4}
        bank = extract(data, cuts=["block3_pool", "fc7"], cache_dir=tmp_path / cache, **settings).bank
        return {path.name: path.read_bytes() for path in bank.rglob("*.h5") if path.name != "manifest.h5"}

    one = run("one")
    used: set[int] = set()
    monkeypatch.setattr(choosing, "choose_devices", lambda device: [torch.device("cpu"), torch.device("cpu")])
    call = Forward.__call__

    def watched(self: Forward, *args: Any, **settings: Any) -> Any:
        used.add(id(self))
        return call(self, *args, **settings)

    monkeypatch.setattr(Forward, "__call__", watched)
    traced_in: set[int] = set()
    place = Forward._place

    def placed(self: Forward, *args: Any) -> Any:
        traced_in.add(threading.get_ident())
        return place(self, *args)

    monkeypatch.setattr(Forward, "_place", placed)
    assert run("two") == one
    assert len(used) == 2
    assert traced_in == {threading.get_ident()}  # tracing catches the calls of other threads


def test_networks_are_compiled_before_another_device_computes(
    photo_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch refuses to call a compiled network in one thread while another thread compiles
    compiled_in: list[int] = []

    def compiled(network: Any) -> Any:
        compiled_in.append(threading.get_ident())
        return network

    monkeypatch.setattr("featbank.extraction.forward.compile_network", compiled)
    monkeypatch.setattr(compiling, "cannot_compile", lambda device: None)
    monkeypatch.setattr(choosing, "choose_devices", lambda device: [torch.device("cpu"), torch.device("cpu")])
    settings = {"backbone": "minivgg", "weights": "random", "precision": "float32", "batch_size": 4}
    extract(photo_folder(), cuts=["block3_pool"], cache_dir=tmp_path, compile="on", **settings)
    assert compiled_in == [threading.get_ident()] * 2


def test_several_devices_are_different_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cards = [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert choose_devices("all") == choose_devices("cuda:0, cuda:1") == cards
    assert choose_devices("cuda:1") == cards[1:]
    for wrong in ("cuda:0,cuda:0", "cpu,cuda:0", "cpu,cpu"):
        with pytest.raises(InvalidInputError) as caught:
            choose_devices(wrong)
        assert str(caught.value) == (
            f"device={wrong!r}: several devices must be different CUDA devices, e.g. 'cuda:0,cuda:1'"
        )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InvalidInputError, match="device='all' asks for all CUDA devices, none is visible"):
        choose_devices("all")


@pytest.mark.parametrize("wrong", ["meta", "xpu", "nonsense"])
def test_devices_nothing_is_computed_on_here(wrong: str) -> None:
    with pytest.raises(
        InvalidInputError, match=rf"^device='{wrong}' is not .*use cpu, cuda, cuda:N, mps or auto$"
    ):
        choose_devices(wrong)


def test_a_batch_that_is_too_large_for_a_card(
    photo_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, batch: Tensor) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TruncatedNetwork, "forward", full)
    with pytest.raises(InvalidInputError, match=r"^batch_size=64 is more than the memory of cpu holds"):
        extract(photo_folder(), backbone="minivgg", cuts=["fc7"], batch_size=64, cache_dir=tmp_path)


def test_a_cpu_decodes_in_bursts(
    photo_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    batches = BatchLoader.batches

    def told(self: BatchLoader, runs: Any, *, bursts: bool = False) -> Any:
        asked.append(bursts)
        return batches(self, runs, bursts=bursts)

    monkeypatch.setattr(BatchLoader, "batches", told)
    extract(
        photo_folder(),
        backbone="minivgg",
        weights="random",
        cuts=["fc7"],
        precision="float32",
        compile="off",
        cache_dir=tmp_path,
    )
    assert asked == [True]


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (0.0, "'fc7' are all zero for all 18 images pushed"),
        (1e-4, "'fc7' are nearly the same, at most"),
        (1.0, None),
    ],
)
def test_features_that_tell_nothing_apart_are_told_once(
    photo_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    factor: float,
    said: str | None,
) -> None:
    forward = TruncatedNetwork.forward

    def weak(self: TruncatedNetwork, batch: Tensor) -> dict[str, Tensor]:
        same = 1.0 if 0 < factor < 1 else 0.0  # what does not depend on the image
        return {cut: same + factor * one for cut, one in forward(self, batch).items()}

    monkeypatch.setattr(TruncatedNetwork, "forward", weak)
    settings: dict[str, Any] = {"backbone": "minivgg", "precision": "float32", "compile": "off"}
    settings |= {"dtype": "float32", "cache_dir": tmp_path / "cache", "batch_size": 4}
    extract(data := photo_folder(), cuts=["fc7"], **settings)
    assert (said in caplog.text) if said else ("images pushed" not in caplog.text)
    assert caplog.text.count("no head can tell classes apart") == (said is not None)
    caplog.clear()
    assert extract(data, cuts=["fc7"], **settings).pushed == 0
    assert "no head can tell" not in caplog.text


def test_images_that_are_all_black_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(8):
        path = tmp_path / "black" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + number, 20)).save(path)
    settings: dict[str, Any] = {"backbone": "minivgg", "precision": "float32", "compile": "off"}
    extract(tmp_path / "black", cuts=["block1_pool"], cache_dir=tmp_path / "cache", **settings)
    assert "features of 'block1_pool' are the same for all 8 images pushed" in caplog.text
    assert "all alike (such as black)" in caplog.text
