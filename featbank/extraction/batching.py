"""How many images go through the network together: as many as the memory that decides the speed holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featbank.extraction.forward import MOST_NUMBERS

if TYPE_CHECKING:
    import torch

__all__ = ["choose_batch_size"]

#: Bytes that the largest layer's output may take on a CPU. From layer to layer the numbers then stay in the
#: last cache instead of going through the memory. Measured on two cores with 32 MiB of it, images/s of 32,
#: 8, 4 and 2 at a time: MobileNetV2 compiled, float32 161, 277, 361, 285, bfloat16 405, 674, 569, 496;
#: ResNet-18 the same way 105, 125, 123, 107 and 209, 240, 216, 198; VGG16 to `block4_pool` 13.7, 14.2, 15.0,
#: 15.3 and 28.5, 29.8, 30.5, 33.0.
_CACHE_BYTES = 20 * 1024 * 1024
#: One image at a time leaves nothing to share between cores; over 32 nothing is gained.
_CPU_SIZES = (2, 4, 8, 16, 32)

#: What part of a card's memory the largest layers may take, and how many tensors of the largest one's size
#: are alive at once (inputs, outputs, what a convolution works in, copies in the other precision).
_DEVICE_PART, _ALIVE = 0.25, 8
_CUDA_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

#: Where the memory is not known.
_ELSEWHERE = 32


def choose_batch_size(activation: int, precision: str, device: torch.device) -> int:
    """Return how many images to push together; the same on every machine but for a card's memory.

    Parameters
    ----------
    activation : int
        Numbers in the largest output of a layer, for one image; see `featbank.backbones.largest_activation`.
    precision : {"float32", "bfloat16", "float16"}
        Of the arithmetic.
    device : torch.device
        On a CPU the batch is small enough for the cache. On a CUDA device it is as large as a quarter of
        its memory allows, 256 at most.

    Examples
    --------
    >>> import torch
    >>> [choose_batch_size(96 * 112 * 112, one, torch.device("cpu")) for one in ("float32", "bfloat16")]
    [4, 8]
    """
    image_bytes = activation * (4 if precision == "float32" else 2)
    if device.type == "cpu":
        return _largest(_CPU_SIZES, _CACHE_BYTES / image_bytes)
    if device.type == "cuda":
        import torch

        total = torch.cuda.get_device_properties(device).total_memory
        limit = min(_DEVICE_PART * total / (_ALIVE * image_bytes), MOST_NUMBERS / activation)
        return _largest(_CUDA_SIZES, limit)
    return _ELSEWHERE


def _largest(sizes: tuple[int, ...], limit: float) -> int:
    return max((one for one in sizes if one <= limit), default=sizes[0])
