"""The page for those who read it by ear, by keyboard, or with weak eyes, as a browser lays it out."""

from __future__ import annotations

import itertools

import pytest

pytestmark = pytest.mark.browser

#: Contrast of every text with what is behind it (W3C's formula), worst first, with its text.
CONTRAST = """() => {
  const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
  const over = (top, under) => {
    const a = top[3] === undefined ? 1 : top[3];
    return [0, 1, 2].map((i) => top[i] * a + under[i] * (1 - a));
  };
  const light = (c) => {
    const [r, g, b] = c.map((v) => v / 255).map((v) =>
      (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const parents = [];
    for (let one = element; one; one = one.parentElement) parents.unshift(one);
    let colour = [255, 255, 255];
    for (const one of parents) {
      const style = getComputedStyle(one);
      const c = style.backgroundColor;
      const scale = c.startsWith("color(") ? 255 : 1;
      const parts = parse(c.replace(/color\\(srgb /, ""));
      const rgb = [...parts.slice(0, 3).map((v) => v * scale), parts[3]];
      if (c !== "rgba(0, 0, 0, 0)") colour = over(rgb, colour);
    }
    return colour;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    const element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || element.closest("script, .unseen")) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest("svg") ? style.fill : style.color);
    const under = behind(element);
    const [a, b] = [light(over(ink, under)), light(under)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), text.slice(0, 40), element.className.baseVal ?? element.className]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


@pytest.fixture
def file(pages):
    return pages["studied"]


def opened(browse, file, **options):
    page = browse(file, **options).page
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    return page


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(browse, file, scheme):
    found = opened(browse, file, scheme=scheme).evaluate(CONTRAST)
    assert len(found) > 300
    assert found[0][0] >= 4.5, found[:5]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_shade_of_the_matrix_lets_its_number_be_read(browse, file, scheme):
    page = opened(browse, file, scheme=scheme)
    page.evaluate(
        """document.querySelectorAll("#matrix tbody td").forEach((cell, at) => {
          cell.className = `${at % 2 ? "right" : "wrong"} s${1 + (at >> 1) % 9}`;
          cell.textContent = "shade";
        })"""
    )
    found = [one for one in page.evaluate(CONTRAST) if one[1] == "shade"]
    assert {one[2] for one in found} == {
        f"{kind} s{at}" for kind in ("right", "wrong") for at in range(1, 10)
    }
    assert found[0][0] >= 4.5, found[:5]


def test_the_landmarks_and_the_headings_are_in_order(browse, file):
    page = opened(browse, file)
    assert [page.locator(one).count() for one in ("body > header", "nav", "main", "body > footer", "h1")] == [
        1
    ] * 5
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].filter((one) => !one.closest('dialog'))"
        ".map((one) => Number(one.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    unnamed = (
        "[...document.querySelectorAll('section, nav, [role=region], [role=group], dialog')].filter((one) => "
    )
    named = "one.ariaLabel || document.getElementById(one.getAttribute('aria-labelledby')))"
    assert page.evaluate(f"{unnamed} !({named}).length") == 0


def test_every_table_has_heads_and_every_control_a_name(browse, file):
    page = opened(browse, file)
    assert page.evaluate("[...document.querySelectorAll('th')].filter((one) => !one.scope).length") == 0
    assert page.evaluate("[...document.querySelectorAll('table')].filter((one) => !one.tHead).length") == 0
    nameless = """[...document.querySelectorAll('a, button, select, summary')].filter((one) =>
      !(one.innerText || one.textContent || one.ariaLabel || "").trim()
      || (one.tagName === "SELECT" && !one.labels[0]?.innerText.trim()))"""
    assert page.evaluate(f"{nameless}.map((one) => one.outerHTML)") == []


def test_the_focus_is_always_seen(browse, file):
    page = opened(browse, file)
    seen = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        kind, visible = page.evaluate(
            """() => {
              const one = document.activeElement;
              const ring = one.querySelector(":scope > .ring");
              const style = getComputedStyle(one);
              const box = one.getBoundingClientRect();
              const inside = box.bottom > 0 && box.top < innerHeight;
              const marked = ring ? getComputedStyle(ring).stroke !== "none"
                : style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
              return [one.tagName, inside && marked];
            }"""
        )
        if kind == "BODY":
            break
        assert visible, kind
        seen.add(kind)
    assert {"A", "SELECT", "BUTTON", "SUMMARY", "g", "svg", "DIV"} <= seen


def test_nothing_moves_by_itself(browse, file):
    page = opened(browse, file)
    moving = "[...document.querySelectorAll('*')].filter((one) => { const s = getComputedStyle(one); return "
    moving += "s.transitionDuration !== '0s' || s.animationName !== 'none' || s.scrollBehavior !== 'auto' })"
    assert page.evaluate(f"{moving}.length") == 0
