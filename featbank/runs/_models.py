"""What the JSON files of a run hold: checked once, when read. Keys nobody asks for may stand there."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import AfterValidator, BaseModel, FailFast, Strict, model_validator

from featbank._validation import CONFIG, Count, FileName, Json, Line, Natural, Positive, Share, check
from featbank.banks import BankKey
from featbank.errors import InvalidInputError

__all__ = ["Answers", "FitHits", "RunFacts", "check_histories"]

_Size = Annotated[int, Ge(1), Le(65_536)]
#: What estimators of others give may be off by a rounding.
_Probability = Annotated[float, Strict(), Ge(-0.001), Le(1.001)]
_Loss = Annotated[float, Strict(), Ge(-1e38), Le(1e38)]


class _Model(BaseModel):
    model_config = CONFIG


class _Source(_Model):
    """Where features came from: a bank by its name, and the key that says how they were computed."""

    bank: Line
    key_digest: Line
    dataset: FileName
    backbone: FileName
    weights: Line | None
    weights_path: Line | None
    weights_sha256: Line
    random_state: int | None
    transform: Json
    image_size: _Size
    precision: Line
    dtype: Line
    cut_dtypes: dict[str, Literal["float16", "float32"]]
    batch_size: _Size
    decoder: Line
    format_version: Natural
    provenance: Json

    @model_validator(mode="after")
    def _is_a_key(self) -> _Source:
        try:
            key = BankKey(**{one.name: getattr(self, one.name) for one in fields(BankKey)})
        except InvalidInputError as error:
            raise ValueError(str(error)) from None
        if key.digest() != self.key_digest:
            raise ValueError("is not what the key_digest is of")
        if self.transform.get("image_size", self.image_size) != self.image_size:
            raise ValueError("has two sizes of images")
        return self


class _Entry(_Model):
    """A kept head."""

    name: FileName
    cut: Line
    head: Line
    temperature: Positive | None
    n_per_class: Natural | Literal["all"]
    fewest_per_class: Natural | None = None
    most_per_class: Natural | None = None
    unit: Literal["samples", "groups"] = "samples"
    repeat: Count
    top1: Share | None
    val_top1: Share | None
    val_metric: _Loss | None = None
    best_epoch: Natural | None
    saved: bool


class _Sweep(_Model):
    digest: Line | None = None
    n_fits: Count | None = None


class _Parameters(_Model):
    head_params: dict[str, Json] | None = None
    metrics: list[Line] = []
    untrained_classes: Literal["drop", "keep"] = "drop"
    folds: Annotated[int, Ge(2)] | None = None
    val: Annotated[float, Strict(), Ge(0), Le(1)] | Literal["none"] | None = None
    val_per_class: Natural | None = None
    draw: Literal["images", "groups"] = "images"
    random_state: Count = 0


class _Draws(_Model):
    judged: Line
    subsets: dict[str, list[Line]]
    shares: dict[str, Share] = {}
    folds: Annotated[int, Ge(2)] | None = None
    unit: Literal["samples", "groups"] = "samples"
    grouped: bool = False
    held_out: Annotated[float, Strict(), Gt(0), Lt(1)] | None = None


class _Rows(_Model):
    val: Count
    test: Count


class _Untrained(_Model):
    policy: Literal["drop", "keep"] = "drop"
    classes: dict[Line, _Rows] = {}


def _draws(value: dict[str, Any]) -> dict[str, Any]:
    return check(_Draws, value) and value if value else value


class RunFacts(_Model):
    """``run.json``."""

    format: Literal[1]
    name: Line
    created: Line
    status: Literal["running", "finished"]
    command: Line = ""
    parameters: _Parameters
    sweep: _Sweep = _Sweep()
    source: _Source
    classes: Annotated[list[Line], Len(1), FailFast()]
    cuts: list[Line]
    notes: list[Line]
    heads: list[_Entry]
    versions: dict[str, Line] = {}
    rows: dict[str, Count] = {}
    draws: Annotated[Json, AfterValidator(_draws)] = {}
    near_duplicates: Json = {}
    untrained: _Untrained = _Untrained()
    continued: list[Line] = []

    @model_validator(mode="after")
    def _heads_differ(self) -> RunFacts:
        names = [one.name for one in self.heads]
        if len(set(names)) < len(names):
            raise ValueError("has two heads of one name")
        return self


class Answers(_Model):
    """``predictions/NAME.json``: one column for each of these, all of one length."""

    split: Literal["test", "val"]
    rows: Annotated[list[Count], FailFast()]
    y_true: Annotated[list[Count], FailFast()]
    y_pred: Annotated[list[Count], FailFast()]
    p_true: list[_Probability] | None
    p_pred: list[_Probability] | None

    @model_validator(mode="after")
    def _one_length(self) -> Answers:
        columns = (self.rows, self.y_true, self.y_pred, self.p_true, self.p_pred)
        if len({len(one) for one in columns if one is not None}) > 1:
            raise ValueError("has columns of several lengths")
        return self


class FitHits(_Model):
    """A line of ``hits.jsonl``: which fit, and which of its rows it got right, a bit each in hexadecimal."""

    cut: Line
    head: Line
    temperature: Positive | None
    n_per_class: Natural | Literal["all"]
    repeat: Count
    split: Literal["test", "val"]
    n_rows: Natural
    top1: str
    top5: str | None


def check_histories(found: Any) -> dict[str, dict[str, list[float | None]]]:
    """Return ``histories.json``: head -> what was followed -> its value after each epoch, None for no number.

    Raises
    ------
    ValueError
        If it is anything else, an accuracy is not in 0..1, or a head has lines of several lengths.
    """
    histories: dict[str, dict[str, list[float | None]]] = check(
        dict[str, dict[str, Annotated[list[_Loss | None], FailFast()]]], found
    )
    for name, history in histories.items():
        if len({len(values) for values in history.values()}) > 1:
            raise ValueError(f"{name!r} has lines of several lengths")
        for key, values in history.items():
            if key.endswith("accuracy"):
                check(Annotated[list[Share | None], FailFast()], values)
    return histories
