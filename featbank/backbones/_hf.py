"""Vision models of Hugging Face transformers: from a folder, or the hub and its cache; never remote code."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank._process import import_torchvision
from featbank.backbones._hub import hub_file
from featbank.backbones.families import BackboneSpec, Cut, Family, Published, unknown_weights
from featbank.backbones.loading import INDEX, parts_of
from featbank.backbones.preprocessing import Preprocessing
from featbank.errors import (
    FeatbankError,
    InvalidInputError,
    MissingPackageError,
    MissingWeightsError,
    WeightsError,
    one_line,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FAMILY", "HuggingFaceFamily", "as_preprocessing"]

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", re.ASCII)
#: Banks have names of 100 characters at most, here with "hf+" before and "+" for "/".
_NAMES_A_BANK = re.compile(r"[\w.@/-]{0,96}[\w@/-]", re.ASCII)
#: Parts that are cuts of the table, behind what a classifier calls its backbone.
_PLACES = re.compile(
    r"embeddings|embedder|((encoder|model)\.)?(layers?|stages|blocks)\.\d+|layer_?norm|norm|post_layernorm"
    r"|pooler|pool|head"
)
#: Models of image and text: the part that sees.
_TOWERS = frozenset({"clip", "siglip", "siglip2", "chinese_clip", "metaclip_2", "altclip"})
#: Image processors whose settings say all that they do.
_PROCESSORS = frozenset(
    f"{one}ImageProcessor"
    for one in ("ViT", "DeiT", "Bit", "CLIP", "Siglip", "ConvNext", "Beit", "DINOv3ViT")
)
_INTERPOLATION = {2: "bilinear", 3: "bicubic"}
#: What a configuration says that changes no feature.
_OF_THE_FILE = frozenset(
    {"_name_or_path", "attn_implementation", "dtype", "torch_dtype", "transformers_version"}
)
#: ConvNeXt's processor squashes images of this size and more.
_SQUASHED = 384


class HuggingFaceFamily(Family):
    """``hf:ORG/NAME[@REVISION]``, or ``hf:FOLDER`` with config.json, preprocessor_config.json and weights."""

    packages = ("transformers",)

    def names(self) -> list[str]:
        """List the image models in the cache of the hub."""
        _transformers()
        from huggingface_hub import CacheNotFound, scan_cache_dir

        try:
            found = scan_cache_dir().repos
        except CacheNotFound:
            return []
        return sorted(
            one.repo_id
            for one in found
            if any(
                file.file_name == "preprocessor_config.json" for two in one.revisions for file in two.files
            )
        )

    def spec(self, name: str) -> BackboneSpec | None:
        folder = _folder(name)
        if folder is None and not _REPOSITORY.fullmatch(name):
            return None
        full = name if folder is None else str(folder)
        if not _NAMES_A_BANK.fullmatch(full):
            raise InvalidInputError(
                f"{full!r} cannot name a bank, in at most 97 of the characters A-Z a-z 0-9 _ . @ - /; make a "
                "short link to the folder (ln -s), or use Backbone.from_module"
            )
        _transformers()
        return _spec(full, *(one.read_bytes() for one in self.settings_files(full)))

    def build(self, name: str, *, n_classes: int, image_size: int, initialise: bool) -> nn.Module:
        del image_size, initialise
        import torch

        config = _config(name)
        if _classifies(config):
            config.num_labels = n_classes
        # Without numbers a model may fail that is built with them next.
        tried = (RuntimeError,) if torch.get_default_device().type == "meta" else ()
        with _reading(name, "config.json", tried):
            module: nn.Module = _auto_class(config).from_config(
                config, trust_remote_code=False, dtype=torch.float32
            )
        return module

    def preprocessing(self, name: str) -> Preprocessing:
        path = _find(name, "preprocessor_config.json")
        with _reading(name, path.name):
            return as_preprocessing(name, json.loads(path.read_text()))

    def settings(self, name: str) -> str:
        path = _find(name, "config.json")
        with _reading(name, path.name):
            said = json.loads(path.read_text())
            return json.dumps({one: said[one] for one in said if one not in _OF_THE_FILE}, sort_keys=True)

    def settings_files(self, name: str) -> tuple[Path, ...]:
        return _find(name, "config.json"), _find(name, "preprocessor_config.json")

    def place(self, name: str) -> Path | None:
        return _folder(name)

    def published(self, name: str, entry: str | None) -> Published:
        if entry not in (None, "DEFAULT"):
            raise unknown_weights(f"hf:{name}", str(entry), ["DEFAULT"])
        config, classes = _config(name), None
        if _classifies(config):
            labels = [str(config.id2label[one]) for one in sorted(config.id2label)]
            classes = None if labels[:1] in ([], ["LABEL_0"]) else tuple(labels)
        return Published(self.preprocessing(name), "DEFAULT", _weights_of(name), classes)

    def read(self, name: str, path: Path) -> nn.Module:
        if not path.name.endswith((".safetensors", INDEX)):
            raise WeightsError(f"weights {str(path)!r} of 'hf:{name}' are no .safetensors file; convert them")
        from transformers.utils import logging as bars

        config, had_bars = _config(name), bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        try:
            # By transformers, which renames what its older versions wrote; it takes a folder.
            with tempfile.TemporaryDirectory() as folder:
                config.save_pretrained(folder)
                suffix = INDEX if path.name.endswith(INDEX) else ".safetensors"
                Path(folder, f"model{suffix}").symlink_to(path.resolve())
                for part in parts_of(path) if suffix == INDEX else ():
                    Path(folder, part.name).symlink_to(part.resolve())
                module, told = _auto_class(config).from_pretrained(
                    folder,
                    config=config,
                    local_files_only=True,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                    dtype="float32",
                )
        except Exception as error:  # they do not go together, or a package for them is missing
            said = one_line(error)
            raise WeightsError(f"weights {str(path)!r} do not fit 'hf:{name}': {said}") from error
        finally:
            if had_bars:
                bars.enable_progress_bar()
        missing = sorted(told["missing_keys"])
        if missing:
            raise WeightsError(
                f"weights {str(path)!r} do not fit 'hf:{name}': {len(missing)} tensors missing, such as "
                f"{missing[0]!r}"
            )
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = tensor.data.clone()  # the file may be mapped, and may change under us
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise WeightsError(f"weights {str(path)!r} hold NaN or infinity; get the file again")
        return module  # type: ignore[no-any-return]


FAMILY = HuggingFaceFamily()


def _transformers() -> Any:
    import_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError(
            "backbones of Hugging Face need transformers, which is not installed: pip install 'featbank[hf]'"
        ) from error
    return transformers


def _folder(name: str) -> Path | None:
    """Return the folder that a name means, from the root; None for a repository of the hub."""
    path = Path(name).expanduser()
    return path.absolute() if (path / "config.json").is_file() else None


def _find(name: str, *files: str) -> Path:
    """Return the first of some files of a folder or a repository, from the cache of the hub or downloaded."""
    folder = _folder(name)
    if folder is not None:
        for file in files:
            if (folder / file).is_file():
                return folder / file
        raise MissingWeightsError(f"no {files[0]!r} in {str(folder)!r}, which 'hf:{name}' needs")
    repository, _, revision = name.partition("@")
    ways = ["give a folder that has it, hf:FOLDER"]
    return hub_file(repository, files, owner=f"hf:{name}", ways=ways, revision=revision or None)


def _weights_of(name: str) -> Path:
    """Return the weights, or the index of several files once all of them are there."""
    path = _find(name, "model.safetensors", f"model{INDEX}")
    if path.name.endswith(INDEX) and _folder(name) is None:
        with _reading(name, path.name):
            for part in sorted(set(json.loads(path.read_text())["weight_map"].values())):
                _find(name, part)
    return path


def _config(name: str) -> Any:
    """Read the configuration of a model, of its vision tower where it has two."""
    _transformers()
    from transformers import AutoConfig

    path = _find(name, "config.json")
    with _reading(name, path.name):
        config = AutoConfig.from_pretrained(str(path.parent), local_files_only=True, trust_remote_code=False)
        config = config.vision_config if config.model_type in _TOWERS else config
        # A file may ask for kernels that are downloaded; with None transformers chooses among torch's own.
        config._attn_implementation = config._experts_implementation = None
    return config


@contextlib.contextmanager
def _reading(name: str, file: str, passed: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what a file of anybody's makes transformers, or us, raise into one line, but for `passed`."""
    try:
        yield
    except Exception as error:  # there is no end to what a file may say wrongly
        if isinstance(error, (FeatbankError, *passed)):
            raise
        said = one_line(error)
        if not isinstance(error, ValueError | OSError | ImportError):
            said = f"{type(error).__name__}: {said}"
        what = "no model that this transformers knows" if file == "config.json" else "not understood"
        raise InvalidInputError(f"{file!r} of 'hf:{name}' is {what}: {said}") from error


