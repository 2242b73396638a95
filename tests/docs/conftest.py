"""Pages are run: what stands in their ``console`` and ``python`` blocks, in a folder of their own."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from featbank.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(
    r"^(```+)(?:\{code-block\} )?(\w+)\n(?::caption: ([^\n]+)\n\n)?(.*?)^\1$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """One fenced block of a page: its language, the file it stands for, its text, its line."""

    language: str
    file: str | None
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(found[2], found[3], found[4], text.count("\n", 0, found.start()) + 1)
        for found in _FENCE.finditer(text)
    ]


def commands(text: str) -> list[tuple[str, str]]:
    """Cut a console block into commands and what they print, which may be left out."""
    parts = re.split(r"^\$ ", text.replace("\\\n", ""), flags=re.MULTILINE)[1:]
    return [(command, said) for command, _, said in (part.partition("\n") for part in parts)]


def shape(text: str) -> list[str]:
    """Words of a text with a mark for every number: what is the same on every machine."""
    return re.sub(r"[-+±]?\d+(?:[.,]\d+)*", "#", re.sub(r"─+", " ", text)).split()


def agrees(wanted: str, said: str) -> bool:
    """Say whether a command said this; ``...`` stands for anything, numbers for numbers."""
    parts = [re.escape(" ".join(shape(part))) for part in wanted.split("...")]
    return (
        re.fullmatch(r"\s*" + ".*".join(parts).replace(r"\ ", r"\s*") + r"\s*", " ".join(shape(said)))
        is not None
    )


def run_command(line: str) -> str:
    """Run a command of a page in the current folder; return its standard output."""
    if not line.startswith("featbank ") or set(line) & set("|>&"):
        line = re.sub(r"\bpython\b", f"'{sys.executable}'", line)
        line = re.sub(r"\bfeatbank\b(?= )", f"'{sys.executable}' -m featbank", line)
        done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout
    words = [one.strip("\"'") for one in re.findall(r"\"[^\"]*\"|'[^']*'|\S+", line)]
    out, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        try:
            main(words[1:])
            code: object = 0
        except SystemExit as end:
            code = end.code
    assert not code, f"{line}: {told.getvalue()}"
    return out.getvalue()


def follow(page: Path) -> None:
    """Run the blocks of a page from the first to the last in the current folder."""
    names: dict[str, object] = {"__name__": "__page__"}
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.file:
            Path(block.file).parent.mkdir(exist_ok=True)
            Path(block.file).write_text(block.text)
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, where, "exec"), names)
        elif block.language == "console":
            for command, wanted in commands(block.text):
                said = run_command(command)
                assert not wanted.strip() or agrees(wanted, said), f"{where}: {command} says\n{said}"


@contextlib.contextmanager
def folder_like(started: Path, folder: Path) -> Iterator[None]:
    """Make a copy of a folder the current one; modules made in it are forgotten afterwards."""
    folder.mkdir()
    shutil.copytree(started / "cache", folder / "cache")
    (folder / "photos").symlink_to(started / "photos")
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
                del sys.modules[name]


@pytest.fixture
def run_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path, Iterable[Path]], dict[str, str]]:
    """Run the blocks of a page, then of others each behind it; return what went wrong, by page."""

    def run(first: Path, others: Iterable[Path]) -> dict[str, str]:
        monkeypatch.delenv("FEATBANK_CACHE", raising=False)
        started = tmp_path / "start"
        started.mkdir()
        with contextlib.chdir(started):
            follow(first)
        wrong = {}
        for number, page in enumerate(others):
            try:
                with folder_like(started, tmp_path / f"{number}-{page.stem}"):
                    follow(page)
            except Exception as error:  # noqa: BLE001 - all pages are told of, not the first alone
                wrong[str(page.relative_to(ROOT))] = f"{type(error).__name__}: {error}"
        return wrong

    return run
