"""A packed file read as it is: cuts as arrays, nothing unpacked."""

from __future__ import annotations

import contextlib
import os
import stat
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from featbank._cache import user_path
from featbank._registry import nearest
from featbank.banks import _bank_files as files
from featbank.banks._chunks import ChunkedRows, ChunkError, MappedRows
from featbank.banks._described import Described
from featbank.banks._guest import GuestArray, GuestServer
from featbank.banks._guest_checks import check_facts, checked_shards
from featbank.banks._guest_pack import PackSource, Rows, check_cut, decoded_bytes, shards_in
from featbank.banks._sealed import is_of_the_system, unreadable
from featbank.banks._shard_file import CutLayout
from featbank.banks.arrays import CutArray, SoftmaxArray
from featbank.banks.key import check_name
from featbank.errors import (
    BankError,
    BankFormatError,
    BankNotFoundError,
    BankReadError,
    CorruptBankError,
    FeatbankError,
    InvalidInputError,
    MissingPackageError,
    UnknownNameError,
)
from featbank.manifest import RowStatus, printable

__all__ = ["Archive", "open_archive"]

_SOFTMAX, _LOGITS = "softmax", "logits"


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """Open a file that `pack` wrote, compressed or not, and read its features without unpacking it.

    The file may come from anybody. A disposable process that can open nothing else parses it, and refuses
    whatever `import_bank` would refuse in the structure of the file: links, foreign filters, chunks of other
    shapes or sizes, more bytes than a file of its size can hold. This process never opens it with HDF5; it
    reads rows by their position, maps plain ones, and decodes compressed ones with a limit on what comes
    out. Key, manifest and their digests are checked. The features are not, as that means reading all of
    them: `Archive.verify` compares every shard with its SHA-256. (A chunk also carries a checksum of its
    own, which finds accidents, not forgeries.) Whether the features are those of the images they claim to
    be of cannot be found out. A file that is changed while it is open gives other features, or errors; one
    that is cut short while its plain rows are mapped ends the process, as with every memory map.

    Parameters
    ----------
    path : str or path-like
        The packed file.

    Returns
    -------
    Archive
        Also a context manager; it holds the file open.

    Raises
    ------
    BankNotFoundError
        If there is no such file.
    BankReadError
        If it cannot be read now.
    BankFormatError
        If it was written in another version of the format.
    CorruptBankError
        If it is no packed bank, is damaged, or has anything in it that featbank does not write.
    MissingPackageError
        If its features are compressed, and the package for that is not installed.
    """
    return Archive(user_path(path))


