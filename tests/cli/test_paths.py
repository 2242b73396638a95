"""Paths that users give: ``~`` is the home in all of them, and what no file can be called is one line."""

from __future__ import annotations

import inspect
import shutil
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import featbank
from featbank._cache import user_path
from featbank.banks import pack, verify_bank
from featbank.cli.app import app
from featbank.datasets import list_images, read_image_file
from featbank.datasets.derived import is_tiny_imagenet
from featbank.errors import FeatbankError
from featbank.pipeline import load_study
from featbank.runs import describe_run

#: What a command cannot do without.
NEEDED = {
    "extract": ["photos", "-b", "minivgg", "-c", "fc7", "--dry-run"],
    "plot": ["curve"],
    "predict": ["last", "photos/red/00.png"],
    "banks info": ["photos"],
    "banks pack": ["photos", "x.h5"],
    "banks unpack": ["x.h5"],
    "banks import": ["x.h5"],
    "banks rm": ["nothing-of-that-name"],
    "runs rm": ["nothing-of-that-name"],
    "cuts": ["minivgg"],
    "bench": ["photos", "-b", "minivgg", "-c", "fc7", "--limit", "8", "--repeats", "1"],
    "train": ["photos", "--network", "own_net", "--epochs", "1", "--split", "6,3,3"],
    "run": ["mini_digits", "--dry-run"],
    "demo": [],
}
BAD = {
    "a long name": "x" * 300,
    "a long path": "a/" * 2500,
    "a zero byte": "a\0b",
    "half a character": "a\ud800b",
}
ONE = ("-b", "minivgg", "-c", "block5_pool", "--dry-run")
FIT = ("-c", "block5_pool", "--head", "ncm", "-n", 1, "--repeats", 1)
#: Options that these commands have no use for; `doctor` says what is wrong with a cache, and goes on.
UNUSED = {("doctor", "--cache-dir"), ("run", "--test-data")} | {
    *(("banks verify", f"--{one}") for one in ("data", "data-root", "weights"))
}
#: Options whose text is no path and may be anything; `--device` is torch's affair.
FREE = ("--name", "--device", "--title")


def commands(
    group: typer.Typer = app, before: tuple[str, ...] = ()
) -> Iterator[tuple[str, inspect.Signature]]:
    for one in group.registered_commands:
        hints = typing.get_type_hints(one.callback, include_extras=True)
        yield " ".join([*before, one.name or one.callback.__name__]), hints
    for one in group.registered_groups:
        yield from commands(one.typer_instance, (*before, one.name))


def texts() -> Iterator[tuple[str, str]]:
    """Every argument (by its place) and option of every command that takes free text."""
    for command, hints in commands():
        place = 0
        for name, hint in hints.items():
            if typing.get_origin(hint) is not typing.Annotated:
                continue
            kind, info = typing.get_args(hint)[:2]
            is_argument = isinstance(info, typer.models.ArgumentInfo)
            if "str" in str(kind):
                declared = [one for one in info.param_decls or () if one.startswith("--")]
                yield command, str(place) if is_argument else (declared or [f"--{name.replace('_', '-')}"])[0]
            place += is_argument


@pytest.mark.slow
@pytest.mark.parametrize(("command", "option"), [one for one in texts() if one[1] not in FREE])
def test_what_no_file_can_be_called_is_one_line(call, place, command, option):
    for what, text in BAD.items():
        needed = list(NEEDED.get(command, []))
        if option.startswith("--"):
            arguments = [*needed, option, text]
        else:
            arguments = [*needed[: int(option)], text, *needed[int(option) + 1 :]]
        done = call(*command.split(), *arguments)
        assert done.code in (2, 3) or (command, option) in UNUSED, (what, done)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x" * 300, "a\udcffb", "a/b"])
def test_any_name_of_a_run_will_do(call, place, name):
    done = call(
        "fit-head", "-c", "block5_pool", "--head", "ncm", "-n", 1, "--repeats", 1, "--name", name, "--json"
    )
    assert done.code == 0, done.err


