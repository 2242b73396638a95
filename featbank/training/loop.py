"""Trains one network on images in memory, epoch by epoch, with a checkpoint it resumes from."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import make_folder, write_file
from featbank._validation import short
from featbank.errors import InvalidInputError, TrainingDivergedError, WeightsError, one_line
from featbank.metrics import confusion_matrix
from featbank.training.augmentation import Augmentation
from featbank.training.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["TrainedNetwork", "TrainingImages", "differing", "train_network"]

logger = logging.getLogger(__name__)

#: One number for each of red, green and blue.
Channels: TypeAlias = tuple[float, float, float]

#: A loss so many times that of guessing, after an epoch, will not come down again.
_HOPELESS = 20
#: Pixels of a batch of images that is only looked at: what layers give of them stays within a gigabyte.
_EVALUATED_PIXELS = 512 * 32 * 32


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

    def mean_and_std(self) -> tuple[Channels, Channels]:
        """Return mean and standard deviation of each channel, in units of 0..1."""
        total = np.zeros(3)
        squares = np.zeros(3)
        for start in range(0, len(self.images), 1000):
            pixels = self.images[start : start + 1000].reshape(-1, 3).astype(np.float64) / 255
            total += pixels.sum(0)
            squares += (pixels**2).sum(0)
        count = self.images.size / 3
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
        red, green, blue = (round(float(one), 4) for one in mean)
        of_red, of_green, of_blue = (round(float(one), 4) for one in std)
        return (red, green, blue), (of_red, of_green, of_blue)


@dataclass(eq=False)
class TrainedNetwork:
    """What training left: the weights and how they came about.

    Parameters
    ----------
    state : dict of str to ndarray
        Weights and batch-norm statistics by name, float32 (counters int64).
    history : list of dict
        See `featbank.training.TrainResult`.
    recipe : Recipe
    scores : dict of str to float
        Of these weights, ``val_`` and ``test_`` as in `history`: those of the last epoch, unless the best was
        kept or weights were averaged.
    confusion : ndarray of int64, shape (n_classes, n_classes), or None
        Test images (validation images where there are none) by class and by what they were taken for.
    best_epoch : int
        The epoch whose weights these are.
    stopped_early : bool
        Whether `Recipe.patience` ended it.
    """

    state: dict[str, NDArray[Any]]
    history: list[dict[str, float]] = field(default_factory=list)
    recipe: Recipe = field(default_factory=Recipe)
    scores: dict[str, float] = field(default_factory=dict)
    confusion: NDArray[np.int64] | None = None
    best_epoch: int = 0
    stopped_early: bool = False


def train_network(
    build: Callable[[], nn.Module],
    train: TrainingImages,
    *,
    val: TrainingImages | None = None,
    test: TrainingImages | None = None,
    also: Mapping[str, TrainingImages] | None = None,
    mean: Channels,
    std: Channels,
    recipe: Recipe | None = None,
    initial: Mapping[str, NDArray[Any]] | None = None,
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 10.0,
    identity: Mapping[str, Any] | None = None,
    device: str | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> TrainedNetwork:
    """Train a network and measure it after each epoch.

    Images lie on the device as bytes and are augmented there, and nothing waits for the device within an
    epoch. Everything random in an epoch comes from a generator seeded by ``(random_state, epoch)``, so that
    a run which was killed and resumed from its checkpoint goes the way of one that was not: to the same bits
    on a CPU; on a card as far as its backward passes are deterministic, which those of overlapping pools are
    not.

    Parameters
    ----------
    build : callable
        Makes the network, which takes (batch, 3, size, size) and gives logits. It is called after seeding,
        because the initial weights belong to the recipe. Parameters that want no gradient stay as they are,
        and so do the statistics of their batch norms.
    train : TrainingImages
    val : TrainingImages, optional
        What `Recipe.patience` goes by; nothing else is chosen by them.
    test : TrainingImages, optional
        They never influence the weights.
    also : mapping of str to TrainingImages, optional
        Others that the weights are measured on in the end, by the name that their scores begin with.
    mean, std : tuple of float, length 3
        Normalisation of the input, in units of 0..1.
    recipe : Recipe, optional
    initial : mapping of str to ndarray, optional
        Weights to start from instead of random ones.
    checkpoint : pathlib.Path, optional
        A ``.safetensors`` file written after epochs; when it exists, training goes on from it.
    checkpoint_every_s : float, default=10
        Least seconds between two of them.
    identity : mapping of str to JSON values, optional
        What else a checkpoint must agree with: network, data, classes.
    device : str, optional
        The best there is by default.
    on_step : callable, optional
        Called with (steps done, steps of all epochs); on a card they are counted when they are queued.
    on_epoch : callable, optional
        Called with the history entry of each finished epoch; what it raises ends the training.

    Returns
    -------
    TrainedNetwork

    Raises
    ------
    InvalidInputError
        If the checkpoint was made with another recipe, network or data, there are no images to stop by, or
        the device does not exist.
    WeightsError
        If the initial weights are those of another network, or the checkpoint is damaged.
    TrainingDivergedError
        If the loss is not finite any more, or far beyond that of guessing.
    """
    import torch

    recipe = recipe or Recipe()
    if recipe.patience and val is None:
        raise InvalidInputError(f"patience={recipe.patience} needs validation images; give a split with some")
    place = _device(device)
    devices = [place.index or 0] if place.type == "cuda" else []
    # The caller's random numbers are none of ours.
    with torch.random.fork_rng(devices=devices), _deterministic():
        torch.manual_seed(recipe.random_state)
        trainer = _Trainer(build(), recipe, place, mean, std, dict(identity or {}))
        trainer.check_images(train)
        if initial is not None:
            trainer.load(initial)
        if checkpoint is not None and checkpoint.exists():
            trainer.restore(checkpoint)
        data = trainer.on_device(train)
        looked_at = {
            name: trainer.on_device(one) for name, one in (("val", val), ("test", test)) if one is not None
        }
        saved_at = time.perf_counter()
        while not trainer.finished:
            started = time.perf_counter()
            entry = trainer.epoch(data, on_step)
            entry["train_duration_s"] = time.perf_counter() - started
            for name, images in looked_at.items():
                entry |= {f"{name}_{key}": value for key, value in trainer.evaluate(*images)[0].items()}
            entry["duration_s"] = time.perf_counter() - started
            if not looked_at and entry["epoch"] == recipe.epochs:
                trainer.glance(*data)
            trainer.note(entry)
            logger.info("epoch %d of %d: %s", entry["epoch"], recipe.epochs, entry)
            is_due = trainer.finished or time.perf_counter() - saved_at >= checkpoint_every_s
            if checkpoint is not None and is_due:
                trainer.save(checkpoint)
                saved_at = time.perf_counter()
            if on_epoch is not None:
                on_epoch(entry)
        trainer.take_kept(data)
        if not looked_at:
            trainer.glance(*data)
        scores: dict[str, float] = {}
        confusion = None
        for name, images in looked_at.items():
            found, taken_for = trainer.evaluate(*images)
            scores |= {f"{name}_{key}": value for key, value in found.items()}
            labels = images[1].cpu().numpy()
            confusion = confusion_matrix(labels, taken_for.cpu().numpy(), trainer.n_classes)
        for name, others in (also or {}).items():
            found, _ = trainer.evaluate(*trainer.on_device(others))
            scores |= {f"{name}_{key}": value for key, value in found.items()}
        return TrainedNetwork(
            trainer.weights(),
            trainer.history,
            recipe,
            scores,
            confusion,
            trainer.best_epoch or len(trainer.history),
            len(trainer.history) < recipe.epochs,
        )


def _device(name: str | None) -> torch.device:
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        said = one_line(error, first=True)
        raise InvalidInputError(f"device={name!r} cannot be used: {said}; use 'cpu' or 'cuda'") from error
    return device


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Let cuDNN take only what gives the same bits again."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=True):
        yield


class _Trainer:
    """One network being trained: its optimiser, its history, its checkpoint."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        device: torch.device,
        mean: Channels,
        std: Channels,
        identity: dict[str, Any],
    ) -> None:
        import torch

        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.recipe = recipe
        self.device = device
        self.identity = identity
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0
        self.n_classes = 0
        #: Weights that are kept besides the present ones: of the best epoch, or their sum.
        self._kept: dict[str, Tensor] = {}
        self.mean = torch.tensor(mean, device=device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(std, device=device).view(1, 3, 1, 1) * 255
        trained = [one for one in network.parameters() if one.requires_grad]
        groups = [
            {"params": [one for one in trained if one.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [one for one in trained if one.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [one for one in groups if one["params"]]
        fused = device.type == "cuda"
        self.optimizer: torch.optim.Optimizer
        if recipe.optimizer == "sgd":
            momentum, nesterov = recipe.momentum, recipe.momentum > 0
            self.optimizer = torch.optim.SGD(groups, recipe.lr, momentum, nesterov=nesterov, fused=fused)
        else:
            kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
            self.optimizer = kind(groups, recipe.lr, fused=fused)

    @property
    def finished(self) -> bool:
        done, patience = len(self.history), self.recipe.patience
        return done >= self.recipe.epochs or bool(patience and done - self.best_epoch >= patience)

    def check_images(self, train: TrainingImages) -> None:
        """Push two images through, so that what does not fit is told before the first epoch."""
        import torch

        size = train.images.shape[1]
        try:
            with torch.no_grad():
                logits = self.network.eval()(torch.zeros(2, 3, size, size, device=self.device))
        except RuntimeError as error:
            said = one_line(error, first=True)
            raise InvalidInputError(
                f"images of {size} x {size} pixels do not pass through the network: {said}"
            ) from error
        self.n_classes = logits.shape[1]

    def on_device(self, data: TrainingImages) -> tuple[Tensor, Tensor]:
        import torch

        images = torch.from_numpy(np.ascontiguousarray(data.images)).to(self.device)
        return images, torch.from_numpy(data.labels).to(self.device)

    def train_mode(self) -> None:
        from torch.nn.modules.batchnorm import _BatchNorm

        self.network.train()
        for module in self.network.modules():
            if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
                module.eval()

    def epoch(
        self, data: tuple[Tensor, Tensor], on_step: Callable[[int, int], None] | None
    ) -> dict[str, float]:
        """Train for one epoch; returns its history entry, without what is measured afterwards."""
        import torch
        from torch.nn import functional

        recipe, (images, labels) = self.recipe, data
        number, n_samples = len(self.history), len(labels)
        random = np.random.default_rng((recipe.random_state, number))
        torch.manual_seed(int(random.integers(2**31)))  # dropout
        order = torch.from_numpy(random.permutation(n_samples)).to(self.device)
        augmentation = Augmentation.draw(recipe, random, n_samples, images.shape[1], self.device)
        steps = _n_steps(n_samples, recipe.batch_size)
        self.train_mode()
        totals = torch.zeros(3, device=self.device)
        for step in range(steps):
            at = slice(step * recipe.batch_size, _end(step, steps, recipe.batch_size, n_samples))
            rows = order[at]
            batch = self._normalised(augmentation.apply(images, rows, at, self.mean))
            target = labels[rows]
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.learning_rate(number + step / steps)
            with self._autocast():
                logits = self.network(batch)
            loss = functional.cross_entropy(logits.float(), target, label_smoothing=recipe.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            totals += _totals(loss.detach() * len(rows), logits.detach(), target)
            if on_step is not None:
                on_step(number * steps + step + 1, recipe.epochs * steps)
        loss_sum, top1, top5 = (float(one) / n_samples for one in totals.tolist())
        guessing = math.log(logits.shape[1])
        if not math.isfinite(loss_sum) or loss_sum > _HOPELESS * guessing:
            raise self._diverged(number + 1, loss_sum, logits.shape[1])
        return {
            "epoch": number + 1,
            "lr": recipe.learning_rate(number),
            "train_loss": loss_sum,
            "train_top1": top1,
            "train_top5": top5,
        }

    def _diverged(self, number: int, loss: float, n_classes: int) -> TrainingDivergedError:
        before = ", ".join(f"{one['train_loss']:.3g}" for one in self.history[-3:])
        was = f" after {before}" if before else ""
        return TrainingDivergedError(
            f"training diverged in epoch {number}: the loss is {loss:.3g}{was}, and guessing has "
            f"{math.log(n_classes):.3g}; use a lower learning rate than lr={self.recipe.lr:g}, or "
            "warmup_epochs"
        )

    def evaluate(self, images: Tensor, labels: Tensor) -> tuple[dict[str, float], Tensor]:
        """Return loss, top-1 and top-5, and what each was taken for.

        Without augmentation, in the precision of the training.
        """
        import torch
        from torch.nn import functional

        self.network.eval()
        totals = torch.zeros(3, device=self.device)
        taken_for = []
        at_once = _evaluated_at_once(images)
        with torch.inference_mode(), self._autocast():
            for start in range(0, len(labels), at_once):
                batch = images[start : start + at_once].permute(0, 3, 1, 2).float()
                target = labels[start : start + at_once]
                logits = self.network(self._normalised(batch)).float()
                totals += _totals(functional.cross_entropy(logits, target, reduction="sum"), logits, target)
                taken_for.append(logits.argmax(1))
        loss, top1, top5 = (float(one) / len(labels) for one in totals.tolist())
        if not math.isfinite(loss):  # the last step did it, and no epoch has seen what came of it
            number = min(len(self.history) + 1, self.recipe.epochs)
            raise self._diverged(number, loss, logits.shape[1])
        return {"loss": loss, "top1": top1, "top5": top5}, torch.cat(taken_for)

    def glance(self, images: Tensor, labels: Tensor) -> None:
        """Refuse what the last step drove to infinity, where no other images would show it."""
        at_once = _evaluated_at_once(images)
        self.evaluate(images[:at_once], labels[:at_once])

    def note(self, entry: dict[str, float]) -> None:
        """Take an epoch into the history, and its weights where they are to be kept."""
        self.history.append(entry)
        recipe = self.recipe
        if recipe.patience:
            best = max(one["val_top1"] for one in self.history[:-1]) if len(self.history) > 1 else -1.0
            if entry["val_top1"] > best:
                self.best_epoch = len(self.history)
                self._kept = {name: one.detach().clone() for name, one in self.network.state_dict().items()}
        elif len(self.history) > recipe.epochs - recipe.averaged_epochs:
            for name, value in self.network.named_parameters():
                self._kept[name] = self._kept.get(name, 0) + value.detach()

    def take_kept(self, data: tuple[Tensor, Tensor]) -> None:
        """Put the weights of the best epoch, or the mean of the last ones, into the network."""
        if self.recipe.patience:
            self.network.load_state_dict(self._kept)
        elif self.recipe.averaged_epochs:
            self._take_average(data)

    def _take_average(self, data: tuple[Tensor, Tensor]) -> None:
        """Replace the weights by their average, and take the batch-norm statistics that belong to it."""
        import torch
        from torch.nn.modules.batchnorm import _BatchNorm

        recipe, (images, labels) = self.recipe, data
        for name, value in self.network.named_parameters():
            value.data.copy_(self._kept[name] / recipe.averaged_epochs)
        self.train_mode()
        norms = [one for one in self.network.modules() if isinstance(one, _BatchNorm) and one.training]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over all batches
        n_samples = len(labels)
        random = np.random.default_rng((recipe.random_state, recipe.epochs))
        order = torch.from_numpy(random.permutation(n_samples)).to(self.device)
        augmentation = Augmentation.draw(recipe, random, n_samples, images.shape[1], self.device)
        steps = _n_steps(n_samples, recipe.batch_size)
        with torch.no_grad(), self._autocast():
            for step in range(steps):
                at = slice(step * recipe.batch_size, _end(step, steps, recipe.batch_size, n_samples))
                self.network(self._normalised(augmentation.apply(images, order[at], at, self.mean)))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def _normalised(self, batch: Tensor) -> Tensor:
        return (batch - self.mean) / self.std

    def _autocast(self) -> torch.autocast:
        import torch

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16")

    def load(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Start from these weights."""
        import torch

        own = self.network.state_dict()
        wrong = sorted(
            name
            for name in own.keys() | weights.keys()
            if name not in own or name not in weights or own[name].shape != weights[name].shape
        )
        if wrong:
            raise WeightsError(f"the initial weights are those of another network: {', '.join(wrong[:3])}")
        self.network.load_state_dict(
            {name: torch.from_numpy(weights[name]).to(own[name].dtype) for name in own}
        )

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the weights on the host."""
        return {name: _on_host(value) for name, value in self.network.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write weights, optimiser state and history as one safetensors file, whole or not at all."""
        from safetensors.numpy import save

        tensors = {f"network.{name}": value for name, value in self.weights().items()}
        tensors |= {f"kept.{name}": _on_host(value) for name, value in self._kept.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if value is not None:  # SGD's first step has no momentum yet
                    tensors[f"optimizer.{index}.{name}"] = _on_host(value)
        facts = {"recipe": asdict(self.recipe), **self.identity}
        said = {
            "facts": json.dumps(facts, sort_keys=True),
            "history": json.dumps(self.history),
            "best_epoch": str(self.best_epoch),
        }
        make_folder(path.parent)
        write_file(path, save(tensors, metadata=said))

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                said = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            theirs, history = json.loads(said["facts"]), json.loads(said["history"])
            best_epoch = int(said["best_epoch"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise WeightsError(
                f"checkpoint {str(path)!r} is damaged ({error}); remove it to begin again"
            ) from error
        mine = json.loads(json.dumps({"recipe": asdict(self.recipe), **self.identity}))
        other = [
            f"{name}: {short(there)} there, {short(here)} asked"
            for name, there, here in differing(theirs, mine)
        ]
        if other:
            raise InvalidInputError(
                f"checkpoint {str(path)!r} was made otherwise ({'; '.join(other[:3])}); ask for the same, "
                "remove it, or give another folder (--output, output=)"
            )
        self.network.load_state_dict(_under("network", tensors))
        self._kept = {name: one.to(self.device) for name, one in _under("kept", tensors).items()}
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer", tensors).items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        self.history, self.best_epoch = history, best_epoch


def _evaluated_at_once(images: Tensor) -> int:
    return max(1, _EVALUATED_PIXELS // images.shape[1] ** 2)


def _n_steps(n_samples: int, batch_size: int) -> int:
    """Return the steps of an epoch; one image left over joins the last, as batch norm needs two."""
    return max(1, n_samples // batch_size + (n_samples % batch_size > 1))


def _end(step: int, steps: int, batch_size: int, n_samples: int) -> int:
    return n_samples if step == steps - 1 else (step + 1) * batch_size


def _totals(loss_sum: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """Return the sums of losses and of hits, on the device."""
    import torch

    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices  # (batch, 5)
    hits = ranked == target[:, None]
    return torch.stack([loss_sum.float(), hits[:, 0].sum().float(), hits.sum().float()])


def _on_host(value: Tensor) -> NDArray[Any]:
    # contiguous: safetensors writes memory as it lies, and channels-last lies otherwise
    found: NDArray[Any] = value.detach().cpu().contiguous().numpy().copy()
    return found


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): one for name, one in tensors.items() if name.startswith(f"{prefix}.")
    }


def differing(theirs: dict[str, Any], mine: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name of each value that two mappings, and those inside, do not share, and both values."""
    for name in theirs.keys() | mine.keys():
        there, here = theirs.get(name), mine.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            yield from differing(there, here)
        elif there != here:
            yield name, there, here
