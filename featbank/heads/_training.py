"""Train a stack of heads as one program: stacked weights, one batched product for all of them.

All heads of a stack share a recipe, the number of training rows and the number of classes; each has its own
rows, learning rate, penalty, seed and early stop. Mini-batches are drawn by a generator of the head's own, so
a head sees the same rows in the same order in any company. How many heads go into one stack, and how many
stacks train at once, is decided here, too.

Gradients are written out by hand: for one or two layers that is shorter than what automatic differentiation
would record per step, and the products go straight into buffers that are used again.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from featbank.errors import InvalidInputError
from featbank.heads._head import CodeScore

__all__ = [
    "EvaluationSet",
    "Job",
    "ModuleStack",
    "Recipe",
    "TrainedHead",
    "annealed",
    "each_on_a_thread",
    "is_wide",
    "plan_stacks",
    "train_stack",
    "workers_for",
]

R = TypeVar("R")

#: Epochs after which a training loss must have moved, and by what part of where it began.
MOVE_EPOCHS = 3
LEAST_MOVE = 1e-4
#: A probability below this counts as this much, so that a confident mistake is a large loss, not an infinite
#: one.
LEAST_LIKELIHOOD = 1e-37
#: Working memory of an evaluation, in bytes.
EVALUATION_BYTES = 64 * 2**20
#: Rows that a network answers at once.
BODY_ROWS = 64
#: What "step" multiplies the rate by every `lr_schedule_epochs`.
STEP_FACTOR = 0.1
#: Bytes of stacked weights (four times that with gradients and moments) that stay in the cache. Measured on
#: two AVX-512 cores: 40 heads of 1,280 x 32 gain 1.9 times in stacks of 20 and 1.6 in one of 40.
STACK_BYTES = {"cpu": 3 * 2**20, "cuda": 512 * 2**20}
#: A head of this many bytes keeps the processor busy by itself: 1,280 x 256, 4,096 x 256 and 25,088 x 32 lose
#: 3 to 20 % in stacks.
WIDE_HEAD_BYTES = {"cpu": 768 * 2**10, "cuda": 64 * 2**20}
#: Multiply-adds of a step below which one thread trains as fast as two: on two free cores 8.0 s against 8.4 s
#: for 32 heads, and on two busy ones 33 s against more than 60 s, which threads spend waiting for each other.
THREADED_STEP = 200_000_000


@dataclass(frozen=True)
class Recipe:
    """Settings the heads of one stack share; `hidden_units` 0 means no hidden layer."""

    hidden_units: int
    solver: Literal["adam", "sgd"]
    lr_schedule: str
    lr_schedule_epochs: float
    lr_schedule_per: Literal["epoch", "step"]
    max_epochs: int
    patience: int
    tol: float
    monitor: Literal["accuracy", "loss", "metric"]
    batch_size: int
    dropout: float
    restore: Literal["best", "last"]
    #: In words; the numbers are those of each job. Empty where all rows count alike.
    class_weight: str = ""


@dataclass(frozen=True)
class Job:
    """One head of a stack: its rows in the shared matrix, their targets, and what is its own.

    With several views the matrix has a block of rows for each, and `rows` are those of the first.
    """

    rows: NDArray[np.int64]
    targets: NDArray[np.int64]
    lr: float
    alpha: float
    seed: int
    n_views: int = 1
    #: What the loss of a row of each class is multiplied by, shape (n_classes,).
    class_weights: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class TrainedHead:
    """One head after training: weights, then bias (1, width), layer by layer."""

    weights: list[NDArray[np.float32]]
    history: dict[str, NDArray[np.float64]]
    n_epochs: int
    best_epoch: int
    stop_reason: Literal["tolerance", "max_epochs", "not finite"]
    stuck: bool
    initial_loss: float


@dataclass(frozen=True)
class EvaluationSet:
    """Rows that are only looked at: `Z` (m, r) float32 and `targets` (m,) int64, on the device."""

    name: str
    Z: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True)
class _Group:
    """Weights, their gradients and moments, of heads with one rate and penalty: a list for each, by layer."""

    lr: float
    alpha: float
    parts: list[list[torch.Tensor]]
    #: How many steps each has taken, as torch's kernels want and count it.
    steps: list[torch.Tensor]


class _Stack:
    """Weights, gradients and optimiser of S heads; heads of one learning rate and penalty stand together."""

    def __init__(
        self, recipe: Recipe, jobs: Sequence[Job], widths: Sequence[int], device: torch.device
    ) -> None:
        self.recipe = recipe
        self.weights = [
            torch.zeros(len(jobs), *shape, device=device)
            for low, high in pairwise(widths)
            for shape in ((low, high), (1, high))
        ]
        self.minus_one = torch.full((1, 1, 1), -1.0, device=device)
        self._initialise(jobs, widths)
        self.moments = [
            [torch.zeros_like(weight) for weight in self.weights]
            for _ in range(1 if recipe.solver == "sgd" else 2)
        ]
        self.n_steps, self.factor = torch.zeros((), device=device), 1.0
        #: What the softmax layer takes; dropout is of these.
        self.width = widths[-2]
        self._attach([job.lr for job in jobs], [job.alpha for job in jobs])

    def _initialise(self, jobs: Sequence[Job], widths: Sequence[int]) -> None:
        # The softmax layer starts from zero, so every head starts as the same even guess. Above a hidden
        # layer, a random start costs accuracy on few samples: 0.84 against 0.89 at 4 images per class on
        # Caltech-101.
        for s, job in enumerate(jobs):
            random = np.random.default_rng([job.seed, 1])
            for layer, (low, high) in enumerate(pairwise(widths[:-1])):
                bound = math.sqrt(6.0 / low)
                start = random.uniform(-bound, bound, size=(low, high)).astype(np.float32)
                self.weights[2 * layer][s] = torch.from_numpy(start)

    def _attach(self, rates: list[float], alphas: list[float]) -> None:
        """Tell heads of one rate and penalty apart: each step updates those that stand together at once."""
        self.rates, self.alphas = rates, alphas
        self.gradients = [torch.zeros_like(weight) for weight in self.weights]
        self.groups = []
        for first, stop in _runs(list(zip(rates, alphas, strict=True))):
            for layers, alpha in ((slice(0, None, 2), alphas[first]), (slice(1, None, 2), 0.0)):  # biases
                parts = [
                    [whole[first:stop] for whole in wholes[layers]]
                    for wholes in (self.weights, self.gradients, *self.moments)
                ]
                self.groups.append(
                    _Group(rates[first], alpha, parts, [self.n_steps.clone() for _ in parts[0]])
                )

    def scale_rate(self, factor: float) -> None:
        self.factor = factor

    def work(self, batch_size: int) -> int:
        """Return about how many multiply-adds a step has."""
        return 3 * len(self.weights[0]) * batch_size * sum(weight[0].numel() for weight in self.weights)

    def keep(self, chosen: list[int]) -> None:
        """Drop all heads but `chosen` (in order); optimiser state goes with them."""
        index = torch.tensor(chosen, device=self.weights[0].device)
        self.weights = [weight[index] for weight in self.weights]
        self.moments = [[one[index] for one in moment] for moment in self.moments]
        self.n_steps = self.groups[0].steps[0]
        self._attach([self.rates[s] for s in chosen], [self.alphas[s] for s in chosen])

    def _update(self) -> None:
        """Let the gradients take effect, as torch's optimisers do, which import its compiler."""
        for group in self.groups:
            weights, gradients, first, *second = group.parts
            alike: dict[str, Any] = {
                "fused": True,
                "lr": group.lr * self.factor,
                "weight_decay": group.alpha,
                "maximize": False,
            }
            if self.recipe.solver == "sgd":
                sgd(weights, gradients, [*first], momentum=0.9, dampening=0.0, nesterov=False, **alike)
            else:
                decays: dict[str, Any] = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False}
                adam(weights, gradients, first, second[0], [], group.steps, **decays, **alike)

    def forward(self, inputs: torch.Tensor, masks: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Return the input of every layer and the logits; `inputs` is (S, b, r) or (b, r) for all heads."""
        last = len(self.weights) // 2 - 1
        values = [inputs]
        for layer in range(last + 1):
            if layer == last and masks is not None:
                values[-1] = values[-1] * masks
            weight, bias = self.weights[2 * layer], self.weights[2 * layer + 1]
            inputs = values[-1] if values[-1].ndim == 3 else values[-1].expand(len(weight), -1, -1)
            out = torch.baddbmm(bias, inputs, weight)  # (S, b, width)
            values.append(out.relu_() if layer < last else out)
        return values

    def step(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        masks: torch.Tensor | None,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Take one optimiser step on mini-batches `inputs` (S, b, r) with `targets`, `weights` (S, b, 1).

        Returns the probabilities of the targets (S, b), before the step, negative where another class was
        likelier.
        """
        values = self.forward(inputs, masks)
        slope = torch.softmax(values.pop(), dim=-1)
        seen = slope.gather(2, targets)
        seen = torch.where(slope.argmax(dim=2, keepdim=True) == targets, seen, -seen)[..., 0]
        # probabilities less indicators: the gradient of the cross-entropy with respect to the logits
        slope.scatter_add_(2, targets, self.minus_one.expand_as(targets))
        slope.div_(targets.shape[1])
        if weights is not None:
            slope.mul_(weights)
        for layer in reversed(range(len(values))):
            below = values[layer]
            torch.bmm(below.transpose(1, 2), slope, out=self.gradients[2 * layer])
            torch.sum(slope, dim=1, keepdim=True, out=self.gradients[2 * layer + 1])
            if layer:
                slope = torch.bmm(slope, self.weights[2 * layer].transpose(1, 2))
                if masks is not None and layer == len(values) - 1:
                    slope.mul_(masks)
                slope.mul_(below > 0)
        self._update()
        return seen

    def finite(self) -> NDArray[np.bool_]:
        """Return which heads have finite weights."""
        sums = torch.stack([weight.sum(dim=(1, 2)) for weight in self.weights])
        return torch.isfinite(sums).all(dim=0).cpu().numpy()

    def evaluate(
        self, rows: EvaluationSet, class_weights: torch.Tensor | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean cross-entropy, classes weighted by `class_weights` (S, n_classes), and accuracy."""
        heads, widest = len(self.weights[0]), max(weight.shape[-1] for weight in self.weights)
        losses = torch.zeros(heads, dtype=torch.float64, device=rows.Z.device)
        hits, total = torch.zeros_like(losses), torch.zeros_like(losses)
        step = max(32, EVALUATION_BYTES // (4 * heads * widest))
        for first in range(0, len(rows.Z), step):
            logits = self.forward(rows.Z[first : first + step])[-1]
            right = rows.targets[first : first + step].expand(heads, -1)
            chosen = logits.gather(2, right[..., None])[..., 0]
            each = torch.logsumexp(logits, dim=2) - chosen
            if class_weights is not None:
                weights = class_weights.gather(1, right)
                each, total = each * weights, total + weights.sum(dim=1, dtype=torch.float64)
            losses += each.sum(dim=1, dtype=torch.float64)
            hits += (logits.argmax(dim=2) == right).sum(dim=1)
        counted = len(rows.Z) if class_weights is None else total
        return (losses / counted).cpu().numpy(), (hits / len(rows.Z)).cpu().numpy()

    def scored(self, rows: EvaluationSet, score: CodeScore, heads: Sequence[int]) -> NDArray[np.float64]:
        """Return what `score` says of the answers of `heads` on rows; what it cannot say is the least."""
        targets, weights = rows.targets.cpu().numpy(), self.weights
        step = max(32, EVALUATION_BYTES // (4 * max(weight.shape[-1] for weight in weights)))
        found = np.full(len(weights[0]), -np.inf)
        try:
            for at in heads:  # the answers of all heads to all rows may not fit into memory
                self.weights = [weight[at : at + 1] for weight in weights]
                parts = [
                    torch.softmax(self.forward(rows.Z[first : first + step])[-1][0].double(), dim=1)
                    for first in range(0, len(rows.Z), step)
                ]
                probabilities = torch.cat(parts).cpu().numpy()
                found[at] = score(targets, probabilities.argmax(axis=1), probabilities)
        finally:
            self.weights = weights
        return np.where(np.isfinite(found), found, -np.inf)


class ModuleStack(_Stack):
    """A network, of which some tensors are trained, and a softmax layer on what it gives, as a stack of one.

    Parameters
    ----------
    recipe : Recipe
    job : Job
        Its rate and penalty are those of the softmax layer.
    body : torch.nn.Module
        From (b, *shape) to (b, width), in eval mode, on the device; `trained` of it get numbers of their own.
    trained : sequence of str
        Parameters that are trained, and buffers of batch norms, whose batches then count.
    body_lr : float
        Their learning rate.
    shape : tuple of int
        Of what the body takes.
    gain : float
        What the columns were multiplied by.
    width, n_classes : int
    """

    def __init__(
        self,
        recipe: Recipe,
        job: Job,
        body: torch.nn.Module,
        trained: Sequence[str],
        *,
        body_lr: float,
        shape: tuple[int, ...],
        gain: float,
        width: int,
        n_classes: int,
    ) -> None:
        self.recipe, self.body, self.shape, self.gain, self.width = recipe, body, shape, gain, width
        self.factor = 1.0
        parameters = dict(body.named_parameters())
        held = parameters | dict(body.named_buffers())
        for name in trained:
            held[name].data = held[name].data.clone()
        device = next(iter(parameters.values())).device
        self.last = [torch.zeros(shape, device=device) for shape in ((width, n_classes), (1, n_classes))]
        inner = [parameters[name] for name in trained if name in parameters]
        self.variables = [one.requires_grad_() for one in (*self.last, *inner)]
        self.norms = [
            part
            for path, part in body.named_modules()
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and f"{path}.weight" in trained
        ]
        #: Views of the same numbers, as the loop wants them: with an axis of heads.
        self.weights = [one.detach()[None] for one in (*self.last, *(held[name] for name in trained))]
        self.groups, self.members = [], []
        n_moments = 1 if recipe.solver == "sgd" else 2
        for lr, members in ((job.lr, self.last), (body_lr, inner)):
            for alpha, chosen in (
                (job.alpha, [one for one in members if one.ndim > 1 and len(one) > 1]),
                (0.0, [one for one in members if one.ndim == 1 or len(one) == 1]),  # biases, scales
            ):
                if not chosen:
                    continue
                plain = [one.detach() for one in chosen]
                moments = [[torch.zeros_like(one) for one in plain] for _ in range(n_moments)]
                steps = [torch.zeros((), device=device) for _ in chosen]
                self.groups.append(_Group(lr, alpha, [plain, [], *moments], steps))
                self.members.append(chosen)

    def work(self, batch_size: int) -> int:
        """Return that several threads are worth their while."""
        return THREADED_STEP

    def _logits(self, rows: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        given = rows if self.gain == 1.0 else rows / self.gain
        values = self.body(given.view(-1, *self.shape))
        return torch.addmm(self.last[1], values if masks is None else values * masks, self.last[0])

    def forward(self, inputs: torch.Tensor, masks: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Return the logits (1, b, n_classes) of rows (b, r), a few at a time: maps are large."""
        with torch.no_grad():
            parts = [self._logits(rows, masks) for rows in torch.split(inputs, BODY_ROWS)]
        return [torch.cat(parts)[None]]

    def step(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        masks: torch.Tensor | None,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Take one optimiser step, as that of other stacks does."""
        for norm in self.norms:
            norm.train()
        logits = self._logits(inputs[0], None if masks is None else masks[0])
        if weights is None:
            loss = torch.nn.functional.cross_entropy(logits, targets[0, :, 0])
        else:
            each = torch.nn.functional.cross_entropy(logits, targets[0, :, 0], reduction="none")
            loss = (each * weights[0, :, 0]).mean()
        found = dict(zip(map(id, self.variables), torch.autograd.grad(loss, self.variables), strict=True))
        for norm in self.norms:
            norm.eval()
        for group, members in zip(self.groups, self.members, strict=True):
            group.parts[1] = [found[id(one)] for one in members]
        self._update()
        slope = torch.softmax(logits.detach(), dim=-1)
        seen = slope.gather(1, targets[0])[:, 0]
        return torch.where(slope.argmax(dim=1) == targets[0, :, 0], seen, -seen)[None]

    def finite(self) -> NDArray[np.bool_]:
        """Return whether all weights are finite."""
        return np.array([all(bool(torch.isfinite(one.sum())) for one in self.weights)])


@dataclass
class _Record:
    """What is remembered of one head while it trains."""

    best: tuple[float, float] = (math.inf, math.inf)
    best_epoch: int = 0
    #: Where patience was last renewed.
    renewed: int = 0
    reference: float = math.inf
    stop_reason: Literal["tolerance", "max_epochs", "not finite"] | None = None
    stuck: bool = False
    history: dict[str, list[float]] = field(default_factory=dict)

    def add(self, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.history.setdefault(key, []).append(value)


def train_stack(
    recipe: Recipe,
    Z: torch.Tensor,
    jobs: Sequence[Job],
    n_classes: int,
    others: Sequence[EvaluationSet],
    stack: ModuleStack | None = None,
    score: CodeScore | None = None,
    scaling: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> list[TrainedHead]:
    """Train `jobs` together.

    Parameters
    ----------
    recipe : Recipe
        What the heads have in common.
    Z : torch.Tensor of float32, shape (n_samples, n_columns)
        Transformed rows the jobs draw theirs from, on the device to train on; with `scaling` of any float.
    jobs : sequence of Job
        Each with the same number of rows.
    n_classes : int
        Targets are 0 ... n_classes - 1.
    others : sequence of EvaluationSet
        Named "val" and "test"; "val" decides when a head stops.
    stack : ModuleStack, optional
        What is trained of the one job; by default a stack of heads of the recipe.
    score : callable, optional
        By what heads stop where the recipe monitors "metric".
    scaling : (torch.Tensor, torch.Tensor), optional
        What is subtracted from the columns of a batch, and what they are multiplied by then.

    Returns
    -------
    list of TrainedHead
        In the order of `jobs`.
    """
    order = sorted(range(len(jobs)), key=lambda s: (jobs[s].lr, jobs[s].alpha))
    training = _Training(recipe, Z, [jobs[s] for s in order], n_classes, others, stack, score, scaling)
    with threads_for(training.stack.work(recipe.batch_size), Z.device):
        done = training.run()
    out: list[Any] = [None] * len(jobs)
    for position, head in zip(order, done, strict=True):
        out[position] = head
    return out


class _Training:
    def __init__(
        self,
        recipe: Recipe,
        Z: torch.Tensor,
        jobs: Sequence[Job],
        n_classes: int,
        others: Sequence[EvaluationSet],
        stack: _Stack | None = None,
        score: CodeScore | None = None,
        scaling: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        if recipe.monitor == "metric" and score is None and any(one.name == "val" for one in others):
            raise InvalidInputError(
                "monitor='metric' (--monitor) needs the metric; name it with --metric (metrics=)"
            )
        self.score, self.scaling = score, scaling
        widths = [Z.shape[1], *([recipe.hidden_units] if recipe.hidden_units else []), n_classes]
        self.recipe, self.Z, self.jobs, self.others = recipe, Z, jobs, others
        self.stack = stack or _Stack(recipe, jobs, widths, Z.device)
        self.alive = list(range(len(jobs)))
        self.rows = torch.from_numpy(np.stack([job.rows for job in jobs])).to(Z.device)  # (S, n)
        self.targets = torch.from_numpy(np.stack([job.targets for job in jobs])).to(Z.device)  # (S, n)
        self.class_weights: torch.Tensor | None = None  # (S, n_classes)
        if recipe.class_weight:
            weights = np.stack([job.class_weights for job in jobs if job.class_weights is not None])
            self.class_weights = torch.from_numpy(weights.astype(np.float32)).to(Z.device)
        self.orders = [np.random.default_rng([job.seed, 0]) for job in jobs]
        self.n_views = jobs[0].n_views
        self.views = [np.random.default_rng([job.seed, 2]) for job in jobs]
        self.masks = [torch.Generator(device=Z.device).manual_seed(job.seed) for job in jobs]
        shape = len(jobs) * recipe.batch_size, Z.shape[1]
        self.inputs = torch.empty(shape, device=Z.device)
        self.taken = torch.empty(shape if scaling else (0, 0), dtype=Z.dtype, device=Z.device)
        self.best = [weight.clone() for weight in self.stack.weights]
        self.records = [_Record() for _ in jobs]
        self.initial_loss = math.log(n_classes)  # of the even guess all heads start from
        self.finished: dict[int, list[NDArray[np.float32]]] = {}

    def run(self) -> list[TrainedHead]:
        """Train until every head has stopped."""
        for epoch in range(1, self.recipe.max_epochs + 1):
            self.look(epoch, *self.train_epoch(epoch))
            stopped = [s for s in self.alive if self.records[s].stop_reason is not None]
            # dropping a head copies the rest, so it waits until a good part of the stack has stopped
            if len(stopped) == len(self.alive):
                break
            if len(stopped) > len(self.alive) // 4:
                self.drop()
        return [self.result(s) for s in range(len(self.jobs))]

    def train_epoch(self, epoch: int) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Go once through every head's rows.

        Returns the factor of the learning rate at the start, and loss and accuracy per head over the
        mini-batches.
        """
        recipe = self.recipe
        heads, n = self.rows.shape
        steps = math.ceil(n / recipe.batch_size)
        orders = torch.from_numpy(np.stack([self.orders[s].permutation(n) for s in self.alive])).to(
            self.Z.device
        )
        rows = self.rows.gather(1, orders)
        if self.n_views > 1:  # another view of each image in each epoch
            drawn = np.stack([self.views[s].integers(self.n_views, size=n) for s in self.alive])
            rows += torch.from_numpy(drawn * (len(self.Z) // self.n_views)).to(self.Z.device)
        targets = self.targets.gather(1, orders)[..., None]
        weights = None if self.class_weights is None else self.class_weights.gather(1, targets[..., 0])
        begun = annealed(recipe.lr_schedule, epoch - 1, recipe.lr_schedule_epochs, recipe.max_epochs)
        self.stack.scale_rate(begun)
        seen = []
        for number in range(steps):
            if recipe.lr_schedule_per == "step":
                t = epoch - 1 + number / steps
                self.stack.scale_rate(
                    annealed(recipe.lr_schedule, t, recipe.lr_schedule_epochs, recipe.max_epochs)
                )
            batch = slice(number * recipe.batch_size, min((number + 1) * recipe.batch_size, n))
            width = batch.stop - batch.start
            buffer = self.inputs[: heads * width]
            self.take(rows[:, batch].reshape(-1), buffer)
            inputs = buffer.view(heads, width, -1)  # (S, b, r)
            own = None if weights is None else weights[:, batch, None]
            seen.append(self.stack.step(inputs, targets[:, batch], self.draw_masks(inputs), own))
        likelihoods = torch.cat(seen, dim=1)  # (S, n)
        each = -likelihoods.abs().clamp_min(LEAST_LIKELIHOOD).log()
        losses = (each if weights is None else each * weights).mean(dim=1, dtype=torch.float64)
        hits = (likelihoods > 0).mean(dim=1, dtype=torch.float64)
        return begun, losses.cpu().numpy(), hits.cpu().numpy()

    def take(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """Put `rows` of the matrix into `out`, standardised."""
        if self.scaling is None:
            torch.index_select(self.Z, 0, rows, out=out)
            return
        # buffers that are used again: new ones for each step would leave holes of their size
        mean, factor = self.scaling
        torch.index_select(self.Z, 0, rows, out=self.taken[: len(rows)])
        out.copy_(self.taken[: len(rows)]).sub_(mean).mul_(factor)

    def draw_masks(self, inputs: torch.Tensor) -> torch.Tensor | None:
        """Return what the inputs of the softmax layer are multiplied by, or None without dropout."""
        keep = 1.0 - self.recipe.dropout
        if keep == 1.0:
            return None
        shape = (inputs.shape[1], self.stack.width)
        drawn = [
            torch.empty(shape, device=inputs.device).bernoulli_(keep, generator=self.masks[s])
            for s in self.alive
        ]
        return torch.stack(drawn).div_(keep)

    def look(self, epoch: int, rate: float, losses: NDArray[np.float64], hits: NDArray[np.float64]) -> None:
        """Evaluate all heads after an epoch; remember the best weights; decide who stops."""
        measured = {"train": (np.where(self.stack.finite(), losses, np.nan), hits)}
        scores: NDArray[np.float64] | None = None
        for one in self.others:
            measured[one.name] = self.stack.evaluate(one, self.class_weights)
            if one.name == "val" and self.recipe.monitor == "metric" and self.score is not None:
                training = [at for at, s in enumerate(self.alive) if self.records[s].stop_reason is None]
                scores = self.stack.scored(one, self.score, training)
        better: list[int] = []
        for position, s in enumerate(self.alive):
            record = self.records[s]
            if record.stop_reason is not None:
                continue
            values = {"lr": self.jobs[s].lr * rate}
            for name, (losses, hits) in measured.items():
                values[f"{name}_loss"] = float(losses[position])
                values[f"{name}_accuracy"] = float(hits[position])
            if scores is not None:
                values["val_metric"] = float(scores[position])
            record.add(values)
            if self.judge(record, values, epoch):
                better.append(position)
        if better:
            index = torch.tensor(better, device=self.Z.device)
            for kept, weight in zip(self.best, self.stack.weights, strict=True):
                kept[index] = weight[index]
        for position, s in enumerate(self.alive):
            if self.records[s].stop_reason is not None and s not in self.finished:
                self.finish(position, s)

    def judge(self, record: _Record, values: dict[str, float], epoch: int) -> bool:
        """Update a head's record after an epoch; return whether its weights are the best so far."""
        loss = values["train_loss"]
        if not math.isfinite(loss):
            record.stop_reason = "not finite"
            return False
        if epoch == MOVE_EPOCHS:
            record.stuck = loss > self.initial_loss * (1.0 - LEAST_MOVE)
        if "val_loss" in values:
            accuracy, val_loss = values["val_accuracy"], values["val_loss"]
            if self.recipe.monitor == "loss":
                score = (val_loss, -accuracy)
            else:  # of equals the lower loss
                score = (-values.get("val_metric", accuracy), val_loss)
            improved = score < record.best
            renewed = improved
        else:
            score = (loss, 0.0)
            improved = score < record.best
            renewed = loss < record.reference * (1.0 - self.recipe.tol)
        if improved:
            record.best, record.best_epoch = score, epoch
        if renewed:
            record.renewed, record.reference = epoch, loss
        if epoch - record.renewed >= self.recipe.patience:
            record.stop_reason = "tolerance"
        elif epoch == self.recipe.max_epochs:
            record.stop_reason = "max_epochs"
        return improved

    def finish(self, position: int, s: int) -> None:
        """Copy out the weights of a head that has stopped."""
        failed = self.records[s].stop_reason == "not finite"
        source = self.best if failed or self.recipe.restore == "best" else self.stack.weights
        self.finished[s] = [weight[position].cpu().numpy().copy() for weight in source]

    def drop(self) -> None:
        """Take the heads that have stopped out of the stack."""
        chosen = [position for position, s in enumerate(self.alive) if self.records[s].stop_reason is None]
        index = torch.tensor(chosen, device=self.Z.device)
        self.stack.keep(chosen)
        self.best = [weight[index] for weight in self.best]
        self.rows, self.targets = self.rows[index], self.targets[index]
        if self.class_weights is not None:
            self.class_weights = self.class_weights[index]
        self.alive = [self.alive[position] for position in chosen]

    def result(self, s: int) -> TrainedHead:
        """Return what is known of head `s` at the end."""
        record = self.records[s]
        history = {key: np.asarray(values, dtype=np.float64) for key, values in record.history.items()}
        return TrainedHead(
            weights=self.finished[s],
            history=history,
            n_epochs=len(history["lr"]),
            best_epoch=record.best_epoch,
            stop_reason=record.stop_reason or "max_epochs",
            stuck=record.stuck,
            initial_loss=self.initial_loss,
        )


def _runs(values: Sequence[object]) -> list[tuple[int, int]]:
    """Return (first, stop) of every run of equal neighbours."""
    edges = [0, *[i for i in range(1, len(values)) if values[i] != values[i - 1]], len(values)]
    return list(pairwise(edges))


def annealed(lr_schedule: str, t: float, lr_schedule_epochs: float, max_epochs: int) -> float:
    """Return what the learning rate is multiplied by after `t` epochs.

    Parameters
    ----------
    lr_schedule : {"inverse-time", "cosine", "step", "constant"}
        ``1 / (1 + t/T)``; half a cosine wave from 1 at the start to 0 at `max_epochs`; a tenth every T
        epochs; 1.
    t : float
        Epochs done, with a fraction when the rate changes at every step.
    lr_schedule_epochs : float
        T of the first and third.
    max_epochs : int
        Where the cosine ends.

    Examples
    --------
    >>> [round(annealed("inverse-time", t, 10.0, 100), 3) for t in (0, 10, 30)]
    [1.0, 0.5, 0.25]
    """
    if lr_schedule == "inverse-time":
        return 1.0 / (1.0 + t / lr_schedule_epochs)
    if lr_schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(t / max_epochs, 1.0)))
    if lr_schedule == "step":
        return float(STEP_FACTOR ** math.floor(t / lr_schedule_epochs))
    return 1.0


def _size_bytes(widths: Sequence[int]) -> int:
    return 4 * sum((low + 1) * high for low, high in pairwise(widths))


def is_wide(widths: Sequence[int], device: str) -> bool:
    """Return whether a head is too large to gain anything from company.

    Examples
    --------
    >>> is_wide((1280, 32), "cpu"), is_wide((1280, 1000, 32), "cpu")
    (False, True)
    """
    return _size_bytes(widths) > WIDE_HEAD_BYTES[device if device in WIDE_HEAD_BYTES else "cuda"]


def plan_stacks(n_heads: int, widths: Sequence[int], device: str, n_workers: int = 1) -> list[range]:
    """Cut `n_heads` equal heads into stacks that are never slower than one head after another.

    Parameters
    ----------
    n_heads : int
    widths : sequence of int
        Columns, hidden units if any, classes.
    device : {"cpu", "cuda", ...}
    n_workers : int, default=1
        Threads that train a stack each; there are as many stacks as keep all of them busy.

    Returns
    -------
    list of range
        Which heads go together, in order; sizes differ by one at most.

    Examples
    --------
    >>> plan_stacks(5, (511, 32), "cpu"), plan_stacks(2, (25088, 32), "cpu")
    ([range(0, 5)], [range(0, 1), range(1, 2)])
    >>> plan_stacks(5, (511, 32), "cpu", n_workers=2)
    [range(0, 3), range(3, 5)]
    """
    kind = device if device in STACK_BYTES else "cuda"
    most = 1 if is_wide(widths, device) else max(1, STACK_BYTES[kind] // _size_bytes(widths))
    rounds = math.ceil(n_heads / (most * n_workers))
    count = min(n_heads, rounds * n_workers)
    edges = [math.ceil(n_heads * number / count) for number in range(count + 1)]
    return [range(first, stop) for first, stop in pairwise(edges)]


# The number torch is told is that of the calling thread and of all threads begun later. Read while another
# training has set it to 1, the 1 would be what is put back, for good; so the first one in remembers it.
_lock = threading.Lock()
_inside = 0
_usual = 1


@contextlib.contextmanager
def threads_for(step: int, device: torch.device) -> Iterator[None]:
    """Use one thread for steps of so few multiply-adds that several only wait, and put the number back."""
    global _inside, _usual
    if device.type != "cpu" or step >= THREADED_STEP:
        yield
        return
    with _lock:
        if not _inside:
            _usual = torch.get_num_threads()
        _inside += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            torch.set_num_threads(_usual)


def workers_for(step: int, device: torch.device) -> int:
    """Return how many trainings of steps of so many multiply-adds are worth running at once."""
    return torch.get_num_threads() if device.type == "cpu" and step < THREADED_STEP else 1


def each_on_a_thread(tasks: Sequence[Callable[[], R]], n_workers: int) -> list[R]:
    """Call all `tasks`, `n_workers` at a time, and return what they return, in order.

    The operations of a step release the interpreter's lock, and are long enough to keep two cores busy.
    """
    if n_workers == 1 or len(tasks) == 1:
        return [task() for task in tasks]
    with ThreadPoolExecutor(n_workers) as pool:
        return list(pool.map(lambda task: task(), tasks))
