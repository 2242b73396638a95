"""Images decoded on a device are those of the other loader: rows, statuses, reasons, pixels to a step."""

from __future__ import annotations

import io
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from featbank.backbones import Preprocessing
from featbank.datasets import Dataset, build_manifest, open_dataset
from featbank.errors import DecoderProcessError
from featbank.extraction.images import Batch, BatchLoader, DeviceBatchLoader
from featbank.extraction.jpeg_decoder import JpegDecoder, open_jpeg_decoder
from featbank.manifest import RowStatus

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
import corpus

CPU = torch.device("cpu")
SMALL = Preprocessing(24, 28)


@pytest.fixture(scope="module")
def decoder() -> JpegDecoder:
    return open_jpeg_decoder(CPU)


def save_jpeg(path: Path, seed: int, size: tuple[int, int] = (50, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten JPEGs, and a PNG in the middle."""
    for number in range(10):
        save_jpeg(tmp_path / "photos" / "ab"[number % 2] / f"{number}.jpg", number)
    with Image.open(tmp_path / "photos" / "a" / "4.jpg") as image:
        image.save(tmp_path / "photos" / "a" / "4.png")
    return tmp_path / "photos"


def both(
    dataset: Dataset,
    decoder: JpegDecoder,
    runs: Sequence[tuple[int, Sequence[int]]] | None = None,
    *,
    preprocessing: Preprocessing = SMALL,
    before: Callable[[], None] = lambda: None,
) -> tuple[list[Batch], list[Batch], DeviceBatchLoader]:
    """Load the same runs both ways: on the device, and as ever; `before` runs after the files are listed."""
    manifest = build_manifest(dataset)
    runs = runs or [(0, range(len(manifest)))]
    size = max(len(rows) for _, rows in runs)
    device = DeviceBatchLoader(dataset, manifest, preprocessing, 2, size, decoder=decoder)
    plain = BatchLoader(dataset, manifest, preprocessing, 2, size)
    before()
    found, wanted = list(device.batches(runs)), list(plain.batches(runs))
    device.close()
    plain.close()
    return found, wanted, device


def assert_same(found: Sequence[Batch], wanted: Sequence[Batch], steps: int = 2) -> None:
    assert [one.start for one in found] == [one.start for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert isinstance(one.images, Tensor)
        assert one.images.dtype == torch.uint8
        assert one.images.is_contiguous()
        assert one.statuses.tolist() == other.statuses.tolist()
        assert one.statuses.dtype == np.uint8
        assert one.bad == other.bad
        off = np.abs(one.images.cpu().numpy().astype(int) - other.images)
        assert off.max() <= steps


def test_rows_statuses_and_pixels_are_those_of_the_other_loader(photos, decoder) -> None:
    runs = [(0, [3, -1, 0]), (3, [5, 6]), (7, [-1]), (8, [10, 9, 8]), (20, [1, 2, 4, 7])]
    found, wanted, loader = both(open_dataset(photos), decoder, runs)
    assert_same(found, wanted)
    assert found[1].images.shape == (2, 24, 24, 3)
    assert (loader.n_on_device, loader.n_refused) == (10, 0)
    # what the device does not take is Pillow's, to the last bit
    png = next(row for row, one in enumerate(loader.manifest.ids) if one.endswith(b".png"))
    (place,) = [(run, rows.index(png)) for run, (_, rows) in enumerate(runs) if png in rows]
    assert np.array_equal(found[place[0]].images[place[1]], wanted[place[0]].images[place[1]])


@pytest.mark.parametrize(
    "preprocessing",
    [Preprocessing(40, 20), Preprocessing(16, 18, "bicubic"), Preprocessing(33, 1, mode="squash")],
)
def test_each_way_to_resize(photos, decoder, preprocessing) -> None:
    found, wanted, _ = both(open_dataset(photos), decoder, preprocessing=preprocessing)
    assert_same(found, wanted)


@pytest.mark.slow
def test_odd_images_end_as_ever(tmp_path, decoder) -> None:
    corpus.write_folder(tmp_path / "odd")
    found, wanted, loader = both(open_dataset(tmp_path / "odd"), decoder)
    assert_same(found, wanted)
    reasons = {one.id: one.reason for one in found[0].bad}
    assert reasons == {b"a/" + one.name: one.reason for one in corpus.contents() if one.reason}
    assert loader.n_on_device == 3


@pytest.mark.shared
def test_photographs(shared, tmp_path, decoder) -> None:
    for file in sorted((shared / "data" / "caltech101-32").glob("*/image_0001.jpg")):
        (tmp_path / "photos" / file.parent.name).mkdir(parents=True)
        shutil.copy(file, tmp_path / "photos" / file.parent.name)
    found, wanted, loader = both(
        open_dataset(tmp_path / "photos"), decoder, preprocessing=Preprocessing(224, 256)
    )
    assert_same(found, wanted)
    assert loader.n_on_device == len(loader.manifest) == 32
    # torchvision rounds its resize otherwise, hardly ever
    assert np.mean(found[0].images.numpy() == wanted[0].images) > 0.995


def test_what_became_of_a_file_since_it_was_listed_is_told_as_ever(photos, decoder) -> None:
    def change() -> None:
        save_jpeg(photos / "a" / "0.jpg", 99)  # another plain JPEG
        (photos / "a" / "2.jpg").unlink()
        (photos / "b" / "1.jpg").write_bytes(b"")

    found, wanted, loader = both(open_dataset(photos), decoder, before=change)
    assert_same(found, wanted)
    assert [one.reason for one in found[0].bad] == ["changed", "unreadable", "changed"]
    assert found[0].statuses.tolist().count(RowStatus.ABSENT) == 3
    assert loader.n_on_device == 7


class Picky:
    """A decoder that gives up on a whole list because of one file, as nvJPEG does."""

    def __init__(self, *refused: bytes) -> None:
        self.refused, self.calls = refused, []
        self.broken = False

    def __call__(self, files: list[Tensor]) -> list[Tensor]:
        contents = [bytes(one.numpy()) for one in files]
        self.calls.append(len(files))
        if self.broken or any(one in self.refused for one in contents):
            raise RuntimeError("Failed to decode batch: 4")
        return [
            torch.from_numpy(np.array(Image.open(io.BytesIO(one)).convert("RGB"))).permute(2, 0, 1)
            for one in contents
        ]


def test_a_refused_file_is_decoded_by_pillow_and_costs_no_other(photos) -> None:
    picky = Picky((photos / "a" / "2.jpg").read_bytes(), (photos / "b" / "9.jpg").read_bytes())
    found, wanted, loader = both(open_dataset(photos), JpegDecoder(CPU, "picky", picky))
    assert_same(found, wanted)
    assert (loader.n_on_device, loader.n_refused) == (8, 2)
    assert picky.calls[0] == 10
    assert found[0].bad == []
    for name in (b"a/2.jpg", b"b/9.jpg"):
        row = loader.manifest.ids.index(name)
        assert np.array_equal(found[0].images[row], wanted[0].images[row])


def test_a_refused_file_that_pillow_refuses_too_is_bad(photos) -> None:
    whole = (photos / "a" / "2.jpg").read_bytes()
    at = whole.index(b"\xff\xc4") + 5  # a table of Huffman codes with more codes than there can be
    (photos / "a" / "2.jpg").write_bytes(whole[:at] + b"\xff" * 16 + whole[at + 16 :])
    found, wanted, loader = both(open_dataset(photos), open_jpeg_decoder(CPU))
    assert_same(found, wanted)
    assert [one.reason for one in found[0].bad] == ["decoder-error"]
    assert (loader.n_on_device, loader.n_refused) == (9, 1)


def test_a_decoder_that_stops_working_is_not_the_files_fault(photos) -> None:
    picky = Picky()
    decoder = JpegDecoder(CPU, "picky", picky)
    picky.broken = True
    with pytest.raises(DecoderProcessError) as caught:
        both(open_dataset(photos), decoder)
    assert str(caught.value) == (
        f"{decoder.name} worked and does not any more (Failed to decode batch: 4); "
        "look at the device's memory, or decode on the CPU"
    )


def test_lack_of_memory_is_not_a_refusal(photos) -> None:
    def full(files: list[Tensor]) -> list[Tensor]:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    with pytest.raises(torch.OutOfMemoryError):
        both(open_dataset(photos), JpegDecoder(CPU, "full", full))


def brighter(files: list[Tensor]) -> list[Tensor]:
    return [one.clamp(0, 252) + 3 for one in Picky()(files)]


def test_what_the_device_decoded_is_what_is_handed_out(photos) -> None:
    found, wanted, loader = both(open_dataset(photos), JpegDecoder(CPU, "brighter", brighter))
    for row, one in enumerate(loader.manifest.ids):
        off = np.mean(found[0].images[row].numpy().astype(int) - wanted[0].images[row])
        assert (off == 0) if one.endswith(b".png") else (2 < off < 4)
    assert loader.steps_off is not None
    assert 2 < loader.steps_off < 4


def test_an_image_the_device_cannot_resize_is_left_to_pillow(photos, decoder, monkeypatch) -> None:
    geometry = Preprocessing.apply_tensor_geometry

    def limited(self: Preprocessing, image: Tensor) -> Tensor:
        if image.shape[2] == 90:
            raise RuntimeError("Too much shared memory required")
        return geometry(self, image)

    monkeypatch.setattr(Preprocessing, "apply_tensor_geometry", limited)
    save_jpeg(photos / "a" / "wide.jpg", 50, size=(90, 20))
    found, wanted, loader = both(open_dataset(photos), decoder)
    assert_same(found, wanted)
    assert (loader.n_on_device, loader.n_refused) == (10, 1)


@pytest.mark.slow
def test_pixels_of_one_call_are_bounded(photos, monkeypatch) -> None:
    save_jpeg(photos / "b" / "large.jpg", 51, size=(100, 100))
    monkeypatch.setattr("featbank.extraction.images._MAX_PIXELS", 5000)  # two of the small ones
    picky = Picky()
    found, wanted, loader = both(open_dataset(photos), JpegDecoder(CPU, "picky", picky))
    assert_same(found, wanted)
    assert picky.calls == [2] * 5
    assert loader.n_on_device == 10


@pytest.mark.slow
@pytest.mark.parametrize("with_paths", [True, False])
def test_large_files_are_left_to_the_processes(photos, decoder, monkeypatch, with_paths) -> None:
    dataset = open_dataset(photos)
    if not with_paths:
        dataset = Bare(dataset)
    sizes = sorted(len(one.read_bytes()) for one in photos.glob("*/*.jpg"))
    monkeypatch.setattr("featbank.extraction.images._MAX_FILE_BYTES", sizes[6])
    found, wanted, loader = both(dataset, decoder)
    assert_same(found, wanted)
    assert loader.n_on_device == 7


class Bare:
    """A dataset that has no files, only what reads them."""

    def __init__(self, whole: Dataset) -> None:
        self.name, self.location, self.ids, self.labels = whole.name, whole.location, whole.ids, whole.labels
        self.classes, self.splits, self.read = whole.classes, whole.splits, whole.read


def test_only_a_few_runs_are_read_ahead(photos, decoder) -> None:
    drawn: list[int] = []

    def runs() -> Iterator[tuple[int, list[int]]]:
        for number in range(50):
            drawn.append(number)
            yield number, [number % 11]

    dataset = open_dataset(photos)
    loader = DeviceBatchLoader(dataset, build_manifest(dataset), SMALL, 2, 2, decoder=decoder)
    batches = loader.batches(runs())
    assert next(batches).start == 0
    assert len(drawn) < 10
    batches.close()  # in the middle, and it can be used again
    assert loader.load([3, 4]).statuses.tolist() == [RowStatus.OK] * 2
    loader.close()


def test_an_error_among_the_runs_comes_through(photos, decoder) -> None:
    def runs() -> Iterator[tuple[int, list[int]]]:
        yield 0, [0]
        raise KeyError("the caller's own")

    dataset = open_dataset(photos)
    loader = DeviceBatchLoader(dataset, build_manifest(dataset), SMALL, 2, 1, decoder=decoder)
    with pytest.raises(KeyError, match="the caller's own"):
        list(loader.batches(runs()))
    loader.close()


def test_the_end_says_how_many_went_which_way(photos, caplog) -> None:
    picky = Picky((photos / "a" / "2.jpg").read_bytes())
    decoder = JpegDecoder(CPU, "picky", picky)
    with caplog.at_level(logging.INFO, logger="featbank"):
        both(open_dataset(photos), decoder)
    (said,) = [one.getMessage() for one in caplog.records if "images decoded by" in one.getMessage()]
    assert said.startswith(
        f"9 images decoded by {decoder.name}, which refused 1; the others by Pillow, whose "
    )
    assert said.endswith(" steps of 255 off")


def turned(files: list[Tensor]) -> list[Tensor]:
    return [one.flip(2) for one in Picky()(files)]


def test_other_pictures_than_pillows_are_not_handed_out(photos) -> None:
    decoder = JpegDecoder(CPU, "turned", turned)
    with pytest.raises(DecoderProcessError) as caught:
        both(open_dataset(photos), decoder)
    assert re.fullmatch(
        rf"{re.escape(decoder.name)} decodes these images to others than Pillow does, \d\d steps of 255 off; "
        "decode on the CPU",
        str(caught.value),
    )


@pytest.mark.slow
def test_the_pixels_are_compared_until_three_images_could_be(photos, decoder) -> None:
    runs = [(0, [0, 1]), (2, [2, 3, 4, 5]), (6, [6, 7, 8])]
    found, wanted, loader = both(open_dataset(photos), decoder, runs)
    assert_same(found, wanted)
    off = [np.abs(found[1].images[at].numpy().astype(int) - wanted[1].images[at]).mean() for at in range(4)]
    n_plain = len([row for row in runs[1][1] if loader.manifest.ids[row].endswith(b".jpg")])
    assert n_plain >= 3
    assert loader.steps_off is not None
    assert min(off) <= loader.steps_off <= max(off) < 0.5
    _, _, alone = both(open_dataset(photos), decoder, [(0, [0, 1])])
    assert alone.steps_off is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda_rows_and_statuses_are_the_same_and_pixels_a_few_steps_off(photos) -> None:
    runs = [(0, [3, -1, 0, 4, 5, 6]), (6, [10, 9, 8, 1, 2, 7])] * 5
    found, wanted, loader = both(open_dataset(photos), open_jpeg_decoder(torch.device("cuda")), runs)
    assert all(one.images.device.type == "cuda" for one in found)
    assert_same(found, wanted, steps=64)
    assert loader.n_on_device == 50
    assert loader.steps_off is not None
    assert loader.steps_off < 4
    for one in found[2:]:  # decoded again, the same bits
        assert torch.equal(one.images, found[0 if one.start == 0 else 1].images)
