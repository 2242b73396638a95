"""Where weights come from, which files are refused and why, and what is said when there are none."""

from __future__ import annotations

import hashlib
import json
import socket
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from featbank import _cache
from featbank._cache import DigestCache
from featbank.backbones import load_backbone
from featbank.backbones.minivgg import build_minivgg
from featbank.errors import MissingWeightsError, UnknownNameError, WeightsError

State = dict[str, Tensor]
StateOf = Callable[..., State]


@pytest.fixture(name="hub")
def fixture_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's checkpoint folder, empty, and no network."""

    def unreachable(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        raise urllib.error.URLError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return tmp_path / "hub" / "checkpoints"


def _equal(module: torch.nn.Module, state: State) -> bool:
    loaded = module.state_dict()
    return set(loaded) == set(state) and all(torch.equal(loaded[name], state[name]) for name in state)


# --- files that load


def test_safetensors(state: State, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_file(state, path)
    backbone = load_backbone("minivgg", weights=path)
    assert _equal(backbone.module, state)
    assert backbone.weights == "mine.safetensors"
    assert backbone.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert backbone.class_names is None
    assert not backbone.module.training
    assert not any(one.requires_grad for one in backbone.module.parameters())
    path.write_bytes(b"")  # nothing is mapped to the file any more
    assert _equal(backbone.module, state)


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
@pytest.mark.parametrize("wrapped", ["plain", "state_dict", "model", "module."])
def test_pickled_state_dict(state: State, tmp_path: Path, suffix: str, wrapped: str, caplog: Any) -> None:
    path = tmp_path / f"mine{suffix}"
    saved: dict[str, Any] = (
        {"module." + name: one for name, one in state.items()} if wrapped == "module." else state
    )
    torch.save({wrapped: saved, "epoch": 3} if wrapped in ("state_dict", "model") else saved, path)
    with caplog.at_level("INFO", logger="featbank"):
        assert _equal(load_backbone("minivgg", weights=str(path)).module, state)
    assert (f"taking what is in {wrapped!r}" in caplog.text) == (wrapped in ("state_dict", "model"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(state: State, tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "small.safetensors"
    cast = {name: one.to(dtype) if one.is_floating_point() else one for name, one in state.items()}
    save_file(cast, path)
    module = load_backbone("minivgg", weights=path).module
    assert _equal(module, {n: one.float() if one.is_floating_point() else one for n, one in cast.items()})


def test_batch_counters_may_be_missing(state: State, tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    kept = {name: one for name, one in state.items() if not name.endswith("num_batches_tracked")}
    assert len(kept) < len(state)
    save_file(kept, path)
    loaded = load_backbone("minivgg", weights=path).module.state_dict()
    assert all(torch.equal(loaded[name], one) for name, one in kept.items())


def test_another_number_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "seven.safetensors"
    save_file(dict(build_minivgg(7).state_dict()), path, metadata={"classes": json.dumps(list("abcdefg"))})
    backbone = load_backbone("minivgg", weights=path)
    assert backbone.module(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert backbone.class_names == tuple("abcdefg")


def test_class_names_that_do_not_count_up_are_not_believed(state: State, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_file(state, path, metadata={"classes": json.dumps(["a", "b"])})
    assert load_backbone("minivgg", weights=path).class_names is None
    save_file(state, path, metadata={"classes": "no json"})
    assert load_backbone("minivgg", weights=path).class_names is None


@pytest.mark.parametrize("auxiliary", [True, False])
def test_auxiliary_heads_may_be_there_or_not(state_of: StateOf, tmp_path: Path, auxiliary: bool) -> None:
    path = tmp_path / "googlenet.pth"
    state = state_of("googlenet")
    extra = {"aux1.fc2.weight": torch.zeros(1000, 1024), "aux2.conv.conv.weight": torch.zeros(3)}
    torch.save({**state, **extra} if auxiliary else state, path)
    module = load_backbone("googlenet", weights=path).module
    assert module.transform_input is True
    assert _equal(module, state)


def test_inception_gets_299_pixels(state_of: StateOf, tmp_path: Path) -> None:
    path = tmp_path / "inception.pth"
    torch.save({**state_of("inception_v3"), "AuxLogits.fc.bias": torch.zeros(1000)}, path)
    backbone = load_backbone("inception_v3", weights=path)
    assert (backbone.preprocessing.image_size, backbone.preprocessing.resize_size) == (299, 342)
    assert backbone.module.transform_input is True
    smaller = load_backbone("inception_v3", weights=path, image_size=150, transform="squash").preprocessing
    assert (smaller.image_size, smaller.resize_size, smaller.mode) == (150, 172, "squash")


def test_a_file_gets_the_first_published_preset_and_says_so(
    state_of: StateOf, tmp_path: Path, caplog: Any
) -> None:
    path = tmp_path / "mobile.safetensors"
    save_file(
        state_of("mobilenet_v2"),
        path,
    )
    with caplog.at_level("INFO", logger="featbank"):
        backbone = load_backbone("mobilenet_v2", weights=path)
    assert (backbone.preprocessing.resize_size, backbone.preprocessing.image_size) == (256, 224)
    assert "preprocessing of MobileNet_V2_Weights.IMAGENET1K_V1" in caplog.text
    assert backbone.class_names is not None
    assert backbone.class_names[0] == "tench"


@pytest.mark.slow
def test_a_published_file_is_known_by_its_digest(
    state_of: StateOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Path
) -> None:
    from torchvision import models

    path = tmp_path / "renamed.pth"
    state = state_of("mobilenet_v2")
    # Published files may be in the old format, which is refused from anybody else.
    torch.save(state, path, _use_new_zipfile_serialization=False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(WeightsError, match="is not a zip archive"):
        load_backbone("mobilenet_v2", weights=path)
    entry = models.MobileNet_V2_Weights.IMAGENET1K_V2
    monkeypatch.setattr(entry.value, "url", f"https://somewhere/mobilenet_v2-{digest[:8]}.pth")
    backbone = load_backbone("mobilenet_v2", weights=path)
    assert backbone.weights == "renamed.pth"
    assert backbone.preprocessing.resize_size == 232
    # The same file in torch.hub's folder serves the default, without network.
    hub.mkdir(parents=True)
    path.rename(hub / f"mobilenet_v2-{digest[:8]}.pth")
    for weights in (None, "IMAGENET1K_V2", "DEFAULT", "MobileNet_V2_Weights.IMAGENET1K_V2"):
        backbone = load_backbone("mobilenet_v2", weights=weights)
        assert (backbone.weights, backbone.weights_sha256) == ("IMAGENET1K_V2", digest)
    assert torch.equal(backbone.module.state_dict()["classifier.1.weight"], state["classifier.1.weight"])


def test_old_names_of_densenet(state_of: StateOf, tmp_path: Path) -> None:
    state = state_of("densenet121")
    old = {}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        layer, _, rest = name.partition(".denselayer")
        for kind in ("norm1", "conv1", "norm2", "conv2") if rest else ():
            rest = rest.replace(f".{kind}.", f".{kind[:4]}.{kind[4]}.")
        old[f"{layer}.denselayer{rest}" if rest else name] = tensor
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    loaded = load_backbone("densenet121", weights=tmp_path / "old.pth").module.state_dict()
    assert all(torch.equal(loaded[name], one) for name, one in state.items() if one.is_floating_point())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnasnet0_5", "shufflenet_v2_x0_5", "regnet_y_400mf"])
def test_networks_without_a_table_load_files_too(state_of: StateOf, name: str, tmp_path: Path) -> None:
    state = state_of(name)
    save_file(state, tmp_path / "w.safetensors")
    assert _equal(load_backbone(name, weights=tmp_path / "w.safetensors").module, state)


def test_a_buffer_that_no_file_holds_is_computed(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(n_classes: int) -> torch.nn.Module:
        module = build_minivgg(n_classes)
        module.register_buffer("ramp", torch.arange(4.0), persistent=False)
        return module

    monkeypatch.setattr("featbank.backbones.minivgg.build_minivgg", build)
    save_file(state, tmp_path / "w.safetensors")
    module = load_backbone("minivgg", weights=tmp_path / "w.safetensors").module
    assert torch.equal(module.get_buffer("ramp"), torch.arange(4.0))
    assert _equal(module, state)


# --- random


def test_random_is_seeded_loud_and_leaves_the_callers_numbers_alone(caplog: Any) -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    first = load_backbone("minivgg", weights="random", random_state=4)
    assert torch.equal(torch.rand(3), wanted)
    assert "minivgg gets RANDOM weights (seed 4)" in caplog.text
    assert caplog.records[0].levelname == "WARNING"
    second = load_backbone("minivgg", weights="random", random_state=4)
    other = load_backbone("minivgg", weights="random", random_state=5)
    assert first.weights == "random"
    assert first.weights_sha256 == second.weights_sha256 != other.weights_sha256
    assert len(first.weights_sha256) == 64
    assert _equal(first.module, dict(second.module.state_dict()))
    assert first.class_names is None


@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_1", "mobilenet_v2", "resnet18"])
def test_random_networks_let_something_through(name: str) -> None:
    module = load_backbone(name, weights="random").module
    with torch.inference_mode():
        logits = module(torch.randn(2, 3, 64, 64))
    assert torch.isfinite(logits).all()
    assert logits.std() > 0


# --- weights that are not there


def test_missing_weights_without_network(hub: Path) -> None:
    with pytest.raises(MissingWeightsError) as caught:
        load_backbone("vgg16")
    assert caught.value.exit_code == 3
    assert str(caught.value) == (
        f"no weights for 'vgg16': 'vgg16-397923af.pth' is not in {str(hub)!r} and could not be downloaded "
        "(<urlopen error [Errno -3] Temporary failure in name resolution>). Three ways out: (1) run once "
        "with network, or put 'vgg16-397923af.pth' into that folder; (2) --weights FILE.safetensors|.pth; "
        "(3) --weights random. For a quick try: --backbone minivgg, whose weights are built in"
    )


def test_a_download_gives_up_soon_and_restores_the_timeout(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def slow(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        seen.append((url.rsplit("/", 1)[1], Path(dst).name, hash_prefix, socket.getdefaulttimeout()))
        raise TimeoutError("timed out")

    monkeypatch.setattr(torch.hub, "download_url_to_file", slow)
    before = socket.getdefaulttimeout()
    with pytest.raises(MissingWeightsError, match=r"could not be downloaded \(timed out\)"):
        load_backbone("resnet50", weights="IMAGENET1K_V1")
    assert seen == [("resnet50-0676ba61.pth", "resnet50-0676ba61.pth", "0676ba61", 10.0)]
    assert socket.getdefaulttimeout() == before


def test_a_damaged_download_and_a_damaged_file(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        raise RuntimeError('invalid hash value (expected "f37072fd", got "00000000")')

    monkeypatch.setattr(torch.hub, "download_url_to_file", damaged)
    with pytest.raises(WeightsError, match="arrived damaged"):
        load_backbone("resnet18")
    path = hub / "resnet18-f37072fd.pth"
    path.write_bytes(b"half a file")
    digest = hashlib.sha256(b"half a file").hexdigest()[:8]
    with pytest.raises(WeightsError) as caught:
        load_backbone("resnet18")
    assert str(caught.value) == (
        f"weights file {str(path)!r} is damaged: its name says its SHA-256 starts with f37072fd, "
        f"it starts with {digest}; delete it and run again"
    )


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "none.pth"
    with pytest.raises(MissingWeightsError) as caught:
        load_backbone("vgg16", weights=str(path))
    assert str(caught.value) == f"weights file {str(path)!r} does not exist; pass another --weights FILE"


def test_unknown_entry() -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_backbone("resnet50", weights="IMAGENET1K_V3")
    assert str(caught.value) == (
        "unknown weights 'IMAGENET1K_V3' of backbone 'resnet50'; known: 'IMAGENET1K_V2', 'IMAGENET1K_V1', "
        "'random', or a file (.safetensors, .pth, .ckpt, ...)"
    )
    with pytest.raises(
        UnknownNameError, match="unknown weights 'radnom' of backbone 'minivgg'; known: 'random'"
    ):
        load_backbone("minivgg", weights="radnom")


def test_a_file_that_has_not_changed_is_not_hashed_again(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    digests = DigestCache(None, settle_s=-3600.0)
    first = load_backbone("minivgg", weights=path, digests=digests)
    read: list[Path] = []
    original = _cache.file_digest
    monkeypatch.setattr(_cache, "file_digest", lambda one: read.append(one) or original(one))
    again = load_backbone("minivgg", weights=path, digests=digests)
    assert read == []
    assert again.weights_sha256 == first.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    time.sleep(0.02)  # more than a tick of the clock
    save_file({name: tensor + 1 for name, tensor in state.items()}, path)
    changed = load_backbone("minivgg", weights=path, digests=digests)
    assert read == [path]
    assert changed.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
