"""Hugging Face's vision models: random weights in folders; nothing is downloaded, no code is fetched."""

from __future__ import annotations

import builtins
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from featbank.backbones import get_spec, load_backbone, truncate
from featbank.errors import (
    InvalidInputError,
    MissingPackageError,
    MissingWeightsError,
    UnknownNameError,
    WeightsError,
)
from featbank.extraction import extract

transformers = pytest.importorskip("transformers", reason="not installed: pip install 'featbank[hf]'")

SMALL: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
MAPS: dict[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
DINO = {name: one for name, one in SMALL.items() if name != "intermediate_size"}
SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 12,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
}
#: Class, its configuration, some of its cuts.
MODELS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "ViTModel": ("ViTConfig", SMALL, ("embeddings", "layers.0", "layers.1", "layernorm")),
    "ViTForImageClassification": ("ViTConfig", SMALL | {"num_labels": 5}, ("layers.1", "logits")),
    "DeiTModel": ("DeiTConfig", SMALL, ("layers.1", "layernorm")),
    "Dinov2Model": ("Dinov2Config", DINO, ("encoder.layer.1", "layernorm")),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", DINO, ("encoder.layer.1", "layernorm")),
    "DINOv3ViTModel": ("DINOv3ViTConfig", SMALL, ("model.layer.0", "norm")),
    "DINOv3ConvNextModel": ("DINOv3ConvNextConfig", MAPS, ("model.stages.3", "layer_norm")),
    "SiglipVisionModel": ("SiglipVisionConfig", SMALL, ("encoder.layers.1", "post_layernorm", "head")),
    "CLIPVisionModel": ("CLIPVisionConfig", SMALL, ("encoder.layers.0", "post_layernorm")),
    "ConvNextV2Model": ("ConvNextV2Config", MAPS, ("encoder.stages.1", "layernorm")),
    "Swinv2Model": ("Swinv2Config", SWIN, ("encoder.layers.1", "layernorm")),
    "BeitModel": ("BeitConfig", SMALL, ("layers.1",)),
    "ResNetForImageClassification": (
        "ResNetConfig",
        MAPS | {"embedding_size": 8},
        ("encoder.stages.3", "logits"),
    ),
}
PROCESSOR: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def saved(folder: Path, name: str, seed: int = 0) -> Any:
    """A model with random weights, in a folder as transformers writes it."""
    config = getattr(transformers, MODELS[name][0])(**MODELS[name][1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, name)(config).eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_the_model_itself(name: str, tmp_path: Path) -> None:
    model = saved(tmp_path, name)
    backbone = load_backbone(f"hf:{tmp_path}")
    spec = backbone.spec
    assert set(MODELS[name][2]) <= set(spec.cut_names)
    cuts = [cut.name for cut in spec.cuts if cut.derived_from is None]
    caught: dict[str, Tensor] = {}

    def catch(path: str, made: Any) -> None:
        made = made if isinstance(made, Tensor) else made[0]
        caught.setdefault(path, made.clone())

    for path, part in model.named_modules():
        part.register_forward_hook(lambda _, given, out, path=path: catch(path, out))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        said = model(images)
        caught["<output>"] = said["logits"] if "logits" in said else said["last_hidden_state"]
        features = truncate(backbone, cuts)(images)
    for cut in cuts:
        torch.testing.assert_close(features[cut], caught[spec.cut(cut).node], rtol=1e-5, atol=1e-6)


def test_a_tower_and_another_file(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.CLIPConfig(
        text_config=text | {"vocab_size": 20}, vision_config=SMALL, projection_dim=8
    )
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    backbone = load_backbone(f"hf:{tmp_path}")
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        wanted = model.vision_model(images).pooler_output
        assert torch.allclose(
            truncate(backbone, ["post_layernorm"])(images)["post_layernorm"], wanted, atol=1e-6
        )
    other = tmp_path / "other"
    saved(other, "ViTModel")
    with pytest.raises(WeightsError, match=r"do not fit 'hf:.*': \d+ tensors missing, such as '"):
        load_backbone(f"hf:{tmp_path}", weights=other / "model.safetensors")
    assert load_backbone(f"hf:{tmp_path}", weights="random").weights == "random"


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_weights_in_several_files(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, name = tmp_path / "shards", f"hf:{tmp_path / 'shards'}"
    if where == "hub":
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        name, folder = "hf:me/wide-vit", tmp_path / "models--me--wide-vit" / "snapshots" / ("c" * 40)
        (folder.parent.parent / "refs").mkdir(parents=True)
        (folder.parent.parent / "refs" / "main").write_text("c" * 40)
    model = saved(folder, "ViTModel")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    backbone = load_backbone(name)
    assert len(backbone.weights_files) > 1
    mine, theirs = backbone.module.state_dict(), model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[at], theirs[at]) for at in theirs)
    if where == "folder":
        next(folder.glob("model-*.safetensors")).unlink()
        with pytest.raises(MissingWeightsError, match="which is not beside it; get that file too"):
            load_backbone(name)


def test_from_the_cache_of_the_hub_at_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--me--tiny-vit"
    for seed, (revision, commit) in enumerate({"main": "a" * 40, "v2": "b" * 40}.items()):
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / revision).write_text(commit)
        (folder / "snapshots" / commit).mkdir(parents=True)
        saved(folder / "snapshots" / commit, "ViTModel", seed)
    first, second = load_backbone("hf:me/tiny-vit"), load_backbone("hf:me/tiny-vit@v2")
    assert (first.name, second.name) == ("hf+me+tiny-vit", "hf+me+tiny-vit@v2")
    assert first.weights_sha256 != second.weights_sha256
    assert load_backbone(second.name, weights=second.weights).weights_sha256 == second.weights_sha256


