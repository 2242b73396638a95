"""The processes that decode: they are replaced when they die, and never outlive whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_datasets import Decoded, Images, png, pool_of

from featbank.datasets import decode_pool
from featbank.datasets._torchvision import TorchvisionDataset
from featbank.datasets.decode_pool import DecodePool, DecodeRequest
from featbank.errors import DecoderProcessError, InvalidInputError

HERE = Path(__file__).parent


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state not in "ZX"


def gone_within(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def pids_of(pool: DecodePool) -> list[int]:
    return [handle._process.pid for handle in pool._handles if handle._process is not None]


@pytest.mark.slow
def test_killed_processes_are_replaced(odd) -> None:
    with pool_of(Images([png(odd.PLAIN, n) for n in range(64)]), odd.who, workers=2) as pool:
        for _ in range(3):
            (batch,) = pool.batches([DecodeRequest(range(64))])
            assert batch.failures == []
            seen = {tuple(one) for one in batch.images[:, 0, 1:5, 0].tolist()}
            pids = {int(np.frombuffer(bytes(one), np.int32)[0]) for one in seen}
            assert pids <= set(pids_of(pool))
            for pid in pids_of(pool):
                os.kill(pid, signal.SIGKILL)


def test_processes_know_nothing_heavy(odd) -> None:
    with pool_of(Images([png(odd.PLAIN)]), odd.who, workers=1) as pool:
        (batch,) = pool.batches([DecodeRequest([0])])
    assert batch.images[0, 0, 0].tolist() == [0, 0, 0]


def test_nor_do_those_of_a_dataset_that_only_answers_as_torchvisions_do(odd) -> None:
    dataset = TorchvisionDataset({"": Decoded({})}, name="own", location="here")
    with pool_of(dataset, odd.who, workers=1) as pool:
        (batch,) = pool.batches([DecodeRequest([0])])
    assert batch.images[0, 0, 0].tolist() == [0, 0, 0]


def test_close_ends_processes_whatever_they_do(odd) -> None:
    contents = [png(code) for code in odd.HANGS.values()]
    pool = pool_of(Images(contents), odd.act, workers=4)
    heard = []

    def wait_for_batches() -> None:
        try:
            list(pool.batches(DecodeRequest([number]) for number in range(4)))
        except InvalidInputError as error:
            heard.append(str(error))

    waiting = threading.Thread(target=wait_for_batches)
    waiting.start()
    time.sleep(0.7)
    pids = pids_of(pool)
    assert len(pids) == 4
    started = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - started < 2
    assert gone_within(pids, 1)
    waiting.join(2)
    assert heard == ["this DecodePool is closed; make another"]
    with pytest.raises(InvalidInputError, match=r"^this DecodePool is closed; make another$"):
        next(pool.batches([DecodeRequest([0])]))


SCRIPT = """
import io, signal, sys, time
# as in a terminal, also where the tests run in the background and SIGINT is ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
from PIL import Image
from pathlib import Path
from featbank.datasets.decode_pool import DecodePool, DecodeRequest
sys.path.insert(0, {here!r})
import odd_decoders
{prelude}
class Images:
    name, location, classes, splits, ids, labels = "i", "m", ("a", "b"), None, (b"0", b"1"), ("a", "b")
    def read(self, index):
        file = io.BytesIO()
        Image.new("RGB", (8, 8), ({code}, 0, 0)).save(file, "PNG")
        return file.getvalue()
# no __main__ guard: a script must not need one
pool = DecodePool(Images(), odd_decoders.act, shape=(8, 8, 3), batch_size=2, workers=2, timeout_s=60)
print([handle._process and handle._process.pid for handle in pool._handles], flush=True)
for batch in pool.batches(DecodeRequest([n % 2]) for n in range({n})):
    print(batch.decoded.tolist(), flush=True)
    print([handle._process.pid for handle in pool._handles], flush=True)
"""


@pytest.fixture
def script(tmp_path) -> Iterator:
    running = []

    def start(code: int, n: int, prelude: str = "") -> subprocess.Popen[str]:
        path = tmp_path / "script.py"
        path.write_text(SCRIPT.format(here=str(HERE), code=code, n=n, prelude=prelude))
        process = subprocess.Popen(
            [sys.executable, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def busy_children(process: subprocess.Popen[str], n: int) -> list[int]:
    end = time.monotonic() + 20
    while len(found := children_of(process.pid)) < n and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)  # let them begin
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
@pytest.mark.parametrize("what", ["sleep-with-the-interpreter", "endless"])
def test_a_killed_parent_leaves_no_process(odd, script, what) -> None:
    parent = script(odd.HANGS[what], 8)
    children = busy_children(parent, 2)
    assert len(children) == 2
    parent.kill()
    assert gone_within(children, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
@pytest.mark.parametrize("code", [200, 12])
def test_ctrl_c_ends_all_and_says_so_once(odd, script, code) -> None:
    parent = script(code, 10**9)
    children = busy_children(parent, 2)
    assert len(children) == 2
    os.killpg(parent.pid, signal.SIGINT)
    _, said = parent.communicate(timeout=10)
    assert gone_within(children, 1)
    assert parent.returncode in (-signal.SIGINT, 130)
    assert said.count("Traceback") == 1
    assert said.strip().endswith("KeyboardInterrupt")


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_ctrl_c_is_for_the_parent_alone(odd, script) -> None:
    handled = "import signal; signal.signal(signal.SIGINT, lambda *_: None)"
    parent = script(odd.HANGS["sleep"], 8, handled)
    children = busy_children(parent, 2)
    os.killpg(parent.pid, signal.SIGINT)
    time.sleep(0.5)
    assert set(children_of(parent.pid)) == set(children)
    assert all(alive(child) for child in children)


def test_a_script_needs_no_main_guard(script) -> None:
    parent = script(200, 2)
    said, complaint = parent.communicate(timeout=30)
    assert (parent.returncode, complaint) == (0, "")
    assert said.count("[True]") == 2


def test_a_python_that_does_not_start(odd, monkeypatch) -> None:
    monkeypatch.setattr(decode_pool.sys, "executable", "/nowhere/python")
    with (
        pool_of(Images([png(odd.PLAIN)]), odd.act) as pool,
        pytest.raises(DecoderProcessError, match=r"^cannot start a decoding process: .*No such file"),
    ):
        list(pool.batches([DecodeRequest([0])]))


def test_a_process_that_fails_to_start_says_why(odd, monkeypatch) -> None:
    monkeypatch.setattr(decode_pool, "_CODE", "raise SystemExit('no numpy here')")
    with (
        pool_of(Images([png(odd.PLAIN)]), odd.act) as pool,
        pytest.raises(DecoderProcessError, match=r"^a decoding process did not start \(no numpy here\); it"),
    ):
        list(pool.batches([DecodeRequest([0])]))


@pytest.mark.slow
def test_processes_that_die_with_no_image_to_blame(odd, monkeypatch) -> None:
    code = (
        "import sys, socket\n"
        "from featbank.datasets.decode_pool import receive, send\n"
        "c = socket.socket(fileno=int(sys.argv[1])); send(c, b'{}'); receive(c)"
    )
    monkeypatch.setattr(decode_pool, "_CODE", code)
    with (
        pool_of(Images([png(odd.PLAIN)]), odd.act, workers=1) as pool,
        pytest.raises(DecoderProcessError, match=r"^the decoding processes keep dying before their first"),
    ):
        list(pool.batches([DecodeRequest([0])]))
