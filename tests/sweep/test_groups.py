"""Groups of images, such as patients: draws, folds, held-out parts, intervals and leaks go by them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from scipy.stats import t
from sklearn.base import BaseEstimator, ClassifierMixin

import featbank
from featbank.banks import pack
from featbank.banks.shards import StoredManifest, decode_manifest
from featbank.errors import InvalidInputError, LeakWarning
from featbank.heads import SoftmaxClassifier, fit_stack
from featbank.heads.softmax import C_MAX, C_MIN
from featbank.heads.space import FeatureSpace
from featbank.manifest import SPLITS, Manifest, of_one_origin
from featbank.metrics import bootstrap_interval
from featbank.runs import Run
from featbank.sampling import draw_nested, hold_out
from featbank.sweep import compare, run_sweep

N_PATIENTS, N_SHOTS = 120, 6


def manifest_of(group, labels, splits, *, grouped=True, digests=None):
    n = len(group)
    names = [b"p%03d" % one for one in range(int(max(group)) + 1)]
    if digests is None:
        digests = np.zeros((n, 32), np.uint8)
        digests[:, :8] = np.arange(1, n + 1, dtype="<u8")[:, None].view(np.uint8)
    return Manifest(
        tuple(b"%05d" % row for row in range(n)),
        np.asarray(labels, np.int32),
        ("flu", "gout"),
        np.asarray(splits, np.uint8),
        digests,
        np.zeros(n, np.uint8),
        *((np.asarray(group, np.int32), names) if grouped else ()),
    )


class Source:
    """What a sweep needs of a bank: six near-copies of each patient, whose labels are drawn by lot."""

    cuts = ("face",)

    def __init__(self, *, grouped, split=None):
        rng = np.random.default_rng(0)
        who = np.repeat(np.arange(N_PATIENTS), N_SHOTS)
        splits = rng.choice(3, len(who), p=[0.7, 0.1, 0.2]) if split is None else split[who]
        self.manifest = manifest_of(who, who % 2, splits, grouped=grouped)
        self.X = rng.normal(size=(N_PATIENTS, 16))[who] + rng.normal(scale=0.05, size=(len(who), 16))

    def features(self, cut, rows=None, dtype=np.float32):
        return self.X[rows].astype(dtype or np.float32)

    def softmax(self, temperature, rows=None):
        raise NotImplementedError


class Numbers(Source):
    """The number of each row as its only feature, so that an estimator sees which rows it gets."""

    def __init__(self, **options):
        super().__init__(**options)
        self.X = np.arange(len(self.X))[:, None].astype(float)


class Spy(ClassifierMixin, BaseEstimator):
    """Notes which rows it was fitted to, and which others it was asked about."""

    seen: ClassVar[list] = []

    def fit(self, X, y):
        self.classes_, self.rows_ = np.unique(y), X[:, 0].astype(int)
        return self

    def predict(self, X):
        rows = X[:, 0].astype(int)
        self.seen.append((self.rows_, rows[~np.isin(rows, self.rows_)]))
        return np.full(len(X), self.classes_[0])


BY_PATIENT = np.arange(N_PATIENTS) % 10 % 3  # whole patients to train, val and test


def test_folds_by_patient_give_chance_where_folds_by_image_recognise_faces():
    """Labels are the patients' at random, so 50 % is true."""
    options = {"heads": ["knn", "logreg"], "samples_per_class": "all", "folds": 5}
    torn = run_sweep(Source(grouped=False), **options)
    kept = run_sweep(Source(grouped=True), **options)
    for key, curve in torn.curves().items():
        (one,), (other,) = curve.points(), kept.curves()[key].points()
        assert one.mean("top1") > (0.95 if key[1] == "knn" else 0.55)
        assert other.mean("top1") == pytest.approx(0.5, abs=0.12)
        low, high = other.interval("top1")
        assert low < 0.5 < high
        # Nadeau and Bengio: the variance of five folds counts 1/5 + 1/4 times
        of_folds = [one.top1 for one in kept.curves()[key].fits]
        half = t.ppf(0.975, 4) * np.std(of_folds, ddof=1) * (1 / 5 + 1 / 4) ** 0.5
        assert high - low == pytest.approx(2 * half)


