"""The page in headless Chromium: it renders, answers pointer and keyboard, and fits every screen."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture
def file(pages):
    return pages["studied"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_it_renders_and_fits(browse, file, width, scheme):
    opened = browse(file, width=width, scheme=scheme)
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(f".chart.{'wide' if width > 1000 else 'narrow'}").first.is_visible()
    assert not page.locator(f".chart.{'narrow' if width > 1000 else 'wide'}").first.is_visible()
    dark = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((c) => c < 60)"
    )
    assert dark == (scheme == "dark")
    # every image decodes
    assert page.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
    assert page.evaluate("document.images.length") > 5
    assert opened.said == []


def test_the_content_policy_is_in_force(browse, file):
    opened = browse(file)
    opened.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">x</p>')")
    assert opened.said
    assert "Content Security Policy" in opened.said[0]


def test_a_point_is_read_by_pointer(browse, file):
    opened = browse(file)
    page = opened.page
    point = page.locator("#curve .chart.wide .point").nth(1)
    point.scroll_into_view_if_needed()
    assert page.locator("#tip").is_hidden()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 4, box["y"] + box["height"] / 2 + 3)
    said = page.locator("#tip").inner_text()
    name, value = said.split("\n")[:2]
    assert " on block" in name
    assert value.endswith("%")
    assert "samples per class" in said
    assert "2 repeats" in said
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()
    assert opened.said == []


def test_points_are_reached_by_keyboard(browse, file):
    page = browse(file).page
    first = page.locator("#curve .chart.wide .point").first
    label = first.get_attribute("aria-label")
    for key in ("Tab", "Enter", "Tab"):  # the link that skips the head of the page, then the chart
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == label
    assert first.get_attribute("data-value") in page.locator("#tip").inner_text()
    ring = "getComputedStyle(document.activeElement.querySelector('.ring')).stroke"
    assert page.evaluate(ring) != "none"  # the focus is seen
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert second != label
    assert second.split(",")[0] == label.split(",")[0]  # the same line
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    page.keyboard.press("Tab")  # a chart is one stop: the next one is outside of it
    assert not page.evaluate("document.activeElement.closest('.chart')")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == second


def test_a_cell_opens_its_images(browse, file):
    opened = browse(file)
    page = opened.page
    cell = page.locator(".matrix a[data-pair]").first
    count = int(cell.inner_text())
    cell.click()
    viewer = page.locator("#viewer")
    assert viewer.is_visible()
    assert re.fullmatch(
        rf"{count} of \d+ images of .* taken for .* \(\d+ %\)", viewer.locator("#viewer-title").inner_text()
    )
    assert viewer.locator("img").count() == count
    page.locator("#viewer-close").click()
    assert viewer.is_hidden()
    assert opened.said == []


def test_a_cell_opens_and_closes_by_keyboard(browse, file):
    page = browse(file, width=400).page
    cell = page.locator(".matrix a[data-pair]").first
    cell.focus()
    page.keyboard.press("Enter")
    viewer = page.locator("#viewer")
    assert viewer.is_visible()
    for _ in range(3):  # the focus stays inside
        page.keyboard.press("Tab")
        inside = "document.activeElement === document.body || !!document.activeElement.closest('#viewer')"
        assert page.evaluate(inside)
    box = viewer.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 400
    page.keyboard.press("Escape")
    assert viewer.is_hidden()
    assert page.evaluate("document.activeElement.dataset.pair") == cell.get_attribute("data-pair")


def test_a_history_is_read_epoch_by_epoch(browse, file):
    opened = browse(file)
    page = opened.page
    chart = page.locator("details.history[open] .chart").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.97, box["y"] + box["height"] / 2)
    said = page.locator("#tip").inner_text().split("\n")
    row = page.locator("details.history[open] table tbody tr").last
    assert said[0] == "Epoch 6"
    cells = row.evaluate("(row) => [...row.cells].map((cell) => cell.textContent)")
    assert [line.rsplit(": ", 1)[1] for line in said[1:]] == cells[1:]
    page.mouse.move(2, 2)
    page.keyboard.press("Tab")  # from here on the keyboard is used
    chart.focus()
    page.keyboard.press("Home")
    assert page.locator("#tip").inner_text().startswith("Epoch 1\n")
    page.keyboard.press("ArrowRight")
    assert chart.get_attribute("role") == "slider"
    assert chart.get_attribute("aria-valuenow") == "2"
    assert chart.get_attribute("aria-valuetext").startswith("Epoch 2. Training loss: ")
    assert opened.said == []


def test_a_line_is_lit_from_the_legend(browse, file):
    page = browse(file).page
    page.locator("#curve .legend [data-series]").first.hover()
    assert page.locator("#curve .chart.wide.dim .series.lit").count() == 2  # one cut, two heads
    page.mouse.move(2, 2)
    assert page.locator("#curve .chart.wide.dim").count() == 0


@pytest.mark.parametrize("name", ["plain", "many", "studied", "trained"])
def test_no_table_runs_off_a_telephone(browse, pages, name):
    page = browse(pages[name], width=390).page
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    # a wide table is lines of blocks there: none is wider than its box
    tables = "[...document.querySelectorAll('.scroll:has(table.data)')]"
    assert page.evaluate(f"{tables}.filter((e) => e.scrollWidth > e.clientWidth + 1).length") == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_many_classes_open_from_the_list(browse, pages):
    opened = browse(pages["many"], width=390)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator(".pairs a").first.click()
    assert page.locator("#viewer img").count() >= 1
    assert opened.said == []


def test_without_script_cells_lead_to_images(browse, file):
    page = browse(file, script=False).page
    cell = page.locator(".matrix a[data-pair]").first
    target = cell.get_attribute("href")
    cell.click()
    assert page.url.endswith(target)
    assert page.locator(target).is_visible()
