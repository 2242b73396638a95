"""From a TOML file to a study: every fault of the file is found before anything is run."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from featbank._cache import user_path
from featbank._registry import in_study, nearest
from featbank._validation import check_values, plain_file, say_faults, short
from featbank.backbones import get_spec
from featbank.backbones.own_networks import network_plan
from featbank.datasets import parse_split
from featbank.errors import FeatbankError, InvalidInputError, MissingDataError, UnknownNameError, one_line
from featbank.heads import catalogue
from featbank.manifest import printable
from featbank.pipeline.study import (
    CHECKS,
    CONFIG,
    Claim,
    Experiment,
    Figure,
    Name,
    Study,
    Sweep,
    Text,
    Texts,
    Training,
)
from featbank.sampling import parse_sizes
from featbank.sweep.protocols import find_protocol
from featbank.training import Recipe, recipe_for

__all__ = ["TEMPLATE", "find_study", "load_study", "study_names", "study_title"]

#: A study with every key there is, explained, that runs as it stands.
TEMPLATE = Path(__file__).with_name("template.toml")

#: The way to a value: keys and numbers.
Way = tuple[int | str, ...]

#: Tables of the file that hold for all experiments, and that each may change key by key.
_TABLES = ("data", "test_data", "backbone", "sweep", "heads")
_MOST_BYTES, _MOST_DOTS, _MOST_EXPERIMENTS, _MOST_FAULTS = 100_000, 256, 200, 20
#: After so many faults, those that were told before included, nothing more is read.
_ENOUGH = 200
_LONGEST_NAME, _LONGEST, _MOST_ENTRIES = 100, 500, 1000
_IN_ITS_CLASS = "has its parameters in its class: a head of your own is made without arguments"


def study_folders() -> list[Path]:
    """List the folders that hold studies: ``./pipelines``, and those that came with featbank."""
    package = Path(__file__).parents[1]
    # An installed wheel has them inside the package, a checkout beside it.
    found = [Path("pipelines"), package / "pipelines", package.parent / "pipelines"]
    return [one for one in found if one.is_dir()]


def study_names() -> list[str]:
    """List the names of the studies there are.

    Returns
    -------
    list of str
        Sorted; ``featbank run NAME`` runs one.

    Examples
    --------
    >>> "mini_digits" in study_names()
    True
    """
    return sorted({file.stem for folder in study_folders() for file in folder.glob("*.toml")})


def find_study(study: str | os.PathLike[str]) -> Path:
    """Return the file of a study.

    Parameters
    ----------
    study : str or path
        A TOML file, or the name of one in ``./pipelines`` or among those that came with featbank.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    MissingDataError
        If there is none.
    """
    path = user_path(study)
    if path.is_file():
        return path
    text = os.fspath(study)
    for folder in study_folders():
        file = folder / f"{text.removesuffix('.toml')}.toml"
        if "/" not in text and file.is_file():
            return file
    raise MissingDataError(
        f"no study {printable(text)!r}; give a TOML file, or one of {nearest(Path(text).stem, study_names())}"
    )


def study_title(study: str | os.PathLike[str]) -> tuple[Path, str]:
    """Return the file and the title of a study, without looking at anything else that the file says.

    Parameters
    ----------
    study : str or path
        A TOML file, or the name of one, as for `load_study`.

    Returns
    -------
    path : pathlib.Path
    title : str
        Its name where it has none.

    Raises
    ------
    MissingDataError, InvalidInputError
        If there is no such file, or it is no TOML.

    Examples
    --------
    >>> study_title("mini_digits")[1]
    'Handwritten digits through minivgg: depth, samples and temperature'
    """
    path = find_study(study)
    title = _read_toml(path, printable(str(path))).get("title")
    return path, printable(title.strip()) if isinstance(title, str) and title.strip() else path.stem


def load_study(study: str | os.PathLike[str]) -> Study:
    """Read a study.

    Parameters
    ----------
    study : str or path
        A TOML file, or the name of one in ``./pipelines`` or among those that came with featbank.

    Returns
    -------
    Study

    Raises
    ------
    MissingDataError
        If there is no such file.
    InvalidInputError
        If the file is no TOML, or has faults: unknown keys, values of the wrong kind, names nobody knows. All
        are in one message.

    Examples
    --------
    >>> study = load_study("mini_digits")
    >>> [one.name for one in study.experiments], study.experiments[0].backbone.name
    (['depth', 'temperature'], 'minivgg')
    """
    path = find_study(study)
    shown = printable(str(path))
    values = _read_toml(path, shown)
    if len(path.stem) > _LONGEST_NAME:
        raise InvalidInputError(
            f"study {short(path.stem)} has a name of {len(path.stem)} characters, which names folders too; "
            f"rename the file, {_LONGEST_NAME} are the most"
        )
    reader = _Reader(path, values)
    with in_study(path.parent.resolve()):
        found, faults = reader.study(), list(reader.faults)
    if found is None or faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        count += " or more" if reader.enough else ""
        listed = faults[:_MOST_FAULTS]
        more = f"; and {len(faults) - len(listed)} more" if len(faults) > len(listed) else ""
        raise InvalidInputError(f"{shown!r} has {count}: {'; '.join(listed)}{more}")
    return found


def _texts(value: Any) -> list[str]:
    """Return the texts of a list; one text is a list of one."""
    listed = value if isinstance(value, list) else [value]
    return [one for one in listed if isinstance(one, str)]


def _read_toml(path: Path, shown: str) -> dict[str, Any]:
    """Parse a file, within what takes a parser no time; raises `InvalidInputError`."""
    try:
        text = (
            plain_file(path.parent.resolve(), path.resolve().name, _MOST_BYTES).read_bytes().decode("utf-8")
        )
        # a key of n parts takes n * n steps, and every line below it n more
        lines = enumerate(text.splitlines(), 1)
        dotted = next((number for number, line in lines if line.count(".") > _MOST_DOTS), None)
        if dotted is not None:
            raise ValueError(f"line {dotted} has more than {_MOST_DOTS} dots")
        values: dict[str, Any] = check_values(tomllib.loads(text), finite=False)
        _check_sizes(values)
    except RecursionError:
        raise InvalidInputError(f"{shown!r} is no study: it is nested too deep") from None
    except ValueError as error:
        what = "TOML" if isinstance(error, (tomllib.TOMLDecodeError, UnicodeDecodeError)) else "a study"
        raise InvalidInputError(f"{shown!r} is not {what}: {one_line(error)}") from error
    except OSError as error:
        raise MissingDataError(f"cannot read {shown!r}: {error.strerror}") from error
    return values


def _check_sizes(value: Any, *way: str) -> None:
    """Refuse what no study needs: for each name in a list the nearest known ones are looked for."""
    if isinstance(value, (dict, list)):
        if len(value) > _MOST_ENTRIES:
            at = short(" ".join(way)) if way else "it"
            raise ValueError(f"{at} has {len(value):,} entries, and {_MOST_ENTRIES:,} are the most")
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            _check_sizes(one, *way, str(key))


@dataclass(config=CONFIG)
class _Published:
    report: Text
    figures: list[Figure] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)


@dataclass(config=CONFIG)
class _File:
    title: Text = ""
    question: Text = ""
    published: _Published | None = None
    differs: Texts = ()
    experiment: Any = None  # read one by one, as are trainings
    training: Any = None
    data: dict[str, Any] = field(default_factory=dict)
    test_data: dict[str, Any] | None = None
    backbone: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, Any] = field(default_factory=dict)
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(config=CONFIG)
class _Own:
    """What one experiment says: a name, and what replaces tables of the file, key by key."""

    name: Name
    data: dict[str, Any] = field(default_factory=dict)
    test_data: dict[str, Any] | None = None
    backbone: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, Any] = field(default_factory=dict)
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)


class _Reader:
    """Reads the tables of one file, and gathers their faults."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path, self.name, self.values = path, path.stem, values
        #: What the file says for all experiments.
        self.base = {name: values[name] for name in _TABLES if isinstance(values.get(name), dict)}
        #: In their order, each once.
        self.faults: dict[str, None] = {}
        self._found = 0

    @property
    def enough(self) -> bool:
        """Whether there are so many faults that more help nobody, and each may take its time."""
        return self._found > _ENOUGH

    def study(self) -> Study | None:
        """Return what the file says; None where that is not known for its faults."""
        usual = [] if "training" in self.values else [{"name": self.name}]
        listed = self._listed("experiment", usual)
        trained = self._listed("training", [])
        read = [self._experiment(given, n) for n, given in enumerate(listed, 1) if not self.enough]
        known = [one for one in read if one is not None]
        seen = [self._training(given, n) for n, given in enumerate(trained, 1) if not self.enough]
        if self.enough:
            return None
        trainings = [one for one in seen if one is not None]
        whole: list[Experiment | Training] = [*known, *trainings]
        names = [one.name for one in whole]
        for name in sorted({one for one in names if names.count(one) > 1}):
            self._add(f"two experiments are called {name!r}")
        if len(known) == len(read):
            plain = {head for one in known if one.sweep.protocol is None for head in one.sweep.heads}
            by_protocol = {
                head: one.sweep.protocol
                for one in known
                if one.sweep.protocol is not None
                for head in one.sweep.heads
            }
            own = {head.rpartition(":")[2] for head in plain if ":" in head}
            for head in self.base.get("heads", {}):
                fitted = _canonical(head)
                if fitted is None or fitted in plain:
                    continue
                if fitted in by_protocol:
                    self._add(find_protocol(by_protocol[fitted]).refusal(f"[heads.{head}]"))
                elif head in own:
                    self._add(f"[heads.{head}] {_IN_ITS_CLASS}")
                else:
                    self._add(f"[heads.{head}] is for a head that no experiment fits")
        file = self._made(_File, self.values, _in_file)
        if file is None or not whole:  # whose curves there are is not known: their own faults are enough
            return None
        for fault in _idle(file, listed, trained, whole):
            self._add(fault)
        published = file.published or _Published("none")
        figures = [
            self._figure(one, n, whole) for n, one in enumerate(published.figures, 1) if not self.enough
        ]
        claims = [self._claim(one, n, whole) for n, one in enumerate(published.claims, 1) if not self.enough]
        if self.faults:
            return None
        return Study(
            self.name,
            self.path,
            file.title or self.name,
            file.question,
            tuple(known),
            "" if file.published is None else published.report,
            tuple(trainings),
            tuple(figures),
            tuple(claims),
            file.differs,
        )

    def _listed(self, table: str, usual: list[dict[str, Any]]) -> list[Any]:
        listed = self.values.get(table, usual)
        if isinstance(listed, list) and (0 < len(listed) <= _MOST_EXPERIMENTS or table not in self.values):
            return listed
        self._add(
            f"{table} must be a list of tables, each under [[{table}]], {_MOST_EXPERIMENTS} at most; "
            f"got {short(listed)}"
        )
        return []

    def _training(self, given: Any, number: int) -> Training | None:
        """Read one training, its data over the file's, and check its plan and recipe."""
        name = given.get("name") if isinstance(given, dict) else None
        where = f"training {name[:100]!r}:" if isinstance(name, str) and name else f"training {number}:"
        if not isinstance(given, dict):
            self._add(f"{where} must be a table, got {short(given)}")
            return None
        own = given.get("data", {})
        values = given | {
            "data": {"name": self.name} | self.base.get("data", {}) | own if isinstance(own, dict) else own
        }
        found: Training | None = self._made(
            Training, values, lambda way: (where, f"{where} {' '.join(map(str, way))}".strip())
        )
        if found is None:
            return None
        if (found.network is None) == (found.backbone is None):
            self._add(f"{where} needs either 'network' (from scratch) or 'backbone' (trained further)")
            return None
        try:
            if found.network is not None:
                size = {} if found.image_size is None else {"image_size": found.image_size}
                network_plan(found.network, {**found.params, **size})
            recipe = recipe_for(found.network or "fine-tuning", found.recipe)
        except FeatbankError as error:
            self._add(f"{where} {error}")
            return None
        for fault in _training_faults(found, recipe):
            self._add(f"{where} {fault}")
        return found

    def _experiment(self, given: Any, number: int) -> Experiment | None:
        """Put what one experiment says over what the file says, and check the whole."""
        name = given.get("name") if isinstance(given, dict) else None
        where = f"experiment {name[:100]!r}:" if isinstance(name, str) and name else f"experiment {number}:"
        own = self._made(_Own, given, lambda way: (where, f"{where} {' '.join(map(str, way))}".strip()))
        if own is None:
            return None

        def place(way: Way) -> tuple[str, str]:
            table = str(way[0])
            mine = len(way) > 1 and way[1] in (getattr(own, table) or ())
            named = f"{where} {table}" if mine or table not in self.base else f"[{table}]"
            return named, " ".join([named, *map(str, way[1:])])

        tables = {
            name: self.base.get(name, {}) | (getattr(own, name) or {})
            for name in ("data", "backbone", "sweep")
        }
        tables["data"].setdefault("name", self.name)
        if "test_data" in self.base or own.test_data is not None:
            tables["test_data"] = self.base.get("test_data", {}) | (own.test_data or {})
        found = self._made(Experiment, {"name": own.name, **tables}, place)
        params: dict[str, dict[str, Any]] = {}
        if found is None or found.sweep.protocol is None:
            asked = tables["sweep"].get("heads", ["softmax"])
            params = self._head_params(asked, own.heads, where)
        if found is None:
            return None
        sweep, spec = replace(found.sweep, head_params=params), get_spec(found.backbone.name)
        if sweep.protocol is not None:
            known = find_protocol(sweep.protocol)
            for head in own.heads:
                self._add(f"{where} {known.refusal(f'heads.{head}')}")
            for key in ("heads", "val"):
                if key in tables["sweep"]:
                    self._add(f"{where} {known.refusal(f'sweep {key}')}")
            sweep = replace(sweep, heads=known.heads, head_params=known.head_params, val=known.val)
        cuts = []
        for cut in sweep.cuts:
            try:
                cuts.append(spec.cut(cut).name)
            except UnknownNameError as error:
                self._add(f"{place(('sweep', 'cuts'))[1]}: {error}")
        for name in dict.fromkeys(one for one in sweep.head_names if sweep.head_names.count(one) > 1):
            asked = [one for one in _texts(tables["sweep"].get("heads")) if _called(one) == name]
            self._add(f"{place(('sweep', 'heads'))[1]}: {asked} are both called {name!r}; leave one out")
        if sweep.temperatures is not None and "softmax" not in cuts:
            named = place(("sweep", "temperatures"))[1]
            self._add(f"{named} are for the cut 'softmax', which is not among {list(sweep.cuts)}")
        for fault in _split_faults(found):
            self._add(f"{where} {fault}")
        return (
            replace(found, sweep=replace(sweep, cuts=tuple(cuts))) if len(cuts) == len(sweep.cuts) else None
        )

    def _head_params(self, heads: Any, own: dict[str, Any], where: str) -> dict[str, dict[str, Any]]:
        """Return the parameters of the heads an experiment fits; the file may have those of others."""
        heads = heads[:100] if isinstance(heads, list) else heads  # more are refused
        fitted = {name for one in _texts(heads) if (name := _canonical(one))}
        own_names = {one.rpartition(":")[2] for one in _texts(heads) if ":" in one}
        found: dict[str, dict[str, Any]] = {}
        for given, named in ((self.base.get("heads", {}), "[heads{}]"), (own, f"{where} heads{{}}")):
            for head, params in given.items():
                name = _canonical(head)
                # another experiment may fit the head of featbank that is called so, too
                if ":" in head or (head in own_names and (name is None or given is own)):
                    self._add(f"{named.format(f'.{head}')} {_IN_ITS_CLASS}")
                elif name is None:
                    known = nearest(head[:100], catalogue.names())
                    self._add(f"{named.format('')}: unknown head {short(head)}; known: {known}")
                elif not isinstance(params, dict):
                    continue  # told where the file is checked
                elif name in fitted:
                    for key, value in params.items():
                        fault = head_fault(name, key, value)
                        if fault is not None:
                            self._add(f"{named.format(f'.{head}')} {fault}")
                    found[name] = found.get(name, {}) | params
                elif given is own:
                    self._add(f"{named.format(f'.{head}')} is for a head that the experiment does not fit")
        return {name: params for name, params in found.items() if params}

    def _figure(self, figure: Figure, number: int, experiments: list[Experiment | Training]) -> Figure:
        """Complete a published figure by what goes without saying; note why nothing can stand beside it."""
        where = f"figures {number}:"
        names = [one.name for one in experiments]
        name = figure.experiment or (names[0] if len(names) == 1 else "")
        if name not in names:
            said = f"experiment = {name!r} is unknown" if name else "lacks 'experiment'"
            self._add(f"{where} {said}; known: {nearest(name, names)}")
            return figure
        if figure.what == "accuracy" and not 0 <= figure.value <= 1:
            self._add(f"{where} value = {figure.value:g} must be within 0 and 1: 65 % is 0.65")
        chosen = experiments[names.index(name)]
        if isinstance(chosen, Training):
            measured = ["test", "blurred"] if chosen.blur else ["test"]
            if figure.cut not in (None, *measured):
                cuts = nearest(str(figure.cut), measured)
                self._add(f"{where} cut = {figure.cut!r} is unknown; known: {cuts}")
            return replace(figure, experiment=name, cut=figure.cut or "test")
        sweep = chosen.sweep
        line: dict[str, str] = {}
        for key, known in (("cut", sweep.cuts), ("head", sweep.head_names)):
            said = getattr(figure, key)
            if said is None and len(known) > 1:
                self._add(f"{where} lacks {key!r}; known: {nearest('', known)}")
            elif said not in (None, *known):
                self._add(f"{where} {key} = {said!r} is unknown; known: {nearest(said, known)}")
            line[key] = said or known[0]
        if figure.what == "temperature" and not figure.value > 0:
            self._add(f"{where} value = {figure.value:g} must be over 0")
        if figure.what == "temperature" and figure.temperature is not None:
            self._add(f"{where} temperature does nothing where the temperature itself is asked for")
        sizes = parse_sizes(sweep.samples_per_class)
        if figure.n_per_class is not None and figure.n_per_class not in sizes and "all" not in sizes:
            asked, shown = f"n_per_class = {figure.n_per_class!r}", ", ".join(map(str, sizes))
            self._add(f"{where} {asked} is not fitted; samples_per_class gives {shown}")
        if figure.temperature is not None and figure.temperature not in (sweep.temperatures or ()):
            shown = ", ".join(f"{one:g}" for one in sweep.temperatures or ()) or "none"
            self._add(f"{where} temperature = {figure.temperature:g} is not fitted; temperatures has {shown}")
        return replace(figure, experiment=name, cut=line["cut"], head=line["head"])

    def _claim(self, claim: Claim, number: int, experiments: list[Experiment | Training]) -> Claim:
        where = f"claims {number}:"
        names = [one.name for one in experiments]
        if not claim.check:
            self._add(f"{where} lacks 'check'; known: {nearest('', CHECKS)}")
            return claim
        for name in claim.experiments:
            if name not in names:
                self._add(f"{where} experiments: unknown {name!r}; known: {nearest(name, names)}")
        for key in ("cut", "head"):
            said = getattr(claim, key)
            known = [
                one
                for experiment in experiments
                for one in (
                    ("test", "blurred")
                    if isinstance(experiment, Training)
                    else {"cut": experiment.sweep.cuts, "head": experiment.sweep.head_names}[key]
                )
            ]
            if said not in (None, *known):
                self._add(f"{where} {key} = {said!r} is unknown; known: {nearest(said, known)}")
        n_asked = len(claim.experiments or names)
        if claim.check == "lower" and n_asked != 2:
            self._add(f"{where} check 'lower' compares two experiments, in this order; got {n_asked}")
        if claim.check == "rises-with-depth" and claim.cut is not None:
            self._add(f"{where} cut does nothing: 'rises-with-depth' compares cuts")
        if claim.check == "gains-shrink" and claim.n_per_class is not None:
            self._add(f"{where} n_per_class does nothing: 'gains-shrink' compares sizes")
        return replace(claim, experiments=claim.experiments or tuple(names))

    def _made(self, model: Any, values: Any, place: Callable[[Way], tuple[str, str]]) -> Any:
        """Return what a model makes of values; None, and its faults are noted, if it cannot."""
        try:
            return TypeAdapter(model).validate_python(values)
        except ValidationError as error:
            for fault in say_faults(error, place, lambda way: _keys_at(model, way[:-1])):
                self._add(fault)
        return None

    def _add(self, fault: str) -> None:
        self._found += 1
        self.faults.setdefault(fault if len(fault) < _LONGEST else f"{fault[:_LONGEST]}...")


