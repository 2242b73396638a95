"""By hand: does every cut and every pooling give what the untouched model gives? Random weights, no network.

    python -m pytest -q -s tests/benchmarks/test_backbones_agree.py [-k torchvision|timm|transformers]

timm's and transformers' weights go through a file, as a user's would. A line a model: cuts, poolings, largest
relative difference. The poolings it is compared with are torch's own, on what hooks of the model caught.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from featbank.backbones import Backbone, load_backbone

sys.path.insert(0, str(Path(__file__).parents[1] / "backbones"))
from agreement import LIMIT, compare, relative

#: Images of torchvision's are of 64 pixels but where the network takes others.
_SIDES = {"inception_v3": 96, "maxvit_t": 224, "vit_h_14": 56}

#: Name, and the size of the images where the model takes another than its own.
_TIMM = """
beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coat_tiny coatnet_nano_rw_224
convformer_s18 convit_tiny convmixer_768_32@64 convnext_atto@64 convnextv2_atto@64 crossvit_9_240
cs3darknet_m@64 davit_tiny deit3_small_patch16_224 deit_tiny_distilled_patch16_224 deit_tiny_patch16_224
densenet121@64 dla34@64 dpn48b@64 edgenext_xx_small@64 efficientformer_l1 efficientnet_b0@64
efficientvit_b0@64 eva02_tiny_patch14_224 fastvit_t8@64 fbnetc_100@64 flexivit_small focalnet_tiny_srf
gcvit_xxtiny ghostnet_050@64 hgnet_tiny@64 hiera_tiny_224 hrnet_w18_small@64 inception_v3@96
inception_next_tiny@64 lcnet_050@64 levit_128s maxvit_nano_rw_256 mambaout_femto@64 mixer_s32_224
mnasnet_small@64 mobilenetv2_050@64 mobilenetv3_small_050@64 mobilenetv4_conv_small@64 mobileone_s0@64
mobilevit_xxs@64 mvitv2_tiny nest_tiny nfnet_f0@64 nf_resnet26@64 pit_ti_224 poolformer_s12@64
pvt_v2_b0@64 regnetx_002@64 regnety_002@64 regnetz_b16@64 repghostnet_050@64 repvgg_a0@64 repvit_m0_9@64
res2net50_14w_8s@64 resmlp_12_224 resnest14d@64 resnet10t@64 resnet18@64 resnetaa50@64 resnetrs50@64
resnetv2_50@64 resnext50_32x4d@64 rexnet_100@64 seresnet18@64 selecsls42@64 sequencer2d_s skresnet18@64
starnet_s1@64 swin_tiny_patch4_window7_224 swinv2_cr_tiny_ns_224 swinv2_tiny_window8_256 test_vit
tf_efficientnet_lite0@64 tinynet_e@64 tiny_vit_5m_224 tnt_s_patch16_224 twins_svt_small vgg11@64
visformer_tiny vit_base_patch16_clip_224 vit_base_patch16_siglip_224 vit_small_patch14_reg4_dinov2
vit_small_patch16_dinov3@64 vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_relpos_small_patch16_224
volo_d1_224 wide_resnet50_2@64 xception41@96 xcit_nano_12_p16_224
"""

_SMALL: dict[str, Any] = {
    "num_hidden_layers": 4,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
_DINO = {name: one for name, one in _SMALL.items() if name != "intermediate_size"}
_STAGES: dict[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
_SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 12,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
}
#: Class of transformers -> its configuration, and how many tokens stand before those of the patches.
_TRANSFORMERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "ViTModel": ("ViTConfig", _SMALL, 1),
    "ViTForImageClassification": ("ViTConfig", _SMALL | {"num_labels": 5}, 1),
    "DeiTModel": ("DeiTConfig", _SMALL, 2),
    "Dinov2Model": ("Dinov2Config", _DINO, 1),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", _DINO | {"num_register_tokens": 4}, 5),
    "DINOv3ViTModel": ("DINOv3ViTConfig", _SMALL | {"num_register_tokens": 4}, 5),
    "DINOv3ConvNextModel": ("DINOv3ConvNextConfig", _STAGES, 0),
    "SiglipVisionModel": ("SiglipVisionConfig", _SMALL, 0),
    "CLIPVisionModel": ("CLIPVisionConfig", _SMALL, 1),
    "ConvNextV2Model": ("ConvNextV2Config", _STAGES, 0),
    "Swinv2Model": ("Swinv2Config", _SWIN, 0),
    "BeitModel": ("BeitConfig", _SMALL, 1),
    "ResNetForImageClassification": ("ResNetConfig", _STAGES | {"embedding_size": 8}, 0),
}


def classifiers() -> list[str]:
    from torchvision import models

    return models.list_models(module=models)


@pytest.mark.parametrize("name", classifiers())
def test_torchvision(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = load_backbone(name, weights="random", image_size=_SIDES.get(name, 64))
    prefix = 1 if name.startswith("vit_") else 0
    told(f"torchvision {name}", backbone, backbone.module, prefix, capsys)


@pytest.mark.parametrize("model", _TIMM.split())
def test_timm(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'featbank[timm]'")
    name, _, size = model.partition("@")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model(name).eval()
    path = tmp_path / "model.safetensors"
    save_file({key: one.contiguous().clone() for key, one in module.state_dict().items()}, path)
    backbone = load_backbone(f"timm:{name}", weights=path, image_size=int(size) if size else None)
    path.unlink()
    prefix = getattr(module, "num_prefix_tokens", None)
    features, images = told(f"timm {name}", backbone, module, prefix, capsys)
    with torch.inference_mode():
        vector = module.forward_head(module.forward_features(images), pre_logits=True)
    if "pre_logits" in features and isinstance(vector, Tensor):
        assert relative(features["pre_logits"], vector) <= LIMIT
        pooled = [cut for cut in features if cut.endswith(":map")]
        assert all(relative(features[cut], vector) <= LIMIT for cut in pooled)


@pytest.mark.parametrize("name", _TRANSFORMERS)
def test_transformers(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers", reason="not installed: pip install 'featbank[hf]'")
    config, options, prefix = _TRANSFORMERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, name)(getattr(transformers, config)(**options)).eval()
    model.save_pretrained(tmp_path)
    said = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32},
        "resample": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    told(f"transformers {name}", load_backbone(f"hf:{tmp_path}"), model, prefix, capsys)


def told(
    name: str,
    backbone: Backbone,
    module: nn.Module,
    n_prefix: int | None,
    capsys: pytest.CaptureFixture[str],
) -> tuple[dict[str, Tensor], Tensor]:
    """Compare, print a line, and hold the limit."""
    off, features, images = compare(backbone, module, n_prefix)
    worst = max(off, key=off.__getitem__)
    n_pooled = sum(":" in one for one in off)
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{name:45} {len(off) - n_pooled:3} cuts, {n_pooled:3} poolings: {off[worst]:.1e} off, {worst}"
        )
    assert off[worst] <= LIMIT, off
    return features, images
