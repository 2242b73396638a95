"""What an HDF5 file of featbank may be made of; all of it is checked before one value is read.

HDF5 can name other files (external links, external storage, virtual datasets), run code (filters), point in
circles (hard links) and claim terabytes in a kilobyte. Nothing of that is in a file that featbank writes, so
nothing of it is let in: what is not on the list is refused. Runs in the process of `_reader_process`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import h5py
import numpy as np

from featbank.banks._allowed_dataset import (
    Chunks,
    Column,
    Refused,
    check_dataset,
    check_places,
    check_type,
)
from featbank.banks._hdf5 import end_of_file

#: More links in one group than any bank has cuts.
_MOST_LINKS = 1000
_NAME = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,99}")
_NO_ADDRESS = b"\xff" * 8


class Form(NamedTuple):
    """What one kind of file holds: path of each dataset (``*`` stands for a cut), attributes of the root."""

    columns: dict[str, Column]
    attributes: dict[str, str]


_TEXT, _BYTES, _COUNTS = Column(("S",)), Column(("|u1",)), Column(("<i8",))
_TABLE = Column(("|u1",), 2)
_FEATURES = Column(("<f2", "<f4"), 0)
_PACKED = _FEATURES._replace(may_be_compressed=True)
FORMS = {
    "shard": Form(
        {"features": _FEATURES, "digests": _TABLE, "statuses": _BYTES},
        dict.fromkeys(("key", "cut"), "S")
        | dict.fromkeys(
            ("format_version", "shard", "start", "stop", "shard_rows", "n_zero", "n_nonfinite", "n_values"),
            "<i8",
        )
        | {"max_abs": "<f8", "made_by": "S"},
    ),
    "manifest": Form(
        dict.fromkeys(("ids", "splits", "statuses", "class_names", "slot_statuses"), _BYTES)
        | dict.fromkeys(("id_offsets", "class_offsets", "segments", "row_slots"), _COUNTS)
        | dict.fromkeys(("digests", "slot_digests"), _TABLE)
        | {"labels": Column(("<i4",))},
        {"format_version": "<i8"},
    ),
    "pack": Form(
        dict.fromkeys(("ids", "split", "classes"), _TEXT)
        | dict.fromkeys(("bank/bank_json", "bank/manifest", "bank/quarantine"), _BYTES)
        | dict.fromkeys(("statuses/*", "bank/cuts/*/cut_json", "bank/cuts/*/slot_statuses"), _BYTES)
        | {"bank/cuts/*/made_by": _BYTES}
        | dict.fromkeys(("bank/cuts/*/shards", "bank/cuts/*/extra_slots"), _COUNTS)
        | dict.fromkeys(("features/*", "bank/cuts/*/extra_features"), _PACKED)
        | {"labels": Column(("<i4",)), "bank/cuts/*/shard_sha256": _TABLE},
        dict.fromkeys(("format", "dataset", "backbone", "key_digest", "key", "provenance"), "S")
        | dict.fromkeys(("compression", "compression_library"), "S")
        | {"pack_version": "<i8"},
    ),
}
#: Attributes and datasets a file may lack: what is too long for one is left out when a pack is written, a
#: plain pack is not compressed, and nobody has to say what made a shard.
_OPTIONAL = frozenset(
    {
        "dataset",
        "backbone",
        "key_digest",
        "key",
        "provenance",
        "compression",
        "compression_library",
        "made_by",
        "bank/cuts/*/made_by",
    }
)


@dataclass(frozen=True)
class Survey:
    """A file that passed: its datasets by path, the values of the root's attributes, compressed datasets."""

    datasets: dict[str, Any]
    attributes: dict[str, int | float | str]
    chunks: dict[str, Chunks]

    def contents(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return type and shape of each dataset."""
        return {path: (dtype_of(one).str, one.shape) for path, one in self.datasets.items()}


def check_head(head: bytes, size: int) -> None:
    """Check the first 48 bytes: featbank's kind of HDF5 file, which starts at 0 and ends where it says."""
    said = end_of_file(head)
    if said is None:
        raise Refused("it does not start like an HDF5 file of featbank")
    if said != size:
        raise Refused(f"it has {size} bytes, it should have {said}")
    if head[10] != 8 or head[12:20] != bytes(8) or head[20:28] != _NO_ADDRESS:
        raise Refused("it is laid out as no file of featbank is (user block, driver or extension)")


def survey(file: Any, kind: str, size: int) -> Survey:
    """Walk a file, one link at a time, and check everything in it against the form of its `kind`."""
    form = FORMS[kind]
    datasets: dict[str, Any] = {}
    seen: set[int] = set()
    _walk(file.id, "", form, datasets, seen)
    stars = {path: _starred(path, form) for path in datasets}
    cuts = {path.split("/")[-1] for path, star in stars.items() if star == "features/*"}
    wanted = {path.replace("*", cut) for path in form.columns for cut in (cuts if "*" in path else {""})}
    wanted -= {path for path in wanted - set(datasets) if _starred(path, form) in _OPTIONAL}
    if wanted != set(datasets):
        raise Refused(f"it lacks or has too much of {sorted(wanted.symmetric_difference(datasets))[0]!r}")
    chunks = check_places(datasets, size)
    return Survey(datasets, _attributes(file.id, form), chunks)


def dtype_of(dataset: Any) -> np.dtype[Any]:
    """Return the type of a dataset that has passed."""
    kind: np.dtype[Any] = dataset.get_type().dtype
    return kind


def _starred(path: str, form: Form) -> str | None:
    if path in form.columns and "*" not in path:
        return path
    parts = path.split("/")
    for place in range(len(parts)):
        star = "/".join([*parts[:place], "*", *parts[place + 1 :]])
        if star in form.columns:
            return star
    return None


def _is_group(path: str, form: Form) -> bool:
    parts = path.split("/")
    for column in form.columns:
        wanted = column.split("/")[:-1][: len(parts)]
        if len(wanted) == len(parts) and all(
            one in ("*", got) for one, got in zip(wanted, parts, strict=True)
        ):
            return True
    return False


def _walk(group: Any, above: str, form: Form, datasets: dict[str, Any], seen: set[int]) -> None:
    names: list[bytes] = []

    def collect(name: bytes) -> bool | None:
        names.append(name)
        return True if len(names) > _MOST_LINKS else None  # True ends the iteration

    _once(group, above or "/", seen)
    group.links.iterate(collect)
    if len(names) > _MOST_LINKS:
        raise Refused(f"{above or '/'!r} has more than {_MOST_LINKS} entries")
    for name in names:
        if not _NAME.fullmatch(name):
            raise Refused(f"{above or '/'!r} has an entry named {name[:80]!r}")
        path = f"{above}/{name.decode()}".lstrip("/")
        if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            raise Refused(f"{path!r} is a link to somewhere else")
        column = form.columns.get(_starred(path, form) or "")
        if column is None and not _is_group(path, form):
            raise Refused(f"{path!r} is nothing featbank writes")
        opened = h5py.h5o.open(group, name)
        if column is None:
            if not isinstance(opened, h5py.h5g.GroupID):
                raise Refused(f"{path!r} is no group")
            if h5py.h5a.get_num_attrs(opened):
                raise Refused(f"{path!r} has attributes")
            _walk(opened, path, form, datasets, seen)
        else:
            if not isinstance(opened, h5py.h5d.DatasetID):
                raise Refused(f"{path!r} is no dataset")
            _once(opened, path, seen)
            check_dataset(opened, path, column)
            datasets[path] = opened


def _once(opened: Any, path: str, seen: set[int]) -> None:
    facts = h5py.h5o.get_info(opened)
    if facts.rc != 1 or facts.addr in seen:
        raise Refused(f"{path!r} stands in more than one place")
    seen.add(facts.addr)


def _attributes(root: Any, form: Form) -> dict[str, int | float | str]:
    count = h5py.h5a.get_num_attrs(root)
    if count > len(form.attributes):
        raise Refused(f"it has {count} attributes, featbank writes {len(form.attributes)}")
    found: dict[str, int | float | str] = {}
    for index in range(count):
        attribute = h5py.h5a.open(root, index=index)
        name = attribute.name.decode("ascii", "replace")
        if name not in form.attributes:
            raise Refused(f"it has an attribute {name[:80]!r}")
        check_type(attribute.get_type(), f"attribute {name}", (form.attributes[name],))
        if attribute.get_space().get_simple_extent_type() != h5py.h5s.SCALAR:
            raise Refused(f"its attribute {name!r} is no single value")
        value = np.empty((), attribute.get_type().dtype)
        attribute.read(value)
        plain: int | float | bytes = value.item()
        found[name] = plain.decode("utf-8", "replace") if isinstance(plain, bytes) else plain
    lacking = set(form.attributes) - set(found) - _OPTIONAL
    if lacking:
        raise Refused(f"it lacks the attribute {min(lacking)!r}")
    return found
