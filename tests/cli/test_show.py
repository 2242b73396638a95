"""``featbank show``: every kind of picture, what it says of itself, what it refuses."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from featbank.extraction import extract
from featbank.fitting import fit_heads

PNG, SVG = b"\x89PNG\r\n\x1a\n", b"<?xml"


def test_filters_as_it_stands(call, place):
    done = call("show", "filters")
    file = place / "cache" / "figures" / "minivgg-filters.png"
    assert (done.code, done.out, done.err) == (0, f"{file}\n", "")
    assert file.read_bytes().startswith(PNG)
    done = call("show", "filters", "--most", 4, "--cache-dir", "new cache")
    assert done.out == f"{place / 'new cache' / 'figures' / 'minivgg-filters.png'}\n"
    assert not list(place.glob("*.png"))
    done = call("show", "filters", "--scaling", "shared", "--most", 4, "-o", "new/f.svg", "--json")
    assert done.json == {"figure": "new/f.svg", "filters": 32, "shown": 4}
    assert (place / "new" / "f.svg").read_bytes().startswith(SVG)


def test_networks_beside_each_other(call, place):
    options = ("--beside", "minivgg=random", "--beside", "minivgg", "-o", "three.png", "--json")
    done = call("show", "filters", *options).json
    assert [one["backbone"] for one in done["beside"]] == ["minivgg=random", "minivgg"]
    assert (done["filters"], done["beside"][0]["filters"]) == (32, 32)
    call("show", "filters", "-o", "one.png")
    with Image.open(place / "three.png") as three, Image.open(place / "one.png") as one:
        assert three.width > 2.8 * one.width
        thirds = [
            three.crop((at * three.width // 3, 0, (at + 1) * three.width // 3, three.height))
            for at in range(3)
        ]
        first, random, last = (np.asarray(third.resize((300, 100)), dtype=float)[..., :3] for third in thirds)
        assert abs(first - last).mean() < abs(first - random).mean() / 3
    done = call("show", "activations", "--cut", "pool5", "--beside", "nobody", "-o", "x.png")
    assert (done.code, "unknown backbone 'nobody'" in done.err) == (2, True)


def test_activations_of_a_digit_and_of_a_photograph(call, place):
    file = place / "cache" / "figures" / "minivgg-activations.png"
    assert call("show", "activations", "--cut", "pool5").out == f"{file}\n"
    assert file.read_bytes().startswith(PNG)
    options = (
        "--cut",
        "pool1,logits",
        "--cut",
        "fc7",
        "--maps",
        3,
        "--no-filters",
        "--out",
        "a.svg",
        "--json",
    )
    found = call("show", "activations", "photos/red/00.png", *options).json
    assert (found["figure"], found["image"]) == ("a.svg", "photos/red/00.png")
    assert [one["cut"] for one in found["cuts"]] == ["block1_pool", "fc7", "logits"]
    assert found["cuts"][0]["shape"] == [32, 16, 16]
    assert len(found["cuts"][0]["strongest"]) == 3
    assert (place / "a.svg").read_bytes().startswith(SVG)


@pytest.mark.slow
def test_dream(call, place):
    options = ("--cut", "pool1", "--channels", 2, "--steps", 2, "--candidates", 4, "--json")
    done = call("show", "dream", *options)
    (cut,) = done.json["cuts"]
    assert done.err.splitlines()[-1].startswith("dream: 1 of 1 cuts, ")
    assert (cut["cut"], len(cut["channels"]), cut["tried"], cut["of"]) == ("block1_pool", 2, 4, 32)
    assert cut["gains"][0] >= cut["gains"][1]
    assert call("show", "dream", *options).json == done.json
    chosen = call("show", "dream", *options, "--channel", 5, "--channel", 1, "--out", "d.png").json
    assert (chosen["figure"], chosen["cuts"][0]["channels"]) == ("d.png", [5, 1])


def test_mistakes_of_the_newest_run(call, place):
    (run,) = (place / "cache" / "runs").glob("*-warmth")
    done = call("show", "mistakes", "--head", "softmax-T1-softmax-n4-r0", "--json")
    if done.code:  # which of two repeats was kept is not this test's business
        done = call("show", "mistakes", "--head", "softmax-T1-softmax-n4-r1", "--json")
    found = done.json
    assert found["figure"] == str(run / "figures" / "mistakes.png")
    assert (run / "figures" / "mistakes.png").read_bytes().startswith(PNG)
    assert (found["split"], found["of"]) == ("test", 9)
    assert len(found["mistakes"]) == found["wrong"] > 0
    for one in found["mistakes"]:
        assert one["id"].startswith(f"{one['true']}/")
        assert one["true"] != one["predicted"]
        assert one["p_true"] <= one["p_predicted"]
    shares = [one["p_true"] for one in found["mistakes"]]
    assert shares == sorted(shares)


@pytest.fixture
def own(place, monkeypatch):
    """A folder with photographs, and a cache with a bank and a run of them, that nothing else refers to."""
    with monkeypatch.context() as here:
        here.chdir(place)
        made = extract(
            *("photos",),
            backbone="minivgg",
            weights="random",
            cuts=("block5_pool",),
            split="2,3,4",
            cache_dir="own",
        )
        fit_heads(
            made.bank,
            heads=("softmax", "svm"),
            samples_per_class=2,
            head_params={"softmax": {"max_epochs": 6}},
            repeats=1,
            name="own",
            cache_dir="own",
        )
    return place


@pytest.mark.slow
def test_images_that_have_moved(call, own):
    assert call("show", "mistakes", "--cache-dir", "own", "--out", "m.svg").code == 0
    (own / "photos").rename(own / "album")
    done = call("show", "mistakes", "--cache-dir", "own")
    assert done.code == 3
    assert done.message.startswith("the run's images are no longer where they came from, '/")
    assert done.message.endswith("/photos'; say where they are with --data")
    there = ("--cache-dir", "own", "--data", "album")
    assert call("show", "mistakes", *there, "--out", "m.png").out == "m.png\n"
    quick = ("--head", "block5_pool-softmax-n2-r0", "--patch", 16, "--stride", 16, "--json")
    assert call("show", "occlusion", "last", "green/11.png", *there, *quick).json["positions"] == 4


@pytest.mark.slow
def test_pictures_of_an_older_run_after_the_bank_has_changed(call, own, monkeypatch):
    """Renamed, added and removed images, and a class that moves all class numbers."""
    monkeypatch.chdir(own)
    wanted = ("--cache-dir", "own", "--json")
    quick = ("--head", "block5_pool-softmax-n2-r0", "--patch", 16, "--stride", 16)

    def seen(picture, *more):
        mistakes = call("show", "mistakes", *wanted, "--out", picture, *more).json["mistakes"]
        occluded = call("show", "occlusion", *quick, *wanted, "--out", f"o-{picture}", *more).json
        del occluded["figure"]
        return mistakes, occluded, (own / picture).read_bytes(), (own / f"o-{picture}").read_bytes()

    before = seen("before.png")
    photos = own / "photos"
    for folder in sorted(photos.iterdir()):
        last = max(folder.iterdir())
        last.rename(folder / "00-first.png")
    shutil.copytree(photos / "red", photos / "amber")
    for file in (photos / "amber").iterdir():
        file.write_bytes(file.read_bytes() + b"another image")
    options = {"backbone": "minivgg", "weights": "random", "cuts": ("block5_pool",), "cache_dir": "own"}
    extract("photos", split="2,3,4", **options)
    assert seen("after.png") == before
    shutil.rmtree(own / "own" / "banks")
    assert seen("alone.png", "--data", "photos") == before


@pytest.mark.slow
def test_a_cache_that_has_moved(call, own):
    (own / "own").rename(own / "elsewhere")
    done = call("show", "mistakes", "--cache-dir", "elsewhere", "--json")
    assert done.json["figure"].endswith("-own/figures/mistakes.png")
    shutil.rmtree(own / "elsewhere" / "banks")
    done = call("show", "mistakes", "--cache-dir", "elsewhere")
    assert done.code == 3
    assert done.message == "nothing says where the images came from; say it with --data"
    # the run knows its rows, and an image of one's own needs none
    assert call("show", "mistakes", "--cache-dir", "elsewhere", "--data", "photos").code == 0
    quick = ("--head", "block5_pool-softmax-n2-r0", "--patch", 16, "--stride", 16, "--json")
    found = call("show", "occlusion", "last", "photos/red/01.png", "--cache-dir", "elsewhere", *quick)
    assert found.json["class"] == "red"


@pytest.mark.slow
def test_a_head_without_probabilities(call, own):
    done = call("show", "occlusion", "--head", "block5_pool-svm-n2-r0", "--cache-dir", "own")
    message = "head 'block5_pool-svm-n2-r0' gives no probabilities; choose another with --head"
    assert (done.code, done.message) == (2, message)
    found = call("show", "mistakes", "--head", "block5_pool-svm-n2-r0", "--cache-dir", "own", "--json").json
    assert all(one["p_true"] is None for one in found["mistakes"])


@pytest.mark.slow
def test_occlusion(call, place):
    quick = ("--patch", 16, "--stride", 8, "--json")
    by_file = call("show", "occlusion", "depth", "photos/green/11.png", *quick).json
    assert (by_file["class"], by_file["positions"], by_file["patch"]) == ("green", 9, 16)
    assert 0 <= by_file["lowest"] <= by_file["probability"] <= 1
    assert by_file["figure"].endswith("-depth/figures/occlusion.png")
    by_id = call("show", "occlusion", "depth", "green/11.png", *quick).json
    assert by_id == by_file
    red = call("show", "occlusion", "depth", "photos/green/11.png", "--class", "red", *quick).json
    assert red["class"] == "red"
    assert red["probability"] < by_file["probability"]
    shutil.copy("photos/blue/00.png", "alone.png")
    done = call("show", "occlusion", "depth", "alone.png", *quick)
    assert done.json["class"] == "blue"
    warned = (
        "featbank: nobody says what alone.png shows, so the class predicted is taken, 'blue'; --class says it"
    )
    assert warned in done.err.splitlines()


@pytest.mark.slow
def test_class_activation_map(call, place):
    found = call("show", "cam", "depth", "green/11.png", "--no-occlusion", "--out", "cam.svg", "--json").json
    assert found["figure"] == "cam.svg"
    assert (place / "cam.svg").read_text().startswith("<?xml")
    assert "occlusion" not in found
    assert found["map"][0] > 1
    red = call("show", "cam", "depth", "green/11.png", "--no-occlusion", "--class", "red", "--json").json
    assert red["class"] == "red"
    assert red["figure"].endswith("-depth/figures/cam.png")
    wrong = call("show", "cam", "depth", "--class", "rde")
    assert wrong.code == 2
    assert wrong.err.splitlines()[-1].startswith("featbank: unknown class 'rde'; known: 'red'")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["filters", "--out", "a.gif"],
            2,
            "cannot write a figure to 'a.gif'; end it in .png, .svg, .pdf or .eps",
        ),
        (["filters", "--scaling", "own"], 2, "scaling='own' is not one of both, shared, per-filter"),
        (["filters", "-b", "vit_b_99"], 2, None),
        (["activations", "gone.png"], 3, "no image at 'gone.png'; give a file or a folder of images"),
        (["activations", "photos/red"], 2, "'photos/red' is a folder; name one image"),
        (["activations", "--cut", "pool9"], 2, None),
        (["activations", "text.png"], 2, None),
        (
            ["dream", "--cut", "pool1", "--channel", 99],
            2,
            "cut 'block1_pool' has no channel 99; it has 0 to 31",
        ),
        (["dream", "--decay", 2], 2, "decay=2.0 must be in [0, 1)"),
        (["occlusion", "depth", "--class", "rde"], 2, "unknown class 'rde'; known: 'red', 'green', 'blue'"),
        (
            ["occlusion", "depth", "--patch", 99],
            2,
            "patch=99 must be 1 to 32, the side of the image in pixels",
        ),
        (["occlusion", "nothing"], 3, None),
        (["mistakes", "--most", 0], 2, "most=0 must be at least 1"),
        (["mistakes", "--head", "x"], 2, None),
    ],
)
def test_wrong_input(call, place, arguments, code, message):
    (place / "text.png").write_text("<html>404</html>")
    done = call("show", *arguments)
    assert done.code == code
    assert done.message  # one line
    if message is not None:
        assert done.message == message


def test_an_image_nobody_has(call, place):
    done = call("show", "occlusion", "depth", "green/99.png")
    assert done.code == 3
    assert done.message.startswith("no image at 'green/99.png', and no row of run '")
    assert done.message.endswith("' has that id")


def test_help_loads_no_torch():
    import subprocess
    import sys

    call = "try:\n    main(['show', 'dream', '--help'])\nexcept SystemExit:\n    pass"
    code = f"import sys\nfrom featbank.cli import main\n{call}\n"
    code += "sys.exit(bool(set(sys.modules) & {'torch', 'matplotlib'}))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
