"""Images that changed since they were listed are found by their bytes, whatever their dates say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from featbank.datasets import SourceFinding, build_manifest, compare_sources, open_dataset
from featbank.manifest import RowStatus


@pytest.fixture
def listed(photo_folder):
    folder = photo_folder()
    return folder, build_manifest(open_dataset(folder))


def edit_quietly(path: Path) -> None:
    """Change one bit and leave size and dates as they were."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_nothing_changed(listed) -> None:
    folder, manifest = listed
    assert compare_sources(open_dataset(folder), manifest) == []


def test_an_edit_behind_an_unchanged_date(listed) -> None:
    folder, manifest = listed
    edit_quietly(folder / "green" / "002.png")
    (finding,) = compare_sources(open_dataset(folder), manifest)
    row = manifest.ids.index(b"green/002.png")
    now = build_manifest(open_dataset(folder)).digests[row].tobytes().hex()
    then = manifest.digests[row].tobytes().hex()
    assert finding == SourceFinding(
        "changed",
        b"green/002.png",
        f"its SHA-256 starts with {now[:12]}, the manifest's with {then[:12]}",
    )


def test_each_kind_in_the_order_of_the_manifest(listed, save_photo) -> None:
    folder, manifest = listed
    (folder / "red" / "000.png").unlink()
    (folder / "blue" / "004.png").rename(folder / "blue" / "zzz.png")
    edit_quietly(folder / "green" / "001.png")
    save_photo(folder / "blue" / "000a.png", 7)
    found = compare_sources(open_dataset(folder), manifest)
    assert [(one.kind, one.id) for one in found] == [
        ("missing", b"blue/004.png"),
        ("changed", b"green/001.png"),
        ("missing", b"red/000.png"),
        ("new", b"blue/000a.png"),
        ("new", b"blue/zzz.png"),
    ]
    assert found[0].detail == "the source no longer lists it"
    assert found[3].detail == "the manifest does not list it"


def test_a_file_that_went_while_its_name_stays(listed) -> None:
    folder, manifest = listed
    dataset = open_dataset(folder)
    (folder / "red" / "000.png").unlink()
    (finding,) = compare_sources(dataset, manifest)
    assert finding == SourceFinding("missing", b"red/000.png", "cannot be read: No such file or directory")


class Moody:
    """A folder one of whose images cannot be read now and then."""

    def __init__(self, folder: Path) -> None:
        self._inside = open_dataset(folder)
        self.name, self.location = self._inside.name, self._inside.location
        self.ids, self.labels = self._inside.ids, self._inside.labels
        self.classes, self.splits = self._inside.classes, self._inside.splits
        self.broken = True

    def read(self, index: int) -> bytes:
        if self.broken and index == 3:
            raise OSError(5, "Input/output error")
        return self._inside.read(index)


def test_what_could_not_be_read_before(photo_folder) -> None:
    dataset = Moody(photo_folder())
    manifest = build_manifest(dataset)
    assert manifest.statuses[3] == RowStatus.QUARANTINED
    assert compare_sources(dataset, manifest) == []
    dataset.broken = False
    (finding,) = compare_sources(dataset, manifest)
    assert finding == SourceFinding(
        "changed", dataset.ids[3], "could not be read when it was listed, and can be now"
    )


def test_a_part_of_the_source(photo_folder) -> None:
    dataset = open_dataset(photo_folder())
    manifest = build_manifest(dataset, limit=6)
    found = compare_sources(dataset, manifest)
    assert {one.kind for one in found} == {"new"}
    assert len(found) == len(dataset.ids) - 6
