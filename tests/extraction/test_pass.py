"""Lanes and devices take the batches in turns, and nobody can tell from what comes out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from featbank.backbones import TruncatedNetwork, load_backbone
from featbank.banks import Bank
from featbank.banks.shards import ShardPlan
from featbank.errors import InvalidInputError
from featbank.extraction import choosing, extract
from featbank.extraction import forward as arithmetic
from featbank.extraction.forward import Forward, choose_devices, choose_lanes
from featbank.extraction.images import BatchLoader
from featbank.extraction.storing import ShardStore
from featbank.manifest import RowStatus


def run_with(photos: Path, cache: Path, **options: Any) -> dict[str, bytes]:
    """Extract in batches of four, and return the files of the shards."""
    settings: dict[str, Any] = {"backbone": "minivgg", "weights": "random", "batch_size": 4}
    settings |= {"precision": "float32", "compile": "off", "cuts": ["block3_pool", "fc7"], **options}
    bank = extract(photos, cache_dir=cache, **settings).bank
    return {path.name: path.read_bytes() for path in bank.rglob("*.h5") if path.name != "manifest.h5"}


def with_lanes(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr("featbank.extraction.forward.usable_cores", lambda: n)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_bytes_do_not_depend_on_lanes(
    photo_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    data, threads, seen = photo_folder(), torch.get_num_threads(), set[tuple[str, int]]()
    forward = TruncatedNetwork.forward

    def watched(self: TruncatedNetwork, batch: Tensor) -> dict[str, Tensor]:
        seen.add((threading.current_thread().name, torch.get_num_threads()))
        time.sleep(0.01)  # so that no lane is done before the next has begun
        return forward(self, batch)

    monkeypatch.setattr(TruncatedNetwork, "forward", watched)
    found = []
    for n in (1, 2, 3):
        with_lanes(monkeypatch, n)
        seen.clear()
        found.append(run_with(data, tmp_path / str(n), precision=precision))
        assert len(seen) == n
        assert {each for _, each in seen} == {1}
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 2
    assert torch.get_num_threads() == threads
    others: list[int] = []
    other = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert others == [threads]  # a thread of somebody else computes as it always did


def test_memory_decides_lanes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with_lanes(monkeypatch, 8)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 20}.__getitem__)
    assert [choose_lanes(one << 20) for one in (1, 512, 1000, 9000)] == [8, 4, 2, 1]


def test_lanes_that_cannot_be() -> None:
    backbone = load_backbone("minivgg", weights="random")
    with pytest.raises(InvalidInputError, match=r"^lanes=0 must be at least 1, or None for one per core$"):
        Forward(backbone, device=torch.device("cpu"), precision="float32", batch_size=4, lanes=0)


@pytest.mark.slow
@pytest.mark.usefixtures("batch_by_batch")
@pytest.mark.parametrize("n", [1, 3])
def test_an_error_in_a_lane_comes_at_its_turn(
    photo_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    data = photo_folder()
    whole = run_with(data, tmp_path / "whole", cuts=["fc7"])
    assert len(whole) == 5
    with_lanes(monkeypatch, n)
    store, begun = ShardStore.fill, list[int]()

    def breaks(self: ShardStore, slots: Any, features: Any, name: Any) -> Any:
        begun.append(1)
        if name(0) == ids[8]:
            raise RuntimeError("a lane broke")
        time.sleep(0.02)  # the broken one is done first
        return store(self, slots, features, name)

    ids = Bank.open(next((tmp_path / "whole").rglob("bank.json")).parent).manifest.ids
    monkeypatch.setattr(ShardStore, "fill", breaks)
    with pytest.raises(RuntimeError, match="a lane broke"):
        run_with(data, tmp_path / "broken", cuts=["fc7"])
    stored = {path.name: path.read_bytes() for path in (tmp_path / "broken").rglob("fc7/*.h5")}
    assert stored == {name: whole[name] for name in sorted(whole)[:2]}
    ended = len(begun)
    time.sleep(0.1)
    assert len(begun) == ended  # nothing goes on behind one's back
    monkeypatch.setattr(ShardStore, "fill", store)
    assert run_with(data, tmp_path / "broken", cuts=["fc7"]) == whole


@pytest.mark.parametrize("at", ["handing over", "handed over", "waiting", "leaving"])
def test_an_interrupted_pass_ends_when_its_shards_are_written(
    monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Else a process that ends at once leaves files half written."""
    written: list[int] = []
    on_their_way = threading.Semaphore(0)

    class Writer:
        shape, dtype = (2,), np.dtype(np.float16)

        def write(self, plan: ShardPlan, features: Any, statuses: Any) -> None:
            on_their_way.release()
            time.sleep(0.05)
            written.append(plan.number)

    writers: Any = {"fc7": Writer()}
    store = ShardStore(writers, {"fc7": [ShardPlan(n, n, n + 1) for n in range(9)]})
    submit, settle, happened = store._threads.submit, store._settle, list[int]()

    def interrupted(after: Callable[..., Any] | None, *of: Any) -> Any:
        happened.append(1)
        if len(happened) == 1:
            if after is not None:
                after(*of)
            raise KeyboardInterrupt
        return None if after is None else after(*of)

    def waits(n: int) -> None:
        if n == (0 if at == "leaving" else 4) and len(store._writing) > n:
            on_their_way.acquire()
            interrupted(None)
        settle(n)

    if at.startswith("hand"):
        after = submit if at == "handed over" else None
        monkeypatch.setattr(store._threads, "submit", lambda *of: interrupted(after, *of))
    else:
        monkeypatch.setattr(store, "_settle", waits)
    status, added = np.full(1, RowStatus.OK, np.uint8), list[int]()

    def push() -> None:
        with store:
            for start in range(9):
                slots = store.reserve(start, status, ["fc7"])
                store.fill(slots, {"fc7": torch.ones(1, 2)}, lambda at: b"")()
                added.append(start)
                store.add(slots)

    with pytest.raises(KeyboardInterrupt):
        push()
    assert sorted(written) == added


