"""A head of a run as one file for other programs: bytes of an image in, probabilities out, and a card."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import json_bytes, sha256, write_file
from featbank._cache import user_path
from featbank._cuts import CutName
from featbank._process import package_versions
from featbank.errors import InvalidInputError, MissingPackageError, one_line
from featbank.extraction.forward import split_precision
from featbank.manifest import printable
from featbank.prediction import RunClassifier
from featbank.runs import Run, open_run

if TYPE_CHECKING:
    from torch import nn

    from featbank.backbones import Backbone

__all__ = ["EXPORT_FORMATS", "export_run"]

logger = logging.getLogger(__name__)

#: What is written, and how such a file is called.
EXPORT_FORMATS = {"onnx": ".onnx", "exported-program": ".pt2"}
#: Largest difference of a probability from what `predict` gives, on the images of the check.
TOLERANCE = 1e-4
_CHECKED, _LARGEST_BATCH = 3, 1 << 16
_ONNX_OPSET = 20
#: A file of the format can hold no more.
_ONNX_BYTES = 2_000_000_000


def export_run(
    run: Run | str | os.PathLike[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    format: str = "onnx",
    head: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    backbone: Backbone | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Write backbone and head of a run as one file that needs no featbank, with a card beside it.

    The file takes decoded images after resize and crop, uint8 of shape (n, size, size, 3), RGB, any n, and
    gives probabilities, float32 of shape (n, n_classes), in the order of the run's classes. Inside are the
    rest of the preprocessing, the backbone up to the cut, rounding to what the bank stores, standardisation
    and the head. It computes in float32. Before anything is written its answers to a few images are compared
    with those of `predict`.

    Parameters
    ----------
    run : Run, path, str or None
        The run, its folder, a part of its name, or None for the newest.
    path : path, optional
        The file, replaced if it exists; default: the name of run and head, in the current folder. The card
        lies beside it, as ``FILE.json`` (``pets.onnx.json``).
    format : {"onnx", "exported-program"}, default="onnx"
        For ONNX Runtime and the like (needs the extra ``export`` to write, not to run), or for
        ``torch.export.load``.
    head : str, optional
        Name of a kept head; the best by validation accuracy by default.
    weights, backbone : optional
        As for `predict`.
    cache_dir : path, optional
        The cache in which to look for the run.

    Returns
    -------
    dict
        The card: ``file``, ``sha256``, ``input`` (shape, layout, the steps before it), ``output``,
        ``classes``, ``key`` (of the bank, with all digests), ``versions`` and ``check``. A head without
        probabilities (``svm``, ``ridge``, ``ncm``) gives scores, whose largest is the answer.

    Raises
    ------
    RunNotFoundError, RunError, MissingWeightsError, WeightsError
        As `predict`.
    InvalidInputError
        If the format is unknown, the head has no formula to write (``knn``, heads of your own) or sees views
        of an image, the network cannot be written, or what was written answers otherwise than `predict`.
    MissingPackageError
        If ``onnxscript`` is not installed.

    Examples
    --------
    >>> import featbank, torch
    >>> card = export_run(featbank.open_run(), "digits.pt2", format="exported-program")
    >>> model = torch.export.load("digits.pt2").module()
    >>> model(torch.zeros(4, 32, 32, 3, dtype=torch.uint8)).shape == (4, len(card["classes"]))
    True
    """
    if format not in EXPORT_FORMATS:
        known = ", ".join(repr(one) for one in EXPORT_FORMATS)
        raise InvalidInputError(f"format={format!r} is unknown; known: {known}")
    if not isinstance(run, Run):
        run = open_run(run, cache_dir=cache_dir)
    classifier = RunClassifier(run, head, weights=weights, backbone=backbone, device="cpu")
    name, suffix = str(classifier.entry["name"]), EXPORT_FORMATS[format]
    file = Path(f"{run.name}-{name}{suffix}") if path is None else user_path(path)
    if file.suffix.lower() != suffix:
        raise InvalidInputError(f"path={printable(str(file))!r} must end in {suffix!r} for format={format!r}")
    seen = [CutName.parse(cut).view for cut in classifier.cuts]
    views = ", ".join(view for view in seen if view is not None)
    if views:
        raise InvalidInputError(
            f"head {name!r} sees images at the views {views}, and a file takes them as they are; export a "
            "head of a run without --average-views, of a cut without @VIEW"
        )
    module = _module(classifier)
    size = classifier.preprocessing.image_size
    images = np.random.default_rng(0).integers(0, 256, (_CHECKED, size, size, 3), np.uint8)
    images[1:] = images[1:, :1, :1]  # of one colour each: noise alone may say the same of every class
    wanted = _answers(classifier, images)  # before the export, which must find what it caches
    card = _card(run, classifier)
    data, compute = (_onnx if format == "onnx" else _exported_program)(module, images, card)
    if compute is not None:
        found = compute(images)
        difference = float(np.abs(found - wanted).max())
        exact = split_precision(run.source["precision"])[0] == "float32"
        limit = TOLERANCE * (1 if module.gives_probabilities else max(1.0, float(np.abs(wanted).max())))
        if exact and not difference <= limit:
            raise InvalidInputError(
                f"head {name!r} as {format} differs from predict by {difference:.2g}, more than {limit:.2g}: "
                "nothing was written; try the other format, or another version of torch"
            )
        if not exact:
            logger.warning(
                "the features of run %s were computed in %s, the file computes in float32: on %d images its "
                "answers differ by %.2g at most",
                printable(run.name),
                run.source["precision"],
                _CHECKED,
                difference,
            )
        card["check"] = {"n_images": _CHECKED, "largest_difference": difference}
    write_file(file, data)
    card = {"file": file.name, "sha256": sha256(data), "size_bytes": len(data), "format": format, **card}
    write_file(file.with_name(f"{file.name}.json"), json_bytes(card))
    return {**card, "path": file.absolute()}


