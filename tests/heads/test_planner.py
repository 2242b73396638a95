from __future__ import annotations

import pytest

from featbank.heads._planner import STACK_BYTES, plan_stacks


@pytest.mark.parametrize("n_heads", [1, 7, 40])
@pytest.mark.parametrize("widths", [(127, 32), (1280, 32), (4096, 256), (895, 1000, 32)])
def test_every_head_is_in_one_stack(n_heads: int, widths: tuple[int, ...]) -> None:
    stacks = plan_stacks(n_heads, widths, "cpu")
    assert [i for stack in stacks for i in stack] == list(range(n_heads))


@pytest.mark.parametrize("widths", [(1280, 256), (4096, 256), (25088, 32), (895, 1000, 32)])
def test_wide_heads_go_alone(widths: tuple[int, ...]) -> None:
    assert all(len(stack) == 1 for stack in plan_stacks(8, widths, "cpu"))


def test_a_stack_stays_in_the_cache() -> None:
    sizes = [len(stack) for stack in plan_stacks(100, (1280, 32), "cpu")]
    assert 10 <= max(sizes) <= STACK_BYTES["cpu"] // (1280 * 32 * 4)


def test_a_gpu_takes_more() -> None:
    assert plan_stacks(40, (4096, 256), "cuda") == [range(0, 40)]


def test_as_many_stacks_as_keep_all_workers_busy_and_no_head_twice() -> None:
    for n_heads in (1, 2, 7, 40, 41):
        stacks = plan_stacks(n_heads, (1280, 32), "cpu", n_workers=4)
        assert [head for stack in stacks for head in stack] == list(range(n_heads))
        assert len(stacks) >= min(n_heads, 4)
        sizes = [len(stack) for stack in stacks]
        assert max(sizes) - min(sizes) <= 1
