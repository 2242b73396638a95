"""What a study is: data, backbones, sweeps, and the published figures it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["BackboneChoice", "Claim", "Data", "Experiment", "Figure", "Study", "Sweep", "TestData"]


@dataclass(frozen=True)
class Data:
    """Where images come from, and which of them a study takes.

    Parameters
    ----------
    source : str
        ``"torchvision:NAME"``, ``"digits"``, or the name of a folder or CSV file that the user has.
    name : str
        Name of the images in the cache. The study's own bank is called so with its split behind, see
        `featbank.pipeline.bank_name`; studies of the same name share the features of images they both take.
    how : str
        How to get the data, for people.
    split : str or None
        As ``featbank extract --split``; None for the source's own.
    classes : int, tuple of str, or None
        See `featbank.datasets.select_images`, as the next two.
    without : tuple of str
    images_per_class : int or None
    splits : mapping of str to str
        Other names for the source's splits.
    n_classes : int or None
        Classes the published study had, to say so where the data at hand has more or fewer.
    """

    source: str
    name: str
    how: str = ""
    split: str | None = None
    classes: int | tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    images_per_class: int | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    n_classes: int | None = None


@dataclass(frozen=True)
class TestData:
    """Images of the user's own that a study is tested on.

    Parameters
    ----------
    source, how : str
        As in `Data`.
    blur : float or None
        Gaussian blur with a kernel of the image's width divided by this; see
        `featbank.datasets.BlurredDataset`.
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    source: str
    how: str = ""
    blur: float | None = None


@dataclass(frozen=True)
class BackboneChoice:
    """A backbone with its weights and preprocessing; the fields are those of `featbank.extract`."""

    name: str
    weights: str | None = None
    image_size: int | None = None
    transform: str | None = None
    precision: str = "auto"
    dtype: str = "float16"
    batch_size: int | None = None


@dataclass(frozen=True)
class Sweep:
    """What is fitted; the fields are those of `featbank.fit_heads`."""

    cuts: tuple[str, ...]
    heads: tuple[str, ...] = ("softmax",)
    samples_per_class: str = "all"
    repeats: int = 5
    temperatures: tuple[float, ...] | None = None
    random_state: int = 0
    head_params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    val: float | Literal["none"] | None = None


@dataclass(frozen=True)
class Experiment:
    """One bank and one sweep of it: what leaves one run folder."""

    name: str
    data: Data
    backbone: BackboneChoice
    sweep: Sweep
    test_data: TestData | None = None


@dataclass(frozen=True)
class Figure:
    """A published number, and which measured one stands beside it.

    Parameters
    ----------
    label : str
        What it is, for people.
    value : float
        As published; accuracies are in 0..1.
    metric : str
        One of `featbank.sweep.CURVE_METRICS`.
    experiment : str
        Whose curve.
    cut, head : str or None
        Which line of it; None where the experiment has one only.
    n_per_class : float or None
        Which size; the largest by default.
    temperature : float or None
        Which temperature; by default the one with the highest `metric`.
    what : {"accuracy", "temperature"}
        The metric itself, or the temperature at which it is highest.
    """

    label: str
    value: float
    metric: str
    experiment: str
    cut: str | None = None
    head: str | None = None
    n_per_class: float | None = None
    temperature: float | None = None
    what: Literal["accuracy", "temperature"] = "accuracy"


@dataclass(frozen=True)
class Claim:
    """A published finding in words, and the check that says whether it is so here.

    Parameters
    ----------
    text : str
        The finding, for people.
    check : str
        One of `featbank.pipeline.CHECKS`.
    experiments : tuple of str
        Whose curves it is about.
    metric : str
        One of `featbank.sweep.CURVE_METRICS`.
    cut, head : str or None
        Only this cut or head; all by default.
    n_per_class : float or None
        Only this size; where a check is about one, the largest by default.
    """

    text: str
    check: str
    experiments: tuple[str, ...]
    metric: str = "top1"
    cut: str | None = None
    head: str | None = None
    n_per_class: float | None = None


@dataclass(frozen=True)
class Study:
    """One file under ``pipelines/``.

    Parameters
    ----------
    name : str
        The file's, without its suffix.
    path : pathlib.Path
        The file.
    title, question : str
        What it is about, and what it asks.
    experiments : tuple of Experiment
    report : str
        Where the published numbers are from.
    figures : tuple of Figure
    claims : tuple of Claim
    differs : tuple of str
        Where this protocol differs from the published one.
    """

    name: str
    path: Path
    title: str
    question: str
    experiments: tuple[Experiment, ...]
    report: str
    figures: tuple[Figure, ...] = ()
    claims: tuple[Claim, ...] = ()
    differs: tuple[str, ...] = ()
