"""What a study is: data, backbones, sweeps, and the published figures it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import BeforeValidator, ConfigDict, Discriminator, Strict, StringConstraints, Tag
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from featbank._cuts import check_view
from featbank._validation import Natural, Positive, by, one_of
from featbank.backbones import get_spec
from featbank.backbones.own_networks import network_plan
from featbank.backbones.preprocessing import TRANSFORMS
from featbank.datasets import parse_split
from featbank.heads import catalogue
from featbank.manifest import SPLITS, short_repr
from featbank.metrics import catalogue as metrics_catalogue
from featbank.sampling import parse_sizes
from featbank.sweep.protocols import find_protocol
from featbank.sweep.records import CURVE_METRICS
from featbank.sweep.spec import head_of
from featbank.training.unfreezing import check_unfreeze

__all__ = [
    "CHECKS",
    "CONFIG",
    "BackboneChoice",
    "Claim",
    "Data",
    "Experiment",
    "Figure",
    "Study",
    "Sweep",
    "TestData",
    "Training",
]

#: What can be asked of measured curves, see `featbank.pipeline.comparing`.
CHECKS = (
    "no-difference",
    "rises-with-depth",
    "gains-shrink",
    "lower",
    "no-learning",
    "best-temperature-over-1",
)

#: Of every table: a key that is not known is a fault, and a number that is not finite.
CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)

#: Text that is not empty; names are parts of the names of folders.
Text = Annotated[str, Strict(), StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
Name = Annotated[str, Strict(), StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
#: A list of texts; one text is a list of one.
Texts = Annotated[tuple[Text, ...], BeforeValidator(lambda one: (one,) if isinstance(one, str) else one)]
Number = Annotated[float, Strict()]
#: Samples per class a figure or claim is of.
Size = Annotated[
    Annotated[int, Strict(), Ge(1), Le(10**9), Tag("#number")] | Annotated[Literal["all"], Tag("#all")],
    Discriminator(lambda one: "#all" if isinstance(one, str) else "#number"),
]
Metric = Annotated[Name, one_of(CURVE_METRICS)]
_Split = Annotated[Name, one_of(SPLITS)]
_Classes = Annotated[
    Annotated[int, Strict(), Ge(2), Le(10**9), Tag("#number")] | Annotated[Texts, Len(1), Tag("#names")],
    Discriminator(lambda one: "#names" if isinstance(one, (list, tuple, str)) else "#number"),
]


def _head(name: str) -> str:
    """Return a head's own name; ``module:Class`` stays as it is, and must be there."""
    return name if head_of(name)[1] is not None else catalogue.canonical(name)


def _most(number: int) -> BeforeValidator:
    """Make one text a list of one, and count before names are looked up: each is compared with all known."""

    def listed(value: Any) -> Any:
        if isinstance(value, (list, tuple)) and len(value) > number:
            raise PydanticCustomError("too_long", "has too many entries", {"max_length": number})
        return (value,) if isinstance(value, str) else value

    return BeforeValidator(listed)


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


@dataclass(frozen=True, config=CONFIG)
class Data:
    """Where images come from, and which of them a study takes.

    Parameters
    ----------
    source : str
        ``"torchvision:NAME"``, ``"digits"``, or the name of a folder or CSV file that the user has.
    name : str
        Name of the images in the cache. The study's own bank is called so with a digest of its split behind;
        studies of the same name share the features of images they both take.
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
    group, group_by : str or None
        The column of a CSV that says groups of images, or a regular expression that finds them in ids: as
        ``featbank extract --group`` and ``--group-by``.
    n_classes_published : int or None
        Classes the published study had, to say so where the data at hand has more or fewer; selects none.

    Examples
    --------
    >>> data = Data(source="photos", name="pets", split="40,10,40", classes=("cat", "dog"))
    >>> data.classes, data.images_per_class
    (('cat', 'dog'), None)
    """

    source: Text
    name: Name
    how: Text = ""
    split: Annotated[Name, by(parse_split)] | None = None
    classes: _Classes | None = None
    without: Texts = ()
    images_per_class: Natural | None = None
    splits: dict[_Split, _Split] = field(default_factory=dict)
    group: Text | None = None
    group_by: Text | None = None
    n_classes_published: Annotated[int, Strict(), Ge(2), Le(10**9)] | None = None


