"""Results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import logging
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from featbank.cli._terminal import print_json, print_table, progress_bar, show_log
from featbank.errors import LeakWarning


def test_json_is_plain(capsys):
    print_json({"path": Path("a/b"), "n": np.int64(3), "none": [math.nan, (math.inf, 0.5)], 4: "é"})
    out = capsys.readouterr().out
    assert out == '{"path": "a/b", "n": 3, "none": [null, [null, 0.5]], "4": "é"}\n'


def test_json_carries_names_that_are_not_utf8(capsys):
    print_json({"path": Path("caf\udce9")})
    out = capsys.readouterr().out
    assert out == '{"path": "caf\\udce9"}\n'
    assert json.loads(out)["path"] == "caf\udce9"


def test_a_table_in_a_pipe_is_not_folded(capsys):
    print_table(("name", "n"), [("x" * 150, "1"), ("[red]y", "20")], numeric=("n",))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[2].rstrip() == f"{'x' * 150}    1"
    assert lines[3].startswith("[red]y ")
    assert lines[3].rstrip().endswith(" 20")


def test_a_narrow_terminal_lacks_columns_that_can_be_spared(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    asked = {"columns": ("name", "node", "long", "n"), "rows": [("x" * 20, "y" * 20, "z" * 30, "1")]}
    shown = {}
    for width in (100, 60, 30):
        monkeypatch.setenv("COLUMNS", str(width))
        print_table(**asked, dispensable=("long", "node"))
        said = capsys.readouterr()
        head, _, row = re.sub(r"\x1b\[[0-9;]*m", "", said.out).splitlines()  # bold
        shown[width] = head.split()
        assert len(row.rstrip()) <= width
        assert ("left out, for want of width: " in said.err) == (width < 100)
    assert shown == {100: ["name", "node", "long", "n"], 60: ["name", "node", "n"], 30: ["name", "n"]}


def test_a_warning_is_one_line_without_its_place(capsys):
    show_log(verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning(LeakWarning("3 images\nleak"), LeakWarning, __file__, 7)
    assert capsys.readouterr().err == "featbank: 3 images leak\n"


@pytest.mark.parametrize("verbose", [False, True])
def test_verbose_says_more(capsys, verbose):
    show_log(verbose)
    logging.getLogger("featbank.anything").info("by the way")
    logging.getLogger("featbank.anything").warning("careful")
    said = capsys.readouterr().err
    assert said == ("featbank: by the way\n" if verbose else "") + "featbank: careful\n"


def test_progress_without_a_terminal_is_a_line(capsys):
    with progress_bar("extract", "images") as update:
        update(1, 4)
        update(4, 4)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("extract: 4 of 4 images, ")
    assert err.count("\n") == 1
