"""What a dataset is, and how a text or a path becomes one: the registry of sources, with the digits.

A source is a callable ``(rest, *, name=None, ...) -> Dataset``; its other keyword arguments say which options
go with it. It is found by a word before a colon (``torchvision:CIFAR10``, where `rest` is ``CIFAR10``) or by
the suffix of a file (``.csv``, where `rest` is the path). Other packages add such by entry points of the
group ``featbank.datasets``.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from featbank._cache import user_path
from featbank._process import import_sklearn
from featbank._registry import Registry
from featbank.errors import DatasetError, InvalidInputError, MissingDataError
from featbank.manifest import printable

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "ARCHIVE_SUFFIXES",
    "SOURCES",
    "Dataset",
    "DigitsDataset",
    "data_folder",
    "find_images",
    "image_bytes",
    "open_dataset",
    "pnm_bytes",
    "reopen_dataset",
    "require_two_classes",
    "safe_name",
]

_WAYS = (
    "give a folder of class folders or an archive of one, a .csv, .txt or .parquet file, 'torchvision:NAME', "
    "'hf:NAME', 'webdataset:FILES', 'parquet:FOLDER', 'crops:FILE' or 'digits'"
)
_LONGEST = 100

#: Of archives of class folders.
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".tbz")
SOURCES: Registry[Callable[..., Dataset]] = Registry("source", group="featbank.datasets")
for _name, _place in {
    "digits": "sources:DigitsDataset",
    "torchvision": "_torchvision:open_torchvision",
    "folder": "_folder:FolderDataset",
    ".csv": "_csv:CSVDataset",
    **dict.fromkeys(ARCHIVE_SUFFIXES, "_archive:ArchiveDataset"),
    **dict.fromkeys((".parquet", "parquet"), "_parquet:ParquetDataset"),
    "webdataset": "_webdataset:WebDataset",
    "hf": "_hf:HubDataset",
    ".txt": "_list:ListDataset",
    "crops": "_crops:CropsDataset",
}.items():
    SOURCES.register_place(_name, f"featbank.datasets.{_place}")

#: Sources behind whose name stand files.
_OF_FILES = ("parquet", "webdataset", "hf", "crops")
_COLUMNS = ("path_column", "label_column", "split_column", "group_column")
#: What the options of `open_dataset` are for, in words.
_MEANT_FOR = {
    "layout": "folders and archives of images only",
    **dict.fromkeys(_COLUMNS, "CSV files and other tables"),
    "download": "'torchvision:NAME', 'hf:NAME' and lists of addresses only",
    "data_root": "'torchvision:NAME' and lists of addresses only",
}


@runtime_checkable
class Dataset(Protocol):
    r"""Images with ids, labels and perhaps splits; any object with these attributes will do.

    Attributes
    ----------
    name : str
        Safe as a folder name: letters, digits, ``.``, ``_``, ``-``.
    location : str
        Where it came from, for people.
    ids : tuple of bytes
        Unique, in the order of their bytes.
    labels : tuple of (str or None)
        Class name of each image; None where it has none.
    classes : tuple of str
        Class names in a fixed order.
    splits : tuple of str, or None
        ``"train"``, ``"val"``, ``"test"`` or ``"none"`` for each image; None when the source says nothing.

    Notes
    -----
    The decoding processes get a copy of it, pickled, and call its `read`. Two more are used where they are
    there: a method ``path_of(index)``, the path of an image's file, of whose size one can ask; and
    ``decodes = True``, which says that `read` decodes images and is left to those processes altogether.
    ``groups``, a text for each image, names what no split may tear apart.

    Examples
    --------
    >>> class Squares:
    ...     name, location, splits = "squares", "made here", None
    ...     classes, labels = ("dark", "light"), ("dark",) * 10 + ("light",) * 10
    ...     ids = tuple(f"{number:02}".encode() for number in range(20))
    ...     def read(self, index):
    ...         return b"P5\n2 2\n255\n" + bytes([index + 100 * (index >= 10)] * 4)
    >>> isinstance(Squares(), Dataset), open_dataset(Squares()).classes
    (True, ('dark', 'light'))
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def location(self) -> str: ...  # noqa: D102
    @property
    def ids(self) -> tuple[bytes, ...]: ...  # noqa: D102
    @property
    def labels(self) -> tuple[str | None, ...]: ...  # noqa: D102
    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def splits(self) -> tuple[str, ...] | None: ...  # noqa: D102

    def read(self, index: int) -> bytes:
        """Return the encoded bytes of one image; may be called from several threads at once.

        Raises
        ------
        OSError
            If the file is gone or cannot be read.
        ImageDecodeError
            If the source itself has to decode the image and cannot.
        """
        ...


