"""One experiment of a study's file: its data, backbone and sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from featbank.backbones import get_spec
from featbank.backbones.preprocessing import TRANSFORMS
from featbank.datasets import parse_split
from featbank.errors import FeatbankError
from featbank.heads import catalogue
from featbank.manifest import SPLITS
from featbank.pipeline._parameters import read_parameter, sweep_faults
from featbank.pipeline._table import Faults, Table
from featbank.pipeline.study import BackboneChoice, Data, Experiment, Sweep, TestData
from featbank.sampling import parse_sizes

__all__ = ["TABLES", "read_experiment", "unused_heads"]

#: Tables of the file that hold for all experiments, and that each may change key by key.
TABLES = ("data", "test_data", "backbone", "sweep", "heads")

_PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def read_experiment(
    given: Any, number: int, base: Mapping[str, Any], study: str, faults: Faults
) -> Experiment | None:
    where = f"experiment {number}:"
    top = Table(given, where, faults)
    name = top.text("name", "", required=True)
    if name:
        where = f"experiment {name!r}:"
    own = {one: top.take(one)[0] for one in TABLES}
    top.close()

    def table(key: str) -> Table:
        return Table(base[key], f"[{key}]", faults, own[key], f"{where} {key}")

    data = _data(table("data"), study)
    test_data = None
    if base["test_data"] is not None or own["test_data"] is not None:
        test_data = _test_data(table("test_data"))
    backbone = _backbone(table("backbone"), faults)
    sweep = _sweep(table("sweep"), base["heads"], own["heads"], where, backbone, faults)
    _split_fault(data, faults)
    if not name or data is None or backbone is None or sweep is None:
        return None
    sweep_faults(data, sweep, where, faults)
    return Experiment(name, data, backbone, sweep, test_data)


def _data(table: Table, study: str) -> Data:
    named = isinstance(table.peek("classes"), list)
    classes = table.texts("classes") if named else table.whole("classes", least=2)
    splits = Table(table.take("splits", {})[0], f"{table.where} splits", table.faults)
    renamed = {split: splits.choice(split, SPLITS) for split in SPLITS if split in splits}
    splits.close()
    found = Data(
        source=table.text("source", "", required=True),
        name=table.text("name", study),
        how=table.text("how", ""),
        split=table.text("split"),
        classes=classes or None,
        without=table.texts("without"),
        images_per_class=table.whole("images_per_class"),
        splits={split: value for split, value in renamed.items() if value is not None},
        n_classes=table.whole("n_classes", least=2),
    )
    table.close()
    return found


def _split_fault(data: Data, faults: Faults) -> None:
    if data.split is not None:
        refused(faults, "[data]", lambda: parse_split(data.split or ""))


def _test_data(table: Table) -> TestData:
    found = TestData(
        source=table.text("source", "", required=True),
        how=table.text("how", ""),
        blur=table.number("blur", over=0),
    )
    table.close()
    return found


def _backbone(table: Table, faults: Faults) -> BackboneChoice | None:
    found = BackboneChoice(
        name=table.text("name", "", required=True),
        weights=table.text("weights"),
        image_size=table.whole("image_size"),
        transform=table.choice("transform", TRANSFORMS),
        precision=table.choice("precision", _PRECISIONS, "auto"),
        dtype=table.choice("dtype", ("float16", "float32"), "float16"),
        batch_size=table.whole("batch_size"),
    )
    table.close()
    if not found.name or not refused(faults, table.where, lambda: get_spec(found.name)):
        return None
    return found


def _sweep(
    table: Table, base: Any, own: Any, where: str, backbone: BackboneChoice | None, faults: Faults
) -> Sweep | None:
    cuts = table.texts("cuts", required=True)
    heads = table.texts("heads", ("softmax",))
    sizes = _sizes(table, faults)
    temperatures = _temperatures(table, faults)
    repeats = table.whole("repeats", 5)
    random_state = table.whole("random_state", 0, least=0)
    val = table.choice("val", ("none",)) if isinstance(table.peek("val"), str) else _part(table)
    table.close()
    known = []
    for cut in cuts:
        if backbone is not None and refused(
            faults, f"{table.where} cuts:", partial(get_spec(backbone.name).cut, cut)
        ):
            known.append(get_spec(backbone.name).cut(cut).name)
    if temperatures is not None and backbone is not None and "softmax" not in known:
        faults.add(f"{table.where} temperatures are for the cut 'softmax', which is not among {list(cuts)}")
    params = _head_params(heads, base, own, where, faults)
    if not cuts or (backbone is not None and len(known) < len(cuts)):
        return None
    return Sweep(tuple(known), params[0], sizes, repeats, temperatures, random_state, params[1], val)


def _part(table: Table) -> float | None:
    part: float | None = table.number("val", over=0, below=1)
    return part


def _sizes(table: Table, faults: Faults) -> str:
    value, where = table.take("samples_per_class", "all")
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None
    if text is None:
        faults.add(f"{where} = {value!r} is not text such as '4..32' or a whole number")
        return "all"
    return text if refused(faults, table.where, lambda: parse_sizes(text)) else "all"


def _temperatures(table: Table, faults: Faults) -> tuple[float, ...] | None:
    value, where = table.take("temperatures")
    if value is None:
        return None
    numbers = isinstance(value, list) and all(
        isinstance(one, (int, float)) and not isinstance(one, bool) and 0 < one < float("inf")
        for one in value
    )
    if not numbers or not value:
        faults.add(f"{where} = {value!r} is not a list of numbers over 0")
        return None
    return tuple(float(one) for one in value)


def _head_params(
    heads: tuple[str, ...], base: Any, own: Any, where: str, faults: Faults
) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """Return the heads by their own names, and the parameters of those that have any."""
    names, params = [], {}
    tables = Table(base, "[heads]", faults, own, f"{where} heads")
    for head in heads:
        tables.take(head)
        if not refused(faults, "heads:", partial(catalogue.canonical, head)):
            continue
        name = catalogue.canonical(head)
        names.append(name)
        of_file, of_experiment = (
            given.get(head) if isinstance(given, Mapping) else None for given in (base, own)
        )
        one = Table(of_file, f"[heads.{head}]", faults, of_experiment, f"{where} heads.{head}")
        found = {key: read_parameter(one, name, key) for key in catalogue.parameters(name)}
        one.close()
        found = {key: value for key, value in found.items() if value is not None}
        if found:
            params[name] = found
    # heads of the file that an experiment does not fit are for the other experiments
    for head in list(base) if isinstance(base, Mapping) else []:
        if head not in heads and refused(faults, "[heads]:", partial(catalogue.canonical, head)):
            tables.take(head)
    tables.close()
    return tuple(names), params


def unused_heads(base: Any, experiments: Sequence[Experiment], faults: Faults) -> None:
    """Note the heads of the file that no experiment fits: their parameters change nothing."""
    fitted = {head for one in experiments for head in one.sweep.heads}
    known = {alias: one for one in catalogue.names() for alias in (one, *catalogue.aliases(one))}
    for head in base if isinstance(base, Mapping) else ():
        if head in known and known[head] not in fitted:
            faults.add(f"[heads.{head}] is for a head that no experiment fits")


def refused(faults: Faults, where: str, call: Callable[[], object]) -> bool:
    """Call something that checks a value; its error becomes a fault. Returns whether all was well."""
    try:
        call()
    except FeatbankError as error:
        faults.add(f"{where} {error}")
        return False
    return True
