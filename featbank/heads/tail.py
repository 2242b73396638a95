"""The tail head: the network's own layers behind the cut, trained on from where they are, and a new last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
from featbank.heads._gradient import (
    GradientHead,
    relative_weights,
    rows_on_device,
    torch_device,
    watched_rows,
)
from featbank.heads._head import TrainingRows, find_classes
from featbank.heads._parameters import Parameter
from featbank.heads.catalogue import HeadKind
from featbank.heads.space import FeatureSpace

if TYPE_CHECKING:
    import torch

    from featbank.heads._training import TrainedHead

__all__ = ["TAIL", "Tail", "TailClassifier"]

#: What tensors of the tail are called in a file, before their own names.
_PREFIX = "tail."


class Tail(Protocol):
    """The layers behind a cut, as `featbank.backbones.cut_tail` takes them."""

    @property
    def backbone(self) -> str:
        """Name of the network."""

    @property
    def weights_sha256(self) -> str:
        """Digest of its weights."""

    @property
    def cut(self) -> str:
        """Where it was cut."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the features of one image there."""

    @property
    def width(self) -> int:
        """How many numbers the last layer takes."""

    def body(self) -> torch.nn.Module:
        """Return the layers up to there, (n, *shape) to (n, width), in eval mode, on the CPU."""

    def trained(self, train: Any, *, batch_norm: bool = False) -> list[str]:
        """List the tensors of the body that training changes."""