def _training_faults(training: Training, recipe: Recipe) -> Iterator[str]:
    """Say what in a training would be refused, or change nothing, once its turn comes."""
    if "random_state" in training.recipe:
        yield "recipe random_state does nothing: the key 'random_state' of the training is the first seed"
    if training.network is not None:
        for key in ("weights", "unfreeze"):
            if getattr(training, key) is not None:
                yield f"{key} = {getattr(training, key)!r} is of a 'backbone', and this trains a 'network'"
    elif training.params:
        yield f"params = {short(dict(training.params))} are of a 'network', and this trains a 'backbone'"
    data = training.data
    no_val = data.split is not None and not parse_split(data.split).parts[1]
    if recipe.patience and training.val is None and no_val:
        yield (
            f"recipe patience = {recipe.patience} stops by validation images, and the split "
            f"{data.split!r} gives none; write val = 0.1, say"
        )


def _idle(
    file: _File, listed: list[Any], trained: list[Any], whole: list[Experiment | Training]
) -> Iterator[str]:
    """Name what is written and changes nothing: whoever wrote it believes that it does."""
    if file.published is None:
        if file.differs:
            yield "differs does nothing without [published]: it says where a study departs from that"
        if any(one.data.n_classes_published for one in whole):
            yield "[data] n_classes_published does nothing without [published]"
    for table in ("data", "test_data", "backbone", "sweep"):
        readers = [*listed, *trained] if table == "data" else listed
        because = "every experiment has its own" if readers else "there is no experiment, only trainings"
        for key in getattr(file, table) or ():
            if all(isinstance(one, dict) and key in (one.get(table) or ()) for one in readers):
                yield f"[{table}] {key} does nothing: {because}"
    for one in whole:
        if one.data.split is not None and one.data.splits and one.data.images_per_class is None:
            yield f"{one.name!r}: data splits does nothing beside data split, which replaces them"