def test_extract_and_again_by_what_the_bank_says(tmp_path: Path) -> None:
    saved(tmp_path / "vit", "ViTForImageClassification")
    options: dict[str, Any] = {"cuts": ["layers.1", "logits"], "limit": 10, "cache_dir": tmp_path / "cache"}
    result = extract("digits", backbone=f"hf:{tmp_path / 'vit'}", **options)
    assert (result.pushed, result.cuts["layers.1"]) == (10, (17, 32))
    name = json.loads((result.bank / "bank.json").read_text())["key"]["backbone"]
    assert name == "hf+" + str(tmp_path / "vit").replace("/", "+")
    assert get_spec(name) is get_spec(f"hf:{tmp_path / 'vit'}")
    assert extract("digits", backbone=name, **options).pushed == 0


@pytest.mark.parametrize(
    ("file", "changes", "is_another"),
    [
        ("config.json", {"num_attention_heads": 4}, True),
        ("config.json", {"transformers_version": "5.0.0"}, False),
        ("preprocessor_config.json", {"image_std": [0.25, 0.25, 0.25]}, True),
    ],
)
def test_other_settings_beside_the_same_weights_are_another_bank(
    file: str, changes: dict[str, Any], is_another: bool, tmp_path: Path
) -> None:
    saved(tmp_path / "vit", "ViTModel")
    name = f"hf:{tmp_path / 'vit'}"
    options: dict[str, Any] = {"cuts": ["layers.1"], "limit": 10, "cache_dir": tmp_path / "cache"}
    result = extract("digits", backbone=name, **options)
    before = {weights: load_backbone(name, weights=weights).weights_sha256 for weights in (None, "random")}
    changed(tmp_path / "vit", file, **changes)
    again = extract("digits", backbone=name, **options)
    assert (again.bank != result.bank, again.pushed > 0) == (is_another, is_another)
    others = file == "config.json" and is_another
    assert all(
        (load_backbone(name, weights=weights).weights_sha256 != sha256) == others
        for weights, sha256 in before.items()
    )


def test_another_transformers_is_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "vit", "ViTModel")
    options: dict[str, Any] = {"cuts": ["layers.1"], "limit": 10, "cache_dir": tmp_path / "cache"}
    options |= {"backbone": f"hf:{tmp_path / 'vit'}"}
    result = extract("digits", **options)
    loaded: list[str] = []

    def noting(name: str, **given: Any) -> Any:
        loaded.append(name)
        return load_backbone(name, **given)

    monkeypatch.setattr("featbank.backbones.loading.load_backbone", noting)
    assert extract("digits", **options).bank == result.bank
    assert not loaded
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0" if name == "transformers" else real(name))
    assert extract("digits", **options).bank == result.bank
    assert loaded