def open_dataset(
    data: str | os.PathLike[str] | Dataset,
    *,
    data_root: str | os.PathLike[str] | None = None,
    download: bool = False,
    name: str | None = None,
    layout: str | None = None,
    skip_empty_classes: bool = False,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
) -> Dataset:
    """Open the images that a text, a path or an object stands for.

    Parameters
    ----------
    data : str, os.PathLike or Dataset
        A path, from the current folder or else below ``$FEATBANK_DATA`` or ``./data``, or a source by name,
        behind which paths are looked for likewise, but for ``hf:``, behind which stands a name of the hub.
        A folder of class folders (or of ``train``, ``val``, ``test`` above class folders), a ``.zip``,
        ``.tar``, ``.tar.gz`` or ``.tar.bz2`` of one, a CSV file with the columns ``path,label[,split]``,
        a ``.txt`` with a path or an address on each line (and after a tab its label), a ``.parquet`` file or
        ``"parquet:FOLDER"``, ``"webdataset:train-{000..010}.tar"``, ``"hf:FOLDER"`` of ``save_to_disk`` or
        ``"hf:ORG/NAME"`` on the hub, ``"crops:FILE.csv"`` with ``path,x,y,w,h,label[,split]``,
        ``"torchvision:NAME"``, ``"digits"``, ``"SOURCE:REST"`` of a plug-in, or a dataset, which is returned
        as it is. Write ``"./digits"`` for a folder of that name.
    data_root : str or os.PathLike, optional
        Folder of a torchvision dataset, or of the copies of images that are listed by address; default
        ``$FEATBANK_DATA``, else ``./data``.
    download : bool, default=False
        Fetch what is not there.
    name : str, optional
        Another name for the dataset than the source's own; characters unfit for a folder name become ``-``.
    layout : str, optional
        What the levels of a folder's folders stand for: ``"class"``, ``"split/class"``, ``"class/split"``, or
        with ``"any"`` for a level that says nothing ``"any/class"``; found out by default.
    skip_empty_classes : bool, default=False
        Leave class folders without images out, with a warning, instead of refusing them.
    path_column, label_column, split_column : str, optional
        What the columns of a CSV file are called, instead of ``path``, ``label`` and ``split``; the split
        ``"none"`` takes none. In other tables, the columns (of WebDataset: the entry) of images and labels.
    group_column : str, optional
        The column of a CSV file whose equal values `build_manifest` keeps on one side of a split.

    Returns
    -------
    Dataset

    Raises
    ------
    MissingDataError
        If there is nothing at the place, or a torchvision dataset is not on disk and `download` is False.
    DatasetError
        If what is there makes no dataset.
    UnknownNameError
        If torchvision has no dataset of the name.
    InvalidInputError
        If an option does not go with `data`.

    Examples
    --------
    >>> digits = open_dataset("digits")
    >>> len(digits.ids), digits.ids[0], digits.classes[:3]
    (1797, b'0/0000.pgm', ('0', '1', '2'))
    """
    asked: dict[str, Any] = {
        "layout": layout,
        "path_column": path_column,
        "label_column": label_column,
        "split_column": split_column,
        "group_column": group_column,
        "download": download or None,
        "data_root": data_root,
    }
    options = {option: value for option, value in asked.items() if value is not None}
    if not isinstance(data, (str, os.PathLike)):
        _check_options(options, data, ())
        if not isinstance(data, Dataset):
            raise InvalidInputError(f"data={data!r} is no dataset; {_WAYS}")
        if name is not None:
            raise InvalidInputError(
                f"name={name!r} is for datasets given as text; set the name of {data!r} itself"
            )
        return data
    source, rest = _find(data, options)
    opener = SOURCES.get(source)
    taken = inspect.signature(opener).parameters
    _check_options(options, data, taken)
    if "skip_empty_classes" in taken:
        options["skip_empty_classes"] = skip_empty_classes
    if "data_root" in taken:
        options.setdefault("data_root", data_folder())
    return opener(rest, name=name, **options)