def head_fault(head: str, key: str, value: Any) -> str | None:
    """Say what is wrong with a parameter of a head; None if it is one, and may have this value."""
    known = catalogue.parameters(head)
    if key not in known:
        return f"has no key {short(key)}; known: {nearest(key[:100], known)}"
    allowed = catalogue.allowed(head, key)
    if not allowed.holds(value):
        return f"{key} = {short(value)} is not allowed; allowed: {allowed}"
    return None


def _split_faults(experiment: Experiment) -> Iterator[str]:
    """Say what an experiment asks of its images that its split does not give."""
    data, sweep = experiment.data, experiment.sweep
    if data.split is None:  # the source's own
        return
    rule = parse_split(data.split)
    train, _, _ = rule.parts
    asked, folded = f"data split = {data.split!r}", ""
    if sweep.folds is not None:  # all images are dealt out, whatever the split
        train = sum(rule.parts) - math.ceil(sum(rule.parts) / sweep.folds)
        folded = f" to {sweep.folds} folds, of which all but one train,"
    if not train:
        yield f"{asked} gives no image to training"
    elif rule.kind == "counts" and max(_sizes(sweep), default=0) > train and not sweep.up_to:
        yield (
            f"sweep samples_per_class = {sweep.samples_per_class!r} asks for {max(_sizes(sweep))} "
            f"training images of each class, and the split {data.split!r}{folded} gives {int(train)}"
        )
    if (
        rule.kind == "counts"
        and data.images_per_class is not None
        and sum(rule.parts) > data.images_per_class
    ):
        yield (
            f"{asked} takes {int(sum(rule.parts))} images of each class, and images_per_class = "
            f"{data.images_per_class} leaves fewer"
        )