@pytest.mark.parametrize(
    ("processor", "settings"),
    [
        ("ViTImageProcessor", {}),
        ("BitImageProcessor", {"size": {"shortest_edge": 48}, "crop_size": {"height": 32, "width": 32}}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
        ("SiglipImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 3}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, "crop_pct": 0.875, "resample": 3}),
    ],
)
def test_the_pixels_of_the_image_processor(processor: str, settings: dict[str, Any]) -> None:
    from featbank.backbones._hf import as_preprocessing

    made = getattr(transformers, processor)(**(PROCESSOR | settings))
    said = json.loads(made.to_json_string())
    random = np.random.default_rng(0)
    photo = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((96, 72))
    theirs = made(photo, return_tensors="pt")["pixel_values"][0]
    ours = as_preprocessing("any", said)
    pixels = ours.normalise(torch.from_numpy(ours.apply_geometry(photo))[None])[0]
    assert pixels.shape == theirs.shape
    # their resize, torchvision's of tensors, rounds otherwise: a step or two of 255
    step = 1 / 255 / min(ours.std)
    assert float((pixels - theirs).abs().max()) < 2.01 * step
    assert float((pixels - theirs).abs().mean()) < 0.1 * step


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_processor_type": "SegformerImageProcessor"}, "prepares images by SegformerImageProcessor"),
        ({"resample": 1}, "resizes with Pillow's filter 1"),
        ({"do_pad": True}, "pads images, or takes them unresized"),
        ({"rescale_factor": 1 / 127.5}, "scales pixels by 0.00784"),
        ({"size": {"shortest_edge": 32}}, "resizes images to {'shortest_edge': 32} and crops nothing"),
        ({"size": {"height": 32, "width": 48}}, "resizes images to {'height': 32, 'width': 48} and crops"),
    ],
)
def test_what_preprocessing_cannot_say_is_refused(changes: dict[str, Any], said: str) -> None:
    from featbank.backbones._hf import as_preprocessing

    with pytest.raises(InvalidInputError) as caught:
        as_preprocessing("odd", PROCESSOR | changes)
    assert str(caught.value).startswith(f"hf:odd {said}")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModel": "mine.Mine"}},
        {
            "model_type": "bert",
            "architectures": ["MineForImageClassification"],
            "auto_map": {"AutoModelForImageClassification": "mine.Mine"},
        },
    ],
)
def test_remote_code_is_not_run(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: ...\n")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    asked: list[str] = []
    monkeypatch.setattr(builtins, "input", lambda said: asked.append(said) or "y")
    with pytest.raises(InvalidInputError, match=r"is no model that this transformers knows"):
        get_spec(f"hf:{tmp_path}")
    assert not asked
    assert not (tmp_path / "ran").exists()


def changed(folder: Path, file: str, **changes: Any) -> str:
    """Change a file of a saved model; returns the model's name."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return f"hf:{folder}"


def test_random_weights_are_float32_whatever_the_file_says(tmp_path: Path) -> None:
    saved(tmp_path, "ViTModel")
    name = changed(tmp_path, "config.json", dtype="bfloat16", torch_dtype="bfloat16")
    module = load_backbone(name, weights="random").module
    assert {one.dtype for one in module.parameters()} == {torch.float32}


def test_a_file_cannot_ask_for_kernels(tmp_path: Path) -> None:
    saved(tmp_path, "ViTModel")
    name = changed(tmp_path, "config.json", attn_implementation="kernels-community/flash-attn2")
    for weights in (None, "random"):
        module: Any = load_backbone(name, weights=weights).module
        assert module.config._attn_implementation == "sdpa"


def test_a_model_that_draws_random_numbers_is_refused(tmp_path: Path) -> None:
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    transformers.ViTMAEModel(transformers.ViTMAEConfig(**SMALL, **decoder)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    said = (
        r"draws random numbers \(aten\.rand\.default\) in eval mode too, so that an image has other features"
    )
    with pytest.raises(InvalidInputError, match=said):
        get_spec(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        (
            "config.json",
            {"hidden_size": "many"},
            "'config.json' of 'hf:.*' is no model that this transformers",
        ),
        ("config.json", {"id2label": 5}, "'config.json' of 'hf:.*' is no model that this transformers"),
        (
            "preprocessor_config.json",
            {"image_mean": None},
            "'preprocessor_config.json' of 'hf:.*' is not under",
        ),
        (
            "preprocessor_config.json",
            {"size": "224"},
            "'preprocessor_config.json' of 'hf:.*' is not understood",
        ),
        (
            "preprocessor_config.json",
            {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"width": 32}},
            "'preprocessor_config.json' of 'hf:.*' is not understood: KeyError: 'height'",
        ),
    ],
)
def test_files_that_make_no_sense_are_said(
    file: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    saved(tmp_path, "ViTModel")
    with pytest.raises(InvalidInputError, match=said):
        get_spec(changed(tmp_path, file, **changes))
    (tmp_path / file).write_text("{")
    with pytest.raises(InvalidInputError, match=f"'{file}' of 'hf:.*' is no"):
        get_spec(f"hf:{tmp_path}")


def test_a_model_that_cannot_be_built_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "ViTModel")
    # the bits of a package that is not installed
    quantised = changed(tmp_path, "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(WeightsError, match=r"^weights '.*' do not fit 'hf:.*': "):
        load_backbone(quantised)
    real = transformers.ViTModel.__init__

    def computing(self: Any, *given: Any, **options: Any) -> None:
        torch.zeros(1).item()  # not on the meta device
        real(self, *given, **options)

    monkeypatch.setattr(transformers.ViTModel, "__init__", computing)
    name = changed(tmp_path, "config.json", layer_norm_eps=1e-5)
    assert get_spec(name).cuts
    with pytest.raises(InvalidInputError, match=r"^'config.json' of .* knows: RuntimeError: .*negative dim"):
        get_spec(changed(tmp_path, "config.json", intermediate_size=-4))


def test_a_classifier_without_names_of_classes(tmp_path: Path) -> None:
    saved(tmp_path, "ViTForImageClassification")
    name = changed(tmp_path, "config.json", id2label={}, label2id={})
    assert load_backbone(name).class_names is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf:../b", r"'hf:\.\./b' names no repository of the hub: "),
        ("hf:a/b--c", r"'hf:a/b--c' names no repository of the hub: "),
        ("hf:a/b+c", r"backbone 'hf:a/b\+c' has a '\+' in its name, which banks write for '/'; rename it"),
        ("hf:a/" + "b" * 96, r"cannot name a bank, in at most 97 of the characters "),
    ],
)
def test_names_that_cannot_be_are_said(name: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        get_spec(name)


@pytest.mark.parametrize("name", ["a b", "ä", "long" * 25])
def test_a_folder_that_cannot_name_a_bank_wants_a_link(name: str, tmp_path: Path) -> None:
    saved(tmp_path / name, "ViTModel")
    with pytest.raises(InvalidInputError, match=r"cannot name a bank, .*; make a short link to the folder"):
        get_spec(f"hf:{tmp_path / name}")
    (tmp_path / "link").symlink_to(tmp_path / name)
    assert get_spec(f"hf:{tmp_path / 'link'}").cuts


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        MissingWeightsError, match=r"^'config.json' of 'facebook/none', which 'hf:facebook/none' n"
    ):
        get_spec("hf:facebook/none")
    with pytest.raises(UnknownNameError, match=r"^unknown backbone 'dinov2' of family 'hf'; known: "):
        get_spec("hf:dinov2")
    saved(tmp_path / "vit", "ViTModel")
    (tmp_path / "vit" / "model.safetensors").unlink()
    with pytest.raises(MissingWeightsError, match=r"^no 'model.safetensors' in '.*', which 'hf:.*' needs$"):
        load_backbone(f"hf:{tmp_path / 'vit'}")


def test_without_transformers_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, "ViTModel")
    real = builtins.__import__

    def without(name: str, *given: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "transformers":
            raise ModuleNotFoundError("No module named 'transformers'")
        return real(name, *given, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "transformers")
    with pytest.raises(MissingPackageError) as caught:
        get_spec(f"hf:{tmp_path}")
    assert str(caught.value) == (
        "backbones of Hugging Face need transformers, which is not installed: pip install 'featbank[hf]'"
    )
