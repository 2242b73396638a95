"""The digits of scikit-learn."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from featbank.datasets import build_manifest, decode_image, open_dataset


@pytest.mark.parametrize("origin", ["", "/nowhere/sklearn/__init__.py", None])
def test_every_digit_is_scikit_learns(origin, monkeypatch):
    if origin != "":  # a version of scikit-learn whose table is not where it was looked for
        monkeypatch.setattr("featbank.datasets.sources.find_spec", lambda _: SimpleNamespace(origin=origin))
    dataset, bunch = open_dataset("digits"), load_digits()
    assert (dataset.name, dataset.location, dataset.splits) == ("digits", "digits", None)
    assert dataset.classes == tuple("0123456789")
    assert len(dataset.ids) == 1797
    assert list(dataset.ids) == sorted(dataset.ids)
    for row in range(0, 1797, 7):
        index = int(dataset.ids[row][2:6])
        assert dataset.labels[row] == str(bunch.target[index]) == dataset.ids[row][:1].decode()
        want = np.array([[round(v * 255 / 16) for v in line] for line in bunch.images[index]])
        np.testing.assert_array_equal(np.asarray(decode_image(dataset.read(row)))[..., 0], want)


def test_the_manifest_is_the_same_every_time():
    first, second = (build_manifest(open_dataset("digits")) for _ in range(2))
    np.testing.assert_array_equal(first.digests, second.digests)
    assert first.counts() == second.counts() == {"train": 1256, "val": 172, "test": 369}


def test_another_name():
    assert open_dataset("digits", name="my digits").name == "my-digits"
