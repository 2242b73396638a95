"""What pages say is done: their examples run, their links lead somewhere, every page is in the contents."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import typer

from featbank.cli.app import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")
_TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Written by the build.
_GENERATED = ("reference/generated/", "gallery_pages/")


PAGES = sorted(
    path
    for path in DOCS.rglob("*.md")
    if not str(path.relative_to(DOCS)).startswith((*_GENERATED, "records/"))
)
#: Commands of pages that are shown and cannot be run here, and why not. All others stand in blocks that run.
NOT_RUN = {
    "featbank extract photos/ --backbone vgg16 --cut fc7 --device cuda:0,cuda:1": "two cards",
    "featbank extract photos/ --backbone vgg16 --cut fc7 --device all": "cards",
    "featbank extract photos/ --backbone resnet18 --weights checkpoint.pth --cut layer4:gap": "a checkpoint",
    "featbank extract photos/ --backbone vit_b_16 --weights dino.pth#teacher "
    "--cut encoder.layers.encoder_layer_8:cls": "a checkpoint of hundreds of MB",
}
HOWTO = [one for one in PAGES if one.parent.name in ("howto", "contributing") and "```" in one.read_text()]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 7_000


@pytest.mark.slow
def test_the_pages_run_as_they_stand(
    run_pages: Callable[[Path, Iterable[Path]], dict[str, str]], tmp_path: Path
) -> None:
    """One test for all: each page goes on where the start page ends, which takes seconds to follow."""
    assert len(HOWTO) > 15
    assert run_pages(DOCS / "start" / "index.md", [ROOT / "README.md", *HOWTO]) == {}
    assert (tmp_path / "start" / "curve.png").stat().st_size > 10_000


def test_what_pages_show_and_do_not_run_is_known_and_understood() -> None:
    """Each such command has options that there are."""
    shown = re.findall(r"^```text\n(.*?)^```$", "".join(one.read_text() for one in HOWTO), re.M | re.S)
    lines = [one for text in shown for one in text.splitlines() if one.startswith("featbank ")]
    assert sorted(lines) == sorted(NOT_RUN)
    commands = typer.main.get_command(app).commands
    for _, command, *words in map(str.split, lines):
        assert commands[command].make_context(command, words).params["data"] == "photos/"


@pytest.mark.parametrize(
    ("page", "plug_in"),
    [("backbones", "toy"), ("head", "median"), ("metric", "worst"), ("source", "stripes")],
)
def test_a_page_shows_the_plug_in_that_other_tests_install(page: str, plug_in: str) -> None:
    """In the page itself: an include shows nothing in the checkout."""
    code = (ROOT / "tests" / "plug_ins" / f"{plug_in}_plug_in.py").read_text()
    code = code[code.index("import") if plug_in == "worst" else 0 :]  # its first line is another there
    assert code in (DOCS / "contributing" / f"{page}.md").read_text()


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda one: str(one.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in _LINK.findall(text):
        if "://" in target or any(part in target for part in _GENERATED):
            continue
        there = (page.parent / target).resolve()
        assert there.exists(), f"{page.name} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{page.name} links to {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Name the headings and labels of a page as GitHub and the site do."""
    text = page.read_text()
    slugs = {
        re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-")
        for one in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


@pytest.mark.slow
def test_every_page_parses(tmp_path: Path) -> None:
    """Without what the build generates, to which links then lead nowhere."""
    pytest.importorskip("sphinx_design")
    pytest.importorskip("myst_parser")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "dummy", "-d", str(tmp_path / "trees")]
    command += ["-D", "extensions=sphinx.ext.autodoc,myst_parser,sphinx_design", "-D", "nitpicky=0"]
    command += ["-D", "exclude_patterns=reference/generated,gallery,records,gallery_pages"]
    done = subprocess.run(
        [*command, str(DOCS), str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = [
        one for one in done.stderr.splitlines() if not any(part.rstrip("/") in one for part in _GENERATED)
    ]
    assert said == []


def test_every_page_is_in_the_contents() -> None:
    listed: set[Path] = {DOCS / "index.md"}
    for page in PAGES:
        for found in _TOCTREE.findall(page.read_text()):
            is_glob = ":glob:" in found
            for entry in [
                line.strip() for line in found.splitlines() if line.strip() and not line.startswith(":")
            ]:
                base = DOCS if entry.startswith("/") else page.parent
                if (base / entry.lstrip("/")).relative_to(DOCS).as_posix().startswith(_GENERATED):
                    continue
                files = list(base.glob(f"{entry.lstrip('/')}.md"))
                assert files, f"{page.relative_to(DOCS)} lists {entry}, which is not there"
                assert is_glob or len(files) == 1
                listed |= set(files)
    ours = {one for one in PAGES if one.name != "GALLERY_HEADER.md"}
    assert {str(one.relative_to(DOCS)) for one in ours - listed} == set()
