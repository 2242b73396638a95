"""Tables grow by whole lines, or not at all."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from featbank.errors import CacheWriteError, RunError
from featbank.sweep import Fit, Hits
from featbank.sweep.records import GrowingTables


def some(n, repeat=0, n_rows=21):
    n_train = 7 if n == "all" else 3 * n
    fit = Fit("softmax", "logreg(C=0.1)", 1.5, n, repeat, n_train, 10, 7, top1=0.5)
    rng = np.random.default_rng(n_train)
    right = rng.random((2, n_rows)) < 0.5
    return replace(fit, hits=Hits("test", right[0], right[0] | right[1] if n != 1 else None))


def grown(folder, sizes=(4, 1, "all")):
    tables = GrowingTables(folder)
    made = [some(n) for n in sizes]
    for fit in made:
        tables.append([fit])
    return tables, made


def same(found, made):
    assert list(found) == [fit.id for fit in made]
    for fit, have in zip(made, found.values(), strict=True):
        want = fit.hits
        assert have.split == want.split
        np.testing.assert_array_equal(have.top1, want.top1)
        assert (have.top5 is None) == (want.top5 is None)
        if want.top5 is not None:
            np.testing.assert_array_equal(have.top5, want.top5)


def test_what_was_appended_comes_back(tmp_path):
    tables, made = grown(tmp_path)
    assert tables.read_fits(growing=True) == made
    same(tables.read_hits(), made)
    assert [type(n) for _, n, _ in tables.read_hits()] == [int, int, str]
    tables.replace(made[::-1])
    assert tables.read_fits(growing=False) == made[::-1]
    same(tables.read_hits(), made[::-1])


def test_nothing_is_there_yet(tmp_path):
    tables = GrowingTables(tmp_path)
    assert (tables.read_fits(growing=True), tables.read_hits()) == ([], {})
    (tmp_path / "results.csv").write_text("cut,he")
    assert tables.read_fits(growing=True) == []


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    tables, made = grown(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in ("results.csv", "hits.jsonl")}
    write = os.write

    def half(descriptor, data):
        if len(data) < 40:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    fit = some(8)
    with monkeypatch.context() as patch:
        patch.setattr("os.write", half)
        with pytest.raises(CacheWriteError) as caught:
            tables.append([fit])
    assert str(caught.value) == (
        f"cannot write {str(tmp_path / 'hits.jsonl')!r} (No space left on device): the disk is full; free "
        "some space and run the same command again, it resumes"
    )
    assert caught.value.errno == 28
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    tables.append([fit])
    assert tables.read_fits(growing=True) == [*made, fit]


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_line_that_a_kill_left_is_cut_off_by_the_next(tmp_path, kept):
    tables, made = grown(tmp_path)
    for name in ("results.csv", "hits.jsonl"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(
            whole[: whole.rindex(b"\n", 0, -1) + 1 + kept] if kept > 0 else whole[:-1]
        )
    fit = some(8)
    tables.append([fit])
    assert tables.read_fits(growing=True) == [*made[:2], fit]
    same(tables.read_hits(), [*made[:2], fit])


def test_a_header_that_a_kill_left_is_written_again(tmp_path):
    (tmp_path / "results.csv").write_text("cut,he")
    (tmp_path / "hits.jsonl").write_text("")
    tables, made = grown(tmp_path)
    assert tables.read_fits(growing=True) == made
    same(tables.read_hits(), made)


def test_damage_in_the_middle_is_told(tmp_path):
    tables, _ = grown(tmp_path)
    for name, read in (
        ("hits.jsonl", tables.read_hits),
        ("results.csv", lambda: tables.read_fits(growing=True)),
    ):
        lines = (tmp_path / name).read_text().splitlines(keepends=True)
        (tmp_path / name).write_text("".join([lines[0], "x,y\n", *lines[1:]]))
        with pytest.raises(RunError, match=f"{name}' is damaged: line 2 cannot be read "):
            read()


def test_hits_of_another_number_of_rows_are_damage(tmp_path):
    tables, _ = grown(tmp_path, sizes=(1, 2))
    text = (tmp_path / "hits.jsonl").read_text()
    (tmp_path / "hits.jsonl").write_text(text.replace('"n_rows":21', '"n_rows":99', 1))
    with pytest.raises(RunError, match="24 bits for 99 rows"):
        tables.read_hits()


def test_any_number_of_rows_and_any_message_come_back(tmp_path):
    tables = GrowingTables(tmp_path)
    fit = some(4, n_rows=600_000)  # a cell of a CSV file ends at 131,072 characters
    failed = replace(fit, repeat=1, status="failed", message="singular " * 30_000, hits=None)
    tables.append([fit, failed])
    same(tables.read_hits(), [fit])
    read = tables.read_fits(growing=False)
    assert read[0] == fit
    assert read[1].message.startswith("singular singular ")
    assert len(read[1].message) < 3000


def test_a_cell_that_no_reader_takes_is_told(tmp_path):
    tables, _ = grown(tmp_path)
    text = (tmp_path / "results.csv").read_text()
    (tmp_path / "results.csv").write_text(text.replace("softmax", "s" * 200_000, 1))
    with pytest.raises(RunError, match=r"line 2 cannot be read .field larger than field limit"):
        tables.read_fits(growing=False)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ('"n_rows":21', '"n_rows":-1'),
        ('"n_rows":21', '"n_rows":true'),
        ('"repeat":0', '"repeat":[]'),
        ('"repeat":0', f'"repeat":{"9" * 5000}'),
        ('"split":"test"', '"split":"train"'),
        ('"n_per_class":1', '"n_per_class":"many"'),
        ('"temperature":1.5', '"temperature":NaN'),
        ('"top1":"', '"top1":"zz'),
        ('"cut":"softmax"', f'"cut":{"[" * 50_000}'),
    ],
)
def test_a_line_of_hits_is_checked(tmp_path, was, now):
    tables, _ = grown(tmp_path, sizes=(1, 2))
    text = (tmp_path / "hits.jsonl").read_text()
    assert was in text
    (tmp_path / "hits.jsonl").write_text(text.replace(was, now, 1))
    with pytest.raises(RunError, match=r"hits.jsonl' is damaged: line 1 cannot be read") as error:
        tables.read_hits()
    assert len(str(error.value)) < 1000
