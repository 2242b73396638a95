"""Networks that ``featbank train`` left: their weights file says what they are, and is all that is needed."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank._atomic import sha256, write_file
from featbank._cache import networks_folder, user_path
from featbank.backbones.families import (
    BackboneSpec,
    Cut,
    Family,
    Published,
    family_of,
    get_spec,
    unknown_weights,
)
from featbank.backbones.minivgg import build_network
from featbank.backbones.own_networks import NetworkPlan, network_plan, smallest_side
from featbank.backbones.preprocessing import Preprocessing
from featbank.errors import FeatbankError, InvalidInputError, MissingWeightsError, WeightsError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

__all__ = ["FAMILY", "NETWORK_FILE", "write_network"]

#: The weights in the folder of a training.
NETWORK_FILE = "network.safetensors"
#: In the metadata of the file, beside ``classes``: what the network is.
_FACTS = "featbank"
_MOST_BYTES = 1 << 20
#: How the weights are called, as torchvision's entries are; the name says which.
_ENTRY = "TRAINED"
#: Banks have names of 100 characters at most, here with "trained+" before and "+" for "/".
_NAMES_A_BANK = re.compile(r"[\w.@/-]{0,91}[\w@/-]", re.ASCII)


def write_network(
    path: Path,
    state: Mapping[str, np.ndarray],
    *,
    classes: Sequence[str],
    facts: Mapping[str, Any],
    preprocessing: Preprocessing,
) -> str:
    """Write a trained network as one safetensors file that says what it is.

    Parameters
    ----------
    path : pathlib.Path
    state : mapping of str to ndarray
        Weights and batch-norm statistics; float32 becomes float16 where that holds it.
    classes : sequence of str
        What the logits stand for.
    facts : mapping
        ``name`` and ``params`` of a network of ours, or ``backbone`` for another that was trained further.
    preprocessing : Preprocessing
        What images go through first.

    Returns
    -------
    str
        SHA-256 of the file; the same weights always give the same bytes.

    Raises
    ------
    CacheWriteError
        If the file cannot be written.
    """
    import numpy as np
    from safetensors.numpy import save

    tensors = {}
    for name, values in state.items():
        with np.errstate(over="ignore"):
            small = values.astype(np.float16) if values.dtype == np.float32 else values
        tensors[name] = small if np.isfinite(small).all() else values
    said = {"facts": dict(facts), "preprocessing": preprocessing.to_dict()}
    metadata = {"classes": json.dumps(list(classes)), _FACTS: json.dumps(said, sort_keys=True)}
    data = save(tensors, metadata=metadata)
    # safetensors writes several entries in an order that changes, and with it the file's digest
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = metadata
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(8, "little") + text + data[8 + length :]
    write_file(path, data)
    return sha256(data)


class _TrainedFamily(Family):
    """``trained:PLACE``: the folder or file of a training, or the name of its folder in the cache."""

    def names(self) -> list[str]:
        return sorted(one.parent.name for one in networks_folder().glob(f"*/{NETWORK_FILE}"))

    def spec(self, name: str) -> BackboneSpec | None:
        path = _find(name)
        if path is None:
            return None
        said = _read(path)
        place = _place(path)
        if not _NAMES_A_BANK.fullmatch(place):
            raise InvalidInputError(
                f"{place!r} cannot name a bank, in at most 92 of the characters A-Z a-z 0-9 _ . @ - /; train "
                "into the cache (without --output), or make a short link to the folder (ln -s)"
            )
        return _spec(f"trained+{place.replace('/', '+')}", json.dumps(said, sort_keys=True))

    def build(self, name: str, *, n_classes: int, image_size: int, initialise: bool) -> nn.Module:
        facts = _read(_found(name))["facts"]
        if "backbone" in facts:
            family, inner = family_of(facts["backbone"])
            return family.build(inner, n_classes=n_classes, image_size=image_size, initialise=initialise)
        return build_network(_plan(facts), n_classes)

    def preprocessing(self, name: str) -> Preprocessing:
        return Preprocessing(**_read(_found(name))["preprocessing"])

    def place(self, name: str) -> Path | None:
        return _find(name)

    def published(self, name: str, entry: str | None) -> Published:
        if entry not in (None, "DEFAULT", _ENTRY):
            raise unknown_weights(name, str(entry), [_ENTRY])
        path = _found(name)
        return Published(self.preprocessing(name), _ENTRY, path, tuple(_read(path)["classes"]))


FAMILY = _TrainedFamily()


def _find(name: str) -> Path | None:
    """Return the weights file that a path, or a name in the cache, means."""
    for place in (user_path(name), networks_folder() / name):
        for path in (place, place / NETWORK_FILE):
            if path.is_file():
                return path.absolute()
    if os.sep in name:
        raise MissingWeightsError(
            f"no network at {name!r}: neither a file nor a folder with {NETWORK_FILE!r}"
        )
    return None


def _found(name: str) -> Path:
    path = _find(name)
    if path is None:
        raise MissingWeightsError(f"no network {name!r} in {str(networks_folder())!r} any more")
    return path


def _place(path: Path) -> str:
    """Return the shortest name that finds a file again: that of its folder in the cache, else the path."""
    if path.name != NETWORK_FILE:
        return str(path)
    return path.parent.name if path.parent.parent == networks_folder() else str(path.parent)


def _read(path: Path) -> dict[str, Any]:
    """Read what a weights file says it is; raises `WeightsError` where it says nothing, or nonsense."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= 16 * _MOST_BYTES else b""
    try:
        metadata = json.loads(header)["__metadata__"]
        said: dict[str, Any] = json.loads(metadata[_FACTS]) | {"classes": json.loads(metadata["classes"])}
        facts, classes = said["facts"], said["classes"]
        Preprocessing(**said["preprocessing"])
        if not isinstance(classes, list) or not all(isinstance(one, str) for one in classes):
            raise ValueError("its classes are no list of names")
        if "backbone" in facts:
            get_spec(str(facts["backbone"]))
        else:
            _plan(facts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FeatbankError) as error:
        raise WeightsError(
            f"{str(path)!r} is no network of 'featbank train' ({type(error).__name__}: {error}); other "
            "weights need their backbone: --backbone NAME --weights FILE"
        ) from error
    return said


def _plan(facts: Mapping[str, Any]) -> NetworkPlan:
    return network_plan(str(facts["name"]), facts["params"])


@functools.cache
def _spec(name: str, said: str) -> BackboneSpec:
    """Make the cut table from what the file says; another file of the same name may say otherwise."""
    from featbank.backbones.catalogue import NodeSpec, measure

    known = json.loads(said)
    facts, n_classes = known["facts"], len(known["classes"])
    size = known["preprocessing"]["image_size"]
    if "backbone" in facts:
        base = get_spec(facts["backbone"])
        cuts = tuple(one for one in base.cuts if one.derived_from is None)
        spec = replace(base, name=name, cuts=cuts, n_classes=n_classes, default_image_size=size)
    else:
        plan = _plan(facts)
        found = tuple(Cut(cut, node, ()) for cut, node in plan.cuts().items())
        spec = NodeSpec(
            name,
            "trained",
            found,
            default_image_size=size,
            min_image_size=smallest_side(plan),
            n_classes=n_classes,
            head_key=f"{plan.cuts()['logits']}.weight",
        )
    measured = measure(spec, size)
    sized = tuple(
        replace(one, shape=measured[one.name][0], macs=measured[one.name][1])
        for one in spec.cuts
        if one.derived_from is None
    )
    return replace(spec, cuts=sized)
