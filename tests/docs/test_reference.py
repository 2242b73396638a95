"""The reference has a page for every public name, every command and option, and every key of a study."""

from __future__ import annotations

import dataclasses
import doctest
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import featbank
from featbank import pipeline

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def reference() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("_reference", DOCS / "_reference.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["_reference"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["_reference"]


@pytest.fixture(scope="module")
def pages(reference: ModuleType) -> dict[str, str]:
    return reference.pages()


def test_every_public_name_has_a_page_and_says_what_it_is(
    reference: ModuleType, pages: dict[str, str]
) -> None:
    public = {f"featbank.{name}" for name in featbank.__all__ if name != "__version__"}
    for room in reference.rooms():
        module = importlib.import_module(f"featbank.{room}")
        for name in getattr(module, "__all__", ()):
            here, top = f"featbank.{room}.{name}", f"featbank.{name}"
            same = top in public and getattr(featbank, name) is getattr(module, name)
            public.add(top if same else here)
    assert {name for name in public if f"{name}.rst" not in pages} == set()
    assert {name for name in public if not reference.summary(name)} == set()
    rooms = [text for name, text in pages.items() if f"py:module:: {name.removesuffix('.rst')}" in text]
    listed = "\n".join(rooms)
    assert {name for name in public if f"`~{name}`" not in listed} == set()


def has_example(docstring: str | None) -> bool:
    """Say whether an example is run; of one that is skipped nobody knows whether it would."""
    examples = doctest.DocTestParser().get_examples(docstring or "")
    return any(doctest.SKIP not in one.options for one in examples)


def test_every_public_class_and_function_has_an_example_that_runs(reference: ModuleType) -> None:
    public = {name: reference.value_of(name) for some in reference.names().values() for name in some}
    code = {name: one for name, one in public.items() if inspect.isclass(one) or inspect.isroutine(one)}
    assert {name for name, one in code.items() if not has_example(one.__doc__)} == set()
    assert {name for name in public.keys() - code.keys() if not reference.comment_of(name)} == set()


def test_an_example_that_is_skipped_is_none() -> None:
    assert has_example("Say so.\n\n>>> 1 + 1\n2\n")
    assert not has_example("Say so.\n\n>>> 1 + 1  # doctest: +SKIP\n2\n")
    assert not has_example("Say so.")


def test_every_command_and_option_is_explained(reference: ModuleType, pages: dict[str, str]) -> None:
    n_options = 0
    for words, command in reference.commands():
        page = pages[f"{reference.slug(words)}.rst"]
        assert inspect.cleandoc(command.help).split()[0] in page
        for one in reference.parameters(command):
            assert one.help, f"{words} {one.name}"
            for flag in one.opts if one.param_type_name != "argument" else ():
                assert flag in page, f"{words} {flag}"
                n_options += 1
        is_leaf = not getattr(command, "commands", None) and words != "version"
        assert not is_leaf or "$ featbank " in page, f"{words} has no example"
    assert n_options > 200
    assert "--hidden-units" in pages["command-fit-head.rst"]  # made from the tables of the heads


def test_every_key_of_a_study_is_explained(reference: ModuleType) -> None:
    keys = reference.study_keys()
    homes = {
        "[data]": pipeline.Data,
        "[test_data]": pipeline.TestData,
        "[backbone]": pipeline.BackboneChoice,
        "[[training]]": pipeline.Training,
        "[[published.figures]]": pipeline.Figure,
        "[[published.claims]]": pipeline.Claim,
        "[sweep]": pipeline.Sweep,
    }
    for table, cls in homes.items():
        wanted = {one.name for one in dataclasses.fields(cls)} - {
            "head_params",
            "data",
        }  # tables of their own
        told = {key for key, _, _ in keys[table]}
        assert wanted - told == set(), table
        assert all(example for _, example, _ in keys[table]), table
