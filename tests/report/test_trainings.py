"""The page of trainings: what it says of one network and of a study's, and what it cannot show."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from featbank.errors import InvalidInputError, RunError, RunNotFoundError
from featbank.report import write_report
from featbank.report._trainings import content_of_trainings


def text_of(path: Path, page: type) -> str:
    return " ".join(page(path.read_text()).text.split())


def title_of(path: Path) -> str:
    return re.search(r"<title>(.*?)</title>", path.read_text(), re.S)[1]


def change(folder: Path, **changes: object) -> None:
    file = folder / "training.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_trainings_of_a_study_stand_side_by_side(trained, page) -> None:
    written = write_report("own-1", cache_dir=trained.parents[1])
    assert written.path == trained / "report.html"
    source = written.path.read_text()
    parts = page(source)
    text = " ".join(parts.text.split())
    assert not parts.open
    assert (
        "SGD, seed 2 gets 62.00 % of the test images right (top-5 99.00 %), the most of 3 networks, after "
        in text
    )
    assert "epoch 3 of 4; the next, SGD, seed 1, gets 61.00 %." in text
    squeezed = text.replace(" ", "")  # between cells of a table there is no space
    for line in (
        "16 samples test top-1 65.00 % 73.21 % 72.00 – 75.00 % +8.21 points",
        "3-3-3 own_net 80.00 % 55.00 % 60.00 % 99.00 % 4 3 1.75",
        "SGD, seed 2 own_net 80.00 %",
        "3-3-3 4 1.8 s 1.6 s 1.9 s 7.0 s",
        "All of them Name own_net Plan kernels 3, 3, 3 SHA-256",
        "SGD, seed 2 Folder own-3 Recipe random state 2 Notes",
    ):
        assert line.replace(" ", "") in squeezed, line
    assert "photos <i>: 198 images of 6 classes." in text
    assert "One seed each" not in text
    # both drawings of the comparison, and of each network its course: loss, top-1, top-5, seconds
    assert len(parts.all("svg", class_="chart")) == 2 + 3 * 4
    assert len(parts.all("details", class_="history")) == 3
    names = [one["aria-label"] for one in parts.all("g", role="img")]
    assert "SGD, seed 1, 60.0 %, 4 epochs; 7.0 s" in names
    # nothing of a name is markup, nothing is loaded, every link leads somewhere
    assert "<i>" not in re.sub(r"&[a-z#0-9]+;", "", source)
    assert "boom()" not in re.search(r"<script>(.*?)</script>", source, re.S)[1]
    ids = [attrs["id"] for _, attrs in parts.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {one["href"][1:] for one in parts.all("a")} <= set(ids)
    assert write_report(trained, trained / "again.html").path.read_text() == source


def test_of_very_many_epochs_some_are_drawn(trained, page) -> None:
    for at, n_epochs in enumerate((3000, 2999, 7)):
        folder = trained.parent / f"own-{at + 1}"
        (entry, *_) = json.loads((folder / "training.json").read_text())["history"]
        change(folder, history=[entry | {"epoch": 1.0 + epoch} for epoch in range(n_epochs)])
    source = write_report(trained).path.read_text()
    assert len(source) < 600_000
    rows = re.search(r'id="courses".*?<tbody>(.*?)</tbody>', source, re.S)[1]
    epochs = [int(one) for one in re.findall(r'<th scope="row">(\d+)</th>', rows)]
    assert {1, 7, 2999, 3000} <= set(epochs)
    assert len(epochs) < 250
    assert "some of many epochs are shown" in source


def test_one_network_alone(trained, page) -> None:
    (trained / "study.json").unlink()
    text = text_of(write_report(trained).path, page)
    assert "How well does own_net recognise photos <i> when it is trained on them?" in text
    assert "own_net gets 60.00 % of the test images right (top-5 99.00 %), after epoch 3 of 4." in text
    assert "How it was trained" in text
    assert content_of_trainings(trained).cost_figures[:2] == [("network", "1"), ("epochs", "4")]
    assert "EpochTraininglossValidationlossTestloss" in text.replace(" ", "")
    assert "Seconds" in text
    assert "Published and measured" not in text
    confusion = json.loads((trained / "training.json").read_text())["confusion"]
    right = sum(confusion[at][at] for at in range(6))
    assert f"{right} of {sum(map(sum, confusion))} test images right" in text
    assert "Which images a network took for which is not kept" in text
    assert "Open an orange cell" not in text


def test_what_older_versions_did_not_write_and_rows_that_are_not_there(trained, page) -> None:
    (trained / "study.json").unlink()
    said = json.loads((trained / "training.json").read_text())
    for name in ("dataset", "n_images", "versions"):
        said.pop(name)
    history = [{name: value for name, value in one.items() if "test" not in name} for one in said["history"]]
    said |= {"history": history[:1], "scores": {"val_top1": 0.55}, "best_epoch": 1, "confusion": []}
    (trained / "training.json").write_text(json.dumps(said))
    text = text_of(write_report(trained).path, page)
    assert "own_net gets 55.00 % of the validation images right" in text
    assert "There is no course: the network was trained for one epoch." in text
    assert "right, after 1 epoch." in text
    assert "own-1: 48 training images of 6 classes." in text
    assert "No confusion of networks for which there were no images outside train." in text


def test_networks_that_cannot_be_shown_are_named(trained, page) -> None:
    shutil.rmtree(trained.parent / "own-2")
    change(trained.parent / "own-3", confusion=[[1]])
    text = text_of(write_report(trained).path, page)
    assert "SGD is not shown: there is no finished training in " in text
    assert "training.json' is damaged (its confusion of 6 classes is 1x1); remove its folder" in text
    assert "60.00 % of the test images right" in text
    # nothing of it is of other images, so the title is the study's alone
    assert " · " not in title_of(write_report(trained).path)
    facts = json.loads((trained / "training.json").read_text())["facts"]
    change(trained.parent / "own-3", facts=facts | {"classes": ["a", "b"]}, confusion=[], n_per_class=[8, 8])
    assert "SGD is not shown: it tells other classes apart." in text_of(write_report(trained).path, page)


def test_only_networks_judged_by_the_same_images_are_ranked(trained, page) -> None:
    """Training accuracy is no test accuracy, and the test images of other pictures are others."""
    own = json.loads((trained / "training.json").read_text())
    history = [{**one, "train_top1": 0.99} for one in own["history"]]
    facts = own["facts"] | {"data": "ef" * 32}
    alone = {"facts": facts, "history": history, "scores": {}, "confusion": [], "n_images": {"train": 342}}
    change(trained.parent / "own-2", **alone)
    change(trained.parent / "own-3", facts=facts, dataset="paintings")
    text = text_of(write_report(trained).path, page)
    assert " · photos" in title_of(write_report(trained).path)
    assert "3-3-3 gets 60.00 % of the test images right" in text
    judged = "and 3-3-3 by 144 test images of photos <i>."
    assert f"SGD is not shown: it is judged by 342 training images of photos <i>, {judged}" in text
    assert f"SGD is not shown: it is judged by 144 test images of paintings, {judged}" in text
    # what an older version does not say of the same images does not part them
    change(trained.parent / "own-3", facts=own["facts"], dataset="", n_images={})
    assert "the most of 2 networks" in text_of(write_report(trained).path, page)


@pytest.mark.slow
def test_the_answers_of_many_networks_do_not_fill_the_page(trained, page) -> None:
    """As on the page of a run, the confusions of the best have room, and how many have none is said."""
    classes = [f"class {at}" for at in range(101)]
    said = json.loads((trained / "training.json").read_text())
    confusion = np.random.default_rng(0).integers(0, 3, (101, 101)).tolist()
    facts = said["facts"] | {"classes": classes}
    many = {**said, "facts": facts, "confusion": confusion, "n_per_class": [8] * 101}
    study = json.loads((trained / "study.json").read_text())
    names = [f"many-{at}" for at in range(27)]
    for name in names:
        (trained.parent / name).mkdir()
        (trained.parent / name / "training.json").write_text(json.dumps(many))
    first = trained.parent / names[0]
    (first / "study.json").write_text(json.dumps(study | {"trainings": {name: [name] for name in names}}))
    written = write_report(first)
    text = text_of(written.path, page)
    (n_left,) = re.findall(r"The answers of (\d+) more networks would make this page too large", text)
    assert "they are in training.json of each." in text
    answers = re.search(r'id="answers">(.*?)</script>', written.path.read_text(), re.S)[1]
    assert len(json.loads(answers)["heads"]) == 27 - int(n_left) > 1
    assert written.size_bytes < 1_700_000


def test_a_study_with_experiments_besides(trained, page) -> None:
    study = json.loads((trained / "study.json").read_text())
    experiments = {"frozen": "2026-run", "tuned": "2026-other"}
    (trained / "study.json").write_text(json.dumps(study | {"experiments": experiments}))
    text = text_of(write_report(trained).path, page)
    said = "This page is of the networks that this study trained; its experiments: frozen (2026-run), tuned"
    assert said in text
    assert "This page is the experiment" not in text


def test_bad_input_is_one_line(trained) -> None:
    with pytest.raises(
        InvalidInputError, match=r"^the page of a training shows no images, so data='photos' is"
    ):
        write_report(trained, data="photos")
    with pytest.raises(InvalidInputError, match=r"^cannot write a report to 'x.pdf'; end it in .html$"):
        write_report(trained, "x.pdf")
    own = json.loads((trained / "training.json").read_text())
    for changes, because in (
        ({"confusion": [[2**63] * 6] * 6}, "confusion"),
        ({"confusion": [[2**62] * 6] * 6}, "its confusion is of more than 1,099,511,627,776 images"),
        ({"scores": {}}, "it has a confusion, and no score of validation or test images"),
        ({"n_per_class": [8] * 5}, "it counts training images of 5 classes of 6"),
        ({"history": own["history"][1:], "best_epoch": 1}, "its epochs are not numbered from 1"),
    ):
        change(trained, **{**own, **changes})
        with pytest.raises(RunError, match=rf"training.json' is damaged \([^\n]*{because}[^\n]*\); remove"):
            write_report(trained)
    change(trained, **own)
    change(trained, history=[])
    with pytest.raises(
        RunError, match=r"training.json' is damaged \(.*history.*\); remove its folder to train"
    ):
        write_report(trained)
    (trained / "training.json").unlink()
    (trained / "training.json").symlink_to(trained.parent / "own-2" / "training.json")
    with pytest.raises(RunError, match=r"^'.*training.json' is damaged \("):
        write_report(trained)


def test_a_part_of_a_trainings_name_is_enough(trained) -> None:
    cache = trained.parents[1]
    assert write_report("n-3", cache_dir=cache).path == trained.parent / "own-3" / "report.html"
    with pytest.raises(RunError, match=r"^run='own' is part of the names of 3 trainings: 'own-.*; give more"):
        write_report("own", cache_dir=cache)
    with pytest.raises(RunNotFoundError, match=r"^no run 'own-4'; .*; trainings are 'own-[123]', "):
        write_report("own-4", cache_dir=cache)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_it_fits_every_screen_and_a_network_is_chosen(browse, pages, width, scheme) -> None:
    opened = browse(pages["trained"], width=width, scheme=scheme)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "SGD, seed 2" in page.locator("#said").inner_text()
    before = page.locator("#matrix").inner_text()
    page.locator("#kept a", has_text="3-3-3").click()
    assert "3-3-3: " in page.locator("#said").inner_text()
    assert page.locator("#matrix").inner_text() != before
    assert page.locator("details.history[open]").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    chart = page.locator("#courses .chart.rows")
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert "SGD, seed 1: 30.0 %" in page.locator("#tip").inner_text()
    assert opened.said == []
