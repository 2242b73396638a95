"""What a bank's reader can rely on, from the command line: repair, sources, keys, strangers' banks."""

from __future__ import annotations

import os
import shutil

import h5py
import pytest

ONE = ("extract", "photos", "--backbone", "minivgg", "--weights", "random", "--cut", "logits")


def shard(bank, cut="logits"):
    (found,) = (bank / cut).glob("*.h5")
    return found


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_repair(call, place, bank):
    path = shard(bank)
    whole = path.read_bytes()
    flip(path)
    done = call("banks", "verify", "photos", "--repair")
    assert done.code == 0
    assert path.read_bytes() == whole
    (aside,) = bank.glob("damaged-*")
    lines = done.out.splitlines()
    assert lines[0].startswith(f"corrupt: {path}: its bytes have sha256 ")
    assert lines[1:] == [
        f"now in {aside}: 1 damaged file",
        "1 shard extracted again, 36 images pushed",
        f"aside: {aside}: moved away by a repair; delete it when nobody needs it",
        lines[-1],
    ]
    assert lines[-1].endswith("checked: all as written")
    assert (aside / "logits" / path.name).read_bytes() != whole
    assert call("banks", "verify").code == 0


def test_repair_as_json(call, place, bank):
    shard(bank).unlink()
    flip(shard(bank, "block5_pool"))
    (found,) = call("banks", "verify", "--repair", "--json").json["banks"]
    assert found["ok"]
    assert [one["kind"] for one in found["findings"]] == ["corrupt", "missing"]
    assert (found["repair"]["shards"], found["repair"]["pushed"]) == (2, 36)
    assert found["repair"]["differing"] == []
    assert [one["kind"] for one in found["repair"]["findings"]] == ["aside"]
    (again,) = call("banks", "verify", "--repair", "--json").json["banks"]
    assert (again["ok"], again["repair"], again["sources"]) == (True, None, None)


def test_repair_that_cannot_be(call, place, bank):
    flip(shard(bank))
    done = call("banks", "verify", "--repair", "--data", "elsewhere")
    assert done.code == 3
    assert done.err.splitlines()[-1].startswith("featbank: no images at 'elsewhere'")
    assert not list(bank.glob("damaged-*"))


def test_sources(call, place, bank):
    done = call("banks", "verify", "--sources", "--data", "photos")
    assert (done.code, done.out.splitlines()[-1]) == (0, "images: all as they were extracted")
    image = place / "photos" / "red" / "03.png"
    before = image.stat()
    data = bytearray(image.read_bytes())
    data[200] ^= 1
    image.write_bytes(data)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (image.stat().st_size, image.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    (place / "photos" / "blue" / "00.png").unlink()
    shutil.copy(image, place / "photos" / "red" / "99.png")
    done = call("banks", "verify", "--sources", "--data", "photos")
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0] == "missing: image blue/00.png: the source no longer lists it"
    assert lines[1].startswith("changed: image red/03.png: its SHA-256 starts with ")
    assert lines[2] == "new: image red/99.png: the manifest does not list it"
    assert lines[-1] == (
        "images: 1 changed, 1 missing, 1 new; 'featbank extract' takes them as they are now (those beyond "
        "its --limit it leaves out again)"
    )
    found = call("banks", "verify", "--sources", "--data", "photos", "--json")
    assert found.code == 1
    assert not found.json["ok"]
    assert [(one["kind"], one["id"]) for one in found.json["banks"][0]["sources"]] == [
        ("missing", "blue/00.png"),
        ("changed", "red/03.png"),
        ("new", "red/99.png"),
    ]


def test_new_images_alone_are_no_fault(call, place, bank):
    shutil.copy(place / "photos" / "red" / "03.png", place / "photos" / "red" / "99.png")
    assert call("banks", "verify", "--sources", "--data", "photos").code == 0