def _answers(classifier: RunClassifier, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    if classifier.has_probabilities:
        return classifier.probabilities(images)
    scores = classifier.estimator.decision_function(classifier.features(images))
    if scores.ndim == 1:
        scores = np.stack([-scores / 2, scores / 2], axis=1)
    found = np.zeros((len(images), len(classifier.run.classes)))
    found[:, np.asarray(classifier.estimator.classes_)] = scores
    return found


def _layers(classifier: RunClassifier) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return weights (n_in, n_out) and biases of the head's layers, the first on original features."""
    from featbank.heads import MLPClassifier, SoftmaxClassifier

    head = classifier.estimator
    if isinstance(head, MLPClassifier):
        return list(zip(head.coefs_, head.intercepts_, strict=True))
    if isinstance(head, SoftmaxClassifier):
        weights, bias = head.coef_.T, head.intercept_
    elif hasattr(head, "offsets_") and hasattr(head, "weights_") and not getattr(head, "normalize", False):
        weights, shift = head.space_.to_feature_space(head.weights_ / head.space_.gain_)
        bias = head.offsets_ + shift
        if len(head.classes_) == 2:  # as `decision_function` has it, one number
            weights, bias = weights[:, 1:] - weights[:, :1], bias[1:] - bias[:1]
    else:
        raise InvalidInputError(
            f"head {classifier.entry['name']!r} is a {type(head).__name__}, which has no formula to write; "
            "export a softmax, logreg, mlp, svm, ridge or ncm head (one without normalize) with --head "
            "('featbank runs info' lists them)"
        )
    if len(head.classes_) == 2:
        weights, bias = np.hstack([-weights / 2, weights / 2]), np.concatenate([-bias / 2, bias / 2])
    return [(weights, bias)]


def _module(classifier: RunClassifier) -> Any:
    """Return what is exported, as a module of torch."""
    import torch
    from torch import nn

    run, head, entry = classifier.run, classifier.estimator, classifier.entry
    network = copy.deepcopy(classifier.network()).float()
    (cut,) = network.cuts
    stored = classifier.cut_dtype
    layers = _layers(classifier)
    mean, scale = head.space_.mean_, head.space_.scale_
    first, bias = layers[0]
    layers[0] = first * scale[:, None], bias + mean @ first
    columns = np.zeros((len(head.classes_), len(run.classes)))
    columns[np.arange(len(head.classes_)), np.asarray(head.classes_).astype(int)] = 1

    def constant(values: NDArray[Any]) -> torch.Tensor:
        return torch.tensor(np.asarray(values, np.float32))

    class Classifier(nn.Module):
        gives_probabilities = classifier.has_probabilities

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("mean", constant(mean))
            self.register_buffer("scale", constant(scale))
            self.register_buffer("columns", constant(columns))
            self.n_layers = len(layers)
            for at, (weights, biases) in enumerate(layers):
                self.register_buffer(f"weights_{at}", constant(weights))
                self.register_buffer(f"bias_{at}", constant(biases))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            batch = classifier.preprocessing.normalise(images)
            features = self.network(batch)[cut]  # (n, *shape)
            if stored == "float16":  # what the head was fitted on went through this
                features = features.clamp(-65504.0, 65504.0).to(torch.float16).float()
            values = features.flatten(1)
            if entry["temperature"] is not None:
                values = torch.softmax(values / entry["temperature"], dim=1)
            values = (values - self.get_buffer("mean")) / self.get_buffer("scale")
            for at in range(self.n_layers):
                values = values if not at else torch.relu(values)
                values = values @ self.get_buffer(f"weights_{at}") + self.get_buffer(f"bias_{at}")
            if self.gives_probabilities:
                values = torch.softmax(values, dim=1)
            answers: torch.Tensor = values @ self.get_buffer("columns")  # one for each of the run's classes
            return answers

    module = Classifier().eval()
    for parameter in module.parameters():  # as torch.export writes them: each alone, rows in order
        parameter.data = parameter.detach().clone(memory_format=torch.contiguous_format)
    return module


def _program(module: nn.Module, images: NDArray[np.uint8]) -> Any:
    import torch

    example = torch.from_numpy(images[:2])
    try:
        with torch.no_grad():
            return torch.export.export(
                module,
                (example,),
                dynamic_shapes={"images": {0: torch.export.Dim("n", min=1, max=_LARGEST_BATCH)}},
                strict=False,
            )
    except Exception as error:  # torch's exporter raises nearly everything about code it cannot follow
        first = one_line(error)
        raise InvalidInputError(f"torch.export cannot write this network: {first}") from error


Compute = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def _exported_program(
    module: nn.Module, images: NDArray[np.uint8], card: dict[str, Any]
) -> tuple[bytes, Compute]:
    import torch

    file = io.BytesIO()
    torch.export.save(_program(module, images), file, extra_files={"featbank.json": json.dumps(card)})
    data = file.getvalue()
    again = torch.export.load(io.BytesIO(data)).module()

    def compute(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(again(torch.from_numpy(batch)))

    return data, compute


def _onnx(module: nn.Module, images: NDArray[np.uint8], card: dict[str, Any]) -> tuple[bytes, Compute | None]:
    import torch

    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "format='onnx' needs onnxscript; install it with: pip install 'featbank[export]', or take "
            "format='exported-program' (--format exported-program)"
        ) from error
    size = sum(one.numel() * one.element_size() for one in module.state_dict().values())
    if size > _ONNX_BYTES:
        raise InvalidInputError(
            f"the network has {size} bytes of weights, and one .onnx file holds 2 GB; take "
            "format='exported-program' (--format exported-program)"
        )
    program: Any = torch.onnx.export(
        _program(module, images),
        input_names=["images"],
        output_names=["probabilities" if card["output"]["what"] == "probabilities" else "scores"],
        opset_version=_ONNX_OPSET,
        dynamo=True,
        verbose=False,
    )
    program.model.metadata_props["featbank"] = json.dumps(card)
    data: bytes = program.model_proto.SerializeToString()
    try:
        import onnxruntime
    except ImportError:
        return data, None
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def compute(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(session.run(None, {"images": batch})[0])

    return data, compute


def _card(run: Run, classifier: RunClassifier) -> dict[str, Any]:
    """Return what a stranger has to know, as JSON values."""
    preprocessing, entry, source = classifier.preprocessing, classifier.entry, run.source
    size = preprocessing.image_size
    if preprocessing.mode == "squash":
        steps = [f"resize to {size} x {size} pixels, without regard to proportions"]
    else:
        steps = [
            f"resize so that the shorter side has {preprocessing.resize_size} pixels",
            f"take the {size} x {size} pixels at the centre",
        ]
    named = ("featbank", "torch", "torchvision", "timm", "transformers", "onnx", "onnxscript")
    versions = {name: found for name, found in package_versions(named).items() if found}
    what = "probabilities" if classifier.has_probabilities else "scores"
    key = {name: source[name] for name in source if name not in ("provenance", "weights_path", "bank")}
    return {
        "input": {
            "name": "images",
            "dtype": "uint8",
            "shape": ["n", size, size, 3],
            "layout": "NHWC, RGB",
            "before": [
                "decode; turn as the EXIF orientation says; transparency on white; RGB",
                *steps,
                f"(Pillow's {preprocessing.interpolation} filter, with its antialiasing)",
            ],
            "preprocessing": preprocessing.to_dict(),
        },
        "output": {
            "name": what,
            "what": what,
            "dtype": "float32",
            "shape": ["n", len(run.classes)],
        },
        "classes": [printable(one) for one in run.classes],
        "head": {one: entry[one] for one in ("name", "cut", "head", "temperature", "n_per_class")},
        "accuracy": {"top1": entry["top1"], "val_top1": entry["val_top1"]},
        "arithmetic": "float32",
        "key": key,
        "run": run.name,
        "versions": versions,
    }
