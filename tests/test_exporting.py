"""What leaves as one file answers as `predict` does, in a process that knows nothing of featbank."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank import exporting
from featbank.errors import InvalidInputError, MissingPackageError
from featbank.exporting import export_run
from featbank.extraction import extract
from featbank.fitting import fit_heads
from featbank.prediction import RunClassifier
from featbank.runs import Run

SHARED = Path(__file__).parents[1] / "../shared"
RUN_ONNX = """
import json, sys
import numpy, onnxruntime
card = json.load(open(sys.argv[1] + ".json"))
session = onnxruntime.InferenceSession(sys.argv[1])
(given,), (made,) = session.get_inputs(), session.get_outputs()
assert (given.name, made.name) == (card["input"]["name"], card["output"]["name"])
numpy.save(sys.argv[3], session.run(None, {given.name: numpy.load(sys.argv[2])})[0])
assert not {"torch", "featbank"} & set(sys.modules)
"""
RUN_PROGRAM = """
import sys
import numpy, torch
with torch.inference_mode():
    answers = torch.export.load(sys.argv[1]).module()(torch.from_numpy(numpy.load(sys.argv[2])))
numpy.save(sys.argv[3], answers.numpy())
assert "featbank" not in sys.modules
"""


def elsewhere(file: Path, images: np.ndarray) -> np.ndarray:
    """What the file answers in another process."""
    np.save(file.with_name("in.npy"), images)
    code = RUN_ONNX if file.suffix == ".onnx" else RUN_PROGRAM
    words = [sys.executable, "-c", code, str(file), str(file.with_name("in.npy"))]
    subprocess.run([*words, str(file.with_name("out.npy"))], check=True, cwd=file.parent)
    return np.load(file.with_name("out.npy"))


def answers(run: Run, head: str, images: np.ndarray) -> np.ndarray:
    classifier = RunClassifier(run, head, device="cpu")
    step = classifier.batch_size
    parts = [images[start : start + step] for start in range(0, len(images), step)]
    return np.concatenate([classifier.probabilities(one) for one in parts])


def fitted(folder: Path, classes: int, **options: object) -> Run:
    for number in range(classes):
        place = folder / "photos" / f"class {number}"
        place.mkdir(parents=True)
        for index in range(8):
            random = np.random.default_rng(100 * number + index)
            pixels = random.integers(0, 120, (40, 52, 3), np.uint8)
            pixels[..., number % 3] += 80 + 20 * (number // 3)
            Image.fromarray(pixels).save(place / f"{index}.png")
    heads = options.pop("heads", ("logreg",))
    bank = extract(
        folder / "photos",
        backbone="minivgg",
        image_size=32,
        precision="float32",
        split="4,2,2",
        cache_dir=folder / "cache",
        **{"weights": "random", "cuts": ("block3_pool",), **options},
    ).bank
    more = {"cuts": ("softmax",), "temperatures": (2.0,)} if options.get("cuts") == ("logits",) else {}
    return fit_heads(
        bank, heads=heads, samples_per_class=4, repeats=1, cache_dir=folder / "cache", **more
    ).run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    heads = ("logreg", "mlp", "svm", "knn")
    return fitted(tmp_path_factory.mktemp("exporting"), 4, heads=heads, transform="contrast")


@pytest.fixture
def images() -> np.ndarray:
    found = np.random.default_rng(5).integers(0, 256, (7, 32, 32, 3), np.uint8)
    found[3:] = found[3:, :1, :1]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_file_answers_as_predict_does_in_a_process_without_featbank(run, images, tmp_path, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    form = {".pt2": "exported-program", ".onnx": "onnx"}[suffix]
    for head in ("logreg", "mlp"):
        card = export_run(run, tmp_path / f"x{suffix}", format=form, head=head)
        found = elsewhere(tmp_path / f"x{suffix}", images)
        np.testing.assert_allclose(found, answers(run, head, images), atol=1e-4)
        assert np.ptp(found, axis=0).max() > 0.2  # not all the same, or anything would do
        assert card == {
            **json.loads((tmp_path / f"x{suffix}.json").read_text()),
            "path": tmp_path / f"x{suffix}",
        }
        assert card["classes"] == [f"class {number}" for number in range(4)]
        assert card["input"]["shape"] == ["n", 32, 32, 3]
        assert card["key"]["weights_sha256"] == run.source["weights_sha256"]
        assert card["check"]["largest_difference"] < 1e-4


@pytest.mark.slow
def test_two_classes_at_a_temperature(tmp_path):
    run = fitted(tmp_path, 2, cuts=("logits",), weights=None)
    pixels = RunClassifier(run, device="cpu").pixels
    images = np.stack([pixels(one) for one in sorted(tmp_path.glob("photos/*/*.png"))[4:11]])
    export_run(run, tmp_path / "x.pt2", format="exported-program")
    found = elsewhere(tmp_path / "x.pt2", images)
    np.testing.assert_allclose(found, answers(run, run.best_head()["name"], images), atol=1e-4)
    assert found.shape == (7, 2)
    assert np.ptp(found, axis=0).min() > 0.2


@pytest.mark.slow
def test_a_head_without_probabilities_gives_scores(run, images, tmp_path):
    card = export_run(run, tmp_path / "x.pt2", format="exported-program", head="svm")
    found = elsewhere(tmp_path / "x.pt2", images)
    assert card["output"]["what"] == "scores"
    classifier = RunClassifier(run, "svm", device="cpu")
    wanted = classifier.estimator.decision_function(classifier.features(images))
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.slow
def test_what_answers_otherwise_is_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_answers", lambda classifier, images: np.full((3, 4), 0.25))
    with pytest.raises(InvalidInputError, match="as exported-program differs from predict by 0"):
        export_run(run, tmp_path / "x.pt2", format="exported-program", head="logreg")
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_what_cannot_be_exported_is_one_line(run, tmp_path, monkeypatch):
    for options, said in (
        ({"format": "tflite"}, "format='tflite' is unknown; known: 'onnx', 'exported-program'"),
        ({"path": tmp_path / "x.pt"}, f"path='{tmp_path}/x.pt' must end in '.onnx' for format='onnx'"),
        ({"head": "knn"}, "is a NeighborsClassifier, which has no formula to write; export a softmax, "),
    ):
        with pytest.raises(InvalidInputError) as caught:
            export_run(run, **options)
        assert said in str(caught.value)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'featbank\[export\]'"):
        export_run(run, tmp_path / "x.onnx", head="logreg")
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="no real data beside the checkout")
@pytest.mark.parametrize(
    ("backbone", "weights", "cut"),
    [
        ("mobilenet_v2", "weights/mobilenet_v2-imagenet1k.safetensors", "avgpool"),
        ("timm:vit_tiny_patch16_224", None, "pre_logits"),
    ],
)
def test_onnx_runtime_agrees_on_64_photographs(tmp_path, backbone, weights, cut):
    for package in ("onnxscript", "onnxruntime", *(("timm",) if weights is None else ())):
        pytest.importorskip(package)
    photos = SHARED / "data/caltech101-32"
    bank = extract(
        photos,
        backbone=backbone,
        weights=SHARED / weights if weights else "random",
        cuts=(cut,),
        precision="float32",
        split="2,1,1",
        limit=128,
        cache_dir=tmp_path,
    ).bank
    run = fit_heads(bank, heads=("logreg",), samples_per_class=2, repeats=1, cache_dir=tmp_path).run
    export_run(run, tmp_path / "x.onnx")
    classifier = RunClassifier(run, device="cpu")
    images = np.stack([classifier.pixels(one) for one in sorted(photos.glob("*/*.jpg"))[::20][:64]])
    wanted = answers(run, run.best_head()["name"], images)
    np.testing.assert_allclose(elsewhere(tmp_path / "x.onnx", images), wanted, atol=1e-4)
    assert len(set(wanted.argmax(axis=1))) > 3