def _sizes(sweep: Sweep) -> list[int]:
    return [size for size in parse_sizes(sweep.samples_per_class) if size != "all"]


def _canonical(head: object) -> str | None:
    return catalogue.canonical(head) if isinstance(head, str) and catalogue.knows(head) else None


def _called(head: str) -> str | None:
    """Return what a head is called in results, as `Sweep.head_names`."""
    return head.rpartition(":")[2] if ":" in head else _canonical(head)


def _in_file(way: Way) -> tuple[str, str]:
    """Return what a value outside of the experiments, and the table it stands in, are called."""
    if way[:1] == ("published",) and len(way) > 2 and isinstance(way[2], int):
        named, rest = f"{way[1]} {way[2] + 1}:", way[3:]
    elif len(way) > 1:
        named, rest = f"[{way[0]}]", way[1:]
    elif way and way[0] in (*_TABLES, "published"):
        return "the file", f"[{way[0]}]"
    else:
        return "the file", " ".join(map(str, way))
    return named, " ".join([named, *map(str, rest)])


def _keys_at(model: Any, way: Way) -> list[str]:
    """Return the keys of the table to which a way leads."""
    for part in way:
        if isinstance(part, str):
            hint = get_type_hints(model)[part]
            model = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), model)
    return [one.name for one in fields(model) if one.name != "head_params"]
