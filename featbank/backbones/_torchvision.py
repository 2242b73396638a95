"""torchvision's classifiers: tables of the cuts of some, all the others by the nodes of their graphs."""

from __future__ import annotations

import contextlib
import functools
import http.client
import logging
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank._process import import_torchvision
from featbank.backbones.families import BackboneSpec, Cut, Family, Published, unknown_weights
from featbank.backbones.preprocessing import Preprocessing
from featbank.errors import MissingWeightsError, WeightsError, one_line

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FAMILY", "TorchvisionFamily"]

logger = logging.getLogger(__name__)

# The tables --------------------------------------------------------------------------------------

# VGG and AlexNet: blocks of convolutions closed by pools, then three fully connected layers.

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
_VGG_PARAMETERS = {
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
        n_parameters=_VGG_PARAMETERS[name],
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


# ResNets: a stem, four stages, global average pooling, one fully connected layer.

#: Multiply-adds of one 224x224 image up to the end of each of the four stages.
_STAGE_MACS = {
    "resnet18": (580_435_968, 991_477_760, 1_402_519_552, 1_813_561_344),
    "resnet34": (811_646_976, 1_685_110_784, 3_020_996_608, 3_663_249_408),
    "resnet50": (785_956_864, 1_813_561_344, 3_277_897_728, 4_087_136_256),
    "resnet101": (785_956_864, 1_813_561_344, 6_990_118_912, 7_799_357_440),
    "resnet152": (785_956_864, 2_687_025_152, 10_702_340_096, 11_511_578_624),
}
_RESNET_PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
#: Blocks per stage, for the names Keras gives the end of a stage; Keras has no ResNet of basic blocks.
_KERAS_BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}


def _resnet(name: str) -> BackboneSpec:
    widths = (256, 512, 1024, 2048) if name in _KERAS_BLOCKS else (64, 128, 256, 512)
    cuts = [Cut("stem", "maxpool", (64, 56, 56), ("pool1_pool",), 118_013_952)]
    for stage, width in enumerate(widths, start=1):
        aliases = [f"res{stage + 1}"]
        if name in _KERAS_BLOCKS:
            aliases.append(f"conv{stage + 1}_block{_KERAS_BLOCKS[name][stage - 1]}_out")
        side = 112 // 2**stage
        macs = _STAGE_MACS[name][stage - 1]
        cuts.append(Cut(f"layer{stage}", f"layer{stage}", (width, side, side), tuple(aliases), macs))
    deepest = _STAGE_MACS[name][-1]
    cuts.append(Cut("avgpool", "flatten", (widths[-1],), ("avg_pool",), deepest))
    cuts.append(Cut("logits", "fc", (1000,), (), deepest + widths[-1] * 1000))
    return BackboneSpec(
        name,
        "resnet",
        tuple(cuts),
        default_image_size=224,
        n_parameters=_RESNET_PARAMETERS[name],
        head_key="fc.weight",
    )


# GoogLeNet and Inception v3: parallel branches whose channels are joined, pooled to a vector at the end.

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


# MobileNets: inverted residual blocks, one wide 1x1 convolution, global average pooling, a small classifier.
# The cuts are the last block of each resolution and width, the wide convolution (``features``), the pooled
# vector and the logits. Keras counts its blocks from 0 where torchvision's ``features`` starts with the stem.

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


# SqueezeNets: fire modules between pools; a 1x1 convolution, averaged over the image, is the classifier.
# Their logits are averages of ReLU outputs, so none is negative: that is the network, not a wrong node.

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


# The family --------------------------------------------------------------------------------------

_TABLES = {
    spec.name: spec
    for spec in (
        *map(_vgg, _VGG_PARAMETERS),
        _ALEXNET,
        *map(_resnet, _RESNET_PARAMETERS),
        _GOOGLENET,
        _INCEPTION_V3,
        _MOBILENET_V2,
        _MOBILENET_V3_SMALL,
        _MOBILENET_V3_LARGE,
        _SQUEEZENET1_0,
        _SQUEEZENET1_1,
    )
}
_PLAIN_ENTRY = "IMAGENET1K_V1"
#: Seconds without an answer after which a download is given up.
_TIMEOUT_S = 10.0
#: torchvision's file names end in the first digits of the file's SHA-256.
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")


