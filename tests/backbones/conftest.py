"""State dicts to write to files."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from featbank.backbones import get_spec
from featbank.backbones.families import build_on_meta
from featbank.backbones.minivgg import build_minivgg

State = dict[str, Tensor]


@pytest.fixture(name="state")
def fixture_state() -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return dict(build_minivgg().state_dict())


@pytest.fixture(name="state_of")
def fixture_state_of() -> Callable[..., State]:
    """Give a function that makes a state dict of the right shapes, whose tensors can be told apart."""

    def state_of(name: str, n_classes: int = 1000) -> State:
        shapes = build_on_meta(get_spec(name), n_classes=n_classes).state_dict()
        return {
            one: torch.full(shape.shape, float(index), dtype=shape.dtype)
            for index, (one, shape) in enumerate(shapes.items())
        }

    return state_of
