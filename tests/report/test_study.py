"""What a study says of itself."""

from __future__ import annotations

import pytest

from featbank.errors import RunError
from featbank.report._content import read_study


def test_a_run_of_no_study(hostile):
    assert read_study(hostile.path) is None


def test_published_and_measured_are_paired(hostile, write_study):
    write_study(hostile)
    study = read_study(hostile.path)
    pairs = [(one.label, one.published, one.measured) for one in study.comparisons]
    assert pairs == [
        ("16 samples", 0.65, 0.7321),
        ("best T", 1.81, 2.0),
        ("never measured", "about 0.3", None),
        ("extra", None, 0.9),
    ]
    first, _, unmeasured, _ = study.comparisons
    assert [one.is_share for one in study.comparisons] == [True, False, True, True]
    assert first.difference == pytest.approx(0.0821)
    assert unmeasured.difference is None
    assert [one.holds for one in study.claims] == [True, False, None]
    assert study.others == {"normalised": "20260101-000000-other"}


def test_the_unit_is_what_the_study_says_not_what_a_name_sounds_like(hostile, write_study):
    names = ["contest", "val of T", "share of nothing", "ece"]
    entries = [
        {"label": "a", "metric": name, "unit": unit, "value": 0.5}
        for name, unit in zip(names, ["temperature", "temperature", "temperature", "share"], strict=True)
    ]
    write_study(hostile, published=entries, measured=[])
    assert [one.is_share for one in read_study(hostile.path).comparisons] == [False, False, False, True]


def test_the_five_keys_are_enough(hostile):
    (hostile.path / "study.json").write_text(
        '{"title": "T", "question": "Q", "published": [], "measured": []}'
    )
    study = read_study(hostile.path)
    assert (study.title, study.question, study.comparisons, study.differs) == ("T", "Q", [], [])


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"title": 3, "differs": "all"}, "title = 3 is not text; differs = 'all' is not a list"),
        (
            {"published": {}, "measured": [{"label": "a"}]},
            "published = {} is not a list; measured.0 lacks 'metric'; measured.0 lacks 'unit' "
            "and 1 more fault",
        ),
        (
            {"published": {}, "measured": [{}]},
            "published = {} is not a list; measured.0 lacks 'label'; measured.0 lacks 'metric' "
            "and 2 more faults",
        ),
        (
            {
                "measured": [{"label": "a", "metric": "b", "unit": "share", "value": 1, "low": -7.5e300}],
                "claims": [1],
            },
            "measured.0.low = -7.5e+300 must be at least 0; claims.0 must be a table, got 1",
        ),
        (
            {"measured": [{"label": "a", "metric": "b", "unit": "points", "value": 1}]},
            "measured.0.unit = 'points' is unknown; known: 'share', 'temperature'",
        ),
        ({"experiments": [1]}, "experiments must be a table, got [1]"),
    ],
)
def test_the_faults_of_a_file_are_named(hostile, write_study, changes, faults):
    write_study(hostile, **changes)
    with pytest.raises(RunError) as error:
        read_study(hostile.path)
    assert str(error.value) == f"'{hostile.path / 'study.json'}' is damaged: {faults}; run the command again"


def test_a_file_that_is_no_json(hostile):
    (hostile.path / "study.json").write_text("{")
    with pytest.raises(RunError, match=r"study.json' is damaged: Expecting property name"):
        read_study(hostile.path)
    for text, said in (("[]", "it must be a table, got \\[\\]"), ("null", "it must be a table, got None")):
        (hostile.path / "study.json").write_text(text)
        with pytest.raises(RunError, match=f"damaged: {said}; run the command again"):
            read_study(hostile.path)