CHANGES = {
    "weights": (("--random-state", "1"), "weights_sha256 was "),
    "transform": (("--transform", "squash"), "transform.mode was "),
    "image size": (("--image-size", "48"), "image_size was 32, is 48"),
    "precision": (("--precision", "bfloat16"), "precision was float32, is bfloat16"),
    "dtype": (("--dtype", "float32"), "dtype was float16, is float32"),
    "overflow": (("--on-overflow", "clip"), "dtype was float16, is float16-clip"),
    "batch size": (("--batch-size", "8"), "batch_size was 32, is 8"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_key_reuses_nothing_and_says_what_differs(call, place, bank, name):
    base = (*ONE, "--precision", "float32", "--cache-dir", "new")
    first = call(*base, "--json").json
    assert call(*base, "--json").json["pushed"] == 0
    changes, says = CHANGES[name]
    done = call(*base, *changes, "--json")
    assert (done.json["pushed"], done.json["skipped"]) == (36, 0)
    assert done.json["bank"] != first["bank"]
    (line,) = [line for line in done.err.splitlines() if "a new bank" in line]
    old = first["bank"].split("/")[-1]
    assert line.startswith(f"featbank: a new bank: no row of photos/{old} is reused, its ")
    assert says in line
    assert call(*base, "--json").json["bank"] == first["bank"]


@pytest.mark.slow
def test_another_decoder_reuses_nothing(call, place, monkeypatch):
    first = call(*ONE, "--cache-dir", "new", "--json").json
    monkeypatch.setattr("featbank.extraction.choosing.decoder_name", lambda: "pillow-99.0")
    done = call(*ONE, "--cache-dir", "new", "--json")
    assert done.json["pushed"] == 36
    assert done.json["bank"] != first["bank"]
    assert "is pillow-99.0" in done.err


def test_import_and_unpack_take_in_banks_of_strangers(call, place, bank):
    assert call("banks", "pack", "photos", "packed.h5").code == 0
    for number, source in enumerate(("packed.h5", bank)):
        done = call("banks", "import", source, "--cache-dir", f"new{number}")
        again = place / f"new{number}" / "banks" / "photos" / bank.name
        assert (done.code, done.out) == (0, f"{again}\n")
        assert shard(again).read_bytes() == shard(bank).read_bytes()
    assert call("banks", "import", bank, "--cache-dir", "new3", "--json").json["bank"].endswith(bank.name)


@pytest.mark.parametrize("command", ["import", "unpack"])
def test_a_hostile_file_is_one_line(call, place, bank, command):
    call("banks", "pack", "photos", "packed.h5")
    size = (place / "packed.h5").stat().st_size
    with h5py.File("packed.h5", "r+", libver=("v110", "v110")) as file:
        del file["labels"]
        file["labels"] = h5py.ExternalLink("/etc/passwd", "/x")
    now = (place / "packed.h5").stat().st_size
    done = call("banks", command, "packed.h5", "--cache-dir", "new")
    assert (done.code, done.message) == (
        2,
        f"bank 'packed.h5' cannot be taken in (it has {now} bytes, it should have {size}); nothing of it was "
        "kept: get it again from where it is whole, from somebody you trust",
    )
    assert not (place / "new").exists()


def test_an_unfinished_cut_is_called_so(call, place, bank):
    (bank / "logits" / "cut.json").unlink()
    (bank / "fc6").mkdir()
    (bank / "fc6" / ".lock").touch()
    assert "block4_pool block5_pool logits (unfinished, 36 of 36)" in call("banks", "ls").out
    assert "36 of 36, unfinished" in call("banks", "info").out
    done = call("banks", "verify")
    assert done.code == 0
    assert done.out.splitlines()[:2] == [
        f"unfinished: {bank / 'fc6'}: no shard is extracted yet",
        f"unfinished: {bank / 'logits'}: 1 of 1 shards are extracted",
    ]


@pytest.mark.slow
def test_info_shows_maxima_and_what_was_clipped(call, place, monkeypatch):
    from featbank.backbones import TruncatedNetwork

    forward = TruncatedNetwork.forward

    def scaled(self, batch):
        values = forward(self, batch)
        return {cut: one if batch.device.type == "meta" else one * 1e7 for cut, one in values.items()}

    monkeypatch.setattr(TruncatedNetwork, "forward", scaled)
    data = ("photos", "--weights", "random", "--cut", "fc7", "--precision", "float32", "--cache-dir", "new")
    done = call("extract", *data)
    assert done.code == 2
    assert "use --on-overflow float32 (this cut alone)" in done.err
    assert call("extract", *data, "--on-overflow", "clip").code == 0
    out = call("banks", "info", "--cache-dir", "new").out
    assert " 6.55e+04 " in out
    (line,) = [line for line in out.splitlines() if "beyond float16" in line]
    assert line.startswith("fc7: ")
    assert line.endswith(" images were beyond float16 and are clipped to 65504")
    made = call("extract", *data, "--on-overflow", "float32", "--json").json["bank"]
    assert "fc7: stored in float32, because float16 could not hold it" in call("banks", "info", made).out
