"""Rows land where the manifest says, whatever is asked for and however it is asked for."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from featbank.banks import Bank, CutArray, open_archive, pack
from featbank.banks import arrays as cut_reader
from featbank.errors import BankChangedError, IncompleteBankError, InvalidInputError, UnknownNameError

CUTS = ("block1_pool", "fc7", "logits")


@pytest.mark.parametrize("cut", CUTS)
def test_random_rows_are_the_images_rows(grown, kit, cut):
    assert len(grown.slot_table.segments) == 4
    reference = kit.expected(cut, grown.manifest)
    array = grown[cut]
    assert array.shape == reference.shape
    assert array.dtype == reference.dtype
    assert array.ndim == reference.ndim
    assert len(array) == len(reference)
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = rng.integers(-len(reference), len(reference), rng.integers(0, 60))
        got = array[rows]
        assert got.dtype == reference.dtype
        np.testing.assert_array_equal(got, reference[rows])
    np.testing.assert_array_equal(array[:], reference)
    np.testing.assert_array_equal(np.asarray(array), reference)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("large", [1, 10**9])
@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_every_way_of_copying_gives_the_same(grown, kit, cut, large, block, monkeypatch):
    monkeypatch.setattr(cut_reader, "_LARGE_ROW_BYTES", large)
    monkeypatch.setattr(cut_reader, "_BLOCK_BYTES", block)
    monkeypatch.setattr(cut_reader, "_MAPS_LIMIT", 2)
    reference = kit.expected(cut, grown.manifest)
    rng = np.random.default_rng(1)
    for _ in range(20):
        rows = rng.integers(0, len(reference), 30)
        np.testing.assert_array_equal(grown[cut][rows], reference[rows])
        np.testing.assert_array_equal(
            grown[cut].read(rows, dtype="float64"), reference[rows].astype("float64")
        )
        strided = np.empty((30, *reference.shape[1:], 2), reference.dtype)[..., 0]
        assert grown[cut].read(rows, out=strided) is strided
        np.testing.assert_array_equal(strided, reference[rows])


INDEXES = {
    "int": 3,
    "negative": -1,
    "numpy int": np.int32(7),
    "slice": slice(2, 30, 3),
    "backwards": slice(None, None, -1),
    "empty slice": slice(5, 5),
    "far slice": slice(10, 10_000),
    "list": [4, 4, 0, -2],
    "empty list": [],
    "tuple in list": [1, 2],
    "uint": np.array([5, 6], np.uint8),
    "two axes of rows": np.array([[0, 1], [2, 0]]),
    "column": (slice(None), 1),
    "row and column": (2, 1),
    "rows and column": ([2, 5, 2], 1),
    "rows and columns": ([2, 5, 2], [0, 1, 0]),
    "int and columns": (4, [0, 1, 0]),
    "rows and slice": ([2, 5], slice(1, 3)),
    "ellipsis": ...,
    "ellipsis column": (..., 0),
    "rows ellipsis": ([1, 0], ...),
    "new axis": (None, 2),
    "row tuple": (5,),
    "nothing": (),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES.keys())
def test_indexing_is_numpys(bank, manifest, kit, cut, index):
    reference = kit.expected(cut, manifest)
    want = reference[np.asarray(index, int) if isinstance(index, list) and not index else index]
    got = bank[cut][index]
    assert got.shape == want.shape
    np.testing.assert_array_equal(got, want)
    assert got.flags.writeable


def test_masks(bank, manifest, kit):
    reference = kit.expected("fc7", manifest)
    mask = np.arange(len(manifest)) % 3 == 0
    np.testing.assert_array_equal(bank["fc7"][mask], reference[mask])
    np.testing.assert_array_equal(bank["fc7"][mask, 1:], reference[mask, 1:])
    np.testing.assert_array_equal(bank["fc7"][mask.tolist()], reference[mask])
    with pytest.raises(IndexError, match=r"boolean mask has shape \(36,\), the rows of 'fc7' have \(37,\)"):
        bank["fc7"][mask[1:]]


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (37, "row 37 is out of range for the 37 rows of 'fc7'"),
        (-38, "row -38 is out of range"),
        ([0, 99], "row 99 is out of range"),
        (1.5, "row 1.5 is no integer"),
        ("x", "row 'x' is no integer"),
        ([0.5], "row numbers have dtype float64"),
        (True, "row True is no integer"),
    ],
)
def test_wrong_indexes_are_index_errors(bank, index, said):
    with pytest.raises(IndexError, match=said):
        bank["fc7"][index]


def test_the_array_protocol(bank, manifest, kit):
    reference = kit.expected("fc7", manifest)
    array = bank["fc7"]
    assert np.asarray(array, np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.asarray(array, np.float32), reference.astype(np.float32))
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(array, copy=False)
    assert float(np.mean(array)) == pytest.approx(float(reference.mean()))
    assert sum(1 for _ in array) == len(reference)
    np.testing.assert_array_equal(next(iter(array)), reference[0])
    assert (array.size, array.nbytes, array.n_features) == (37 * 5, 37 * 10, 5)
    assert repr(array) == "<CutArray 'fc7' shape=(37, 5) dtype=float16 of 'shapes/minivgg-fa4f2b3c'>"


def test_scikit_learn_takes_it(bank, manifest, kit):
    from sklearn.model_selection import train_test_split
    from sklearn.utils import _safe_indexing, check_array

    reference = kit.expected("fc7", manifest)
    np.testing.assert_array_equal(check_array(bank["fc7"], dtype=np.float32), reference.astype(np.float32))
    np.testing.assert_array_equal(_safe_indexing(bank["fc7"], [3, 1]), reference[[3, 1]])
    train, test = train_test_split(bank["fc7"], random_state=0)
    want_train, want_test = train_test_split(reference, random_state=0)
    np.testing.assert_array_equal(train, want_train)
    np.testing.assert_array_equal(test, want_test)


def test_batches(bank, manifest, kit):
    batches = list(bank["logits"].iter_batches(10))
    assert [len(batch) for batch in batches] == [10, 10, 10, 7]
    np.testing.assert_array_equal(np.concatenate(batches), kit.expected("logits", manifest))
    with pytest.raises(InvalidInputError, match="batch_size=0 is below 1"):
        list(bank["logits"].iter_batches(0))


def test_features_are_flat_float32(bank, manifest, kit):
    reference = kit.expected("block1_pool", manifest)
    got = bank.features("block1_pool", [3, 1])
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, reference[[3, 1]].reshape(2, 12).astype(np.float32))
    assert bank.features("block1_pool", []).shape == (0, 12)
    assert bank.features("fc7", dtype=np.float16).dtype == np.float16


def test_out_must_fit(bank):
    with pytest.raises(InvalidInputError, match=r"out has shape \(2, 4\), the rows asked for have \(2, 5\)"):
        bank["fc7"].read([0, 1], out=np.empty((2, 4)))
    with pytest.raises(InvalidInputError, match="both out and dtype are given"):
        bank["fc7"].read([0], out=np.empty((1, 5)), dtype="f4")


def test_softmax(bank, manifest, kit):
    logits = kit.expected("logits", manifest).astype(np.float64)
    for temperature in (0.5, 1, np.float32(3.0)):
        want = np.exp(logits / temperature)
        want /= want.sum(axis=1, keepdims=True)
        got = bank.softmax(temperature)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=2e-6)
    np.testing.assert_array_equal(bank.softmax(2.0, [5, 1]), bank.softmax(2.0)[[5, 1]])
    np.testing.assert_array_equal(bank["softmax"][:], bank.softmax(1.0))
    np.testing.assert_array_equal(bank.features("softmax", [0]), bank.softmax(1.0, [0]))
    assert bank["softmax"].dtype == np.float32
    hard = bank.softmax(1e-300)
    np.testing.assert_array_equal(hard, np.eye(4, dtype=np.float32)[logits.argmax(axis=1)])


def test_softmax_of_huge_logits_does_not_overflow(store, kit):
    bank = store.create_or_open("huge", kit.KEY, {})
    bank.set_manifest(kit.make_manifest(["a"]))
    writer = bank.cut_writer("logits", (3,), "float32")
    writer.write(writer.missing()[0], np.array([[3e38, 3e38, -3e38]], np.float32), np.zeros(1, np.uint8))
    writer.finish({})
    np.testing.assert_array_equal(bank.softmax(0.1), [[0.5, 0.5, 0.0]])


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), True, "1", None])
def test_softmax_needs_a_temperature_over_zero(bank, temperature):
    with pytest.raises(
        InvalidInputError, match=f"^temperature={temperature!r} must be a finite number over 0"
    ):
        bank.softmax(temperature)


def test_softmax_without_logits_says_how_to_get_them(store, manifest, kit):
    bank = store.create_or_open("shapes", kit.KEY, kit.PROVENANCE)
    bank.set_manifest(manifest)
    kit.extract(bank, ["fc7"])
    with pytest.raises(UnknownNameError) as caught:
        bank["softmax"]
    assert str(caught.value) == (
        "bank 'shapes/minivgg-fa4f2b3c' holds no cut 'logits', it holds 'fc7'; "
        "`featbank extract '/data/my photos' --backbone minivgg --cut logits` adds it"
    )


def test_unknown_cut_names_the_nearest(bank):
    with pytest.raises(UnknownNameError) as caught:
        bank["fc6"]
    assert str(caught.value) == (
        "bank 'shapes/minivgg-fa4f2b3c' holds no cut 'fc6', it holds 'fc7', 'block1_pool', 'logits'; "
        "`featbank extract '/data/my photos' --backbone minivgg --cut fc6` adds it"
    )


def test_quarantined_rows_are_never_read_silently(store, manifest, kit):
    bank = store.create_or_open("shapes", kit.KEY, kit.PROVENANCE)
    bank.set_manifest(manifest)
    bad = frozenset(map(kit.digest_of, ["image 3", "image 20"]))  # image 3 stands in three rows
    kit.extract(bank, quarantined=bad)
    mask = np.array([digest.tobytes() not in bad for digest in manifest.digests])
    for cut in CUTS:
        reference = kit.expected(cut, manifest)
        np.testing.assert_array_equal(bank.rows_ok(cut), mask)
        np.testing.assert_array_equal(bank[cut][bank.rows_ok(cut)], reference[mask])
        for read in (
            lambda cut=cut: bank[cut][:],
            lambda cut=cut: bank[cut][3],
            lambda cut=cut: np.asarray(bank[cut]),
        ):
            with pytest.raises(IncompleteBankError):
                read()
    assert bank.rows_ok("softmax").tolist() == mask.tolist()
    with pytest.raises(IncompleteBankError):
        bank.softmax(1.0)
    assert bank.manifest.statuses.tolist() == (~mask).astype(int).tolist()
    assert bank.manifest.rows().tolist() == np.flatnonzero(mask).tolist()
    assert Bank.open(bank.path).manifest.rows("train").tolist() == [
        row for row in range(0, len(manifest), 4) if mask[row]
    ]


def test_the_message_names_five_rows_and_counts_the_rest(store, kit):
    bank = store.create_or_open("shapes", kit.KEY, kit.PROVENANCE)
    ids = [b"caf\xe9\x1b.jpg", *(f"{i}.jpg".encode() for i in range(1, 8))]
    bank.set_manifest(kit.make_manifest([str(i) for i in range(8)], ids))
    kit.extract(bank, ["fc7"], quarantined=frozenset(kit.digest_of(str(i)) for i in range(7)))
    with pytest.raises(IncompleteBankError) as caught:
        bank["fc7"][[7, 0, 1, 2, 3, 4, 5, 6, 0]]
    assert str(caught.value) == (
        "cut 'fc7' has no features of 'caf\\\\xe9\\\\x1b.jpg', '1.jpg', '2.jpg', '3.jpg', '4.jpg' and 2 "
        "more: the images could not be read, or were gone, when it was extracted; leave these rows out with "
        "bank.rows_ok('fc7') or manifest.rows(), quarantine.jsonl says why"
    )
    np.testing.assert_array_equal(bank["fc7"][7], kit.feature("fc7", kit.digest_of("7")))


def test_arrays_pickle_as_the_path_of_their_bank(bank, manifest, kit):
    data = pickle.dumps([bank["fc7"], bank["softmax"], bank])
    assert len(data) < 1000
    fc7, softmax, again = pickle.loads(data)
    assert type(fc7) is CutArray
    np.testing.assert_array_equal(fc7[:], kit.expected("fc7", manifest))
    np.testing.assert_array_equal(softmax[:], bank.softmax(1.0))
    assert again.path == bank.path
    code = "import pickle, sys; print(float(pickle.load(sys.stdin.buffer)[0][-1].sum()))"
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert float(done.stdout) == float(kit.expected("fc7", manifest)[-1].sum())


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 counts BLAS threads
def test_a_forked_child_reads_the_right_rows(bank, manifest, kit):
    array, reference = bank["block1_pool"], kit.expected("block1_pool", manifest)
    done = threading.Event()

    def read():
        while not done.is_set():
            array[:]

    thread = threading.Thread(target=read)  # it is inside when the forks come
    thread.start()
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)  # a child that waits for a lock of that thread waits for ever
                os._exit(0 if np.array_equal(array[:], reference) else 1)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        done.set()
        thread.join()


def test_threads_read_the_right_rows(bank, manifest, kit, monkeypatch):
    monkeypatch.setattr(cut_reader, "_MAPS_LIMIT", 1)
    array, reference = bank["logits"], kit.expected("logits", manifest)
    wrong = []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            rows = rng.integers(0, len(reference), 20)
            if not np.array_equal(array[rows], reference[rows]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.slow
def test_maps_do_not_use_up_the_file_descriptors(bank, monkeypatch):
    monkeypatch.setattr(cut_reader, "_MAPS_LIMIT", 3)
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    array = bank["logits"]  # nine shards
    array[:]
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 3


def test_an_array_keeps_its_rows_when_the_manifest_changes(bank, manifest, kit):
    array = bank["fc7"]
    bank.set_manifest(kit.make_manifest(["image 5", "image 4"]))
    np.testing.assert_array_equal(array[:], kit.expected("fc7", manifest))
    np.testing.assert_array_equal(bank["fc7"][:], kit.expected("fc7", bank.manifest))


CHANGES = {
    "reversed": lambda kit: kit.make_manifest([f"image {i}" for i in range(33)][::-1]),
    "one label": lambda kit: kit.make_manifest([f"image {i}" for i in range(33)]).replaced(
        labels=np.zeros(33, np.int32)
    ),
    "one split": lambda kit: kit.make_manifest([f"image {i}" for i in range(33)]).replaced(
        splits=np.zeros(33, np.uint8)
    ),
    "renamed": lambda kit: kit.make_manifest(
        [f"image {i}" for i in range(33)], [b"c0/x%d.jpg" % i for i in range(33)]
    ),
    "fewer": lambda kit: kit.make_manifest([f"image {i}" for i in range(32)]),
    "more": lambda kit: kit.make_manifest([f"image {i}" for i in range(40)]),
    "classes": lambda kit: kit.make_manifest([f"image {i}" for i in range(33)]).replaced(
        classes=("c1", "c0", "c2")
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("what", ["bank", "cut", "softmax", "temperature", "older array"])
def test_a_pickled_handle_is_never_reopened_with_other_rows(store, kit, what, change):
    bank = store.create_or_open("pinned", kit.KEY, {})
    bank.set_manifest(kit.make_manifest([f"image {i}" for i in range(33)]))
    kit.extract(bank)
    handle = {
        "bank": lambda: bank,
        "cut": lambda: bank["fc7"],
        "softmax": lambda: bank["softmax"],
        "temperature": lambda: bank._array("softmax", 3.0),
        "older array": lambda: bank["fc7"],
    }[what]()
    data = pickle.dumps(handle)
    pickle.loads(data)
    changing = bank if what == "older array" else Bank.open(bank.path)
    changing.set_manifest(CHANGES[change](kit))
    kit.extract(changing)
    for travelling in (data, pickle.dumps(handle)):
        with pytest.raises(BankChangedError, match=r"other rows \(images, labels, splits or classes\)"):
            pickle.loads(travelling)


def test_a_live_handle_goes_on_with_the_rows_it_was_opened_with(bank, manifest, kit):
    live, array = Bank.open(bank.path), Bank.open(bank.path)["fc7"]
    bank.set_manifest(kit.make_manifest([f"other {i}" for i in range(9)]))
    kit.extract(bank)
    assert live.manifest.ids == manifest.ids
    assert live.cuts == ("block1_pool", "fc7", "logits")
    assert live.rows_ok("fc7").all()
    for read in (live["fc7"][:], live["fc7"][[*range(37)]], array[:], live.features("fc7", dtype=None)):
        np.testing.assert_array_equal(read, kit.expected("fc7", manifest))


def test_what_extraction_found_in_the_rows_is_no_other_row(store, kit, manifest):
    bank = store.create_or_open("statuses", kit.KEY, {})
    bank.set_manifest(manifest)
    kit.extract(bank, ["fc7"])
    data = pickle.dumps(bank["fc7"])
    # another process adds a cut for which one image cannot be read any more
    other = Bank.open(bank.path)
    kit.extract(other, ["logits"], quarantined=frozenset({kit.digest_of("image 5")}))
    np.testing.assert_array_equal(pickle.loads(data)[:], kit.expected("fc7", manifest))


@pytest.mark.parametrize("when", ["before it was opened", "before it was mapped", "all of them"])
def test_a_live_handle_names_a_shard_that_was_removed(bank, when):
    opened = Bank.open(bank.path)
    live = opened["fc7"]
    assert live[0].size
    if when == "before it was mapped":
        assert opened.rows_ok("fc7").all()
    for path in bank.path.glob("fc7/*.h5" if when == "all of them" else "fc7/00001-*.h5"):
        path.unlink()
    with pytest.raises(IncompleteBankError, match=r"lacks shard 1 \(slots 12 to 23\)"):
        live[20]


def test_a_pickled_archive_is_never_reopened_with_other_rows(bank, kit, tmp_path):
    pack(bank, tmp_path / "a.h5")
    with open_archive(tmp_path / "a.h5") as archive:
        data = pickle.dumps([archive, archive["fc7"]])
    assert len(pickle.loads(data)[1]) == 37
    bank.set_manifest(kit.make_manifest([f"image {i}" for i in range(33)][::-1]))
    pack(bank, tmp_path / "a.h5")
    with pytest.raises(BankChangedError):
        pickle.loads(data)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux says what was advised")
def test_around_rows_far_apart_nothing_is_read_ahead(store, kit, manifest):
    bank = store.create_or_open("wide", kit.KEY, {})
    bank.set_manifest(manifest)
    writer = bank.cut_writer("fc7", (50_000,), "float16")
    features = np.random.default_rng(0).standard_normal((37, 50_000)).astype(np.float16)
    for plan in writer.missing():
        writer.write(plan, features[plan.start : plan.stop], np.zeros(plan.n_rows, np.uint8))
    writer.finish({})
    array = Bank.open(bank.path)["fc7"]

    def advised() -> bool:
        parts = Path("/proc/self/smaps").read_text().split("wide/")[1:]
        return " rr" in "".join(part.partition("VmFlags:")[2].partition("\n")[0] for part in parts)

    for rows, apart in (([30, 0, 15], True), (range(37), False), ([36], False), ([1, 20], True)):
        np.testing.assert_array_equal(array[list(rows)], features[bank.row_slots[list(rows)]])
        assert advised() == apart
