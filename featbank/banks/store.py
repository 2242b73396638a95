"""All banks of a cache: make, list, find by name, remove."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featbank._atomic import READ_ONLY, locked, make_folder, remove_folder
from featbank._bucket import BucketPath
from featbank._cache import banks_folder, make_newest, oldest_first, text_of, user_path
from featbank._registry import nearest
from featbank.banks import documents as files
from featbank.banks.bank import Bank, BankInfo
from featbank.banks.documents import BankKey, check_name
from featbank.errors import (
    BankError,
    BankFormatError,
    BankNotFoundError,
    CacheWriteError,
    InvalidInputError,
    UnknownNameError,
)
from featbank.manifest import printable

#: What `BankStore.path_for` calls a bank; the bank in such a folder may be damaged.
_FOLDER = re.compile(r".+-[0-9a-f]{8}")


class BankStore:
    """The folder of all banks.

    Parameters
    ----------
    root : str or path-like
        The ``banks`` folder of the cache; made when the first bank is.

    Examples
    --------
    >>> import featbank
    >>> bank = featbank.open_bank("digits")
    >>> store = BankStore("cache/banks")
    >>> [(one.dataset, one.backbone, one.rows) for one in store.list()]
    [('digits', 'minivgg', 300)]
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = user_path(root)

    def path_for(self, dataset: str, key: BankKey) -> Path:
        """Return the folder of the bank of this dataset and key; `InvalidInputError` for a bad name."""
        return self.root / check_name("dataset", dataset) / f"{key.backbone}-{key.digest8}"

    def create_or_open(self, dataset: str, key: BankKey, provenance: Mapping[str, Any]) -> Bank:
        """Open the bank of this dataset and key; make it first if there is none.

        Parameters
        ----------
        dataset : str
            Name of the dataset, safe as a folder name.
        key : BankKey
            What decides the numbers.
        provenance : mapping of str to JSON values
            Where it comes from (``location``, ``weights``, ``created``, ``versions``, ``command``, ...);
            kept from the first time, ignored if the bank exists.

        Returns
        -------
        Bank

        Raises
        ------
        BankFormatError
            If the bank there has another key or format version.
        CorruptBankError
            If a file of the bank is damaged.
        CacheWriteError
            If it cannot be made.
        """
        path = self.path_for(dataset, key)
        document = files.BankDocument.new(dataset, key, provenance)
        if isinstance(self.root, BucketPath):
            try:
                self.root.refuse_unconditional()
            except CacheWriteError as error:  # who may only read it needs no more of a bank that is whole
                if error.errno not in READ_ONLY:
                    raise
            if not (path / files.BANK_FILE).exists():
                document.write(path)
        elif not (path / files.BANK_FILE).exists():
            make_folder(path)
            with locked(path / files.LOCK_FILE):
                if not (path / files.BANK_FILE).exists():  # else another process was first
                    document.write(path)
            files.mark_verified(path)
        make_newest(self.root, path)
        return _of_key(Bank.open(path), key)

    def remove_unfinished(self, path: Path) -> None:
        """Remove a bank that could not be made whole: one without rows or features; any other stays.

        And in a bucket every one: another process may be about to write into it, and there is no lock.
        """
        if isinstance(path, BucketPath):
            return
        with contextlib.suppress(CacheWriteError, OSError):
            if path.is_dir() and not (path / files.MANIFEST_FILE).exists():
                with locked(path / files.LOCK_FILE):
                    if not (path / files.MANIFEST_FILE).exists() and not files.cut_folders(path):
                        for name in (files.BANK_FILE, files.VERIFIED_FILE, files.LOCK_FILE):
                            (path / name).unlink(missing_ok=True)
                        path.rmdir()
                        path.parent.rmdir()

    def planned(self, dataset: str, key: BankKey, provenance: Mapping[str, Any]) -> Bank:
        """Return the bank of this dataset and key, or what `create_or_open` would make; writes nothing.

        Parameters
        ----------
        dataset, key, provenance
            As of `create_or_open`.

        Returns
        -------
        Bank
            One that is not there has no rows; `Bank.with_rows` gives it some.

        Raises
        ------
        BankFormatError, CorruptBankError
            As `create_or_open`.
        """
        path = self.path_for(dataset, key)
        if (path / files.BANK_FILE).exists():
            return _of_key(Bank.open(path, check="size"), key)
        return Bank(path, files.BankDocument.new(dataset, key, provenance), None)

    def paths(self) -> list[Path]:
        """List the folders of all banks, by name, broken ones included; reads none of their files."""
        if not self.root.is_dir():
            return []
        return [
            folder
            for dataset in sorted(self.root.iterdir())
            if dataset.is_dir() and not dataset.name.startswith(".")
            for folder in sorted(dataset.iterdir())
            if folder.is_dir() and not folder.name.startswith(".")
        ]

    def list(self) -> list[BankInfo]:
        """Describe all banks, by name; one that cannot be opened stands there with its error."""
        return [_info(path) for path in self.paths()]

    def newest_first(self) -> tuple[Path, ...]:
        """Return the folders of all banks in the order in which they were made or extracted to in this cache.

        Those that were copied in, and not extracted to since, come behind all others, whatever their times.
        """
        return tuple(reversed(oldest_first(self.root, self.paths(), files.changed)))

    def newest(self) -> Path:
        """Return the first of `newest_first` with a ``bank.json``; raises `BankNotFoundError` without any."""
        found = next((path for path in self.newest_first() if (path / files.BANK_FILE).exists()), None)
        if found is None:
            raise BankNotFoundError(
                f"no bank in {str(self.root)!r}; `featbank extract --cut block3_pool` makes one (of the "
                f"handwritten digits inside scikit-learn), --cache-dir looks elsewhere"
            )
        return found

    def resolve(self, bank: str | os.PathLike[str] | None = None, *, inside: bool = False) -> Path:
        """Find a bank by what a user says.

        Parameters
        ----------
        bank : str, path-like or None
            None takes the newest; else a bank's folder, its name ``<dataset>/<backbone>-<digest8>``, or a
            part of the name that fits one bank only (``digits``, ``digits/minivgg``, the digest).
        inside : bool, default=False
            Only a bank that stands in this store itself, not behind a link: what may be removed.

        Returns
        -------
        pathlib.Path

        Raises
        ------
        BankNotFoundError
            If none fits.
        InvalidInputError
            If several do, or it is no bank of this store where it must be `inside`.
        """
        found = self._found(bank)
        return self.root.joinpath(*self._names(found)) if inside else found

    def _names(self, folder: Path) -> tuple[str, str]:
        """Return the two names by which a folder is a bank of this store; links and others are refused."""
        dataset = folder.parent.resolve()
        own = dataset.parent == self.root.resolve() and dataset / folder.name in dataset.iterdir()
        if not own or folder.is_symlink() or not _FOLDER.fullmatch(folder.name) or not _holds_bank(folder):
            raise InvalidInputError(
                f"{printable(str(folder))!r} is no bank of {printable(str(self.root))!r}, and nothing else "
                "is removed: 'featbank banks ls' names the banks there are; remove others and links by hand"
            )
        return dataset.name, folder.name

    def _found(self, bank: str | os.PathLike[str] | None) -> Path:
        if bank is None:
            return self.newest()
        text = text_of(bank)
        for candidate in (user_path(text), self.root / text):
            if text and (candidate / files.BANK_FILE).exists():
                return candidate
        names = {_name(path): path for path in self.paths()}
        if not isinstance(bank, str) or not text:
            fitting = []
        else:
            whole = [name for name in names if text in _parts(name)]
            fitting = whole or [name for name in names if text in name]
        if len(fitting) == 1:
            return names[fitting[0]]
        if fitting:
            raise InvalidInputError(
                f"bank {printable(text)!r} fits {len(fitting)} banks: "
                f"{nearest(text, map(printable, fitting))}; give more of the name"
            )
        raise BankNotFoundError(
            f"no bank {printable(text)!r} in {str(self.root)!r}, there are: "
            f"{nearest(text, map(printable, names))}; `featbank extract` makes one"
        )

    def remove(self, bank: str | os.PathLike[str], cut: str | None = None) -> int:
        """Remove a bank, or one of its cuts; it vanishes in one step, then its bytes are freed.

        Parameters
        ----------
        bank : str or path-like
            As in `resolve`; it must stand in this store, and not be a link.
        cut : str, optional
            Remove only this cut.

        Returns
        -------
        int
            Bytes freed.

        Raises
        ------
        BankNotFoundError, InvalidInputError
            As `resolve`.
        UnknownNameError
            If the bank has no such cut.
        CacheWriteError
            If it cannot be removed.
        """
        dataset, name = self._names(self.resolve(bank))
        folder = self.root / dataset / name
        target = folder
        if cut is not None:
            known = [one.name for one in files.cut_folders(folder)]
            if cut not in known:
                raise UnknownNameError(
                    f"bank {_name(folder)!r} holds no cut {cut!r}, it holds {nearest(cut, known)}"
                )
            target = folder / cut
        if isinstance(target, BucketPath):
            # what an interruption leaves has the name of a bank, and can be removed, or extracted again
            return target.delete(first=(files.BANK_FILE, files.CUT_FILE), last=(files.MANIFEST_FILE,))
        freed = files.folder_bytes(target)
        with locked(folder / files.LOCK_FILE):  # not while another process writes the manifest
            remove_folder(self.root, dataset, name, *(() if cut is None else (cut,)))
        if cut is None:
            with contextlib.suppress(OSError):  # other banks of this dataset
                folder.parent.rmdir()
        return freed


