"""A whole extraction over the corpus of odd images: features of each good one, a reason for each bad one."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import featbank
from featbank.banks import Bank
from featbank.cli import main
from featbank.manifest import RowStatus

sys.path.insert(0, str(Path(__file__).parent / "datasets"))
import corpus

CUT = "block1_pool"
BAD = {one.name: one.reason for one in corpus.contents() if one.reason}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "images"
    return path, corpus.write_folder(path)


def extract(folder: Path, cache: Path, **options):
    settings = {"backbone": "minivgg", "weights": "random", "cuts": [CUT], "batch_size": 8, **options}
    return featbank.extract(folder, cache_dir=cache, precision="float32", **settings)


@pytest.mark.slow
def test_each_image_has_its_features_or_its_reason(folder, tmp_path, caplog) -> None:
    path, wanted = folder
    with caplog.at_level(logging.INFO, logger="featbank"):
        result = extract(path, tmp_path / "cache")
    assert result.rows == len(wanted) == 86
    assert result.quarantined == len(BAD) == 33

    bank = Bank.open(result.bank)
    records = {record.id: record for record in bank.quarantine()}
    assert {one: record.reason for one, record in records.items()} == {
        b"a/" + name: reason for name, reason in BAD.items()
    }
    digest_of = {one: bank.manifest.digests[row].tobytes().hex() for row, one in enumerate(bank.manifest.ids)}
    assert all(record.digest == digest_of[one] for one, record in records.items())
    good = bank.manifest.rows()
    assert {bank.manifest.ids[row] for row in good} == {
        one for one, said in wanted.items() if not said.reason
    }
    assert set(bank.manifest.statuses.tolist()) == {RowStatus.OK, RowStatus.QUARANTINED}

    # Features are those of the same picture in a folder where nothing is wrong.
    clean = tmp_path / "clean"
    for one in wanted:
        if wanted[one].reason is None:
            target = os.path.join(os.fsencode(clean), one)  # noqa: PTH118 - names are bytes
            os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
            with open(target, "wb") as file:  # noqa: PTH123
                file.write(wanted[one].make())
    alone = Bank.open(extract(clean, tmp_path / "other").bank)
    row_of = {one: row for row, one in enumerate(alone.manifest.ids)}
    same = [row_of[bank.manifest.ids[row]] for row in good]
    np.testing.assert_array_equal(bank[CUT].read(good), alone[CUT].read(same))

    # The end of the run says how many of what, on one line that a terminal can show.
    counts = {reason: list(BAD.values()).count(reason) for reason in set(BAD.values())}
    (said,) = [one.getMessage() for one in caplog.records if "could not be read" in one.getMessage()]
    assert said.startswith("33 of 86 images could not be read (")
    for reason, count in counts.items():
        assert f"{count} {reason}" in said
    assert said.endswith("quarantine.jsonl says why")
    assert all(one.getMessage().isprintable() for one in caplog.records)


@pytest.mark.slow
def test_the_command_line_says_so_and_strict_exits_with_1(folder, tmp_path, capsys) -> None:
    path, _ = folder
    command = ["extract", str(path), "--backbone", "minivgg", "--weights", "random", "--cut", CUT]
    command += ["--cache-dir", str(tmp_path / "cache"), "--precision", "float32", "--json", "--strict"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert json.loads(said.out)["quarantined"] == 33
    assert "33 of 86 images could not be read (" in said.err
    assert all(char.isprintable() or char in "\n\r" for char in said.err)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
def test_an_unreadable_file_is_one_row(photo_folder, tmp_path) -> None:
    path = photo_folder()
    (path / "red" / "000.png").chmod(0)
    result = extract(path, tmp_path / "cache")
    (record,) = Bank.open(result.bank).quarantine()
    assert (record.id, record.reason) == (b"red/000.png", "unreadable")


def test_mutated_images_do_not_disturb_the_parent(monkeypatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent / "faults")
    import images_mutated

    found = images_mutated.run(0.02)
    assert found["ok"], found
    figures = found["figures"]
    assert figures["crashes of the parent"] == 0
    assert figures["decoded"] + figures["refused"] == 400
    # Mutants that all fail, or none, would prove little.
    assert min(figures["decoded"], figures["refused"]) > 80
