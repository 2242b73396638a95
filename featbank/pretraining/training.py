"""Trains one network from scratch on images in memory, epoch by epoch, with a checkpoint it resumes from."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import make_folder, sha256, write_file
from featbank.errors import InvalidInputError, WeightsError
from featbank.pretraining.recipe import PretrainSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["PretrainedWeights", "TrainingImages", "train_network"]

logger = logging.getLogger(__name__)

#: Stands for a tensor that is not there when shapes are compared.
_NOTHING = np.zeros((0, 0, 0, 0, 0))


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """Images small enough to keep in memory, with their classes.

    Parameters
    ----------
    images : ndarray of uint8, shape (n_samples, size, size, 3)
        RGB.
    labels : ndarray of int64, shape (n_samples,)
        Class of each.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(eq=False)
class PretrainedWeights:
    """What training left: the weights and how they came about.

    Parameters
    ----------
    state : dict of str to ndarray
        Weights and batch-norm statistics by name, float32 (counters int64).
    log : list of dict
        One entry per epoch: ``epoch``, ``lr``, ``train_loss``, ``train_accuracy`` (on augmented images, while
        training), ``test_accuracy``, ``duration_s``.
    settings : PretrainSettings
        The recipe.
    test_accuracy : float
        Top-1 accuracy of these weights on the test images, in 0..1. That of the last epoch, unless weights
        of several epochs were averaged.
    """

    state: dict[str, NDArray[Any]]
    log: list[dict[str, float]] = field(default_factory=list)
    settings: PretrainSettings = field(default_factory=PretrainSettings)
    test_accuracy: float = 0.0

    def to_safetensors(self, path: Path, metadata: dict[str, str]) -> str:
        """Write the weights in float16 and return the SHA-256 of the file.

        Raises
        ------
        WeightsError
            If a weight does not fit float16.
        CacheWriteError
            If the file cannot be written.
        """
        from safetensors.numpy import save

        tensors = {}
        for name, values in self.state.items():
            with np.errstate(over="ignore"):  # told below, with the tensor's name
                small = values.astype(np.float16) if values.dtype == np.float32 else values
            if not np.isfinite(small).all():
                raise WeightsError(
                    f"{name!r} does not fit float16 (largest value {np.abs(values).max():.3g})"
                )
            tensors[name] = small
        data = save(tensors, metadata=metadata)
        write_file(path, data)
        return sha256(data)


