"""The examples of these pages run as they stand, in an empty folder, from top to bottom."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from featbank.cli import main

DOCS = Path(__file__).parents[1] / "docs"
_FENCE = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["groups", "protocols", "sources"])
def test_examples_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATBANK_CACHE", raising=False)
    names: dict[str, object] = {}
    found = _FENCE.findall((DOCS / f"{page}.md").read_text())
    assert {kind for kind, _ in found} == {"python", "console"}
    for kind, text in found:
        if kind == "python":
            exec(compile(text, f"{page}.md", "exec"), names)
            continue
        for line in text.replace("\\\n", "").splitlines():
            command = line.removeprefix("$ featbank ")
            assert command != line, f"no command of featbank: {line!r}"
            with pytest.raises(SystemExit) as end:
                main(shlex.split(command))
            assert not end.value.code, f"{line}: {capsys.readouterr().err}"