@pytest.fixture
def home(place, bank, tmp_path_factory, monkeypatch):
    """A home beside the working directory, with all that a command may be pointed at."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("photos", "cache"):
        shutil.copytree(place / name, home / name)
    shutil.rmtree(place / "photos")
    (home / "bank").symlink_to(home / "cache" / "banks" / "photos" / bank.name)
    (home / "run").symlink_to(next((home / "cache" / "runs").glob("*depth")))
    (home / "list.csv").write_text(
        "path,label\n"
        + "".join(f"~/photos/{y}/{n:02d}.png,{y}\n" for y in ("red", "blue") for n in range(12))
    )
    weights = Path(inspect.getfile(featbank)).parent / "backbones" / "pretrained"
    shutil.copy(next(weights.glob("*.safetensors")), home / "w.safetensors")
    (home / "study.toml").write_text(
        (Path(__file__).parents[2] / "pipelines" / "mini_digits.toml").read_text()
    )
    yield home
    assert not (place / "~").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("extract", "~/photos", *ONE),
        ("extract", "~/list.csv", *ONE),
        ("extract", "digits", *ONE, "--limit", 40, "--weights=~/w.safetensors"),
        ("extract", "digits", *ONE, "--limit", 40, "--cache-dir=~/new"),
        ("fit-head", "~/bank", *FIT),
        ("fit-head", "--cache-dir=~/cache", *FIT),
        ("plot", "curve", "~/run", "--output", "~/curve.svg"),
        ("compare", "~/run"),
        ("predict", "~/run", "~/photos/red/00.png"),
        ("report", "~/run", "--out", "~/report.html", "--data", "~/photos"),
        ("banks", "ls", "--cache-dir=~/cache"),
        ("banks", "info", "~/bank"),
        ("banks", "verify", "~/bank"),
        ("banks", "verify", "~/bank", "--sources", "--data", "~/photos"),
        ("banks", "pack", "~/bank", "~/packed.h5"),
        ("runs", "ls", "~/bank"),
        ("runs", "info", "~/run"),
        ("show", "filters", "--out", "~/filters.png"),
        ("show", "activations", "~/photos/red/00.png", "-c", "block1_pool", "--out", "~/activations.png"),
        ("show", "mistakes", "~/run", "--data", "~/photos"),
        ("run", "~/study.toml", "--dry-run", "--limit", 60),
    ],
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_a_tilde_is_the_home_in_every_path(call, home, arguments):
    done = call(*arguments)
    assert done.code == 0, done


#: Each public function that takes a path, and something in the home for it to read; "" where it writes.
PUBLIC = {
    "open_dataset": (featbank.open_dataset, "photos"),
    "open_dataset of a CSV": (featbank.open_dataset, "list.csv"),
    "load_backbone": (lambda path: featbank.load_backbone("minivgg", weights=path), "w.safetensors"),
    "Bank.open": (featbank.Bank.open, "bank"),
    "open_bank": (featbank.open_bank, "bank"),
    "open_bank in a cache": (lambda path: featbank.open_bank(cache_dir=path), "cache"),
    "BankStore": (lambda path: featbank.BankStore(path).newest(), "cache/banks"),
    "verify_bank": (verify_bank, "bank"),
    "repair_bank": (featbank.repair_bank, "bank"),
    "Run.open": (featbank.Run.open, "run"),
    "open_run": (featbank.open_run, "run"),
    "open_run in a cache": (lambda path: featbank.open_run(cache_dir=path), "cache"),
    "describe_run": (describe_run, "run"),
    "list_images": (list_images, "photos"),
    "read_image_file": (read_image_file, "photos/red/00.png"),
    "is_tiny_imagenet": (is_tiny_imagenet, "photos"),
    "load_study": (load_study, "study.toml"),
    "pack": (lambda path: pack(featbank.open_bank("cache/banks"), path), ""),
    "import_bank": (
        lambda path: featbank.import_bank(path, featbank.BankStore(f"there{type(path)}")),
        "bank",
    ),
    "cache_folder": (featbank.cache_folder, "cache"),
}


@pytest.mark.parametrize(("function", "target"), PUBLIC.values(), ids=PUBLIC)
def test_paths_of_public_functions(home, function, target):
    if target:
        function(f"~/{target}")
        function(Path("~") / target)
    for what, text in BAD.items():
        with pytest.raises(FeatbankError) as caught:
            function(text)
        assert "\n" not in str(caught.value), what
        assert len(str(caught.value)) < 600, what


def test_the_environment_may_have_a_tilde_too(home, call, monkeypatch):
    monkeypatch.setenv("FEATBANK_CACHE", "~/cache")
    assert featbank.cache_folder() == home / "cache"
    assert "photos" in call("banks", "ls").out
    monkeypatch.setenv("FEATBANK_DATA", "~")
    assert "is not at" not in call("run", "mini_digits", "--dry-run", "--limit", 60).err


def test_a_folder_that_is_called_tilde_is_had_with_a_dot(call, place, monkeypatch):
    monkeypatch.setenv("HOME", str(place / "nowhere"))
    shutil.copytree(place / "photos", place / "~" / "photos")
    assert call("extract", "./~/photos", *ONE).code == 0
    assert call("extract", "~/photos", *ONE).code == 3
    assert user_path("~nobody-of-that-name/x") == place / "~nobody-of-that-name" / "x"
    assert user_path(user_path("./~/photos")) == place / "~" / "photos"
