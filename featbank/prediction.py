"""From a photograph to an answer: backbone, cut, transform and head, all as the run says."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank._cache import DigestCache, user_path
from featbank._cuts import LOGITS, SOFTMAX, CutName, with_views
from featbank._registry import Progress, nearest
from featbank.backbones import Backbone, Preprocessing, TruncatedNetwork, cut_tail
from featbank.backbones.families import OF_A_MODULE
from featbank.backbones.loading import load_recorded
from featbank.backbones.tail import map_before
from featbank.datasets import decode_image, list_images, read_image_file
from featbank.errors import (
    BankError,
    ImageDecodeError,
    InvalidInputError,
    MissingDataError,
    MissingWeightsError,
    RunError,
    UnknownNameError,
)
from featbank.extraction.forward import Forward, choose_device, split_precision
from featbank.extraction.jpeg_decoder import decode_of
from featbank.extraction.settings import as_stored, stored_dtype
from featbank.inspection import CamDisplay, OcclusionDisplay, RunImages
from featbank.manifest import printable, short_repr
from featbank.runs import Run, open_run

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Prediction", "RunClassifier", "activation_map", "occlude", "predict"]

logger = logging.getLogger(__name__)

#: Images per pass of a network that is asked alone.
_NETWORK_BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Parameters
    ----------
    path : pathlib.Path
        The image.
    classes : tuple of str
        The likeliest classes, likeliest first; the one predicted where the head has no probabilities; empty
        if the image could not be read.
    probabilities : tuple of float, or None
        Of each, in 0..1; None where the head has none (``svm``, ``ridge``, ``ncm``).
    error : str or None
        Why the image could not be read.

    Examples
    --------
    >>> found = Prediction(Path("photo.jpg"), ("cat", "dog"), (0.93, 0.05))
    >>> f"{found.path}: {found.classes[0]} ({found.probabilities[0]:.0%})"
    'photo.jpg: cat (93%)'
    """

    path: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...] | None
    error: str | None = None

    __repr__ = short_repr


