"""Bad input: its own message, one line on standard error, its exit code, and nothing lost."""

from __future__ import annotations

import json
import shutil
import urllib.error
from pathlib import Path

import pytest
import torch

from featbank.backbones import load_backbone
from featbank.banks import Bank
from featbank.runs import open_run

PLAIN = ("--backbone", "minivgg", "--weights", "random", "--split", "6,3,3")
HOW = "Write 4..32 (doubling), 4..32:4 (steps of 4), 1,5,10 (a list) or all."


@pytest.fixture
def untouched(place):
    """Check at the end that no file of the cache was made, changed or removed."""

    def files() -> dict[str, bytes]:
        return {
            str(path): path.read_bytes() if path.is_file() else b""
            for path in (place / "cache").rglob("*")
            if path.name != ".lock"
        }

    before = files()
    yield place
    assert files() == before


def refused(done, code: int, message: str) -> None:
    assert (done.message, done.code) == (message, code)


def test_an_unknown_backbone(call, untouched):
    refused(
        call("extract", "photos", "--backbone", "minivg", "--cut", "fc7"),
        2,
        "unknown backbone 'minivg'; known: 'minivgg', 'mobilenet_v2', 'inception_v3', 'mobilenet_v3_large', "
        "'swin_v2_t' and 76 more",
    )


def test_an_unknown_cut(call, untouched):
    known = "'block5_pool', 'block4_pool', 'block3_pool', 'block2_pool', 'block1_pool' and 4 more"
    refused(
        call("extract", "photos", *PLAIN, "--cut", "block6_pool"),
        2,
        f"unknown cut 'block6_pool' of backbone 'minivgg'; known: {known}",
    )
    refused(
        call("fit-head", "--cut", "block6_pool"),
        2,
        f"unknown cut 'block6_pool' of backbone 'minivgg'; known: {known}",
    )


def test_a_cut_the_bank_has_not(call, untouched):
    refused(
        call("fit-head", "--cut", "pool3"),
        2,
        "the bank has no cut 'block3_pool'; it has 'block5_pool', 'block4_pool', 'logits'",
    )


def test_a_folder_without_images(call, untouched):
    (untouched / "empty").mkdir()
    refused(
        call("extract", "empty", *PLAIN, "--cut", "fc7"),
        2,
        f"no images in '{untouched / 'empty'}'; wanted: FOLDER/CLASS/image.jpg, or "
        "FOLDER/train/CLASS/image.jpg beside val/ and test/",
    )


def test_a_missing_folder(call, untouched):
    refused(
        call("extract", "gone", *PLAIN, "--cut", "fc7"),
        3,
        f"no images at 'gone' (looked for '{untouched / 'gone'}' and '{untouched / 'data' / 'gone'}'); "
        "give a folder of class folders or an archive of one, a .csv, .txt or .parquet file, "
        "'torchvision:NAME', 'hf:NAME', 'webdataset:FILES', "
        "'parquet:FOLDER', 'crops:FILE' or 'digits'",
    )


def test_one_class(call, untouched):
    shutil.copytree(untouched / "photos" / "red", untouched / "one" / "red")
    refused(
        call("extract", "one", *PLAIN, "--cut", "fc7"),
        2,
        f"'{untouched / 'one'}' has only one class, 'red'; a classifier needs at least two",
    )


def test_a_csv_line_without_a_label(call, untouched):
    lines = ["path,label", "photos/red/00.png,red", "photos/blue/00.png,", "photos/blue/01.png,blue"]
    (untouched / "list.csv").write_text("\n".join(lines))
    refused(
        call("extract", "list.csv", *PLAIN, "--cut", "fc7"),
        2,
        f"'{untouched / 'list.csv'}' has 1 fault: line 3 has no label",
    )


