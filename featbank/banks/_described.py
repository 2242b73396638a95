"""What a bank says of itself, whether a folder or one packed file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from featbank.banks import _bank_files as files
from featbank.banks._manifest_file import StoredManifest
from featbank.banks.key import BankKey
from featbank.errors import BankChangedError, IncompleteBankError
from featbank.manifest import Manifest, printable


class Described:
    """Name, key, provenance and rows; whoever inherits this sets `_document` and `_state`."""

    path: Path
    _document: files.BankDocument
    #: None while there is no manifest.
    _state: StoredManifest | None

    @property
    def _stored(self) -> StoredManifest:
        if self._state is None:
            raise IncompleteBankError(f"bank {self.name!r} has no rows yet; run `{self._command()}`")
        return self._state

    @property
    def _pin(self) -> tuple[str, str | None]:
        """What a pickled handle goes by: the digests of the key and of the rows it was opened with."""
        return self.key.digest(), self._state.rows_digest if self._state else None

    def _refuse_other_rows(self, rows: str | None, key: str | None = None) -> None:
        """Raise `BankChangedError` if these are not the rows (and the key) of a pickled handle."""
        if (key or self._pin[0], rows) != self._pin:
            raise BankChangedError(
                f"bank {self.name!r} in {printable(str(self.path))!r} was extracted again with other rows "
                f"(images, labels, splits or classes) since this handle was pickled, whose row numbers mean "
                f"others now: open it again, and take row numbers and labels from its manifest"
            )

    def __len__(self) -> int:
        return self._state.n_rows if self._state else 0

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self._document.dataset

    @property
    def key(self) -> BankKey:
        """What decides its numbers."""
        return self._document.key

    @property
    def provenance(self) -> dict[str, Any]:
        """Where it came from, as it was given when the bank was made; ``location`` is where that is now."""
        return self._document.provenance

    @property
    def name(self) -> str:
        """``<dataset>/<backbone>-<digest8>``, fit for a terminal."""
        return printable(f"{self.dataset}/{self.key.backbone}-{self.key.digest8}")

    @property
    def manifest(self) -> Manifest:
        """Its rows; statuses are those of the dataset, and where these are OK what extraction found."""
        return self._stored.manifest

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self._stored.classes

    def _command(self, cut: str | None = None) -> str:
        location = printable(str(self.provenance.get("location") or self.dataset))
        words = ["featbank", "extract", location, "--backbone", self.key.backbone]
        if self.provenance.get("layout"):
            words += ["--layout", printable(str(self.provenance["layout"]))]
        return shlex.join([*words, "--cut", "logits" if cut == "softmax" else cut] if cut else words)
