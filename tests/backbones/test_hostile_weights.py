"""Weights files made to do harm: each is refused for what it is, before torch reads a byte of its tensors."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from featbank.backbones import _state, get_spec, load_backbone
from featbank.backbones.loading import most_bytes
from featbank.errors import WeightsError

sys.path.insert(0, str(Path(__file__).parent))
from hostile_weights import ARCHIVES, SAFETENSORS, Maker, State, archive_of, torched


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have torchvision loaded and its networks listed: what that takes is no file's doing."""
    state = dict(load_backbone("minivgg", weights="random").module.state_dict())
    path = tmp_path_factory.mktemp("warm") / "w.safetensors"
    path.write_bytes(SAFETENSORS["another-name"][0](state, path.parent))
    with pytest.raises(WeightsError):
        load_backbone("minivgg", weights=path)


def high_water_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "make", "said"),
    [
        pytest.param(suffix, make, said, id=f"{suffix}-{name}")
        for suffix, cases in ((".safetensors", SAFETENSORS), (".pth", ARCHIVES))
        for name, (make, said) in cases.items()
    ],
)
def test_refused_before_a_tensor_is_read(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, make: Maker, said: str
) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(make(state, tmp_path))
    monkeypatch.setattr("torch.load", lambda *a, **k: pytest.fail("torch.load was called"))
    monkeypatch.setattr("safetensors.torch.load_file", lambda *a, **k: pytest.fail("tensors were read"))
    linux = sys.platform == "linux"
    if linux:
        Path("/proc/self/clear_refs").write_text("5")
    before = high_water_bytes() if linux else 0
    started = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        load_backbone("minivgg", weights=path)
    assert time.perf_counter() - started < 60  # a hang, not a benchmark
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    assert not (tmp_path / "canary").exists()
    if linux:
        assert high_water_bytes() - before < 256 << 20


def test_the_canary_sings(state: State, tmp_path: Path) -> None:
    """The files that run code do run it when something reads them carelessly."""
    for name in ("runs-code", "is-code", "legacy-code"):
        path = tmp_path / f"{name}.pth"
        path.write_bytes(ARCHIVES[name][0](state, tmp_path))
        torch.load(path, weights_only=False)
        (tmp_path / "canary").rmdir()


@pytest.mark.slow
def test_ordinary_files_are_read(state: State, tmp_path: Path) -> None:
    optimiser = {"state": {0: {"step": torch.tensor(3.0)}}, "milestones": {1, 2}}
    wanted = load_backbone("minivgg", weights="random").module.state_dict()
    state = {name: tensor.clone() for name, tensor in wanted.items()}
    parameters = {
        name: torch.nn.Parameter(one) if one.is_floating_point() else one for name, one in state.items()
    }
    channels_last = {
        name: one.to(memory_format=torch.channels_last) if one.ndim == 4 else one
        for name, one in state.items()
    }
    half = torched({name: one.half() if one.is_floating_point() else one for name, one in state.items()})
    files = {
        "plain.safetensors": save(state),
        "plain.pth": torched(state),
        "checkpoint.pth": torched({"state_dict": state, "optimizer": optimiser, "epoch": 3}),
        "parameters.pt": torched(parameters),
        "channels-last.pth": torched(channels_last),
        "wrapped.pth": torched({f"module.{name}": one for name, one in state.items()}),
        "again.pth": archive_of(torched(state)),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        loaded = load_backbone("minivgg", weights=tmp_path / name).module.state_dict()
        assert all(torch.equal(loaded[one], wanted[one]) for one in wanted), name
    (tmp_path / "half.pth").write_bytes(half)
    assert load_backbone("minivgg", weights=tmp_path / "half.pth").weights == "half.pth"


def test_a_file_far_too_large_is_not_even_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pth"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    monkeypatch.setattr("featbank.backbones.loading.file_digest", lambda _: pytest.fail("hashed"))
    with pytest.raises(WeightsError) as caught:
        load_backbone("minivgg", weights=path)
    limit = most_bytes(get_spec("minivgg"))
    assert str(caught.value) == (
        f"weights file {str(path)!r} has 1099511627776 bytes; 'minivgg' and an optimiser's state take fewer "
        f"than {limit}: pass the state dict alone"
    )


def test_torch_must_find_what_was_found_here(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.pth"
    torch.save(state, path)
    other = {**state, "classifier.0.bias": torch.zeros(1000)}
    monkeypatch.setattr("torch.load", lambda *a, **k: other)
    with pytest.raises(WeightsError, match=r"holds other tensors than it lists; get the file again$"):
        load_backbone("minivgg", weights=path)


def test_a_file_that_changes_between_digest_and_reading(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.pth"
    torch.save(state, path)
    read = _state.read_state

    def touched(*arguments: Any, **options: Any) -> Any:
        os.utime(path, ns=(1, 1))
        return read(*arguments, **options)

    monkeypatch.setattr(_state, "read_state", touched)
    with pytest.raises(WeightsError, match=r"changed while it was being read; run again$"):
        load_backbone("minivgg", weights=path)


def test_an_exported_program_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "w.pt2"
    path.write_bytes(b"x")
    with pytest.raises(WeightsError) as caught:
        load_backbone("minivgg", weights=path)
    assert str(caught.value) == (
        f"weights file {str(path)!r} is an exported program, not weights; save model.state_dict() instead"
    )


def test_the_key_has_the_whole_digest(state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(save(state))
    assert (
        load_backbone("minivgg", weights=path).weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    )
