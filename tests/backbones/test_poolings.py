"""Poolings of networks: the traps of tokens, layouts and learned poolers; random weights, no network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from featbank.backbones import Backbone, cut_table, get_spec, load_backbone, truncate
from featbank.errors import InvalidInputError

sys.path.insert(0, str(Path(__file__).parent))
from agreement import LIMIT, compare


def images(size: int) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def features(backbone: Backbone, *cuts: str) -> list[Tensor]:
    network = truncate(backbone, cuts)
    with torch.inference_mode():
        found = network(images(backbone.preprocessing.image_size))
    assert network.cut_shapes == {cut: tuple(one.shape[1:]) for cut, one in found.items()}
    return [found[cut] for cut in cuts]


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= 1e-5 * other.norm())


#: A short form of tests/benchmarks/test_backbones_agree.py: name, side of the images.
SMALL = {"mobilenet_v3_small": 64, "squeezenet1_1": 64, "timm:resnet10t": 64, "timm:test_vit": 160}


@pytest.mark.parametrize(
    "name", [one if one == "timm:test_vit" else pytest.param(one, marks=pytest.mark.slow) for one in SMALL]
)
def test_every_cut_and_pooling_is_that_of_the_untouched_model(name: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm", reason="not installed: pip install 'featbank[timm]'")
    backbone = load_backbone(name, weights="random", image_size=SMALL[name])
    off, _, _ = compare(backbone, backbone.module)
    assert sum(":" in one for one in off) >= 4
    assert max(off.values()) <= LIMIT, off


@pytest.mark.slow
def test_maps_with_the_channels_last() -> None:
    swin = load_backbone("swin_t", weights="random", image_size=64)
    last, first, mean = features(swin, "norm", "permute", "norm:gap")
    assert last.shape[1:] == (2, 2, 768)
    assert close(mean, last.mean((1, 2)))
    assert close(mean, first.mean((2, 3)))


@pytest.mark.slow
def test_torchvisions_vit_has_its_blocks_as_cuts() -> None:
    vit = load_backbone("vit_b_16", weights="random", image_size=32)
    blocks = [f"encoder.layers.encoder_layer_{one}" for one in range(12)]
    assert [one for one in vit.spec.cut_names if "encoder_layer_" in one] == blocks
    assert vit.spec.cut("encoder.layers").shape == vit.spec.cut(blocks[-1]).shape
    tokens, cls, joined = features(vit, "encoder.ln", "encoder.ln:cls", "last2:cls")
    assert close(cls, tokens[:, 0])
    two = features(vit, *(f"{one}:cls" for one in blocks[-2:]))
    assert close(joined, torch.cat(two, 1))
    rows = {row.name: row for row in cut_table("vit_b_16")}
    assert rows[blocks[3]].poolings == {"cls": 1536, "patch-mean": 1536, "cls+mean": 3072}
    macs = [rows[one].macs for one in blocks]
    assert macs == sorted(macs)
    assert len(set(macs)) == 12


def test_names_of_a_pooling_are_those_of_its_cut() -> None:
    spec = get_spec("vgg16")
    assert spec.cut("pool4:gap").name == spec.cut("features.23:gap").name == "block4_pool:gap"
    assert spec.cut("pool4:gap").macs == spec.cut("pool4").macs


def test_a_module_of_ones_own_pools_what_its_shape_says() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.Flatten(2), torch.nn.Linear(900, 4))
    mine = Backbone.from_module(net, name="mine", preprocessing={"image_size": 32})
    whole, mean = features(mine, "0", "0:gap")
    assert close(mean, whole.mean((2, 3)))
    with pytest.raises(InvalidInputError, match="6x900, whose axes cannot be told"):
        truncate(mine, ["1:patch-mean"])


def test_a_view_is_no_matter_of_the_network() -> None:
    with pytest.raises(InvalidInputError, match="a view changes the image, not the network"):
        truncate(load_backbone("minivgg", weights="random"), ["fc7@hflip"])


# timm and transformers ------------------------------------------------------------------------------


def timm_backbone(name: str, size: int) -> Backbone:
    pytest.importorskip("timm", reason="not installed: pip install 'featbank[timm]'")
    return load_backbone(f"timm:{name}", weights="random", image_size=size)


@pytest.mark.slow
def test_timms_dinov3_and_upstreams_are_pooled_otherwise() -> None:
    """timm's vector is the mean of the patches, upstream's is the class token: both have their names."""
    timm = timm_backbone("vit_small_patch16_dinov3", 64)
    norm, vector, mean, cls = features(timm, "norm", "pre_logits", "norm:patch-mean", "norm:cls")
    assert norm.shape[1] == 16 + 5
    assert close(mean, norm[:, 5:].mean(1))
    assert close(vector, mean)
    assert not close(vector, cls)
    transformers = pytest.importorskip("transformers", reason="not installed: pip install 'featbank[hf]'")
    config = transformers.DINOv3ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_register_tokens=4,
    )
    torch.manual_seed(0)
    model = transformers.DINOv3ViTModel(config).eval()
    mine = Backbone.from_module(Pooler(model), name="upstream", preprocessing={"image_size": 32})
    (cls,) = features(mine, "model.norm:cls")
    with torch.inference_mode():
        assert close(cls, model(images(32)).pooler_output)


class Pooler(torch.nn.Module):
    """What a model of transformers pools itself."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor) -> Tensor:
        pooled: Tensor = self.model(batch).pooler_output
        return pooled


def test_convnexts_vector_is_not_the_mean_of_its_map() -> None:
    """A norm follows: torchvision's and timm's."""
    timm = timm_backbone("convnext_atto", 64)
    mean, vector = features(timm, "stages.3:gap", "pre_logits")
    assert not close(mean, vector)
    norm = timm.module.head.norm  # type: ignore[union-attr]
    assert close(norm(mean[:, :, None, None]).flatten(1), vector)  # type: ignore[operator]


@pytest.mark.slow
def test_siglips_pooler_is_learned() -> None:
    siglip = timm_backbone("vit_base_patch16_siglip_224", 224)
    learned, vector, mean = features(siglip, "norm:map", "pre_logits", "norm:patch-mean")
    assert close(learned, vector)
    assert not close(learned, mean)
    rows = {row.name: row for row in cut_table("timm:vit_base_patch16_siglip_224")}
    assert rows["norm"].poolings == {"patch-mean": 1536, "map": 1536}
    with pytest.raises(InvalidInputError, match="not what a learned attention pooler"):
        siglip.spec.cut("blocks.11:map")
    with pytest.raises(InvalidInputError, match="tokens without a class token"):
        siglip.spec.cut("norm:cls")


@pytest.mark.slow
def test_blocks_before_the_class_token_have_none() -> None:
    cait = timm_backbone("cait_xxs24_224", 224)
    assert cait.spec.poolings(cait.spec.cut("blocks.0")) == ("patch-mean",)
    (mean,) = features(cait, "blocks.0:patch-mean")
    (tokens,) = features(cait, "blocks.0")
    assert close(mean, tokens.mean(1))
