"""Banks of strangers: what featbank wrote comes in whole, everything else is refused, by name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from featbank.banks import Bank, BankStore, import_bank, pack
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


@pytest.mark.slow
def test_hostile_banks_are_refused_and_nothing_foreign_is_opened():
    """Each breaks one rule; `tests/faults/banks_hostile.py` has them all, and what each refusal must say."""
    result = hostile.run()
    assert result["bad"] == []
    figures = result["figures"]
    assert figures["refused"] == figures["hostile_banks"] > 250
    assert figures["foreign_files_opened"] in (0, "not traced")
    assert figures["programs_run"] in (0, "not traced")
    assert figures["of_which_the_banks_MB"] < 100


@pytest.mark.slow
def test_mutated_banks():
    result = faults_module("banks_mutated").run(scale=0.003)
    assert result["bad"] == []
    assert result["figures"]["mutants"] == 70
    assert result["figures"]["refused"] > 30


@pytest.mark.slow
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
    for name in (".lock", ".tmp-x", "plan-0123456789abcdef.json", "fc7/.lock", "fc7/.tmp-y"):
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
        f"bank {str(tmp_path / 'bank.h5')!r} cannot be taken in (it does not start like a file of "
        f"featbank); nothing of it was kept: get it again from where it is whole, from somebody you trust"
    )


def test_what_a_stranger_makes_of_the_hdf5_part_is_never_looked_at(grown, kit, tmp_path):
    """Only other readers see it: the numbers that come in are those the header names, written anew."""
    path = pack(grown, tmp_path / "bank.h5")
    data = bytearray(path.read_bytes())
    block = kit.headers.block_of(data)
    assert data[block : block + 8] == b"\x89HDF\r\n\x1a\n"
    data[block : block + 48] = bytes(48)
    path.write_bytes(data)
    again = import_bank(path, BankStore(tmp_path / "other"))
    assert kit.tree(again.path) == kit.tree(grown.path)


def test_hdf5_is_not_even_loaded_to_read_a_bank(grown, tmp_path):
    """Nor to verify it, to read a pack, or to import one up to what is written."""
    pack(grown, tmp_path / "bank.h5", compression="gzip")
    code = (
        "import sys\n"
        "from featbank.banks import Bank, open_archive, verify_bank\n"
        "bank = Bank.open(sys.argv[1], check='sha256')\n"
        "assert verify_bank(bank.path).ok and bank['fc7'][:].size and bank.info().cuts\n"
        "with open_archive(sys.argv[2]) as archive:\n"
        "    archive.verify(), archive['fc7'][:]\n"
        "sys.exit('h5py' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(grown.path), str(tmp_path / "bank.h5")],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
