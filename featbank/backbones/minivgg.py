"""featbank's own networks, built; and minivgg, VGG16's plan at a fraction of its width, with its weights.

minivgg is for 32x32 images: thirteen 3x3 convolutions in five blocks (2, 2, 3, 3, 3), each block closed by a
2x2 max-pool, then two hidden fully connected layers and the logits: the plan of VGG16 [1]_, configuration D,
with batch norm after each convolution so that it trains in minutes.

References
----------
.. [1] K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
   ICLR 2015, table 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featbank.backbones.families import BackboneSpec, Cut, Family, Published, unknown_weights
from featbank.backbones.own_networks import NETWORKS, ConvNetPlan, InceptionPlan, NetworkPlan
from featbank.backbones.preprocessing import Preprocessing
from featbank.errors import MissingWeightsError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "FAMILY",
    "MINIVGG_CLASSES",
    "MINIVGG_MEAN",
    "MINIVGG_STD",
    "MINIVGG_WEIGHTS",
    "build_minivgg",
    "build_network",
]

#: What a 32x32 image leaves at each cut. The aliases are those of VGG16, so that a command written for one
#: runs on the other.
_CUTS = (
    Cut("block1_pool", "features.6", (32, 16, 16), ("pool1", "conv-1"), 10_321_920),
    Cut("block2_pool", "features.13", (64, 8, 8), ("pool2", "conv-2"), 24_477_696),
    Cut("block3_pool", "features.23", (128, 4, 4), ("pool3", "conv-3"), 48_070_656),
    Cut("block4_pool", "features.33", (128, 2, 2), ("pool4", "conv-4"), 55_148_544),
    Cut("block5_pool", "features.43", (128, 1, 1), ("pool5", "conv-5"), 56_918_016),
    Cut("fc6", "classifier.1", (256,), ("fc1",), 56_950_784),
    Cut("fc7", "classifier.4", (256,), ("fc2",), 57_016_320),
    Cut("logits", "classifier.6", (10,), ("fc8",), 57_018_880),
)

#: Per-channel mean and standard deviation of the CIFAR-10 training images, in units of 0..1.
MINIVGG_MEAN = (0.4914, 0.4822, 0.4465)
MINIVGG_STD = (0.2470, 0.2435, 0.2616)

#: What the shipped weights were trained to tell apart, in the order of the logits.
MINIVGG_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

#: File name of the shipped weights, in ``featbank/backbones/pretrained/``.
MINIVGG_WEIGHTS = "minivgg-cifar10.safetensors"
#: How these weights are called, as torchvision's entries are.
_ENTRY = "CIFAR10"


_SPEC = BackboneSpec(
    "minivgg",
    "vgg",
    _CUTS,
    default_image_size=32,
    min_image_size=32,
    n_classes=len(MINIVGG_CLASSES),
    n_parameters=1_422_826,
    head_key="classifier.6.weight",
)


def build_network(plan: NetworkPlan, n_classes: int) -> nn.Module:
    """Build a network with its initial weights, which come from torch's generator.

    Parameters
    ----------
    plan : NetworkPlan
    n_classes : int
        Number of logits.

    Returns
    -------
    torch.nn.Module
        Takes normalised float32 images of shape (batch, 3, image_size, image_size), gives logits of shape
        (batch, n_classes).
    """
    from featbank.backbones._own_modules import ConvNet, InceptionNet, MiniVGG  # torch, when it is needed

    if isinstance(plan, ConvNetPlan):
        return ConvNet(plan, n_classes)
    if isinstance(plan, InceptionPlan):
        return InceptionNet(plan, n_classes)
    return MiniVGG(plan, n_classes)


def build_minivgg(num_classes: int = 10) -> nn.Module:
    """Build an untrained minivgg.

    Parameters
    ----------
    num_classes : int, default=10
        Number of logits.

    Returns
    -------
    torch.nn.Module
        Takes float32 images of shape (batch, 3, 32, 32), normalised by `MINIVGG_MEAN` and `MINIVGG_STD`,
        and gives float32 logits of shape (batch, num_classes). Its ``features`` and ``classifier`` are
        ``Sequential`` as in torchvision's VGG, and their children are the nodes of its cuts.
    """
    return build_network(NETWORKS["minivgg"], num_classes)


class FeatbankFamily(Family):
    """featbank's own networks; their weights come with it."""

    def names(self) -> list[str]:
        return [_SPEC.name]

    def spec(self, name: str) -> BackboneSpec | None:
        return _SPEC if name == _SPEC.name else None

    def build(self, name: str, *, n_classes: int, image_size: int, initialise: bool) -> nn.Module:
        del name, image_size, initialise
        return build_minivgg(n_classes)

    def preprocessing(self, name: str) -> Preprocessing:
        del name
        size = _SPEC.default_image_size
        return Preprocessing(size, size, mean=MINIVGG_MEAN, std=MINIVGG_STD)

    def published(self, name: str, entry: str | None) -> Published:
        if entry not in (None, "DEFAULT", _ENTRY):
            raise unknown_weights(name, str(entry), [_ENTRY])
        path = Path(__file__).parent / "pretrained" / MINIVGG_WEIGHTS
        if not path.is_file():
            raise MissingWeightsError(
                f"the weights of {name!r} are missing from this installation ({str(path)!r}); "
                "install featbank again, or use --weights FILE.safetensors|.pth or --weights random"
            )
        return Published(self.preprocessing(name), _ENTRY, path, MINIVGG_CLASSES)


FAMILY = FeatbankFamily()