@dataclass(frozen=True, config=CONFIG)
class TestData:
    """Images of the user's own that a study is tested on.

    Parameters
    ----------
    source, how : str
        As in `Data`.
    blur : float or None
        Gaussian blur with a kernel of the image's width divided by this; see
        `featbank.datasets.BlurredDataset`.

    Examples
    --------
    >>> TestData("photos-of-mine", how="the telephone's, without faces", blur=32).blur
    32.0
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    source: Text
    how: Text = ""
    blur: Positive | None = None


@dataclass(frozen=True, config=CONFIG)
class BackboneChoice:
    """A backbone with its weights and preprocessing; the fields are those of `featbank.extract`.

    Examples
    --------
    >>> chosen = BackboneChoice("vgg16", image_size=96)
    >>> chosen.precision, chosen.weights  # None: the weights torchvision gives it
    ('auto', None)
    """

    name: Annotated[Name, by(get_spec)]
    weights: Annotated[str, Strict(), StringConstraints(min_length=1)] | None = None
    image_size: Annotated[int, Strict(), Ge(1), Le(16_384)] | None = None
    transform: Annotated[Name, one_of(TRANSFORMS)] | None = None
    mean: Annotated[tuple[Number, ...], Len(3, 3)] | None = None
    std: Annotated[tuple[Positive, ...], Len(3, 3)] | None = None
    interpolation: Annotated[Name, one_of(("bilinear", "bicubic"))] | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    dtype: Literal["float16", "float32"] = "float16"
    batch_size: Annotated[int, Strict(), Ge(1), Le(65_536)] | None = None


@dataclass(frozen=True, config=CONFIG)
class Sweep:
    """What is fitted; the fields are those of `featbank.fit_heads`.

    Examples
    --------
    >>> sweep = Sweep(cuts=["fc7"], heads=["linear", "knn"], samples_per_class="4..32")
    >>> sweep.heads, sweep.repeats
    (('softmax', 'knn'), 5)
    """

    cuts: Annotated[Texts, Len(1, 1000)]
    heads: Annotated[
        tuple[Annotated[Name, by(_head, result=True)], ...],
        _most(100),
        Len(1),
    ] = ("softmax",)
    samples_per_class: Annotated[Text, BeforeValidator(_as_text), by(parse_sizes)] = "all"
    repeats: Annotated[int, Strict(), Ge(1), Le(1000)] = 5
    temperatures: Annotated[tuple[Positive, ...], Len(1, 1000)] | None = None
    random_state: Annotated[int, Strict(), Ge(0), Le(2**32 - 1)] = 0
    head_params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    untrained_classes: Literal["drop", "keep"] = "drop"
    up_to: bool = False
    draw: Literal["images", "groups"] = "images"
    folds: Annotated[int, Strict(), Ge(2), Le(1000)] | None = None
    val_per_class: Natural | None = None
    val: (
        Annotated[
            Annotated[float, Strict(), Gt(0), Lt(1), Tag("#part")] | Annotated[Literal["none"], Tag("#none")],
            Discriminator(lambda one: "#none" if isinstance(one, str) else "#part"),
        ]
        | None
    ) = None
    metrics: Annotated[
        tuple[Annotated[Name, by(metrics_catalogue.canonical)], ...],
        _most(100),
    ] = ()
    views: Annotated[tuple[Annotated[Name, by(check_view)], ...], Len(0, 100)] = ()
    average_views: bool = False
    protocol: Annotated[Name, by(find_protocol)] | None = None

    @property
    def head_names(self) -> tuple[str, ...]:
        """What the heads are called in results: the class of ``module:Class``."""
        return tuple(one.rpartition(":")[2] for one in self.heads)


@dataclass(frozen=True, config=CONFIG)
class Experiment:
    """One bank and one sweep of it: what leaves one run folder.

    Examples
    --------
    >>> data, backbone = Data("digits", "digits"), BackboneChoice("minivgg")
    >>> depth = Experiment("depth", data, backbone, Sweep(["fc6", "fc7"]))
    >>> depth.backbone.name, depth.sweep.cuts
    ('minivgg', ('fc6', 'fc7'))
    """

    name: Name
    data: Data
    backbone: BackboneChoice
    sweep: Sweep
    test_data: TestData | None = None


@dataclass(frozen=True, config=CONFIG)
class Training:
    """A network that is trained on images instead of a head on a bank; most fields are `featbank.train`'s.

    Parameters
    ----------
    name : str
    data : Data
    network : str or None
        One from scratch; None where `backbone` is trained further.
    params, recipe : mapping
        What differs from the network's plan and recipe.
    backbone, weights, unfreeze : optional
        What is trained further, and which layers of it.
    image_size : int or None
    val : float or None
        Part of the training images that is held out to validate.
    blur : float or None
        Measure the test images blurred as well, as cut ``"blurred"``; as in `TestData`.
    repeats, random_state : int
        How many seeds, and the first.

    Examples
    --------
    >>> Training("scratch", Data("photos", "pets"), network="own_net", repeats=3).subject
    'own_net'
    >>> Training("further", Data("photos", "pets"), backbone="vgg16", unfreeze="every:3").subject
    'vgg16, every:3'
    """

    name: Name
    data: Data
    network: Annotated[Name, by(network_plan)] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    backbone: Annotated[Name, by(get_spec)] | None = None
    weights: Text | None = None
    unfreeze: Annotated[Text, by(check_unfreeze)] | None = None
    image_size: Annotated[int, Strict(), Ge(1), Le(16_384)] | None = None
    val: Annotated[float, Strict(), Gt(0), Lt(1)] | None = None
    blur: Positive | None = None
    repeats: Annotated[int, Strict(), Ge(1), Le(1000)] = 1
    random_state: Annotated[int, Strict(), Ge(0), Le(2**31)] = 0

    @property
    def subject(self) -> str:
        """What is trained."""
        return self.network or f"{self.backbone}, {self.unfreeze or 'all'}"

    @property
    def test_data(self) -> None:
        """None: the test images are the data's."""
        return None


