from __future__ import annotations

import numpy as np
import pytest
import torch

from featbank.heads._training import (
    STACK_BYTES,
    EvaluationSet,
    Job,
    Recipe,
    _Stack,
    annealed,
    plan_stacks,
    train_stack,
)


def recipe(hidden_units: int = 0, dropout: float = 0.0) -> Recipe:
    return Recipe(hidden_units, "sgd", "constant", 10.0, "epoch", 3, 10, 1e-3, "loss", 8, dropout, "best")


def jobs(n: int) -> list[Job]:
    rows = np.arange(16)
    return [Job(rows, rows % 3, lr=0.1 * (s + 1), alpha=0.0, seed=s) for s in range(n)]


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("hidden_units", [0, 7])
def test_gradients_are_those_of_automatic_differentiation(hidden_units: int, dropout: bool) -> None:
    torch.manual_seed(0)
    widths = [5, hidden_units, 3] if hidden_units else [5, 3]
    stack = _Stack(recipe(hidden_units), jobs(2), widths, torch.device("cpu"))
    for weight in stack.weights:
        weight.copy_(torch.randn_like(weight))
    leaves = [weight.clone().requires_grad_() for weight in stack.weights]
    inputs, targets = torch.randn(2, 8, 5), torch.randint(0, 3, (2, 8, 1))
    masks = torch.bernoulli(torch.full((2, 8, hidden_units or 5), 0.5)) * 2 if dropout else None
    values = inputs
    if hidden_units:
        values = torch.relu(values @ leaves[0] + leaves[1])
    logits = (values if masks is None else values * masks) @ leaves[-2] + leaves[-1]
    picked = torch.log_softmax(logits, dim=2).gather(2, targets)
    (-picked.mean(dim=1).sum()).backward()
    seen = stack.step(inputs, targets, masks)
    for gradient, leaf in zip(stack.gradients, leaves, strict=True):
        torch.testing.assert_close(gradient, leaf.grad)
    torch.testing.assert_close(seen.abs(), picked[..., 0].exp())
    assert torch.equal(seen > 0, logits.argmax(dim=2) == targets[..., 0])


def test_one_step_goes_down_the_gradient_by_the_rate_of_each_head() -> None:
    stack = _Stack(recipe(), jobs(3), [5, 3], torch.device("cpu"))
    stack.scale_rate(0.5)
    stack.step(torch.randn(3, 8, 5), torch.randint(0, 3, (3, 8, 1)), None)
    for s in range(3):
        torch.testing.assert_close(stack.weights[0][s], -0.05 * (s + 1) * stack.gradients[0][s])


def test_evaluation_is_cross_entropy_and_accuracy_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featbank.heads._training.EVALUATION_BYTES", 1)  # 32 rows at a time
    stack = _Stack(recipe(4), jobs(2), [5, 4, 3], torch.device("cpu"))
    for weight in stack.weights:
        weight.copy_(torch.randn_like(weight))
    Z, targets = torch.randn(75, 5), torch.randint(0, 3, (75,))
    losses, hits = stack.evaluate(EvaluationSet("val", Z, targets))
    for s in range(2):
        first, bias, second, last = (weight[s] for weight in stack.weights)
        logits = torch.relu(Z @ first + bias) @ second + last
        assert losses[s] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, targets)), rel=1e-5)
        assert hits[s] == pytest.approx(float((logits.argmax(dim=1) == targets).float().mean()))


def test_every_row_is_seen_once_an_epoch_the_last_batch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    step = _Stack.step

    def watched(
        self: _Stack, inputs: torch.Tensor, targets: torch.Tensor, masks: torch.Tensor | None, *rest: None
    ) -> torch.Tensor:
        seen.append(inputs[..., 0].clone())
        return step(self, inputs, targets, masks, *rest)

    monkeypatch.setattr(_Stack, "step", watched)
    Z = torch.arange(40, dtype=torch.float32)[:, None].repeat(1, 5) / 40
    rows = [np.arange(0, 38, 2), np.arange(1, 39, 2)]  # 19 rows: batches of 8, 8 and 3
    train_stack(recipe(), Z, [Job(r, r % 3, 0.1, 0.0, seed) for seed, r in enumerate(rows)], 3, [])
    assert [batch.shape[1] for batch in seen] == [8, 8, 3] * 3
    orders = []
    for epoch in range(3):
        numbers = (torch.cat(seen[3 * epoch : 3 * epoch + 3], dim=1) * 40).round().int().numpy()
        for s in range(2):
            assert sorted(numbers[s]) == rows[s].tolist()
        orders.append(numbers[0].tolist())
    assert orders[0] != orders[1] != orders[2]


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


@pytest.mark.parametrize(
    ("lr_schedule", "expected"),
    [
        ("inverse-time", [1.0, 0.8, 0.5, 0.2]),
        ("cosine", [1.0, 0.982963, 0.75, 0.0]),
        ("step", [1.0, 1.0, 0.1, 1e-4]),
        ("constant", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_rates(lr_schedule: str, expected: list[float]) -> None:
    got = [annealed(lr_schedule, t, lr_schedule_epochs=20.0, max_epochs=60) for t in (0, 5, 20, 80)]
    assert got == pytest.approx(expected, abs=1e-6)
