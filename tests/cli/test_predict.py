"""``featbank predict``."""

from __future__ import annotations

import shutil

import pytest

from featbank.runs import open_run


def test_an_image_and_a_folder(call, place):
    done = call("predict", "depth", "photos/green/11.png", "photos/red", "--head", "block5_pool-softmax")
    assert done.code == 0
    lines = done.out.splitlines()
    assert len(lines) == 13
    assert lines[0].startswith("photos/green/11.png  green ")
    assert all(line.split("  ")[1].startswith("red ") for line in lines[1:])
    assert all(line.count("%") == 3 for line in lines)  # three classes there are, five are asked for


def test_litter_in_a_folder_is_no_image_as_it_is_none_in_an_extraction(call, place):
    for litter in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "a/$RECYCLE.BIN"):
        shutil.copytree(place / "photos" / "red", place / "photos" / "green" / litter)
    (place / "photos" / "green" / "._11.png").write_bytes(b"AppleDouble")
    done = call("predict", "depth", "photos/green")
    assert (done.code, len(done.out.splitlines())) == (0, 12)
    assert done.err.count("skipped 5 hidden or system entries in ") == 1


def test_links_in_a_folder_are_followed_and_one_to_nothing_is_told(call, place):
    (place / "links").mkdir()
    (place / "links" / "red").symlink_to("../photos/red")
    (place / "links" / "one.png").symlink_to("../photos/green/11.png")
    (place / "links" / "gone.png").symlink_to("nowhere.png")
    done = call("predict", "depth", "links")
    assert (done.code, len(done.out.splitlines())) == (1, 14)
    assert "links/gone.png  cannot be read: " in done.out


def test_json(call, place):
    done = call("predict", "last", "photos/blue/00.png", "--top", 2, "--json")
    (run,) = (place / "cache" / "runs").glob("*-warmth")
    best = open_run(run).best_head()["name"]
    assert (done.json["run"], done.json["head"]) == (str(run), best)
    assert done.err.splitlines()[-1] == f"run {run.name}, head {best}, 3 classes: blue, green, red"
    assert done.json["classes"] == ["blue", "green", "red"]
    (found,) = done.json["predictions"]
    assert list(found) == ["path", "classes", "probabilities", "error"]
    assert (found["path"], found["classes"][0], found["error"]) == ("photos/blue/00.png", "blue", None)
    assert len(found["classes"]) == len(found["probabilities"]) == 2
    assert 1 >= found["probabilities"][0] >= found["probabilities"][1] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("head", ["svm", "ridge", "ncm"])
def test_a_head_without_probabilities_says_its_class(call, place, head):
    assert call("fit-head", "-c", "pool5", "--head", head, "-n", 4, "--repeats", 1).code == 0
    done = call("predict", "last", "photos/red/00.png", "photos/blue/00.png")
    assert (done.code, done.out) == (0, "photos/red/00.png  red\nphotos/blue/00.png  blue\n")
    assert "this head has no probabilities: one class for each image, --top 5 does nothing" in done.err
    (found,) = call("predict", "last", "photos/red/00.png", "--json").json["predictions"]
    assert (found["classes"], found["probabilities"], found["error"]) == (["red"], None, None)


def test_an_image_that_cannot_be_read_ends_with_1(call, place):
    (place / "photos" / "red" / "page.png").write_text("<html>404</html>")
    done = call("predict", "depth", "photos/red")
    assert done.code == 1
    (line,) = [line for line in done.out.splitlines() if "page.png" in line]
    assert line.startswith("photos/red/page.png  cannot be read: not-an-image: ")
    assert len(done.out.splitlines()) == 13


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone.png"], 3, "no image at 'gone.png'; give a file or a folder of images"),
        (["photos", "--top", 0], 2, "top=0 must be at least 1"),
        (
            ["photos", "--weights", "w.pth"],
            3,
            "weights file 'w.pth' does not exist; pass another --weights FILE",
        ),
    ],
)
def test_wrong_input(call, place, arguments, code, message):
    done = call("predict", "depth", *arguments)
    assert (done.code, done.message) == (code, message)


def test_a_head_that_is_not_there(call, place):
    run = open_run("depth")
    heads = [one["name"] for one in run.heads()]
    done = call("predict", "depth", "photos/red", "--head", "nope")
    assert done.code == 2
    assert done.message.startswith(f"run '{run.name}' has no head 'nope'; it has ")
    assert done.message.endswith(f"; 'featbank runs info {run.name}' lists them")
    assert all(repr(head) in done.message for head in heads)
    # a part of the name does where one head only has it
    done = call("predict", "depth", "photos/red/00.png", "--head", "block5_pool-softmax", "--json")
    assert done.json["head"] == next(one for one in heads if one.startswith("block5_pool-softmax-"))
    done = call("predict", "depth", "photos/red/00.png", "--head", "block5_pool")
    assert done.code == 2
    assert done.message.startswith("head 'block5_pool' is part of 2 names: 'block5_pool-")


def test_an_image_without_a_run_is_told_where_the_run_goes(call, place):
    done = call("predict", "photos/red/00.png")
    assert (done.code, done.message) == (
        2,
        "no image to classify beside 'photos/red/00.png': put the run, or 'last', before the image: "
        "featbank predict last photos/red/00.png",
    )