def test_a_split_by_patient_and_all_that_is_drawn_of_it():
    source = Source(grouped=True, split=BY_PATIENT)
    found = run_sweep(
        source, heads=["knn"], samples_per_class="4,8", repeats=3, val=0.25, draw="groups", random_state=1
    )
    point = found.points()[-1]
    assert point.mean("top1") == pytest.approx(0.5, abs=0.15)
    assert (point.unit, point.fewest_per_class, point.most_per_class) == ("groups", 48, 48)
    assert "whole groups" in "".join(found.notes)


@pytest.mark.parametrize("options", [{"folds": 4}, {"val": 0.3}, {"val": 0.3, "draw": "groups"}])
def test_no_patient_is_on_two_sides(options):
    source = Numbers(grouped=True, split=BY_PATIENT)
    Spy.seen.clear()
    found = run_sweep(source, heads=[("spy", Spy())], samples_per_class="7,15", repeats=2, **options)
    assert len(Spy.seen) >= len(found.fits)
    group = source.manifest.groups
    for fitted, asked in Spy.seen:
        assert not np.intersect1d(group[fitted], group[asked]).size
    if "folds" in options:  # each image is judged once at each size
        judged = np.concatenate([asked for fitted, asked in Spy.seen if len(fitted) == 14])
        assert sorted(judged) == list(range(len(group)))
        assert len({one.repeat for one in found.fits}) == 4
        assert found.curve("face", "spy").points()[0].n_folds == 4


def test_groups_that_are_drawn_come_whole_and_nested():
    rng = np.random.default_rng(3)
    y, group = rng.integers(0, 3, 300), rng.integers(0, 60, 300)
    for draw in draw_nested(y, [2, 5, 11], repeats=4, groups=group):
        for size, rows in draw.items():
            for code in range(3):
                own = rows[y[rows] == code]
                drawn = np.unique(group[own])
                assert len(drawn) == size
                np.testing.assert_array_equal(own, np.flatnonzero((y == code) & np.isin(group, drawn)))
        assert set(draw[2]) < set(draw[5]) < set(draw[11])


def test_a_part_that_is_held_out_is_of_whole_groups_and_nested():
    rng = np.random.default_rng(5)
    y, group = rng.integers(0, 3, 240), rng.integers(0, 40, 240)
    for repeat, draw in enumerate(draw_nested(y, [3, 9, 30, "all"], repeats=3)):
        before: set = set()
        for size, rows in draw.items():
            held = hold_out(y, rows, 0.25, groups=group, repeat=repeat)
            left = np.setdiff1d(rows, held)
            assert not np.intersect1d(group[held], group[left]).size
            assert set(y[left]) == {0, 1, 2}
            if size != "all":
                assert before <= set(held.tolist())
                before = set(held.tolist())
        assert 0.1 < len(held) / len(rows) < 0.45


def test_the_penalty_is_chosen_by_folds_that_tear_no_group_apart():
    source = Source(grouped=True)
    y = source.manifest.labels
    space = FeatureSpace()
    Z = space.fit_transform(source.X)
    chosen = {}
    for name, groups in (("images", None), ("groups", source.manifest.groups)):
        head = SoftmaxClassifier(solver="lbfgs", C="auto")
        fit_stack([head], Z, y, [np.arange(len(y))], space=space, groups=groups)
        chosen[name] = head.C_
    assert chosen["groups"] < chosen["images"]
    with pytest.raises(InvalidInputError, match=r"groups has shape \(3,\), but y"):
        fit_stack([head], Z, y, [np.arange(len(y))], space=space, groups=[1, 2, 3])


