"""What can be said of an extraction: written down once, checked once, used by everything that extracts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank._cuts import LOGITS, CutName, with_views
from featbank._registry import changes_repr
from featbank.backbones.preprocessing import Preprocessing
from featbank.errors import FeatureOverflowError, InvalidInputError

if TYPE_CHECKING:
    from featbank.backbones import Backbone

__all__ = [
    "CLIPPED",
    "DECODE",
    "ON_OVERFLOW",
    "PRECISIONS",
    "ExtractionSettings",
    "as_stored",
    "stored_dtype",
]

#: What ``--precision`` may say.
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
#: Where JPEGs can be decoded; another decoder gives other pixels, so this decides the name of the bank.
DECODE = ("cpu", "cuda")
#: What can be done with a cut that has values beyond 65504.
ON_OVERFLOW = ("error", "float32", "clip")
#: The `dtype` of the key of a bank in which float16 cannot overflow because larger values are clipped.
CLIPPED = "float16-clip"
_DTYPES = ("float16", "float32")


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """What is extracted of a dataset, and how.

    Parameters
    ----------
    backbone : str or Backbone
        Name of the backbone, see ``featbank backbones``; the folder of a network that ``featbank train``
        left; or a backbone that is loaded, such as ``Backbone.from_module`` makes of any module.
    cuts : sequence of str
        Where to read, ``CUT[:POOLING][@VIEW]``, see ``featbank cuts BACKBONE``. All come from one pass.
    weights : str or path, optional
        A torchvision weights name, a ``.safetensors`` or ``.pth`` file, or ``"random"``; the backbone's
        default otherwise.
    split : str, optional
        ``"28,4,8"`` (first n per class) or ``"0.7,0.1,0.2"`` (by digest).
    override_split : bool, default=False
        Let `split` replace the splits that the data has itself; without, the two together are refused.
    group_by : str, optional
        A regular expression for ids such as ``cat/patient7_2.png``: images for which it finds the same text
        (its groups, where it has such) are one group, which stays on one side of the split.
    path_column, label_column, split_column : str, optional
        What the columns of a CSV are called, instead of ``path``, ``label`` and ``split`` (``"none"``: no
        column is the split).
    group_column : str, optional
        The column of a CSV that says groups, instead of `group_by`.
    image_size : int, optional
        Side of the square input in pixels, instead of what the weights ask for; part of the key.
    transform : str, optional
        Another preprocessing than the weights' own; part of the key.
    mean, std : sequence of 3 floats, optional
        What weights of one's own were trained with, per channel, for pixels in 0..1; part of the key.
    interpolation : {"bilinear", "bicubic"}, optional
        Likewise.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Arithmetic of the forward pass. ``auto`` takes the fastest the device computes natively (on a card
        bfloat16, then float16) if one batch stays within 2 % (relative L2 error at every cut) of float32.
    compile : {"auto", "on", "off"}, default="auto"
        Whether the network is compiled first (4 to 30 s). ``auto`` does so on a CPU where one timed batch
        says that the images to push repay it. A compiled network rounds otherwise in the last bit, so
        ``bfloat16+compiled`` is another bank than ``bfloat16``.
    dtype : {"float16", "float32"}, default="float16"
        What features are stored as; logits are always float32.
    batch_size : int, optional
        Images that go through the network together; part of the key, because another batch may round the
        last bit differently. By default memory decides: on a CPU what keeps the largest layer's output in
        the cache (2 to 32), on a CUDA device a quarter of its memory (256 at most).
    limit : int, optional
        Take N rows only, the classes in turn.
    name : str, optional
        Name of the dataset's folder in the cache, when its own would clash with another dataset's.
    device : str, optional
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``; several cards as ``"cuda:0,cuda:1"`` or ``"all"``, which take the
        batches in turns; the best there is by default.
    workers : int, optional
        Decoding processes; one per core by default. Features do not depend on it.
    lanes : int, optional
        Batches a CPU computes at once, each with one core; by default one per core this process may use,
        fewer where memory is short. Features do not depend on it.
    random_state : int, default=0
        Seed of ``weights="random"``.
    data_root : path, optional
        Where torchvision datasets lie.
    download : bool, default=False
        Let torchvision fetch its dataset.
    cache_dir : path, optional
        The cache; else ``$FEATBANK_CACHE``, else ``./cache``.
    on_overflow : {"error", "float32", "clip"}, default="error"
        What to do when a cut has values beyond float16's 65504: stop; store that cut, all of it, in float32;
        or store 65504 instead and count it (part of the key: such a bank is another one).
    decode : {"cpu", "cuda"}, default="cpu"
        Where JPEGs are decoded, resized and cropped. ``"cpu"``: by Pillow, in processes, to the very pixels
        of the weights' own transform. ``"cuda"``: plain ones by nvJPEG on the device, every other image (and
        what nvJPEG refuses) as with ``"cpu"``; its pixels are a few steps off, so such a bank is another one.
    layout : str, optional
        What the levels of a folder's folders stand for: ``"class"``, ``"split/class"``, ``"class/split"``, or
        with ``"any"`` for a level that says nothing ``"any/class"``; found out by default, and refused where
        there are two ways.
    skip_empty_classes : bool, default=False
        Go on without the classes that have no image that can be read, instead of refusing them.
    rehash : bool, default=False
        Read and hash every image, also those whose file has not changed since its digest was kept.
    shard_rows : int, optional
        Rows of a shard at most, of cuts that are new: a shard is what one process of many pushes at a time.
        By default as many as fit 64 MiB.
    views : sequence of str, default=()
        What is done to each image before it is pushed once more, see `featbank.extraction.apply_view`; what
        comes out at each cut is stored beside that of the image itself, as ``CUT@VIEW``.

    Raises
    ------
    InvalidInputError
        If a value makes no sense whatever the data, the weights and the machine are.

    Notes
    -----
    What is left to ``auto`` or None in `precision`, `compile` and `batch_size` is chosen once for each bank:
    a bank that is there and differs in nothing else is gone on with as it was begun, on any machine.

    Examples
    --------
    >>> settings = ExtractionSettings(backbone="minivgg", cuts=["fc7"])
    >>> settings, settings.precision, settings.key_dtype
    (ExtractionSettings(backbone='minivgg', cuts=('fc7',)), 'auto', 'float16')
    """

    backbone: str | Backbone
    cuts: Sequence[str]
    weights: str | os.PathLike[str] | None = None
    split: str | None = None
    override_split: bool = False
    group_by: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    image_size: int | None = None
    transform: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    interpolation: str | None = None
    precision: str = "auto"
    compile: str = "auto"
    dtype: str = "float16"
    batch_size: int | None = None
    limit: int | None = None
    name: str | None = None
    device: str | None = None
    workers: int | None = None
    lanes: int | None = None
    random_state: int = 0
    data_root: str | os.PathLike[str] | None = None
    download: bool = False
    cache_dir: str | os.PathLike[str] | None = None
    on_overflow: str = "error"
    decode: str = "cpu"
    layout: str | None = None
    skip_empty_classes: bool = False
    rehash: bool = False
    shard_rows: int | None = None
    views: Sequence[str] = ()

    __repr__ = changes_repr

    def __post_init__(self) -> None:
        for name, allowed in (
            ("dtype", _DTYPES),
            ("on_overflow", ON_OVERFLOW),
            ("precision", PRECISIONS),
            ("compile", ("auto", "on", "off")),
            ("decode", DECODE),
        ):
            if getattr(self, name) not in allowed:
                raise InvalidInputError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")
        if self.batch_size is not None and self.batch_size < 1:
            raise InvalidInputError(
                f"batch_size={self.batch_size!r} must be at least 1, or None to let memory decide"
            )
        if self.workers is not None and self.workers < 1:
            raise InvalidInputError(f"workers={self.workers!r} must be at least 1")
        if self.shard_rows is not None and self.shard_rows < 1:
            raise InvalidInputError(
                f"shard_rows={self.shard_rows!r} must be at least 1, or None for as many as fit 64 MiB"
            )
        if self.lanes is not None and self.lanes < 1:
            raise InvalidInputError(f"lanes={self.lanes!r} must be at least 1, or None for one per core")
        if isinstance(self.backbone, os.PathLike):
            object.__setattr__(self, "backbone", os.fspath(self.backbone))
        if not isinstance(self.backbone, str):
            if not hasattr(self.backbone, "weights_sha256"):
                raise InvalidInputError(
                    f"backbone={type(self.backbone).__name__} is neither a name nor a Backbone; make one "
                    "with Backbone.from_module(module, name=..., preprocessing=...)"
                )
            if self.weights is not None:
                raise InvalidInputError(
                    f"weights={self.weights!r}: backbone {self.backbone.name!r} has its weights already"
                )
        if isinstance(self.cuts, str):
            raise InvalidInputError(f"cuts={self.cuts!r} is one text; give a list, such as [{self.cuts!r}]")
        object.__setattr__(self, "cuts", tuple(self.cuts))
        if isinstance(self.views, str):
            raise InvalidInputError(f"views={self.views!r} is one text; give a list, such as ['hflip']")
        object.__setattr__(self, "views", tuple(self.views))
        numbers = Preprocessing(1, 1).with_numbers(self.mean, self.std)
        for one in ("mean", "std"):
            if getattr(self, one) is not None:  # lists and arrays would make equal settings compare unequal
                object.__setattr__(self, one, getattr(numbers, one))
        if not self.cuts:
            name = self.backbone if isinstance(self.backbone, str) else self.backbone.name
            raise InvalidInputError(f"no cut was asked for; 'featbank cuts {name}' lists them")

    @property
    def all_cuts(self) -> tuple[str, ...]:
        """The cuts, and each of them at each view."""
        return tuple(with_views(self.cuts, self.views))

    @property
    def key_dtype(self) -> str:
        """What stands in the key: clipping changes numbers, so a bank that is clipped is another bank."""
        return CLIPPED if self.on_overflow == "clip" and self.dtype == "float16" else self.dtype

    def options_of(self, function: Callable[..., Any]) -> dict[str, Any]:
        """Return those of these settings that a function takes, by the names of its parameters."""
        known = {one.name for one in fields(self)}
        return {name: getattr(self, name) for name in inspect.signature(function).parameters if name in known}


def stored_dtype(cut: str, dtype: str) -> np.dtype[np.floating]:
    """Return what a cut is stored as: the key's `dtype`, but logits in float32 (softmax comes from them).

    Examples
    --------
    >>> str(stored_dtype("fc7", "float16-clip")), str(stored_dtype("logits", "float16"))
    ('float16', 'float32')
    """
    return np.dtype(np.float32 if CutName.parse(cut).base == LOGITS else dtype.removesuffix("-clip"))


def as_stored(
    values: NDArray[np.float32], cut: str, dtype: str, *, cut_dtype: str | None = None
) -> NDArray[np.float32]:
    """Return what a bank would give back of features that have just been computed.

    Parameters
    ----------
    values : ndarray of float32, shape (n_samples, *shape)
        What came out at the cut.
    cut : str
        The cut.
    dtype : str
        That of the bank's key.
    cut_dtype : str, optional
        What the cut is stored as, ``bank[cut].dtype.name``, where that is not what the key says: a cut that
        overflowed float16 and was stored in float32.

    Returns
    -------
    ndarray of float32, shape (n_samples, *shape)

    Raises
    ------
    FeatureOverflowError
        If a value does not fit, which the bank would not have taken either.

    Examples
    --------
    >>> as_stored(np.float32([[0.1, 1e6]]), "fc7", "float16-clip").tolist()
    [[0.0999755859375, 65504.0]]
    """
    stored = np.dtype(cut_dtype) if cut_dtype is not None else stored_dtype(cut, dtype)
    limit = np.finfo(stored).max
    largest = np.abs(values).max(initial=0)
    if not largest <= limit:
        if dtype != CLIPPED or not largest < np.inf:
            raise FeatureOverflowError(
                f"{cut!r} of an image reaches {largest:.4g}, {stored} ends at {limit:.4g}, and the bank "
                f"behind it holds nothing beyond; extract with --on-overflow float32, or clip, and fit again"
            )
        values = np.clip(values, -limit, limit)
    return values.astype(stored).astype(np.float32)
