"""``featbank runs``."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from featbank.runs import list_runs, open_run


def of(place, name):
    (found,) = (place / "cache" / "runs").glob(f"*-{name}")
    return found


def test_ls(call, place, bank):
    done = call("runs", "ls")
    assert (done.code, done.err) == (0, "")
    header, _, newest, oldest = done.out.splitlines()
    assert header.split() == ["run", "began", "data", "cuts", "heads", "per", "class", "fits", "best", "size"]
    assert newest.startswith(of(place, "warmth").name)
    run = open_run("depth")
    assert oldest.startswith(run.name)
    began = run.facts["created"]
    for said in (
        f"{began[:10]} {began[11:16]}",
        "photos/minivgg",
        "block4_pool block5_pool",
        "softmax ncm",
        " 1..4 ",
        " 32 ",
        " %: block",
    ):
        assert said in oldest


def test_ls_as_json(call, place, bank):
    newest, oldest = call("runs", "ls", "--json").json["runs"]
    run = open_run("depth")
    assert (newest["name"], oldest["name"]) == (of(place, "warmth").name, run.name)
    assert (oldest["path"], oldest["status"], oldest["error"]) == (str(run.path), "finished", None)
    assert oldest["bank"] == run.source["bank"]
    assert (oldest["cuts"], oldest["heads"]) == (["block4_pool", "block5_pool"], ["softmax", "ncm"])
    assert (oldest["sizes"], oldest["n_fits"], oldest["n_planned"]) == ([1, 2, 3, 4], 32, 32)
    assert oldest["kept"] == [one["name"] for one in run.heads()]
    assert oldest["size_bytes"] == sum(one.stat().st_size for one in run.path.rglob("*") if one.is_file())
    best = max(run.result().points(), key=lambda point: (point.mean("val_top1"), point.n_per_class))
    found = oldest["best"]
    assert (found["metric"], found["n_repeats"]) == ("top1", 2)
    assert found["mean"] == pytest.approx(best.mean("top1"))


def test_ls_of_one_bank(call, place, bank):
    facts = json.loads((of(place, "depth") / "run.json").read_text())
    facts["source"]["bank"] = str(bank)
    (of(place, "depth") / "run.json").write_text(json.dumps(facts))
    found = call("runs", "ls", "photos", "--json").json["runs"]
    assert [one["name"] for one in found] == [of(place, "depth").name]
    done = call("runs", "ls", "album")
    assert done.code == 3
    assert done.message.startswith("no bank 'album' in ")


def test_ls_of_nothing(call, place, bank):
    done = call("runs", "ls", "--cache-dir", "new")
    assert (done.code, done.out, done.err) == (0, "", "no runs yet; 'featbank fit-head' makes one\n")
    assert call("runs", "ls", "--cache-dir", "new", "--json").json == {"runs": []}
    assert not (place / "new").exists()


def test_ls_of_what_is_not_finished_or_damaged(call, place):
    depth, warmth = of(place, "depth"), of(place, "warmth")
    facts = json.loads((depth / "run.json").read_text())
    (depth / "run.json").write_text(json.dumps({**facts, "status": "running"}))
    (warmth / "run.json").write_text("{")
    done = call("runs", "ls")
    assert done.code == 0
    _, _, newest, oldest = done.out.splitlines()
    assert "damaged" in newest
    assert "32 of 32, interrupted" in oldest
    assert done.err.startswith(f"{warmth.name}: '{warmth / 'run.json'}' is damaged: ")
    with (depth / ".lock").open("w") as lock:  # another process goes on with it
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "32 of 32, running" in call("runs", "ls").out
        done = call("runs", "rm", "depth", "-y")
        assert (done.code, done.message) == (
            2,
            f"run '{depth.name}' is being written by another process; stop that first, or wait",
        )
    assert depth.exists()
    for broken in ("[]", json.dumps({**facts, "source": 3}), json.dumps({**facts, "heads": [{}]})):
        (warmth / "run.json").write_text(broken)
        assert call("runs", "ls").code == 0


def test_info(call, place):
    run = open_run("depth")
    lines = call("runs", "info", "depth").out.splitlines()
    assert lines[0] == f"run        {run.path}"
    assert f"bank       {run.source['bank']}" in "\n".join(lines)
    assert "per class  1, 2, 3, 4" in lines
    for head in run.heads():
        assert any(line.startswith(head["name"]) for line in lines)
    found = call("runs", "info", "depth", "--json").json
    assert found["parameters"] == run.facts["parameters"]
    assert found["heads_kept"] == run.heads()
    assert call("runs", "info").out.startswith(f"run        {of(place, 'warmth')}\n")
    done = call("runs", "info", "nope")
    assert done.code == 3
    assert done.message.startswith("no run 'nope'; there are '")


def test_rm(call, place, monkeypatch):
    depth, warmth = of(place, "depth"), of(place, "warmth")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    done = call("runs", "rm", "depth")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"Delete {depth}? [y/N]: nothing was removed; --yes removes without asking\n"
    size = sum(one.stat().st_size for one in depth.rglob("*") if one.is_file())
    found = call("runs", "rm", "depth", "--yes", "--json").json
    assert found == {"removed": [{"run": str(depth), "freed_bytes": size}], "freed_bytes": size}
    assert list_runs() == [warmth]
    (warmth / "run.json").write_text("{")  # a damaged one can be removed too
    done = call("runs", "rm", "warmth", "-y")
    assert done.out.startswith(f"removed {warmth}: ")
    assert [one for one in (place / "cache" / "runs").iterdir() if one.is_dir()] == []
    assert call("runs", "rm").code == 2
    assert call("runs", "rm", "last").code == 3


@pytest.mark.slow
def test_rm_removes_nothing_but_runs_of_the_cache(call, place, monkeypatch):
    depth, runs = of(place, "depth"), place / "cache" / "runs"
    project, away = place / "proj", place / "away" / depth.name
    project.mkdir()
    (project / "run.json").write_text("{}")
    (project / "thesis.tex").write_text("years of work")
    shutil.copytree(depth, away)  # a run, but nowhere in the cache
    shutil.copytree(project, runs / "proj")  # in the place, but no run
    (runs / "20260101-000000-linked").symlink_to(away)
    (place / "link").symlink_to(depth)
    (depth / "heads" / "run.json").write_text("{}")
    before = {path for path in place.rglob("*") if path.name != ".lock"}
    for asked in (
        "./proj",
        project,
        away,
        "cache/runs/../../proj",
        "cache/runs/proj",
        runs / "20260101-000000-linked",
        "20260101-000000-linked",
        "linked",
        "link",
        depth / "heads",
        f"{depth}/heads/..",
    ):
        done = call("runs", "rm", asked, "--yes")
        assert done.code == 2, asked
        assert "and nothing else is removed: 'featbank runs ls' names the runs there are" in done.message
    for asked in ("", ".", "..", "/", place, "cache", runs, "proj/", "run.json", depth / "heads" / "none"):
        assert call("runs", "rm", asked, "--yes").code in (2, 3), asked
    monkeypatch.chdir(project)
    assert call("runs", "rm", ".", "--yes", "--cache-dir", place / "cache").code == 2
    assert call("runs", "rm", "cache/runs/x", "--yes").code == 3
    monkeypatch.chdir(place)
    # nothing is removed where one of several is refused
    assert call("runs", "rm", "warmth", "./proj", "-y").code == 2
    assert {path for path in place.rglob("*") if path.name != ".lock"} == before
    (place / "disk").symlink_to(place / "cache")  # a cache on another disk is a cache
    assert call("runs", "rm", f"disk/runs/{depth.name}", "warmth", "-y", "--cache-dir", "disk").code == 0
    assert not depth.exists()


def test_what_nobody_may_read_is_said_in_a_line(call, place, monkeypatch):
    """Root may read everything, so the system call is made to refuse."""
    runs, scan = place / "cache" / "runs", os.listdir

    def refuse(path="."):
        if os.fspath(path) == os.fspath(runs):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr("os.listdir", refuse)
    for command in (["runs", "ls"], ["runs", "info"], ["predict", "last", "photos"]):
        done = call(*command)
        assert (done.code, done.message) == (
            2,
            f"no permission to read '{runs}': check its rights, or who you are",
        )


def test_a_run_nobody_may_read_is_listed_with_its_fault(call, place, monkeypatch):
    file, read = of(place, "depth") / "run.json", Path.read_bytes

    def refuse(path):
        if path == file:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    done = call("runs", "ls")
    assert done.code == 0
    said = f"'{file}' cannot be read (Permission denied): check its rights and the disk"
    assert done.err == f"{file.parent.name}: {said}\n"
    done = call("runs", "info", "depth")
    assert (done.code, done.message) == (2, said)
    assert call("runs", "info", "warmth").code == 0


@pytest.mark.parametrize("command", [["runs", "ls"], ["runs", "info"], ["banks", "ls"], ["banks", "verify"]])
def test_no_torch_is_loaded(place, command):
    code = (
        "import sys\nfrom featbank.cli import main\n"
        "heavy = {'torch', 'torchvision', 'matplotlib', 'sklearn'}\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n"
        "    print(sorted(set(sys.modules) & heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")
