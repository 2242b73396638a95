"""Torchvision's classification datasets, by name, with the splits they come in."""

from __future__ import annotations

import difflib
import inspect
import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank._cache import user_path
from featbank._process import import_torchvision
from featbank.datasets.sources import image_bytes, pnm_bytes, require_two_classes, safe_name
from featbank.errors import DatasetError, ImageDecodeError, MissingDataError, UnknownNameError, one_line
from featbank.manifest import printable

__all__ = ["TorchvisionDataset", "open_torchvision"]

#: Values of torchvision's ``split`` argument to try for each of our splits; the first it knows is taken.
_SPLIT_VALUES = {
    "train": ("train", "trainval", "train-standard"),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
#: Arguments without a default, where leaving them to the user would make a name useless.
_ARGUMENTS: dict[str, dict[str, Any]] = {"EMNIST": {"split": "balanced"}}
_LABEL_ATTRIBUTES = ("targets", "labels", "_labels", "y", "_samples", "samples")
_NOT_BY_NAME = frozenset({"VisionDataset", "DatasetFolder", "ImageFolder"})


class _Parts:
    """Holds parts of a dataset; where they are torchvision's, unpickling imports of it only what is used."""

    _parts: Mapping[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        kinds = {kind for part in self._parts.values() for kind in type(part).__mro__}
        of_torchvision = any(kind.__module__.split(".")[0] == "torchvision" for kind in kinds)
        return _unpickled, (type(self), of_torchvision), self.__dict__


def _unpickled(kind: type[Any], of_torchvision: bool) -> Any:
    if of_torchvision:
        import_torchvision()
    return object.__new__(kind)


class TorchvisionDataset(_Parts):
    """Images of torchvision datasets (or of any that give a Pillow image and a whole number).

    An id is ``SPLIT/INDEX``, or ``INDEX`` where there is one part without a split. Images are handed out as
    PGM or PPM, so their digest does not depend on how torchvision stores them.

    Parameters
    ----------
    parts : mapping of str to dataset
        One dataset for each of ``"train"``, ``"val"``, ``"test"``; or a single one under ``""``.
    name : str
        Name of the dataset.
    location : str
        Where it came from, for people.

    Raises
    ------
    DatasetError
        If a part gives something else, is empty, or there are fewer than two classes.
    """

    def __init__(self, parts: Mapping[str, Any], *, name: str, location: str) -> None:
        self.name, self.location = safe_name(name), location
        # Where the pixels are arrays, as in CIFAR and MNIST, nobody who reads one has to know torchvision.
        self._parts = {split: _in_memory(part, location) or part for split, part in sorted(parts.items())}
        self.decodes = not all(isinstance(part, _Pixels) for part in self._parts.values())
        codes: list[int | None] = []
        self._where: list[tuple[str, int]] = []
        ids, splits = [], []
        labels = _labels(self._parts, location)
        for split, part in self._parts.items():
            size = len(part)
            width = max(6, len(str(size)))
            for index in range(size):
                ids.append(f"{split}/{index:0{width}d}".lstrip("/").encode())
                splits.append(split)
                self._where.append((split, index))
            codes += labels[split]
        if not ids:
            raise DatasetError(f"{location} has no images")
        self.classes: tuple[str, ...] = _class_names(self._parts, codes)
        self.ids: tuple[bytes, ...] = tuple(ids)
        self.labels: tuple[str | None, ...] = tuple(
            None if code is None else self.classes[code] for code in codes
        )
        self.splits: tuple[str, ...] | None = None if "" in self._parts else tuple(splits)
        require_two_classes(self.labels, location)

    def read(self, index: int) -> bytes:
        """Return image `index` as the bytes of a PGM or PPM file; raises `OSError` or `ImageDecodeError`."""
        split, position = self._where[index]
        part = self._parts[split]
        if isinstance(part, _Pixels):
            return pnm_bytes(part.pixels[position])
        return image_bytes(_item(part, position, self.location)[0])


def open_torchvision(
    torchvision_name: str,
    *,
    data_root: str | os.PathLike[str] = "data",
    download: bool = False,
    name: str | None = None,
) -> TorchvisionDataset:
    """Build the torchvision dataset of a name from a folder, all its splits together.

    Parameters
    ----------
    torchvision_name : str
        Name of the class in ``torchvision.datasets``; upper and lower case do not matter.
    data_root : str or os.PathLike, default="data"
        Folder that torchvision calls ``root``.
    download : bool, default=False
        Fetch what is not there.
    name : str, optional
        Name of the dataset; default: ``torchvision-`` and the class name in lower case.

    Raises
    ------
    UnknownNameError
        If torchvision has no such dataset.
    MissingDataError
        If it is not on disk and may not be, or cannot be, downloaded.
    DatasetError
        If it is no dataset of single images with one label each.
    """
    factory = _find(torchvision_name)
    location = f"torchvision:{factory.__name__}"
    root = os.fspath(user_path(data_root))
    parameters = _parameters(factory)
    arguments: dict[str, Any] = dict(_ARGUMENTS.get(factory.__name__, {}))
    if "root" in parameters:
        arguments["root"] = root
        if not download and not Path(root).is_dir():
            raise _missing(location, root, None)
    if "download" in parameters:
        arguments["download"] = download
    parts: dict[str, Any] = {}
    if "train" in parameters:
        for split, train in (("train", True), ("test", False)):
            parts[split] = _build(factory, {**arguments, "train": train}, location, root, download)
    elif "split" in parameters and "split" not in arguments:
        for split, values in _SPLIT_VALUES.items():
            for value in values:
                part = _build(factory, {**arguments, "split": value}, location, root, download)
                if part is not None:
                    parts[split] = part
                    break
    else:
        parts[""] = _build(factory, arguments, location, root, download)
    parts = {split: part for split, part in parts.items() if part is not None}
    if not parts:
        raise DatasetError(f"{location} has none of the splits train, val, test")
    default = f"torchvision-{factory.__name__.lower()}"
    return TorchvisionDataset(parts, name=default if name is None else name, location=location)


def _find(torchvision_name: str) -> type[Any]:
    from torch.utils.data import Dataset as TorchDataset

    import_torchvision()
    from torchvision import datasets

    known = {
        name: value
        for name, value in vars(datasets).items()
        if isinstance(value, type) and issubclass(value, TorchDataset) and name not in _NOT_BY_NAME
    }
    by_lower = {name.lower(): name for name in known}
    wanted = by_lower.get(torchvision_name.lower())
    if wanted is None:
        # Spelling is compared without case: 'cifr10' must find 'CIFAR10'.
        close = difflib.get_close_matches(torchvision_name.lower(), by_lower, n=5, cutoff=0.4)
        ordered = [by_lower[one] for one in close]
        ordered += [name for name in sorted(known) if name not in ordered]
        shown = ", ".join(repr(name) for name in ordered[:5])
        raise UnknownNameError(
            f"unknown torchvision dataset {torchvision_name!r}; known: {shown} and {len(ordered) - 5} more"
        )
    return known[wanted]


def _parameters(factory: type[Any]) -> set[str]:
    """Collect a constructor's arguments, and its parents' as long as it hands on ``**kwargs``."""
    names: set[str] = set()
    for cls in factory.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
        names |= {one.name for one in parameters}
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
            break
    return names


def _build(factory: type[Any], arguments: dict[str, Any], location: str, root: str, download: bool) -> Any:
    """Build one part; None if it does not know the split."""
    before = _entries(root)
    try:
        return factory(**arguments)
    except (OSError, RuntimeError, ImportError) as error:
        # Caltech256 makes its folder before it looks into it, and there it would be a class without images.
        for made in _entries(root) - before:
            with suppress(OSError):  # only what is empty goes
                made.rmdir()
        raise _missing(
            location, root, error if download or isinstance(error, ImportError) else None
        ) from error
    except (ValueError, KeyError) as error:
        if "split" in arguments and "split" in str(error) and "nknown value" in str(error):
            return None
        raise DatasetError(f"{location} cannot be opened in {root!r}: {one_line(error)}") from error
    except TypeError as error:
        raise DatasetError(
            f"{location} cannot be opened by name ({one_line(error)}); build it in code and hand it over as "
            "a Dataset"
        ) from error


def _entries(root: str) -> set[Path]:
    try:
        return set(Path(root).iterdir())
    except OSError:
        return set()


def _missing(location: str, root: str, error: Exception | None) -> MissingDataError:
    shown = printable(root)
    if error is None:
        return MissingDataError(
            f"{location} is not in {shown!r}; fetch it with --download (download=True) or say where it is "
            "with --data-root (data_root=...)"
        )
    return MissingDataError(
        f"{location} cannot be had in {shown!r}: {one_line(error)}; put its files there by hand, or say "
        "where they are with --data-root (data_root=...)"
    )


def _item(part: Any, index: int, location: str) -> tuple[Any, int | None]:
    """Return the image and the label of one item, or say that this is no dataset of labelled images."""
    from PIL.Image import Image

    try:
        item = part[index]
    except (OSError, MemoryError, ImageDecodeError):
        raise
    except Exception as error:  # torchvision decodes here, and decoders raise nearly every built-in
        raise ImageDecodeError("decoder-error", f"{type(error).__name__}: {one_line(error)}") from error
    if not (isinstance(item, Sequence) and len(item) == 2 and isinstance(item[0], Image)):
        got = (
            ", ".join(type(one).__name__ for one in item) if isinstance(item, tuple) else type(item).__name__
        )
        raise DatasetError(f"{location} gives ({got}) where (Pillow image, whole number) is wanted")
    return item[0], _whole(item[1], location)


def _whole(value: Any, location: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise DatasetError(f"{location} gives a label of type {type(value).__name__}, not one whole number")
    try:
        code = int(value.__index__())
    except TypeError as error:  # an array or tensor of several numbers
        raise DatasetError(f"{location} gives several numbers as a label, not one") from error
    # torchvision's own mark for "no label", e.g. in STL10
    return None if code < 0 else code


class _Pixels:
    """A part whose pixels and labels are in memory: all that is left of it is arrays."""

    def __init__(
        self, pixels: NDArray[np.uint8], targets: Sequence[int | None], classes: Sequence[Any] | None
    ) -> None:
        self.pixels, self.targets, self.classes = pixels, targets, classes

    def __len__(self) -> int:
        return len(self.pixels)


def _in_memory(part: Any, location: str) -> _Pixels | None:
    """Return a part of torchvision's own that holds pixels as an array, if its items are just these."""
    data, size = getattr(part, "data", None), len(part)
    labels = _listed_labels(part, size)
    # A class of somebody else's may open files for its items, which is left to the decoding processes.
    if labels is None or data is None or not size or type(part).__module__.split(".")[0] != "torchvision":
        return None
    pixels = np.asarray(data)
    if pixels.dtype != np.uint8 or len(pixels) != size:
        return None
    if pixels.ndim == 4 and pixels.shape[1] == 3 != pixels.shape[3]:
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.ndim != 3 and not (pixels.ndim == 4 and pixels.shape[3] == 3):
        return None
    for at in (0, size - 1):
        image, label = _item(part, at, location)
        if label != labels[at] or image_bytes(image) != pnm_bytes(pixels[at]):
            return None
    return _Pixels(pixels, labels, getattr(part, "classes", None))


def _labels(parts: Mapping[str, Any], location: str) -> dict[str, list[int | None]]:
    """Return the labels of each part, from an attribute where it agrees with the items at both ends."""
    listed = {split: _listed_labels(part, len(part)) for split, part in parts.items()}
    ends = {
        split: sorted({0, len(part) - 1})
        for split, part in parts.items()
        if len(part) and not isinstance(part, _Pixels)  # compared already
    }
    chosen = [(split, at) for split in ends for at in ends[split] if listed[split] is not None]
    # an item at an end that cannot be read costs its row, not the dataset
    read, _ = _read_labels(parts, chosen, location)
    found: dict[str, list[int | None]] = {}
    for split, part in parts.items():
        labels = listed[split]
        if labels is None or any(labels[at] != label for (one, at), label in read.items() if one == split):
            rows = [(split, at) for at in range(len(part))]
            items, failed = _read_labels(parts, rows, location)
            for (_, at), why in failed.items():
                raise DatasetError(f"{location}: item {at} cannot be read, so its label is not known: {why}")
            labels = [items[row] for row in rows]
        found[split] = labels
    return found


class _Labels(_Parts):
    """Items by where they are, read for their labels; the decoding processes do it, because items decode."""

    name, ids, labels, classes, splits = "labels", (), (), (), None

    def __init__(self, parts: Mapping[str, Any], rows: Sequence[tuple[str, int]], location: str) -> None:
        self._parts, self._rows, self.location = parts, rows, location

    def read(self, index: int) -> bytes:
        from featbank.datasets.decoding import decoder_errors

        split, at = self._rows[index]
        image, label = _item(self._parts[split], at, self.location)
        # Caltech256 and others hand out an open file; loading closes it, and close() would empty an image
        # that the dataset keeps. Whether it can be loaded is asked when its row is read.
        with suppress(ImageDecodeError), decoder_errors():
            image.load()
        return struct.pack("<q", -1 if label is None else label)


def _as_array(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def _read_labels(
    parts: Mapping[str, Any], rows: Sequence[tuple[str, int]], location: str
) -> tuple[dict[tuple[str, int], int | None], dict[tuple[str, int], str]]:
    """Return the labels of those items that can be read, and why the others cannot."""
    from featbank.datasets.decode_pool import read_by_processes

    if not rows:
        return {}, {}
    found, problems = read_by_processes(_Labels(parts, rows, location), range(len(rows)), _as_array, 8)
    codes = found.view("<i8").ravel().tolist()
    read = {row: None if code < 0 else code for row, code in zip(rows, codes, strict=True)}
    failed = {rows[at]: why for at, why in problems.items()}
    return {row: code for row, code in read.items() if row not in failed}, failed


def _listed_labels(part: Any, size: int) -> list[int | None] | None:
    for attribute in _LABEL_ATTRIBUTES:
        values = getattr(part, attribute, None)
        if values is None or not hasattr(values, "__len__") or len(values) != size:
            continue
        values = values.tolist() if hasattr(values, "tolist") else list(values)
        if all(isinstance(value, tuple) and len(value) == 2 for value in values):
            values = [value[1] for value in values]
        if all(value is None or (isinstance(value, int) and not isinstance(value, bool)) for value in values):
            return [None if value is None or value < 0 else value for value in values]
    return None


def _class_names(parts: Mapping[str, Any], codes: Sequence[int | None]) -> tuple[str, ...]:
    """Return unique class names, torchvision's own where it has enough of them, numbers otherwise."""
    n_classes = max((code for code in codes if code is not None), default=-1) + 1
    for part in parts.values():
        names = getattr(part, "classes", None) or getattr(part, "categories", None)
        if isinstance(names, Sequence) and len(names) >= n_classes:
            texts = [", ".join(one) if isinstance(one, (tuple, list)) else str(one) for one in names]
            # ImageNet has two classes 'crane'; only the number tells them apart.
            return tuple(
                f"{text} ({index})" if texts.count(text) > 1 else text for index, text in enumerate(texts)
            )
    return tuple(str(code) for code in range(n_classes))
