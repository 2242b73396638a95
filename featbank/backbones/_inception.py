"""GoogLeNet and Inception v3: parallel branches whose channels are joined, pooled to a vector at the end."""

from __future__ import annotations

from featbank.backbones.spec import BackboneSpec, Cut

__all__ = ["SPECS"]

_GOOGLENET = BackboneSpec(
    "googlenet",
    "googlenet",
    (
        Cut("maxpool1", "maxpool1", (64, 56, 56), ("pool1",), 118_013_952),
        Cut("maxpool2", "maxpool2", (192, 28, 28), ("pool2",), 477_675_520),
        Cut("inception3a", "inception3a", (256, 28, 28), ("inception_3a",), 599_302_144),
        Cut("inception3b", "inception3b", (480, 28, 28), ("inception_3b",), 865_034_240),
        Cut("inception4a", "inception4a", (512, 14, 14), ("inception_4a",), 936_233_984),
        Cut("inception4b", "inception4b", (512, 14, 14), ("inception_4b",), 1_019_325_440),
        Cut("inception4c", "inception4c", (512, 14, 14), ("inception_4c",), 1_114_358_784),
        Cut("inception4d", "inception4d", (528, 14, 14), ("inception_4d",), 1_226_451_968),
        Cut("inception4e", "inception4e", (832, 14, 14), ("inception_4e",), 1_383_603_200),
        Cut("inception5a", "inception5a", (832, 7, 7), ("inception_5a",), 1_431_471_104),
        Cut("inception5b", "inception5b", (1024, 7, 7), ("inception_5b",), 1_497_352_192),
        Cut("avgpool", "flatten", (1024,), ("avg_pool", "pool5"), 1_497_352_192),
        Cut("logits", "fc", (1000,), (), 1_498_376_192),
    ),
    default_image_size=224,
    min_image_size=15,
    n_parameters=6_624_904,
    head_key="fc.weight",
    transform_input=True,
    auxiliary=("aux1.", "aux2."),
)

_INCEPTION_V3 = BackboneSpec(
    "inception_v3",
    "inception",
    (
        Cut("maxpool1", "maxpool1", (64, 73, 73), (), 616_627_296),
        Cut("maxpool2", "maxpool2", (192, 35, 35), (), 1_340_779_616),
        Cut("Mixed_5b", "Mixed_5b", (256, 35, 35), ("mixed0",), 1_653_125_216),
        Cut("Mixed_5c", "Mixed_5c", (288, 35, 35), ("mixed1",), 1_991_813_216),
        Cut("Mixed_5d", "Mixed_5d", (288, 35, 35), ("mixed2",), 2_339_909_216),
        Cut("Mixed_6a", "Mixed_6a", (768, 17, 17), ("mixed3",), 2_741_846_624),
        Cut("Mixed_6b", "Mixed_6b", (768, 17, 17), ("mixed4",), 3_115_909_728),
        Cut("Mixed_6c", "Mixed_6c", (768, 17, 17), ("mixed5",), 3_603_612_256),
        Cut("Mixed_6d", "Mixed_6d", (768, 17, 17), ("mixed6",), 4_091_314_784),
        Cut("Mixed_6e", "Mixed_6e", (768, 17, 17), ("mixed7",), 4_709_229_152),
        Cut("Mixed_7a", "Mixed_7a", (1280, 8, 8), ("mixed8",), 5_000_233_568),
        Cut("Mixed_7b", "Mixed_7b", (2048, 8, 8), ("mixed9",), 5_322_670_688),
        Cut("Mixed_7c", "Mixed_7c", (2048, 8, 8), ("mixed10",), 5_711_168_096),
        Cut("avgpool", "flatten", (2048,), ("avg_pool",), 5_711_168_096),
        Cut("logits", "fc", (1000,), (), 5_713_216_096),
    ),
    default_image_size=299,
    min_image_size=75,
    n_parameters=23_834_568,
    head_key="fc.weight",
    transform_input=True,
    auxiliary=("AuxLogits.",),
)

SPECS: tuple[BackboneSpec, ...] = (_GOOGLENET, _INCEPTION_V3)