def _classifies(config: Any) -> bool:
    return any("ForImageClassification" in one for one in config.architectures or ())


def _auto_class(config: Any) -> Any:
    from transformers import AutoModel, AutoModelForImageClassification

    return AutoModelForImageClassification if _classifies(config) else AutoModel


def as_preprocessing(name: str, said: Mapping[str, Any]) -> Preprocessing:
    """Turn the settings of an image processor into plain numbers; what they cannot say is refused.

    Parameters
    ----------
    name : str
        The model, for messages.
    said : mapping
        ``preprocessor_config.json``.

    Raises
    ------
    InvalidInputError
        If the processor is not known, or does what `Preprocessing` does not.
    """
    kind = str(said.get("image_processor_type") or said.get("feature_extractor_type"))
    known = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "ImageProcessor", kind)
    size, crop = said.get("size"), said.get("crop_size")
    crops = bool(said.get("do_center_crop"))
    if isinstance(size, int):  # as older versions wrote it
        size = {"shortest_edge": size} if crops or "ConvNext" in kind else {"height": size, "width": size}
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    side, resize_size, mode = _geometry(size or {}, crop if crops else None, said, "ConvNext" in kind)
    fault = None
    if known not in _PROCESSORS:
        fault = f"prepares images by {kind}"
    elif said.get("resample") not in _INTERPOLATION:
        fault = f"resizes with Pillow's filter {said.get('resample')}"
    elif not said.get("do_resize", True) or said.get("do_pad"):
        fault = "pads images, or takes them unresized"
    elif not said.get("do_rescale", True) or not math.isclose(said.get("rescale_factor", 1 / 255), 1 / 255):
        fault = f"scales pixels by {said.get('rescale_factor')}"
    elif not side:
        fault = (
            f"resizes images to {said.get('size')} and crops {said.get('crop_size') if crops else 'nothing'}"
        )
    if fault is not None:
        raise InvalidInputError(f"hf:{name} {fault}, which featbank does not do; choose another backbone")
    normalises = said.get("do_normalize", True)
    return Preprocessing(
        image_size=side,
        resize_size=resize_size,
        interpolation=_INTERPOLATION[said["resample"]],
        mean=tuple(said["image_mean"]) if normalises else (0.0, 0.0, 0.0),
        std=tuple(said["image_std"]) if normalises else (1.0, 1.0, 1.0),
        mode=mode,
    )


