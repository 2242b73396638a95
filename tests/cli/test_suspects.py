"""``featbank suspects``: of a bank or a run, with pictures or without."""

from __future__ import annotations

import csv
import shutil

import pytest

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_of_a_bank_and_of_a_run(call, place):
    """One photograph lies in the wrong folder."""
    (place / "photos" / "red" / "00.png").rename(place / "photos" / "blue" / "99.png")
    call("extract", "photos", "-b", "minivgg", "--name", "mixed", "-c", "block5_pool", "-c", "fc7")
    done = call("suspects", "mixed", "--folds", 3, "--csv", "new/s.csv")
    assert done.code == 0
    table = [line.split() for line in done.out.splitlines()]
    assert any(line[:1] == ["blue/99.png"] and "red" in line for line in table)
    file = place / "cache" / "figures" / "mixed-suspects.png"
    assert file.read_bytes().startswith(PNG)
    with (place / "new" / "s.csv").open(newline="") as lines:
        first = next(csv.DictReader(lines))
    assert (first["id"], first["label"], first["likelier"]) == ("blue/99.png", "blue", "red")
    call("fit-head", "mixed", "-c", "block5_pool", "--head", "ncm", "-n", "2", "--name", "mine")
    shutil.move(place / "photos", place / "gone")
    done = call("suspects", "mine", "--folds", 3, "--json")
    assert (done.json["cut"], done.json["figure"]) == ("block5_pool", None)
    assert "no pictures: " in done.err
    assert (
        call("suspects", "mine", "--folds", 3, "--data", "gone", "-o", "s.png", "--json").json["figure"]
        == "s.png"
    )
    done = call("suspects", "nothing")
    assert (done.code, done.err.count("\n")) == (3, 1)