class TorchvisionFamily(Family):
    """torchvision's image classifiers, their weights in torch.hub's checkpoint folder."""

    def names(self) -> list[str]:
        return list(_TABLES)

    def more_names(self) -> list[str]:
        models = _models()
        return [name for name in models.list_models(module=models) if name not in _TABLES]

    def spec(self, name: str) -> BackboneSpec | None:
        if name in _TABLES:
            return _TABLES[name]
        return _node_spec(name) if name in self.more_names() else None

    def build(self, name: str, *, n_classes: int, image_size: int, initialise: bool) -> nn.Module:
        options: dict[str, Any] = {"num_classes": n_classes}
        table = _TABLES.get(name)
        if table is not None and table.auxiliary:
            # The published weights of these two expect input in [-1, 1], which the network computes from
            # ImageNet-normalised images; torchvision switches that on with its weights, we do so always.
            options |= {
                "aux_logits": False,
                "transform_input": table.transform_input,
                "init_weights": initialise,
            }
        elif name.startswith("vit_"):
            options["image_size"] = image_size
        module: nn.Module = _models().get_model(name, weights=None, **options)
        return module

    def preprocessing(self, name: str) -> Preprocessing:
        return _preprocessing_of(_plain_entry(name))

    def published(self, name: str, entry: str | None) -> Published:
        import torch

        entries = _entries(name)
        asked = "DEFAULT" if entry is None else entry.removeprefix(f"{entries.__name__}.")
        if asked not in entries.__members__:
            raise unknown_weights(name, str(entry), [one.name for one in entries])
        found = entries[asked]
        path = Path(torch.hub.get_dir()) / "checkpoints" / str(found.url).rsplit("/", 1)[1]
        stated = _DIGEST_IN_NAME.search(path.name)
        prefix = stated.group(1) if stated else None
        if not path.is_file():
            _download(name, str(found.url), path, prefix)
        categories = found.meta["categories"]
        return Published(
            _preprocessing_of(found),
            found.name,
            path,
            None if categories is None else tuple(categories),
            sha256_prefix=prefix,
            trusted=prefix is not None,
        )

    def recognise(self, name: str, path: Path, sha256: str) -> Published:
        entry = None
        for one in _entries(name):
            stated = _DIGEST_IN_NAME.search(str(one.url))
            if stated and sha256.startswith(stated.group(1)):
                entry = one
                break
        trusted = entry is not None
        if entry is None:
            entry = _plain_entry(name)
            logger.info(
                "weights file %s is none that torchvision published; its images get the preprocessing of %s",
                path,
                entry,
            )
        return Published(
            _preprocessing_of(entry), class_names=tuple(entry.meta["categories"]), trusted=trusted
        )


FAMILY = TorchvisionFamily()


def _models() -> Any:
    import_torchvision()
    from torchvision import models

    return models


@functools.cache
def _node_spec(name: str) -> BackboneSpec:
    """Make the table of a classifier: the ends of its modules two levels deep, and the logits."""
    from featbank.backbones.catalogue import NodeSpec, tabulated
    from featbank.backbones.families import build_on_meta

    entry = _entries(name).DEFAULT
    size = int(entry.transforms().crop_size[0])
    bare = NodeSpec(
        name,
        name.split("_")[0].rstrip("0123456789"),
        (),
        default_image_size=size,
        n_classes=len(entry.meta["categories"]),
    )
    found = tabulated(bare, build_on_meta(bare))
    return replace(found, head_key=f"{found.cut('logits').node}.weight")


def _entries(name: str) -> Any:
    return _models().get_model_weights(name)


def _plain_entry(name: str) -> Any:
    entries = _entries(name)
    return entries.__members__.get(_PLAIN_ENTRY, entries.DEFAULT)


def _preprocessing_of(entry: Any) -> Preprocessing:
    preset = entry.transforms()
    return Preprocessing(
        image_size=int(preset.crop_size[0]),
        resize_size=int(preset.resize_size[0]),
        interpolation=str(preset.interpolation.value),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _download(name: str, url: str, path: Path, prefix: str | None) -> None:
    import torch

    logger.info("downloading %s to %s", url, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _short_timeout():
            torch.hub.download_url_to_file(url, str(path), prefix, progress=sys.stderr.isatty())
    except (OSError, http.client.HTTPException) as error:
        reason = one_line(error)
        raise MissingWeightsError(
            f"no weights for {name!r}: {path.name!r} is not in {str(path.parent)!r} and could not be "
            f"downloaded ({reason}). Three ways out: (1) run once with network, or put {path.name!r} into "
            "that folder; (2) --weights FILE.safetensors|.pth; (3) --weights random. For a quick try: "
            "--backbone minivgg, whose weights are built in"
        ) from error
    except RuntimeError as error:  # torch.hub's way to say that the digest is wrong
        raise WeightsError(f"the download of {url!r} arrived damaged ({error}); run again") from error


@contextlib.contextmanager
def _short_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
