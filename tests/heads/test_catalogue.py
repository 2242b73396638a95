from __future__ import annotations

import pytest

from featbank import heads
from featbank.errors import InvalidInputError, UnknownNameError
from featbank.heads import catalogue


@pytest.mark.parametrize("name", catalogue.names())
def test_every_parameter_of_a_head_can_be_given_by_name(name: str) -> None:
    head = heads.make(name, random_state=3)
    allowed = set(catalogue.parameters(name))
    assert allowed <= set(head.get_params())
    if name != "logreg":  # the exact solver has no use for the settings of the others
        exact = {"C", "Cs", "C_min", "C_max", "validation_fraction"}
        assert set(head.get_params()) - allowed <= {"random_state", *exact}
    if "random_state" in head.get_params():
        assert head.random_state == 3
    assert catalogue.summary(name)


@pytest.mark.parametrize("name", catalogue.names())
def test_none_leaves_the_default(name: str) -> None:
    head = heads.make(name)
    fresh = type(head)(**dict(catalogue.kind(name).fixed))
    assert head.get_params() == fresh.get_params()


def test_what_is_given_arrives() -> None:
    head = heads.make("linear", lr=0.5, max_epochs=7, standardize=False, rotate=False, dropout=0.25)
    params = head.get_params()
    given = {"lr": 0.5, "max_epochs": 7, "standardize": False, "rotate": False, "dropout": 0.25}
    assert {key: params[key] for key in given} == given
    assert heads.make("logistic", C=3.0).get_params()["solver"] == "lbfgs"
    assert catalogue.canonical("linear") == "softmax"
    assert "linear" in catalogue.aliases("softmax")


def test_a_parameter_the_head_lacks_is_an_error_that_names_those_it_has() -> None:
    with pytest.raises(InvalidInputError) as caught:
        heads.make("logreg", lr=0.1, hidden_units=5)
    assert str(caught.value) == (
        "head 'logreg' has no parameters 'lr', 'hidden_units'; it has 'C', 'Cs', 'C_min', "
        "'C_max', 'validation_fraction', 'monitor', 'tol', 'class_weight', 'standardize', 'rotate'"
    )


def test_an_unknown_head_is_an_error_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        heads.make("sofmax")
    assert str(caught.value).startswith("unknown head 'sofmax'; known: 'softmax', ")
    with pytest.raises(AttributeError, match="has no attribute 'SoftMax'"):
        _ = heads.SoftMax  # type: ignore[attr-defined]
    assert set(heads.__all__) == set(dir(heads))
