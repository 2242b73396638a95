"""Heads trained by gradient steps: their parameters, and which of them go through one program."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank._process import one_core_if
from featbank.errors import InvalidInputError
from featbank.heads.catalogue import Parameter
from featbank.heads.head import (
    CodeScore,
    Evaluation,
    Head,
    ProbabilisticHead,
    TrainingRows,
    check_random_state,
    class_weights,
    encode_labels,
    find_classes,
    warn_of,
)
from featbank.heads.space import FeatureSpace, RowProducts, Scaling, Standardized, gram

if TYPE_CHECKING:
    import torch

    from featbank.heads._training import EvaluationSet, Job, Recipe, TrainedHead

__all__ = [
    "GradientHead",
    "fit_gradient_heads",
    "relative_weights",
    "rows_on_device",
    "torch_device",
    "watched_rows",
]


#: Values of rows that are made float64 at a time, for logits.
LOGIT_VALUES = 2**22
#: What part of the training loss an improvement is, where a head leaves that open.
TRAINING_TOLERANCE = 1e-3
#: What ``lr="auto"`` tries, for how many epochs and optimiser steps at least.
RATES = tuple(float(f"{10 ** (-4.5 + 0.5 * k):.2g}") for k in range(9))
TRIAL_EPOCHS = 3
TRIAL_STEPS = 30
#: The smallest rate that leaves at most this part of an even guess's loss after the trial is taken. The one
#: of the lowest loss is too large: on Caltech-101, 4 images per class, it ends at 0.84 instead of 0.92.
LOSS_LEFT = 0.3


class GradientHead(ProbabilisticHead):
    """Base of `SoftmaxClassifier` and `MLPClassifier`.

    Attributes
    ----------
    history_ : dict of str to ndarray of float64, shape (n_epochs_,)
        ``train_loss`` and ``train_accuracy`` over the epoch's mini-batches, while the weights moved; where
        such rows were given, ``val_...`` and ``test_...`` after the epoch; ``lr``, the rate the epoch began
        with.
    n_epochs_, best_epoch_ : int
        Epochs trained; the epoch, counted from 1, that was best (0 if none).
    converged_ : bool
        Whether training stopped because nothing improved any more.
    stop_reason_ : {"tolerance", "max_epochs", "not finite", "optimum"}
    """

    _parameters: ClassVar[Mapping[str, Parameter]] = {
        "solver": Parameter(values=("adam", "sgd"), help="how steps are taken"),
        "lr": Parameter(over=0, values=("auto", None), help="learning rate at the start"),
        "lr_schedule": Parameter(
            values=("inverse-time", "cosine", "step", "constant"), help="how the learning rate falls"
        ),
        "lr_schedule_epochs": Parameter(over=0, help="T of inverse-time, lr / (1 + t/T), and of step"),
        "lr_schedule_per": Parameter(values=("epoch", "step"), help="how often the learning rate falls"),
        "max_epochs": Parameter(least=1, whole=True, help="passes over the training samples at most"),
        "patience": Parameter(
            least=1, whole=True, help="epochs without anything better (see monitor) to stop after"
        ),
        "tol": Parameter(least=0, help="part of the training loss that counts as better without validation"),
        "monitor": Parameter(
            values=("accuracy", "loss", "metric"),
            help="what of the validation rows stops training; metric: the first --metric",
        ),
        "class_weight": Head._class_weight,
        "batch_size": Parameter(least=1, whole=True, help="samples per step"),
        "alpha": Parameter(least=0, help="weight decay"),
        "dropout": Parameter(least=0, below=1, help="share left out"),
        "restore": Parameter(values=("best", "last"), help="which epoch's weights are kept"),
        "device": Parameter(kinds=(str,), help="cpu, cuda, cuda:N or auto"),
        **Head._parameters,
    }

    #: No hidden layer.
    hidden_units: int = 0
    solver: str
    lr: float | Literal["auto"] | None
    lr_schedule: str
    lr_schedule_epochs: float
    lr_schedule_per: Literal["epoch", "step"]
    max_epochs: int
    patience: int
    tol: float | None
    monitor: Literal["accuracy", "loss", "metric"]
    class_weight: Literal["balanced"] | Mapping[Any, float] | None
    batch_size: int
    alpha: float
    dropout: float
    restore: Literal["best", "last"]
    random_state: Any
    device: str
    lr_: float
    weights_: list[NDArray[Any]]
    history_: dict[str, NDArray[np.float64]]
    n_epochs_: int
    best_epoch_: int
    converged_: bool
    stop_reason_: str

    def _check(self) -> None:
        super()._check()
        if self.device != "cpu":
            torch_device(self.device)

    @property
    def _is_seeded(self) -> bool:
        return self.solver != "lbfgs"

    def _recipe(self) -> Recipe:
        from featbank.heads._training import Recipe

        self._check()
        own = {one.name: getattr(self, one.name) for one in fields(Recipe)}
        own |= {"tol": TRAINING_TOLERANCE if self.tol is None else self.tol}
        return Recipe(**own | {"class_weight": "" if self.class_weight is None else repr(self.class_weight)})

    def _rate(self, n_columns: int) -> float:
        """Return the learning rate to start with in a space of so many columns."""
        return 1e-3 if self.lr is None or self.lr == "auto" else float(self.lr)

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        X_test: ArrayLike | None = None,
        y_test: ArrayLike | None = None,
    ) -> Any:
        """Fit to `X`, `y`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features; float16 and float32 are not copied to float64 as a whole.
        y : array-like of shape (n_samples,)
            Labels, numbers or strings, of at least two classes.
        X_val, y_val : array-like, optional
            Decide when training stops and which weights are kept; never trained on.
        X_test, y_test : array-like, optional
            Only measured after each epoch, for `history_`; decide nothing.

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            If a parameter is out of range, `y` has one class, or validation or test labels are not among
            those of `y`.

        Warns
        -----
        FitWarning
            If the training loss is not finite or has not moved after three epochs.
        """
        features, labels = self._read_training(X, y)
        self._check()
        classes, _ = find_classes(labels)
        space, Z = self._into_space(features)
        others: list[Evaluation] = []
        for name, rows, names in (("val", X_val, y_val), ("test", X_test, y_test)):
            if (rows is None) != (names is None):
                raise InvalidInputError(f"only one of X_{name} and y_{name} was given; give both, or neither")
            if rows is not None and names is not None:
                encode_labels(names, classes, f"y_{name}")
                others.append(Evaluation(name, space.transform(rows), np.asarray(names)))
        type(self)._fit_many([self], TrainingRows(Z, labels, [np.arange(len(labels))], space, others))
        warn_of([self], stacklevel=2)
        return self

    def _into_space(self, features: Any) -> tuple[FeatureSpace, Any]:
        """Return a space fitted to features, and them in it."""
        space = FeatureSpace(standardize=self.standardize, rotate=self.rotate)
        return space, space.fit_transform(features)

    def _accept(self, trained: TrainedHead, classes: NDArray[Any], space: FeatureSpace) -> None:
        """Take over what was trained, and what there is to warn of."""
        self.classes_, self.space_, self.n_features_in_ = classes, space, space.n_features_
        self.weights_ = [
            weight.reshape(weight.shape[-1]) if i % 2 else weight for i, weight in enumerate(trained.weights)
        ]
        self.history_ = trained.history
        self.n_epochs_, self.best_epoch_ = trained.n_epochs, trained.best_epoch
        self.stop_reason_, self.converged_ = (
            trained.stop_reason,
            trained.stop_reason == "tolerance" and not trained.stuck,
        )
        self.failed_ = self.warned_ = None
        losses = trained.history["train_loss"]
        settings = f"lr={self.lr_:.4g}, solver={self.solver!r}, {space.n_columns_} columns"
        if trained.stop_reason == "not finite":
            kept = (
                f"the weights kept are those of epoch {trained.best_epoch}"
                if trained.best_epoch
                else "nothing was learned"
            )
            self.failed_ = self.warned_ = (
                f"training loss became {losses[-1]} in epoch {trained.n_epochs} ({settings}): the learning "
                f"rate is too large for these features; use a smaller lr, or standardize=True; {kept}"
            )
            return
        if not trained.stuck:
            return
        moved = (
            f"training loss has not moved after three epochs ({trained.initial_loss:.4g} -> {losses[2]:.4g}; "
            f"{settings})"
        )
        if losses[2] > trained.initial_loss * 1.01:
            self.warned_ = (
                f"{moved}: the learning rate is too large for these features; use a smaller lr, or "
                "standardize=True"
            )
            return
        self.warned_ = (
            f"{moved}: the learning rate is too small, or the features say nothing about the classes to a "
            "head of this kind; use a larger lr, a deeper cut, or the mlp head"
        )

    def _fitted_facts(self) -> dict[str, Any]:
        names = ("failed_", "n_epochs_", "best_epoch_", "converged_", "stop_reason_", "n_iter_", "lr_", "C_")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def _logits(self, Z: NDArray[Any]) -> NDArray[np.float64]:
        logits = np.empty((len(Z), len(self.weights_[-1])))
        step = max(1, LOGIT_VALUES // Z.shape[1])
        for first in range(0, len(Z), step):
            values = np.asarray(Z[first : first + step], dtype=np.float64)
            for layer in range(0, len(self.weights_), 2):
                values = values @ self.weights_[layer] + self.weights_[layer + 1]
                if layer < len(self.weights_) - 2:
                    values = np.maximum(values, 0.0)
            logits[first : first + step] = values
        return logits


def torch_device(name: str) -> Any:
    """Return a device to train on; raises `InvalidInputError` for one that is not here."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidInputError(
            f"device={name!r} cannot be used here; allowed: 'cpu', 'auto'"
            + (", 'cuda'" if torch.cuda.is_available() else "")
        ) from error
    return device


