from __future__ import annotations

import numpy as np
import pytest
import torch

from featbank.heads._recipe import Job, Recipe
from featbank.heads._trainer import EvaluationSet, _Stack, train_stack


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
    monkeypatch.setattr("featbank.heads._trainer.EVALUATION_BYTES", 1)  # 32 rows at a time
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
        self: _Stack, inputs: torch.Tensor, targets: torch.Tensor, masks: torch.Tensor | None
    ) -> torch.Tensor:
        seen.append(inputs[..., 0].clone())
        return step(self, inputs, targets, masks)

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
