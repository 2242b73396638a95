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

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "MINIVGG_CLASSES",
    "MINIVGG_CUTS",
    "MINIVGG_MEAN",
    "MINIVGG_STD",
    "MINIVGG_WEIGHTS",
    "build_minivgg",
]

#: Width and number of convolutions of each block.
_BLOCKS = ((32, 2), (64, 2), (128, 3), (128, 3), (128, 3))
_HIDDEN = 256

#: Cut name -> (node of the network, shape at 32x32).
MINIVGG_CUTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "block1_pool": ("features.6", (32, 16, 16)),
    "block2_pool": ("features.13", (64, 8, 8)),
    "block3_pool": ("features.23", (128, 4, 4)),
    "block4_pool": ("features.33", (128, 2, 2)),
    "block5_pool": ("features.43", (128, 1, 1)),
    "fc6": ("classifier.1", (_HIDDEN,)),
    "fc7": ("classifier.4", (_HIDDEN,)),
    "logits": ("classifier.6", (10,)),
}

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
        ``Sequential`` as in torchvision's VGG, and their children are the nodes in `MINIVGG_CUTS`.
    """
    # A module-level class would make `import featbank.backbones` load torch.
    from featbank.backbones._minivgg_network import MiniVGG

    return MiniVGG(_BLOCKS, _HIDDEN, num_classes)
