"""What a dataset is, and how a text or a path becomes one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from featbank._cache import user_path
from featbank.errors import DatasetError, InvalidInputError, MissingDataError
from featbank.manifest import printable

__all__ = ["Dataset", "open_dataset"]

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
    return _open_path(data, name, columns)


def _open_path(data: str | os.PathLike[str], name: str | None, columns: Mapping[str, str]) -> Dataset:
    shown, path = printable(os.fspath(data)), user_path(data)
    # os.path says False where pathlib raises: a folder that may not be entered.
    if not os.fspath(data) or not os.path.exists(path):  # noqa: PTH110
        raise MissingDataError(
            f"no images at {shown!r} (looked for {printable(str(path.absolute()))!r}); {_WAYS}"
        )
    if path.is_dir():
        from featbank.datasets._folder import FolderDataset

        return FolderDataset(path, name=name)
    if path.suffix.lower() == ".csv":
        from featbank.datasets._csv import CSVDataset

        return CSVDataset(path, name=name, **columns)
    raise DatasetError(f"{shown!r} is a file but no .csv; unpack an archive first, then {_WAYS}")
