"""What is done for a card, with a stand-in for it: that memory is used again, in order, and what is stored.

How a card really behaves only a card can show.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from featbank.backbones import load_backbone
from featbank.banks.shards import ShardPlan
from featbank.errors import FeatureOverflowError
from featbank.extraction.forward import Forward
from featbank.extraction.storing import CutOverflowError, ShardStore
from featbank.manifest import RowStatus

CPU = torch.device("cpu")


class Event:
    """Notes what is waited for."""

    waits: ClassVar[list[int]] = []
    made = 0

    def __init__(self) -> None:
        self.number, Event.made = Event.made, Event.made + 1

    def record(self, stream: object = None) -> None:
        pass

    def synchronize(self) -> None:
        Event.waits.append(self.number)


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Let the CPU stand in for a card; returns what was page-locked."""
    found: list[torch.Tensor] = []
    empty = torch.empty

    def plain(*shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        tensor = empty(*shape, **options)
        if pin_memory:
            found.append(tensor)
        return tensor

    Event.waits, Event.made = [], 0
    monkeypatch.setattr(torch, "empty", plain)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(wait_stream=lambda other: None))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    return found


def test_images_go_to_a_card_through_memory_that_is_used_again(locked: list[torch.Tensor]) -> None:
    backbone = load_backbone("minivgg", weights="random")
    forward = Forward(backbone, device=CPU, precision="float32", batch_size=4)
    random = np.random.default_rng(0)
    for number, n in enumerate((4, 3, 4, 1, 4)):
        images = random.integers(1, 255, (n, 32, 32, 3), dtype=np.uint8)
        sent = forward._sent(torch.from_numpy(images))
        np.testing.assert_array_equal(sent[:n].numpy(), images)
        assert not sent[n:].any()
        assert sent.data_ptr() == locked[number % 2].data_ptr()
        assert Event.waits == list(range(2))[: max(0, number - 1)] + [0] * (number == 4)  # of the copy before
    assert len(locked) == 2


class Writer:
    """Takes shards, and notes them."""

    shape, dtype = (2,), np.dtype(np.float16)

    def __init__(self) -> None:
        self.written: dict[int, Any] = {}

    def write(self, plan: ShardPlan, features: Any, statuses: Any) -> None:
        self.written[plan.number] = features.copy(), statuses.copy()


def test_features_come_back_through_memory_that_is_used_again(locked: list[torch.Tensor]) -> None:
    plans = [ShardPlan(number, 4 * number, 4 * number + 4) for number in range(20)]
    writer = Writer()
    writers: Any = {"fc7": writer}
    values = torch.arange(160.0).reshape(80, 2)
    status = np.full(2, RowStatus.OK, np.uint8)
    waited = 0
    with ShardStore(writers, {"fc7": plans}, on_card=True) as store:
        for start in range(0, 80, 2):
            slots = store.reserve(start, status, ["fc7"])
            settle = store.fill(slots, {"fc7": values[start : start + 2]}, lambda at: b"")
            assert len(Event.waits) == waited
            settle()
            waited += 1
            assert len(Event.waits) == waited
            store.add(slots)
    assert sorted(writer.written) == list(range(20))
    for number, (features, statuses) in writer.written.items():
        np.testing.assert_array_equal(
            features, values[4 * number : 4 * number + 4].numpy().astype(np.float16)
        )
        assert (statuses == RowStatus.OK).all()
    assert len([one for one in locked if one.dtype == torch.float16]) < 20


@pytest.mark.parametrize(
    ("value", "error"), [(70_000.0, CutOverflowError), (float("nan"), FeatureOverflowError)]
)
def test_an_overflow_on_a_card_is_told_when_the_copy_is_done(
    locked: list[torch.Tensor], value: float, error: type[Exception]
) -> None:
    writers: Any = {"fc7": Writer()}
    status = np.full(4, RowStatus.OK, np.uint8)
    features = torch.zeros(4, 2)
    features[2, 1] = value
    with ShardStore(writers, {"fc7": [ShardPlan(0, 0, 4)]}, on_card=True) as store:
        slots = store.reserve(0, status, ["fc7"])
        settle = store.fill(slots, {"fc7": features}, lambda at: b"image %d" % at)
        with pytest.raises(
            error, match=r"^'fc7' of 'image 2' reaches (7e\+04|nan), float16 ends at 6.55e\+04"
        ):
            settle()
    assert not writers["fc7"].written
