"""What an extraction would cost, told before there are images or weights: made-up ones do for the clock."""

from __future__ import annotations

import io
import time
from dataclasses import replace

import numpy as np

from featbank._cache import banks_folder
from featbank.backbones import get_spec
from featbank.banks import BankStore
from featbank.datasets import build_manifest
from featbank.errors import InvalidInputError
from featbank.extraction.choosing import Computing
from featbank.extraction.planning import ExtractionPlan, free_bytes
from featbank.extraction.settings import ExtractionSettings, stored_dtype

__all__ = ["estimate"]

#: Made-up photographs are of this size, about the mean of ImageNet's, for an input of 224 pixels, and in
#: proportion to the input for others (CIFAR's for one of 32); so many are decoded, again and again.
_WIDTH, _HEIGHT, _INPUT, _N_MADE = 500, 375, 224, 64
_QUALITY = 85


class _MadeUpImages:
    """JPEGs with the detail of a photograph: decoding them takes as long, and they show nothing."""

    name = location = "made-up"
    classes: tuple[str, ...] = ("a", "b")
    splits: None = None

    def __init__(self, width: int, height: int) -> None:
        self.ids = tuple(b"%02d.jpg" % number for number in range(_N_MADE))
        self.labels = tuple(self.classes[number % 2] for number in range(_N_MADE))
        self._files = [_made_up(number, width, height) for number in range(_N_MADE)]

    def read(self, index: int) -> bytes:
        return self._files[index]


def _made_up(number: int, width: int, height: int) -> bytes:
    from PIL import Image

    random = np.random.default_rng(number)
    image = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    grain = random.normal(0, 6, (height, width, 1))
    pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def estimate(n_images: int, settings: ExtractionSettings) -> ExtractionPlan:
    """Say what an extraction of so many images would cost: disk and time, without data and without weights.

    Made-up photographs are decoded and pushed through the network with random weights, whose arithmetic takes
    as long as that of any others.

    Parameters
    ----------
    n_images : int
        How many.
    settings : ExtractionSettings
        Its `weights` are not looked for; `split` and the like do not matter.

    Returns
    -------
    ExtractionPlan
        Its `assumed` says what was taken for granted. It cannot be pushed.

    Raises
    ------
    InvalidInputError
        If there is nothing to estimate.
    UnknownNameError
        For an unknown backbone, cut or transform.

    Examples
    --------
    >>> plan = estimate(1_000, ExtractionSettings(backbone="minivgg", cuts=["fc7"]))
    >>> plan.to_push, plan.size_bytes, plan.duration_s > 0
    (1000, 512000, True)
    """
    if n_images < 1:
        raise InvalidInputError(f"images={n_images!r} must be at least 1")
    started = time.perf_counter()
    cuts = tuple(cut.name for cut in get_spec(settings.backbone).to_store(settings.all_cuts))
    computing = Computing(replace(settings, weights="random"), cuts)
    side = computing.backbone.preprocessing.image_size
    width, height = (max(1, one * side // _INPUT) for one in (_WIDTH, _HEIGHT))
    loaded_s = time.perf_counter() - started
    dataset = _MadeUpImages(width, height)
    started = time.perf_counter()
    try:
        computing.open_images(dataset, build_manifest(dataset), n_rows=n_images)
        computing.choose(())
        duration_s = loaded_s + time.perf_counter() - started + computing.pass_s(n_images)
    finally:
        computing.close()
    sizes = {
        cut: n_images * int(np.prod(shape)) * stored_dtype(cut, settings.key_dtype).itemsize
        for cut, shape in computing.shapes.items()
    }
    path = BankStore(banks_folder(settings.cache_dir)).path_for(settings.name or dataset.name, computing.key)
    return ExtractionPlan(
        bank=path,
        rows=n_images,
        classes=(),
        splits={},
        to_push=n_images,
        to_copy={},
        cuts=computing.shapes,
        cut_bytes=sizes,
        disk_free_bytes=free_bytes(path),
        duration_s=duration_s,
        assumed=(
            f"JPEGs of {width}x{height} pixels, no two alike",
            f"an input of {side}x{side} pixels",
            f"{computing.forward.arithmetic_name} in batches of {computing.forward.batch_size}",
            "random weights; others may need float32, or overflow",
        ),
    )
