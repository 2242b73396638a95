"""The tail head on networks made here: what is trained, from where, and what a file of it says."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from featbank.errors import InvalidInputError, RunError
from featbank.heads import TailClassifier, load_head, make, save_head


@dataclass(frozen=True)
class Layers:
    """Layers behind a made-up cut, as `featbank.backbones.Tail` gives them."""

    module: nn.Module
    shape: tuple[int, ...]
    width: int
    names: tuple[str, ...]
    backbone: str = "net"
    weights_sha256: str = "ab" * 32
    cut: str = "conv1"

    def body(self) -> nn.Module:
        return copy.deepcopy(self.module).eval().requires_grad_(False)

    def trained(self, train: Any, *, batch_norm: bool = False) -> list[str]:
        norms = [f"1.{one}" for one in ("running_mean", "running_var", "weight", "bias")]
        return [*self.names, *(norms if batch_norm else [])]


@pytest.fixture
def layers() -> Layers:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return Layers(module, (2, 5, 5), 6, ("0.weight", "0.bias"))


@pytest.fixture
def maps() -> tuple[np.ndarray, np.ndarray]:
    """Three classes that no mean over a map tells apart: lines across, lines down, a chessboard."""
    random = np.random.default_rng(0)
    y = np.arange(90) % 3
    at = np.arange(5)
    kinds = np.stack([at[:, None] % 2 + 0 * at, at % 2 + 0 * at[:, None], (at[:, None] + at) % 2])
    X = kinds[y][:, None] * np.ones((1, 2, 1, 1)) + 0.2 * random.normal(size=(90, 2, 5, 5))
    return X.reshape(90, 50).astype(np.float32), y


QUICK: dict[str, Any] = {"random_state": 0, "lr": 0.02, "tail_lr": 0.02, "max_epochs": 30, "batch_size": 16}


def test_training_the_layers_learns_what_the_last_alone_does_not(layers, maps) -> None:
    X, y = maps
    longer = QUICK | {"lr": 0.05, "max_epochs": 60, "patience": 60, "lr_schedule": "constant"}
    whole = TailClassifier(**longer | {"tail_lr": 0.05}).attach(layers).fit(X[:60], y[:60])
    frozen = TailClassifier(**longer | {"tail_lr": 1e-9}).attach(layers).fit(X[:60], y[:60])
    assert whole.score(X[60:], y[60:]) == 1.0
    assert whole.history_["train_loss"][-1] < 0.01 < 0.4 < frozen.history_["train_loss"][-1]


def test_only_what_is_named_moves_and_the_network_given_stays(layers, maps) -> None:
    before = {name: one.clone() for name, one in layers.module.state_dict().items()}
    head = TailClassifier(**QUICK | {"max_epochs": 2}).attach(layers).fit(*maps)
    assert set(head.tail_weights_) == {"0.weight", "0.bias"}
    assert all(np.abs(one - before[name].numpy()).max() > 1e-3 for name, one in head.tail_weights_.items())
    assert all(torch.equal(one, before[name]) for name, one in layers.module.state_dict().items())
    asked = TailClassifier(**QUICK | {"max_epochs": 2}, train_norm=True).attach(layers).fit(*maps)
    assert np.abs(asked.tail_weights_["1.running_mean"]).max() > 1e-3
    assert all(torch.equal(one, before[name]) for name, one in layers.module.state_dict().items())
    X, y = maps
    assert asked.score(X, y) == (asked.predict(X[::-1]) == y[::-1]).mean()  # statistics are not those of X


def test_scores_are_those_of_the_layers_with_what_was_trained(layers, maps) -> None:
    X, y = maps
    head = TailClassifier(**QUICK | {"max_epochs": 3}).attach(layers).fit(X, y)
    body = layers.body()
    body.load_state_dict(
        body.state_dict() | {name: torch.from_numpy(one) for name, one in head.tail_weights_.items()}
    )
    values = body(torch.from_numpy(X).view(-1, 2, 5, 5)).numpy()
    np.testing.assert_allclose(
        head.decision_function(X), values @ head.weights_[0] + head.weights_[1], rtol=1e-5, atol=1e-5
    )


def test_wide_features_go_in_as_they_are(maps) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(5000, 4), nn.Tanh())  # over 4,096 columns spaces shrink
    wide = Layers(module, (2, 50, 50), 4, ("1.weight",))
    X = np.random.default_rng(0).normal(size=(12, 5000)).astype(np.float32)
    head = TailClassifier(**QUICK | {"max_epochs": 1}).attach(wide).fit(X, np.arange(12) % 2)
    weights = torch.from_numpy(head.tail_weights_["1.weight"])
    values = torch.tanh(torch.from_numpy(X) @ weights.T + module[1].bias.detach()).numpy()
    scores = values @ head.weights_[0] + head.weights_[1]
    np.testing.assert_allclose(head.decision_function(X), scores[:, 1] - scores[:, 0], rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_bits_and_dropout_is_drawn_by_it(layers, maps) -> None:
    def fitted(**changed: Any) -> np.ndarray:
        head = TailClassifier(**QUICK | {"max_epochs": 2} | changed).attach(layers).fit(*maps)
        return head.tail_weights_["0.weight"]

    dropped = fitted(dropout=0.5)
    torch.manual_seed(99)
    np.testing.assert_array_equal(fitted(dropout=0.5), dropped)
    assert not np.array_equal(fitted(dropout=0.5, random_state=1), dropped)
    assert not np.array_equal(fitted(), dropped)


def test_validation_rows_stop_it_and_the_best_epoch_is_kept(layers, maps) -> None:
    X, y = maps
    head = TailClassifier(**QUICK | {"patience": 2, "max_epochs": 60}).attach(layers)
    head.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    assert head.stop_reason_ == "tolerance"
    assert head.best_epoch_ == head.n_epochs_ - 2
    assert head.history_["val_accuracy"][head.best_epoch_ - 1] == head.score(X[60:], y[60:])


def test_a_file_says_which_backbone_it_belongs_to(tmp_path: Path, layers, maps) -> None:
    X, y = maps
    head = TailClassifier(**QUICK | {"max_epochs": 3}).attach(layers).fit(X, y)
    save_head(tmp_path / "tail", head, facts={"cut": "conv1"})
    again, facts = load_head(tmp_path / "tail")
    assert facts == {"cut": "conv1"}
    assert (again.backbone_, again.digest_, again.cut_) == ("net", "ab" * 32, "conv1")
    with pytest.raises(InvalidInputError, match=r"layers of 'net' behind 'conv1', and nobody has given it"):
        again.predict(X)
    for other in ({"backbone": "other"}, {"weights_sha256": "cd" * 32}, {"cut": "conv2"}):
        with pytest.raises(InvalidInputError, match=r"^the head is the tail of 'net' \(weights abababab"):
            again.attach(replace(layers, **other))
    narrow = replace(layers, module=nn.Sequential(nn.Conv2d(2, 5, 3), *layers.module[2:]), width=5)
    with pytest.raises(InvalidInputError, match=r"^the '0\.[a-z]+' of the head does not fit 'net' behind"):
        again.attach(narrow)
    np.testing.assert_array_equal(again.attach(layers).predict_proba(X), head.predict_proba(X))


def test_a_file_without_a_backbone_is_damaged(tmp_path: Path, layers, maps) -> None:
    head = TailClassifier(**QUICK | {"max_epochs": 1}).attach(layers).fit(*maps)
    head._fitted_facts = lambda: {"failed_": None}
    save_head(tmp_path / "tail", head)
    with pytest.raises(RunError, match="it does not say which backbone it belongs to"):
        load_head(tmp_path / "tail")


def test_what_does_not_go(layers, maps) -> None:
    X, y = maps
    with pytest.raises(InvalidInputError, match=r"^the tail head is a network's own layers, and nobody has"):
        make("tail").fit(X, y)
    with pytest.raises(InvalidInputError, match=r"^features have 49 columns, and the layers behind 'conv1' "):
        make("tail").attach(layers).fit(X[:, 1:], y)
    with pytest.raises(InvalidInputError, match=r"train='first' \(allowed: a whole number from 1, 'all' or "):
        make("tail", train="first")
    with pytest.raises(InvalidInputError, match="has no parameter 'standardize'"):
        make("tail", standardize=True)