@pytest.mark.slow
def test_a_file_that_is_not_an_image_is_quarantined(call, place):
    (place / "photos" / "blue" / "page.png").write_text("<html>404</html>")
    found = call("extract", "photos", *PLAIN, "--cut", "pool5", "--json")
    assert (found.code, found.json["pushed"], found.json["skipped"], found.json["quarantined"]) == (
        0,
        0,
        36,
        1,
    )
    assert call("fit-head", "-c", "pool5", "-n", 2, "--repeats", 1, "--max-epochs", 3).code == 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            "4..2",
            "samples_per_class='4..2' runs backwards: 2 is less than 4. Write the smaller number first, "
            "e.g. 2..4.",
        ),
        ("0..8", f"samples_per_class='0..8' asks for 0 samples per class; the smallest size is 1. {HOW}"),
        ("abc", f"samples_per_class='abc' cannot be read: 'abc' is no number, range or 'all'. {HOW}"),
        (
            "2,7",
            "n_per_class=7 (--samples-per-class) asks for "
            "more samples than 3 of 3 classes have: class 'blue' has 6, class 'green' "
            "has 6, class 'red' has 6. Use at most 6, drop these classes, or add --up-to, which takes what "
            "they have.",
        ),
    ],
)
def test_samples_per_class(call, untouched, sizes, message):
    refused(call("fit-head", "--samples-per-class", sizes), 2, message)


@pytest.mark.slow
def test_a_class_with_too_few_samples_is_named(call, place):
    for file in sorted((place / "photos" / "green").iterdir())[4:]:
        file.unlink()
    # as CSV, so that one class alone is short
    rows = [(path, path.parent.name) for path in sorted((place / "photos").rglob("*.png"))]
    lines = [
        f"photos/{label}/{path.name},{label},{'train' if int(path.stem) < 6 else 'test'}"
        for path, label in rows
    ]
    (place / "short.csv").write_text("\n".join(["path,label,split", *lines]))
    plain = ("--backbone", "minivgg", "--weights", "random")
    assert call("extract", "short.csv", *plain, "--cut", "pool5").code == 0
    done = call("fit-head", "short", "-n", "2..6:2")
    assert done.code == 2
    assert done.message.startswith("n_per_class=6 (--samples-per-class) asks for more samples than ")
    assert "class 'green' has " in done.message


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_another_architecture(call, untouched, suffix):
    from safetensors.torch import save_file

    state = load_backbone("squeezenet1_1", weights="random").module.state_dict()
    file = Path(f"other{suffix}")
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    done = call("extract", "photos", "--backbone", "minivgg", "--weights", file, "--cut", "fc7")
    assert done.code == 2
    assert done.message.startswith(f"weights 'other{suffix}' do not fit 'minivgg': 70 tensors missing (")
    assert done.message.endswith("; they fit 'squeezenet1_1': use --backbone squeezenet1_1")


def test_weights_that_are_not_there(call, untouched):
    refused(
        call("extract", "photos", "--weights", "gone.pth", "--cut", "fc7"),
        3,
        "weights file 'gone.pth' does not exist; pass another --weights FILE",
    )


