"""SqueezeNets: fire modules between pools; a 1x1 convolution, averaged over the image, is the classifier.

Their logits are averages of ReLU outputs, so none is negative: that is the network, not a wrong node.
"""

from __future__ import annotations

from featbank.backbones.spec import BackboneSpec, Cut

__all__ = ["SPECS"]

_SQUEEZENET1_0 = BackboneSpec(
    "squeezenet1_0",
    "squeezenet",
    (
        Cut("pool1", "features.2", (96, 54, 54), (), 167_664_672),
        Cut("fire2", "features.3", (128, 54, 54), (), 202_003_488),
        Cut("fire3", "features.4", (128, 54, 54), (), 237_835_296),
        Cut("fire4", "features.5", (256, 54, 54), (), 369_218_592),
        Cut("pool4", "features.6", (256, 27, 27), (), 369_218_592),
        Cut("fire5", "features.7", (256, 27, 27), (), 405_050_400),
        Cut("fire6", "features.8", (384, 27, 27), (), 481_192_992),
        Cut("fire7", "features.9", (384, 27, 27), (), 561_814_560),
        Cut("fire8", "features.10", (512, 27, 27), (), 699_169_824),
        Cut("pool8", "features.11", (512, 13, 13), (), 699_169_824),
        Cut("fire9", "features.12", (512, 13, 13), ("features",), 732_396_576),
        Cut("conv10", "classifier.2", (1000, 13, 13), (), 818_924_576),
        Cut("logits", "flatten", (1000,), ("pool10",), 818_924_576),
    ),
    default_image_size=224,
    min_image_size=21,
    n_parameters=1_248_424,
    head_key="classifier.1.weight",
)

_SQUEEZENET1_1 = BackboneSpec(
    "squeezenet1_1",
    "squeezenet",
    (
        Cut("pool1", "features.2", (64, 55, 55), (), 21_290_688),
        Cut("fire2", "features.3", (128, 55, 55), (), 55_364_288),
        Cut("fire3", "features.4", (128, 55, 55), (), 92_535_488),
        Cut("pool3", "features.5", (128, 27, 27), (), 92_535_488),
        Cut("fire4", "features.6", (256, 27, 27), (), 125_381_312),
        Cut("fire5", "features.7", (256, 27, 27), (), 161_213_120),
        Cut("pool5", "features.8", (256, 13, 13), (), 161_213_120),
        Cut("fire6", "features.9", (384, 13, 13), (), 178_864_832),
        Cut("fire7", "features.10", (384, 13, 13), (), 197_554_880),
        Cut("fire8", "features.11", (512, 13, 13), (), 229_397_184),
        Cut("fire9", "features.12", (512, 13, 13), ("features",), 262_623_936),
        Cut("conv10", "classifier.2", (1000, 13, 13), (), 349_151_936),
        Cut("logits", "flatten", (1000,), ("pool10",), 349_151_936),
    ),
    default_image_size=224,
    min_image_size=17,
    n_parameters=1_235_496,
    head_key="classifier.1.weight",
)

SPECS: tuple[BackboneSpec, ...] = (_SQUEEZENET1_0, _SQUEEZENET1_1)
