"""Class folders inside archives: read where they are, bounded whatever stands in them."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank.datasets import _files, build_manifest, open_dataset
from featbank.datasets.decode_pool import DecodePool, DecodeRequest
from featbank.datasets.sources import ARCHIVE_SUFFIXES, reopen_dataset
from featbank.errors import DatasetError, ImageDecodeError, InvalidInputError, MissingDataError

KINDS = ("zip", "stored.zip", "tar", "tar.gz", "tar.bz2")
SHARED = Path(__file__).parents[2] / "../shared/data"


def photo(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def packed(path: Path, files: dict[bytes, bytes], kind: str | None = None) -> Path:
    """Write an archive; names are bytes, as they stand in a file system."""
    kind = kind or path.name.partition(".")[2]
    if kind.endswith("zip"):
        method = zipfile.ZIP_STORED if kind == "stored.zip" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(os.fsdecode(name)), data, method)
        return path
    mode = {"tar": "w:", "tar.gz": "w:gz", "tar.bz2": "w:bz2"}[kind]
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(os.fsdecode(name))
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def put(folder: Path, files: dict[bytes, bytes]) -> Path:
    for name, data in files.items():
        full = folder / os.fsdecode(name)
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(data)
    return folder


def error(path: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        open_dataset(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_the_folder_that_it_unpacks_to(tmp_path, kind, caplog):
    names = ("train/cat/1.jpg", "train/dog/a/b.PNG", "train/dog/2.jpg", "test/cat/3.jpg", "test/dog/é 4.jpg")
    files = {b".git/cat/1.jpg": b"x", **{os.fsencode(one): photo(at) for at, one in enumerate(names)}}
    files |= {b"__MACOSX/train/cat/._1.jpg": b"x", b"train/cat/.hidden.jpg": b"x", b"train/notes.txt": b"x"}
    files[b"train/dog/Thumbs.db"] = b"x"
    folder = open_dataset(put(tmp_path / "pets", files))
    told = [one.replace(str(tmp_path / "pets"), "") for one in caplog.messages]
    caplog.clear()
    archive = open_dataset(packed(tmp_path / f"pets.{kind}", files, kind))
    assert [one.replace(str(tmp_path / f"pets.{kind}"), "") for one in caplog.messages] == told
    assert archive.name == ("pets.stored" if kind == "stored.zip" else "pets")
    for fact in ("ids", "labels", "classes", "splits", "layout"):
        assert getattr(archive, fact) == getattr(folder, fact)
    for dataset in (archive, pickle.loads(pickle.dumps(archive))):
        assert [dataset.read(at) for at in range(5)] == [folder.read(at) for at in range(5)]
    assert (build_manifest(archive).digests == build_manifest(folder).digests).all()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_decoding_processes_read_from_an_archive(tmp_path, kind):
    files = {b"cat/1.jpg": photo(1), b"dog/2.jpg": photo(2), b"dog/3.jpg": b"no image"}
    dataset = open_dataset(packed(tmp_path / f"pets.{kind}", files))
    with DecodePool(dataset, np.asarray, shape=(20, 24, 3), batch_size=3, workers=1) as pool:
        (batch,) = pool.batches([DecodeRequest([0, 1, 2])])
        assert batch.decoded.tolist() == [True, True, False]
        assert (batch.images[0] == np.asarray(Image.open(io.BytesIO(files[b"cat/1.jpg"])))).all()
        assert [one.reason for one in batch.failures] == ["not-an-image"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_come_back_byte_for_byte(tmp_path, kind):
    raw = b"caf\xe9"  # not UTF-8
    path = tmp_path / f"x.{kind}"
    if kind == "tar":
        packed(path, {raw + b"/1.jpg": b"1", b"dog/2.jpg": b"2"})
    else:
        packed(path, {b"caf#/1.jpg": b"1", b"dog/2.jpg": b"2"})
        path.write_bytes(path.read_bytes().replace(b"caf#", raw))
    dataset = open_dataset(path)
    assert dataset.ids == (raw + b"/1.jpg", b"dog/2.jpg")
    assert dataset.classes == ("caf\udce9", "dog")
    assert dataset.read(0) == b"1"


def test_of_two_entries_of_one_name_the_last_counts(tmp_path, caplog):
    path = tmp_path / "x.tar"
    packed(path, {b"./cat/1.jpg": b"old", b"dog/1.jpg": b"d"})
    with tarfile.open(path, "a:") as archive:
        entry = tarfile.TarInfo("/cat//1.jpg")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"new"))
    dataset = open_dataset(path)
    assert (dataset.ids, dataset.read(0)) == ((b"cat/1.jpg", b"dog/1.jpg"), b"new")
    assert caplog.messages == [
        f"1 entries of {path} have the name of an earlier one, and replace it; the first is 'cat/1.jpg'"
    ]


def test_links_lead_to_images_of_the_archive_or_nowhere(tmp_path, caplog):
    path = packed(tmp_path / "x.tar", {b"cat/1.jpg": b"c", b"dog/1.jpg": b"d"})
    with tarfile.open(path, "a:") as archive:
        for name, kind, target in (
            ("dog/hard.jpg", tarfile.LNKTYPE, "dog/1.jpg"),
            ("dog/soft.jpg", tarfile.SYMTYPE, "../cat/1.jpg"),
            ("dog/out.jpg", tarfile.SYMTYPE, "../../etc/passwd"),
            ("dog/pipe.jpg", tarfile.FIFOTYPE, ""),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    dataset = open_dataset(path)
    assert dataset.ids == (b"cat/1.jpg", b"dog/1.jpg", b"dog/hard.jpg", b"dog/soft.jpg")
    assert [dataset.read(at) for at in range(4)] == [b"c", b"d", b"d", b"c"]
    assert caplog.messages == [
        f"skipped 2 entries in {path} that are no files of it, the first is 'dog/pipe.jpg': "
        "a pipe, device or the like"
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_cut_short_is_one_line(tmp_path, kind):
    files = {f"{name}/{at}.jpg".encode(): photo(at) for name in ("cat", "dog") for at in range(30)}
    path = packed(tmp_path / f"x.{kind}", files, kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    said = error(path)
    assert "is no archive, is cut short or damaged" in said
    assert "nothing was taken from it; copy or download it again" in said


def test_a_tar_that_ends_between_two_entries_is_told(tmp_path, caplog):
    path = packed(tmp_path / "x.tar", {b"cat/1.jpg": b"c", b"dog/1.jpg": b"d", b"dog/2.jpg": b"e"})
    path.write_bytes(path.read_bytes()[:2048])
    assert open_dataset(path).ids == (b"cat/1.jpg", b"dog/1.jpg")
    assert caplog.messages == [
        f"{path} ends without the mark of its end, behind entry 2: it may be cut short"
    ]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_are_refused(tmp_path, kind):
    path = packed(tmp_path / f"x.{kind}", {b"cat/1.jpg": b"c", b"dog/../../1.jpg": b"d", b"dog/1.jpg": b"e"})
    assert error(path) == (
        f"'{path}' has 1 entries whose names lead out of it, the first is 'dog/../../1.jpg': it was made to "
        "do harm or by mistake; pack the images again"
    )


def test_damage_inside_a_zip_costs_its_row_alone(tmp_path):
    files = {b"cat/1.jpg": photo(1), b"dog/1.jpg": photo(2), b"dog/2.jpg": photo(3)}
    path = packed(tmp_path / "x.zip", files)
    data = bytearray(path.read_bytes())
    at = data.find(b"cat/1.jpg") + 200
    data[at] ^= 0xFF
    path.write_bytes(data)
    dataset = open_dataset(path)
    with pytest.raises(OSError, match="damaged in the archive"):
        dataset.read(0)
    assert dataset.read(1) == files[b"dog/1.jpg"]
    manifest = build_manifest(dataset, skip_empty_classes=True)
    assert manifest.statuses.astype(bool).tolist() == [True, False, False]


def test_bombs_are_refused_before_they_unpack(tmp_path, monkeypatch):
    monkeypatch.setattr("featbank.datasets._archive.MAX_FILE_BYTES", 1 << 20)
    flat = bytes(3 << 20)
    for kind in ("zip", "tar.gz"):
        path = packed(tmp_path / f"x.{kind}", {b"cat/1.bmp": flat, b"dog/1.bmp": flat})
        assert "unpacks to more than 100 times its size" in error(path)
    # a size that is a lie: what an entry unpacks to ends where it says
    path = packed(tmp_path / "lie.zip", {b"cat/1.bmp": flat, b"dog/1.jpg": photo(1)})
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", len(flat)), struct.pack("<I", 1000)))
    with pytest.raises(OSError, match="its checksum or size is another"):
        open_dataset(path).read(0)


def test_a_tar_that_holds_a_zip_is_a_tar(tmp_path):
    inner = packed(tmp_path / "inner.zip", {b"cat/0.jpg": b"z", b"dog/0.jpg": b"z"}).read_bytes()
    files = {b"cat/1.jpg": b"c", b"dog/1.jpg": b"d", b"more.zip": inner}
    assert open_dataset(packed(tmp_path / "x.tar", files)).ids == (b"cat/1.jpg", b"dog/1.jpg")


def test_an_image_too_large_for_memory_is_refused(tmp_path, monkeypatch):
    path = packed(tmp_path / "x.tar", {b"cat/1.jpg": bytes(2000), b"dog/1.jpg": b"d"})
    monkeypatch.setattr("featbank.datasets._archive.MAX_FILE_BYTES", 1000)
    with pytest.raises(ImageDecodeError, match="too-many-bytes"):
        open_dataset(path).read(0)


def test_encrypted_images_are_refused(tmp_path):
    path = packed(tmp_path / "x.zip", {b"cat/1.jpg": b"c", b"dog/1.jpg": b"d"})
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\1\2")
    data[at + 8] |= 1
    path.write_bytes(data)
    assert "1 images of" in error(path)
    assert "are encrypted" in error(path)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_damaged_archive_is_one_line_or_a_dataset(tmp_path, kind):
    whole = packed(
        tmp_path / f"x.{kind}", {f"{c}/{n}.jpg".encode(): b"%d" % n for c in "ab" for n in range(3)}
    )
    data, draw = whole.read_bytes(), random.Random(0)
    said = []
    for _ in range(120):
        broken = bytearray(data)
        for _ in range(draw.choice((1, 3, 40))):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        whole.write_bytes(broken)
        try:
            dataset = open_dataset(whole, skip_empty_classes=True)
            for at in range(len(dataset.ids)):
                with contextlib.suppress(OSError, ImageDecodeError):
                    dataset.read(at)
        except (DatasetError, MissingDataError) as error:
            said.append(str(error))
    assert said
    assert not any("\n" in one for one in said)


def test_a_header_that_leads_back_does_not_go_on_for_ever(tmp_path):
    path = packed(tmp_path / "x.tar", {b"cat/1.jpg": b"c", b"dog/1.jpg": b"d"})
    data = bytearray(path.read_bytes())
    header = data[1024:1536]
    header[124:136] = b"\xff" * 4 + struct.pack(">q", -1024)  # a size in base 256, below 0
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[1024:1536] = header
    path.write_bytes(data)
    assert "cut short or damaged" in error(path)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_is_not_read_whole_whatever_its_size(tmp_path, kind):
    path = packed(tmp_path / "x.tar", {b"cat/1.jpg": b"c", b"dog/1.jpg": b"d"})
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 200 << 20
    with path.open("r+b") as file:
        file.seek(2048)
        file.write(header.tobuf())
        file.truncate(300 << 20)  # of which no byte is on the disk
    tracemalloc.start()
    said = error(path)
    assert "cut short or damaged behind its entry 2 (a header of 209715200 bytes)" in said
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


def test_other_files_and_options(tmp_path):
    (tmp_path / "list.csv.gz").write_bytes(gzip.compress(b"path,label\n"))
    assert "is no archive, is cut short" in error(tmp_path / "list.csv.gz")
    (tmp_path / "x.zip").write_bytes(b"")
    assert "is no archive, is cut short" in error(tmp_path / "x.zip")
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    assert "is a file but none of .csv, .zip, .tar," in error(tmp_path / "x.rar")
    with pytest.raises(MissingDataError, match="no images at"):
        open_dataset(tmp_path / "gone.tar")
    path = packed(tmp_path / "two.tar", {b"cat/1.jpg": b"c", b"dog/1.jpg": b"d"})
    for suffix in ARCHIVE_SUFFIXES:
        assert open_dataset(path.rename(tmp_path / f"two{suffix}")).name == "two"
        path = tmp_path / f"two{suffix}"
    path = packed(tmp_path / "two.zip", {b"p/cat/1.jpg": b"c", b"q/dog/1.jpg": b"d"})
    assert open_dataset(path, layout="any/class").classes == ("cat", "dog")
    again = reopen_dataset({"location": str(path), "layout": "any/class"})
    assert again.classes == ("cat", "dog")
    with pytest.raises(InvalidInputError, match=r"^layout='x' is none"):
        open_dataset(path, layout="x")


def test_the_temporary_file_goes_with_its_dataset(tmp_path):
    path = packed(tmp_path / "x.tar.gz", {b"cat/1.jpg": b"c", b"dog/1.jpg": b"d"})
    (tmp_path / "t").mkdir()
    code = (
        "import os, sys, featbank.datasets as d\nx = d.open_dataset(sys.argv[1])\n"
        "n = len(os.listdir(os.environ['TMPDIR']))\ny = d.open_dataset(sys.argv[1]); del y\n"
        "print(n, len(os.listdir(os.environ['TMPDIR'])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "TMPDIR": str(tmp_path / "t")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.split(), list((tmp_path / "t").iterdir())) == (["1", "1"], [])


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="no real data beside the checkout")
def test_a_real_archive_without_unpacking(tmp_path):
    dataset = open_dataset(SHARED / "food101-20-64px.tar.gz")
    assert (len(dataset.ids), len(dataset.classes)) == (4000, 20)
    assert Image.open(io.BytesIO(dataset.read(3999))).size == (64, 64)
    assert zlib.crc32(dataset.read(0)) != zlib.crc32(dataset.read(1))
    assert _files.suffix_of(dataset.ids[0]) == b".jpg"