def _find(data: str | os.PathLike[str], options: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the name of the source that opens `data`, and what it gets."""
    scheme, rest = _named_source(data)
    if scheme:
        return scheme, _behind(scheme, rest)
    shown = printable(os.fspath(data))
    suffix = user_path(data).suffix.lower()
    path, looked_for = find_images(data)
    if path is None:
        known = bool(suffix) and suffix in SOURCES
        taken = inspect.signature(SOURCES.get(suffix)).parameters if known else ("layout",)
        _check_options(options, data, taken)
        raise MissingDataError(f"no images at {shown!r} (looked for {looked_for}); {_WAYS}")
    if path.is_dir():
        return "folder", path
    if suffix and suffix in SOURCES:
        return suffix, path
    _check_options(options, data, ())
    raise DatasetError(f"{shown!r} is a file but none of {_suffixes()}; {_WAYS}")


def data_folder() -> Path:
    """Return the folder below which data is looked for: ``$FEATBANK_DATA``, else ``./data``."""
    return user_path(os.environ.get("FEATBANK_DATA") or "data")


def find_images(data: str | os.PathLike[str], *beside: Path) -> tuple[Path | None, str]:
    """Return the first place there is of a folder or file: here, in folders `beside`, below the data root.

    Parameters
    ----------
    data : str or os.PathLike
        Its path, as it was written.
    *beside : pathlib.Path
        Folders, such as that of a study's file.

    Returns
    -------
    path : pathlib.Path or None
        None where it is at none of these.
    looked_for : str
        The places, for messages.

    Examples
    --------
    >>> find_images("photos")[1].replace(str(Path.cwd()), "/home/me")
    "'/home/me/photos' and '/home/me/data/photos'"
    """
    places = _places(data, *beside)
    looked_for = list(dict.fromkeys(repr(printable(str(place.absolute()))) for place in places))
    said = " and ".join(looked_for)
    for place in places if os.fspath(data) else ():
        # os.path says False where pathlib raises: a folder that may not be entered.
        if os.path.exists(place):  # noqa: PTH110
            return place, said
        if os.path.lexists(place):  # it is meant, and not what lies under its name elsewhere
            return None, f"{printable(str(place.absolute()))!r}, a link to nothing"
    return None, said


def _places(data: str | os.PathLike[str], *beside: Path) -> list[Path]:
    path = user_path(data)
    # a way up is from where one stands, and an address is one place
    elsewhere = () if ".." in path.parts or type(path) is not type(Path()) else (*beside, data_folder())
    return list(dict.fromkeys([path, *(folder / path for folder in elsewhere)]))


def _behind(scheme: str, rest: str) -> str:
    """Return what stands behind the word of a source, with its paths where a path alone would be found."""
    if scheme not in _OF_FILES or scheme == "hf":  # a name of the hub, unless there is such a folder here
        return rest
    parts = []
    for one in rest.split("::"):
        folder, name = os.path.split(one)
        found = find_images(one)[0]
        if found is None and folder and re.search(r"[*?\[{]", name):  # of a pattern the folder is looked for
            found = find_images(folder)[0]
            found = found and found / name
        parts.append(one if found is None else os.fspath(found))
    return "::".join(parts)


def _named_source(data: object) -> tuple[str, str]:
    """Return the source that `data` names and what stands behind it; ("", "") for what is a path."""
    scheme, colon, rest = data.partition(":") if isinstance(data, str) else ("", "", "")
    named = data == "digits" or (colon and re.fullmatch(r"[A-Za-z][\w+-]*", scheme) and scheme in SOURCES)
    return (scheme, rest) if named else ("", "")


def absolute_source(data: str | os.PathLike[str]) -> str:
    """Return `data` of `open_dataset` so that a process in another folder opens the same images."""
    return absolute_sources(data)[0]


def absolute_sources(data: str | os.PathLike[str]) -> list[str]:
    """Return what `data` of `open_dataset` means wherever one stands: each place, where it is at none."""
    scheme, rest = _named_source(data)
    if not scheme:
        found = find_images(data)[0]
        return [os.fspath(one.absolute()) for one in (_places(data) if found is None else [found])]
    rest = _behind(scheme, rest)
    if scheme not in _OF_FILES or (scheme == "hf" and not user_path(rest).is_dir()):  # of the hub
        return [os.fspath(data)]
    return [f"{scheme}:{'::'.join(str(user_path(one).absolute()) for one in rest.split('::'))}"]


def _suffixes() -> str:
    return ", ".join(one for one in SOURCES if one.startswith("."))


def _check_options(options: Mapping[str, Any], data: object, taken: Iterable[str]) -> None:
    for option, value in options.items():
        if option not in taken:
            shown = os.fspath(value) if option == "data_root" else value
            told = data if option == "layout" else str(data)
            raise InvalidInputError(
                f"{option}={shown!r} is for {_MEANT_FOR[option]}, and data={told!r} is none"
            )


def reopen_dataset(
    provenance: Mapping[str, Any],
    data: str | os.PathLike[str] | Dataset | None = None,
    *,
    data_root: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Open the images of a bank again, as they were opened for it.

    Parameters
    ----------
    provenance : mapping
        ``Bank.provenance``: ``location`` says where they came from, ``layout`` and ``columns`` how they
        were read.
    data : str, path or Dataset, optional
        Where they are now.
    data_root : str or os.PathLike, optional
        Folder of a torchvision dataset.

    Returns
    -------
    Dataset

    Raises
    ------
    MissingDataError
        If the provenance does not say where they came from; else as `open_dataset`.
    """
    source = provenance.get("location") if data is None else data
    if source is None:
        raise MissingDataError("nothing says where the images came from; say it with --data")
    if not isinstance(source, (str, os.PathLike)):
        return open_dataset(source, data_root=data_root)
    # How it was read goes with what it was: a folder now in the place of a list has no columns.
    kind, _ = _find(source, {} if data_root is None else {"data_root": data_root})
    taken = inspect.signature(SOURCES.get(kind)).parameters
    asked = {"layout": provenance.get("layout"), **(provenance.get("columns") or {})}
    return open_dataset(
        source,
        data_root=data_root,
        skip_empty_classes=True,  # one may have lost its images since, and the others are wanted all the same
        **{option: value for option, value in asked.items() if option in taken},
    )


def safe_name(text: str) -> str:
    """Return `text` as a folder name of letters, digits, ``.``, ``_`` and ``-``.

    Examples
    --------
    >>> safe_name("my photos (2024)"), safe_name(".."), safe_name("café")
    ('my-photos-2024', 'dataset', 'caf')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:_LONGEST].strip("-.") or "dataset"


def require_two_classes(labels: Iterable[str | None], where: str) -> None:
    """Raise `DatasetError` unless `labels` name at least two classes."""
    present = sorted({label for label in labels if label is not None})
    if not present:
        raise DatasetError(f"{where} has no labelled image; a classifier needs at least two classes")
    if len(present) == 1:
        raise DatasetError(
            f"{where} has only one class, '{printable(present[0])}'; a classifier needs at least two"
        )


# Pixels without a file of their own, as PGM and PPM; the digits inside scikit-learn -----------------


def pnm_bytes(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    r"""Return a binary PGM (grey) or PPM (colour) file.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (h, w) or (h, w, 3), or of uint16, shape (h, w)

    Examples
    --------
    >>> pnm_bytes(np.array([[0, 255]], dtype=np.uint8))
    b'P5\n2 1\n255\n\x00\xff'
    """
    height, width = pixels.shape[:2]
    magic = "P5" if pixels.ndim == 2 else "P6"
    if pixels.dtype == np.uint8:
        return f"{magic}\n{width} {height}\n255\n".encode() + pixels.tobytes()
    return f"{magic}\n{width} {height}\n65535\n".encode() + pixels.astype(">u2").tobytes()


def image_bytes(image: Image) -> bytes:
    """Return a Pillow image as PGM or PPM: grey of 8 or 16 bits stays grey, all else becomes RGB.

    The EXIF orientation is applied first, because these formats cannot carry it.

    Raises
    ------
    ImageDecodeError
        If the image cannot be loaded or has no agreed conversion to RGB.
    """
    from featbank.datasets.decoding import decoder_errors, upright, upright_rgb

    with decoder_errors():
        image.load()
        if image.mode == "L" and "transparency" not in image.info:
            return pnm_bytes(np.asarray(upright(image)))
        if image.mode.startswith("I;16") and "transparency" not in image.info:
            return pnm_bytes(np.asarray(upright(image)).astype(np.uint16))
        return pnm_bytes(np.asarray(upright_rgb(image)))


class DigitsDataset:
    """Handwritten digits of 8 x 8 pixels, ten classes, no split of their own.

    The grey levels 0..16 become ``round(v * 255 / 16)``. An id is ``CLASS/INDEX.pgm`` with the index in
    ``sklearn.datasets.load_digits``.

    Parameters
    ----------
    rest : str, default=""
        Must be empty: there is one set of digits.
    name : str, optional
        Name of the dataset; default: ``"digits"``.

    Raises
    ------
    InvalidInputError
        If `rest` is not empty.

    References
    ----------
    Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """

    def __init__(self, rest: str = "", *, name: str | None = None) -> None:
        if rest:
            raise InvalidInputError(f"data='digits:{rest}' is unknown; the digits are called 'digits' alone")
        levels, digits = _levels_and_digits()
        pixels = np.rint(levels * (255.0 / 16.0)).astype(np.uint8)  # (1797, 8, 8)
        ids = [f"{label}/{index:04d}.pgm".encode() for index, label in enumerate(digits)]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        self.name = safe_name(name or "digits")
        self.location = "digits"
        self.ids: tuple[bytes, ...] = tuple(ids[index] for index in order)
        self.labels: tuple[str | None, ...] = tuple(str(digits[index]) for index in order)
        self.classes: tuple[str, ...] = tuple(str(digit) for digit in range(10))
        self.splits: tuple[str, ...] | None = None
        self._pixels = pixels[order]

    def read(self, index: int) -> bytes:
        """Return image `index` as the bytes of a PGM file."""
        return pnm_bytes(self._pixels[index])


def _levels_and_digits() -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the grey levels 0..16, shape (1797, 8, 8), and the digit of each image, as `load_digits` does.

    They are read from scikit-learn's own table: to import scikit-learn takes longer than all else that an
    extraction of the digits imports.
    """
    found = find_spec("sklearn")
    if found is not None and found.origin is not None:
        with suppress(OSError, ValueError):  # a version that keeps it elsewhere
            file = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
            table = np.loadtxt(file, dtype=np.uint8, delimiter=",")
            return table[:, :-1].reshape(1797, 8, 8), table[:, -1]
    import_sklearn("sklearn.datasets")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target