def _geometry(
    size: Mapping[str, Any], crop: Mapping[str, Any] | None, said: Mapping[str, Any], is_convnext: bool
) -> tuple[int, int, str]:
    """Return image size, resize size and mode; (0, 0, "") where they cannot be said."""
    shortest: int = size.get("shortest_edge", 0)
    if set(size) == {"shortest_edge"} and is_convnext:
        if shortest >= _SQUASHED:
            return shortest, shortest, "squash"
        return shortest, int(shortest / (said.get("crop_pct") or 0.875)), "crop"
    if set(size) == {"shortest_edge"} and crop and crop["height"] == crop["width"]:
        return crop["height"], shortest, "crop"
    if set(size) == {"height", "width"} and size["height"] == size["width"] and crop in (None, dict(size)):
        return size["height"], size["height"], "squash"
    return 0, 0, ""


@functools.cache
def _spec(name: str, *said: bytes) -> BackboneSpec:
    del said  # what the files said: when they change, so may the cuts
    from featbank.backbones.catalogue import NodeSpec, prefix_tokens
    from featbank.backbones.families import build_on_meta
    from featbank.backbones.network import OUTPUT, survey

    config = _config(name)
    n_classes = config.num_labels if _classifies(config) else 0
    spec = NodeSpec(
        f"hf+{name.replace('/', '+')}",
        "hf",
        (),
        FAMILY.preprocessing(name).image_size,
        n_classes=n_classes,
        hooked=True,
    )
    module: Any = build_on_meta(spec)
    seen = survey(module, spec.default_image_size, f"hf:{name}")
    whole = seen[OUTPUT]
    kept: dict[int, Cut] = {}
    for path, one in seen.items():
        place = path.removeprefix(f"{module.base_model_prefix}.") if n_classes else path
        if one.fault is None and _PLACES.fullmatch(place) and id(one.features) not in kept:
            kept[id(one.features)] = Cut(place, path, one.shape, macs=one.macs)
    if whole.fault is None and n_classes:
        kept[id(whole.features)] = Cut("logits", OUTPUT, whole.shape, macs=whole.macs)
    elif whole.fault is None:
        hidden = Cut("last_hidden_state", OUTPUT, whole.shape, macs=whole.macs)
        same = kept.get(id(whole.features))
        kept[id(whole.features)] = hidden if same is None else replace(same, aliases=(hidden.name,))
    n_prefix, has_cls = prefix_tokens(module)
    # The head of SigLIP's tower: an attention that has learned what to ask of the tokens.
    reads = next((one for one in kept.values() if one.name == "post_layernorm"), None)
    learned = any(name.endswith("head.probe") for name, _ in module.named_parameters())
    head = next((one for one in kept.values() if one.node.rpartition(".")[2] == "head"), None)
    return replace(
        spec,
        cuts=tuple(kept.values()),
        n_prefix=n_prefix,
        has_cls=has_cls,
        attention_pools=((reads.name, head),) if learned and reads and head else (),
        n_parameters=sum(one.numel() for one in module.parameters()),
    )
