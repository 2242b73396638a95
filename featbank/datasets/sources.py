"""What a dataset is, and how a text or a path becomes one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from featbank._cache import user_path
from featbank.errors import DatasetError, InvalidInputError, MissingDataError
from featbank.manifest import printable

__all__ = ["Dataset", "open_dataset", "reopen_dataset"]

_WAYS = "give a folder of class folders, a CSV file, 'torchvision:NAME' or 'digits'"


@runtime_checkable
class Dataset(Protocol):
    """Images with ids, labels and perhaps splits; any object with these attributes will do.

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
) -> Dataset:
    """Open the images that a text, a path or an object stands for.

    Parameters
    ----------
    data : str, os.PathLike or Dataset
        A folder of class folders (or of ``train``, ``val``, ``test`` above class folders), a CSV file with
        the columns ``path,label[,split]``, ``"torchvision:NAME"``, ``"digits"``, or a dataset, which is
        returned as it is. Write ``"./digits"`` for a folder of that name.
    data_root : str or os.PathLike, optional
        Folder of a torchvision dataset; default ``"data"``.
    download : bool, default=False
        Let torchvision fetch what is not there.
    name : str, optional
        Another name for the dataset than the source's own; characters unfit for a folder name become ``-``.
    layout : str, optional
        What the levels of a folder's folders stand for: ``"class"``, ``"split/class"``, ``"class/split"``, or
        with ``"any"`` for a level that says nothing ``"any/class"``; found out by default.
    skip_empty_classes : bool, default=False
        Leave class folders without images out, with a warning, instead of refusing them.
    path_column, label_column, split_column : str, optional
        What the columns of a CSV file are called, instead of ``path``, ``label`` and ``split``; the split
        ``"none"`` takes none.

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
    is_path = isinstance(data, (str, os.PathLike)) and data != "digits"
    if layout is not None and not (is_path and not str(data).startswith("torchvision:")):
        raise _no_folder(layout, data)
    if not isinstance(data, (str, os.PathLike)):
        if not isinstance(data, Dataset):
            raise InvalidInputError(f"data={data!r} is no dataset; {_WAYS}")
        if name is not None:
            raise InvalidInputError(
                f"name={name!r} is for datasets given as text; set the name of {data!r} itself"
            )
        return data
    asked = {"path_column": path_column, "label_column": label_column, "split_column": split_column}
    columns = {option: column for option, column in asked.items() if column is not None}
    if columns and not os.fspath(data).lower().endswith(".csv"):
        option, column = next(iter(columns.items()))
        raise InvalidInputError(f"{option}={column!r} is for CSV files, and data={str(data)!r} is none")
    kind, _, rest = data.partition(":") if isinstance(data, str) else ("", "", "")
    if kind == "torchvision":
        from featbank.datasets._torchvision import open_torchvision

        return open_torchvision(
            rest, data_root="data" if data_root is None else data_root, download=download, name=name
        )
    if download or data_root is not None:
        option = "download=True" if download else f"data_root={os.fspath(data_root or '')!r}"
        raise InvalidInputError(f"{option} is for 'torchvision:NAME' only, and data={str(data)!r} is none")
    if data == "digits":
        from featbank.datasets._digits import DigitsDataset

        return DigitsDataset(name="digits" if name is None else name)
    return _open_path(data, name, columns, layout, skip_empty_classes)


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
    # How it was read goes with what it was: a folder now in the place of a list has no columns.
    path = user_path(source) if isinstance(source, (str, os.PathLike)) else None
    is_folder = path is not None and os.path.isdir(path)  # noqa: PTH112 - pathlib raises where it may not look
    is_list = path is not None and path.suffix.lower() == ".csv" and not is_folder
    return open_dataset(
        source,
        data_root=data_root,
        layout=provenance.get("layout") if is_folder else None,
        skip_empty_classes=True,  # one may have lost its images since, and the others are wanted all the same
        **(provenance.get("columns") or {} if is_list else {}),
    )


def _no_folder(layout: str, data: object) -> InvalidInputError:
    return InvalidInputError(f"layout={layout!r} is for folders of images only, and data={data!r} is none")


def _open_path(
    data: str | os.PathLike[str],
    name: str | None,
    columns: Mapping[str, str],
    layout: str | None,
    skip_empty_classes: bool,
) -> Dataset:
    shown, path = printable(os.fspath(data)), user_path(data)
    # os.path says False where pathlib raises: a folder that may not be entered.
    if not os.fspath(data) or not os.path.exists(path):  # noqa: PTH110
        raise MissingDataError(
            f"no images at {shown!r} (looked for {printable(str(path.absolute()))!r}); {_WAYS}"
        )
    if path.is_dir():
        from featbank.datasets._folder import FolderDataset

        return FolderDataset(path, name=name, layout=layout, skip_empty_classes=skip_empty_classes)
    if layout is not None:
        raise _no_folder(layout, data)
    if path.suffix.lower() == ".csv":
        from featbank.datasets._csv import CSVDataset

        return CSVDataset(path, name=name, **columns)
    raise DatasetError(f"{shown!r} is a file but no .csv; unpack an archive first, then {_WAYS}")
