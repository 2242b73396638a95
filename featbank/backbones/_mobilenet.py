"""MobileNets: inverted residual blocks, one wide 1x1 convolution, global average pooling, a small classifier.

The cuts are the last block of each resolution and width, the wide convolution (``features``), the pooled
vector and the logits. Keras counts its blocks from 0 where torchvision's ``features`` starts with the stem.
"""

from __future__ import annotations

from featbank.backbones.spec import BackboneSpec, Cut

__all__ = ["SPECS"]

_MOBILENET_V2 = BackboneSpec(
    "mobilenet_v2",
    "mobilenet",
    (
        Cut("features.0", "features.0", (32, 112, 112), ("stem", "Conv1_relu"), 10_838_016),
        Cut("features.1", "features.1", (16, 112, 112), ("expanded_conv_project_BN",), 20_873_216),
        Cut("features.3", "features.3", (24, 56, 56), ("block_2_add",), 75_815_936),
        Cut("features.6", "features.6", (32, 28, 28), ("block_5_add",), 113_259_776),
        Cut("features.10", "features.10", (64, 14, 14), ("block_9_add",), 151_757_312),
        Cut("features.13", "features.13", (96, 14, 14), ("block_12_add",), 209_861_120),
        Cut("features.16", "features.16", (160, 7, 7), ("block_15_add",), 256_421_312),
        Cut("features.17", "features.17", (320, 7, 7), ("block_16_project_BN",), 279_423_872),
        Cut("features", "features.18", (1280, 7, 7), ("out_relu",), 299_494_272),
        Cut("avgpool", "flatten", (1280,), ("avg_pool", "global_average_pooling2d"), 299_494_272),
        Cut("logits", "classifier.1", (1000,), (), 300_774_272),
    ),
    default_image_size=224,
    n_parameters=3_504_872,
    head_key="classifier.1.weight",
)

_MOBILENET_V3_SMALL = BackboneSpec(
    "mobilenet_v3_small",
    "mobilenet",
    (
        Cut("features.0", "features.0", (16, 112, 112), ("stem",), 5_419_008),
        Cut("features.1", "features.1", (16, 56, 56), (), 6_673_664),
        Cut("features.3", "features.3", (24, 28, 28), (), 16_081_664),
        Cut("features.8", "features.8", (48, 14, 14), (), 35_147_552),
        Cut("features.11", "features.11", (96, 7, 7), (), 52_187_072),
        Cut("features", "features.12", (576, 7, 7), (), 54_896_576),
        Cut("avgpool", "flatten", (576,), ("avg_pool",), 54_896_576),
        Cut("hidden", "classifier.1", (1024,), (), 55_486_400),
        Cut("logits", "classifier.3", (1000,), (), 56_510_400),
    ),
    default_image_size=224,
    n_parameters=2_542_856,
    head_key="classifier.3.weight",
)

_MOBILENET_V3_LARGE = BackboneSpec(
    "mobilenet_v3_large",
    "mobilenet",
    (
        Cut("features.0", "features.0", (16, 112, 112), ("stem",), 5_419_008),
        Cut("features.1", "features.1", (16, 112, 112), (), 10_436_608),
        Cut("features.3", "features.3", (24, 56, 56), (), 42_775_040),
        Cut("features.6", "features.6", (40, 28, 28), (), 71_638_784),
        Cut("features.12", "features.12", (112, 14, 14), (), 152_106_144),
        Cut("features.15", "features.15", (160, 7, 7), (), 206_554_560),
        Cut("features", "features.16", (960, 7, 7), (), 214_080_960),
        Cut("avgpool", "flatten", (960,), ("avg_pool",), 214_080_960),
        Cut("hidden", "classifier.1", (1280,), (), 215_309_760),
        Cut("logits", "classifier.3", (1000,), (), 216_589_760),
    ),
    default_image_size=224,
    n_parameters=5_483_032,
    head_key="classifier.3.weight",
)

SPECS: tuple[BackboneSpec, ...] = (_MOBILENET_V2, _MOBILENET_V3_SMALL, _MOBILENET_V3_LARGE)
