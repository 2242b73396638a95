"""torchvision's classifiers: those with a cut table here, and all the others by the nodes of their graphs."""

from __future__ import annotations

import contextlib
import functools
import http.client
import logging
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank._lean_imports import import_torchvision
from featbank.backbones import _inception, _mobilenet, _resnet, _squeezenet, _vgg
from featbank.backbones.families import Family, Published, unknown_weights
from featbank.backbones.preprocessing import Preprocessing
from featbank.backbones.spec import BackboneSpec
from featbank.errors import MissingWeightsError, WeightsError, one_line

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FAMILY", "TorchvisionFamily"]

logger = logging.getLogger(__name__)

_TABLES = {
    spec.name: spec
    for spec in (
        *_vgg.SPECS,
        *_resnet.SPECS,
        *_inception.SPECS,
        *_mobilenet.SPECS,
        *_squeezenet.SPECS,
    )
}
_PLAIN_ENTRY = "IMAGENET1K_V1"
#: Seconds without an answer after which a download is given up.
_TIMEOUT_S = 10.0
#: torchvision's file names end in the first digits of the file's SHA-256.
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")


class TorchvisionFamily(Family):
    """torchvision's image classifiers, their weights in torch.hub's checkpoint folder."""

    def names(self) -> list[str]:
        return list(_TABLES)

    def more_names(self) -> list[str]:
        models = _models()
        return [name for name in models.list_models(module=models) if name not in _TABLES]

    def spec(self, name: str) -> BackboneSpec | None:
        if name in _TABLES:
            return _TABLES[name]
        return _node_spec(name) if name in self.more_names() else None

    def build(self, name: str, *, n_classes: int, image_size: int, initialise: bool) -> nn.Module:
        options: dict[str, Any] = {"num_classes": n_classes}
        table = _TABLES.get(name)
        if table is not None and table.auxiliary:
            # The published weights of these two expect input in [-1, 1], which the network computes from
            # ImageNet-normalised images; torchvision switches that on with its weights, we do so always.
            options |= {
                "aux_logits": False,
                "transform_input": table.transform_input,
                "init_weights": initialise,
            }
        elif name.startswith("vit_"):
            options["image_size"] = image_size
        module: nn.Module = _models().get_model(name, weights=None, **options)
        return module

    def preprocessing(self, name: str) -> Preprocessing:
        return _preprocessing_of(_plain_entry(name))

    def published(self, name: str, entry: str | None) -> Published:
        import torch

        entries = _entries(name)
        asked = "DEFAULT" if entry is None else entry.removeprefix(f"{entries.__name__}.")
        if asked not in entries.__members__:
            raise unknown_weights(name, str(entry), [one.name for one in entries])
        found = entries[asked]
        path = Path(torch.hub.get_dir()) / "checkpoints" / str(found.url).rsplit("/", 1)[1]
        stated = _DIGEST_IN_NAME.search(path.name)
        prefix = stated.group(1) if stated else None
        if not path.is_file():
            _download(name, str(found.url), path, prefix)
        categories = found.meta["categories"]
        return Published(
            _preprocessing_of(found),
            found.name,
            path,
            None if categories is None else tuple(categories),
            sha256_prefix=prefix,
            trusted=prefix is not None,
        )

    def recognise(self, name: str, path: Path, sha256: str) -> Published:
        entry = None
        for one in _entries(name):
            stated = _DIGEST_IN_NAME.search(str(one.url))
            if stated and sha256.startswith(stated.group(1)):
                entry = one
                break
        trusted = entry is not None
        if entry is None:
            entry = _plain_entry(name)
            logger.info(
                "weights file %s is none that torchvision published; its images get the preprocessing of %s",
                path,
                entry,
            )
        return Published(
            _preprocessing_of(entry), class_names=tuple(entry.meta["categories"]), trusted=trusted
        )


FAMILY = TorchvisionFamily()


def _models() -> Any:
    import_torchvision()
    from torchvision import models

    return models


@functools.cache
def _node_spec(name: str) -> BackboneSpec:
    """Make the table of a classifier: the ends of its modules two levels deep, and the logits."""
    from featbank.backbones._building import build_on_meta
    from featbank.backbones._nodes import NodeSpec, tabulated

    entry = _entries(name).DEFAULT
    size = int(entry.transforms().crop_size[0])
    bare = NodeSpec(
        name,
        name.split("_")[0].rstrip("0123456789"),
        (),
        default_image_size=size,
        n_classes=len(entry.meta["categories"]),
    )
    found = tabulated(bare, build_on_meta(bare))
    return replace(found, head_key=f"{found.cut('logits').node}.weight")


def _entries(name: str) -> Any:
    return _models().get_model_weights(name)


def _plain_entry(name: str) -> Any:
    entries = _entries(name)
    return entries.__members__.get(_PLAIN_ENTRY, entries.DEFAULT)


def _preprocessing_of(entry: Any) -> Preprocessing:
    preset = entry.transforms()
    return Preprocessing(
        image_size=int(preset.crop_size[0]),
        resize_size=int(preset.resize_size[0]),
        interpolation=str(preset.interpolation.value),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _download(name: str, url: str, path: Path, prefix: str | None) -> None:
    import torch

    logger.info("downloading %s to %s", url, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _short_timeout():
            torch.hub.download_url_to_file(url, str(path), prefix, progress=sys.stderr.isatty())
    except (OSError, http.client.HTTPException) as error:
        reason = one_line(error)
        raise MissingWeightsError(
            f"no weights for {name!r}: {path.name!r} is not in {str(path.parent)!r} and could not be "
            f"downloaded ({reason}). Three ways out: (1) run once with network, or put {path.name!r} into "
            "that folder; (2) --weights FILE.safetensors|.pth; (3) --weights random. For a quick try: "
            "--backbone minivgg, whose weights are built in"
        ) from error
    except RuntimeError as error:  # torch.hub's way to say that the digest is wrong
        raise WeightsError(f"the download of {url!r} arrived damaged ({error}); run again") from error


@contextlib.contextmanager
def _short_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