def open_bank(
    bank: str | os.PathLike[str] | None = None, *, cache_dir: str | os.PathLike[str] | None = None
) -> Bank:
    """Open a bank by what a user says.

    Parameters
    ----------
    bank : str, path-like or None
        As in `BankStore.resolve`: a folder, a name or a unique part of one; None takes the newest.
    cache_dir : str or path-like, optional
        The cache; ``$FEATBANK_CACHE`` or ``./cache`` by default.

    Returns
    -------
    Bank

    Raises
    ------
    BankNotFoundError
        If there is none.
    InvalidInputError
        If several fit.

    Examples
    --------
    >>> bank = open_bank("digits")
    >>> X, y = bank.load("fc7", split="train")
    >>> X.shape, y.shape
    ((214, 256), (214,))
    """
    return Bank.open(BankStore(banks_folder(cache_dir)).resolve(bank))


def _holds_bank(folder: Path) -> bool:
    names = {one.name for one in folder.iterdir()}
    return bool(names & {files.BANK_FILE, files.MANIFEST_FILE}) or names <= {files.LOCK_FILE}  # killed early


def _of_key(bank: Bank, key: BankKey) -> Bank:
    if bank.key != key:
        differing = "; ".join(
            f"{name} is {there!r}, not {here!r}" for name, (here, there) in key.differences(bank.key).items()
        )
        raise BankFormatError(
            f"the bank in {str(bank.path)!r} has another key ({differing}); the folder was renamed, or is "
            f"another bank's: move it away and run `featbank extract` again"
        )
    return bank


def _info(path: Path) -> BankInfo:
    try:
        return Bank.open(path, check="size").info()
    except (BankError, OSError) as error:
        backbone, _, digest8 = path.name.rpartition("-")
        return BankInfo(
            path=path,
            dataset=path.parent.name,
            backbone=backbone,
            digest8=digest8,
            changed=files.changed(path),
            size_bytes=files.folder_bytes(path),
            error=str(error),
        )


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _parts(name: str) -> set[str]:
    dataset, _, folder = name.partition("/")
    backbone, _, digest8 = folder.rpartition("-")
    return {name, dataset, folder, backbone, digest8, f"{dataset}/{backbone}"}
