"""Choosing a head in headless Chromium: the script writes what Python wrote, for pointer and keyboard."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

#: The elements the script writes anew, without the spaces between tags, which the template lays out.
STATE = """() => ["said", "head-figures", "matrix", "map", "confused", "seen", "shown", "folded", "others",
    "by-class"].map((id) => document.getElementById(id)?.outerHTML).join("\\n")
    .replace(/>\\s+</g, "><").replace(/ (open|tabindex)="[^"]*"/g, "")"""


@pytest.fixture
def file(pages):
    return pages["plain"]


def chosen(page):
    return page.locator("#said b").inner_text()


def test_another_head_and_back_again_is_the_page_as_written(browse, file, pages):
    for path in (file, pages["many"]):
        opened = browse(path)
        page = opened.page
        before = page.evaluate(STATE)
        assert page.evaluate("answers.heads.length") == (4 if path == file else 2)
        page.evaluate("choose(1)")
        assert page.evaluate(STATE) != before
        page.evaluate("choose(0)")
        assert page.evaluate(STATE) == before
        assert opened.said == []


def test_every_head_shows_its_own_counts(browse, file, hostile):
    page = browse(file).page
    heads = {one["name"]: hostile.confusion(one["name"]) for one in hostile.heads()}
    for line in page.locator("#kept [data-choose]").all():
        line.click()
        matrix = page.evaluate(
            "[...document.querySelectorAll('#matrix tbody tr')].map((row) => "
            "[...row.cells].slice(1).map((cell) => Number(cell.textContent)))"
        )
        assert matrix == heads[line.inner_text()].tolist()
        wrong = sum(map(sum, matrix)) - sum(matrix[at][at] for at in range(len(matrix)))
        assert f", {wrong} wrong." in page.locator("#said").inner_text()
        assert page.locator("#shown .mistake, #folded .mistake").count() == wrong  # all are in this page
        assert page.locator("#kept [aria-current] [data-choose]").inner_text() == line.inner_text()


def test_the_head_is_chosen_by_keyboard(browse, file):
    opened = browse(file)
    page = opened.page
    names = page.locator("#chooser label span").all_inner_texts()
    assert names == ["Cut", "Head"]  # one size, one repeat of each: nothing to choose
    before = chosen(page)
    page.locator("#chooser select").first.focus()
    other = "ArrowUp" if "block5" in before else "ArrowDown"
    page.keyboard.press(other)
    after = chosen(page)
    assert after.split(" on ")[0] == before.split(" on ")[0]
    assert after.split(" on ")[1] != before.split(" on ")[1]
    assert page.locator("#live").text_content().startswith(after)  # and it is read out
    for key in ("Tab", "Tab", "Enter"):  # the other choice, the button before
        page.keyboard.press(key)
    assert chosen(page) != after
    for key in ("Tab", "Enter"):  # the button behind
        page.keyboard.press(key)
    assert chosen(page) == after
    assert opened.said == []


def test_the_history_is_that_of_the_head(browse, file):
    page = browse(file).page
    for at in range(4):
        page.evaluate(f"choose({at})")
        shown = page.locator("details.history:visible")
        if chosen(page).startswith("softmax"):
            assert shown.count() == 1
            assert shown.get_attribute("data-head") == str(at)
            assert page.locator("#no-history").is_hidden()
        else:
            assert shown.count() == 0
            assert page.locator("#no-history").is_visible()


def test_the_matrix_is_one_stop_and_arrows_go_from_cell_to_cell(browse, file):
    page = browse(file, width=400).page
    stops = "[...document.querySelectorAll('#matrix *')].filter((one) => one.tabIndex >= 0).length"
    assert page.evaluate(stops) == 1
    page.locator("#matrix [tabindex='0']").focus()
    cell = "document.activeElement.closest('td')"
    place = f"[{cell}.parentElement.rowIndex, {cell}.cellIndex]"
    page.keyboard.press("Control+Home")
    assert page.evaluate(place) == [1, 1]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(place) == [2, 2]
    assert " recognised (" in page.locator("#tip").inner_text()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")  # nothing is there
    assert page.evaluate(place) == [2, 5]
    assert page.evaluate(stops) == 1


def test_a_map_is_read_by_pointer_and_keyboard(browse, many, pages):
    opened = browse(pages["many"], width=400)
    page = opened.page
    answers = many.predictions()
    wrong = sorted({(int(t), int(p)) for t, p in zip(answers.y_true, answers.y_pred, strict=True) if t != p})
    page.locator("#map").focus()
    for key, at in (("Home", 0), ("ArrowRight", 1), ("End", -1), ("ArrowLeft", -2)):
        page.keyboard.press(key)
        true, pred = wrong[at]
        said = page.locator("#live").text_content()
        assert f"images of {many.classes[true]} taken for {many.classes[pred]}" in said
        assert page.locator("#tip").inner_text() == said
    page.keyboard.press("Enter")
    assert page.locator("#viewer-title").inner_text() == said
    page.keyboard.press("Escape")
    page.mouse.move(2, 2)
    box = page.locator("#map").bounding_box()
    true, pred = wrong[0]
    n = len(many.classes)
    spot = box["x"] + (pred + 0.5) * box["width"] / n, box["y"] + (true + 0.5) * box["height"] / n
    page.mouse.move(*spot)
    assert f"taken for {many.classes[pred]}" in page.locator("#tip").inner_text()
    page.mouse.click(*spot)
    assert page.locator("#viewer").is_visible()
    assert opened.said == []


def test_pairs_of_one_class_are_listed(browse, pages):
    page = browse(pages["many"]).page
    pair = page.locator("#pairs a").first.get_attribute("data-pair")
    page.locator("#of-class select").select_option(pair.split("-")[0])
    pairs = [one.get_attribute("data-pair").split("-") for one in page.locator("#pairs a").all()]
    assert pair.split("-") in pairs
    assert all(pair.split("-")[0] in one for one in pairs)
