"""What comes from anybody is bounded, and its faults are one line of words."""

from __future__ import annotations

import os
from typing import Annotated

import pytest
from annotated_types import Le, Len
from pydantic import BaseModel

from featbank._validation import (
    CONFIG,
    FileName,
    Json,
    Line,
    Share,
    check,
    check_values,
    parse_json,
    plain_file,
)


class Model(BaseModel):
    model_config = CONFIG

    share: Share | None
    names: Annotated[list[FileName], Len(1)]
    size: Annotated[int, Le(10)] = 1
    rest: Json = {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"share": -7.5e300}, "share = -7.5e+300 must be at least 0"),
        ({"share": float("nan")}, "share = nan is not finite"),
        ({"share": "0.5"}, "share = '0.5' is not a number"),
        ({"share": True}, "share = True is not a number"),
        ({"names": []}, "names = [] is empty"),
        ({"names": ["../../x"]}, "names.0 = '../../x' is no name that featbank gives to a file: letters, "),
        ({"names": ["/etc/passwd"]}, "names.0 = '/etc/passwd' is no name"),
        ({"names": [".."]}, "names.0 = '..' is no name"),
        ({"names": ["a\0b"]}, "names.0 = 'a\\x00b' has a NUL in it"),
        ({"names": ["a\udce9"]}, "names.0 = 'a\\udce9' is no name"),
        ({"names": ["x" * 236]}, "names.0 = 'xxxxx"),
        ({"size": 2.0}, "size = 2.0 is not a whole number"),
        ({"size": 10**30}, "size = 1000000000000000000000000000000 must be at most 10"),
        ({"rest": 3}, "rest must be a table, got 3"),
        (
            {"rest": {"a": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}},
            "rest = {'a': [[[",
        ),
    ],
)
def test_faults_in_words(changes, said):
    with pytest.raises(ValueError) as caught:
        check(Model, {"share": 0.5, "names": ["fc7-ncm-n4-r0"], **changes})
    assert str(caught.value).startswith(said)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_what_is_right_is_let_in():
    found = check(Model, {"share": 1, "names": ["fc7-logreg-C=0.1-n16-r0", "café"], "other": [1]})
    assert (found.share, found.names[1]) == (1.0, "café")
    assert check(list[Line], ["caf\udce9"]) == ["caf\udce9"]  # the name of a file that is no UTF-8
    with pytest.raises(ValueError, match=r"^it lacks 'share'; it lacks 'names'$"):
        check(Model, {})
    with pytest.raises(ValueError, match=r"^it must be a table, got \[\]$"):
        check(Model, [])


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 50_000,
        "9" * 5000,
        "[1e999]",
        "[NaN]",
        "[-Infinity]",
        "[" + "9" * 400 + "]",
        "[" * 17 + "]" * 17,
        '"\\u0000"',
        "{",
        "",
    ],
)
def test_json_of_anybody(text):
    with pytest.raises(ValueError) as caught:
        check_values(parse_json(text.encode()))
    assert len(str(caught.value)) < 200


def test_a_plain_file_of_the_folder_itself(tmp_path):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    (folder / "heads").mkdir(parents=True)
    outside.mkdir()
    (folder / "heads" / "head.json").write_text("{}")
    (outside / "head.json").write_text("{}")
    assert plain_file(folder, "heads/head.json", 2) == folder / "heads" / "head.json"
    with pytest.raises(OSError, match="2 bytes, and 1 are the most"):
        plain_file(folder, "heads/head.json", 1)
    (folder / "linked").symlink_to(outside)
    (folder / "heads" / "linked.json").symlink_to(outside / "head.json")
    os.mkfifo(folder / "pipe")  # reading it would wait for ever
    for name, said in (
        ("linked/head.json", "it is a link"),
        ("heads/linked.json", "it is a link"),
        ("pipe", "neither a file nor a folder"),
        ("heads", "neither a file nor a folder"),
        ("heads/head.json/x", "neither a file nor a folder"),
    ):
        with pytest.raises(OSError, match=said):
            plain_file(folder, name, 100)
    with pytest.raises(FileNotFoundError):
        plain_file(folder, "none", 100)
