"""A decoder that dies or hangs costs its own image and nothing else."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import sys
import threading
import time

import numpy as np
import pytest
from made_datasets import SHAPE, Decoded, Files, Images, png, pool_of
from PIL import Image

from featbank.datasets import build_manifest, decode_pool, open_dataset, select_images
from featbank.datasets._torchvision import TorchvisionDataset
from featbank.datasets.decode_pool import DecodeRequest
from featbank.datasets.derived import BlurredDataset, with_test_images
from featbank.errors import DatasetError, DecoderProcessError, ImageDecodeError, InvalidInputError
from featbank.manifest import RowStatus


@pytest.mark.parametrize("where", ["dataset", "files"])
@pytest.mark.parametrize("workers", [1, 3])
def test_pixels_and_failures_are_those_of_a_plain_loop(odd, tmp_path, where, workers) -> None:
    contents: list[bytes | Exception] = [png(odd.PLAIN, number) for number in range(50)]
    contents[7] = b""
    contents[9] = b"<html>"
    contents[11] = OSError(5, "Input/output error")
    dataset = Images(contents)
    if where == "files":
        dataset = Files(contents, tmp_path)
    else:
        contents[13] = ImageDecodeError("decoder-error", "the source says so")
    digests = np.stack(
        [
            np.frombuffer(hashlib.sha256(one if isinstance(one, bytes) else b"").digest(), np.uint8)
            for one in contents
        ]
    )
    digests[20] = 0
    rows = [*range(50), -1, 3, 3, -1]
    with pool_of(dataset, odd.act, batch_size=20, workers=workers) as pool:
        got = []
        starts = range(0, len(rows), 20)
        requests = (DecodeRequest(rows[at : at + 20], digests[rows[at : at + 20]]) for at in starts)
        for start, batch in zip(starts, pool.batches(requests), strict=True):
            assert batch.images.flags.c_contiguous
            assert batch.images.dtype == np.uint8
            got += [(start + one.position, one.reason, one.detail) for one in batch.failures]
            for position, row in enumerate(rows[start : start + 20]):
                expected = np.zeros(SHAPE, np.uint8)
                if batch.decoded[position]:
                    expected = np.asarray(Image.open(io.BytesIO(contents[row])))
                np.testing.assert_array_equal(batch.images[position], expected)
                failed = position in [one.position for one in batch.failures]
                assert batch.decoded[position] == (row >= 0 and not failed)
    want = [(7, "empty"), (9, "not-an-image"), (11, "unreadable"), (20, "changed")]
    want += [(13, "decoder-error")] if where == "dataset" else []
    assert [one[:2] for one in got] == sorted(want)
    details = {one[0]: one[2] for one in got}
    said = "Input/output error" if where == "dataset" else "No such file or directory"
    assert details[11] == said
    assert details[20] == "the file changed while it was being extracted"


@pytest.mark.slow
def test_crashes_and_hangs_cost_their_own_rows(odd, tmp_path) -> None:
    named = {5 * number + 3: name for number, name in enumerate([*odd.CRASHES, *odd.HANGS, "ten-gigabytes"])}
    code = {**odd.CRASHES, **odd.HANGS, **odd.OTHERS}
    reasons = dict.fromkeys(odd.CRASHES, "crashed") | dict.fromkeys(odd.HANGS, "timeout")
    reasons["ten-gigabytes"] = "out-of-memory"
    contents = [png(code[named[n]] if n in named else odd.PLAIN, n) for n in range(60)]
    good = [n for n in range(60) if n not in named]
    with pool_of(Files(contents, tmp_path), odd.act, timeout_s=1.0) as pool:
        first, again = pool.batches([DecodeRequest(range(60))]), pool.batches([DecodeRequest(good)])
        (batch,) = first
        assert {one.position: one.reason for one in batch.failures} == {
            position: reasons[name] for position, name in named.items()
        }
        assert np.flatnonzero(~batch.decoded).tolist() == sorted(named)
        assert batch.images[good, 0, 0].tolist() == [[odd.PLAIN, n, 0] for n in good]
        assert not batch.images[sorted(named)].any()
        details = {named[one.position]: one.detail for one in batch.failures}
        (batch,) = again  # the pool is as good as new
        assert batch.images[:, 0, 0, 1].tolist() == good
    assert details["exit"] == "the decoder ended with status 3"
    assert details["segfault"] == "the decoder died of SIGSEGV"
    assert details["abort"] == "the decoder died of SIGABRT"
    assert details["sleep"] == "not decoded after 1 seconds"
    assert details["ten-gigabytes"] == f"decoding needs more than {2 << 30} bytes"


@pytest.mark.slow
def test_nothing_of_an_earlier_batch_shows(odd) -> None:
    contents = [png(odd.PLAIN), b"", png(odd.CRASHES["exit"])]
    with pool_of(Images(contents), odd.act, ahead=1) as pool:
        requests = [DecodeRequest([0, 0, 0, 0])] * 4 + [DecodeRequest([0, -1, 1, 2])] * 2
        for number, batch in enumerate(pool.batches(requests)):
            shown = batch.images.any(axis=(1, 2, 3)).tolist()
            assert shown == ([True] * 4 if number < 4 else [True, False, False, False])


@pytest.mark.slow
def test_a_batch_of_nothing_but_crashers(odd) -> None:
    with pool_of(Images([png(odd.CRASHES["exit"])] * 3), odd.act) as pool:
        (batch,) = pool.batches([DecodeRequest(range(3))])
    assert [one.reason for one in batch.failures] == ["crashed"] * 3


@pytest.mark.slow
def test_a_death_that_does_not_come_again_costs_nothing(odd) -> None:
    contents = [png(odd.OTHERS["once"] if n in (2, 9) else odd.PLAIN, n) for n in range(16)]
    with pool_of(Images(contents), odd.act) as pool:
        (batch,) = pool.batches([DecodeRequest(range(16))])
    assert batch.failures == []
    assert batch.images[:, 0, 0, 1].tolist() == list(range(16))


def test_a_generator_left_early_gives_its_memory_back(odd) -> None:
    with pool_of(Images([png(odd.PLAIN, n) for n in range(40)]), odd.act, ahead=2) as pool:
        for _ in range(6):
            batches = pool.batches(DecodeRequest(range(40)) for _ in range(9))
            next(batches)
            batches.close()
        assert [batch.decoded.all() for batch in pool.batches([DecodeRequest(range(40))] * 5)] == [True] * 5


@pytest.mark.slow
@pytest.mark.parametrize("held", [1, 2, 3])
def test_batches_stay_as_long_as_they_are_held(odd, held) -> None:
    contents = [png(odd.PLAIN, n) for n in range(12)]
    taken, kept = [], 0
    with pool_of(Images(contents), odd.act, ahead=3) as pool:
        for batch in pool.batches((DecodeRequest([n]) for n in range(12)), held=held):
            taken.append(batch.images)
            time.sleep(0.05)  # what there is room for is decoded
            kept = max(kept, len({one.ctypes.data for one in taken}))
            for number, one in list(enumerate(taken))[-held:]:
                assert one[0, 0, 0, 1] == number
    assert kept == 4  # the memory is used again
    with (
        pool_of(Images(contents), odd.act, ahead=3) as pool,
        pytest.raises(InvalidInputError, match=r"^held=4 must be 1 to 3, what is ahead$"),
    ):
        next(pool.batches([DecodeRequest([0])], held=4))


@pytest.mark.parametrize(
    ("side", "n", "sizes"), [(32, 1024, [256] * 4), (32, 3, [1] * 3), (224, 96, [16] * 6), (900, 9, [3] * 3)]
)
def test_chunks_of_small_images_are_large(odd, monkeypatch, side, n, sizes) -> None:
    found, chunk = [], decode_pool.Chunk

    def counted(positions, *others):
        found.append(len(positions))
        return chunk(positions, *others)

    def enlarge(image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((side, side)))

    monkeypatch.setattr(decode_pool, "Chunk", counted)
    with pool_of(Images([png(odd.PLAIN)]), enlarge, shape=(side, side, 3), batch_size=n) as pool:
        (batch,) = pool.batches([DecodeRequest([0] * n)])
    assert batch.decoded.all()
    assert found == sizes


@pytest.mark.slow
def test_what_was_left_early_does_not_write_into_later_batches(odd) -> None:
    contents = [png(odd.PLAIN, 1), png(odd.OTHERS["slow"], 2)]
    with pool_of(Images(contents), odd.act, ahead=1) as pool:
        first = pool.batches([DecodeRequest([0]), DecodeRequest([1])])
        next(first)
        first.close()  # while the slow one is being decoded
        for batch in pool.batches([DecodeRequest([0])] * 3):
            before = batch.images.copy()
            time.sleep(0.4)
            np.testing.assert_array_equal(batch.images, before)
            assert before[0, 0, 0].tolist() == [odd.PLAIN, 1, 0]


def test_one_user_at_a_time(odd) -> None:
    with pool_of(Images([png(odd.PLAIN)]), odd.act) as pool:
        first = pool.batches([DecodeRequest([0])] * 2)
        next(first)
        with pytest.raises(
            InvalidInputError, match=r"^batches of this DecodePool are being taken already; e"
        ):
            next(pool.batches([DecodeRequest([0])]))
        assert next(first).decoded.all()


def test_an_empty_request_and_one_of_nothing(odd) -> None:
    with pool_of(Images([png(odd.PLAIN)]), odd.act) as pool:
        empty, absent = pool.batches([DecodeRequest([]), DecodeRequest([-1, -1])])
        assert empty.images.shape == (0, *SHAPE)
        assert not absent.decoded.any()
        assert list(pool.batches([])) == []


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("wrong-shape", InvalidInputError, r"^to_pixels gave uint8 of shape \(1, 1, 3\), not uint8 of shape"),
        (
            "bug",
            RuntimeError,
            r"(?s)^the dataset or to_pixels failed in a decoding .*:\nTraceback.*no such colour",
        ),
    ],
)
def test_a_fault_of_the_callable_is_raised_here(odd, what, error, message) -> None:
    contents = [png(odd.PLAIN), png(odd.OTHERS[what])]
    with pool_of(Images(contents), odd.act) as pool, pytest.raises(error, match=message):
        list(pool.batches([DecodeRequest([0, 1])] * 20))


def test_callables_that_cannot_travel(odd) -> None:
    lock = threading.Lock()
    with pytest.raises(
        InvalidInputError,
        match=r"^the dataset 'images' \(Images\), or to_pixels=<.* cannot be sent to a decod",
    ):
        pool_of(Images([png(1)]), lambda image: lock)
    here = type(sys)("only_here")
    here.act = lambda image: np.asarray(image)
    here.act.__module__, here.act.__qualname__, here.act.__name__ = "only_here", "act", "act"
    sys.modules["only_here"] = here
    try:
        with (
            pool_of(Images([png(1)]), here.act) as pool,
            pytest.raises(
                InvalidInputError,
                match=r"^the dataset or to_pixels is not known to a decoding process \(ModuleNotFoundError: "
                r"No module named 'only_here'\); define it in a module that can be imported, or in the scri",
            ),
        ):
            list(pool.batches([DecodeRequest([0])]))
    finally:
        del sys.modules["only_here"]


def test_a_process_cannot_answer_for_images_of_others(odd) -> None:
    with pytest.raises(DecoderProcessError, match="answered for images it was not given"):
        decode_pool.failures_said({"failures": [[3, "empty", ""]]}, np.arange(3))


def test_arguments_that_cannot_work(odd) -> None:
    with pytest.raises(InvalidInputError, match=r"^batch_size=0, workers=-1: must be more than 0$"):
        pool_of(Images([png(1)]), odd.act, batch_size=0, workers=-1)
    with (
        pool_of(Images([png(1)]), odd.act, batch_size=2) as pool,
        pytest.raises(InvalidInputError, match=r"^a request of 3 images, batch_size=2 is the most$"),
    ):
        next(pool.batches([DecodeRequest([0, 0, 0])]))


def test_bytes_too_many_for_the_memory(odd) -> None:
    class Blown(Images):
        def read(self, index: int) -> bytes:
            return super().read(index) + bytes(index * 64 << 20)

    with pool_of(Blown([png(odd.PLAIN)] * 2), odd.act, max_memory_bytes=32 << 20) as pool:
        (batch,) = pool.batches([DecodeRequest([0, 1])])
    assert [(one.position, one.reason) for one in batch.failures] == [(1, "out-of-memory")]


def test_a_folder_is_read_by_the_processes(photo_folder, monkeypatch) -> None:
    from featbank.backbones import Preprocessing

    dataset = open_dataset(photo_folder())
    want = [dataset.read(index) for index in range(len(dataset.ids))]
    here, read = os.getpid(), type(dataset).read
    monkeypatch.setattr(
        type(dataset),
        "read",
        lambda self, index: pytest.fail("read in the parent") if os.getpid() == here else read(self, index),
    )
    with pool_of(dataset, Preprocessing(8, 9).apply_geometry) as pool:
        (batch,) = pool.batches([DecodeRequest(range(len(want)))])
    for pixels, data in zip(batch.images, want, strict=True):
        expected = Preprocessing(8, 9).apply_geometry(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(pixels, expected)


def test_an_image_that_a_resize_blows_up(odd) -> None:
    from featbank.backbones import Preprocessing

    # 1 x 20,000 pixels, scaled so that its shorter side has 256: five gigabytes.
    file = io.BytesIO()
    Image.new("RGB", (1, 20_000)).save(file, "PNG")
    contents = [png(odd.PLAIN), file.getvalue()]
    preprocessing = Preprocessing(224, 256)
    with pool_of(
        Images(contents),
        preprocessing.apply_geometry,
        shape=(224, 224, 3),
        workers=1,
        max_memory_bytes=256 << 20,
    ) as pool:
        (batch,) = pool.batches([DecodeRequest([0, 1])])
    assert [one.position for one in batch.failures] == [1]
    assert batch.failures[0].reason in ("out-of-memory", "too-many-pixels")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrapped", "act", "reason"),
    [
        ("torchvision", "segfault", "crashed"),
        ("torchvision", "exit", "crashed"),
        ("torchvision", "sleep", "timeout"),
        ("torchvision", "ten-gigabytes", "out-of-memory"),
        ("blurred", "segfault", "crashed"),
        ("part of it", "sleep", "timeout"),
    ],
)
def test_an_image_that_its_dataset_decodes_costs_its_own_row(odd, wrapped, act, reason, monkeypatch) -> None:
    monkeypatch.setattr(decode_pool, "TIMEOUT_S", 2.0)
    dataset = TorchvisionDataset({"": Decoded({5: act})}, name="odd", location="here")
    if wrapped == "blurred":
        dataset = BlurredDataset(dataset, 1)
    elif wrapped == "part of it":
        dataset = select_images(dataset, images_per_class=5)
    manifest = build_manifest(dataset)
    assert np.flatnonzero(manifest.statuses != RowStatus.OK).tolist() == [5]
    n = len(dataset.ids)
    with pool_of(dataset, odd.act) as pool:
        (batch,) = pool.batches([DecodeRequest(range(n), manifest.digests)])
    assert {one.position: one.reason for one in batch.failures} == {5: reason}
    assert batch.decoded.sum() == n - 1


@pytest.mark.slow
def test_parts_and_mixtures_are_read_by_the_processes(odd, tmp_path) -> None:
    (tmp_path / "files").mkdir()
    files = Files([png(odd.PLAIN, n) for n in range(8)], tmp_path / "files")  # its read() fails the test here
    part = select_images(files, images_per_class=2)
    assert part.path_of(3) == files.path_of(3)
    assert select_images(part, images_per_class=1).path_of(1) == files.path_of(1)
    with pool_of(part, odd.act) as pool:
        (batch,) = pool.batches([DecodeRequest(range(4))])
    assert batch.images[:, 0, 0, 1].tolist() == [0, 1, 2, 3]
    inside = Images([png(odd.PLAIN, 10 + n) for n in range(8)])
    inside.splits = ("train",) * 8
    mixed = with_test_images(inside, part, name="mixed")
    assert not hasattr(mixed, "path_of")
    with pool_of(mixed, odd.act) as pool:
        (batch,) = pool.batches([DecodeRequest(range(12))])
    assert batch.images[:, 0, 0, 1].tolist() == [*range(10, 18), *range(4)]


def test_large_arrays_of_a_dataset_are_shared_not_copied(odd) -> None:
    class Pixels(Images):
        def __init__(self) -> None:
            super().__init__([b""] * 4)
            self.pixels = np.full((4, *SHAPE), odd.PLAIN, np.uint8)
            self.ballast = np.ones(64 << 20, np.uint8)

        def read(self, index: int) -> bytes:
            resident = int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE  # noqa: SIM115, PTH123
            self.pixels[index, 0, 0, 1] = resident >> 20 > 120
            file = io.BytesIO()
            Image.fromarray(self.pixels[index]).save(file, "PNG")
            return file.getvalue()

    dataset = Pixels()
    with pool_of(dataset, odd.act, workers=1) as pool:
        (batch,) = pool.batches([DecodeRequest(range(4))])
    assert batch.decoded.all()
    assert batch.images[:, 0, 0, 1].tolist() == [0, 0, 0, 0]  # what it wrote is its own, and little memory is
    assert not (dataset.pixels[:, 0, 0, 1] != odd.PLAIN).any()


def test_errors_of_a_dataset_keep_their_kind(odd) -> None:
    class Broken(Images):
        def read(self, index: int) -> bytes:
            raise DatasetError("it gives no pictures")

    with (
        pool_of(Broken([b""]), odd.act) as pool,
        pytest.raises(DatasetError, match=r"^it gives no pictures$"),
    ):
        list(pool.batches([DecodeRequest([0])]))


@pytest.mark.slow
def test_items_at_the_ends_that_cannot_be_read_cost_their_rows_too(odd) -> None:
    dataset = TorchvisionDataset({"": Decoded({0: "segfault", 11: "exit"})}, name="odd", location="here")
    assert dataset.labels == tuple("ab" * 6)
    assert np.flatnonzero(build_manifest(dataset).statuses != RowStatus.OK).tolist() == [0, 11]
    unlisted = Decoded({3: "abort"})
    del unlisted.targets
    with pytest.raises(
        DatasetError, match=r"^here: item 3 cannot be read, so its label is not known: the deco"
    ):
        TorchvisionDataset({"": unlisted}, name="odd", location="here")