def train_network(
    build: Callable[[], nn.Module],
    train: TrainingImages,
    test: TrainingImages,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    settings: PretrainSettings | None = None,
    initial: dict[str, NDArray[Any]] | None = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> PretrainedWeights:
    """Train a new network and measure it on `test` after each epoch; the last epoch counts, none is picked.

    Everything random in an epoch comes from a generator seeded by ``(random_state, epoch)``, so that a run
    which was interrupted and resumed from its checkpoint goes the way of one that was not.

    Parameters
    ----------
    build : callable
        Makes the untrained network, which takes (batch, 3, size, size) and gives logits. It is called after
        seeding, because the initial weights belong to the recipe.
    train, test : TrainingImages
        The images; `test` never influences the weights.
    mean, std : tuple of float, length 3
        Normalisation of the input, in units of 0..1.
    settings : PretrainSettings, optional
        The recipe.
    initial : dict of str to ndarray, optional
        Weights to start from instead of random ones.
    checkpoint : pathlib.Path, optional
        A ``.safetensors`` file rewritten after each epoch; when it exists, training goes on from it.
    device : str, default="cpu"
        Where to train.
    on_step : callable, optional
        Called with (step, steps per epoch).
    on_epoch : callable, optional
        Called with the log entry of each finished epoch.

    Returns
    -------
    PretrainedWeights

    Raises
    ------
    InvalidInputError
        If the checkpoint was made with other settings.
    """
    import torch

    settings = settings or PretrainSettings()
    torch.manual_seed(settings.random_state)
    trainer = _Trainer(build().to(device), settings, device, mean, std)
    if initial is not None:
        trainer.load(initial)
    log = trainer.restore(checkpoint) if checkpoint is not None and checkpoint.exists() else []
    steps = math.ceil(len(train.labels) / settings.batch_size)
    for epoch in range(len(log), settings.epochs):
        started = time.perf_counter()
        loss, accuracy = trainer.epoch(epoch, train, steps, on_step)
        entry = {
            "epoch": epoch + 1,
            "lr": settings.learning_rate(epoch),
            "train_loss": loss,
            "train_accuracy": accuracy,
            "test_accuracy": trainer.accuracy(test),
            "duration_s": time.perf_counter() - started,
        }
        log.append(entry)
        if epoch >= settings.epochs - settings.averaged_epochs:
            trainer.add_to_average()
        logger.info("epoch %d of %d: %s", epoch + 1, settings.epochs, entry)
        if checkpoint is not None:
            trainer.save(checkpoint, log)
        if on_epoch is not None:
            on_epoch(entry)
    if settings.averaged_epochs:
        trainer.take_average(train, steps)
    return PretrainedWeights(trainer.weights(), log, settings, trainer.accuracy(test))


class _Trainer:
    """One network being trained: its optimiser, its augmentation, its checkpoint."""

    def __init__(
        self,
        network: nn.Module,
        settings: PretrainSettings,
        device: str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        import torch

        self.network = network.to(memory_format=torch.channels_last)
        self.settings = settings
        self._sum: dict[str, Tensor] = {}
        self.device = torch.device(device)
        self.mean = torch.tensor(mean, device=device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(std, device=device).view(1, 3, 1, 1) * 255
        decayed = [p for p in network.parameters() if p.ndim > 1]
        others = [p for p in network.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer: torch.optim.Optimizer
        if settings.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)
        else:
            self.optimizer = torch.optim.AdamW(groups, lr=settings.lr)

    def epoch(
        self, epoch: int, train: TrainingImages, steps: int, on_step: Callable[[int, int], None] | None
    ) -> tuple[float, float]:
        """Train for one epoch; returns the mean loss and the accuracy on the augmented images."""
        import torch
        from torch.nn import functional

        settings = self.settings
        random = np.random.default_rng((settings.random_state, epoch))
        torch.manual_seed(int(random.integers(2**31)))  # dropout
        order = random.permutation(len(train.labels))
        self.network.train()
        total_loss = total_right = 0.0
        for step in range(steps):
            rows = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            batch = self._augmented(train.images[rows], random)
            target = torch.from_numpy(train.labels[rows]).to(self.device)
            for group in self.optimizer.param_groups:
                group["lr"] = settings.learning_rate(epoch + step / steps)
            with self._autocast():
                logits = self.network(batch)
            loss = functional.cross_entropy(logits.float(), target, label_smoothing=settings.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total_loss += float(loss.detach()) * len(rows)
            total_right += float((logits.argmax(1) == target).sum())
            if on_step is not None:
                on_step(step + 1, steps)
        return total_loss / len(order), total_right / len(order)

    def _augmented(self, images: NDArray[np.uint8], random: np.random.Generator) -> Tensor:
        """Crop and flip at random, then normalise: (batch, size, size, 3) uint8 to (batch, 3, size, size)."""
        padding, size = self.settings.crop_padding, images.shape[1]
        if padding:
            images = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="reflect")
        corner = random.integers(0, 2 * padding + 1, size=(2, len(images), 1))
        across = np.arange(size)[None, :]
        if self.settings.flip:
            mirrored = random.random((len(images), 1)) < 0.5
            across = np.where(mirrored, size - 1 - across, across)
        ys, xs = corner[0] + np.arange(size)[None, :], corner[1] + across
        picked = images[np.arange(len(images))[:, None, None], ys[:, :, None], xs[:, None, :]]
        if self.settings.cutout:
            centre = random.integers(0, size, size=(2, len(images), 1))
            near = np.abs(np.arange(size)[None, :] - centre) * 2 < self.settings.cutout  # (2, batch, size)
            # the mean colour is what the network sees as nothing
            picked[near[0][:, :, None] & near[1][:, None, :]] = (
                self.mean.round().flatten().cpu().numpy().astype(np.uint8)
            )
        return self._normalised(picked)

    def _normalised(self, images: NDArray[np.uint8]) -> Tensor:
        import torch

        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        # permute of a (b, h, w, c) array is channels-last already; .float() keeps the layout
        return (batch.permute(0, 3, 1, 2).float() - self.mean) / self.std  # (batch, 3, size, size)

    def _autocast(self) -> torch.autocast:
        import torch

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16")

    def load(self, weights: dict[str, NDArray[Any]]) -> None:
        """Start from these weights."""
        import torch

        own = self.network.state_dict()
        wrong = [
            name
            for name in own.keys() | weights.keys()
            if own.get(name, _NOTHING).shape != weights.get(name, _NOTHING).shape
        ]
        if wrong:
            raise WeightsError(
                f"the initial weights are those of another network: {', '.join(sorted(wrong)[:3])}"
            )
        self.network.load_state_dict(
            {name: torch.from_numpy(weights[name]).to(own[name].dtype) for name in own}
        )

    def add_to_average(self) -> None:
        """Add the present weights to those that are averaged in the end."""
        for name, value in self.network.named_parameters():
            # contiguous: safetensors writes memory as it lies, and channels-last lies otherwise
            self._sum[name] = (self._sum.get(name, 0) + value.detach().cpu()).contiguous()

    def take_average(self, train: TrainingImages, steps: int) -> None:
        """Replace the weights by their average, and take the batch-norm statistics that belong to it."""
        import torch
        from torch import nn

        settings = self.settings
        for name, value in self.network.named_parameters():
            value.data.copy_(self._sum[name] / settings.averaged_epochs)
        norms = [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over all batches
        random = np.random.default_rng((settings.random_state, settings.epochs))
        order = random.permutation(len(train.labels))
        self.network.train()
        with torch.no_grad(), self._autocast():
            for step in range(steps):
                rows = order[step * settings.batch_size : (step + 1) * settings.batch_size]
                self.network(self._augmented(train.images[rows], random))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def accuracy(self, test: TrainingImages) -> float:
        """Return the top-1 accuracy, without augmentation, in the precision of the training."""
        import torch

        self.network.eval()
        right = 0
        with torch.inference_mode(), self._autocast():
            for start in range(0, len(test.labels), 500):
                logits = self.network(self._normalised(test.images[start : start + 500]))
                right += int((logits.argmax(1).cpu().numpy() == test.labels[start : start + 500]).sum())
        return right / len(test.labels)

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the weights on the host."""
        return {
            name: value.detach().cpu().contiguous().numpy().copy()
            for name, value in self.network.state_dict().items()
        }

    def save(self, path: Path, log: list[dict[str, float]]) -> None:
        """Write weights, optimiser state and log as one safetensors file, whole or not at all."""
        from safetensors.numpy import save

        tensors = {f"network.{name}": value for name, value in self.weights().items()}
        tensors |= {f"average.{name}": value.numpy() for name, value in self._sum.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer.{index}.{name}"] = value.detach().cpu().contiguous().numpy()
        facts = {"settings": json.dumps(asdict(self.settings), sort_keys=True), "log": json.dumps(log)}
        make_folder(path.parent)
        write_file(path, save(tensors, metadata=facts))

    def restore(self, path: Path) -> list[dict[str, float]]:
        """Go on from a checkpoint; returns its log."""
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        theirs, mine = json.loads(facts.get("settings", "{}")), asdict(self.settings)
        differing = [
            f"{name}: {theirs.get(name)!r} there, {mine[name]!r} asked"
            for name in mine
            if theirs.get(name) != mine[name]
        ]
        if differing:
            raise InvalidInputError(
                f"checkpoint {str(path)!r} was made with other settings ({'; '.join(differing)}); "
                "use the same settings, remove it, or give another folder (--output, output=)"
            )
        self.network.load_state_dict(
            {n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")}
        )
        self._sum = {n.removeprefix("average."): t for n, t in tensors.items() if n.startswith("average.")}
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        log: list[dict[str, float]] = json.loads(facts["log"])
        return log
