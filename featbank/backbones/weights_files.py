"""Which files a user's weights are in, named by a file, a folder or an index; without torch."""

from __future__ import annotations

import json
import os
from pathlib import Path

from featbank._cache import user_path
from featbank.errors import MissingWeightsError, WeightsError

__all__ = [
    "INDEX",
    "absolute_weights",
    "file_and_key",
    "index_of",
    "looks_like_file",
    "only_file",
    "parts_of",
]

#: How a file ends that says in which of several safetensors files, beside it, each tensor is.
INDEX = ".safetensors.index.json"
_MAX_INDEX_BYTES = 16 << 20
#: How weights files are usually called; others are read too.
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".model")
#: How Hugging Face calls the weights in a folder, the first that is there counts.
_USUAL = ("model.safetensors", f"model{INDEX}", "pytorch_model.bin")


def looks_like_file(weights: str) -> bool:
    """Return whether a text means a weights file and not the name of an entry."""
    path = user_path(weights)
    # "VGG16_Weights.IMAGENET1K_V1" has a dot, but is how torchvision writes an entry.
    has_suffix = path.suffix != "" and not path.stem.endswith("_Weights")
    return has_suffix or os.sep in weights or "#" in weights or path.exists()


def file_and_key(weights: str) -> tuple[Path, str | None]:
    """Return the file, or folder, of ``FILE`` or ``FILE#KEY``, and the key; names of files may have a #."""
    path = user_path(weights)
    if "#" not in weights or path.exists():
        return path, None
    file, _, key = weights.rpartition("#")
    return user_path(file), key


def absolute_weights(weights: str | os.PathLike[str] | None) -> str | None:
    """Return weights as a process in another folder finds them: files from the root, names as they are."""
    if weights is None or (
        isinstance(weights, str) and (weights == "random" or not looks_like_file(weights))
    ):
        return weights
    path, key = file_and_key(os.fspath(weights))
    if not path.exists():
        return os.fspath(weights)
    return str(path.absolute()) if key is None else f"{path.absolute()}#{key}"


def only_file(folder: Path) -> Path:
    """Return the weights file of a folder: the one that Hugging Face calls so, else the only one."""
    held = sorted(one.name for one in folder.iterdir() if one.name.endswith((*_SUFFIXES, INDEX)))
    usual = [name for name in _USUAL if name in held]
    if usual or len(held) == 1:
        return folder / (usual or held)[0]
    which = f": {', '.join(map(repr, held[:3]))}{', ...' if len(held) > 3 else ''}" if held else ""
    raise (WeightsError if held else MissingWeightsError)(
        f"weights {str(folder)!r} is a folder with {len(held) or 'no'} weights files; name the file{which}"
    )


def parts_of(path: Path) -> tuple[Path, ...]:
    """Return the files that hold the tensors of a weights file: those that an index names, else itself.

    Raises
    ------
    WeightsError
        If an index is none, or names files that are not beside it.
    """
    return tuple(path.with_name(name) for name in sorted(set(index_of(path).values()))) or (path,)


def index_of(path: Path) -> dict[str, str]:
    """Return tensor -> file of an index of several safetensors files; {} for a file that is none."""
    if not path.name.endswith(INDEX):
        return {}
    with path.open("rb") as file:
        text = file.read(_MAX_INDEX_BYTES + 1)
    try:
        if len(text) > _MAX_INDEX_BYTES:
            raise ValueError
        said = json.loads(text)["weight_map"]
        found = {str(tensor): Path(file) for tensor, file in said.items()}
        whole = bool(found) and all(
            one.name == str(one) and one.suffix == ".safetensors" for one in found.values()
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise WeightsError(
            f"weights file {str(path)!r} is no index of safetensors files, a JSON object whose 'weight_map' "
            f"names for each tensor the file beside it; get it again, or name a .safetensors file"
        )
    gone = sorted({one.name for one in found.values() if not path.with_name(one.name).is_file()})
    if gone:
        more = f" and {len(gone) - 1} more" if gone[1:] else ""
        raise MissingWeightsError(
            f"weights file {str(path)!r} names {gone[0]!r}{more}, which is not beside it; get that file too"
        )
    return {tensor: file.name for tensor, file in found.items()}