def relative_weights(
    class_weight: Any, classes: NDArray[Any], codes: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """Return `class_weights` with a mean of 1 over the rows, so that rates mean what they do without."""
    found = class_weights(class_weight, classes, codes)
    return None if found is None else found / found[codes].mean()


def watched_rows(
    others: Sequence[Evaluation], classes: NDArray[Any], place: torch.device
) -> list[EvaluationSet]:
    """Return the rows of classes that a head has, on a device."""
    import torch

    from featbank.heads._training import EvaluationSet

    watched = []
    for one in others:
        kept = np.isin(one.y, classes)
        if kept.any():
            rows = torch.from_numpy(np.ascontiguousarray(one.Z[kept], dtype=np.float32)).to(place)
            targets = torch.from_numpy(np.searchsorted(classes, one.y[kept])).to(place)
            watched.append(EvaluationSet(one.name, rows, targets))
    return watched


def rows_on_device(
    Z: Any, place: torch.device
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    """Return training rows, and the mean and the factor they are standardised by when a batch is taken.

    Rows that are standardised already have none.
    """
    import torch

    # float64 has digits that are lost before the mean is subtracted, others torch may not know
    if not isinstance(Z, Standardized) or Z.source.dtype not in (np.float16, np.float32):
        return torch.from_numpy(np.ascontiguousarray(Z, dtype=np.float32)).to(place), None
    raw = np.require(Z.source, requirements=("C", "W")).reshape(Z.shape)
    statistics = Z.scaling.mean, float(Z.gain) / Z.scaling.scale
    mean, factor = (torch.from_numpy(one.astype(np.float32)).to(place) for one in statistics)
    return torch.from_numpy(raw).to(place), (mean, factor)


def fit_gradient_heads(heads: Sequence[GradientHead], rows: TrainingRows) -> None:
    """Fit `heads` in place, those that can be trained together as one program."""
    from featbank.heads._training import Job

    Z, y, space = rows.Z, rows.y, rows.space
    groups: dict[tuple[Any, ...], list[tuple[GradientHead, Job]]] = {}
    classes_of: dict[bytes, NDArray[Any]] = {}
    n_views = rows.n_views
    for head, every in zip(heads, rows.subsets, strict=True):
        own = every[: len(every) // n_views]  # of the first view
        recipe = head._recipe()
        classes, codes = find_classes(y[own])
        signature = repr(classes.tolist()).encode()
        classes_of[signature] = classes
        head.lr_ = rate = head._rate(Z.shape[1])
        weights = relative_weights(head.class_weight, classes, codes)
        job = Job(
            np.asarray(own, dtype=np.int64), codes, rate, float(head.alpha), head._seed(), n_views, weights
        )
        key = (recipe, len(own), signature, head.device)
        groups.setdefault(key, []).append((head, job))
    shared: dict[str, tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]] = {}
    for (recipe, _, signature, device), members in groups.items():
        classes = classes_of[signature]
        place = torch_device(device)
        if device not in shared:
            shared[device] = rows_on_device(Z, place)
        watched = watched_rows(rows.others, classes, place)
        score = rows.score_of(classes)
        training = _Training(recipe, Z, *shared[device], len(classes), watched, score)
        automatic = [i for i, (head, _) in enumerate(members) if head.lr == "auto"]
        for i, rate in zip(automatic, training.find_rates([members[i] for i in automatic]), strict=True):
            head, job = members[i]
            head.lr_ = rate
            members[i] = (head, replace(job, lr=rate))
        trained = training.run(members)
        for (head, _), result in zip(members, trained, strict=True):
            head._accept(result, classes, space)


@dataclass(frozen=True, eq=False)
class _Training:
    """What heads that may go into one program have in common."""

    recipe: Recipe
    Z: NDArray[np.float32] | Standardized
    #: The same rows on the device, and how they are standardised; see `rows_on_device`.
    shared: torch.Tensor
    scaling: tuple[torch.Tensor, torch.Tensor] | None
    n_classes: int
    watched: Sequence[EvaluationSet]
    score: CodeScore | None = None

    def run(self, members: Sequence[tuple[GradientHead, Job]]) -> list[TrainedHead]:
        """Train the heads, in stacks, several stacks at once where each is worth one thread."""
        import torch

        from featbank.heads._training import (
            each_on_a_thread,
            is_wide,
            plan_stacks,
            train_stack,
            workers_for,
        )

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
            alone = wide and head.rotate is not False and job.n_views == 1
            if alone and len(job.rows) < self.Z.shape[1]:
                tasks.append(partial(self.run_in_own_span, head, job))
            else:
                jobs = [job for _, job in chosen]
                shared = (self.shared, jobs, self.n_classes, self.watched)
                tasks.append(partial(train_stack, recipe, *shared, score=self.score, scaling=self.scaling))
        # the number of threads is the process's: set out here, by one thread, and put back by the same one
        with one_core_if(n_workers > 1):
            return [one for stack in each_on_a_thread(tasks, n_workers) for one in stack]

    def run_in_own_span(self, head: GradientHead, job: Job) -> list[TrainedHead]:
        """Train a wide head in the span of its own few rows, as it would be if it were fitted alone.

        A thousand hidden units on a thousand columns are a million weights a step, of which forty rows can
        only move a fortieth; in their span the rest is not there.
        """
        import torch

        from featbank.heads._training import EvaluationSet, train_stack

        span = FeatureSpace(standardize=False, rotate=True)
        place = self.shared.device
        mine = self.Z.take(job.rows, axis=0)
        # centred rows, of which none are made as a whole: by the statistics of the rows as they are held
        if isinstance(mine, Standardized):
            raw, mean, scale = (
                mine.source.reshape(mine.shape),
                mine.scaling.mean,
                mine.scaling.scale / mine.gain,
            )
        else:
            raw, mean, scale = mine, np.zeros(mine.shape[1]), np.ones(mine.shape[1])
        average = raw.mean(axis=0, dtype=np.float64)
        centre = ((average - mean) / scale).astype(np.float32)
        scaling, of_watched = Scaling(average, scale), Scaling(centre.astype(np.float64), np.ones(len(scale)))
        others = {one.name: gram(one.Z.cpu().numpy(), raw, of_watched, scaling) for one in self.watched}
        products = RowProducts(False, average, scale, gram(raw, None, scaling), others)
        rows = torch.from_numpy(span.fit_transform(raw, products=products)).to(place)
        watched = [
            EvaluationSet(
                one.name,
                torch.from_numpy(span.transform_products(products, one.name)).to(place),
                one.targets,
            )
            for one in self.watched
        ]
        if head.lr != "auto":
            head.lr_ = head._rate(span.n_columns_)
            job = replace(job, lr=head.lr_)
        own = replace(job, rows=np.arange(len(job.rows)))
        (trained,) = train_stack(self.recipe, rows, [own], self.n_classes, watched, score=self.score)
        first = span.to_standardized(trained.weights[0])
        bias = trained.weights[1] - centre @ first
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
                patience=epochs,
                lr_schedule="constant",
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