def test_no_weights_and_no_network(call, untouched, monkeypatch):
    def offline(*_args, **_options):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(untouched / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    checkpoints = untouched / "torch" / "hub" / "checkpoints"
    refused(
        call("extract", "photos", "--backbone", "vgg16", "--cut", "block4_pool"),
        3,
        f"no weights for 'vgg16': 'vgg16-397923af.pth' is not in '{checkpoints}' and could not be "
        "downloaded (<urlopen error no network>). Three ways out: (1) run once with network, or put "
        "'vgg16-397923af.pth' into that folder; (2) --weights FILE.safetensors|.pth; (3) --weights random. "
        "For a quick try: --backbone minivgg, whose weights are built in",
    )


@pytest.mark.parametrize(
    "command", [["extract", "photos", *PLAIN, "--cut", "pool5"], ["fit-head"], ["banks", "info"]]
)
def test_a_bank_of_another_format_version(call, place, bank, command):
    document = json.loads((bank / "bank.json").read_text())
    document["format_version"] = 99
    (bank / "bank.json").write_text(json.dumps(document))
    before = {path: path.read_bytes() for path in bank.rglob("*.h5")}
    done = call(*command)
    assert done.code == 2
    assert f"'{bank / 'bank.json'}'" in done.message
    assert "99" in done.message
    assert {path: path.read_bytes() for path in bank.rglob("*.h5")} == before


def test_a_name_that_is_not_utf8(call, place):
    odd = place / "photos" / "red" / "caf\udce9.png"
    (place / "photos" / "red" / "00.png").rename(odd)
    plain = call("extract", "photos", *PLAIN, "--cut", "pool5", "--json")
    assert (plain.code, plain.json["skipped"]) == (0, 36)  # the same bytes under another name
    bank = Bank.open(plain.json["bank"])
    assert b"red/caf\xe9.png" in bank.manifest.ids
    done = call("predict", "depth", odd)
    assert (done.code, done.out.split("  ")[1].split()[0]) == (0, "red")
    assert done.out.startswith(f"{place}/photos/red/caf\\xe9.png  ")
    (found,) = call("predict", "depth", odd, "--json").json["predictions"]
    assert Path(found["path"]) == odd


@pytest.mark.slow
def test_a_class_and_a_folder_that_are_not_utf8(call, place):
    (place / "photos" / "red").rename(place / "photos" / "r\udce9d")
    (place / "photos").rename(place / "ph\udcf6tos")
    made = call("extract", place / "ph\udcf6tos", *PLAIN, "--cut", "pool5", "--cache-dir", place / "c\udce9")
    assert made.code == 0
    fitted = call(
        *("fit-head", "-n", 4, "--repeats", 1, "--max-epochs", 8, "--cache-dir", place / "c\udce9", "--json")
    )
    assert fitted.code == 0
    assert open_run(fitted.json["run"]).classes == ("blue", "green", "r\udce9d")
    for command in (["banks", "ls"], ["banks", "info"], ["banks", "verify"], ["plot", "confusion"]):
        assert call(*command, "--cache-dir", place / "c\udce9").code == 0
        assert call(*command, "--cache-dir", place / "c\udce9", "--json").json


@pytest.mark.slow
def test_a_cache_that_cannot_be_written(call, place):
    (place / "file").write_text("in the way")  # fails for root too, which a mode does not
    done = call("extract", "photos", *PLAIN, "--cut", "fc7", "--cache-dir", "file/cache")
    assert done.code == 2
    said = done.err.splitlines()[-1]  # after the plan, which needs no place to write to
    assert said.startswith(f"featbank: cannot write '{place}/file/cache/banks/photos/minivgg-")
    assert said.endswith(
        " (Not a directory): a file stands where a folder is needed; choose another place with --cache-dir"
    )


def test_runs_that_cannot_be_written(call, place):
    shutil.rmtree(place / "cache" / "runs")
    (place / "cache" / "runs").write_text("in the way")
    done = call("fit-head", "-c", "pool5", "-n", 2, "--repeats", 1, "--max-epochs", 3)
    assert done.code == 2
    assert done.message.startswith(f"cannot write '{place}/cache/runs' (")


def test_no_bank_yet(call, place):
    refused(
        call("fit-head", "--cache-dir", "new"),
        3,
        f"no bank in '{place / 'new' / 'banks'}'; `featbank extract --cut block3_pool` makes one (of the "
        "handwritten digits inside scikit-learn), --cache-dir looks elsewhere",
    )
    assert not (place / "new").exists()


@pytest.mark.parametrize("command", [["plot", "curve"], ["predict", "last", "photos"]])
def test_no_run_yet(call, place, command):
    refused(
        call(*command, "--cache-dir", "new"),
        3,
        f"no run in '{place / 'new' / 'runs'}'; make one with featbank fit-head",
    )
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is damaged: Expecting property name enclosed in double quotes: line 1 column 2 (char 1); "),
        ("[]", "is damaged: it must be a table, got []; "),
        ("{}", "is damaged: it lacks 'format'; it lacks 'name'; "),
        ("\x00\xff", "is damaged: "),
    ],
)
@pytest.mark.parametrize("command", [["plot", "curve", "depth"], ["predict", "depth", "photos"]])
def test_a_damaged_run(call, place, command, content, said):
    (run,) = (place / "cache" / "runs").glob("*-depth")
    (run / "run.json").write_bytes(content.encode("latin-1"))
    done = call(*command)
    assert done.code == 2
    assert done.message.startswith(f"'{run / 'run.json'}' {said}")
    assert done.message.endswith("run the command again")
