"""timm's models: cuts, features, preprocessing and weights; random weights only, nothing is downloaded."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from featbank.backbones import FAMILIES, cut_table, get_spec, load_backbone, names, truncate
from featbank.errors import InvalidInputError, MissingPackageError, MissingWeightsError, UnknownNameError
from featbank.extraction import extract
from featbank.sweep.spec import by_depth

timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'featbank[timm]'")

#: Some of each way to build a network, and the size of their images.
MODELS = {
    "resnet18": 64,
    "convnext_atto": 64,
    "mobilenetv4_conv_small": 64,
    "regnety_002": 64,
    "vit_tiny_patch16_224": 224,
    "vit_small_patch16_dinov3": 64,
    "deit_tiny_distilled_patch16_224": 224,
    "swin_s3_tiny_224": 224,
}


def images(size: int, n: int = 2) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_the_model_itself(name: str) -> None:
    size = MODELS[name]
    backbone = load_backbone(f"timm:{name}", weights="random", image_size=size)
    model, spec = backbone.module, backbone.spec
    assert spec.name == f"timm+{name}"
    cuts = [cut.name for cut in spec.cuts if cut.derived_from is None]
    network = truncate(backbone, cuts)
    caught: dict[str, Tensor] = {}

    def catch(path: str, made: Any) -> None:
        caught.setdefault(path, (made if isinstance(made, Tensor) else made[0]).clone())

    for path, part in model.named_modules():
        part.register_forward_hook(lambda _, given, out, path=path: catch(path, out))
    with torch.inference_mode():
        features = network(images(size))
        caught["<output>"] = model(images(size))
        vector = model.forward_head(model.forward_features(images(size)), pre_logits=True)
    for cut in cuts:
        torch.testing.assert_close(features[cut], caught[spec.cut(cut).node], rtol=1e-5, atol=1e-6)
    if "pre_logits" in cuts:
        torch.testing.assert_close(features["pre_logits"], vector, rtol=1e-5, atol=1e-6)
    assert network.cut_shapes == {cut: tuple(features[cut].shape[1:]) for cut in cuts}
    assert list(network.cut_macs.values()) == sorted(network.cut_macs.values())  # in depth order


def test_tables_name_stages_blocks_and_the_vector() -> None:
    vit = get_spec("timm:vit_tiny_patch16_224")
    assert vit.cut_names == (
        *("patch_embed", "pos_drop", *(f"blocks.{one}" for one in range(12)), "norm", "pre_logits", "logits"),
        "softmax",
    )
    assert (vit.cut("blocks").name, vit.cut("head_drop").shape) == ("blocks.11", (192,))
    assert vit.cut("blocks.3.mlp").shape == (197, 192)  # any other path
    assert vit.cut("logits").macs / 1e9 == pytest.approx(1.26, abs=0.02)  # as published, 1.3 G
    resnet = get_spec("timm:resnet18.a1_in1k")
    assert resnet.cut("layer3").name == "layer3.1"
    assert resnet.n_parameters == 11_689_512
    assert resnet.default_image_size == 224
    # without a classifier what comes out is the vector, and nothing is called logits
    dino = get_spec("timm:vit_small_patch14_reg4_dinov2.lvd142m")
    assert dino.cut_names[-2:] == ("norm", "pre_logits")
    assert dino.cut("norm").shape == (1369 + 5, 384)
    # SigLIP's vector is learned: it comes from an attention pool
    siglip = get_spec("timm:vit_base_patch16_siglip_224.webli")
    assert siglip.cut_names[-2:] == ("norm", "pre_logits")
    assert siglip.cut("attn_pool").shape == siglip.cut("pre_logits").shape == (768,)


def test_another_image_size() -> None:
    rows = {row.name: row for row in cut_table("timm:vit_tiny_patch16_224", 128)}
    assert rows["blocks.0"].shape == (65, 192)
    assert {row.name: row for row in cut_table("timm:resnet18", 64)}["layer4.1"].shape == (512, 2, 2)


def test_names() -> None:
    assert "timm:vit_small_patch16_dinov3.lvd1689m" in names("timm", "vit_*dinov3*")
    with pytest.raises(
        UnknownNameError, match=r"^unknown backbone 'resnet81' of family 'timm'; known: 'resnet1"
    ):
        get_spec("timm:resnet81")
    with pytest.raises(
        UnknownNameError, match=r"^unknown backbone 'resnet18.b1' of family 'timm'; known: 'resnet18"
    ):
        get_spec("timm:resnet18.b1")


def test_the_same_pixels_as_timms_own_transform() -> None:
    from timm.data import create_transform, resolve_data_config

    random = np.random.default_rng(0)
    photo = Image.fromarray(random.integers(0, 256, (75, 101, 3), dtype=np.uint8)).resize((303, 225))
    for name in (
        "resnet18.a1_in1k",  # bicubic, crop 0.95
        "vit_tiny_patch16_224",  # bicubic, crop 0.9, mean 0.5
        "vit_small_patch16_dinov3.lvd1689m",  # squash
        "tf_efficientnet_b0",
        "inception_v3",  # 299, bilinear or bicubic, as timm says
        "regnety_002",
    ):
        config = timm.models.get_pretrained_cfg(name).to_dict()
        theirs = create_transform(**resolve_data_config(pretrained_cfg=config), is_training=False)(photo)
        ours = FAMILIES.get("timm").preprocessing(name)
        pixels = torch.from_numpy(ours.apply_geometry(photo))[None]
        assert torch.equal(ours.normalise(pixels)[0], theirs), name


def test_what_preprocessing_cannot_say_is_refused() -> None:
    from featbank.backbones._timm import as_preprocessing

    for changes, said in (
        ({"input_size": (3, 224, 192)}, "takes 3 x 224 x 192 numbers, not a square RGB image"),
        ({"input_size": (1, 28, 28)}, "takes 1 x 28 x 28 numbers"),
        ({"crop_mode": "border"}, "has crop mode 'border'"),
        ({"crop_mode": "squash", "crop_pct": 0.9}, "squashes images to 248 pixels and crops 224 of them"),
        ({"interpolation": "lanczos"}, "resizes with 'lanczos'"),
    ):
        config: dict[str, Any] = {"input_size": (3, 224, 224), "crop_pct": 1.0, **changes}
        with pytest.raises(InvalidInputError) as caught:
            as_preprocessing("odd", config)
        assert str(caught.value).startswith(f"timm:odd {said}")
        assert str(caught.value).endswith(", which featbank does not do; choose another backbone")


def test_weights_from_a_file_with_other_classes(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=7).eval()
    path = tmp_path / "mine.safetensors"
    save_file({f"model.{name}": one for name, one in model.state_dict().items()}, path)
    backbone = load_backbone("timm:vit_tiny_patch16_224", weights=path)
    network = truncate(backbone, ["logits", "blocks.2"])
    assert network.cut_shapes["logits"] == (7,)
    with torch.inference_mode():
        torch.testing.assert_close(network(images(224))["logits"], model(images(224)))


def test_weights_from_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    with pytest.raises(MissingWeightsError) as caught:
        load_backbone("timm:resnet10t.c3_in1k")
    assert str(caught.value).startswith(
        "'model.safetensors' of 'timm/resnet10t.c3_in1k', which 'timm:resnet10t.c3_in1k' needs, is not "
        "in the cache of the hub and could not be downloaded ("
    )
    assert "--weights random" in str(caught.value)
    folder, commit = tmp_path / "models--timm--resnet10t.c3_in1k", "a" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("resnet10t").eval()
    save_file(model.state_dict(), folder / "snapshots" / commit / "model.safetensors")
    backbone = load_backbone("timm:resnet10t.c3_in1k")
    assert (backbone.weights, backbone.preprocessing.interpolation) == ("c3_in1k", "bicubic")
    assert (
        load_backbone("timm+resnet10t.c3_in1k", weights="c3_in1k").weights_sha256 == backbone.weights_sha256
    )
    assert torch.equal(backbone.module.state_dict()["fc.weight"], model.fc.weight)


def test_extract(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "backbone": "timm:resnet10t",
        "weights": "random",
        "cuts": ["layer1", "pre_logits"],
    }
    options |= {"limit": 10, "image_size": 32, "cache_dir": tmp_path}
    result = extract("digits", **options)
    assert (result.pushed, dict(result.cuts)) == (10, {"layer1.0": (64, 8, 8), "pre_logits": (512,)})
    assert json.loads((result.bank / "bank.json").read_text())["key"]["backbone"] == "timm+resnet10t"
    assert extract("digits", **options).pushed == 0


def test_without_timm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *given: Any, **options: Any) -> Any:
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'")
        return real(name, *given, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "timm")
    # a bank is read without it
    bank: Any = SimpleNamespace(key=SimpleNamespace(backbone="timm+resnet34"))
    assert by_depth(bank, ["pre_logits", "layer1.1"]) == ["pre_logits", "layer1.1"]
    with pytest.raises(MissingPackageError) as caught:
        names("timm")
    assert str(caught.value) == (
        "backbones of timm need timm, which is not installed: pip install 'featbank[timm]'"
    )
