"""Files that may come from anybody: bounded before they are parsed, checked by a model, faults in words."""

from __future__ import annotations

import json
import os
import re
import reprlib
import stat
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PlainValidator,
    Strict,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from featbank._registry import nearest
from featbank.errors import FeatbankError

__all__ = [
    "CONFIG",
    "Count",
    "FileName",
    "Json",
    "Line",
    "Natural",
    "Positive",
    "Share",
    "by",
    "check",
    "check_values",
    "one_of",
    "parse_json",
    "plain_file",
    "say_faults",
    "short",
]

#: Of every model: no value is converted from another kind, and no number is infinite.
CONFIG = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

_DEPTH, _LARGEST, _LONGEST = 16, 2**63, 100_000
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 80


def _line(value: object) -> str:
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "is not text")
    if len(value) > _LONGEST:
        raise PydanticCustomError("string_too_long", "is too long", {"max_length": _LONGEST})
    if "\0" in value:
        raise ValueError("has a NUL in it")
    return value


#: A text; unlike pydantic's own it may hold bytes of a file's name that are no UTF-8.
Line = Annotated[str, PlainValidator(_line)]
#: A probability, an accuracy, a share.
Share = Annotated[float, Strict(), Ge(0), Le(1)]
Positive = Annotated[float, Strict(), Gt(0)]
Count = Annotated[int, Strict(), Ge(0), Lt(_LARGEST)]
Natural = Annotated[int, Strict(), Ge(1), Lt(_LARGEST)]


def _file_name(name: str) -> str:
    if (
        len(name.encode("utf-8", "surrogatepass")) > 235
        or not re.fullmatch(r"[\w.@+=-]+", name)
        or name.startswith(".")
    ):
        raise ValueError("is no name that featbank gives to a file: letters, digits and ._@+=- only")
    return name


#: A name that is put together to the path of a file.
FileName = Annotated[Line, AfterValidator(_file_name)]


def short(value: object) -> str:
    """Return the `repr` of a value, cut off where it is long or deep."""
    return _repr.repr(value)


def check_values(value: Any, *, finite: bool = True) -> Any:
    """Return JSON or TOML values that are not too deep, not too many, and of a size that anything can take.

    Raises
    ------
    ValueError
        If they are nested more than 16 deep, or hold an integer of more than 63 bits, a number that is not
        finite, or a NUL.
    """
    level = [value]
    for _ in range(_DEPTH):
        deeper: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                deeper += one
                deeper += one.values()
            elif isinstance(one, list):
                deeper += one
            elif isinstance(one, str):
                if "\0" in one:
                    raise ValueError(f"{short(one)} has a NUL in it")
            elif isinstance(one, int if not finite else (int, float)) and not -_LARGEST < one < _LARGEST:
                raise ValueError(f"{short(one)} is no number that featbank writes")
        if not deeper:
            return value
        level = deeper
    raise ValueError(f"it is nested more than {_DEPTH} deep")


def _json(value: object) -> Any:
    if not isinstance(value, dict):
        raise PydanticCustomError("dict_type", "is no table")
    return check_values(value)


#: A JSON object of any content, within what everything can take.
Json = Annotated[dict[str, Any], PlainValidator(_json)]


def by(call: Callable[[Any], object], *, result: bool = False) -> AfterValidator:
    """Let something else check a value: its `FeatbankError` is the fault, word for word.

    Parameters
    ----------
    call : callable
        Gets the value.
    result : bool, default=False
        Whether what it returns stands in the place of the value.
    """

    def checked(value: Any) -> Any:
        try:
            found = call(value)
        except FeatbankError as error:
            raise PydanticCustomError("featbank_error", "{said}", {"said": str(error)}) from None
        return found if result else value

    return AfterValidator(checked)


def one_of(names: Iterable[str]) -> AfterValidator:
    """Let a text be one of a few, that are not known to a type checker."""
    known = tuple(names)

    def checked(value: str) -> str:
        if value not in known:
            raise PydanticCustomError("literal_error", "", {"expected": ", ".join(map(repr, known))})
        return value

    return AfterValidator(checked)


