"""What all commands share: help, version, spelling, and how they end."""

from __future__ import annotations

import pytest
import typer

import featbank
from featbank.cli.app import app
from featbank.errors import RunError
from featbank.heads import catalogue as heads
from featbank.metrics import catalogue as metrics
from featbank.plots import FIGURES

COMMANDS = [
    ["extract"],
    ["fit-head"],
    ["plot"],
    ["predict"],
    ["export"],
    ["banks", "ls"],
    ["banks", "info"],
    ["banks", "verify"],
    ["banks", "pack"],
    ["banks", "export"],
    ["banks", "unpack"],
    ["banks", "rm"],
    ["runs", "ls"],
    ["runs", "info"],
    ["runs", "export"],
    ["runs", "rm"],
    ["backbones"],
    ["cuts"],
    ["demo"],
    ["bench"],
    ["train"],
    ["version"],
]


def test_help_names_every_command(call):
    done = call("--help")
    assert (done.code, done.err) == (0, "")
    for name, *_ in COMMANDS:
        assert f"│ {name} " in done.out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_json(call, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = call(*command, "-h")
    assert (done.code, done.err) == (0, "")
    assert f"Usage: featbank {' '.join(command)} " in done.out
    assert "--json" in done.out


def test_version(call):
    assert call("version").out == f"{featbank.__version__}\n"
    assert call("version", "--json").json == {"version": featbank.__version__}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["extrct"], "No such command 'extrct'. Did you mean"),
        (["extract", "--cutt", "fc7"], "No such option: --cutt"),
        (["fit-head", "--repeats", "two"], "Invalid value for '--repeats'"),
        (["predict"], "Missing argument"),
    ],
)
def test_a_wrong_command_line_ends_with_2(call, arguments, said):
    done = call(*arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


@pytest.mark.slow
def test_underscores_do_as_well_as_dashes(call, place):
    done = call(
        "fit_head", "-c", "pool5", "--samples_per_class=2", "--repeats", 1, "--max_epochs", 2, "--json"
    )
    assert done.code == 0
    assert [point["n_per_class"] for point in done.json["curve"]] == [2]


def test_an_interrupted_command_ends_with_130(call, place, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("featbank.fitting.fit_heads", interrupt)
    done = call("fit-head")
    assert done.code == 130
    assert done.message == ("interrupted; whole shards and finished fits are kept, repeat the command")


def test_a_bug_keeps_its_traceback(call, place, monkeypatch):
    def fail(*_args, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr("featbank.fitting.fit_heads", fail)
    with pytest.raises(ZeroDivisionError):
        call("fit-head")


def test_an_error_is_one_line_whatever_it_says(call, place, monkeypatch):
    def fail(*_args, **_options):
        raise RunError("two\nlines\x1b[31m")

    monkeypatch.setattr("featbank.fitting.fit_heads", fail)
    done = call("fit-head")
    assert (done.code, done.err) == (2, "featbank: two\\nlines\\x1b[31m\n")


def test_an_error_is_one_line_whatever_a_name_holds(call, place):
    done = call("fit-head", "a\nb\x1b[31m\udce9")
    assert done.code == 3
    assert done.message.startswith(r"no bank 'a\\nb\\x1b[31m\\xe9' in ")


def test_help_says_the_defaults_that_no_signature_shows(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert "(default: $FEATBANK_CACHE, else ./cache)" in call("banks", "ls", "-h").out
    assert "(default: softmax)" in call("fit-head", "-h").out


@pytest.mark.parametrize(
    ("command", "names"),
    [("fit-head", heads.names), ("fit-head", metrics.names), ("plot", lambda: [*FIGURES])],
)
def test_help_names_what_there_is(call, monkeypatch, command, names):
    monkeypatch.setenv("COLUMNS", "300")
    said = call(command, "-h").out
    assert f"{', '.join(names())}" in said
    assert "{" not in said.partition("Options")[2]


def test_what_stands_in_brackets_is_not_taken_for_markup(call):
    said = " ".join(call("run", "--help").out.split())
    assert "A study is a TOML file: [data] source, split; [backbone] name;" in said
    assert "[[experiment]] name" in said


def test_a_shell_is_told_names(tmp_path, monkeypatch):
    (tmp_path / "cache" / "runs" / "20261128-120000-mine").mkdir(parents=True)
    (tmp_path / "cache" / "runs" / "20261128-120000-mine" / "run.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATBANK_CACHE", raising=False)
    command = typer.main.get_command(app)

    def told(name, parameter, incomplete, **given):
        one = command.commands[name]
        context = one.context_class(one, info_name=name)
        context.params.update(given)
        (asked,) = (part for part in one.params if part.name == parameter)
        return [item.value for item in asked.shell_complete(context, incomplete)]

    assert "minivgg" in told("extract", "backbone", "mini")
    assert told("cuts", "backbone", "resnet18") == ["resnet18"]
    assert told("fit-head", "head", "log") == ["logreg"]
    assert told("extract", "cut", "block5", backbone="vgg16") == ["block5_pool"]
    assert told("extract", "cut", "", backbone="no_such") == []
    assert told("fit-head", "cut", "", bank=None) == []  # there is no bank
    assert "mini_digits" in told("run", "study", "mini_")
    for name in ("report", "plot", "predict"):
        assert told(name, "run", "") == ["last", "20261128-120000-mine"]
