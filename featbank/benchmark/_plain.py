"""The script one writes without featbank: a loader, the weights' own transform, a hook, the whole network."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, fx, nn
from torch.utils import data as torch_data
from torchvision import transforms
from torchvision.models.feature_extraction import NodePathTracer

from featbank._process import pickle_for_child, without_current_folder

if TYPE_CHECKING:
    from featbank.backbones import Backbone, Preprocessing
    from featbank.datasets import Dataset


class PlainScript:
    """Eager float32, channels first, nothing truncated; the features of each batch are kept in a list.

    Parameters
    ----------
    backbone : Backbone
        The whole network; it is moved to `device`.
    cuts : sequence of str
        Where the hooks are.
    dataset : Dataset
        Gives the files' bytes.
    indices : sequence of int
        Which images, in order.
    device : torch.device
        Where to compute.
    batch_size : int, default=32
        Images per forward pass.
    workers : int
        Loading processes; 0 decodes between two forward passes.
    """

    def __init__(
        self,
        backbone: Backbone,
        cuts: Sequence[str],
        dataset: Dataset,
        indices: Sequence[int],
        *,
        device: torch.device,
        batch_size: int = 32,
        workers: int,
    ) -> None:
        self._device = device
        self._kept: dict[str, list[Tensor]] = {cut: [] for cut in cuts}
        nodes = {cut: backbone.spec.cut(cut).node for cut in cuts}
        self._network = _watched(backbone.module.to(device), nodes, self._keep)
        self._chosen = _Chosen(indices)
        # Persistent, so that starting the process is not counted; it sleeps while others are measured.
        self._loader = torch_data.DataLoader(
            _Images(dataset, _own_transform(backbone.preprocessing)),
            batch_size=batch_size,
            sampler=self._chosen,
            num_workers=workers,
            # a forked process could not use CUDA, and would copy locks that threads of this one hold
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=workers > 0,
        )
        self._batch_size = batch_size
        self._source = type(dataset).__module__

    def _keep(self, cut: str, output: Tensor) -> None:
        # A copy at once: the ReLU behind the hook may overwrite what it saw.
        self._kept[cut].append(output.detach().to("cpu", copy=True))

    def warm_up(self) -> None:
        """Push one batch: loading processes and kernels are there when the clock starts."""
        indices = self._chosen.indices
        self._chosen.indices = indices[: self._batch_size]
        self.run()
        self._chosen.indices = indices

    def run(self) -> float:
        """Push all images; returns the seconds it took."""
        self.clear()
        started = time.perf_counter()
        with without_current_folder([self._source]), _no_main_module():
            batches = iter(self._loader)  # its processes are started here
        with torch.no_grad():
            for images in batches:
                self._network(images.to(self._device))
        return time.perf_counter() - started

    def clear(self) -> None:
        """Forget the features of the last run."""
        for kept in self._kept.values():
            kept.clear()

    def features(self) -> Iterator[tuple[str, int, NDArray[np.float32]]]:
        """Yield (cut, position of the first image, features) of each batch of the last run."""
        for cut, kept in self._kept.items():
            start = 0
            for tensor in kept:
                yield cut, start, tensor.numpy()
                start += len(tensor)


class _Images(torch_data.Dataset[Tensor]):
    """What ``ImageFolder`` does with one file, whatever the images come from."""

    def __init__(self, dataset: Dataset, transform: Callable[[Image.Image], Tensor]) -> None:
        self._dataset = dataset
        self._transform = transform

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(io.BytesIO(self._dataset.read(index))) as image:
            return self._transform(image.convert("RGB"))

    def __reduce__(self) -> tuple[Callable[[bytes], _Images], tuple[bytes]]:
        file = io.BytesIO()
        pickle_for_child((self._dataset, self._transform), file)
        return _unpickled_images, (file.getvalue(),)


def _unpickled_images(data: bytes) -> _Images:
    return _Images(*pickle.loads(data))


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Keep what is started from running the user's script again: many a script has no guard against that."""
    facts = vars(sys.modules["__main__"])
    names = [name for name in facts if name in ("__file__", "__spec__")]
    kept = {name: facts.pop(name) for name in names}
    facts["__spec__"] = None
    try:
        yield
    finally:
        facts.update(kept)


class _Chosen(torch_data.Sampler[int]):
    """The images in order; a warm-up takes the first few."""

    def __init__(self, indices: Sequence[int]) -> None:
        self.indices = [int(index) for index in indices]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def _own_transform(preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
    """Build what ``weights.transforms()`` gives, from torchvision's public parts."""
    steps: Callable[[Image.Image], Tensor] = transforms.Compose(
        [
            transforms.Resize(
                preprocessing.resize_size,
                interpolation=transforms.InterpolationMode(preprocessing.interpolation),
            ),
            transforms.CenterCrop(preprocessing.image_size),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float32),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    return steps


def _watched(module: nn.Module, nodes: Mapping[str, str], keep: Callable[[str, Tensor], None]) -> nn.Module:
    """Let `keep` see what passes `nodes`: by hooks, or by calls in the traced graph if one is no module."""
    modules = dict(module.named_modules())
    if all(node in modules for node in nodes.values()):
        for cut, node in nodes.items():
            modules[node].register_forward_hook(_hook(cut, keep))
        return module
    # Hooks would be lost here: the graph calls the innermost modules only.
    tracer = NodePathTracer()
    graph: fx.Graph = tracer.trace(module)
    names = tracer.node_to_qualname
    for cut, node in nodes.items():
        last = [one for one, name in names.items() if name == node or name.startswith(f"{node}.")][-1]
        with graph.inserting_after(last):
            graph.call_function(keep, (cut, last))
    return fx.GraphModule(module, graph)


def _hook(cut: str, keep: Callable[[str, Tensor], None]) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        keep(cut, output)

    return hook
