"""Train the gradient heads of one call: grouped into programs, the learning rate tried where it is asked."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank.errors import FitWarning
from featbank.heads._gradient import GradientHead, torch_device
from featbank.heads._head import Evaluation, find_classes
from featbank.heads._recipe import Job, Recipe, TrainedHead
from featbank.heads.space import FeatureSpace

if TYPE_CHECKING:
    import torch

    from featbank.heads._trainer import EvaluationSet

__all__ = ["fit_gradient_heads"]

#: What ``lr="auto"`` tries, for how many epochs and optimiser steps at least.
RATES = tuple(float(f"{10 ** (-4.5 + 0.5 * k):.2g}") for k in range(9))
TRIAL_EPOCHS = 3
TRIAL_STEPS = 30
#: The smallest rate that leaves at most this part of an even guess's loss after the trial is taken. The one
#: of the lowest loss is too large: on Caltech-101, 4 images per class, it ends at 0.84 instead of 0.92.
LOSS_LEFT = 0.3


def fit_gradient_heads(
    heads: Sequence[GradientHead],
    Z: NDArray[np.float32],
    y: NDArray[Any],
    subsets: Sequence[NDArray[np.int64]],
    space: FeatureSpace,
    others: Sequence[Evaluation],
) -> None:
    """Fit `heads` in place, those that can be trained together as one program."""
    import torch

    from featbank.heads._trainer import EvaluationSet

    groups: dict[tuple[Any, ...], list[tuple[GradientHead, Job]]] = {}
    classes_of: dict[bytes, NDArray[Any]] = {}
    for head, rows in zip(heads, subsets, strict=True):
        recipe = head._recipe()
        classes, codes = find_classes(y[rows])
        signature = repr(classes.tolist()).encode()
        classes_of[signature] = classes
        head.lr_ = rate = head._rate(Z.shape[1])
        job = Job(np.asarray(rows, dtype=np.int64), codes, rate, float(head.alpha), head._seed())
        key = (recipe, len(rows), signature, head.device)
        groups.setdefault(key, []).append((head, job))
    shared: dict[str, torch.Tensor] = {}
    complaints: list[str] = []
    for (recipe, _, signature, device), members in groups.items():
        classes = classes_of[signature]
        place = torch_device(device)
        if device not in shared:
            shared[device] = torch.from_numpy(np.ascontiguousarray(Z, dtype=np.float32)).to(place)
        watched = []
        for one in others:
            kept = np.isin(one.y, classes)
            rows_Z = torch.from_numpy(np.ascontiguousarray(one.Z[kept], dtype=np.float32)).to(place)
            targets = torch.from_numpy(np.searchsorted(classes, one.y[kept])).to(place)
            if kept.any():
                watched.append(EvaluationSet(one.name, rows_Z, targets))
        training = _Training(recipe, Z, shared[device], len(classes), watched)
        automatic = [i for i, (head, _) in enumerate(members) if head.lr == "auto"]
        for i, rate in zip(automatic, training.find_rates([members[i] for i in automatic]), strict=True):
            head, job = members[i]
            head.lr_ = rate
            members[i] = (head, replace(job, lr=rate))
        trained = training.run(members)
        for (head, _), result in zip(members, trained, strict=True):
            complaint = head._accept(result, classes, space)
            if complaint:
                complaints.append(complaint)
    for complaint in dict.fromkeys(complaints):
        count = complaints.count(complaint)
        told = complaint if len(heads) == 1 else f"{count} of {len(heads)} heads: {complaint}"
        warnings.warn(told, FitWarning, stacklevel=4)


@dataclass(frozen=True, eq=False)
class _Training:
    """What heads that may go into one program have in common."""

    recipe: Recipe
    Z: NDArray[np.float32]
    #: The same rows, on the device.
    shared: torch.Tensor
    n_classes: int
    watched: Sequence[EvaluationSet]

    def run(self, members: Sequence[tuple[GradientHead, Job]]) -> list[TrainedHead]:
        """Train the heads, in stacks, several stacks at once where each is worth one thread."""
        import torch

        from featbank.heads._planner import is_wide, plan_stacks
        from featbank.heads._threads import each_on_a_thread, workers_for
        from featbank.heads._trainer import train_stack

        recipe, place = self.recipe, self.shared.device
        hidden = [recipe.hidden_units] if recipe.hidden_units else []
        widths = (self.Z.shape[1], *hidden, self.n_classes)
        wide = is_wide(widths, place.type)
        step = 3 * recipe.batch_size * sum(low * high for low, high in pairwise(widths))
        parts = plan_stacks(len(members), widths, place.type, torch.get_num_threads())
        n_workers = workers_for(step * len(parts[0]), place)
        if n_workers == 1:
            parts = plan_stacks(len(members), widths, place.type)
        tasks: list[Callable[[], list[TrainedHead]]] = []
        for part in parts:
            chosen = members[part.start : part.stop]
            head, job = chosen[0]
            if wide and head.rotate is not False and len(job.rows) < self.Z.shape[1]:
                tasks.append(partial(self.run_in_own_span, head, job))
            else:
                jobs = [job for _, job in chosen]
                tasks.append(partial(train_stack, recipe, self.shared, jobs, self.n_classes, self.watched))
        return [one for stack in each_on_a_thread(tasks, n_workers) for one in stack]

    def run_in_own_span(self, head: GradientHead, job: Job) -> list[TrainedHead]:
        """Train a wide head in the span of its own few rows, as it would be if it were fitted alone.

        A thousand hidden units on a thousand columns are a million weights a step, of which forty rows can
        only move a fortieth; in their span the rest is not there.
        """
        import torch

        from featbank.heads._trainer import EvaluationSet, train_stack

        span = FeatureSpace(standardize=False, rotate=True)
        place = self.shared.device
        mine = self.Z[job.rows]
        centre = mine.mean(axis=0, dtype=np.float64).astype(np.float32)
        rows = torch.from_numpy(span.fit_transform(mine - centre)).to(place)
        watched = [
            EvaluationSet(
                one.name,
                torch.from_numpy(span.transform(one.Z.cpu().numpy() - centre)).to(place),
                one.targets,
            )
            for one in self.watched
        ]
        if head.lr != "auto":
            head.lr_ = head._rate(span.n_columns_)
            job = replace(job, lr=head.lr_)
        own = replace(job, rows=np.arange(len(job.rows)))
        (trained,) = train_stack(self.recipe, rows, [own], self.n_classes, watched)
        first, shift = span.to_feature_space(trained.weights[0])
        bias = trained.weights[1] + shift - centre @ first
        weights = [first.astype(np.float32), bias.astype(np.float32), *trained.weights[2:]]
        return [replace(trained, weights=weights)]

    def find_rates(self, members: Sequence[tuple[GradientHead, Job]]) -> list[float]:
        """Return for each head the smallest learning rate that gets through most of the loss in a trial.

        The rates of `RATES` are tried together, from the same start and on the same mini-batches. Where none
        gets so far, the one of the lowest loss is taken.
        """
        if not members:
            return []
        steps = math.ceil(len(members[0][1].rows) / self.recipe.batch_size)
        epochs = max(TRIAL_EPOCHS, math.ceil(TRIAL_STEPS / steps))
        trial = replace(
            self,
            recipe=replace(
                self.recipe,
                max_epochs=epochs,
                tolerance_epochs=epochs,
                annealing="constant",
                restore="last",
            ),
            watched=(),
        )
        tried = [(head, replace(job, lr=rate)) for head, job in members for rate in RATES]
        trained = trial.run(tried)
        losses = np.array([one.history["train_loss"][-1] for one in trained]).reshape(len(members), -1)
        losses[~np.isfinite(losses)] = np.inf
        goal = np.maximum(losses.min(axis=1, keepdims=True), LOSS_LEFT * math.log(self.n_classes))
        return [RATES[int(one)] for one in (losses <= goal).argmax(axis=1)]