@dataclass(frozen=True, config=CONFIG)
class Figure:
    """A published number, and which measured one stands beside it.

    Parameters
    ----------
    label : str
        What it is, for people.
    value : float
        As published; accuracies are in 0..1.
    metric : str
        One of `featbank.sweep.records.CURVE_METRICS`.
    experiment : str
        Whose curve; goes without saying in a file of one experiment.
    cut, head : str or None
        Which line of it; None where the experiment has one only.
    n_per_class : int, "all" or None
        Which size; the largest by default.
    temperature : float or None
        Which temperature; by default the one with the highest `metric`.
    what : {"accuracy", "temperature"}
        The metric itself, or the temperature at which it is highest.

    Examples
    --------
    >>> figure = Figure("block5_pool, test", 0.7129, cut="block5_pool")
    >>> figure.metric, figure.n_per_class  # None: the largest that was fitted
    ('top1', None)
    """

    label: Text
    value: Number
    metric: Metric = "top1"
    experiment: Name = ""
    cut: Name | None = None
    head: Name | None = None
    n_per_class: Size | None = None
    temperature: Positive | None = None
    what: Literal["accuracy", "temperature"] = "accuracy"


@dataclass(frozen=True, config=CONFIG)
class Claim:
    """A published finding in words, and the check that says whether it is so here.

    Parameters
    ----------
    text : str
        The finding, for people.
    check : str
        One of `CHECKS`.
    experiments : tuple of str
        Whose curves it is about; all by default.
    metric : str
        One of `featbank.sweep.records.CURVE_METRICS`.
    cut, head : str or None
        Only this cut or head; all by default.
    n_per_class : int, "all" or None
        Only this size; where a check is about one, the largest by default.

    Examples
    --------
    >>> claim = Claim("accuracy rises with depth", "rises-with-depth", experiments="depth")
    >>> claim.check in CHECKS, claim.experiments
    (True, ('depth',))
    """

    text: Text
    check: Annotated[Name, one_of(CHECKS)] = ""
    experiments: Texts = ()
    metric: Metric = "top1"
    cut: Name | None = None
    head: Name | None = None
    n_per_class: Size | None = None


@dataclass(frozen=True, config=CONFIG)
class Study:
    """One TOML file: an experiment of one's own, or a published one.

    Parameters
    ----------
    name : str
        The file's, without its suffix.
    path : pathlib.Path
        The file.
    title, question : str
        What it is about, and what it asks; by default its name, and nothing.
    experiments : tuple of Experiment
        Heads on banks.
    trainings : tuple of Training
        Networks that are trained on images.
    report : str
        Where the published numbers are from; empty if there are none.
    figures : tuple of Figure
    claims : tuple of Claim
    differs : tuple of str
        Where this protocol differs from the published one.

    Examples
    --------
    >>> import featbank
    >>> study = featbank.load_study("mini_digits")
    >>> [one.name for one in study.experiments], len(study.figures), study.claims[0].text
    (['depth', 'temperature'], 4, 'accuracy rises with depth')
    """

    name: Name
    path: Path
    title: Text
    question: str
    experiments: tuple[Experiment, ...]
    report: str = ""
    trainings: tuple[Training, ...] = ()
    figures: tuple[Figure, ...] = ()
    claims: tuple[Claim, ...] = ()
    differs: Texts = ()

    __repr__ = short_repr
