"""``featbank run``: what it prints, and with what it ends."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from featbank.pipeline import TEMPLATE

STUDY = """
title = "Three colours"
question = "Can it tell colours apart?"

[data]
source = "photos"
how = "paint some"
name = "colours"
split = "4,2,2"

[backbone]
name = "minivgg"
weights = "random"
precision = "float32"

[sweep]
cuts = ["fc7"]
heads = ["ncm"]
samples_per_class = "2,4"
repeats = 2

[published]
report = "a report on colours"

[[published.figures]]
label = "fc7, test"
value = 0.75

[[published.claims]]
text = "it learns nothing"
check = "no-learning"
"""


@pytest.fixture
def study(tmp_path, photo_folder, monkeypatch):
    photo_folder(n_per_class=8)
    (tmp_path / "small.toml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATBANK_CACHE", raising=False)
    monkeypatch.delenv("FEATBANK_DATA", raising=False)
    return "small.toml"


@pytest.mark.slow
def test_published_stands_beside_measured(call, study):
    done = call("run", study, "--data", "photos")
    assert done.code == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[1] == "Can it tell colours apart?"
    assert any(
        line.startswith("fc7, test 75.00 % ") and "small: fc7 ncm, 4 samples per class" in line
        for line in lines
    )
    assert "published: a report on colours" in lines
    assert any(line.startswith("it learns nothing: NO (small fc7 ") for line in lines)
    assert "- minivgg has RANDOM weights: its features are those of no training" in lines
    assert lines[-1].startswith("24 images pushed, ")
    assert "colours.4-2-2: 24 images, minivgg, fc7" in done.err
    again = call("run", study, "--data", "photos", "--json").json
    assert (again["pushed"], again["reused"]) == (0, ["small"])
    assert again["published"][0]["value"] == 0.75
    assert again["measured"][0]["label"] == "fc7, test"
    assert again["claims"][0]["holds"] is False
    assert set(again["runs"]) == set(again["reports"]) == {"small"}


@pytest.mark.slow
def test_a_dry_run_pushes_nothing(call, study, tmp_path):
    done = call("run", study, "--data", "photos", "--dry-run")
    assert done.code == 0
    assert done.out.startswith("small: 24 of 24 images to push, about ")
    assert done.out.endswith(" free), 4 heads to fit\n")
    assert not list(tmp_path.glob("cache/banks/*/*"))
    found = call("run", study, "--data", "photos", "--dry-run", "--json").json
    assert (found["banks"][0]["to_push"], found["banks"][0]["fits"]) == (24, 4)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("gone.toml",),
            3,
            "no images at 'drawings' (looked for '{0}/drawings' and '{0}/data/drawings'): paint some; or say",
        ),
        (("smal",), 3, "no study 'smal'; give a TOML file, or one of "),
        (("small.toml", "--data", "photos", "--backbone", "minivg"), 2, "unknown backbone 'minivg'; known: "),
        (
            ("small.toml", "--data", "photos", "--weights", "gone.pth"),
            3,
            "weights file 'gone.pth' does not exist; pass another --weights FILE",
        ),
        (
            ("small.toml", "--data", "photos", "--only", "big"),
            2,
            "study 'small' has no experiment 'big'; it",
        ),
        (("small.toml", "--data", "photos", "--limit", "9"), 2, "limit=9 leaves 1 of the classes, of which "),
        (("odd.toml",), 2, "'odd.toml' has 1 fault: experiment must be a list of tables, "),
    ],
)
def test_what_is_wrong_is_one_line(call, study, tmp_path, arguments, code, message):
    (tmp_path / "odd.toml").write_text("experiment = 3\n")
    (tmp_path / "gone.toml").write_text(Path("small.toml").read_text().replace('"photos"', '"drawings"'))
    done = call("run", *arguments)
    assert done.code == code
    assert done.message.startswith(message.replace("{0}", str(tmp_path)))
    assert not (tmp_path / "cache").exists()


def test_the_template_is_printed_as_it_is(call):
    printed = call("run", "--template")
    assert (printed.code, printed.out) == (0, TEMPLATE.read_text())
    assert call("run", "mini_digits", "--template").code == 2


@pytest.mark.slow
def test_a_study_of_ones_own_prints_its_results_and_is_told_twice(call, study, tmp_path):
    (tmp_path / "mine.toml").write_text(
        '[data]\nsource = "digits"\n[backbone]\nname = "minivgg"\n'
        '[sweep]\ncuts = ["block5_pool"]\nheads = "ncm"\nsamples_per_class = 4\n'
    )
    done, again = call("run", "mine.toml"), call("run", "mine.toml")
    assert "block5_pool   ncm " in done.out
    assert "published" not in done.out
    assert "(fitted before)" not in done.out
    assert again.out.endswith("nothing was new: all of it was extracted and fitted before\n")


def test_the_studies_are_listed(call):
    done = call("run")
    assert done.code == 0
    assert "caltech256_depth" in done.out
    listed = call("run", "--json").json["studies"]
    assert {"mini_digits", "urban_tribes"} <= {one["name"] for one in listed}


def test_listing_studies_runs_nothing_of_theirs_and_a_broken_one_is_a_line(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "beside.py").write_text("open('ran', 'w')\n")
    (folder / "strange.toml").write_text('title = "Of a stranger"\n[sweep]\nheads = ["beside:Head"]\n')
    (folder / "torn.toml").write_text("title = 'open")
    done = call("run")
    assert done.code == 0, done.err
    assert not (tmp_path / "ran").exists()
    lines = {line.split()[0]: line for line in done.out.splitlines() if line}
    assert "Of a stranger" in lines["strange"]
    assert "cannot be read: 'pipelines/torn.toml' is not TOML" in lines["torn"]
    assert "mini_digits" in lines


@pytest.mark.slow
def test_a_study_of_a_training_says_what_is_new_and_over_what_it_was_measured(call, study, tmp_path):
    (tmp_path / "trained.toml").write_text(
        '[data]\nsource = "photos"\nsplit = "4,2,2"\n[[training]]\nname = "own"\nnetwork = "own_net"\n'
        "params = { widths = [4, 4, 8], hidden = [8, 8] }\nrepeats = 3\n"
        'recipe = { epochs = 1, batch_size = 8, precision = "float32" }\n'
        '[published]\nreport = "r"\n[[published.figures]]\nlabel = "f"\nvalue = 0.5\ncut = "test"\n'
    )
    first = call("run", "trained.toml", "--data", "photos")
    assert first.code == 0
    assert " % over seeds " in first.out
    assert "nothing was new" not in first.out
    again = call("run", "trained.toml", "--data", "photos")
    assert "; nothing was new: all of it was trained before" in again.out


@pytest.mark.slow
def test_trainings_on_several_data_sets_have_a_page_for_each(call, study, tmp_path):
    shutil.copytree(tmp_path / "photos", tmp_path / "beside" / "more")
    for file in (tmp_path / "beside" / "more").rglob("*.*"):
        ImageOps.invert(Image.open(file).convert("RGB")).save(file)
    (tmp_path / "beside" / "several.toml").write_text(
        'title = "Several"\n[data]\nsource = "photos"\nsplit = "4,2,2"\n'
        + "".join(
            f'[[training]]\nname = "{name}"\nnetwork = "own_net"\n{data}'
            "params = { widths = [4, 4, 8], hidden = [8, 8] }\n"
            'recipe = { epochs = 1, batch_size = 8, precision = "float32" }\n'
            for name, data in (
                ("one", ""),
                ("two", ""),
                ("three", 'data = { source = "more", name = "more" }\n'),
            )
        )
    )
    done = call("run", "beside/several.toml", "--json").json
    titles = [
        re.search("<title>(.*?)</title>", Path(page).read_text())[1] for page in done["reports"].values()
    ]
    assert [*done["reports"]] == ["one", "three"]
    assert titles == [f"Several · {one}.4-2-2 – featbank" for one in ("several", "more")]
