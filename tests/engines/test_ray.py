"""Ray: what nodes compute is what this machine computes, whoever dies; what a node lacks is one line."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import featbank
from featbank import run_sweep
from featbank.banks import Bank
from featbank.cli import main
from featbank.engines import RayEngine, _ray, map_unordered
from featbank.errors import InvalidInputError, MissingWeightsError, NodeError, WorkerLostError
from featbank.extraction import ExtractionSettings, extract, extracting, plan, save_plan, tasks_left
from featbank.extraction.extracting import push_on
from featbank.fitting import fit_heads
from featbank.sweep import SweepResult

# not imported here: it is not for every session of tests
pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")]

#: Heads that are fitted together, by several values of a parameter. None of them needs torch, which takes
#: each process two seconds; the fault bench has those that do.
SWEEP: dict[str, Any] = {
    "cuts": ["block3_pool", "block5_pool"],
    "heads": ["logreg", "ridge", "ncm", "knn"],
    "head_params": {"knn": {"n_neighbors": [1, 3]}},
    "samples_per_class": "1,2,3,4",
    "repeats": 5,
}


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """A bank of 150 digits."""
    made = extract(
        "digits",
        backbone="minivgg",
        weights="random",
        cuts=SWEEP["cuts"],
        split="6,3,6",
        limit=150,
        cache_dir=tmp_path_factory.mktemp("ray"),
    )
    return Bank.open(made.bank)


def facts(result: SweepResult) -> list[Any]:
    """Return all that a sweep found of each fit, but for the time it took."""
    return [(replace(one, duration_s=0.0), one.hits and one.hits.top1.tolist()) for one in result.fits]


def test_a_sweep_whose_node_is_killed_is_that_of_one_machine(three_nodes, bank, tmp_path, capfd) -> None:
    alone = run_sweep(bank, **SWEEP)
    assert len(alone.fits) == 200
    killed: list[int] = []

    def progress(done: int, total: int) -> None:
        if done > 40 and not killed:
            killed.append(done)
            three_nodes.kill_node()

    engine = RayEngine(three_nodes.address)
    fitted = fit_heads(bank, engine=engine, progress=progress, cache_dir=tmp_path, **SWEEP)
    assert killed
    assert not capfd.readouterr().out  # where Ray would say it, among results
    assert facts(fitted.result) == facts(alone)
    assert fitted.result.notes == alone.notes
    lines = (fitted.run.path / "results.csv").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 201
    kept = {one.name: one for one in alone.heads}
    assert [one.name for one in fitted.result.heads] == [*kept]
    X = bank.load("block3_pool", split="test")[0]
    for one in fitted.result.heads:
        if one.cut == "block3_pool":
            answers = [head.estimator.predict(X).tolist() for head in (one, kept[one.name])]
            assert answers[0] == answers[1]


class Work:
    """Items that fail, or whose process does not survive them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.opened = folder, 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.opened += 1
        (self.folder / f"opened-{os.getpid()}").touch(exist_ok=False)

    def __call__(self, item: int) -> tuple[int, int]:
        if item == 5 and not (self.folder / "tried").exists():
            (self.folder / "tried").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 7:
            os._exit(1)
        if item == 9:
            raise InvalidInputError("nine cannot be had")
        if item == 11:

            class OddError(Exception):
                def __reduce__(self) -> Any:
                    raise TypeError("stays here")

            raise OddError("eleven")
        logging.getLogger("featbank.work").warning("what a node says of item %d", item // 10)
        return item * item, self.opened


def test_what_fails_is_the_items_own(nodes, tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING, "featbank"):
        found = {one.item: one for one in map_unordered(Work(tmp_path), range(20), RayEngine(nodes.address))}
    assert sorted(found) == [*range(20)]
    failed = {item: one.error for item, one in found.items() if one.error is not None}
    assert sorted(failed) == [7, 9, 11]
    assert isinstance(failed[7], WorkerLostError)
    assert str(failed[7]).startswith("the process that computed it was lost, 4 times at most (WorkerCrashed")
    assert isinstance(failed[9], InvalidInputError)
    assert str(failed[9]) == "nine cannot be had"
    assert repr(failed[11]) == "RuntimeError('OddError: eleven')"
    assert sorted(one for one in caplog.messages if one.startswith("what a node")) == [
        "what a node says of item 0",
        "what a node says of item 1",
    ]
    # the process that died for 5 was not the one that gave its result; and each opened once what it needs
    assert found[5].get() == (25, 1)
    assert Counter(one.get()[1] for item, one in found.items() if item not in failed) == {1: 17}


class Lacking:
    """What cannot be opened on a node."""

    def __reduce__(self) -> Any:
        return _without_weights, ()

    def __call__(self, item: int) -> int:
        return item


def _without_weights() -> Any:
    raise MissingWeightsError("the weights of vgg16 are not here; give --weights FILE")


def test_what_a_node_lacks_is_one_line_that_names_it(nodes, monkeypatch) -> None:
    engine = RayEngine(nodes.address)
    with pytest.raises(
        NodeError, match=r"^node \S+ \(of Ray's id \w{8}\): the weights of vgg16 are not here"
    ):
        list(map_unordered(Lacking(), range(5), engine))
    monkeypatch.setattr(_ray, "_node", lambda: "node a")
    _, said = _ray.opened(pickle.dumps(abs), {**_ray.versions(), "torch": "2.10.0", "numpy": "1.0"})
    assert re.match(r"node a has torch \S+ for 2\.10\.0, numpy \S+ for 1\.0; install the same versions", said)
    _, said = _ray.opened(b"cnowhere\nnothing\n.", _ray.versions())
    assert said == "node a cannot import what is to be computed: No module named 'nowhere'"


def test_nothing_goes_on_when_nobody_waits_any_more(nodes, tmp_path) -> None:
    def slow(item: int) -> int:
        (tmp_path / str(item)).touch()
        time.sleep(0.2)
        return item

    found = map_unordered(slow, range(1000), RayEngine(nodes.address))
    next(found)
    found.close()
    begun = len([*tmp_path.iterdir()])
    assert begun < 100
    time.sleep(0.5)
    assert len([*tmp_path.iterdir()]) == begun


def test_a_bank_pushed_by_nodes_is_that_of_one_machine(three_nodes, photo_folder, tmp_path) -> None:
    photos = photo_folder(16)
    (photos / "red" / "broken.png").write_bytes(b"no picture")
    asked = {"backbone": "minivgg", "cuts": ["block4_pool", "fc7"], "precision": "float32", "compile": "off"}
    asked |= {"weights": "random", "batch_size": 2, "shard_rows": 2}
    alone = extract(photos, cache_dir=tmp_path / "alone", **asked)
    assert (alone.pushed, alone.quarantined) == (48, 1)
    kills = {10: three_nodes.kill_worker, 24: three_nodes.kill_node}

    def killing(done: int, total: int) -> None:
        for at in [one for one in kills if one <= done]:
            kills.pop(at)()

    engine = RayEngine(three_nodes.address)
    pushed = extract(photos, engine=engine, progress=killing, cache_dir=tmp_path / "nodes", **asked)
    assert not kills
    # what a task had stored when its process was killed is not pushed again
    assert 44 <= pushed.pushed <= 48
    assert replace(pushed, bank=alone.bank, pushed=48, skipped=0, duration_s=alone.duration_s) == alone
    for path in [*alone.bank.rglob("*.*")]:
        there = pushed.bank / path.relative_to(alone.bank)
        if path.name == "cut.json":
            mine, other = (json.loads(one.read_text())["facts"] for one in (path, there))
            assert {**other, "duration_s": 0, "passes": ""} == {**mine, "duration_s": 0, "passes": ""}
        elif path.is_file() and not path.name.startswith("."):
            assert there.read_bytes() == path.read_bytes(), path
    assert len([*pushed.bank.rglob("*.h5")]) == len([*alone.bank.rglob("*.h5")]) == 51


def test_what_a_task_lacks_is_the_nodes_fault_and_a_plan_for_cards_is_not_pushed_without(tmp_path) -> None:
    weights = tmp_path / "weights.safetensors"
    shutil.copy(
        next((Path(featbank.__file__).parent / "backbones" / "pretrained").glob("*.safetensors")), weights
    )
    asked = {"backbone": "minivgg", "cuts": ["fc7"], "weights": weights, "limit": 20, "cache_dir": tmp_path}
    with plan("digits", ExtractionSettings(**asked)) as todo:
        path = save_plan(todo)
    with (
        plan("digits", ExtractionSettings(**asked)) as todo,
        pytest.raises(
            InvalidInputError, match=r"^this was planned for cpu, and a task has 1 cards \(--gpus-per-task\)"
        ),
    ):
        push_on(todo, RayEngine(gpus_per_task=1))
    weights.unlink()
    with pytest.raises(NodeError, match=r"weights\.safetensors"):
        extracting._TaskPusher(path, None, 1, 1)(tasks_left(path)[0])


def test_this_machine_alone_from_the_command_line(bank, tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    # what stands in the current folder is no module of ours
    for name in ("sklearn", "h5py", "safetensors"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger was imported')")
    addresses: set[str] = set()
    processes: set[str] = set()
    original = _ray._RayPool.__init__

    def spied(self: Any, ray: Any, *rest: Any) -> None:
        addresses.update(one["NodeManagerAddress"] for one in ray.nodes())
        processes.update(ray._private.worker._global_node.all_processes)
        original(self, ray, *rest)

    monkeypatch.setattr(_ray._RayPool, "__init__", spied)
    asked = ["fit-head", str(bank.path), "--head", "ridge,ncm", "--repeats", "1", "-n", "2"]
    with pytest.raises(SystemExit) as ended:
        main([*asked, "--engine", "ray", "--address", "local", "--json", "--cache-dir", "cache"])
    assert ended.value.code == 0
    said = capfd.readouterr()
    assert said.out.startswith('{"run": ')
    assert said.out.count("\n") == 1
    assert addresses == {"127.0.0.1"}
    assert "raylet" in processes
    assert "dashboard" not in processes  # which asks clouds what they are


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--engine rag", "--engine 'rag' is not one of local, ray"),
        ("--address auto", "--address auto is for a cluster; add --engine ray, or leave it out"),
        (
            "--engine ray --cpus-per-task 0",
            "cpus_per_task=0 (--cpus-per-task) is not a whole number of cores",
        ),
        ("--engine ray --gpus-per-task 1.5", "gpus_per_task=1.5 (--gpus-per-task) is neither a whole number"),
        ("--engine ray --address 127.0.0.1:1", "--address '127.0.0.1:1': no Ray cluster answers ("),
        ("--engine ray --address ray://x:1", "--address 'ray://x:1': no Ray cluster answers (an address is"),
        ("--engine ray --n-jobs 2", "n_jobs=2 (--n-jobs) is for processes of this machine"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(bank, tmp_path, capsys, options, said) -> None:
    asked = ["fit-head", str(bank.path), "--cache-dir", str(tmp_path), *options.split()]
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"featbank: {said}")
    assert not [*tmp_path.rglob("run.json")]


def test_an_extraction_on_a_cluster_is_a_run_of_its_own(tmp_path, capsys) -> None:
    for options, said in (
        ("--engine ray --shard 1/2", "--shard and --engine ray are given; each is a run of its own"),
        ("--engine ray --plan-only --slices 2", "--plan-only and --engine ray are given; each is"),
        ("--gpus-per-task 1", "--gpus-per-task 1.0 is for a cluster; add --engine ray, or leave it out"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["extract", "digits", "--cut", "fc7", "--cache-dir", str(tmp_path), *options.split()])
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith(f"featbank: {said}")
    assert not [*tmp_path.iterdir()]


def test_without_ray_it_is_said_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'featbank\[ray\]'"):
        next(map_unordered(abs, [1], RayEngine()))


def test_what_cannot_be_sent_is_one_line(nodes, tmp_path) -> None:
    with (tmp_path / "open").open("w") as file:
        found = map_unordered(file.write, ["text"], RayEngine(nodes.address))
        with pytest.raises(InvalidInputError, match=r"^what is to be computed cannot be sent to nodes \("):
            next(found)


def test_more_cores_than_a_node_has_are_refused(nodes) -> None:
    with pytest.raises(InvalidInputError, match="nodes the largest have 1 cores and 0 cards"):
        next(map_unordered(abs, [1], RayEngine(nodes.address, cpus_per_task=2)))


def test_a_sweep_travels_without_what_it_has_read(bank) -> None:
    from featbank.sweep import SweepSettings
    from featbank.sweep.fitting import Sweep

    sweep = Sweep(bank, SweepSettings(heads=["ncm"], samples_per_class="2", repeats=1))
    (task,) = [*sweep._tasks({})][:1]
    before = len(pickle.dumps(sweep))
    sweep.fit_task(task)
    assert len(pickle.dumps(sweep)) == before < 2000
    assert len(pickle.dumps(task)) < 300
