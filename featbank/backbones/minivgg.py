"""minivgg: VGG16's plan at a fraction of its width, for 32x32 images; its weights ship with featbank.

Thirteen 3x3 convolutions in five blocks (2, 2, 3, 3, 3), each block closed by a 2x2 max-pool, then two
hidden fully connected layers and the logits: the plan of VGG16 [1]_, configuration D, with batch norm after
each convolution so that it trains in minutes.

References
----------
.. [1] K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
   ICLR 2015, table 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featbank.backbones import _vgg
from featbank.backbones.families import Family, Published, unknown_weights
from featbank.backbones.own_networks import NETWORKS, build_network
from featbank.backbones.preprocessing import Preprocessing
from featbank.backbones.spec import BackboneSpec, Cut
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
]

#: Cut, node of the network, shape at 32x32, multiply-adds of one image up to it.
_CUTS: tuple[tuple[str, str, tuple[int, ...], int], ...] = (
    ("block1_pool", "features.6", (32, 16, 16), 10_321_920),
    ("block2_pool", "features.13", (64, 8, 8), 24_477_696),
    ("block3_pool", "features.23", (128, 4, 4), 48_070_656),
    ("block4_pool", "features.33", (128, 2, 2), 55_148_544),
    ("block5_pool", "features.43", (128, 1, 1), 56_918_016),
    ("fc6", "classifier.1", (256,), 56_950_784),
    ("fc7", "classifier.4", (256,), 57_016_320),
    ("logits", "classifier.6", (10,), 57_018_880),
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


def _spec() -> BackboneSpec:
    # The same aliases as VGG16, so that a command written for one runs on the other.
    aliases = {cut.name: cut.aliases for cut in _vgg.SPECS[0].cuts}
    return BackboneSpec(
        "minivgg",
        "vgg",
        tuple(Cut(name, node, shape, aliases[name], macs) for name, node, shape, macs in _CUTS),
        default_image_size=32,
        min_image_size=32,
        n_classes=len(MINIVGG_CLASSES),
        n_parameters=1_422_826,
        head_key="classifier.6.weight",
    )


_SPEC = _spec()
FAMILY = FeatbankFamily()
