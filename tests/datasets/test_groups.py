"""No split tears a group of images apart: patients, places, videos."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from featbank.datasets import build_manifest, open_dataset
from featbank.errors import DatasetError, InvalidInputError
from featbank.sweep import run_sweep

N_PATIENTS, N_SHOTS = 300, 6


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Six near-copies of a picture for each patient; which of two diseases they have is drawn by lot."""
    folder = tmp_path_factory.mktemp("data") / "patients"
    lines = ["path,label,who"]
    rng = np.random.default_rng(0)
    for patient in range(N_PATIENTS):
        disease = ("flu", "gout")[patient % 2]
        (folder / disease).mkdir(parents=True, exist_ok=True)
        face = rng.integers(0, 256, (4, 4, 3))
        for shot in range(N_SHOTS):
            name = f"{disease}/p{patient:03d}_{shot}.png"
            pixels = np.clip(face + rng.integers(-9, 10, face.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name)
            lines.append(f"{name},{disease},{patient}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return folder


def who_of(manifest):
    return np.array([int(one.split(b"/p")[1][:3]) for one in manifest.ids])


def sides(manifest):
    """Return for each patient on how many sides of the split there are images."""
    found = {}
    for who, split in zip(who_of(manifest), manifest.splits.tolist(), strict=True):
        found.setdefault(who, set()).add(split)
    return [len(one) for one in found.values()]


class Pixels:
    """Pixels as features: what a sweep needs of a bank."""

    cuts = ("pixels",)

    def __init__(self, folder, manifest):
        self.manifest = manifest
        self.X = np.array([np.asarray(Image.open(folder / one.decode())).ravel() for one in manifest.ids])

    def features(self, cut, rows=None, dtype=np.float32):
        return self.X[rows].astype(dtype or np.float32)

    def softmax(self, temperature, rows=None):
        raise NotImplementedError


def accuracy(folder, manifest):
    found = run_sweep(Pixels(folder, manifest), heads=["knn"], samples_per_class="all", repeats=1, val="none")
    return found.fits[0].top1


@pytest.mark.slow
def test_near_copies_teach_nothing_of_patients_that_were_not_seen(patients):
    """Without groups a head recognises the patients; with them it has to guess, as their labels were."""
    torn = build_manifest(open_dataset(patients))
    kept = build_manifest(open_dataset(patients), group_by=r"p\d+")
    assert max(sides(torn)) == 3
    assert set(sides(kept)) == {1}
    assert all(kept.counts()[name] >= N_SHOTS for name in ("train", "val", "test"))
    assert accuracy(patients, torn) > 0.9
    assert accuracy(patients, kept) == pytest.approx(0.5, abs=0.15)


def test_a_column_and_a_pattern_say_the_same(patients):
    by_column = build_manifest(open_dataset(patients / "list.csv", group_column="who"))
    assert set(sides(by_column)) == {1}
    named = build_manifest(open_dataset(patients), group_by=r"p0*(\d+)_")
    np.testing.assert_array_equal(by_column.splits, named.splits)
    half = build_manifest(open_dataset(patients), group_by=r"p\d+", limit=100)
    whole = build_manifest(open_dataset(patients), group_by=r"p\d+")
    of = dict(zip(whole.ids, whole.splits.tolist(), strict=True))
    assert [of[one] for one in half.ids] == half.splits.tolist()  # nobody changes sides


def test_a_file_that_names_patients_is_told_the_option(patients, caplog):
    (patients / "told.csv").write_text((patients / "list.csv").read_text().replace("who", "patient"))
    open_dataset(patients / "told.csv")
    assert "--group patient keeps each value on one side" in caplog.text
    caplog.clear()
    open_dataset(patients / "told.csv", group_column="patient")
    assert not caplog.records


def test_a_split_of_its_own_that_tears_groups_apart_is_refused(patients):
    lines = (patients / "list.csv").read_text().splitlines()
    split = ["split", *("test" if row in (0, 7) else "train" for row in range(len(lines) - 1))]
    (patients / "own.csv").write_text("\n".join(map(",".join, zip(lines, split, strict=True))) + "\n")
    dataset = open_dataset(patients / "own.csv", group_column="who")
    with pytest.raises(InvalidInputError) as caught:
        build_manifest(dataset)
    assert str(caught.value) == (
        "2 of 300 groups of 'own' stand on several sides of its own split, first '0' (train, test): mend the "
        "split, or replace it with --split 0.7,0.1,0.2 --override-split"
    )
    assert set(sides(build_manifest(dataset, split="0.7,0.1,0.2", override_split=True))) == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_by": "p(\\d+"}, "group_by='p(\\\\d+' (--group-by) is no regular expression: "),
        (
            {"group_by": "p00\\d"},
            "group_by='p00\\\\d' (--group-by) finds nothing in 1740 of 1800 ids, first in "
            "'flu/p010_0.png': every image needs a group",
        ),
        (
            {"group_by": "p"},
            "all 1800 images of 'patients' are one group, 'p': no split keeps it on one side",
        ),
        (
            {"group_by": "p\\d+", "split": "20,4,8"},
            "split='20,4,8' counts images of a class, which would tear groups apart; give fractions with "
            "--group and --group-by, such as '0.7,0.1,0.2'",
        ),
    ],
)
def test_wrong_groups_are_one_line(patients, options, message):
    with pytest.raises(InvalidInputError) as caught:
        build_manifest(open_dataset(patients), **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_row_without_group_or_a_column_that_is_not_there(patients):
    text = (patients / "list.csv").read_text()
    (patients / "gap.csv").write_text(text.replace("p000_0.png,flu,0\n", "p000_0.png,flu,\n"))
    with pytest.raises(DatasetError, match="line 2 has no group in its column 'who'"):
        open_dataset(patients / "gap.csv", group_column="who")
    with pytest.raises(DatasetError, match=r"no column 'patient' \(it has"):
        open_dataset(patients / "list.csv", group_column="patient")
    with pytest.raises(InvalidInputError, match="group_column='who' is for CSV files"):
        open_dataset(patients, group_column="who")
    with pytest.raises(InvalidInputError, match="give one of them"):
        build_manifest(open_dataset(patients / "list.csv", group_column="who"), group_by=r"p\d+")
