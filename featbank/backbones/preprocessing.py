"""From an upright RGB image to the tensor a backbone was trained on, in two steps: pixels, then numbers.

The first step (resize, crop; Pillow and numpy) runs in the workers and gives bytes; the second (scale,
subtract, divide) runs on the device that computes, so a quarter of the bytes travel. An image that was
decoded on a device is resized and cropped there too, by the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from numbers import Real
from typing import TYPE_CHECKING, Any

from featbank._process import import_torchvision
from featbank._registry import Registry
from featbank.errors import ImageDecodeError, InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

__all__ = ["TRANSFORMS", "Preprocessing"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

#: A line of 1 x 60,000 pixels is a file of 300 bytes, and 15 GB once its short side has 256.
_MAX_RESIZED_PIXELS = 100_000_000


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before the network sees it; part of a bank's key.

    Parameters
    ----------
    image_size : int
        Side of the square the network gets, in pixels.
    resize_size : int
        Length the image's shorter side is scaled to before the crop, in pixels; ``"squash"`` does not use it.
    interpolation : {"bilinear", "bicubic"}, default="bilinear"
        Pillow's filter, with its antialiasing.
    mean, std : tuple of 3 floats
        Per-channel mean and standard deviation, for pixels in 0..1. The defaults are ImageNet's.
    mode : {"crop", "squash"}, default="crop"
        ``"crop"`` keeps the proportions and takes the centre, ``"squash"`` scales both sides to `image_size`.
    contrast : bool, default=False
        If True, each image loses its own mean and is divided by its own standard deviation (over all its
        pixels and channels) instead of by `mean` and `std`.

    Examples
    --------
    >>> Preprocessing(224, 256).with_image_size(128)
    Preprocessing(image_size=128, resize_size=146, interpolation='bilinear', ...)
    >>> Preprocessing(224, 256).with_transform("squash").mode
    'squash'
    """

    image_size: int
    resize_size: int
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD
    mode: str = "crop"
    contrast: bool = False

    def __post_init__(self) -> None:
        for name in ("image_size", "resize_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidInputError(
                    f"{name}={value!r} is not a number of pixels; pass an int of at least 1"
                )
        if self.interpolation not in ("bilinear", "bicubic"):
            raise InvalidInputError(f"interpolation={self.interpolation!r}; use 'bilinear' or 'bicubic'")
        if self.mode not in ("crop", "squash"):
            raise InvalidInputError(f"mode={self.mode!r}; use 'crop' or 'squash'")
        mean, std = _three_numbers(self.mean), _three_numbers(self.std)
        if mean is None or std is None or min(std) <= 0:
            raise InvalidInputError(
                f"mean={self.mean!r}, std={self.std!r}: pass three numbers each, and no std of 0 or less"
            )
        if min(mean) < 0 or max(mean) > 1 or max(std) > 1:
            of_bytes = f"; if they are of 0..255, pass {_by_255(mean)} and {_by_255(std)}"
            raise InvalidInputError(
                f"mean={self.mean!r}, std={self.std!r} are not of pixels in 0..1, where both are at most 1"
                f"{of_bytes if min(mean) >= 0 else ''}"
            )
        # Lists (from JSON) would make equal settings compare unequal.
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON scalars and lists, for the bank's key.

        Returns
        -------
        dict
            One entry per field; ``Preprocessing(**settings)`` gives the object back.

        Examples
        --------
        >>> settings = Preprocessing(224, 256).to_dict()
        >>> settings["mean"], Preprocessing(**settings) == Preprocessing(224, 256)
        ([0.485, 0.456, 0.406], True)
        """
        settings = asdict(self)
        settings["mean"], settings["std"] = list(self.mean), list(self.std)
        return settings

    def with_image_size(self, image_size: int) -> Preprocessing:
        """Return the same preprocessing for another input size; the shorter side is scaled in proportion."""
        resize_size = max(1, round(self.resize_size * image_size / self.image_size))
        return replace(self, image_size=image_size, resize_size=resize_size)

    def with_transform(self, transform: str | None) -> Preprocessing:
        """Return the preprocessing that a transform's name stands for.

        Parameters
        ----------
        transform : {"weights", "squash", "contrast"} or None
            ``"weights"`` (or None) changes nothing, ``"squash"`` scales straight to the square,
            ``"contrast"`` normalises each image by its own mean and standard deviation.

        Returns
        -------
        Preprocessing
            A changed copy.

        Raises
        ------
        UnknownNameError
            For any other name.

        Examples
        --------
        >>> Preprocessing(224, 256).with_transform("sqash")
        Traceback (most recent call last):
            ...
        featbank.errors.UnknownNameError: unknown transform 'sqash'; known: 'squash', 'weights', 'contrast'
        """
        return self if transform is None else _TRANSFORMS.get(transform)(self)

    def with_numbers(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        interpolation: str | None = None,
    ) -> Preprocessing:
        """Return the same with other numbers, those that weights of one's own were trained with.

        Parameters
        ----------
        mean, std : sequence of 3 floats, optional
            For pixels in 0..1.
        interpolation : {"bilinear", "bicubic"}, optional

        Raises
        ------
        InvalidInputError
            If they are none, or each image is normalised by its own mean and standard deviation.

        Examples
        --------
        >>> Preprocessing(224, 256).with_numbers(mean=[0.5] * 3, std=[0.5] * 3).mean
        (0.5, 0.5, 0.5)
        """
        if self.contrast and (mean is not None or std is not None):
            raise InvalidInputError(
                "transform='contrast' normalises each image by its own numbers, and mean and std are for all "
                "images; leave one of them out"
            )
        given = {"mean": mean, "std": std, "interpolation": interpolation}
        changes: dict[str, Any] = {name: one for name, one in given.items() if one is not None}
        return replace(self, **changes)

    def apply_geometry(self, image: Image.Image) -> np.ndarray:
        """Resize and crop: the same pixels that torchvision's ``ImageClassification`` takes of a PIL image.

        Parameters
        ----------
        image : PIL.Image.Image
            Upright, mode ``"RGB"``.

        Returns
        -------
        ndarray of shape (image_size, image_size, 3), uint8
            C-contiguous; black where a crop reaches beyond the image.

        Raises
        ------
        InvalidInputError
            If the image is not RGB.
        ImageDecodeError
            If it is so long and thin that it would be over 100 million pixels when its short side fits.

        Examples
        --------
        >>> from PIL import Image
        >>> Preprocessing(4, 6).apply_geometry(Image.new("RGB", (31, 17), (9, 8, 7)))[0, 0].tolist()
        [9, 8, 7]
        """
        import numpy as np
        from PIL import Image as PillowImage

        if image.mode != "RGB":
            raise InvalidInputError(
                f"image of mode {image.mode!r}; convert it to 'RGB' first (decode_image does)"
            )
        side = self.image_size
        width, height = self._resized_to(image.width, image.height)
        if (width, height) != image.size:
            resample = PillowImage.Resampling[self.interpolation.upper()]
            image = image.resize((width, height), resample=resample)
        pixels = np.asarray(image)  # (height, width, 3)
        if (height, width) == (side, side):
            return np.array(pixels)  # a copy: Pillow's buffer is read-only
        top, bottom = _crop(height, side)
        left, right = _crop(width, side)
        square = np.zeros((side, side, 3), dtype=np.uint8)
        source = pixels[max(top, 0) : bottom, max(left, 0) : right]
        row, column = max(-top, 0), max(-left, 0)
        square[row : row + source.shape[0], column : column + source.shape[1]] = source
        return square

    def apply_tensor_geometry(self, image: torch.Tensor) -> torch.Tensor:
        """Resize and crop an image that is a tensor already, on the device it is on.

        Parameters
        ----------
        image : Tensor of shape (3, h, w), uint8
            Upright RGB.

        Returns
        -------
        Tensor of shape (3, image_size, image_size), uint8
            On the same device; black where a crop reaches beyond the image. On a CPU the pixels are those of
            `apply_geometry`, but for a step in about one of a thousand values of a photograph (two at most):
            torchvision rounds its antialiased resize otherwise.

        Raises
        ------
        InvalidInputError
            If `image` has another shape or dtype.
        ImageDecodeError
            As of `apply_geometry`.

        Examples
        --------
        >>> import torch
        >>> Preprocessing(4, 6).apply_tensor_geometry(torch.full((3, 17, 31), 9, dtype=torch.uint8)).shape
        torch.Size([3, 4, 4])
        """
        import torch

        import_torchvision()
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise InvalidInputError(
                f"image of dtype {image.dtype} and shape {tuple(image.shape)}; pass uint8 of shape (3, h, w)"
            )
        side = self.image_size
        width, height = self._resized_to(image.shape[2], image.shape[1])
        if (height, width) != tuple(image.shape[1:]):
            mode = InterpolationMode(self.interpolation)
            image = functional.resize_image(image, [height, width], interpolation=mode, antialias=True)
        if (height, width) == (side, side):
            return image
        (top, bottom), (left, right) = _crop(height, side), _crop(width, side)
        source = image[:, max(top, 0) : bottom, max(left, 0) : right]
        if source.shape[1:] == (side, side):
            return source
        square = image.new_zeros((3, side, side))
        row, column = max(-top, 0), max(-left, 0)
        square[:, row : row + source.shape[1], column : column + source.shape[2]] = source
        return square

    def _resized_to(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) after the resize and before the crop."""
        if self.mode == "squash":
            resized = self.image_size, self.image_size
        else:
            resized = _resized(width, height, self.resize_size)
        if resized[0] * resized[1] > _MAX_RESIZED_PIXELS:
            raise ImageDecodeError(
                "too-many-pixels",
                f"{width} x {height} would be {resized[0]} x {resized[1]} pixels after the resize",
            )
        return resized

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """Scale bytes to the numbers the network was trained on, on the device the batch is on.

        Parameters
        ----------
        batch : Tensor of shape (b, h, w, 3) or (b, 3, h, w), uint8
            RGB images.

        Returns
        -------
        Tensor of shape (b, 3, h, w), float32
            Channels-last in memory when `batch` had its channels last.

        Raises
        ------
        InvalidInputError
            If `batch` has another shape or dtype.
        """
        import torch

        if batch.dtype != torch.uint8 or batch.ndim != 4 or 3 not in (batch.shape[1], batch.shape[3]):
            raise InvalidInputError(
                f"batch of dtype {batch.dtype} and shape {tuple(batch.shape)}; pass uint8 images of shape "
                "(b, h, w, 3) or (b, 3, h, w)"
            )
        if batch.shape[3] == 3:
            batch = batch.permute(0, 3, 1, 2)
        # In torchvision's order of operations, so that the last bit agrees too.
        images = batch.to(torch.float32).div_(255)  # (b, 3, h, w)
        if self.contrast:
            mean = images.mean(dim=(1, 2, 3), keepdim=True)
            images = images.sub_(mean)
            # Of all pixels of the image itself, so no Bessel correction. A uniform image stays 0.
            deviation = images.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            return images.div_(deviation.clamp_min_(1e-6))
        mean, std = (_channels(tuple(values), images.device) for values in (self.mean, self.std))
        return images.sub_(mean).div_(std)


