"""The page of a run: whole, self-contained, escaped, and the same each time."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace

import pytest

from featbank.errors import InvalidInputError, MissingDataError, RunNotFoundError
from featbank.report import write_report
from featbank.report._run import provenance, run_figures
from featbank.report._source import RunSource
from featbank.report.page import render_report
from featbank.sampling import size_words
from featbank.sweep import CurvePoint, Score, SweepResult


@pytest.fixture
def source(hostile, write_study):
    write_study(hostile)
    return render_report(hostile, data=hostile.path.parents[2] / "photos")


def test_nothing_is_loaded_from_anywhere(source, page):
    parts = page(source)
    assert not parts.open
    for tag, attrs in parts.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:image/")), (tag, name, value)
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attrs if name.startswith("on")]
        assert "style" not in attrs  # the policy would not let it in
    without = re.sub(r"base64,[A-Za-z0-9+/=]+", "", source).replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"(?:https?:)?//[a-z]", without)
    assert "@import" not in source
    assert "url(" not in source


def test_the_policy_lets_in_one_style_and_one_script_only(source, page):
    (policy,) = [one["content"] for one in page(source).all("meta") if one.get("http-equiv")]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", source, re.DOTALL)  # the answers are data, not script
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_names_and_texts_are_escaped(source, page):
    parts = page(source)
    assert [one.get("type") for one in parts.all("script")] == ["application/json", None]
    assert not [one for one in parts.all("img") if not one["src"].startswith("data:image/")]
    assert "boom()" not in re.sub(r"&[a-z#0-9]+;", "", re.search(r"<script>(.*?)</script>", source, re.S)[1])
    for shown in ("<img src=x onerror=boom()>", "\"quoted' & co", r"new\nline", r"caf\xe9", r"\x1b[31mred"):
        assert shown in parts.text
    assert "</title></script><script>boom()</script>" in parts.text
    assert "\x1b" not in source
    source.encode("utf-8")  # no half pair is left


def test_ids_are_unique_and_links_lead_somewhere(source, page):
    parts = page(source)
    ids = [attrs["id"] for _, attrs in parts.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {one["href"][1:] for one in parts.all("a")}
    assert targets <= set(ids)
    named = {one for _, attrs in parts.elements for one in (attrs.get("aria-labelledby") or "").split()}
    assert named <= set(ids)


def test_every_picture_has_a_text_and_every_figure_a_table(source, page):
    parts = page(source)
    images = parts.all("img")
    assert images
    assert all(one["alt"] and int(one["width"]) and int(one["height"]) for one in images)
    charts = parts.all("svg", class_="chart") + parts.all("svg", class_="map")
    assert charts
    assert all(len(one["aria-label"]) > 20 for one in charts)
    assert all(one.get("aria-hidden") == "true" for one in parts.all("svg") if one not in charts)
    points = parts.all("g", tabindex="0")
    assert points
    assert all("%" in one["aria-label"] and one["role"] == "img" for one in points)
    assert source.count('<figure class="figure"') == source.count("The numbers</summary>")


def test_the_points_say_value_interval_and_repeats(source, page, hostile):
    said = [one["aria-label"] for one in page(source).all("g", tabindex="0")]
    for point in hostile.result().points():
        low, high = point.scores["top1"].low, point.scores["top1"].high
        between = "" if low is None else f"95 % interval {100 * low:.1f} – {100 * high:.1f} %; "
        line = (
            f"{point.head} on {point.cut}, {100 * point.mean('top1'):.1f} %, {size_words(vars(point))}; "
            f"{between}{point.n_repeats} repeat{'s' if point.n_repeats > 1 else ''}"
        )
        assert said.count(line) == 2  # once in the wide drawing and once in the narrow one


def test_the_same_run_gives_the_same_bytes(hostile, tmp_path):
    photos = hostile.path.parents[2] / "photos"
    first = write_report(hostile, tmp_path / "a.html", data=photos)
    cache = hostile.path.parents[1]
    again = write_report(hostile.path, tmp_path / "new" / "b.html", data=photos, cache_dir=cache)
    assert first.path.read_bytes() == again.path.read_bytes()
    assert first.size_bytes == first.path.stat().st_size < 400_000
    assert first.n_images == again.n_images > 5
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_study_gives_question_comparison_and_findings(source, page):
    text = " ".join(page(source).text.split())
    assert "Does it <b>grow</b>?" in text
    for line in (
        "16 samples test top-1 65.00 % 73.21 % 72.00 – 75.00 % +8.21 points",
        "best T temperature of the highest validation top-1 at the best epoch 1.81 2 – +0.19",
        "never measured validation top-1 about 0.3 – – –",
        "extra test top-5 – 90.00 % – –",
        "Holds gains shrink 8 > 3 points",
        "Does not hold deeper is better",
        "Not known the moon nothing was measured",
        "32 classes instead of <256>",
        "the other: normalised (20260101-000000-other)",
        "Published in: A report & more.",
    ):
        squeezed = line.replace(" ", "")
        assert squeezed in text.replace(" ", ""), line


def test_without_a_study_the_question_is_what_was_varied(hostile, warm, many, page):
    asked = [re.search(r"<h1>(.*?)</h1>", render_report(run))[1] for run in (hostile, warm, many)]
    assert asked == [
        "At which cut do the features of minivgg recognise photos best, "
        "and how many labelled images does it take?",
        "At which softmax temperature do the class probabilities of minivgg recognise photos best?",
        "Which head on the features of minivgg recognises photos best?",
    ]
    assert "Published and measured" not in render_report(hostile)


def test_temperatures_have_their_figure_first(warm, page):
    parts = page(render_report(warm))
    assert [one["id"] for one in parts.all("figure", class_="figure")][:2] == ["temperature", "curve"]
    assert "highest at T = " in parts.text


def test_each_trained_head_has_its_history(hostile, page):
    parts = page(render_report(hostile))
    histories = [one["id"] for one in parts.all("figure", class_="figure") if "history" in one["id"]]
    assert len(histories) == 2  # two softmax heads; ncm has no epochs
    for entry in hostile.heads():
        assert entry["name"] in parts.text
    rows = [one for one in parts.all("svg", class_="rows") if "6 epochs" in one["aria-label"]]
    assert len(rows) == 2 * 2  # heads, loss and accuracy


def test_many_classes_list_their_pairs(many, page):
    parts = page(render_report(many, data=many.path.parents[2] / "photos"))
    assert not parts.all("table", class_="matrix")
    answers = many.predictions()
    wrong = {pair for pair in zip(answers.y_true, answers.y_pred, strict=True) if pair[0] != pair[1]}
    listed = [one["data-pair"] for one in parts.all("a") if "data-pair" in one]
    expected = {f"{true}-{pred}" for true, pred in wrong}
    assert set(listed) <= expected
    assert len(set(listed)) >= min(len(wrong), 60)
    outlines = {one["class"].split()[0]: one["d"] for one in parts.all("path", class_="wrong")}
    drawn = sum(one["d"].count("M") for one in parts.all("path", class_="wrong"))
    assert drawn == len(wrong)
    assert outlines
    assert f"{len(wrong)} wrong" in parts.text


def test_parameters_that_were_not_given_are_left_out(many):
    many.facts["parameters"]["head_params"] = {"softmax": {}, "ncm": {}}
    ran = dict(provenance(many, RunSource(many)))["Run"]
    assert "Repeats" in dict(ran)
    assert "Head params" not in dict(ran)


def test_without_a_bank_the_page_still_has_its_images(hostile, page):
    shutil.rmtree(hostile.path.parents[1] / "banks")
    photos = hostile.path.parents[2] / "photos"
    parts = page(render_report(hostile, data=photos))
    assert "is not in the cache" in parts.text
    assert parts.all("img")


def test_without_its_manifest_the_page_still_stands(hostile, page):
    (hostile.path / "manifest.h5").unlink()
    text = page(render_report(hostile)).text
    assert "The rows of this run are not known" in text
    assert "The misclassified images are not in this page" in text


def test_a_damaged_cut_costs_only_its_facts(hostile, page):
    for file in (hostile.path.parents[1] / "banks").rglob("cut.json"):
        file.write_text("{")
    text = page(render_report(hostile)).text
    assert "What the extraction cost cannot be read" in text
    assert "Accuracy by samples per class" in text


def test_another_bank_in_its_place_is_not_believed(hostile, page, with_facts):
    key = replace(hostile.open_bank().key, decoder="another")
    source = {**hostile.facts["source"], "decoder": key.decoder, "key_digest": key.digest()}
    text = page(render_report(with_facts(hostile, source=source))).text
    assert "there now. Without its bank this page does not know what the extraction cost" in text
    assert "No image is shown: nothing says where the images came from; say it with --data." in text


def test_a_head_solved_in_one_step_has_no_history(hostile, page):
    histories = hostile.path / "histories.json"
    found = json.loads(histories.read_text())
    first = next(iter(found))
    short = {first: {name: values[:1] for name, values in found[first].items()}}
    histories.write_text(json.dumps({**found, **short}))
    parts = page(render_report(hostile))
    assert len([one for one in parts.all("figure", class_="figure") if "history" in one["id"]]) == 1


def test_images_that_are_gone_are_said(hostile, page):
    photos = hostile.path.parents[2] / "photos"
    for folder in photos.iterdir():
        for file in sorted(folder.iterdir())[1:]:
            file.unlink()
    parts = page(render_report(hostile, data=photos))
    assert "images are not shown; the first:" in parts.text
    assert len(parts.all("img")) <= 2 * 5  # one file of each class is left


def test_an_image_that_has_changed_is_not_shown(hostile, page, save_photo):
    photos = hostile.path.parents[2] / "photos"
    for seed, file in enumerate(sorted(photos.rglob("*.png"))):
        save_photo(file, seed)
    parts = page(render_report(hostile, data=photos))
    assert not parts.all("img")
    assert "is another one now in" in parts.text


def test_rows_of_another_manifest_are_not_shown_beside_answers(hostile, page, monkeypatch):
    from featbank.runs import Run

    answers = hostile.predictions()
    swapped = type(answers)(answers.split, answers.rows[::-1].copy(), answers.y_true, answers.y_pred)
    monkeypatch.setattr(Run, "predictions", lambda self, name=None: swapped)
    parts = page(render_report(hostile, data=hostile.path.parents[2] / "photos"))
    assert "No misclassified image is shown: the answers are not those of the manifest's rows" in parts.text
    assert not parts.all("figure", class_="mistake")


def test_warnings_come_first(hostile, page, with_facts):
    text = page(render_report(with_facts(hostile, status="running"))).text
    assert "The weights of the backbone are random" in text
    assert text.index("The run was interrupted") < text.index("Accuracy by samples per class")


def test_a_run_without_heads_or_fits(hostile, page, with_facts):
    bare = with_facts(hostile, heads=[])
    text = page(render_report(bare)).text
    assert "kept no head" in text
    assert "What is taken for what" not in text
    lines = (hostile.path / "results.csv").read_text().splitlines(keepends=True)
    (hostile.path / "results.csv").write_text(lines[0])
    text = page(render_report(bare)).text
    assert "No fit of this run succeeded." in text
    assert "There is no curve" in text


def test_wrong_input(hostile, tmp_path):
    with pytest.raises(InvalidInputError) as error:
        write_report(hostile, tmp_path / "page.pdf")
    assert str(error.value) == f"cannot write a report to '{tmp_path / 'page.pdf'}'; end it in .html"
    with pytest.raises(MissingDataError, match="no images at"):
        write_report(hostile, data=tmp_path / "nowhere")
    with pytest.raises(RunNotFoundError, match="no run in"):
        write_report(cache_dir=tmp_path / "empty")
    assert not (hostile.path / "report.html").exists()


@pytest.mark.slow
@pytest.mark.shared
def test_a_page_of_photographs_stays_small(shared, tmp_path, page, monkeypatch):
    from featbank.extraction import extract
    from featbank.fitting import fit_heads

    monkeypatch.setattr("featbank.plots.figures.draw_all", lambda run, **options: {})
    bank = extract(
        shared / "data" / "caltech101-32",
        backbone="minivgg",
        cuts=("block5_pool",),
        split="4,2,4",
        limit=320,
        cache_dir=tmp_path,
    ).bank
    run = fit_heads(
        bank,
        samples_per_class="2,4",
        repeats=2,
        head_params={"softmax": {"max_epochs": 10}},
        cache_dir=tmp_path,
    ).run
    written = write_report(run)
    assert written.n_images > 32 + 50
    assert written.size_bytes < 3_000_000
    assert not written.remarks
    assert len(page(written.path.read_text()).all("figure", class_="sample")) == 32


def test_a_curve_of_one_size_gives_way_or_has_bars(warm, many, page, monkeypatch):
    (only,) = run_figures(many)
    assert only.key == "scores"
    assert "whisker" not in "".join(map(str, only.drawings))  # one repeat: there is no interval
    assert only.title == "Accuracy at 2 samples per class"
    assert '<path class="line"' not in "".join(map(str, only.drawings))  # no course from name to name
    shares = ("Test", "Validation", "Training", "Test top-5")
    assert only.table.columns == ("Head", *shares, "95 % interval, test", "Repeats")
    assert [row[0] for row in only.table.rows] == ["softmax on block5_pool", "ncm on block5_pool"]
    of_one_size = [point for point in warm.result().points() if point.n_per_class == 4]
    monkeypatch.setattr(SweepResult, "points", lambda self, **options: of_one_size)
    assert [one.key for one in run_figures(warm)] == ["temperature"]


def test_one_curve_of_one_size_shows_each_accuracy_there_is(many, monkeypatch):
    point = many.result().points()[0]
    point = replace(point, scores={**point.scores, "top5": Score(0.75, 0.7, 0.8)})
    monkeypatch.setattr(SweepResult, "points", lambda self, **options: [point])
    (only,) = run_figures(many)
    assert only.table.rows[0][4:] == ("75.0 %", "–", "1")
    said = re.findall(r'class="point h0"[^>]*aria-label="([^"]*)"', str(only.drawings[0]))
    assert [one.split(",")[0] for one in said] == 2 * ["Test", "Validation", "Training", "Test top-5"]
    assert "95 % interval 70.0 – 80.0 %" in said[3]
    unknown = CurvePoint("fc7", "x", 2, {}, n_repeats=1)
    monkeypatch.setattr(SweepResult, "points", lambda self, **options: [unknown])
    assert run_figures(many) == []