class TailClassifier(GradientHead):
    """The layers behind the cut with the backbone's own weights, and a new last layer, trained together.

    `attach` says which layers these are; `featbank fit-head --head tail` takes those of the bank's backbone.
    Features are taken as they are, not standardised. The last layer starts from zero, so that training begins
    at an even guess, as other heads do. Layers in front of those that `train` names stay as they are; dropout
    layers of the backbone's own are off.

    Parameters
    ----------
    train : "all", "last-conv" or int, default="all"
        Which layers behind the cut are trained beside the last one: all, the last convolution and what
        follows it, or so many, counted from the end (convolutions, linear layers, attention).
    lr : float or None, default=None
        Learning rate of the new last layer at the start; None is 1e-3.
    tail_lr : float or None, default=None
        Learning rate of the layers before it; None is a tenth of `lr`. Both fall by one schedule.
    train_norm : bool, default=False
        Whether batch norms are trained too, and use the statistics of the mini-batches.
    dropout : float, default=0.0
        Part of the inputs of the last layer set to zero in training.
    solver, lr_schedule, lr_schedule_epochs, lr_schedule_per, max_epochs, patience, tol, monitor
        As for `SoftmaxClassifier`.
    class_weight, batch_size
        As for `SoftmaxClassifier`.
    alpha : float, default=0.0
        L2 penalty ``alpha / 2 * ||W||^2`` on what is trained, added to the mean loss; not on biases.
    restore : {"best", "last"}, default="best"
    random_state : int, RandomState or None, default=None
        Draws the mini-batches and what is dropped.
    device : str, default="cpu"

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    weights_ : list of ndarray of float32, shapes (width, n_classes) and (n_classes,)
        The last layer.
    tail_weights_ : dict of str to ndarray of float32
        What was trained of the layers before it, by its name in the backbone.
    backbone_, digest_, cut_ : str
        The backbone it belongs to, SHA-256 of its weights, and the cut.
    history_, n_epochs_, best_epoch_, converged_, stop_reason_, failed_, space_
        As for `SoftmaxClassifier`.

    Examples
    --------
    >>> from featbank.backbones import cut_tail, load_backbone
    >>> tail = cut_tail(load_backbone("minivgg", weights="random"), "fc6")
    >>> X = np.random.default_rng(0).normal(size=(12, 256)).astype(np.float32)
    >>> y = np.arange(12) % 3
    >>> head = TailClassifier(random_state=0, max_epochs=50).attach(tail).fit(X, y)
    >>> float(head.score(X, y)), sorted(head.tail_weights_)
    (1.0, ['classifier.3.bias', 'classifier.3.weight'])
    """

    _parameters: ClassVar[Mapping[str, Parameter]] = {
        "train": Parameter(
            least=1, whole=True, values=("all", "last-conv"), help="which layers behind the cut are trained"
        ),
        "tail_lr": Parameter(
            over=0,
            values=(None,),
            help="learning rate of the layers before the last, a tenth of lr unless said",
        ),
        "train_norm": Parameter(values=(True, False), help="train batch norms behind the cut too"),
        **{
            name: one
            for name, one in GradientHead._parameters.items()
            if name not in ("standardize", "rotate")
        },
        "lr": Parameter(over=0, values=(None,), help="learning rate at the start"),
    }

    #: Features go in as they are.
    standardize = False
    rotate = False
    #: One is fitted, scored and let go at a time: its weights may be hundreds of megabytes.
    fits_alone = True
    tail_weights_: dict[str, NDArray[np.float32]]
    backbone_: str
    digest_: str
    cut_: str
    _tail: Tail | None = None
    _made: torch.nn.Module | None = None

    def __init__(
        self,
        *,
        train: Literal["all", "last-conv"] | int = "all",
        solver: Literal["adam", "sgd"] = "adam",
        lr: float | None = None,
        tail_lr: float | None = None,
        train_norm: bool = False,
        lr_schedule: Literal["inverse-time", "cosine", "step", "constant"] = "inverse-time",
        lr_schedule_epochs: float = 10,
        lr_schedule_per: Literal["epoch", "step"] = "epoch",
        max_epochs: int = 100,
        patience: int = 10,
        tol: float = 1e-3,
        monitor: Literal["accuracy", "loss", "metric"] = "accuracy",
        class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
        batch_size: int = 32,
        alpha: float = 0.0,
        dropout: float = 0.0,
        restore: Literal["best", "last"] = "best",
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ) -> None:
        self.train = train
        self.solver = solver
        self.lr = lr
        self.tail_lr = tail_lr
        self.train_norm = train_norm
        self.lr_schedule = lr_schedule
        self.lr_schedule_epochs = lr_schedule_epochs
        self.lr_schedule_per = lr_schedule_per
        self.max_epochs = max_epochs
        self.patience = patience
        self.tol = tol
        self.monitor = monitor
        self.class_weight = class_weight
        self.batch_size = batch_size
        self.alpha = alpha
        self.dropout = dropout
        self.restore = restore
        self.random_state = random_state
        self.device = device

    def attach(self, tail: Tail) -> TailClassifier:
        """Say which layers lie behind the cut; a head that is fitted takes those it was fitted with alone.

        Raises
        ------
        InvalidInputError
            If they are not those, or `train` names layers that are not there.
        """
        if hasattr(self, "digest_"):
            was = (self.backbone_, self.digest_, self.cut_)
            if was != (tail.backbone, tail.weights_sha256, tail.cut):
                raise InvalidInputError(
                    f"the head is the tail of {was[0]!r} (weights {was[1][:16]}...) behind {was[2]!r}, and "
                    f"cannot go behind {tail.cut!r} of {tail.backbone!r} (weights {tail.weights_sha256[:16]}"
                    "...): give the backbone and the weights it was fitted with"
                )
            known = {name: tuple(one.shape) for name, one in tail.body().state_dict().items()}
            strange = [name for name, one in self.tail_weights_.items() if known.get(name) != one.shape]
            if strange or self.weights_[0].shape[0] != tail.width or prod(tail.shape) != self.n_features_in_:
                what = strange[0] if strange else "last layer"
                raise InvalidInputError(
                    f"the {what!r} of the head does not fit {tail.backbone!r} behind {tail.cut!r}; fit it "
                    "again"
                )
        else:
            tail.trained(self.train, batch_norm=self.train_norm)
        self._tail, self._made = tail, None
        return self

    @property
    def _attached(self) -> Tail:
        if self._tail is None:
            of = f" of {self.backbone_!r} behind {self.cut_!r}" if hasattr(self, "cut_") else ""
            raise InvalidInputError(
                f"the tail head is a network's own layers{of}, and nobody has given it any: use featbank "
                "fit-head --head tail, or head.attach(featbank.backbones.cut_tail(backbone, cut))"
            )
        return self._tail

    @classmethod
    def _fit_many(cls, heads: Sequence[Any], rows: TrainingRows) -> None:
        for head, every in zip(heads, rows.subsets, strict=True):
            own = every[: len(every) // rows.n_views]  # of the first view
            head._fit_one(rows, np.asarray(own, dtype=np.int64))

    def _fit_one(self, rows: TrainingRows, own: NDArray[np.int64]) -> None:
        from featbank.heads._training import Job, ModuleStack, train_stack

        tail, space = self._attached, rows.space
        if space.n_features_ != prod(tail.shape):
            raise InvalidInputError(
                f"features have {space.n_features_} columns, and the layers behind {tail.cut!r} of "
                f"{tail.backbone!r} take {prod(tail.shape)} ({'x'.join(map(str, tail.shape))}); give "
                "features of that cut"
            )
        if space.rotated_ or space.standardize:
            raise InvalidInputError(
                "the tail head takes features as they are; give a FeatureSpace(standardize=False, "
                "rotate=False)"
            )
        recipe, place = self._recipe(), torch_device(self.device)
        classes, codes = find_classes(rows.y[own])
        self.lr_ = self._rate(space.n_columns_)
        names = tail.trained(self.train, batch_norm=self.train_norm)
        stack = ModuleStack(
            recipe,
            job := Job(
                own,
                codes,
                self.lr_,
                float(self.alpha),
                self._seed(),
                rows.n_views,
                relative_weights(self.class_weight, classes, codes),
            ),
            tail.body().to(place),
            names,
            body_lr=self.lr_ / 10 if self.tail_lr is None else float(self.tail_lr),
            shape=tail.shape,
            gain=space.gain_,
            width=tail.width,
            n_classes=len(classes),
        )
        Z, scaling = rows_on_device(rows.Z, place)
        watched = watched_rows(rows.others, classes, place)
        (trained,) = train_stack(
            recipe, Z, [job], len(classes), watched, stack, rows.score_of(classes), scaling
        )
        self._accept(trained, classes, space)
        self.tail_weights_ = dict(zip(names, trained.weights[2:], strict=True))
        self.backbone_, self.digest_, self.cut_ = tail.backbone, tail.weights_sha256, tail.cut
        self._made = None

    def _accept(self, trained: TrainedHead, classes: NDArray[Any], space: FeatureSpace) -> None:
        super()._accept(replace(trained, weights=trained.weights[:2]), classes, space)

    def _body(self) -> torch.nn.Module:
        """Return the layers with what was trained of them."""
        import torch

        if self._made is None:
            body = self._attached.body()
            held = dict(body.named_parameters()) | dict(body.named_buffers())
            for name, numbers in self.tail_weights_.items():
                held[name].data = torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.float32))
            self._made = body.to(torch_device(self.device))
        return self._made

    def _logits(self, Z: NDArray[Any]) -> NDArray[np.float64]:
        import torch

        from featbank.heads._training import BODY_ROWS

        body, tail, place = self._body(), self._attached, torch_device(self.device)
        weights = [one.astype(np.float64) for one in self.weights_]
        logits = np.empty((len(Z), len(self.classes_)))
        with torch.inference_mode():
            for start in range(0, len(Z), BODY_ROWS):
                rows = np.asarray(Z[start : start + BODY_ROWS], dtype=np.float32) / np.float32(
                    self.space_.gain_
                )
                values = body(torch.from_numpy(rows).to(place).view(-1, *tail.shape)).cpu().numpy()
                logits[start : start + BODY_ROWS] = values.astype(np.float64) @ weights[0] + weights[1]
        return logits

    def _stored(self) -> tuple[dict[str, NDArray[Any]], FeatureSpace]:
        tail = {f"{_PREFIX}{name}": numbers for name, numbers in self.tail_weights_.items()}
        return {"weights_0": self.weights_[0], "weights_1": self.weights_[1], **tail}, self.space_

    def _take_stored(self, tensors: dict[str, NDArray[Any]]) -> None:
        self.weights_ = [tensors.pop("weights_0"), tensors.pop("weights_1")]
        self.tail_weights_ = {name.removeprefix(_PREFIX): numbers for name, numbers in tensors.items()}
        if not all(hasattr(self, name) for name in ("backbone_", "digest_", "cut_")):
            raise ValueError("it does not say which backbone it belongs to")

    def _try(self) -> NDArray[np.float64]:
        # the layers before the last are looked at when they are attached
        zeros = np.zeros((1, len(self.weights_[0])))
        scores: NDArray[np.float64] = zeros @ self.weights_[0] + self.weights_[1]
        return scores[:, 0] if scores.shape[1] == 2 else scores

    def _fitted_facts(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("backbone_", "digest_", "cut_")}
        return super()._fitted_facts() | own

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_made": None}


TAIL = HeadKind(TailClassifier, "the backbone's own layers behind the cut, trained on, and a new last one")
