"""Names, aliases, and what a typo is told."""

from __future__ import annotations

import pytest

from featbank._registry import Registry, nearest
from featbank.errors import InvalidInputError, UnknownNameError


@pytest.fixture
def registry():
    made = Registry[int]("cut")
    made.register("block1_pool", 1, aliases=("pool1", "conv-1"))
    made.register("fc7", 7, aliases=("fc2",))
    return made


def test_names_and_aliases(registry):
    assert registry.names() == ["block1_pool", "fc7"] == list(registry)
    assert registry.aliases("block1_pool") == ["pool1", "conv-1"]
    assert registry.get("pool1") == registry.get("block1_pool") == 1
    assert registry.canonical("fc2") == registry.canonical("fc7") == "fc7"
    assert "fc2" in registry
    assert "fc9" not in registry


@pytest.mark.parametrize(
    ("name", "aliases"), [("fc7", ()), ("fc2", ()), ("new", ("fc7",)), ("new", ("pool1",))]
)
def test_a_name_is_taken_once(registry, name, aliases):
    with pytest.raises(
        InvalidInputError, match=r"^cut '(fc7|fc2|pool1)' is registered already; choose another name$"
    ):
        registry.register(name, 3, aliases=aliases)
    assert "new" not in registry


def test_a_name_is_not_its_own_alias(registry):
    for aliases in (("x",), ("y", "y")):
        with pytest.raises(InvalidInputError, match="registered already"):
            registry.register("x", 3, aliases=aliases)
    assert "x" not in registry


def test_unknown_names_are_told_the_nearest(registry):
    with pytest.raises(UnknownNameError) as caught:
        registry.get("fc6")
    assert str(caught.value) == "unknown cut 'fc6'; known: 'fc7', 'block1_pool'"
    with pytest.raises(UnknownNameError) as close_to_an_alias:
        registry.get("poool1")
    assert str(close_to_an_alias.value).startswith("unknown cut 'poool1'; known: 'pool1'")


def test_nearest_counts_the_rest():
    assert nearest("x", []) == "none"
    assert nearest("b", ["a", "b"]) == "'b', 'a'"
    assert (
        nearest("zz", [f"name{i}" for i in range(9)])
        == "'name0', 'name1', 'name2', 'name3', 'name4' and 4 more"
    )
    assert nearest("name8", [f"name{i}" for i in range(9)], limit=1) == "'name8' and 8 more"
    assert nearest("a", ["a", "a", "b"], limit=1) == "'a' and 1 more"


def test_a_place_is_imported_when_it_is_asked_for():
    registry = Registry("function")
    registry.register_place("log2", "math:log2")
    registry.register_place("gone", "no_such_module:x")
    assert registry.names() == ["log2", "gone"]
    assert registry.get("log2")(8) == 3
    with pytest.raises(ModuleNotFoundError):
        registry.get("gone")
    with pytest.raises(InvalidInputError, match="registered already"):
        registry.register("log2", len)
    with pytest.raises(InvalidInputError, match="registered already"):
        registry.register_place("log2", "math:log2")
