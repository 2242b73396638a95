"""By hand: does every cut of timm's models give what the untouched model gives? Random weights, no network.

    python -m pytest -q -s tests/benchmarks/test_backbones_agree.py

Each model's weights go through a file, as a user's would. A line a model: cuts, largest relative difference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from featbank.backbones import load_backbone, truncate

timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'featbank[timm]'")

#: Name, and the size of the images where the model takes another than its own.
_MODELS = """
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


@pytest.mark.parametrize("model", _MODELS.split())
def test_every_cut_of_a_model(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, _, size = model.partition("@")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model(name).eval()
    path = tmp_path / "model.safetensors"
    save_file({key: one.contiguous().clone() for key, one in module.state_dict().items()}, path)
    backbone = load_backbone(f"timm:{name}", weights=path, image_size=int(size) if size else None)
    spec = backbone.spec
    cuts = [cut.name for cut in spec.cuts if cut.derived_from is None]
    caught: dict[str, Tensor] = {}

    def catch(path: str, made: Any) -> None:
        made = made[0] if isinstance(made, tuple | list) else made
        caught.setdefault(path, made.clone() if isinstance(made, Tensor) else torch.empty(0))

    side = backbone.preprocessing.image_size
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    network = truncate(backbone, cuts)
    for path_, part in module.named_modules():
        part.register_forward_hook(lambda _, given, out, path=path_: catch(path, out))
    with torch.inference_mode():
        features = network(images)
        made = module(images)
        caught["<output>"] = made[0] if isinstance(made, tuple | list) else made
        vector = module.forward_head(module.forward_features(images), pre_logits=True)
    off = {cut: relative(features[cut], caught[spec.cut(cut).node]) for cut in cuts}
    if "pre_logits" in cuts and isinstance(vector, Tensor):
        off["pre_logits"] = max(off["pre_logits"], relative(features["pre_logits"], vector))
    with capsys.disabled():
        print(f"\n{name:36} {len(cuts):3} cuts, {cuts[-2]}, {cuts[-1]}: {max(off.values()):.1e} off")  # noqa: T201
    assert max(off.values()) <= 1e-5, off


def relative(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).norm() / other.norm().clamp_min(1e-12))