def plain_file(folder: Path, name: str, most_bytes: int) -> Path:
    """Return a file of a folder that may be opened: no link, no pipe, no device, and not too large.

    Parameters
    ----------
    folder : pathlib.Path
        Where it must lie; links on the way to the folder are followed.
    name : str
        Relative to it, with ``/`` between the parts.
    most_bytes : int
        How large it may be.

    Raises
    ------
    OSError
        If it is anything else; ``strerror`` says what, for people.
    """
    path = folder
    parts = PurePosixPath(name).parts
    for number, part in enumerate(parts, 1):
        path /= part
        found = path.lstat()
        wanted = stat.S_ISREG if number == len(parts) else stat.S_ISDIR
        if stat.S_ISLNK(found.st_mode):
            raise OSError(0, "it is a link, and only files in the folder itself are read", os.fspath(path))
        if not wanted(found.st_mode):
            raise OSError(0, "it is neither a file nor a folder of featbank's", os.fspath(path))
        if number == len(parts) and found.st_size > most_bytes:
            said = f"it has {found.st_size:,} bytes, and {most_bytes:,} are the most"
            raise OSError(0, said, os.fspath(path))
    return path


def parse_json(data: bytes) -> Any:
    """Parse JSON; whatever it holds, the error is a `ValueError` of one line."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        return json.loads(data.decode("utf-8", "surrogateescape"), parse_constant=refuse)
    except RecursionError:
        raise ValueError(f"it is nested more than {_DEPTH} deep") from None


def check(model: Any, values: Any) -> Any:
    """Return what a model makes of values; raises `ValueError` with the first faults in words."""
    made = isinstance(model, type) and issubclass(model, BaseModel)
    try:
        return model.model_validate(values) if made else TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        faults = say_faults(error, lambda where: (_joined(where[:-1]), _joined(where)))
        more = len(faults) - 3
        rest = f" and {more} more fault{'s' if more > 1 else ''}" if more > 0 else ""
        raise ValueError("; ".join(faults[:3]) + rest) from None


def _joined(where: tuple[int | str, ...]) -> str:
    return ".".join(map(str, where)) or "it"


#: What pydantic calls a fault -> how it is said; ``{value}`` is what was given.
_WORDS = {
    "string_type": "is not text",
    "int_type": "is not a whole number",
    "float_type": "is not a number",
    "bool_type": "is not true or false",
    "list_type": "is not a list",
    "tuple_type": "is not a list",
    "finite_number": "is not finite",
    "greater_than": "must be over {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "string_too_short": "is empty",
    "too_short": "is empty",
    "string_too_long": "is longer than {max_length} characters",
    "string_pattern_mismatch": "does not fit {pattern}",
    "too_long": "has more than {max_length} entries",
}
_TABLES = {"dict_type", "mapping_type", "dataclass_type", "model_type", "dataclass_exact_type"}


def say_faults(
    error: ValidationError,
    place: Callable[[tuple[int | str, ...]], tuple[str, str]],
    known: Callable[[tuple[int | str, ...]], Iterable[str]] = lambda _: (),
) -> list[str]:
    """Say what a model found fault with.

    Parameters
    ----------
    error : pydantic.ValidationError
    place : callable
        Gets the way to a value, as keys and numbers; returns what its table and the value itself are called.
    known : callable, optional
        Gets the way to a key that is unknown; returns those there are.

    Returns
    -------
    list of str
        One for each fault: where, what was given, what is allowed. Each is one line of some hundred
        characters at most.
    """
    said: dict[str, None] = {}
    for one in error.errors(include_url=False):
        # tags of a union, which begin with #, are no part of the way
        where = tuple(part for part in one["loc"] if not str(part).startswith("#"))
        kind, value = one["type"], short(one["input"])
        table, name = place(where)
        table, name = (text if len(text) < 300 else f"{text[:100]}..." for text in (table, name))
        key = short(where[-1]) if where else ""
        if kind == "missing":
            text = f"{table} lacks {key}"
        elif kind == "unexpected_keyword_argument":
            names = nearest(str(where[-1])[:100], known(where))
            text = f"{table} has no key {key}; known: {names}"
        elif kind == "literal_error":
            allowed = re.findall(r"'([^']*)'", one["ctx"]["expected"])
            text = f"{name} = {value} is unknown; known: {nearest(str(one['input'])[:100], allowed)}"
        elif kind in _TABLES:
            text = f"{name} must be a table, got {value}"
        elif kind == "value_error":
            text = f"{name} = {value} {one['ctx']['error']}"
        elif kind == "featbank_error":
            text = f"{table} {one['msg']}"
        else:
            words = _WORDS.get(kind)
            text = f"{name} = {value} {words.format(**one.get('ctx', {})) if words else one['msg']}"
        said.setdefault(text.strip())
    return list(said)