@lru_cache(maxsize=64)
def _channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    # Made once per device: a card would be waited for at every batch.
    import torch

    with torch.inference_mode(False):  # fit for any caller, whoever was the first
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)


def _by_255(numbers: Sequence[float]) -> str:
    return ",".join(f"{number / 255:.4g}" for number in numbers)


def _three_numbers(values: Any) -> tuple[float, ...] | None:
    """Return three finite numbers of any kind, NumPy's too, as floats; None for anything else."""
    try:
        found = tuple(float(one) for one in values if isinstance(one, Real) and not isinstance(one, bool))
        fits = len(found) == len(values) == 3 and all(map(math.isfinite, found))
    except (TypeError, ValueError, OverflowError):
        return None
    return found if fits else None


def _resized(width: int, height: int, shorter: int) -> tuple[int, int]:
    # Truncated, not rounded: torchvision's rule, and one pixel more would move every crop.
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def _crop(length: int, side: int) -> tuple[int, int]:
    """First and last position of a centred crop; negative where it reaches beyond the image."""
    # Halves go to the even side of a crop and below a padding, as in torchvision's center_crop.
    first = -((side - length) // 2) if side > length else round((length - side) / 2.0)
    return first, first + side


def _same(preprocessing: Preprocessing) -> Preprocessing:
    return preprocessing


def _squash(preprocessing: Preprocessing) -> Preprocessing:
    return replace(preprocessing, mode="squash")


def _contrast(preprocessing: Preprocessing) -> Preprocessing:
    return replace(preprocessing, contrast=True)


_TRANSFORMS = Registry[Callable[[Preprocessing], Preprocessing]]("transform")
_TRANSFORMS.register("weights", _same)
_TRANSFORMS.register("squash", _squash)
_TRANSFORMS.register("contrast", _contrast)

#: Names `Preprocessing.with_transform` knows.
TRANSFORMS: tuple[str, ...] = tuple(_TRANSFORMS.names())
