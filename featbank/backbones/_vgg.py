"""VGG and AlexNet: blocks of convolutions closed by pools, then three fully connected layers."""

from __future__ import annotations

from featbank.backbones.spec import BackboneSpec, Cut

__all__ = ["SPECS"]

#: Convolutions per block; the plain and the batch-normalised network of one depth share it.
_PLANS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_POOL_SHAPES = ((64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7))
#: Multiply-adds of one 224x224 image up to each pool; the fully connected layers add the same to all.
_POOL_MACS = {
    "vgg11": (86_704_128, 1_011_548_160, 3_786_080_256, 6_560_612_352, 7_485_456_384),
    "vgg13": (1_936_392_192, 4_710_924_288, 7_485_456_384, 10_259_988_480, 11_184_832_512),
    "vgg16": (1_936_392_192, 4_710_924_288, 9_335_144_448, 13_959_364_608, 15_346_630_656),
    "vgg19": (1_936_392_192, 4_710_924_288, 11_184_832_512, 17_658_740_736, 19_508_428_800),
}
_N_PARAMETERS = {
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
}


def _vgg(name: str) -> BackboneSpec:
    plan = name.removesuffix("_bn")
    cuts = []
    node = -1
    for block, n_convolutions in enumerate(_PLANS[plan], start=1):
        # Convolution, (batch norm,) ReLU; then the pool. So a pool's index differs between vggN and vggN_bn.
        node += n_convolutions * (3 if name.endswith("_bn") else 2) + 1
        shape, macs = _POOL_SHAPES[block - 1], _POOL_MACS[plan][block - 1]
        cuts.append(
            Cut(f"block{block}_pool", f"features.{node}", shape, (f"pool{block}", f"conv-{block}"), macs)
        )
    macs_fc6 = _POOL_MACS[plan][-1] + 512 * 7 * 7 * 4096
    macs_fc7 = macs_fc6 + 4096 * 4096
    # Behind the ReLU, as in the papers and in Keras; classifier.0 and .3 would be in front of it.
    cuts.append(Cut("fc6", "classifier.1", (4096,), ("fc1",), macs_fc6))
    cuts.append(Cut("fc7", "classifier.4", (4096,), ("fc2",), macs_fc7))
    cuts.append(Cut("logits", "classifier.6", (1000,), ("fc8",), macs_fc7 + 4096 * 1000))
    return BackboneSpec(
        name,
        "vgg",
        tuple(cuts),
        default_image_size=224,
        min_image_size=32,
        n_parameters=_N_PARAMETERS[name],
        head_key="classifier.6.weight",
    )


_ALEXNET = BackboneSpec(
    "alexnet",
    "alexnet",
    (
        Cut("block1_pool", "features.2", (64, 27, 27), ("pool1", "conv-1"), 70_276_800),
        Cut("block2_pool", "features.5", (192, 13, 13), ("pool2", "conv-2"), 294_225_600),
        Cut("conv3", "features.7", (384, 13, 13), ("relu3", "conv-3"), 406_365_888),
        Cut("conv4", "features.9", (256, 13, 13), ("relu4", "conv-4"), 555_886_272),
        Cut("block5_pool", "features.12", (256, 6, 6), ("pool5", "conv-5"), 655_566_528),
        Cut("fc6", "classifier.2", (4096,), ("fc1",), 693_315_264),
        Cut("fc7", "classifier.5", (4096,), ("fc2",), 710_092_480),
        Cut("logits", "classifier.6", (1000,), ("fc8",), 714_188_480),
    ),
    default_image_size=224,
    min_image_size=63,
    n_parameters=61_100_840,
    head_key="classifier.6.weight",
)

SPECS: tuple[BackboneSpec, ...] = (*(_vgg(name) for name in _N_PARAMETERS), _ALEXNET)
