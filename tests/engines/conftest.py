"""One cluster of three simulated nodes for all tests that need one."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FAULTS = Path(__file__).parents[1] / "faults"


@pytest.fixture(scope="session")
def nodes() -> Iterator[Any]:
    """A cluster; tests leave it with one node at least."""
    spec = importlib.util.spec_from_file_location("nodes", FAULTS / "nodes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.Nodes()
    yield made
    made.shutdown()


@pytest.fixture
def three_nodes(nodes: Any) -> Any:
    """All three of them, also after a test that killed one."""
    while len(nodes.others) < 2:
        nodes.add_node()
    return nodes