@pytest.mark.slow
@pytest.mark.usefixtures("batch_by_batch")
def test_several_devices_give_the_bytes_of_one(
    photo_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photo_folder()
    one = run_with(data, tmp_path / "one")
    used: set[int] = set()
    happened: list[str] = []
    monkeypatch.setattr(choosing, "choose_devices", lambda device: [torch.device("cpu")] * 3)
    submit, place = Forward.submit, Forward._place

    def submitted(self: Forward, *args: Any, **settings: Any) -> Any:
        used.add(id(self))
        happened.append("push")
        return submit(self, *args, **settings)

    def placed(self: Forward, *args: Any) -> Any:
        happened.append("trace")
        return place(self, *args)

    monkeypatch.setattr(Forward, "submit", submitted)
    monkeypatch.setattr(Forward, "_place", placed)
    assert run_with(data, tmp_path / "three") == one  # six runs in use, more than are decoded ahead for one
    assert len(used) == 3
    assert happened == ["trace"] * 3 + ["push"] * 5  # tracing catches the calls of other threads


@pytest.mark.slow
def test_a_network_is_compiled_in_a_lane_before_any_other_computes(
    photo_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch refuses to call a compiled network in one thread while another compiles, what is compiled has the
    # number of threads baked in, and a graph of a card belongs to the thread that made it
    happened: list[tuple[str, str, int, bool]] = []

    def note(what: str) -> None:
        inference = torch.is_inference_mode_enabled() or torch.is_grad_enabled()
        happened.append((what, threading.current_thread().name[:13], torch.get_num_threads(), inference))

    def compiled(network: Any) -> Any:
        note("compile")
        return lambda batch: (note("inference" if batch.is_inference() else "push"), network(batch))[1]

    monkeypatch.setattr("featbank.extraction.forward.compile_network", compiled)
    monkeypatch.setattr(arithmetic, "cannot_compile", lambda device: None)
    monkeypatch.setattr(choosing, "choose_devices", lambda device: [torch.device("cpu"), torch.device("cpu")])
    run_with(photo_folder(), tmp_path, compile="on")
    assert {(name, threads) for _, name, threads, _ in happened} == {("featbank-lane", 1)}
    kinds = [what for what, *_ in happened]
    assert set(kinds) == {"compile", "push"}
    assert kinds.count("compile") == 2
    assert kinds[-5:] == ["push"] * 5
    assert not any(inference for what, *_, inference in happened if what == "push")


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


@pytest.mark.slow
@pytest.mark.parametrize("where", ["forward", "float32 copy", "compiling"])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
    ],
)
def test_a_batch_that_is_too_large_for_the_memory(
    photo_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: Exception,
) -> None:
    def full(*args: object) -> Any:
        raise error

    def wrapped(network: object) -> Any:
        try:
            full()
        except RuntimeError as error:
            raise RuntimeError("the backend failed") from error

    monkeypatch.setattr(arithmetic, "cannot_compile", lambda device: None)
    if where == "forward":
        monkeypatch.setattr(TruncatedNetwork, "forward", full)
    elif where == "float32 copy":
        monkeypatch.setattr(Tensor, "float", full)
    else:
        monkeypatch.setattr("featbank.extraction.forward.compile_network", wrapped)
    compile = "on" if where == "compiling" else "off"
    with pytest.raises(InvalidInputError, match=r"batch_size=64 is more than the memory of cpu holds"):
        run_with(photo_folder(), tmp_path, batch_size=64, compile=compile)


@pytest.mark.slow
def test_pixels_are_pushed_from_where_they_were_decoded(
    photo_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    batches = BatchLoader.batches

    def told(self: BatchLoader, runs: Any, *, held: int | None = None) -> Any:
        asked.append(held)
        return batches(self, runs, held=held)

    monkeypatch.setattr(BatchLoader, "batches", told)
    run_with(photo_folder(), tmp_path)
    assert asked == [2]


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factor", "said"), [(1e-4, "'fc7' are nearly the same"), (1e6, "'fc7' reach "), (1.0, None)]
)
def test_odd_features_are_told_before_the_rest_is_pushed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    factor: float,
    said: str | None,
) -> None:
    forward = TruncatedNetwork.forward

    def odd(self: TruncatedNetwork, batch: Tensor) -> dict[str, Tensor]:
        return {cut: (factor < 1) + factor * one for cut, one in forward(self, batch).items()}

    monkeypatch.setattr(TruncatedNetwork, "forward", odd)
    early: list[str] = []
    extract(
        "digits",
        cuts=["fc7"],
        backbone="minivgg",
        precision="float32",
        compile="off",
        dtype="float32",
        cache_dir=tmp_path / "cache",
        progress=lambda done, total: early.append(caplog.text) if done < total else None,
    )
    assert early
    assert all(said in text for text in early) if said else "images pushed" not in caplog.text
    assert ("the first " in early[0]) == (said is not None)


@pytest.mark.slow
def test_images_that_are_all_black_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(8):
        path = tmp_path / "black" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + number, 20)).save(path)
    settings: dict[str, Any] = {"backbone": "minivgg", "precision": "float32", "compile": "off"}
    extract(tmp_path / "black", cuts=["block1_pool"], cache_dir=tmp_path / "cache", **settings)
    assert "features of 'block1_pool' are the same for all 8 images pushed" in caplog.text
    assert "all alike (such as black)" in caplog.text