class Archive(Described):
    """A packed bank, opened for reading; comes from `open_archive`.

    ``archive["fc7"]`` is an array of features as ``bank["fc7"]`` is, rows in the order of
    ``archive.manifest``. Pickles as its path and the digest of its rows, as `Bank` does.

    Parameters
    ----------
    path : pathlib.Path
        The packed file.
    server : GuestServer, optional
        Parses the file; one of its own by default.
    """

    def __init__(self, path: Path, server: GuestServer | None = None) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if is_of_the_system(error):
                raise unreadable(path, error, what="packed bank") from error
            raise BankNotFoundError(
                f"no packed bank {printable(str(path))!r} ({error.strerror}); `featbank banks pack` makes one"
            ) from error
        self._closer = weakref.finalize(self, os.close, self._descriptor)
        try:
            with self._named(), contextlib.ExitStack() as stack:
                self._open(server or stack.enter_context(GuestServer()))
        except BaseException:
            self.close()
            raise

    def _open(self, server: GuestServer) -> None:
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CorruptBankError("it is no file")
        n_bytes = max(status.st_size, decoded_bytes(server, self._descriptor))
        with server.reader(n_bytes) as reader:
            source = PackSource(self.path, reader, self._descriptor)
            local = partial(_local, self._descriptor, status.st_size)
            self._document, self._state = source.document, source.stored
            check_name("dataset", self.dataset)
            #: How the features are compressed: ``"zstd"``, ``"gzip"``, or None.
            self.compression: str | None = source.compression
            self._cuts = {}
            self._arrays: dict[str, Mapping[str, Rows]] = {}
            for cut in source.cuts():
                data, digest = source.cut_json(cut), self.key.digest()
                document = files.parse_cut_document(self.path / cut / files.CUT_FILE, data, cut, digest)
                arrays = source.detached(cut, local)
                check_cut(arrays, source.stored, cut, document)
                check_facts(cut, document.facts)
                self._cuts[cut], self._arrays[cut] = document, arrays
        first_rows = self._stored.table.first_rows(self._stored.row_slots)
        self._readers = {
            cut: _PackReader(
                document.layout,
                cast("ChunkedRows | MappedRows", self._arrays[cut][f"features/{cut}"]),
                self._arrays[cut][f"statuses/{cut}"][:],
                first_rows,
                self,
            )
            for cut, document in self._cuts.items()
        }

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; its arrays can no longer be read."""
        self._closer()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, *self._pin)

    def __repr__(self) -> str:
        how = self.compression or "not compressed"
        return f"<Archive of {self.name!r}, {len(self)} rows, {how}, cuts: {', '.join(self.cuts) or 'none'}>"

    @property
    def cuts(self) -> tuple[str, ...]:
        """Names of its cuts, sorted."""
        return tuple(self._cuts)

    def facts(self, cut: str) -> dict[str, Any]:
        """Return what extraction recorded about a cut."""
        self._reader(cut)
        return dict(self._cuts[cut].facts)

    def __contains__(self, cut: object) -> bool:
        return cut in self._cuts

    def __getitem__(self, cut: str) -> CutArray:
        """Return the features of a cut; ``"softmax"`` is derived from ``logits`` at temperature 1.

        Parameters
        ----------
        cut : str
            Its name.

        Returns
        -------
        CutArray
            Reading it raises `CorruptBankError` where a chunk is damaged.

        Raises
        ------
        UnknownNameError
            If the archive holds nothing of this cut.
        """
        if cut == _SOFTMAX:
            return self._softmax_array(_LOGITS, 1.0)
        return CutArray(self, self._reader(cut), self._stored)

    def softmax(self, temperature: float, rows: slice | ArrayLike | None = None) -> NDArray[np.float32]:
        """Return ``softmax(logits / temperature)``; as `Bank.softmax`."""
        return self._softmax_array(_LOGITS, temperature).read(rows)

    def _softmax_array(self, cut: str, temperature: float) -> SoftmaxArray:
        return SoftmaxArray(self, self._reader(cut), self._stored, temperature)

    def features(
        self, cut: str, rows: slice | ArrayLike | None = None, dtype: DTypeLike = np.float32
    ) -> NDArray[Any]:
        """Return features as a table for a head, shape (n_rows, n_features); as `Bank.features`."""
        array = self[cut]
        block = array.read(rows, dtype=dtype)
        return block.reshape(len(block), array.n_features)

    def rows_ok(self, cut: str) -> NDArray[np.bool_]:
        """Say which rows can be read in a cut, shape (n_samples,); as `Bank.rows_ok`."""
        reader = self._reader(_LOGITS if cut == _SOFTMAX else cut)
        return np.asarray(reader.statuses(self._stored.row_slots) == RowStatus.OK)

    def verify(self) -> None:
        """Read everything, and check it as `import_bank` does, every shard against its SHA-256 in the file.

        Raises
        ------
        CorruptBankError
            If anything is not what was packed.
        """
        with self._named():
            for cut, document in self._cuts.items():
                shards = shards_in(self._arrays[cut], self._stored, cut, document)
                for _ in checked_shards(shards, cut, document, self._stored):
                    pass

    def _reader(self, cut: str) -> _PackReader:
        if cut not in self._readers:
            raise UnknownNameError(
                f"archive {printable(str(self.path))!r} holds no cut {cut!r}, it holds "
                f"{nearest(str(cut), self._cuts)}; the others stayed with the bank it was packed from"
            )
        return self._readers[cut]

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Errors about the file say which file, and what to do."""
        try:
            yield
        except (BankFormatError, BankReadError, MissingPackageError):
            raise
        except (FeatbankError, OSError, LookupError, ValueError, TypeError, ArithmeticError) as error:
            raise _unreadable(self.path, error) from error
        except MemoryError as error:
            raise unreadable(self.path, error, what="packed bank") from error


def _reopen(path: Path, key: str, rows: str | None) -> Archive:
    archive = open_archive(path)
    archive._refuse_other_rows(rows, key)
    return archive


def _unreadable(path: Path, error: Exception) -> BankError:
    if isinstance(error, OSError) and is_of_the_system(error):
        return unreadable(path, error, what="packed bank")
    return CorruptBankError(
        f"packed bank {printable(str(path))!r} cannot be read ({printable(str(error)[:500])}): get it again "
        f"from where it is whole, from somebody you trust"
    )


class _PackReader:
    """The slots of one cut in a packed file, where they stand in the order of the rows."""

    def __init__(
        self,
        layout: CutLayout,
        rows: ChunkedRows | MappedRows,
        statuses: NDArray[np.uint8],
        first_rows: NDArray[np.int64],
        archive: Archive,
    ) -> None:
        self.layout = layout
        self._rows, self._statuses, self._first_rows = rows, statuses, first_rows
        self._archive = weakref.ref(archive)

    def statuses(self, slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the status of each slot."""
        return self._statuses[self._first_rows[slots]]

    def gather(self, slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy the features of `slots` into `out`."""
        archive = self._archive()
        if archive is None or not archive._closer.alive:
            raise InvalidInputError(
                f"the archive of cut {self.layout.cut!r} is closed; open it again with open_archive"
            )
        try:
            self._rows.gather(self._first_rows[slots], out)
        except (ChunkError, OSError) as error:
            raise _unreadable(archive.path, error) from error


def _local(descriptor: int, size: int, array: GuestArray) -> ChunkedRows | MappedRows:
    """An array of the pack, read by this process from where the other one says it stands."""
    places = array.places()
    ends = places.sum(axis=1)
    if (places < 0).any() or ends.min() < 0 or ends.max() > size:
        raise ChunkError("what it says of its places is not in the file")
    if array.codec is not None:
        return ChunkedRows(descriptor, 0, array.codec, array.shape, array.dtype, places)
    return MappedRows(descriptor, array.shape, array.dtype, int(places[0, 0]))
