"""Which weights files are refused, and why."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from featbank.backbones import get_spec, load_backbone
from featbank.backbones.families import build_on_meta
from featbank.errors import WeightsError

State = dict[str, Tensor]
StateOf = Callable[..., State]


def _refused(path: Path, backbone: str = "minivgg") -> str:
    with pytest.raises(WeightsError) as caught:
        load_backbone(backbone, weights=path)
    text = str(caught.value)
    assert "\n" not in text
    assert path.name in text
    return text


def test_another_architecture_is_named(state_of: StateOf, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = state_of("squeezenet1_1", n_classes=5)
    save_file(state, path)
    assert _refused(path, "squeezenet1_0") == (
        f"weights {str(path)!r} do not fit 'squeezenet1_0': 12 tensors missing ('features.5.squeeze.weight', "
        "'features.5.squeeze.bias', 'features.5.expand1x1.weight' and 9 more), 12 unexpected "
        "('features.11.expand1x1.bias', 'features.11.expand1x1.weight', 'features.11.expand3x3.bias' and 9 "
        "more), 10 of another shape ('features.0.weight' is (64, 3, 3, 3), not (96, 3, 7, 7)); "
        "they fit 'squeezenet1_1': use --backbone squeezenet1_1"
    )


def test_tensors_of_nothing_we_know(state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    del state["features.0.weight"]
    state["extra"] = torch.zeros(2)
    state["features.3.weight"] = torch.zeros(4)
    save_file(state, path)
    assert _refused(path) == (
        f"weights {str(path)!r} do not fit 'minivgg': 1 tensors missing ('features.0.weight'), 1 unexpected "
        "('extra'), 1 of another shape ('features.3.weight' is (4,), not (32, 32, 3, 3))"
    )


def test_nothing_is_built_for_weights_that_do_not_fit(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    monkeypatch.setattr("featbank.backbones.loading.build_module", lambda *a, **k: pytest.fail("built"))
    assert "do not fit 'vgg16'" in _refused(path, "vgg16")
    assert all(one.is_meta for one in build_on_meta(get_spec("vgg16")).parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
def test_numbers_that_are_not_finite(state: State, tmp_path: Path, value: float) -> None:
    path = tmp_path / "w.pth"
    # 1e39 is finite in float64 alone.
    state["classifier.0.bias"] = state["classifier.0.bias"].double()
    state["classifier.0.bias"][3] = value
    torch.save(state, path)
    assert "tensor 'classifier.0.bias' holds NaN or infinity; get the file again" in _refused(path)


@pytest.mark.slow
def test_whole_numbers_in_place_of_floats(state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state["features.0.weight"] = state["features.0.weight"].to(torch.int8)
    save_file(state, path)
    assert "1 of whole numbers ('features.0.weight')" in _refused(path)


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"x")
    assert (
        _refused(path)
        == f"weights file {str(path)!r} is not a zip archive, so it is damaged or a pickle in the format "
        "before torch 1.6, which can run code; save it again with "
        "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
    )


@pytest.mark.parametrize("content", [b"", b"\xff" * 8 + b"{}", b"not a header at all"])
def test_damaged_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    assert "is no whole safetensors file" in _refused(path)


def test_cut_off_files(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pth")
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pth"):
        path.write_bytes(path.read_bytes()[:-1000])
        _refused(path)


class _Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_file_is_not_run(state: State, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"state_dict": state, "more": _Attack(marker)}, tmp_path / "zip.pth")
    torch.save({**state, "more": _Attack(marker)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(_Attack(marker)))
    assert "cannot be read safely as tensors" in _refused(tmp_path / "zip.pth")
    assert "is not a zip archive" in _refused(tmp_path / "old.pth")
    assert "is not a zip archive" in _refused(tmp_path / "pickle.pt")
    # An archive at the end of an old pickle: zipfile sees the archive, torch would read the pickle.
    torch.save(state, tmp_path / "clean.pth")
    polyglot = tmp_path / "both.pth"
    polyglot.write_bytes((tmp_path / "old.pth").read_bytes() + (tmp_path / "clean.pth").read_bytes())
    assert "is not a zip archive" in _refused(polyglot)
    assert not marker.exists()


def test_programs_and_odd_archives(state: State, tmp_path: Path) -> None:
    cases = {
        "script.pt": (["a/data.pkl", "a/constants.pkl"], zipfile.ZIP_STORED, "is a TorchScript program"),
        "code.pt": (["a/data.pkl", "a/code/x.py"], zipfile.ZIP_STORED, "is a TorchScript program"),
        "empty.pt": (["a/readme.txt"], zipfile.ZIP_STORED, "is a zip archive without weights in it"),
        "bomb.pt": (
            ["a/data.pkl"],
            zipfile.ZIP_DEFLATED,
            "is a compressed archive, which torch never writes",
        ),
    }
    for name, (entries, compression, message) in cases.items():
        with zipfile.ZipFile(tmp_path / name, "w", compression) as archive:
            for entry in entries:
                archive.writestr(entry, b"0" * 100)
        assert message in _refused(tmp_path / name)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_what_is_no_state_dict(state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save([1, 2], path)
    assert "holds a list instead of a state dict" in _refused(path)
    torch.save({}, path)
    assert "holds nothing instead of a state dict" in _refused(path)
    torch.save({"epoch": 3, "args": {}}, path)
    assert "holds no tensor ('epoch', 'args') instead of a state dict" in _refused(path)
    torch.save({**state, "epoch": 3}, path)
    assert load_backbone("minivgg", weights=path).absent == frozenset()
    torch.save({**state, "features.0.weight": torch.zeros(32, 3, 3, 3).to_sparse()}, path)
    assert "it asks for 'torch._utils._rebuild_sparse_tensor', which no plain state dict needs" in _refused(
        path
    )
