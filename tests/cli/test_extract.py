"""``featbank extract``."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from featbank.banks import Bank

ONE = (
    "extract",
    "photos",
    "--backbone",
    "minivgg",
    "--weights",
    "random",
    "--cut",
    "fc7",
    "--split",
    "6,3,3",
)


def test_a_bank_and_what_is_in_it(call, place):
    done = call(*ONE, "-c", "block1_pool,fc7", "--cache-dir", "new")
    assert done.code == 0
    (path,) = (place / "new" / "banks" / "photos").iterdir()
    assert done.out.splitlines()[:6] == [
        f"bank         {path}",
        "cut          fc7 256",
        "cut          block1_pool 32x16x16",
        "classes      3: blue, green, red",
        "splits       18 train, 9 val, 9 test",
        "rows         36: 36 pushed, 0 skipped, 0 quarantined",
    ]
    assert done.err.splitlines()[:2] == [
        "featbank: minivgg gets RANDOM weights (seed 0): its features are those of an untrained network",
        done.err.splitlines()[1],
    ]
    assert done.err.splitlines()[1].startswith(
        "36 of 36 images to push; to write: fc7 18.4 kB, block1_pool 590 kB; "
    )
    assert Bank.open(path).cuts == ("block1_pool", "fc7")


@pytest.mark.slow
def test_json_has_exactly_its_keys(call, place):
    found = call(*ONE, "--cache-dir", "new", "--json").json
    keys = ["bank", "rows", "pushed", "skipped", "quarantined", "duration_s", "cuts", "classes", "splits"]
    keys += ["copied", "left"]
    assert list(found) == keys
    assert found["classes"] == ["blue", "green", "red"]
    assert found["splits"] == {"train": 18, "val": 9, "test": 9}
    (path,) = (place / "new" / "banks" / "photos").iterdir()
    assert found["bank"] == str(path)
    assert (found["rows"], found["pushed"], found["skipped"], found["quarantined"]) == (36, 36, 0, 0)
    assert 0 < found["duration_s"] < 600
    assert found["cuts"] == {"fc7": [256]}
    again = call(*ONE, "--cache-dir", "new", "--json").json
    assert (again["bank"], again["pushed"], again["skipped"]) == (str(path), 0, 36)


@pytest.mark.slow
def test_a_dry_run_pushes_nothing_and_writes_no_shard(call, place):
    done = call(*ONE, "--cache-dir", "new", "--dry-run")
    assert done.code == 0
    assert done.out.startswith("36 of 36 images to push; to write: fc7 18.4 kB; ")
    assert "; about " in done.out
    assert not list((place / "new").rglob("bank.json"))  # or fit-head would take it for the newest bank
    plan = call(*ONE, "--cache-dir", "new", "--dry-run", "--json").json
    assert (plan["rows"], plan["to_push"], plan["size_bytes"]) == (36, 36, 36 * 256 * 2)
    assert plan["duration_s"] > 0
    assert call(*ONE, "--cache-dir", "new", "--json").json["pushed"] == 36


@pytest.mark.slow
def test_a_dry_run_of_images_that_are_not_there(call, place):
    done = call("extract", "no-such-place", "-c", "fc7", "--dry-run", "--images", 1000, "--cache-dir", "new")
    assert done.code == 0
    assert done.out.startswith("1000 of 1000 images to push; to write: fc7 512 kB; ")
    assert "; about " in done.out
    assert done.out.splitlines()[1].startswith(
        "assumed: JPEGs of 71x53 pixels, no two alike; an input of 32x32"
    )
    assert not (place / "new").exists()
    done = call("extract", "photos", "-c", "fc7", "--images", 1000)
    assert done.code == 2
    assert "--images 1000 is for --dry-run, which says what so many images would cost" in done.err


@pytest.mark.slow
def test_a_part_of_the_images_of_another_bank_is_copied(call, place):
    call(*ONE, "--cache-dir", "new")
    rows = [f"photos/red/{one.name},red" for one in sorted((place / "photos" / "red").iterdir())]
    rows += [f"photos/blue/{one.name},blue" for one in sorted((place / "photos" / "blue").iterdir())]
    (place / "part.csv").write_text("\n".join(["path,label", *rows]))
    command = ("extract", "part.csv", *ONE[2:], "--cache-dir", "new")
    said = call(*command, "--dry-run").out
    assert said.startswith("0 of 24 images to push, 24 to copy from bank photos/minivgg-")
    found = call(*command, "--json").json
    assert (found["pushed"], found["copied"], found["skipped"]) == (0, 24, 24)


@pytest.mark.slow
def test_a_dry_run_leaves_a_bank_its_rows(call, place, save_photo):
    call(*ONE, "--cache-dir", "new")
    save_photo(place / "photos" / "red" / "zz.png", seed=99999)
    plan = call(*ONE, "--cache-dir", "new", "--dry-run", "--json").json
    assert (plan["rows"], plan["to_push"]) == (37, 1)
    (bank,) = call("banks", "ls", "--cache-dir", "new", "--json").json["banks"]
    assert bank["rows"] == 36
    assert [cut["complete"] for cut in bank["cuts"]] == [True]


@pytest.mark.slow
def test_strict_ends_with_1_when_an_image_is_quarantined(call, place):
    (place / "photos" / "red" / "page.png").write_text("<html>404</html>")
    done = call(*ONE, "--cache-dir", "new", "--json")
    assert (done.code, done.json["quarantined"], done.json["pushed"]) == (0, 1, 36)
    assert "1 of 37 images could not be read (1 not-an-image)" in done.err
    done = call(*ONE, "--cache-dir", "new", "--strict")
    assert done.code == 1
    (file,) = (place / "new").rglob("quarantine.jsonl")
    assert f"quarantine   {file}\n" in done.out
    assert json.loads(file.read_text())["reason"] == "not-an-image"


@pytest.mark.slow
def test_the_cache_is_where_the_environment_says(call, place, monkeypatch):
    monkeypatch.setenv("FEATBANK_CACHE", str(place / "elsewhere"))
    path = call(*ONE, "--json").json["bank"]
    assert path.startswith(str(place / "elsewhere" / "banks" / "photos"))


def test_digits_are_the_default(call, place):
    found = call("extract", "-c", "pool5", "--weights", "random", "--limit", 30, "--json").json
    assert (found["rows"], found["cuts"]) == (30, {"block5_pool": [128, 1, 1]})
    assert found["bank"].startswith(str(place / "cache" / "banks" / "digits" / "minivgg-"))


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--image-size", 64], ["--transform", "squash"], ["--mean", "0.5"]])
def test_what_is_part_of_the_key_makes_another_bank(call, place, bank, options):
    assert call(*ONE, "--json").json["bank"] == str(bank)
    assert call(*ONE, *options, "--json").json["bank"] != str(bank)


def test_numbers_that_are_none(call, place):
    done = call(*ONE, "--mean", "0.5,0.5")
    assert done.code == 2
    said = "featbank: --mean '0.5,0.5' is not three numbers for red, green, blue: 0.5,0.5,0.5"
    assert done.err.splitlines() == [said]


@pytest.mark.slow
def test_the_classes_and_splits_are_said_before_anything_is_pushed(call, place):
    for index in range(5):
        (place / "photos" / f"x{index}").mkdir()
        (place / "photos" / "red" / f"{index:02d}.png").rename(place / "photos" / f"x{index}" / "1.png")
    command = ("extract", "photos", "-c", "block5_pool", "--weights", "random", "--cache-dir", "new")
    for done in (call(*command), call(*command, "--json"), call(*command, "--dry-run")):
        said = next(one for one in (done.err + done.out).splitlines() if one.startswith("classes "))
        assert said.startswith("classes 8: blue, green, red, x0, x1 and 3 more; splits ")


@pytest.mark.slow
def test_two_readings_of_a_folder_are_refused_and_either_is_had(call, place, save_photo):
    for split in ("train", "test"):
        (place / "data" / split).mkdir(parents=True)
        for label in ("blue", "red"):
            shutil.copytree(place / "photos" / label, place / "data" / split / label)
    (place / "data" / "annot").mkdir()
    save_photo(place / "data" / "annot" / "1.png", seed=1)
    command = ("extract", "data", "-c", "block5_pool", "--weights", "random", "--cache-dir", "new")
    done = call(*command)
    assert done.code == 2
    commands = re.findall(r"'(featbank extract .*?)'", done.message)
    assert [one.rpartition(" ")[2] for one in commands] == ["split/class", "class"]
    found = call(*command, "--layout", "split/class", "--json").json
    assert (found["classes"], found["rows"], found["splits"]["test"]) == (["blue", "red"], 48, 24)
    found = call(*command, "--layout", "class", "--name", "x", "--json").json
    assert found["classes"] == ["annot", "test", "train"]
    # What was said holds wherever the images are read again.
    assert call("banks", "verify", "x", "--sources", "--cache-dir", "new").code == 0
    assert call("banks", "verify", "data", "--sources", "--cache-dir", "new").code == 0


def test_a_class_that_cannot_be_decoded_is_refused_unless_asked_for_and_nothing_is_lost(call, place):
    for number, file in enumerate((place / "photos" / "red").iterdir()):
        file.write_text(f"<html>{number}</html>")
    done = call(*ONE, "--cache-dir", "new")
    assert done.code == 2
    assert "none of the images of 'red' (12) in photos can be read; " in done.err
    found = call(*ONE, "--cache-dir", "new", "--skip-empty-classes", "--json").json
    assert (found["classes"], found["pushed"], found["skipped"]) == (["blue", "green"], 0, 24)


@pytest.mark.slow
def test_a_class_folder_without_images_is_refused_unless_asked_for(call, place):
    (place / "photos" / "bird").mkdir()
    assert "--skip-empty-classes" in call(*ONE, "--cache-dir", "new").message
    assert call(*ONE, "--cache-dir", "new", "--skip-empty-classes").code == 0


@pytest.mark.slow
def test_a_csv_with_columns_of_other_names_is_split_by_its_own_and_opened_again(call, place):
    photos = sorted((place / "photos").glob("*/*"))
    rows = [f"{one},{one.parent.name},{'test' if at % 4 == 0 else 'train'}" for at, one in enumerate(photos)]
    (place / "list.csv").write_text("\n".join(["filename,class,set", *rows]) + "\n")
    options = ("extract", "list.csv", "-b", "minivgg", "-c", "block5_pool", "--cache-dir", "new")
    refused = call(*options)
    assert refused.code == 2
    assert "no column 'path' (it has 'filename'" in refused.err
    assert "name it with --path-column" in refused.err
    options += ("--path-column", "filename", "--label-column", "class")
    done = call(*options, "--json")
    assert "its column 'set' is taken as the split (train 27, test 9)" in done.err
    assert Bank.open(done.json["bank"]).manifest.counts()["test"] == 9
    refused = call(*options, "--split", "4,4,4")
    assert refused.code == 2
    assert "would replace the split that 'list' has itself (train 27, test 9)" in refused.err
    changed = call(*options, "--split", "4,4,4", "--override-split", "--json").json
    assert Bank.open(changed["bank"]).manifest.counts() == {"train": 12, "val": 12, "test": 12}
    assert call("fit-head", "--cache-dir", "new", "-n", 1, "--repeats", 1, "--head", "ncm").code == 0
    shown = call("show", "mistakes", "--cache-dir", "new", "--json")
    assert shown.code == 0, shown.err
    assert call("banks", "verify", "--cache-dir", "new", "--sources").code == 0


@pytest.mark.slow
def test_slices_of_one_plan_by_the_same_command(call, place):
    one = call(*ONE, "--batch-size", 4, "--shard-rows", 4, "--cache-dir", "one", "--json").json
    command = (*ONE, "--batch-size", 4, "--shard-rows", 4, "--cache-dir", "new")
    for options, said in (
        (("--shard", "1/3"), "no plan of this command in"),
        (("--shards-left",), "no plan of this command in"),
        (("--shards-left", "--slices", 0), "--slices 0 must be at least 1"),
        (("--finish",), "no plan of this command in"),
        (("--shard", "1of3"), "--shard '1of3' is not i/N, such as 3/32"),
        (("--plan-only",), "--plan-only needs --slices N"),
        (("--slices", "3"), "--slices 3 goes with --plan-only"),
        (("--shard", "1/3", "--finish"), "--shard and --finish are given; each is a run of its own"),
        (("--plan-only", "--slices", "0"), "--slices 0 must be at least 1"),
    ):
        done = call(*command, *options)
        assert (done.code in (2, 3), said in done.message) == (True, True), done.err
    assert not (place / "new" / "banks").exists()
    planned = call(*command, "--plan-only", "--slices", 3, "--json").json
    assert (planned["to_push"], planned["slices"], planned["shards"]) == (36, 3, 9)
    assert "--shard 2/4" not in call(*command, "--shards-left").out
    assert call(*command, "--shards-left").out.split() == ["1/3", "2/3", "3/3"]
    refused = call(*command, "--finish")
    assert (refused.code, "36 images are still to be pushed" in refused.message) == (2, True)
    assert "i/3, or plan again" in call(*command, "--shard", "2/4").err
    assert "fc6" in call(*command, "-c", "fc6", "--shard", "2/3").err
    first = call(*command, "--shard", "2/3", "--workers", 1, "--json").json
    assert (first["pushed"], first["left"]) == (12, 24)
    left = call(*command, "--shards-left", "--json").json
    assert (left["left"], left["array"], left["shards"], left["finished"]) == (
        ["1/3", "3/3"],
        "1,3",
        6,
        False,
    )
    again = call(*command, "--shard", "2/3")
    assert "rows         36: 0 pushed, 12 skipped, 0 quarantined, 24 left to other slices" in again.out
    assert [call(*command, "--shard", f"{number}/3").code for number in (3, 1)] == [0, 0]
    done = call(*command, "--shards-left")
    assert (done.code, done.out, done.err) == (0, "", "every shard is there\n")
    shards = [sorted(path.name for path in (place / new).rglob("0*.h5")) for new in ("one", "new")]
    assert shards[0] == shards[1]
    next((place / "new").glob("banks/*/*/fc7/cut.json")).unlink()  # killed before it wrote the facts
    assert "--finish finishes the cuts" in call(*command, "--shards-left").err
    assert call(*command, "--finish", "--json").json["left"] == 0
    assert Bank.open(planned["bank"]).cuts == ("fc7",)
    assert one["cuts"] == planned["cuts"]