def predict(
    run: Run | Backbone | str | os.PathLike[str] | None,
    images: Sequence[str | os.PathLike[str]],
    *,
    head: str | None = None,
    top: int = 5,
    weights: str | os.PathLike[str] | None = None,
    backbone: Backbone | None = None,
    device: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[Prediction]:
    """Classify photographs with a head of a run, or with a network alone.

    Backbone, weights, preprocessing, precision, cut, temperature and standardisation are read from the run,
    and the weights are checked against the digest they were extracted with.

    Parameters
    ----------
    run : Run, Backbone, path, str or None
        The run, its folder, a part of its name, or None for the newest; or a network whose own classes are
        asked for, such as ``load_backbone("my_training")``.
    images : sequence of path
        Files, and folders whose images are taken with those of their sub-folders.
    head : str, optional
        Name of a kept head; the best by validation accuracy by default.
    top : int, default=5
        How many classes to give.
    weights : path, optional
        The weights file, if it is no longer where it was.
    backbone : Backbone, optional
        The backbone of a run of ``Backbone.from_module``, which featbank cannot build again.
    device : str, optional
        ``"cpu"``, ``"cuda"``, ...
    cache_dir : path, optional
        The cache in which to look for the run.

    Returns
    -------
    list of Prediction
        One per image, in the order given; an image that cannot be read has an ``error``.

    Raises
    ------
    RunNotFoundError, RunError
        If there is no such run or head.
    MissingDataError
        If a path does not exist or a folder holds no image.
    MissingWeightsError, WeightsError
        If the weights are not there any more, or are others.
    InvalidInputError
        If `top` is under 1, or nobody says what the logits of a network stand for.

    Examples
    --------
    >>> import featbank
    >>> digits, photo = featbank.open_dataset("digits"), Path("photo.png")
    >>> photo.write_bytes(digits.read(3)) > 0
    True
    >>> (found,) = predict(featbank.open_run(), [photo], top=2)
    >>> found.classes[0] == digits.labels[3], len(found.probabilities)
    (True, 2)
    """
    if top < 1:
        raise InvalidInputError(f"top={top!r} must be at least 1")
    if isinstance(run, Backbone):
        if head is not None or weights is not None or backbone is not None:
            raise InvalidInputError("head, weights and backbone are of a run, and a network has its own")
        classify, classes = _network_classifier(run, device)
        paths = [file for image in images for file in list_images(image)]
        return _answers(paths, run.preprocessing, _NETWORK_BATCH, classify, classes, top)
    if not isinstance(run, Run):
        run = open_run(run, cache_dir=cache_dir)
    run.entry(head)  # a wrong name is told before images are looked for
    paths = [file for image in images for file in list_images(image)]
    digests = DigestCache.of(cache_dir)
    classifier = RunClassifier(run, head, weights=weights, backbone=backbone, device=device, digests=digests)
    digests.save()
    known = np.asarray(classifier.estimator.classes_)

    def classify_by_head(images_read: NDArray[np.uint8]) -> NDArray[Any]:
        if not classifier.has_probabilities:
            return classifier.labels(images_read)
        return classifier.probabilities(images_read)[:, known]

    classes = run.classes
    if classifier.has_probabilities:
        classes = tuple(run.classes[int(code)] for code in known)
    size = classifier.batch_size
    return _answers(paths, classifier.preprocessing, size, classify_by_head, classes, top)


def _network_classifier(
    backbone: Backbone, device: str | None
) -> tuple[Callable[[NDArray[np.uint8]], NDArray[Any]], Sequence[str]]:
    """Return what gives the probabilities of a network's own classes, and these."""
    if backbone.class_names is None or LOGITS not in backbone.spec.cut_names:
        raise InvalidInputError(
            f"nobody says what classes {backbone.name!r} ({backbone.weights}) tells apart; fit a head on its "
            "features: featbank fit-head"
        )
    forward = Forward(backbone, device=choose_device(device), precision="float32", batch_size=_NETWORK_BATCH)

    def classify(images_read: NDArray[np.uint8]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (
            forward(images_read, [LOGITS])[LOGITS].double().softmax(dim=1).cpu().numpy()
        )
        return found

    return classify, backbone.class_names


def _answers(
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    batch_size: int,
    classify: Callable[[NDArray[np.uint8]], NDArray[Any]],
    classes: Sequence[str],
    top: int,
) -> list[Prediction]:
    """Classify files; `classify` gives for each image a probability of each class, or a class's position."""
    answers: dict[Path, Prediction] = {}
    for start in range(0, len(paths), batch_size):
        pixels: dict[Path, NDArray[np.uint8]] = {}
        for path in paths[start : start + batch_size]:
            try:
                pixels[path] = preprocessing.apply_geometry(decode_image(read_image_file(path)))
            except (ImageDecodeError, OSError) as error:
                answers[path] = Prediction(path, (), (), str(error))
        if not pixels:
            continue
        for path, row in zip(pixels, classify(np.stack(list(pixels.values()))), strict=True):
            if not np.ndim(row):
                answers[path] = Prediction(path, (classes[int(row)],), None)
                continue
            best = np.argsort(-row, kind="stable")[:top]
            shares = tuple(float(row[index]) for index in best)
            answers[path] = Prediction(path, tuple(classes[int(index)] for index in best), shares)
    return [answers[path] for path in paths]


def occlude(
    run: Run | str | os.PathLike[str] | None,
    image: str | os.PathLike[str] | None = None,
    *,
    head: str | None = None,
    class_name: str | None = None,
    patch: int | None = None,
    stride: int | None = None,
    data: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> OcclusionDisplay:
    """Show which part of an image a head of a run needs to see its true class.

    Parameters
    ----------
    run, head, weights, device, cache_dir
        As for `predict`.
    image : path or str, optional
        A file, or the id of an image of the run; by default the first test image the head gets right.
    class_name : str, optional
        The true class. By default that of the run's row, or the folder the file lies in; where neither says
        anything the class the head predicts, with a warning in the log.
    patch, stride : int, optional
        See `OcclusionDisplay.from_image`.
    data, data_root : optional
        Where the run's images are now, if they have moved; see `RunImages`.
    progress : callable, optional
        Called with (positions done, positions in all).

    Returns
    -------
    OcclusionDisplay
        Not drawn yet.

    Raises
    ------
    RunNotFoundError, RunError, MissingWeightsError, WeightsError
        As `predict`.
    MissingDataError
        If the image is not there.
    UnknownNameError
        If there is no such class.
    InvalidInputError
        If the head gives no probabilities, no test image is classified rightly, or an option is out of range.

    Examples
    --------
    >>> import featbank
    >>> display = occlude(featbank.open_run(), patch=8, stride=8)
    >>> display.probabilities.shape, display.plot().save("occlusion.png").name
    ((4, 4), 'occlusion.png')
    """
    if not isinstance(run, Run):
        run = open_run(run, cache_dir=cache_dir)
    if class_name is not None and class_name not in run.classes:
        raise UnknownNameError(f"unknown class {class_name!r}; known: {nearest(class_name, run.classes)}")
    classifier = RunClassifier(run, head, weights=weights, device=device)
    pixels, name, said = _image_of(run, classifier, image, data, data_root)
    true = class_name or said
    if true is None:
        true = run.classes[int(classifier.probabilities(pixels[None])[0].argmax())]
        logger.warning(
            "nobody says what %s shows, so the class predicted is taken, %r; --class says it", name, true
        )
    return OcclusionDisplay.from_image(
        classifier.probabilities,
        pixels,
        run.classes.index(true),
        class_name=true,
        patch=patch,
        stride=stride,
        batch_size=classifier.batch_size,
        progress=progress,
        title=f"{name} in {run.source['backbone']}: {classifier.entry['name']}",
    )


def activation_map(
    run: Run | str | os.PathLike[str] | None,
    image: str | os.PathLike[str] | None = None,
    *,
    head: str | None = None,
    class_name: str | None = None,
    occlusion: bool = True,
    data: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> CamDisplay:
    """Show which places of an image speak for a class: the map before the head, weighted by the head.

    Parameters
    ----------
    run, image, head, data, data_root, weights, device, cache_dir
        As for `occlude`.
    class_name : str, optional
        Whose evidence; that of the class the head predicts by default.
    occlusion : bool, default=True
        Whether the occlusion map of that class is drawn beside it, where the head has probabilities.
    progress : callable, optional
        Called with (positions of the patch done, positions in all).

    Returns
    -------
    CamDisplay
        Not drawn yet; exact for a linear head on the mean of a map, see `CamDisplay.evidence_of`.

    Raises
    ------
    RunNotFoundError, RunError, MissingWeightsError, WeightsError, MissingDataError
        As `occlude`.
    UnknownNameError
        If the head knows no such class.
    InvalidInputError
        If there is no map shortly before the head's cut.

    Examples
    --------
    >>> import featbank
    >>> display = activation_map(featbank.open_run(), occlusion=False)
    >>> display.cut, display.plot().save("cam.png").name
    ('block3_pool', 'cam.png')
    """
    if not isinstance(run, Run):
        run = open_run(run, cache_dir=cache_dir)
    classifier = RunClassifier(run, head, weights=weights, device=device)
    trained = [run.classes[int(code)] for code in classifier.estimator.classes_]
    if class_name is not None and class_name not in trained:
        raise UnknownNameError(f"unknown class {class_name!r}; known: {nearest(class_name, trained)}")
    where, score = classifier.scores_of_maps()
    pixels, name, _ = _image_of(run, classifier, image, data, data_root)
    wanted = class_name or run.classes[int(classifier.labels(pixels[None])[0])]
    target = run.classes.index(wanted)
    evidence, exact = CamDisplay.evidence_of(
        classifier.maps(pixels[None], where)[0], lambda batch: score(batch)[:, trained.index(wanted)]
    )
    title, hidden, share = f"{name} in {run.source['backbone']}: {classifier.entry['name']}", None, None
    if classifier.has_probabilities:
        share = float(classifier.probabilities(pixels[None])[0, target])
        if occlusion:
            hidden = OcclusionDisplay.from_image(
                classifier.probabilities,
                pixels,
                target,
                class_name=wanted,
                batch_size=classifier.batch_size,
                progress=progress,
            )
    return CamDisplay(
        pixels,
        evidence,
        wanted,
        probability=share,
        cut=where,
        exact=exact
        and len(classifier._cuts) == 1,  # with views averaged, it is the image's part of the score
        occlusion=hidden,
        title=title,
    )


def _image_of(
    run: Run,
    classifier: RunClassifier,
    image: str | os.PathLike[str] | None,
    data: str | os.PathLike[str] | None,
    data_root: str | os.PathLike[str] | None,
) -> tuple[NDArray[np.uint8], str, str | None]:
    """Return an image as the network takes it, its name, and its class where a row or the folder says it."""
    file = None if image is None else user_path(image)
    if file is not None and file.is_file():
        folder = file.absolute().parent.name
        return classifier.pixels(file), printable(file.name), folder if folder in run.classes else None
    images = RunImages(run.manifest, run.provenance(), data, data_root=data_root)
    row = _first_right(run, classifier) if image is None else images.row_of(image)
    if row is None:
        raise MissingDataError(
            f"no image at {printable(str(image))!r}, and no row of run {printable(run.name)!r} has that id"
        )
    label = int(run.manifest.labels[row])
    pixels = classifier.preprocessing.apply_geometry(images.read(row))
    return pixels, printable(run.manifest.ids[row]), run.classes[label] if label >= 0 else None


def _first_right(run: Run, classifier: RunClassifier) -> int:
    answers = run.predictions(classifier.entry["name"])
    right = answers.rows[answers.y_true == answers.y_pred]
    if not len(right):
        raise InvalidInputError(
            f"head {classifier.entry['name']!r} gets no {answers.split} image right; name an image"
        )
    return int(right[0])


class RunClassifier:
    """Backbone and head of a run as one function: images in, probabilities (or classes) out, as the run says.

    Parameters
    ----------
    run : Run
        Where the head was fitted.
    head : str, optional
        Name of a kept head; the best by validation accuracy by default.
    weights : path, optional
        The weights file, if it is no longer where it was.
    backbone : Backbone, optional
        The backbone of a run of ``Backbone.from_module``.
    device : str, optional
        ``"cpu"``, ``"cuda"``, ...
    digests : DigestCache, optional
        Digests of files known from before, that of the weights among them.

    Attributes
    ----------
    run, entry
        The run, and what it says of the head.
    estimator : object
        The fitted head.
    preprocessing : Preprocessing
        What images go through first.
    batch_size : int
        Images per forward pass.

    Raises
    ------
    RunError
        If there is no such head.
    MissingWeightsError, WeightsError
        If the weights are not there any more, or are others.

    Examples
    --------
    >>> import featbank
    >>> classifier = RunClassifier(featbank.open_run())
    >>> pixels = np.zeros((5, 32, 32, 3), np.uint8)  # as classifier.pixels("photo.jpg") makes them
    >>> classifier.probabilities(pixels).shape
    (5, 10)
    """

    def __init__(
        self,
        run: Run,
        head: str | None = None,
        *,
        weights: str | os.PathLike[str] | None = None,
        backbone: Backbone | None = None,
        device: str | None = None,
        digests: DigestCache | None = None,
    ) -> None:
        self.run = run
        self.entry: Mapping[str, Any] = run.entry(head)
        entry, source = self.entry, run.source
        self.estimator = run.load_head(entry["name"])
        #: That of the extraction: another one may round the last bit differently.
        self.batch_size = int(source["batch_size"])
        try:
            self.preprocessing = Preprocessing(**source["transform"])
        except (TypeError, ValueError) as error:
            raise RunError(
                f"run {printable(run.name)!r} is damaged: its transform is none ({error}); fit again"
            ) from error
        decoder = source["decoder"]
        if decode_of(decoder) != "cpu":
            logger.warning(
                "the head was fitted on images decoded by %s; these are decoded by Pillow, and may differ "
                "by a few steps of 255",
                decoder,
            )
        self._temperature = entry["temperature"]
        name = CutName.parse(str(entry["cut"]))
        self._cut = str(replace(name, base=LOGITS) if name.base == SOFTMAX else name)
        parameters = run.facts["parameters"]
        averaged = parameters.get("views", ()) if parameters.get("average_views") else ()
        #: What a batch is read at: the cut, and at each view that is averaged over.
        self._cuts = with_views([self._cut], averaged)
        self._dtype = source["dtype"]
        if weights is None and backbone is None:
            _check_path(run)
        self._backbone = loaded = load_recorded(
            source, f"run {printable(run.name)!r}", weights=weights, backbone=backbone, digests=digests
        )
        if hasattr(self.estimator, "attach"):
            self.estimator.attach(cut_tail(loaded, self._cut))
        self._forward = Forward(
            replace(loaded, preprocessing=self.preprocessing),
            device=choose_device(device),
            precision=split_precision(source["precision"])[0],
            batch_size=self.batch_size,
        )

    def pixels(self, path: Path) -> NDArray[np.uint8]:
        """Read, decode and crop a file: (size, size, 3) uint8; raises `ImageDecodeError`, `OSError`."""
        return self.preprocessing.apply_geometry(decode_image(read_image_file(path)))

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what a bank would hold of these images (n, size, size, 3), shape (n_views * n, n_features).

        A block of rows for each view that the run averages over; most runs have that of the images alone.
        """
        found = self._forward(images, self._cuts)
        return np.concatenate([self._as_features(found[cut]) for cut in self._cuts])

    def _as_features(self, values: Tensor) -> NDArray[np.float32]:
        # through the stored dtype, as the features the head was fitted on went
        stored = as_stored(values.float().cpu().numpy(), self._cut, self._dtype, cut_dtype=self.cut_dtype)
        features = stored.reshape(len(stored), -1)
        if self._temperature is None:
            return features
        from scipy.special import softmax

        # in float64, as a bank derives it from its logits
        probabilities = softmax(features.astype(np.float64) / self._temperature, axis=1)
        return np.asarray(probabilities, dtype=np.float32)

    @property
    def cuts(self) -> tuple[str, ...]:
        """What is read of an image: the head's cut, and that at each view which the run averages over."""
        return tuple(self._cuts)

    @property
    def cut_dtype(self) -> str:
        """What the features at the head's cut are stored as, ``"float16"`` or ``"float32"``."""
        dtypes = self.run.source["cut_dtypes"]
        # what is pooled when it is read has the type of what it is pooled from
        unpooled = str(replace(CutName.parse(self._cut), pooling=None))
        found = dtypes.get(self._cut) or dtypes.get(unpooled) or stored_dtype(self._cut, self._dtype)
        return str(found)

    def network(self) -> TruncatedNetwork:
        """Return the backbone cut where the head reads it, on the device."""
        return self._forward.network((self._cut,))

    def maps(self, images: NDArray[np.uint8], cut: str) -> NDArray[np.float32]:
        """Return the features of images (n, size, size, 3) at another cut, (n, *shape), not rounded."""
        values: NDArray[np.float32] = self._forward(images, [cut])[cut].float().cpu().numpy()
        return values

    def scores_of_maps(self) -> tuple[str, Callable[[NDArray[np.float32]], NDArray[np.float64]]]:
        """Return the cut of the last map before the head, and what the head scores maps of it.

        Returns
        -------
        str
            A cut with features (channels, side, side).
        callable
            Takes maps (n, channels, side, side), returns scores (n, len(estimator.classes_)), of which each
            row has the mean 0.

        Raises
        ------
        InvalidInputError
            If there is no map shortly before the head's cut, or the head is for a view of images.
        """
        import torch

        if CutName.parse(self._cut).view is not None:
            raise InvalidInputError(
                f"head {self.entry['name']!r} is for {self._cut!r}, a view of images, so its map is not that "
                "of the image; name a head of a cut without view"
            )
        where, layers = map_before(self._backbone, "softmax" if self._temperature is not None else self._cut)

        def score(batch: NDArray[np.float32]) -> NDArray[np.float64]:
            with torch.inference_mode():
                features = layers(torch.from_numpy(np.ascontiguousarray(batch))).flatten(1).numpy()
            scores = np.asarray(self.estimator.decision_function(features), dtype=np.float64)
            if scores.ndim == 1:  # of two classes, positive for the second
                scores = np.stack([-scores, scores], axis=1)
            centred: NDArray[np.float64] = scores - scores.mean(axis=1, keepdims=True)
            return centred

        return where, score

    @property
    def has_probabilities(self) -> bool:
        """Whether the head gives probabilities, and not only a class."""
        return hasattr(self.estimator, "predict_proba")

    def labels(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the class the head predicts of each image, as its position in ``run.classes``."""
        if len(self._cuts) > 1:
            return np.asarray(self.probabilities(images).argmax(axis=1), dtype=np.int64)
        return np.asarray(self.estimator.predict(self.features(images))).astype(np.int64)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Classify images.

        Parameters
        ----------
        images : ndarray of uint8, shape (n, size, size, 3), n <= batch_size
            As `pixels` and ``preprocessing.apply_geometry`` give them.

        Returns
        -------
        ndarray of float64, shape (n, n_classes)
            A column for each of ``run.classes``; 0 for a class the head has never seen.

        Raises
        ------
        InvalidInputError
            If the head has no probabilities; `labels` are known of every head.
        """
        if not self.has_probabilities:
            raise InvalidInputError(
                f"head {self.entry['name']!r} gives no probabilities; choose another with --head"
            )
        found = np.zeros((len(images), len(self.run.classes)))
        scores = self.estimator.predict_proba(self.features(images))
        views = scores.reshape(len(self._cuts), len(images), -1)
        found[:, np.asarray(self.estimator.classes_)] = views.mean(axis=0)
        return found


def _check_path(run: Run) -> None:
    """Refuse a weights file that the run's own bank in the cache does not name: a run may be a stranger's."""
    path, name = run.source["weights_path"], run.source["weights"]
    if path is None and (name is None or name.startswith(OF_A_MODULE) or re.fullmatch(r"\w+", name)):
        return
    try:
        known = run.open_bank(check="size").provenance.get("weights_path")
    except BankError:
        known = None
    if path is None or path != known:
        raise MissingWeightsError(
            f"run {printable(run.name)!r} was fitted with the weights {printable(str(path or name))!r}, and "
            "no bank in the cache says the same; a path that only a run names is not opened: give the file "
            "with --weights FILE"
        )
