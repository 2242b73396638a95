"""Where our processes look for modules: not in the current folder, unless it was asked for."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest

import featbank
from featbank._process import child_environment, import_path, pickle_for_child, without_current_folder

HOME = str(Path(featbank.__file__).parents[1])


@pytest.fixture
def here(tmp_path, monkeypatch) -> str:
    """A folder that is the current one, and in front on the path."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return str(folder)


@pytest.mark.parametrize("written", ["", ".", "./", "../here", "absolute", "a link"])
def test_the_current_folder_is_left_out_however_it_is_written(here, tmp_path, written) -> None:
    (tmp_path / "link").symlink_to(here)
    sys.path[0] = {"absolute": here, "a link": str(tmp_path / "link")}.get(written, written)
    assert import_path() == [os.path.abspath(one) for one in sys.path[1:]]  # noqa: PTH100


def test_other_folders_stay_in_their_order_and_become_absolute(here) -> None:
    Path("lib").mkdir()
    sys.path[:1] = ["lib", ""]
    assert import_path() == [str(Path(here, "lib")), *sys.path[2:]]


def test_the_current_folder_stays_where_it_was_asked_for(here, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", here)
    assert here in import_path()
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}/elsewhere")  # an empty entry is an accident
    assert here not in import_path()
    sys.path.append(here)  # behind the standard library, as an editable installation
    assert import_path()[-1] == here


def test_the_folder_of_a_module_that_is_sent_stays(here, monkeypatch) -> None:
    Path("mine.py").write_text("class Images: pass\nclass Other: inside = Images()\n")
    import mine  # type: ignore[import-not-found]

    monkeypatch.setitem(sys.modules, "mine", mine)
    assert "mine" in (modules := pickle_for_child(mine.Other(), io.BytesIO()))
    assert import_path(modules)[0] == here
    assert here not in import_path(pickle_for_child({"mine": 1}, io.BytesIO()))


def test_a_checkout_is_found_from_within(monkeypatch) -> None:
    monkeypatch.chdir(HOME)
    monkeypatch.setattr(sys, "path", ["", *(one for one in sys.path if one != HOME)])
    assert import_path()[0] == HOME


def test_a_deleted_folder_is_nowhere(here) -> None:
    sys.path[0] = ""
    Path(here).rmdir()
    assert import_path() == sys.path[1:]


def test_a_child_imports_as_this_process_does_and_nothing_from_here(here) -> None:
    Path("json.py").write_text("raise SystemExit('the folder of a stranger')")
    code = "import json, sys, featbank; print(json.dumps(sys.path))"
    for command in (["-c", code], ["-P", "-c", code]):
        done = subprocess.run(
            [sys.executable, *command], env=child_environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert here not in done.stdout


def test_libraries_start_their_processes_so_too_and_all_is_put_back(here, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}/elsewhere")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    path = list(sys.path)
    with without_current_folder():
        assert here not in sys.path
        assert (os.environ["PYTHONSAFEPATH"], os.environ["PYTHONPATH"]) == ("1", "/elsewhere")
    assert sys.path == path
    assert os.environ["PYTHONPATH"] == f"{os.pathsep}/elsewhere"
    assert "PYTHONSAFEPATH" not in os.environ


def test_the_command_and_the_module_leave_the_folder_out(here) -> None:
    Path("rich.py").write_text("raise SystemExit('the folder of a stranger')")
    Path("typer.py").write_text("raise SystemExit('the folder of a stranger')")
    env = {**os.environ, "PYTHONPATH": HOME}
    done = subprocess.run(
        [sys.executable, "-m", "featbank", "--help"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_is_defined_in_a_script_is_taken_along() -> None:
    def act(image):
        return types.SimpleNamespace(image=image)

    assert pickle_for_child(act, io.BytesIO()) >= {__name__}


def test_without_cloudpickle_what_has_a_name_is_pickled_all_the_same(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)  # importing it fails
    file = io.BytesIO()
    assert pickle_for_child([io.StringIO, 1], file) >= {"_io"}
    assert pickle.loads(file.getvalue()) == [io.StringIO, 1]
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle_for_child(lambda: None, io.BytesIO())
