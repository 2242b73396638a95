"""Hugging Face datasets: a folder of ``save_to_disk``, read by pyarrow alone, or a name on the hub."""

# ruff: noqa: PTH110, PTH111, PTH112, PTH118, PTH119

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

from featbank.datasets._files import read_image_file
from featbank.datasets._folder import splits_of_names
from featbank.datasets._parquet import ArrowImages, chosen_columns, import_pyarrow
from featbank.errors import DatasetError, MissingDataError, MissingPackageError, one_line
from featbank.manifest import printable

__all__ = ["HubDataset"]


class HubDataset(ArrowImages):
    """Images of a Hugging Face dataset, with its class names and splits.

    Parameters
    ----------
    place : str
        A folder that ``save_to_disk`` wrote, or ``ORG/NAME[@REVISION]`` on the hub, which takes the package
        ``datasets`` and its cache.
    name : str, optional
        Name of the dataset; default: that of the folder, or of the dataset on the hub.
    download : bool, default=False
        Fetch what is not in the cache of ``datasets``.
    path_column, label_column : str, optional
        What the columns of images and labels are called, where that cannot be seen.

    Raises
    ------
    MissingDataError
        If there is no such folder, or the hub's cache has no such dataset and it may not be fetched.
    MissingPackageError
        If pyarrow, or ``datasets`` for a name on the hub, is not installed.
    DatasetError
        If the folder is not what ``save_to_disk`` writes or is damaged, or has no images or labels.
    """

    def __init__(
        self,
        place: str,
        *,
        name: str | None = None,
        download: bool = False,
        path_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        import_pyarrow("a Hugging Face dataset")
        from pyarrow import ArrowException

        folder = os.path.realpath(os.path.expanduser(place))
        if os.path.isdir(folder):
            location, stem = printable(f"hf:{folder}"), os.path.basename(folder)
            files = _saved(folder)
        else:
            location, stem = f"hf:{place}", place.partition("@")[0].replace("/", "-")
            files = _on_hub(place, download)
        words = splits_of_names(list(files))
        if words is None:  # a name that says no split is a split all the same, of nobody's to score
            words = [
                (splits_of_names([one, "train"]) or splits_of_names([one, "test"]) or ["none"])[0]
                for one in files
            ]
        self._files: list[list[str]] = list(files.values())
        self._tables: dict[int, Any] = {}
        parts = []
        for number, (part, split) in enumerate(zip(files, words, strict=True)):
            try:
                table = self._table(number)
                _, label, _ = chosen_columns(table.schema, location, path_column, label_column)
                labels = table.select([label])
            except DatasetError:
                raise
            except (ArrowException, OSError, ValueError, LookupError) as error:
                said = one_line(error)
                raise DatasetError(
                    f"the part {part!r} of {location!r} is damaged or cut short ({said}): nothing was taken "
                    "from it; copy or download it again"
                ) from error
            parts.append((part, split if len(files) > 1 else None, labels))
        super().__init__(
            parts,
            self._table(0).schema,
            location=location,
            name=stem if name is None else name,
            path_column=path_column,
            label_column=label_column,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`; raises `OSError` or `ImageDecodeError`."""
        part, row = (int(one) for one in self._places[index])
        with contextlib.suppress(ValueError, LookupError):
            found = self._cell(part, row)
            if isinstance(found, dict) and found.get("bytes") is None and found.get("path"):
                return read_image_file(found["path"])  # a file of the cache, or of the folder it was made of
        return super().read(index)

    def _cell(self, part: int, row: int) -> Any:
        return self._table(part).column(self._image)[row].as_py()

    def _table(self, part: int) -> Any:
        """Return a part as it is mapped from its files: what nobody reads takes no memory."""
        import pyarrow

        if part not in self._tables:
            tables = []
            for file in self._files[part]:
                with pyarrow.memory_map(file) as source, pyarrow.ipc.open_stream(source) as stream:
                    tables.append(stream.read_all())
            found = pyarrow.concat_tables(tables)
            found.validate(full=True)  # Arrow believes offsets, and one that leads elsewhere ends the process
            self._tables[part] = found
        return self._tables[part]


def _saved(folder: str) -> dict[str, list[str]]:
    """Return the Arrow files of each split of a folder that ``save_to_disk`` wrote."""
    parts = {"data": folder}
    listed = os.path.join(folder, "dataset_dict.json")
    if os.path.exists(listed):
        names = _json(listed).get("splits")
        if not (isinstance(names, list) and all(isinstance(one, str) for one in names) and names):
            raise DatasetError(f"{printable(listed)!r} names no splits; save the dataset again")
        parts = {one: os.path.join(folder, one) for one in names}
    found = {}
    for name, place in parts.items():
        state = os.path.join(place, "state.json")
        if not os.path.exists(state):
            raise DatasetError(
                f"{printable(place)!r} is no folder of save_to_disk (it has no state.json); for Parquet "
                "files write 'parquet:FOLDER', for images in folders the folder alone"
            )
        said = _json(state)
        files: list[Any] = [
            one.get("filename") for one in said.get("_data_files") or [] if isinstance(one, dict)
        ]
        if not files or not all(isinstance(one, str) and one == os.path.basename(one) for one in files):
            raise DatasetError(f"{printable(state)!r} names no files of its folder; save the dataset again")
        if said.get("_indices_data_files"):
            raise DatasetError(
                f"{printable(place)!r} has rows by an index; save it again after flatten_indices()"
            )
        found[name] = [os.path.join(place, one) for one in files]
    return found


def _json(path: str) -> Mapping[str, Any]:
    try:
        found = json.loads(read_image_file(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{printable(path)!r} cannot be read ({error}); save the dataset again") from error
    return found if isinstance(found, dict) else {}


def _on_hub(place: str, download: bool) -> dict[str, list[str]]:
    """Return the Arrow files of each split in the cache of ``datasets``."""
    try:
        import datasets
    except ImportError as error:
        raise MissingPackageError(
            f"data='hf:{printable(place)}' is no folder, and a name on the hub needs the package datasets; "
            "install it with: pip install datasets"
        ) from error
    name, _, revision = place.partition("@")
    config = datasets.DownloadConfig(local_files_only=not download)
    try:
        found = datasets.load_dataset(name, revision=revision or None, download_config=config)
    except Exception as error:  # it raises what each of its parts raises
        said = one_line(error)
        how = "" if download else "; fetch it with --download (download=True)"
        raise MissingDataError(
            f"data='hf:{printable(place)}' cannot be had: {printable(said)}{how}"
        ) from error
    files = {
        split: [one["filename"] for one in part.cache_files]
        for split, part in (found.items() if isinstance(found, dict) else [("data", found)])
    }
    if not all(files.values()):
        raise DatasetError(
            f"data='hf:{printable(place)}' has no files in the cache of datasets; save_to_disk it"
        )
    return files
