"""Examples in docstrings that open a bank or a run find those that `docs/reference/index.md` says."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

import pytest

_PAGE = Path(__file__).parent / "docs" / "reference" / "index.md"
_OPENS = re.compile(r"\bopen_(bank|run)\(")


def _run(block: int, folder: Path) -> Path:
    """Run a Python block of the page in a folder; return its cache."""
    code = re.findall(r"^```python\n(.*?)^```$", _PAGE.read_text(), re.MULTILINE | re.DOTALL)[block]
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.delenv("FEATBANK_CACHE", raising=False)
        exec(compile(code, str(_PAGE), "exec"), {})
    return folder / "cache"


@pytest.fixture(scope="session")
def cache_with_bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache as the first block of the page leaves it."""
    return _run(0, tmp_path_factory.mktemp("bank"))


@pytest.fixture(scope="session")
def cache_with_run(tmp_path_factory: pytest.TempPathFactory, cache_with_bank: Path) -> Path:
    """The cache as the second block leaves it."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(cache_with_bank, folder / "cache")
    return _run(1, folder)


@pytest.fixture(autouse=True)
def _where_the_page_ends(request: pytest.FixtureRequest) -> None:
    """Give each example an empty folder, one that opens a bank or a run with a cache of its own in it."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    folder, patch = request.getfixturevalue("tmp_path"), request.getfixturevalue("monkeypatch")
    patch.delenv("FEATBANK_CACHE", raising=False)
    patch.chdir(folder)
    opened = {kind for one in request.node.dtest.examples for kind in _OPENS.findall(one.source)}
    if opened:
        cache = request.getfixturevalue("cache_with_run" if "run" in opened else "cache_with_bank")
        shutil.copytree(cache, folder / "cache")
