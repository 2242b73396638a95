"""Banks of strangers: what featbank wrote comes in whole, everything else is refused, by name."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from featbank.banks import Bank, BankStore, import_bank, pack
from featbank.banks import _reader_process as reader_process
from featbank.banks._guest import GuestError, GuestServer
from featbank.banks.importing import take_in
from featbank.errors import BankNotFoundError, CorruptBankError, InvalidInputError

FAULTS = Path(__file__).parents[1] / "faults"


def faults_module(name: str) -> ModuleType:
    sys.path.insert(0, str(FAULTS))
    try:
        spec = importlib.util.spec_from_file_location(name, FAULTS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FAULTS))
    return module


hostile = faults_module("banks_hostile")


@pytest.fixture(scope="module")
def server():
    with GuestServer() as one:
        yield one


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return hostile.prepare(tmp_path_factory.mktemp("good"))


def test_hostile_banks_are_refused_and_nothing_foreign_is_opened():
    """Each breaks one rule; `tests/faults/banks_hostile.py` has them all, and what each refusal must say."""
    result = hostile.run()
    assert result["bad"] == []
    figures = result["figures"]
    assert figures["refused"] == figures["hostile_banks"] > 130
    assert figures["foreign_files_opened"] in (0, "not traced")
    assert figures["programs_run"] in (0, "not traced")
    assert figures["peak_child_MB"] < 300


def test_mutated_banks():
    result = faults_module("banks_mutated").run(scale=0.003)
    assert result["bad"] == []
    assert result["figures"]["mutants"] == 70
    assert result["figures"]["refused"] > 30


@pytest.mark.parametrize("kind", ["file", "folder", "zstd", "gzip"])
def test_a_whole_bank_comes_in_as_it_is(kind, grown, kit, tmp_path):
    path = grown.path
    if kind != "folder":
        path = pack(grown, tmp_path / "bank.h5", compression=None if kind == "file" else kind)
    again = import_bank(path, BankStore(tmp_path / "other"))
    assert kit.tree(again.path) == kit.tree(grown.path)
    assert again.verify().findings == []
    assert Bank.open(again.path).cuts == grown.cuts


def test_a_folder_with_locks_marks_and_leavings_comes_in_without_them(bank, tmp_path, kit):
    wanted = kit.tree(bank.path)
    for name in (".lock", ".tmp-x", "fc7/.lock", "fc7/.tmp-y"):
        (bank.path / name).write_text("x")
    (bank.path / "damaged-1").mkdir()
    (bank.path / "damaged-1" / "anything").write_text("x")
    assert kit.tree(import_bank(bank.path, BankStore(tmp_path / "other")).path) == wanted


def test_a_cut_that_is_not_finished_stays_out(store, manifest, kit, tmp_path, caplog):
    bank = store.create_or_open("shapes", kit.KEY, {})
    bank.set_manifest(manifest)
    kit.extract(bank, ["logits"])
    kit.extract(bank, ["fc7"], finish=False, limit=2)
    again = import_bank(bank.path, BankStore(tmp_path / "other"))
    assert (again.cuts, again.partial_cuts) == (("logits",), {})
    assert "cut 'fc7' was not finished and is left out" in caplog.text


def test_what_is_there_already_is_not_overwritten(bank, store):
    with pytest.raises(InvalidInputError, match="exists already; remove it with `featbank banks rm`"):
        import_bank(bank.path, store)


def test_nothing_there(tmp_path, store):
    with pytest.raises(BankNotFoundError) as caught:
        import_bank(tmp_path / "gone", store)
    assert str(caught.value) == (
        f"no bank {str(tmp_path / 'gone')!r} to take in (No such file or directory); name a packed file, or "
        f"the folder of a bank"
    )


def test_the_message_says_what_where_and_what_now(tmp_path, store):
    (tmp_path / "bank.h5").write_bytes(b"hello")
    with pytest.raises(CorruptBankError) as caught:
        import_bank(tmp_path / "bank.h5", store)
    assert str(caught.value) == (
        f"bank {str(tmp_path / 'bank.h5')!r} cannot be taken in (it does not start like an HDF5 file of "
        f"featbank); nothing of it was kept: get it again from where it is whole, from somebody you trust"
    )


@pytest.fixture
def broken_reader(monkeypatch, tmp_path, good):
    """Start a server whose readers misbehave when they are asked to open a file."""

    def start(body: str) -> tuple[GuestServer, Path]:
        code = (
            f"import os, signal, time, resource\nfrom featbank.banks import _reader_process as it\n"
            f"def survey(*_):\n    {body}\nwarm = it._warm_up\n"
            f"def warm_up():\n    warm()\n    it.survey = survey\nit._warm_up = warm_up\n"
            f"from featbank.banks._reader_process import main\n"
        )
        (tmp_path / "broken_reader.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(reader_process, "__name__", "broken_reader")
        return GuestServer(), good[0]

    return start


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"the process that read it died \(signal 11\)"),
        ("os.abort()", r"the process that read it died \(signal 6\)"),
        ("os._exit(0)", r"the process that read it died \(of too little memory, or at its limits\)"),
        ("bytearray(10**10)", "MemoryError"),
        ("open('/etc/passwd')", r"Permission denied|Too many open files"),
        ("os.fork()", "Resource temporarily unavailable|Permission denied|cannot be taken in|died"),
    ],
)
def test_a_reader_that_dies_is_one_clear_error(broken_reader, body, says, tmp_path):
    server, path = broken_reader(body)
    with server, pytest.raises(CorruptBankError, match=says):
        take_in(path, BankStore(tmp_path / "store"), server)
    assert not (tmp_path / "store").exists()


def test_a_reader_that_hangs_is_given_up(broken_reader, monkeypatch, tmp_path):
    monkeypatch.setattr("featbank.banks._guest._PATIENCE_S", 1)
    for body in ("time.sleep(1000)", "\n    while True: pass"):
        server, path = broken_reader(body)
        started = time.monotonic()
        with server, pytest.raises(CorruptBankError, match="takes far longer than its size explains"):
            take_in(path, BankStore(tmp_path / "store"), server)
        assert time.monotonic() - started < 30


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is a part of Linux")
def test_a_reader_has_nothing_but_its_file(server):
    with server.reader(0) as reader:
        limits = {
            line[:25].strip(): line[26:].split()[0]
            for line in Path(f"/proc/{reader._pid}/limits").read_text().splitlines()
        }
        deadline = time.monotonic() + 10
        while limits["Max open files"] != "5" and time.monotonic() < deadline:  # it is still starting
            limits = {
                line[:25].strip(): line[26:].split()[0]
                for line in Path(f"/proc/{reader._pid}/limits").read_text().splitlines()
            }
        assert limits["Max open files"] == "5"
        assert limits["Max file size"] == "0"
        assert limits["Max processes"] == "0"
        assert limits["Max core file size"] == "0"
        assert limits["Max cpu time"] == "30"
        assert int(limits["Max address space"]) < 4e9
        environment = Path(f"/proc/{reader._pid}/environ").read_bytes().split(b"\0")
        assert b"HDF5_PLUGIN_PRELOAD=::" in environment
        assert not any(one.startswith(b"HDF5_PLUGIN_PATH") for one in environment)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Landlock is a part of Linux")
def test_landlock_forbids_every_file(tmp_path):
    (tmp_path / "x").write_text("x")
    code = (
        "import sys; from featbank.banks._confined import confine\n"
        "if not confine(): sys.exit(2)\n"
        "try: open(sys.argv[1])\n"
        "except PermissionError: sys.exit(0)\n"
        "sys.exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=False)
    if done.returncode == 2:
        pytest.skip("this kernel has no Landlock")
    assert done.returncode == 0


def test_a_server_that_is_gone_is_one_clear_error(good, tmp_path):
    with GuestServer() as server:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(CorruptBankError, match="no process could be started to read it in"):
            take_in(good[0], BankStore(tmp_path / "store"), server)


def test_a_server_that_dies_while_a_bank_is_read_is_one_clear_error(good, tmp_path):
    with GuestServer() as server, server.reader(0) as reader:
        os.kill(server.pid, signal.SIGKILL)
        os.kill(reader._pid, signal.SIGKILL)
        with good[0].open("rb") as file, pytest.raises(GuestError, match=r"died \(signal 9\)"):
            reader.open(file.fileno(), "pack")


def test_an_answer_that_makes_no_sense_is_an_error(server, monkeypatch, good):
    endless = {"arrays": {"x": ["<f4", [10**9, 4]]}, "attributes": {}, "compressed": {"x": ["zstd", 100]}}
    with server.reader(0) as reader:
        monkeypatch.setattr(reader, "_ask", lambda *_: endless)
        with good[0].open("rb") as file, pytest.raises(GuestError, match="far more than features shrink"):
            reader.open(file.fileno(), "pack")
        endless["compressed"] = {"x": ["zstd", 10**9]}
        with good[0].open("rb") as file, pytest.raises(GuestError, match="more bytes than it has"):
            reader.open(file.fileno(), "pack")
        endless["compressed"] = {"x": ["blosc", 100]}
        with good[0].open("rb") as file, pytest.raises(GuestError, match="no sensible answer"):
            reader.open(file.fileno(), "pack")
        monkeypatch.setattr(reader, "_ask", lambda *_: {"arrays": {"x": ["O", [1]]}, "attributes": {}})
        with good[0].open("rb") as file, pytest.raises(GuestError, match="'x' has rows of type object"):
            reader.open(file.fileno(), "pack")
        monkeypatch.setattr(reader, "_ask", lambda *_: {"arrays": {"x": ["<f4", [10**9]]}, "attributes": {}})
        with good[0].open("rb") as file, pytest.raises(GuestError, match="more bytes than it has"):
            reader.open(file.fileno(), "pack")
        monkeypatch.setattr(reader, "_ask", lambda *_: {})
        with good[0].open("rb") as file, pytest.raises(GuestError, match="no sensible answer"):
            reader.open(file.fileno(), "pack")
