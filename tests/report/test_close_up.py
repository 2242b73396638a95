"""The heads that can be looked at closely: which, in what order, how much of them the page holds."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from featbank.metrics import confusion_matrix
from featbank.report import _close_up, _run, write_report
from featbank.report._close_up import Cell, confusion_of, share_text
from featbank.report._run import head_facets, kept_heads
from featbank.report.page import render_report
from featbank.runs import Run

#: What no name may do to a page: end the element it stands in, run, or turn round the text beside it.
NAMES = ["</script><script>boom()</script>", "\u202egnp.exe", "--><!--", "]]>\u2028", "\x1b[2J & <b>"]


def answers_of(source: str) -> dict:
    return json.loads(
        re.search(r'<script type="application/json" id="answers">(.*?)</script>', source, re.DOTALL)[1]
    )


def many_heads(run: Run, n: int) -> Run:
    """The run with copies of its heads under other names, as --save-heads all leaves them."""
    entries = []
    histories = json.loads((run.path / "histories.json").read_text())
    for number in range(n):
        one = run.heads()[number % len(run.heads())]
        name = f"{one['name']}-{number}"
        entries.append({**one, "name": name, "repeat": number})
        told = (run.path / "predictions" / f"{one['name']}.json").read_bytes()
        (run.path / "predictions" / f"{name}.json").write_bytes(told)
        if one["name"] in histories:
            histories[name] = {key: values * 50 for key, values in histories[one["name"]].items()}
    (run.path / "histories.json").write_text(json.dumps(histories))
    return Run(run.path, {**run.facts, "heads": entries})


def test_the_best_head_comes_first_then_the_best_of_each_curve(hostile):
    heads = kept_heads(many_heads(hostile, 12))
    assert [one.at for one in heads] == list(range(12))
    curves = [(one.entry["cut"], one.entry["head"]) for one in heads]
    assert len(set(curves[:4])) == 4
    merits = [one.entry["val_top1"] for one in heads]
    assert merits[0] == max(merits)
    assert merits[1:4] == sorted(merits[1:4], reverse=True)
    assert kept_heads(hostile)[0].name == hostile.best_head()["name"]


def test_a_head_without_mistakes_beside_others_says_so(hostile):
    file = hostile.path / "predictions" / f"{hostile.best_head()['name']}.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, "y_pred": told["y_true"]}))
    source = render_report(hostile, data=hostile.path.parents[2] / "photos")
    first, *others = answers_of(source)["heads"]
    assert first["seen"] == "None: every image was recognised."
    assert any(" are in this page" in one["seen"] for one in others)


def test_only_what_tells_heads_apart_is_asked(hostile, warm, many):
    asked = {
        run.name: [one.name for one in head_facets(run, kept_heads(run))] for run in (hostile, warm, many)
    }
    assert list(asked.values()) == [["Cut", "Head"], ["Cut"], ["Head"]]
    of_warm = head_facets(warm, kept_heads(warm))[0]
    assert of_warm.values == ("softmax at T = 1", "softmax at T = 2")
    all_kept = many_heads(hostile, 12)
    assert [one.name for one in head_facets(all_kept, kept_heads(all_kept))] == ["Cut", "Head", "Repeat"]
    found = head_facets(all_kept, kept_heads(all_kept))
    assert len(set(zip(*(one.of_heads for one in found), strict=True))) == 12


def test_the_answers_in_the_page_are_those_of_the_run(hostile):
    photos = hostile.path.parents[2] / "photos"
    told = answers_of(render_report(hostile, data=photos))
    assert len(told["heads"]) == len(hostile.heads()) == 4
    for one, head in zip(told["heads"], kept_heads(hostile), strict=True):
        predictions = hostile.predictions(head.name)
        matrix = np.zeros((5, 5), np.int64)
        for true, pred, count in zip(one["cells"][::4], one["cells"][1::4], one["cells"][2::4], strict=True):
            matrix[true, pred] = count
        assert (matrix == hostile.confusion(head.name)).all()
        wrong = predictions.y_true != predictions.y_pred
        assert len(one["images"]) == 4 * wrong.sum()
        assert sorted(one["images"][1::4]) == sorted(predictions.y_pred[wrong].tolist())


def test_no_name_ends_the_answers(hostile, with_facts, page):
    source = render_report(with_facts(hostile, classes=NAMES), data=hostile.path.parents[2] / "photos")
    assert len(page(source).all("script")) == 2
    block = re.search(r'id="answers">(.*?)</script>', source, re.DOTALL)[1]
    assert not set("<>&") & set(block)
    assert block.isascii()
    assert answers_of(source)["classes"] == [
        "</script><script>boom()</script>",
        r"\u202egnp.exe",
        "--><!--",
        r"]]>\u2028",
        r"\x1b[2J & <b>",
    ]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\x1b]", source)


@pytest.mark.browser
def test_names_stay_inert_when_the_script_writes_them(hostile, with_facts, browse, tmp_path):
    source = render_report(with_facts(hostile, classes=NAMES), data=hostile.path.parents[2] / "photos")
    (tmp_path / "page.html").write_text(source)
    opened = browse(tmp_path / "page.html")
    opened.page.evaluate("choose(1)")
    for cell in opened.page.locator("#matrix a").all()[:4]:
        cell.focus()
        cell.click()
        opened.page.keyboard.press("Escape")
    names = opened.page.locator("#by-class th").all_text_contents()
    assert "</script><script>boom()</script>" in names
    assert opened.page.evaluate(
        "[document.scripts.length, document.querySelectorAll('main b b, th b').length]"
    ) == [2, 0]
    assert opened.said == []


def test_a_page_of_many_heads_is_bounded_and_says_what_is_left_out(hostile, page, monkeypatch):
    run = many_heads(hostile, 40)
    monkeypatch.setattr(_close_up, "_MOST_HEADS", 10)
    monkeypatch.setattr(_run, "_MOST_HISTORIES", 5)
    monkeypatch.setattr(_run, "_MOST_LISTED", 30)
    source = render_report(run, data=hostile.path.parents[2] / "photos")
    text = " ".join(page(source).text.split())
    assert len(answers_of(source)["heads"]) == 10
    assert "The answers of 30 more heads would make this page too large" in text
    assert "The histories of 15 more heads are in histories.json." in text
    assert "10 more heads are in run.json." in text
    monkeypatch.setattr(_close_up, "_MOST_ANSWER_BYTES", 200)
    few = answers_of(render_report(run, data=hostile.path.parents[2] / "photos"))["heads"]
    assert 2 <= len(few) < 10


@pytest.mark.slow
def test_many_epochs_are_thinned_out_but_the_kept_one_stays(hostile, page):
    run = many_heads(hostile, 40)
    for one in run.facts["heads"]:
        one["best_epoch"] = 299  # the last but one of 300
    source = render_report(run)
    rows = re.findall(r'<details class="history".*?</table>', source, re.DOTALL)
    assert len(rows) == 20  # the softmax heads
    assert all('<th scope="row">299</th>' in one and '<th scope="row">300</th>' in one for one in rows)
    assert all(20 < one.count("<tr>") < 180 for one in rows)
    assert "epochs are shown." in page(source).text
    assert len(source) < 700_000


def test_images_are_shared_between_heads_and_bounded(hostile, tmp_path, monkeypatch):
    photos = hostile.path.parents[2] / "photos"
    told = answers_of(render_report(hostile, data=photos))
    shown = [set(one["images"][::4]) for one in told["heads"]]
    assert shown[0] & shown[1]  # one image, two heads
    most = len(shown[0])
    monkeypatch.setattr(_close_up, "_MOST_IMAGES", most)
    report = write_report(hostile, tmp_path / "p.html", data=photos)
    assert report.n_images == most + 5  # mistakes and one sample of each class
    limited = answers_of(report.path.read_text())
    first, *others = (set(one["images"][::4]) for one in limited["heads"])
    assert 0.6 * most <= len(first) < most
    assert set().union(*others) - first  # one that the first head is right on


def test_answers_that_cannot_be_read_cost_only_themselves(hostile, page):
    second = kept_heads(hostile)[1]
    (hostile.path / "predictions" / f"{second.name}.json").write_text("{")
    source = render_report(hostile)
    assert len(answers_of(source)["heads"]) == 3
    assert f"The answers of {second.name} are not shown:" in page(source).text
    first = kept_heads(hostile)[0]
    (hostile.path / "predictions" / f"{first.name}.json").unlink()
    assert len(answers_of(render_report(hostile))["heads"]) == 2
    for file in (hostile.path / "predictions").iterdir():
        file.write_text("{}")
    source = render_report(hostile)
    assert 'id="answers"' not in source
    assert first.name in page(source).text


def test_the_matrix_in_words_and_shades():
    rng = np.random.default_rng(0)
    true, pred = rng.integers(0, 4, (2, 90))
    matrix = confusion_matrix(true, pred, 4)
    cells = [[int(x) for at in np.flatnonzero(row) for x in (at, row[at])] for row in matrix]
    found = confusion_of(_close_up.Answers(None, "test", cells, []))
    assert [[cell.count for cell in row] for row in found.table] == matrix.tolist()
    assert (found.n_right, found.n_rows) == (np.trace(matrix), 90)
    assert [one.count for one in found.pairs] == sorted(
        (matrix - np.diag(np.diag(matrix))).ravel(), reverse=True
    )[:12]
    shares = [one.right / one.total for one in found.classes]
    assert shares == sorted(shares)
    assert [Cell(0, 1, count, 100).shade for count in (0, 1, 11, 12, 90, 100)] == [0, 1, 1, 2, 9, 9]
    assert share_text(355, 1000) == "35.5 %"
