"""A damaged run is told in one line, costs no other run anything, and leads nowhere out of its folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest

from featbank.banks import Bank, open_bank
from featbank.errors import BankNotFoundError, RunError
from featbank.fitting import fit_heads
from featbank.runs import Run, describe_run, list_runs, open_run, runs_of_bank

OPENED: list[str] = []
WATCHED = [False]


def _watch(event: str, args: tuple[object, ...]) -> None:
    if WATCHED[0] and event in ("open", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate"):
        OPENED.append(f"{event} {args[0]}")


sys.addaudithook(_watch)


@pytest.fixture
def flowers(cache: Path) -> Bank:
    return open_bank(cache_dir=cache)


@pytest.fixture
def bad(cache: Path) -> Path:
    return next((cache / "runs").glob("*-bad"))


def edit(folder: Path, *way: str | int, value: object) -> None:
    """Change one value of run.json."""
    facts = json.loads((folder / "run.json").read_text())
    at = facts
    for key in way[:-1]:
        at = at[key]
    at[way[-1]] = value
    (folder / "run.json").write_text(json.dumps(facts))


EDITS = [
    (("sweep",), None),
    (("source",), {}),
    (("source",), None),
    (("cuts",), [5]),
    (("heads",), [None]),
    (("heads",), {"a": 1}),
    (("heads", 0, "name"), "../../../../head"),
    (("heads", 0, "name"), "/head"),
    (("heads", 0, "name"), "a\0b"),
    (("heads", 0, "name"), "x" * 300),
    (("heads", 1, "name"), "fc7-softmax-n2-r0"),  # the name of the other one
    (("heads", 0, "val_top1"), "high"),
    (("heads", 0, "top1"), -7.5e300),
    (("heads", 0, "saved"), 1),
    (("heads", 0, "temperature"), 0),
    (("heads", 0, "best_epoch"), 0),
    (("heads", 0, "n_per_class"), int("9" * 400)),
    (("classes",), []),
    (("classes",), "abc"),
    (("classes",), [1, 2, 3]),
    (("notes",), [[]]),
    (("parameters",), []),
    (("parameters", "head_params"), {"softmax": 3}),
    (("draws",), {"subsets": 3}),
    (("draws",), {"subsets": {}}),
    (("rows",), {"test": "many"}),
    (("near_duplicates",), [1]),
    (("untrained",), None),
    (("untrained",), {"policy": "forget", "classes": {}}),
    (("untrained",), {"policy": "drop", "classes": {"a": 3}}),
    (("untrained",), {"policy": "drop", "classes": {"a": {"val": 1}}}),
    (("status",), "done"),
    (("created",), 5),
    (("source", "batch_size"), 0),
    (("source", "batch_size"), 10**9),
    (("source", "image_size"), -1),
    (("source", "transform"), None),
    (("source", "bank"), 5),
    (("source", "bank"), "a\0b"),
    (("source", "random_state"), 2**64),
    (("source", "cut_dtypes"), {"fc7": "object"}),
    (("source", "weights_sha256"), "ab"),
    (("source", "key_digest"), "0" * 64),
    (("source", "precision"), "int4"),
    (("format",), None),
    (("versions",), {"python": 3}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("way", "value"), EDITS)
def test_a_wrong_value_is_one_line(cache, bad, way, value):
    edit(bad, *way, value=value)
    with pytest.raises(RunError) as caught:
        Run.open(bad)
    message = str(caught.value)
    assert message.startswith(f"'{bad / 'run.json'}' ")
    assert message.endswith("; run the command again")
    assert len(message) < len(str(bad)) + 500
    assert "\n" not in message
    info = describe_run(bad)
    assert (info.status, info.error) == ("damaged", message)


def test_runs_of_a_bank_in_a_bucket(cache):
    good = next((cache / "runs").glob("*-good"))
    edit(good, "source", "bank", value="memory://b/banks/flowers/key")
    assert [run.path for run in runs_of_bank("memory://b/banks/flowers/key", cache)] == [good]
    assert str(describe_run(good).bank) == "memory://b/banks/flowers/key"
    edit(good, "source", "bank", value="moon://crater/flowers/key")  # of a stranger
    assert runs_of_bank("memory://b/banks/flowers/key", cache) == []
    assert "is at an address of a kind" in describe_run(good).error


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", "{", "[" * 200_000, '{"a":' * 50_000, '{"format": ' + "9" * 5000 + "}"]
)
def test_the_other_runs_are_as_they_were(cache, bad, flowers, text, caplog):
    good = next((cache / "runs").glob("*-good"))
    (bad / "run.json").write_text(text)
    assert [describe_run(path).status for path in list_runs(cache)].count("damaged") == 1
    edit(good, "source", "bank", value=str(flowers.path))
    assert [run.path for run in runs_of_bank(flowers.path, cache)] == [good]
    with caplog.at_level(logging.WARNING):
        assert open_run(cache_dir=cache).path == good
        assert open_run("last", cache_dir=cache).path == good
    assert f"run {bad.name} is passed over: '{bad / 'run.json'}' is damaged: " in caplog.text
    again = fit_heads(flowers, cuts=["fc7"], heads=["ncm"], samples_per_class="2", repeats=1, cache_dir=cache)
    assert again.run.finished
    (good / "run.json").write_text(text)
    shutil.rmtree(again.run.path)
    with pytest.raises(RunError, match="is damaged"):
        open_run(cache_dir=cache)


def test_a_damaged_table_is_passed_over_too(cache, bad):
    (bad / "results.csv").write_text("a,b\n1,2\n")
    assert open_run(cache_dir=cache).name.endswith("-good")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("histories.json", '{"fc7-softmax-n2-r0": {"train_loss": [1, 2], "lr": [1]}}'),  # ragged
        ("histories.json", '{"fc7-softmax-n2-r0": {"train_accuracy": [1.5]}}'),
        ("histories.json", '{"fc7-softmax-n2-r0": [1]}'),
        ("histories.json", "[]"),
        ("histories.json", "[" * 100_000),
        ("predictions/fc7-softmax-n2-r0.json", "null"),
        ("predictions/fc7-softmax-n2-r0.json", '{"split": "test", "rows": [1]}'),
        (
            "predictions/fc7-softmax-n2-r0.json",
            '{"split": "test", "rows": [1], "y_true": [0], "y_pred": [7], "p_true": null, "p_pred": null}',
        ),
        (
            "predictions/fc7-softmax-n2-r0.json",
            '{"split": "test", "rows": [1, 2], "y_true": [0], "y_pred": [1], "p_true": null, "p_pred": null}',
        ),
        ("heads/fc7-softmax-n2-r0.json", "{}"),
        ("heads/fc7-softmax-n2-r0.json", "[" * 100_000),
        ("heads/fc7-softmax-n2-r0.safetensors", ""),
    ],
)
def test_damage_beside_run_json(bad, cache, file, text):
    (bad / file).write_text(text)
    run = Run.open(bad)
    with pytest.raises(RunError) as caught:
        run.histories(), run.predictions("fc7-softmax-n2-r0"), run.load_head("fc7-softmax-n2-r0")
    assert "\n" not in str(caught.value)
    assert file.rpartition(".")[0] in str(caught.value)


def test_a_head_of_more_classes_than_the_run(bad):
    edit(bad, "classes", value=["one", "two"])
    with pytest.raises(RunError, match="its classes are not among the 2 of the run"):
        Run.open(bad).load_head()


@pytest.mark.parametrize(
    "name", ["heads", "predictions", "figures", "results.csv", "hits.jsonl", "histories.json"]
)
def test_no_link_leads_out_of_a_run(bad, tmp_path, name):
    """Whatever reads or goes on with the run would follow it."""
    place = bad / name
    (tmp_path / "outside").mkdir()
    shutil.move(place, tmp_path / "outside" / name)
    place.symlink_to(tmp_path / "outside" / name)
    before = {one: one.stat().st_mtime_ns for one in (tmp_path / "outside").rglob("*")}
    OPENED.clear()
    WATCHED[0] = True
    with pytest.raises(RunError, match=f"{name} beside it is a link"):
        Run.open(bad).result()
    WATCHED[0] = False
    assert not [one for one in OPENED if "outside" in one]
    assert {one: one.stat().st_mtime_ns for one in (tmp_path / "outside").rglob("*")} == before


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_no_linked_head_is_loaded(bad, tmp_path, suffix):
    head = bad / "heads" / f"fc7-softmax-n2-r0{suffix}"
    shutil.move(head, tmp_path / "secret")
    head.symlink_to(tmp_path / "secret")
    OPENED.clear()
    WATCHED[0] = True
    with pytest.raises(RunError, match="it is a link"):
        Run.open(bad).load_head("fc7-softmax-n2-r0")
    WATCHED[0] = False
    assert not [one for one in OPENED if "secret" in one]


def test_a_pipe_is_not_waited_for(bad):
    (bad / "results.csv").unlink()
    os.mkfifo(bad / "results.csv")
    with pytest.raises(RunError, match="neither a file nor a folder"):
        Run.open(bad).result()


def test_only_the_bank_of_that_name_in_the_cache_is_opened(cache, bad, flowers, tmp_path):
    assert Run.open(bad, cache).open_bank().path == flowers.path
    away = tmp_path / "away" / "banks" / "flowers" / flowers.path.name
    shutil.copytree(flowers.path, away)
    edit(bad, "source", "bank", value=str(away))
    assert Run.open(bad, cache).open_bank().path == flowers.path  # a cache that has moved
    shutil.rmtree(flowers.path)
    OPENED.clear()
    WATCHED[0] = True
    for said in (str(away), f"{away}/../{away.name}", "/", "..", "../..", "", "/etc/passwd", "x" * 3000):
        edit(bad, "source", "bank", value=said)
        with pytest.raises(BankNotFoundError) as caught:
            Run.open(bad, cache).open_bank()
        assert f"is not in the cache '{cache}'" in str(caught.value)
        assert "or take the bank in with 'featbank banks import " in str(caught.value)
    WATCHED[0] = False
    assert not [one for one in OPENED if "away" in one]
    edit(bad, "source", "bank", value=str(away))
    assert Run.open(bad, tmp_path / "away").open_bank().path == away  # a cache that the user names
