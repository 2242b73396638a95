"""``featbank report``."""

from __future__ import annotations

import shutil

import pytest


def run_of(place, name):
    (folder,) = (place / "cache" / "runs").glob(f"*-{name}")
    return folder


def test_the_newest_run_is_the_default(call, place):
    done = call("report", "--data", "photos")
    file = run_of(place, "warmth") / "report.html"
    assert (done.code, done.out) == (0, f"{file.relative_to(place)}\n") or done.out == f"{file}\n"
    assert file.read_text("utf-8").startswith("<!doctype html>")
    assert done.err.endswith(" images, opens without network\n")


def test_a_run_and_a_file_of_ones_own(call, place):
    done = call("report", "depth", "--out", "new/page.html", "--data", "photos", "--json")
    file = place / "new" / "page.html"
    assert done.code == 0
    assert done.json["report"] == "new/page.html"
    assert done.json["size_bytes"] == file.stat().st_size
    assert done.json["images"] >= 3
    assert done.json["notes"] == []
    assert call("report", str(run_of(place, "depth")), "-o", "again.html", "--data", "photos").code == 0
    assert (place / "again.html").read_bytes() == file.read_bytes()


def test_what_cannot_be_shown_is_said(call, place, bank):
    shutil.rmtree(bank)
    facts = (run_of(place, "depth") / "run.json").read_text()
    (run_of(place, "depth") / "run.json").write_text(facts.replace("/prepared", "/gone"))
    done = call("report", "depth", "--json")
    assert done.code == 0
    cost, images = done.json["notes"]
    assert "is not in the cache" in cost
    assert "with 'featbank banks import " in cost
    assert images == "No image is shown: nothing says where the images came from; say it with --data."
    assert done.err == f"note: {cost}\nnote: {images}\n"
    assert done.json["images"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["depth", "--out", "page.txt"], 2, "cannot write a report to 'page.txt'; end it in .html"),
        (["cold"], 3, "no run 'cold'; there are "),
        (["depth", "--data", "nowhere"], 3, "no images at 'nowhere' (looked for "),
        (
            ["depth", "--data-root", "photos"],
            2,
            "data_root='photos' is for 'torchvision:NAME' and lists of addresses only, and data=",
        ),
    ],
)
def test_wrong_input(call, place, arguments, code, message):
    done = call("report", *arguments)
    assert done.code == code
    assert done.message.startswith(message)
    assert not list(place.glob("*.html"))
