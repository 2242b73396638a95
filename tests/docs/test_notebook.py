"""The start page as a notebook: it is what the script of the gallery says, runs whole, and shows things."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = DOCS / "start" / "start.ipynb"


def test_it_is_the_script_of_the_gallery() -> None:
    pytest.importorskip("sphinx_gallery")
    spec = importlib.util.spec_from_file_location("_reference", DOCS / "_reference.py")
    reference = importlib.util.module_from_spec(spec)
    sys.modules["_reference"] = reference
    try:
        spec.loader.exec_module(reference)
        wanted = reference.notebook_of(DOCS / "gallery" / "plot_00_start.py")
    finally:
        del sys.modules["_reference"]
    cells = nbformat.read(NOTEBOOK, as_version=4)["cells"]
    said = [(one["cell_type"], "".join(one["source"])) for one in cells]
    assert said == [(one["cell_type"], "".join(one["source"])) for one in wanted], "run `make docs`"


@pytest.mark.slow
def test_it_runs_whole_and_shows_what_there_is(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATBANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    page = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        page, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = [
        set(output["data"])
        for cell in page["cells"]
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
        if "data" in output
    ]
    assert sum("text/html" in one for one in shown) >= 4  # bank, run, curve, frame, comparison
    assert sum("image/png" in one for one in shown) >= 1