def test_a_class_that_groups_of_others_hold_goes_on_training_in_every_fold():
    """Both rows of the third class are in one group, which is at home in the first."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [20, 20, 2])
    group = np.r_[np.arange(40) // 2, 0, 0]
    X = rng.normal(size=(42, 5))
    X[np.arange(42), y] += 1.5
    for balanced in (None, "balanced"):
        head = SoftmaxClassifier(solver="lbfgs", C="auto", class_weight=balanced)
        space = FeatureSpace()
        fit_stack([head], space.fit_transform(X), y, [np.arange(42)], space=space, groups=group)
        assert C_MIN < head.C_ < C_MAX
        assert head.warned_ is None


def test_intervals_over_patients_are_wider_than_over_their_images():
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(40) < 0.7, 6)
    group = np.repeat(np.arange(40), 6)
    by_image, by_group = bootstrap_interval(right), bootstrap_interval(right, groups=group)
    widths = [one.high - one.low for one in (by_image, by_group)]
    assert by_image.mean == by_group.mean
    assert widths[1] / widths[0] == pytest.approx(6**0.5, rel=0.1)
    with pytest.raises(InvalidInputError, match="3 groups do not go with 240 rows"):
        bootstrap_interval(right, groups=[1, 2, 3])


def test_copies_and_groups_that_share_one_are_of_one_origin():
    digests = np.zeros((6, 32), np.uint8)
    digests[:, 0] = [1, 2, 2, 3, 3, 4]
    manifest = manifest_of([0, 0, 1, 1, 2, 3], [0] * 6, [0] * 6, digests=digests)
    assert of_one_origin(manifest, np.arange(6)).tolist() == [0, 0, 0, 0, 0, 1]
    assert of_one_origin(manifest, np.array([0, 2, 4])).tolist() == [0, 1, 2]


def test_a_group_on_two_sides_of_a_stored_split_is_told():
    source = Source(grouped=True)
    with pytest.warns(
        LeakWarning, match=r"of 120 groups have training and validation or test images \(first"
    ):
        found = run_sweep(source, heads=["ncm"], samples_per_class="4", repeats=1)
    assert any("'p000'" in note for note in found.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"draw": "groups"},
            "draw='groups' (--draw) needs the group of each image, which the bank has not; extract it again "
            "with --group COLUMN or --group-by REGEX, nothing is pushed for that",
        ),
        ({"draw": "patients"}, "draw='patients' (--draw) is not one of 'images', 'groups'"),
        ({"folds": 1}, "folds=1 (--folds) must be a whole number from 2 on"),
        ({"folds": "five"}, "folds='five' (--folds) must be a whole number from 2 on"),
        ({"folds": float("nan")}, "folds=nan (--folds) must be a whole number from 2 on"),
        ({"val_per_class": [1]}, "val_per_class=[1] (--val-per-class) must be a whole number from 1 on"),
        (
            {"folds": 5, "check_leaks": True},
            "check_leaks=True (--check-leaks) looks across the bank's splits, which folds=5 (--folds) does "
            "not go by; leave one of them out",
        ),
        ({"folds": 721}, "720 groups cannot be dealt out to 721 folds; ask for at most 720"),
        (
            {"val_per_class": 2, "val": 0.2},
            "val_per_class=2 (--val-per-class) counts validation images of the bank, of which val=0.2 "
            "(--val) uses none; leave one out",
        ),
    ],
)
def test_what_cannot_be_is_one_line(options, message):
    with pytest.raises(InvalidInputError) as caught:
        run_sweep(Source(grouped=False), heads=["ncm"], samples_per_class="4", **options)
    assert str(caught.value) == message


def test_the_usual_sizes_are_those_of_the_rows_that_are_drawn_from():
    source = Source(grouped=True, split=BY_PATIENT)
    train = source.manifest.rows("train")[::N_SHOTS]
    fewest = np.bincount(source.manifest.labels[train]).min()  # patients
    by_group = run_sweep(source, heads=["ncm"], draw="groups", repeats=1)
    assert [one.n_per_class for one in by_group.fits] == [size for size in (4, 8, 16, 32) if size <= fewest]
    few = source.manifest.splits.copy()
    few[: -8 * N_SHOTS] = 3  # eight patients are left, four of each class
    source.manifest = source.manifest.replaced(splits=few)
    by_fold = run_sweep(source, heads=["ncm"], folds=4)
    assert {one.n_per_class for one in by_fold.fits} == {4, 8, 16}  # 18 images of a class in each fold


def test_what_is_held_out_of_each_draw_is_said_beside_a_sweep_without():
    source = Source(grouped=True, split=BY_PATIENT)
    options = {"heads": ["ncm"], "samples_per_class": "8", "repeats": 3}
    held = run_sweep(source, val=0.25, **options)
    none = run_sweep(source, val="none", **options)
    said = {
        "a holds 0.25 of each draw out to choose, b nothing",
        "b holds nothing of each draw out to choose, a 0.25",
    }
    assert said & set(compare({"a": held, "b": none}).notes)


def test_fewer_validation_labels_and_sizes_beyond_small_classes():
    source = Source(grouped=True, split=BY_PATIENT)
    few = source.manifest.splits == SPLITS.index("train")
    few &= (source.manifest.labels == 1) & (np.cumsum(few & (source.manifest.labels == 1)) > 9)
    source.manifest = source.manifest.replaced(
        splits=np.where(few, 3, source.manifest.splits).astype(np.uint8)
    )
    options = {"heads": ["logreg"], "samples_per_class": "4,16,500", "repeats": 3, "val_per_class": 2}
    with pytest.raises(InvalidInputError, match=r"class 'gout' has 9\. Use at most 9, drop"):
        run_sweep(source, **options)
    found = run_sweep(source, up_to=True, **options)
    points = found.points()
    assert [one.n_per_class for one in points] == [4, 16, "all"]
    assert (points[1].fewest_per_class, points[1].most_per_class, points[1].mean_per_class) == (9, 16, 12.5)
    assert {one.n_val for one in found.fits} == {4}
    assert found.n_rows["val"] == 4


@pytest.mark.slow
def test_groups_stay_with_a_bank_its_packs_and_its_runs(photo_folder, tmp_path):
    folder = photo_folder(24)
    cache = tmp_path / "cache"
    options = {"backbone": "minivgg", "cuts": ["fc7"], "cache_dir": cache, "split": "0.5,0.1,0.4"}
    plain = featbank.extract(folder, **options)
    assert featbank.open_bank(plain.bank).manifest.groups is None
    before = (plain.bank / "manifest.h5").read_bytes()
    grouped = featbank.extract(folder, group_by=r"/\d\d(\d)", **options)
    assert grouped.bank == plain.bank
    assert not grouped.pushed
    bank = featbank.open_bank(grouped.bank)
    manifest = bank.manifest
    assert [manifest.group(row) for row in (0, 1, 11)] == ["0", "1", "1"]
    assert len(manifest.group_names) == 10
    assert bank.to_frame()["group"].tolist()[:3] == ["0", "1", "2"]
    assert manifest.digest() != manifest.replaced(groups=None, group_names=()).digest()

    packed = pack(bank, tmp_path / "photos.h5")
    import h5py

    with h5py.File(packed) as file:
        assert file["group"][:3].tolist() == [b"0", b"1", b"2"]
    np.testing.assert_array_equal(featbank.open_archive(packed).manifest.groups, manifest.groups)

    featbank.export_bank(bank, tmp_path / "arrays", to="npy")
    np.testing.assert_array_equal(np.load(tmp_path / "arrays" / "groups.npy"), manifest.groups)
    featbank.export_bank(bank, tmp_path / "photos.parquet", to="parquet")
    from pyarrow import parquet

    column = parquet.read_table(tmp_path / "photos.parquet")["group"].to_pylist()
    assert column == [manifest.group(row) for row in range(len(manifest))]

    folded = featbank.fit_heads(bank, heads=["ncm"], samples_per_class="4", folds=3, cache_dir=cache)
    for kind in ("t", "bootstrap"):
        assert Run.open(folded.run.path).result().points(interval=kind) == folded.result.points(interval=kind)
    assert sum(len(one) for one in folded.result.judged_groups) == len(manifest)

    fitted = featbank.fit_heads(
        bank, heads=["ncm"], samples_per_class="2,4", repeats=3, cache_dir=cache, draw="groups"
    )
    run = Run.open(fitted.run.path)
    for kind in ("t", "bootstrap"):
        assert run.result().points(interval=kind) == fitted.result.points(interval=kind)
    assert len(run.result().judged_groups[0]) == run.result().n_rows["test"]
    assert {one.unit for one in run.result().points()} == {"groups"}

    featbank.extract(folder, **options)
    assert (plain.bank / "manifest.h5").read_bytes() == before


@pytest.mark.parametrize("change", ["outside", "short", "offsets", "one"])
def test_a_manifest_whose_groups_do_not_hold_together_is_refused(change, tmp_path):
    stored = StoredManifest.planned(None, Source(grouped=True).manifest)
    arrays = stored.arrays()
    assert arrays.keys() - StoredManifest.planned(None, Source(grouped=False).manifest).arrays().keys() == {
        "groups",
        "group_names",
        "group_offsets",
    }
    changed = {
        "outside": {"groups": stored.groups + 1},
        "short": {"groups": stored.groups[:-1]},
        "offsets": {"group_offsets": stored.group_offsets[::-1].copy()},
        "one": {"group_names": None, "group_offsets": None},
    }[change]
    from featbank.banks._format import encode

    kept = {name: value for name, value in (arrays | changed).items() if value is not None}
    data = b"".join(map(bytes, encode("manifest", kept, {"rows": stored.n_rows}, sealed=True)))
    with pytest.raises(featbank.errors.BankReadError, match="do not hold together"):
        decode_manifest(tmp_path / "manifest.h5", data)
