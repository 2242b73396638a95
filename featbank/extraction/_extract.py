"""``featbank.extract``: push the images of a dataset once through a backbone, into a bank."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from featbank.datasets import Dataset
from featbank.extraction.task import Extraction, ExtractionResult, Progress
from featbank.extraction.work import ExtractionPlan

__all__ = ["extract"]


def extract(
    data: str | os.PathLike[str] | Dataset = "digits",
    *,
    backbone: str,
    cuts: Sequence[str],
    weights: str | os.PathLike[str] | None = None,
    split: str | None = None,
    override_split: bool = False,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    image_size: int | None = None,
    transform: str | None = None,
    precision: str = "auto",
    compile: str = "auto",
    dtype: str = "float16",
    batch_size: int | None = None,
    limit: int | None = None,
    name: str | None = None,
    device: str | None = None,
    workers: int | None = None,
    random_state: int = 0,
    data_root: str | os.PathLike[str] | None = None,
    download: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    on_overflow: str = "error",
    decode: str = "cpu",
    layout: str | None = None,
    skip_empty_classes: bool = False,
    progress: Progress | None = None,
    on_plan: Callable[[ExtractionPlan], None] | None = None,
) -> ExtractionResult:
    """Push each image of a dataset once through a backbone and keep what comes out at the cuts.

    Images whose features are in the bank already are not pushed again, whatever their name: rows are matched
    by the digest of the file. An interrupted extraction is resumed by calling this again.

    Parameters
    ----------
    data : str, path or Dataset, default="digits"
        A folder of class folders, a CSV, ``"torchvision:NAME"``, or ``"digits"``.
    backbone : str
        Name of the backbone, see ``featbank backbones``.
    cuts : sequence of str
        Where to read, see ``featbank cuts BACKBONE``. All come from one pass.
    weights : str or path, optional
        A torchvision weights name, a ``.safetensors`` or ``.pth`` file, or ``"random"``; the backbone's
        default otherwise.
    split : str, optional
        ``"28,4,8"`` (first n per class) or ``"0.7,0.1,0.2"`` (by digest).
    override_split : bool, default=False
        Let `split` replace the splits that the data has itself; without, the two together are refused.
    path_column, label_column, split_column : str, optional
        What the columns of a CSV are called, instead of ``path``, ``label`` and ``split`` (``"none"``: no
        column is the split).
    image_size : int, optional
        Side of the square input in pixels, instead of what the weights ask for; part of the key.
    transform : str, optional
        Another preprocessing than the weights' own; part of the key.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Arithmetic of the forward pass. ``auto`` takes the fastest the device computes natively (on a card
        bfloat16, then float16) if one batch stays within 2 % (relative L2 error at every cut) of float32.
    compile : {"auto", "on", "off"}, default="auto"
        Whether the network is compiled first (4 to 30 s). ``auto`` does so on a CPU where one timed batch
        says that the images to push repay it, and goes on as it began in a bank that was interrupted. A
        compiled network rounds otherwise in the last bit, so ``bfloat16+compiled`` is another bank than
        ``bfloat16``.
    dtype : {"float16", "float32"}, default="float16"
        What features are stored as; logits are always float32.
    batch_size : int, optional
        Images that go through the network together; part of the key, because another batch may round the
        last bit differently. By default memory decides: on a CPU what keeps the largest layer's output in
        the cache (2 to 32), on a CUDA device a quarter of its memory (256 at most), and what a bank has
        that differs in nothing else.
    limit : int, optional
        Take N rows only, the classes in turn.
    name : str, optional
        Name of the dataset's folder in the cache, when its own would clash with another dataset's.
    device : str, optional
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``; several cards as ``"cuda:0,cuda:1"`` or ``"all"``, which take the
        batches in turns; the best there is by default.
    workers : int, optional
        Decoding processes; one per core by default. Features do not depend on it.
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
    progress : callable, optional
        Called with (images done, images to push).
    on_plan : callable, optional
        Called with the `ExtractionPlan` before anything is pushed.

    Returns
    -------
    ExtractionResult

    Raises
    ------
    UnknownNameError
        For an unknown backbone, cut, transform or weights name; the message has the nearest names.
    MissingDataError, MissingWeightsError
        If images or weights are not there.
    DatasetError, InvalidInputError
        If the dataset or an argument makes no sense.
    WeightsError
        If a weights file belongs to another architecture.
    CacheWriteError
        If the disk is full or not writable; what was written before stays and is not pushed again.
    FeatureOverflowError
        If a feature is not finite, or does not fit `dtype` and `on_overflow` is ``"error"``.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as cache:
    ...     first = extract("digits", backbone="minivgg", cuts=["block5_pool"], limit=20, cache_dir=cache)
    ...     again = extract("digits", backbone="minivgg", cuts=["block5_pool"], limit=20, cache_dir=cache)
    >>> first.pushed, again.pushed, dict(first.cuts)
    (20, 0, {'block5_pool': (128, 1, 1)})
    """
    task = Extraction(
        data,
        backbone=backbone,
        cuts=cuts,
        weights=weights,
        split=split,
        override_split=override_split,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        image_size=image_size,
        transform=transform,
        precision=precision,
        compile=compile,
        dtype=dtype,
        batch_size=batch_size,
        limit=limit,
        name=name,
        device=device,
        workers=workers,
        random_state=random_state,
        data_root=data_root,
        download=download,
        cache_dir=cache_dir,
        on_overflow=on_overflow,
        decode=decode,
        layout=layout,
        skip_empty_classes=skip_empty_classes,
    )
    return task.run(progress, on_plan)
