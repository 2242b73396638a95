"""The page on formats is right: its reader of 40 lines, which has numpy alone, reads what featbank reads."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import featbank

CUTS = ["block5_pool", "fc7"]
READER = Path(__file__).parents[2] / "docs" / "background" / "read_bank.py"


def reader():
    spec = importlib.util.spec_from_file_location("read_bank", READER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> featbank.Bank:
    """A bank of two segments, with an image twice and one that cannot be read."""
    from PIL import Image
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("formats")
    digits = load_digits()
    for number in range(40):
        folder = root / "photos" / f"{digits.target[number]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype("uint8")).save(folder / f"{number}.png")
        if number == 24:
            featbank.extract(root / "photos", backbone="minivgg", cuts=CUTS, cache_dir=root / "cache")
    (root / "photos" / "0" / "again.png").write_bytes((root / "photos" / "0" / "0.png").read_bytes())
    (root / "photos" / "0" / "broken.png").write_bytes(b"no image")
    done = featbank.extract(root / "photos", backbone="minivgg", cuts=CUTS, cache_dir=root / "cache")
    return featbank.open_bank(done.bank)


def test_it_is_forty_lines_of_numpy() -> None:
    lines = [line for line in READER.read_text().splitlines() if line.strip()]
    assert len(lines) <= 40
    code = (
        f"import sys; sys.path.insert(0, {str(READER.parent)!r}); import read_bank; "
        "print('featbank' in sys.modules, 'h5py' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("cut", ["fc7", "block5_pool"])
def test_it_reads_what_featbank_reads(bank: featbank.Bank, cut: str) -> None:
    X, y, ids, names = reader().read(bank.path, cut)
    rows = np.flatnonzero(bank.manifest.statuses == 0)
    assert len(X) == len(rows) == 41
    assert len(list((bank.path / cut).glob("*-*.h5"))) == 2
    np.testing.assert_array_equal(X, bank[cut][rows])
    np.testing.assert_array_equal(y, bank.manifest.labels[rows])
    assert ids == [bytes(bank.manifest.ids[row]) for row in rows]
    assert [one.tobytes().decode() for one in names] == list(bank.classes)


def test_it_names_what_is_damaged(bank: featbank.Bank, tmp_path) -> None:
    shard = next((bank.path / "fc7").glob("*-*.h5"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    for one in ("manifest.h5", "fc7/cut.json"):
        (tmp_path / one).parent.mkdir(exist_ok=True)
        (tmp_path / one).write_bytes((bank.path / one).read_bytes())
    (tmp_path / "fc7" / shard.name).write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        reader().read(tmp_path, "fc7")
