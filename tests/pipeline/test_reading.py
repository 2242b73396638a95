"""A study's file: what it says, and that all its faults are in one message."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import time
import tomllib
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from featbank.errors import FeatbankError, FitWarning, InvalidInputError, MissingDataError
from featbank.heads import catalogue
from featbank.pipeline import TEMPLATE, BackboneChoice, Claim, Data, Figure, load_study, study_names
from featbank.pipeline import study as study_module
from featbank.pipeline.reading import find_study


def test_what_a_file_says(small):
    study = load_study(small)
    assert (study.name, study.title, study.report) == ("small", "Three colours", "a report on colours")
    assert study.differs == ("colours, not photographs",)
    deep, shallow = study.experiments
    assert deep.data == Data("photos", "colours", "paint some", split="4,2,2", n_classes_published=5)
    assert deep.backbone == BackboneChoice("minivgg", "random", precision="float32")
    assert (deep.sweep.cuts, deep.sweep.samples_per_class, deep.sweep.repeats) == (
        ("block5_pool", "fc7"),
        "1,2,4",
        2,
    )
    # what an experiment says replaces what the file says, key by key
    assert deep.sweep.head_params == {"ncm": {"standardize": True}}
    assert shallow.sweep.head_params == {"ncm": {"standardize": False}}
    assert shallow.sweep.repeats == 2
    assert study.figures == (Figure("fc7, test", 0.75, "top1", "deep", "fc7", "ncm"),)
    assert study.claims == (Claim("gains shrink", "gains-shrink", ("deep",)),)


def test_a_file_without_experiments_is_one(edited):
    start = "[[experiment]]"
    file = edited(
        ('samples_per_class = "1,2,4"', 'cuts = ["fc2"]\nsamples_per_class = 4\nheads = ["nearest-mean"]'),
        (f'{start}\nname = "deep"\nsweep.cuts = ["block5_pool", "fc7"]\nsweep.heads = ["ncm"]\n', ""),
        (
            f'{start}\nname = "shallow"\nsweep.cuts = ["block3_pool"]\nsweep.heads = ["ncm"]\n'
            "heads.ncm.standardize = false\n",
            "",
        ),
        ('experiment = "deep"\ncut = "fc7"\n', ""),
        ('experiments = ["deep"]\n', ""),
    )
    (one,) = load_study(file).experiments
    assert (one.name, one.sweep.cuts, one.sweep.heads) == ("edited", ("fc7",), ("ncm",))
    assert one.sweep.samples_per_class == "4"
    assert load_study(file).figures[0].experiment == "edited"


def test_a_study_of_ones_own_needs_neither_title_nor_published(tmp_path):
    (tmp_path / "mine.toml").write_text(
        '[data]\nsource = "digits"\n[backbone]\nname = "minivgg"\n[sweep]\ncuts = ["fc7"]\n'
    )
    study = load_study(tmp_path / "mine.toml")
    assert (study.title, study.question, study.report, study.figures) == ("mine", "", "", ())


def test_a_head_of_ones_own_that_is_not_there_or_has_parameters_is_a_fault(edited):
    file = edited(('sweep.heads = ["ncm"]\nheads', 'sweep.heads = "nowhere:Mine"\nheads.Mine.k = 3\nheads'))
    with pytest.raises(InvalidInputError) as caught:
        load_study(file)
    places = " or ".join(dict.fromkeys((repr(str(file.parent)), repr(str(Path.cwd())))))
    assert (
        "head 'nowhere:Mine' cannot be had (ModuleNotFoundError: No module named 'nowhere'); give "
        f"module:Class of a module in {places} or installed"
    ) in str(caught.value)
    assert "heads.Mine has its parameters in its class: a head of your own is made" in str(caught.value)


HEAD = """
import beside_helper
class Head:
    where = beside_helper.where
    def fit(self, X, y): return self
    def predict(self, X): return [0] * len(X)
"""


@pytest.fixture
def two_studies(tmp_path):
    """Two folders, each with a study that names ``beside_head:Head``, and its module and one this imports."""
    files = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "beside_head.py").write_text(HEAD)
        (folder / "beside_helper.py").write_text(
            f"where = {name!r}\ntry:\n    import uninstalled_by_now\nexcept ImportError:\n    pass\n"
        )
        files.append(folder / "study.toml")
        files[-1].write_text(
            '[data]\nsource = "digits"\n[backbone]\nname = "minivgg"\n[sweep]\ncuts = ["fc7"]\n'
            'heads = ["beside_head:Head"]\n'
        )
    yield files
    for name in ("beside_head", "beside_head.inner", "beside_helper"):
        sys.modules.pop(name, None)


def test_a_module_beside_a_study_is_the_only_thing_that_is_found_there(two_studies):
    first = two_studies[0]
    (first.parent / "uninstalled_library.py").write_text("raise SystemExit('of a stranger')")
    path = list(sys.path)
    assert load_study(first).experiments[0].sweep.head_names == ("Head",)
    assert sys.modules["beside_head"].Head.where == "one"
    assert sys.path == path
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("uninstalled_library")


def test_a_submodule_of_ones_own_package_imports_what_lies_beside_it(two_studies):
    file = two_studies[0]
    (file.parent / "beside_head.py").unlink()
    package = file.parent / "beside_head"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "inner.py").write_text(HEAD)
    file.write_text(file.read_text().replace("beside_head:Head", "beside_head.inner:Head"))
    assert load_study(file).experiments[0].sweep.head_names == ("Head",)
    assert sys.modules["beside_head.inner"].Head.where == "one"


def test_another_module_of_the_same_name_is_refused(two_studies):
    first, second = two_studies
    load_study(first)
    said = f"'{first.parent}/beside_head.py' in this process, and '{second.parent}/beside_head.py' is another"
    with pytest.raises(InvalidInputError, match=re.escape(said)):
        load_study(second)
    (second.parent / "beside_head.py").unlink()
    with pytest.raises(InvalidInputError, match="No module named 'beside_head'"):
        load_study(second)
    second.write_text(second.read_text().replace("beside_head", "other_head"))
    (second.parent / "other_head.py").write_text(HEAD)
    with pytest.raises(InvalidInputError, match="module 'beside_helper' is "):
        load_study(second)
    assert load_study(first).experiments[0].sweep.head_names == ("Head",)


@pytest.mark.parametrize(
    ("heads", "said"),
    [
        ('["softmax", "softmax"]', "['softmax', 'softmax'] are both called 'softmax'"),
        ('["linear", "softmax"]', "['linear', 'softmax'] are both called 'softmax'"),
        ('["beside_head:knn", "knn"]', "['beside_head:knn', 'knn'] are both called 'knn'"),
    ],
)
def test_two_heads_of_one_name_are_a_fault(two_studies, heads, said):
    file = two_studies[0]
    (file.parent / "beside_head.py").write_text(f"{HEAD}\nknn = Head\n")
    file.write_text(file.read_text().replace('["beside_head:Head"]', heads))
    with pytest.raises(InvalidInputError) as caught:
        load_study(file)
    assert f"has 1 fault: [sweep] heads: {said}; leave one out" in str(caught.value)


def test_parameters_are_of_the_head_that_another_experiment_fits(two_studies):
    file = two_studies[0]
    (file.parent / "beside_head.py").write_text(f"{HEAD}\nknn = Head\n")
    text = file.read_text().replace('heads = ["beside_head:Head"]', "[heads.knn]\nn_neighbors = 3")
    own = '[[experiment]]\nname = "own"\nsweep.heads = "beside_head:knn"\n'
    file.write_text(f'{text}{own}[[experiment]]\nname = "theirs"\nsweep.heads = "knn"\n')
    assert [one.sweep.head_params for one in load_study(file).experiments] == [
        {},
        {"knn": {"n_neighbors": 3}},
    ]
    file.write_text(text + own)
    with pytest.raises(InvalidInputError, match=r"1 fault: \[heads.knn\] has its parameters in its class"):
        load_study(file)


def test_parameters_of_the_one_head_that_is_named_without_a_list(edited):
    study = load_study(
        edited(
            (
                'sweep.cuts = ["block3_pool"]\nsweep.heads = ["ncm"]',
                'sweep.cuts = "block3_pool"\nsweep.heads = "ncm"',
            )
        )
    )
    assert study.experiments[1].sweep.head_params == {"ncm": {"standardize": False}}


def test_what_speaks_of_published_figures_is_refused_without_them(edited):
    file = edited()
    file.write_text(file.read_text().partition("[published]")[0])
    with pytest.raises(InvalidInputError) as caught:
        load_study(file)
    assert "has 2 faults: differs does nothing without [published]" in str(caught.value)
    assert "[data] n_classes_published does nothing without [published]" in str(caught.value)


def test_the_template_is_a_study_and_names_every_key():
    assert load_study(TEMPLATE).experiments[0].sweep.heads == ("ncm", "ridge")
    # every line that shows a key, without the comment: one study with all of them
    shown = [line.removeprefix("# ") for line in TEMPLATE.read_text().splitlines()]
    keys = {line.partition("=")[0].strip().rpartition(".")[2] for line in shown if "=" in line}
    for table in (Data, study_module.TestData, BackboneChoice, study_module.Sweep, Figure, Claim):
        assert {one.name for one in fields(table)} - {"head_params"} <= keys, table
    tables = {line.partition("]")[0].strip("[") for line in shown if line.startswith("[")}
    assert tables >= {"data", "test_data", "backbone", "sweep", "heads.ridge", "experiment", "published"}


FAULTS = [
    ('source = "photos"', 'sourse = "photos"', "[data] lacks 'source'"),
    (
        'source = "photos"',
        'sourse = "photos"',
        "[data] has no key 'sourse'; known: 'source', 'classes', 'name', 'how', 'split' and 6 more",
    ),
    ('title = "Three colours"', 'titel = "Three colours"', "the file has no key 'titel'; known: 'title', "),
    ('title = "Three colours"', "title = 3", "title = 3 is not text"),
    ('title = "Three colours"', 'title = " "', "title = ' ' is empty"),
    (
        'split = "4,2,2"',
        'split = "4,2"',
        "[data] split='4,2' has 2 numbers where train,val,test are wanted; write counts per class like "
        "'28,4,8' or fractions like '0.7,0.1,0.2'",
    ),
    ('split = "4,2,2"', "classes = 1", "[data] classes = 1 must be at least 2"),
    (
        'split = "4,2,2"',
        "classes = [1, 2]",
        "[data] classes 0 = 1 is not text; [data] classes 1 = 2 is not text",
    ),
    (
        'split = "4,2,2"',
        'splits = {val = "tset"}',
        "[data] splits val = 'tset' is unknown; known: 'test', 'train', 'val', 'none'",
    ),
    ('split = "4,2,2"', "images_per_class = true", "[data] images_per_class = True is not a whole number"),
    (
        'name = "minivgg"',
        'name = "minivg"',
        "[backbone] unknown backbone 'minivg'; known: 'minivgg', ",
    ),
    (
        'weights = "random"',
        'transform = "contras"',
        "[backbone] transform = 'contras' is unknown; known: 'contrast', 'weights', 'squash'",
    ),
    (
        'sweep.cuts = ["block3_pool"]',
        'sweep.cuts = ["blok3_pool"]',
        "experiment 'shallow': sweep cuts: unknown cut 'blok3_pool' of backbone 'minivgg'; known: "
        "'block3_pool', ",
    ),
    (
        'samples_per_class = "1,2,4"',
        'samples_per_class = "few"',
        "[sweep] samples_per_class='few' cannot be read: 'few' is no number, range or 'all'. Write 4..32 "
        "(doubling), 4..32:4 (steps of 4), 1,5,10 (a list) or all.",
    ),
    ("repeats = 2", "repeats = 0", "[sweep] repeats = 0 must be at least 1"),
    (
        "repeats = 2",
        'metrics = ["macro_f1", "macro"]',
        "[sweep] unknown metric 'macro'; known: 'macro_f1', ",
    ),
    (
        "repeats = 2",
        'metrics = ["no_scores:worst"]',
        "[sweep] metric 'no_scores:worst' cannot be had (ModuleNotFoundError: No module named ",
    ),
    ("repeats = 2", "repeats = 2.5", "[sweep] repeats = 2.5 is not a whole number"),
    (
        "repeats = 2",
        "temperatures = [0]",
        "[sweep] temperatures 0 = 0 must be over 0",
    ),
    (
        "repeats = 2",
        "temperatures = [1.0]",
        "[sweep] temperatures are for the cut 'softmax', which is not among ['block3_pool']",
    ),
    (
        "standardize = true",
        "lr = 1e-3",
        "[heads.ncm] has no key 'lr'; known: 'normalize', 'standardize', 'rotate'",
    ),
    (
        "standardize = true",
        'standardize = "yes"',
        "[heads.ncm] standardize = 'yes' is not allowed; allowed: True, False or 'center'",
    ),
    ("[heads.ncm]", "[heads.knn]", "[heads.knn] is for a head that no experiment fits"),
    ("[heads.ncm]", "[heads.nmc]", "[heads]: unknown head 'nmc'; known: 'ncm', "),
    ('name = "shallow"', 'name = "deep"', "two experiments are called 'deep'"),
    (
        'name = "shallow"',
        'name = "shallow"\nsweeps.repeats = 3',
        "experiment 'shallow': has no key 'sweeps'; known: 'sweep', ",
    ),
    (
        'name = "shallow"',
        'name = "shallow"\nsweep.repeat = 3',
        "experiment 'shallow': sweep has no key 'repeat'; known: 'repeats', ",
    ),
    ('report = "a report on colours"', "", "[published] lacks 'report'"),
    ("value = 0.75", "", "figures 1: lacks 'value'"),
    (
        "value = 0.75",
        'value = 0.75\nmetric = "top2"',
        "figures 1: metric = 'top2' is unknown; known: 'top5', 'top1', ",
    ),
    (
        'experiment = "deep"',
        'experiment = "dep"',
        "figures 1: experiment = 'dep' is unknown; known: 'deep', ",
    ),
    ('cut = "fc7"', "", "figures 1: lacks 'cut'; known: 'block5_pool', 'fc7'"),
    ('experiments = ["deep"]', 'experiments = ["low"]', "claims 1: experiments: unknown 'low'; known: "),
    (
        'check = "gains-shrink"',
        'check = "gain-shrinks"',
        "claims 1: check = 'gain-shrinks' is unknown; known: ",
    ),
    ('check = "gains-shrink"', "", "claims 1: lacks 'check'; known: "),
    (
        'samples_per_class = "1,2,4"',
        'samples_per_class = "2..8"',
        "experiment 'deep': sweep samples_per_class = '2..8' asks for 8 training images of each class, and "
        "the split '4,2,2' gives 4",
    ),
    (
        'split = "4,2,2"',
        'split = "4,2,2"\nimages_per_class = 7',
        "experiment 'deep': data split = '4,2,2' takes 8 images of each class, and images_per_class = 7 "
        "leaves fewer",
    ),
    (
        'split = "4,2,2"',
        'split = "0.0,0.5,0.5"',
        "experiment 'deep': data split = '0.0,0.5,0.5' gives no image to training",
    ),
    ("value = 0.75", "value = 75", "figures 1: value = 75 must be within 0 and 1: 65 % is 0.65"),
    (
        "value = 0.75",
        'value = 0\nwhat = "temperature"',
        "figures 1: value = 0 must be over 0",
    ),
    (
        "value = 0.75",
        "value = 0.75\nn_per_class = 3",
        "figures 1: n_per_class = 3 is not fitted; samples_per_class gives 1, 2, 4",
    ),
    (
        "value = 0.75",
        "value = 0.75\ntemperature = 2",
        "figures 1: temperature = 2 is not fitted; temperatures has none",
    ),
    (
        'check = "gains-shrink"',
        'check = "gains-shrink"\nn_per_class = 2',
        "claims 1: n_per_class does nothing: 'gains-shrink' compares sizes",
    ),
    (
        'check = "gains-shrink"',
        'check = "rises-with-depth"\ncut = "fc7"',
        "claims 1: cut does nothing: 'rises-with-depth' compares cuts",
    ),
    (
        'check = "gains-shrink"',
        'check = "lower"',
        "claims 1: check 'lower' compares two experiments, in this order; got 1",
    ),
    (
        "[sweep]",
        '[sweep]\ncuts = ["fc7"]',
        "[sweep] cuts does nothing: every experiment has its own",
    ),
]

#: Head, parameter, a value beyond its range, what is allowed, in words and the values at the edge.
RANGES = [
    ("softmax", "lr", "0", "a number over 0, 'auto' or None", ["1e-9", '"auto"']),
    ("softmax", "lr", '"fast"', "a number over 0, 'auto' or None", []),
    ("softmax", "solver", '"adm"', "'adam', 'sgd' or 'lbfgs'", ['"sgd"']),
    (
        "softmax",
        "lr_schedule",
        '"cosin"',
        "'inverse-time', 'cosine', 'step' or 'constant'",
        ['"cosine"', '"step"'],
    ),
    ("softmax", "lr_schedule_epochs", "0", "a number over 0", ["0.1"]),
    ("softmax", "lr_schedule_per", '"batch"', "'epoch' or 'step'", ['"step"']),
    ("softmax", "max_epochs", "0", "a whole number from 1", ["1"]),
    ("softmax", "patience", "0", "a whole number from 1", ["1"]),
    ("softmax", "batch_size", "0", "a whole number from 1", ["1"]),
    ("softmax", "monitor", '"top1"', "'accuracy', 'loss' or 'metric'", ['"accuracy"']),
    ("softmax", "restore", '"first"', "'best' or 'last'", ['"last"']),
    ("softmax", "alpha", "-1", "a number from 0", ["0"]),
    ("softmax", "dropout", "1", "a number from 0 below 1", ["0", "0.9"]),
    ("softmax", "dropout", "-0.1", "a number from 0 below 1", []),
    ("softmax", "rotate", '"yes"', "True, False or 'auto'", ['"auto"', "false"]),
    ("mlp", "hidden_units", "0", "a whole number from 1", ["1"]),
    ("mlp", "dropout", "1.5", "a number from 0 below 1", []),
    ("logreg", "C", "0", "a number over 0 or 'auto'", ["1e-5", '"auto"']),
    ("logreg", "tol", "-1", "a number from 0 or None", ["1e-4"]),
    ("logreg", "Cs", "1", "a whole number from 2 below 1001", ["3"]),
    ("logreg", "C_min", "0", "a number over 0", ["1e-3"]),
    ("logreg", "C_max", "0", "a number over 0", ["1e4"]),
    ("logreg", "validation_fraction", "1", "a number over 0 below 1 or None", ["0.1"]),
    ("ncm", "normalize", "1", "True or False", ["false"]),
    ("knn", "temperature", "0", "a number over 0 or None", ["0.07"]),
    ("svm", "C", "-1", "a number over 0", ["0.5"]),
    ("svm", "class_weight", "{ cat = 2.0 }", "None or 'balanced'", ['"balanced"']),
    ("svm", "C", '"auto"', "a number over 0", []),
    ("knn", "n_neighbors", "0", "a whole number from 1", ["1"]),
    ("ridge", "alpha", "-0.5", "a number from 0", ["0"]),
]
#: Of a head that is not fitted without a backbone's layers.
TAIL_RANGES = [
    ("tail", "train", "0", "a whole number from 1, 'all' or 'last-conv'", ["1", '"last-conv"']),
    ("tail", "tail_lr", "0", "a number over 0 or None", ["1e-4"]),
    ("tail", "train_norm", "1", "True or False", ["true"]),
]


def with_head(edited, head, key, value):
    return edited(
        ('sweep.heads = ["ncm"]', f'sweep.heads = ["{head}"]'),
        ("[heads.ncm]\nstandardize = true", f"[heads.{head}]\n{key} = {value}"),
        ("heads.ncm.standardize = false\n", ""),
    )


@pytest.mark.parametrize(("head", "key", "wrong", "said", "allowed"), RANGES + TAIL_RANGES)
def test_a_value_out_of_range_is_found_before_anything_is_extracted(edited, head, key, wrong, said, allowed):
    with pytest.raises(InvalidInputError) as caught:
        load_study(with_head(edited, head, key, wrong))
    value = tomllib.loads(f"x = {wrong}")["x"]
    assert f"[heads.{head}] {key} = {value!r} is not allowed; allowed: {said}" in str(caught.value)
    for value in allowed:
        load_study(with_head(edited, head, key, value))


@pytest.mark.parametrize(("head", "key", "wrong", "said", "allowed"), RANGES)
def test_the_heads_allow_and_refuse_the_same(head, key, wrong, said, allowed):
    """The ranges of the files are those of the heads: what one refuses the other refuses, and the reverse."""
    X = np.random.default_rng(0).normal(size=(12, 3)) + np.repeat([[0.0], [4.0]], 6, axis=0)
    y = np.repeat([0, 1], 6)
    brief = {"max_epochs": 2} if head in ("softmax", "mlp") and key != "max_epochs" else {}
    brief |= {"C": "auto"} if key in ("Cs", "C_min", "C_max", "validation_fraction") else {}

    def fit(value):
        made = catalogue.make(head, **{key: tomllib.loads(f"x = {value}")["x"]}, **brief)
        if head in ("softmax", "mlp", "logreg"):
            made.fit(X, y, X_val=X, y_val=y)
        else:
            made.fit(X, y)

    with pytest.raises((InvalidInputError, TypeError)):
        fit(wrong)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        for value in allowed:
            fit(value)


def test_every_parameter_of_a_head_is_tried():
    tried = {key for _, key, *_ in RANGES + TAIL_RANGES}
    known = {key for head in catalogue.names() for key in catalogue.parameters(head)}
    assert known - tried == {"standardize", "device"}


def test_faults_of_values_are_all_in_one_message(edited):
    file = edited(
        ('sweep.heads = ["ncm"]', 'sweep.heads = ["softmax"]'),
        ("[heads.ncm]\nstandardize = true", "[heads.softmax]\nlr = -1\ndropout = 1.0"),
        ("heads.ncm.standardize = false\n", "heads.softmax.alpha = -2\n"),
        ("repeats = 2", "repeats = 0"),
    )
    with pytest.raises(InvalidInputError) as caught:
        load_study(file)
    assert str(caught.value) == (
        f"{str(file)!r} has 4 faults: [sweep] repeats = 0 must be at least 1; [heads.softmax] lr = -1 is not "
        "allowed; allowed: a number over 0, 'auto' or None; [heads.softmax] dropout = 1.0 is not allowed; "
        "allowed: a number from 0 below 1; experiment 'shallow': heads.softmax alpha = -2 is not allowed; "
        "allowed: a number from 0"
    )


@pytest.mark.parametrize("value", ["0.2", '"none"'])
def test_what_decides_can_be_said(edited, value):
    study = load_study(edited(("repeats = 2", f"repeats = 2\nval = {value}")))
    assert [one.sweep.val for one in study.experiments] == [tomllib.loads(f"x = {value}")["x"]] * 2


@pytest.mark.parametrize("value", ["0", "1", "1.5", "-0.1", "true", '"some"', "nan", "[0.2]"])
def test_what_cannot_decide_is_a_fault(edited, value):
    with pytest.raises(InvalidInputError, match=r"\[sweep\] val = "):
        load_study(edited(("repeats = 2", f"repeats = 2\nval = {value}")))


def test_sizes_are_checked_against_what_folds_leave_and_not_where_classes_may_fall_short(edited):
    assert load_study(edited(('"1,2,4"', '"1,2,4,6"\nfolds = 4'))).experiments[0].sweep.folds == 4
    assert load_study(edited(('"1,2,4"', '"1,2,40"\nup_to = true'))).experiments[0].sweep.up_to
    with pytest.raises(InvalidInputError) as caught:
        load_study(edited(('"1,2,4"', '"1,2,7"\nfolds = 4')))
    assert "split '4,2,2' to 4 folds, of which all but one train, gives 6" in str(caught.value)


def test_parameters_of_heads_beside_a_protocol_are_a_fault(edited):
    file = edited(('sweep.heads = ["ncm"]', 'sweep.protocol = "simpleshot"'))
    with pytest.raises(InvalidInputError) as caught:
        load_study(file)
    said = str(caught.value)
    refused = "protocol 'simpleshot' (--protocol) says heads, their parameters and val itself; leave"
    assert f"{refused} [heads.ncm] out, or the protocol" in said
    assert f"experiment 'shallow': {refused} heads.ncm out, or the protocol" in said


@pytest.mark.parametrize(("old", "new", "message"), FAULTS)
def test_a_fault_is_named_with_what_is_known(edited, old, new, message):
    with pytest.raises(InvalidInputError) as caught:
        load_study(edited((old, new)))
    assert message in str(caught.value)


def test_all_faults_are_in_one_message(edited):
    file = edited(
        ("repeats = 2", 'repeats = "two"'),
        ('weights = "random"', 'wieghts = "random"'),
        ("value = 0.75", "value = nan"),
    )
    with pytest.raises(InvalidInputError) as caught:
        load_study(file)
    assert str(caught.value) == (
        f"{str(file)!r} has 3 faults: [backbone] has no key 'wieghts'; known: 'weights', 'name', "
        "'image_size', 'transform', 'mean' and 5 more; [sweep] repeats = 'two' is not a whole number; "
        "figures 1: value = nan is not finite"
    )


#: What a parser, a disk or a reader of messages could choke on: text, and what is said.
HEADS = "', '".join(f"h{n}" for n in range(80))
BOUNDS = [
    (("repeats = 2", "repeats = 1000000000"), "[sweep] repeats = 1000000000 must be at most 1000"),
    (("repeats = 2", "repeats = " + "9" * 400), "is not a study: 9999"),
    (("repeats = 2", "repeats = " + "9" * 5000), "is not a study: Exceeds the limit"),
    (("repeats = 2", "repeats = inf"), "[sweep] repeats = inf is not a whole number"),
    (("repeats = 2", "repeats = 2\nrandom_state = 4294967296"), "random_state = 4294967296 must be at most"),
    (("repeats = 2", "repeats = 2\ntemperatures = [nan]"), "temperatures 0 = nan is not finite"),
    (("repeats = 2", "repeats = " + "[" * 50_000), "is no study: it is nested too deep"),
    (("repeats = 2", "repeats = " + "[" * 500 + "]" * 500), "is no study: it is nested too deep"),
    (
        ("repeats = 2", "repeats = " + "{a = " * 300 + "1" + "}" * 300),
        "is not a study: it is nested more than",
    ),
    (("repeats = 2", ".".join("a" * 100_000) + " = 1"), "cannot read"),
    (("repeats = 2", ".".join("a" * 20_000) + " = 1"), "is not a study: line 20 has more than 256 dots"),
    (
        (
            "[data]",
            "[" + ".".join("a" * 200) + "]\n" + "\n".join(f"x{n} = 1" for n in range(9000)) + "\n[data]",
        ),
        "",
    ),
    (("repeats = 2", f"{'x' * 90_000} = 1"), "[sweep] has no key 'xxxx"),
    (('name = "colours"', f'name = "{"x" * 90_000}"'), "[data] name = 'xxx"),
    (('name = "deep"', f'name = "{"x" * 90_000}"'), "is longer than 100 characters"),
    (('title = "Three colours"', f'title = "{"x" * 90_000}"'), "is longer than 2000 characters"),
    (("[heads.ncm]", f"[heads.{'x' * 90_000}]"), "[heads]: unknown head 'xxx"),
    (('split = "4,2,2"', f'split = "{"4," * 40_000}"'), "[data] split = '4,4,"),
    (('split = "4,2,2"', 'split = "4,2,2"\nimages_per_class = 99999999999999999999'), "is not a study: 9999"),
    (("value = 0.75", "value = -7.5e300"), "figures 1: value = -7.5e+300 must be within 0 and 1"),
    (("value = 0.75", 'value = 1\nwhat = "temperature"\ntemperature = 1'), "temperature does nothing where"),
    (
        ("heads.ncm.standardize = false", "heads.knn.n_neighbors = 3"),
        "heads.knn is for a head that the experi",
    ),
    (("\n[published]", "[[experiment]]\nname = 'x'\n" * 300 + "[published]"), "200 at most; got"),
    (
        ('sweep.heads = ["ncm"]\nheads', f"sweep.heads = {[f'h{n}' for n in range(1000)]}\nheads"),
        "has more than 100 entries",
    ),
    (
        (
            "\n[published]",
            "".join(
                f"[[experiment]]\nname = 'x{n}'\nsweep = {{cuts = 'fc7', heads = ['{HEADS}']}}\n"
                for n in range(150)
            )
            + "[published]",
        ),
        " faults or more: ",
    ),
]


@pytest.mark.parametrize(("change", "said"), BOUNDS)
def test_what_is_endless_is_refused_at_once(edited, change, said):
    file = edited(change)
    started = time.perf_counter()
    with pytest.raises(FeatbankError) as caught:
        load_study(file)
    assert time.perf_counter() - started < 10
    message = str(caught.value)
    assert said in message
    assert len(message) < 3000
    assert "\n" not in message


@pytest.mark.parametrize("kind", ["pipe", "folder", "long"])
def test_what_is_no_file(small, kind):
    place = small.with_name(f"{'x' * 150 if kind == 'long' else kind}.toml")
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.write_text(small.read_text())
    with pytest.raises(FeatbankError, match=r"no study|has a name of 150 characters"):
        load_study(place)


def test_a_study_that_is_a_link_is_read(small):
    small.with_name("link.toml").symlink_to(small)
    assert load_study(small.with_name("link.toml")).name == "link"


def test_a_file_that_is_no_toml(small):
    small.write_text("title = 'open")
    with pytest.raises(InvalidInputError, match="is not TOML: Expected"):
        load_study(small)


@pytest.mark.parametrize("text", ["experiment = 3", "[experiment]\nname = 'a'"])
def test_experiments_are_a_list(tmp_path, text):
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(InvalidInputError, match="experiment must be a list of tables, each under"):
        load_study(tmp_path / "odd.toml")


def test_a_table_that_is_none(edited):
    with pytest.raises(InvalidInputError, match=r"experiment 'shallow': sweep must be a table, got 3"):
        load_study(
            edited(
                (
                    'name = "shallow"\nsweep.cuts = ["block3_pool"]\nsweep.heads = ["ncm"]',
                    'name = "shallow"\nsweep = 3',
                )
            )
        )


@pytest.mark.slow
def test_reading_a_file_loads_no_torch():
    code = (
        "import sys\nfrom featbank.pipeline import load_study\n"
        "from featbank.pipeline.planning import plan_experiments\n"
        "plan_experiments(load_study('caltech256_depth'))\n"
        "print(sorted(set(sys.modules) & {'torch', 'torchvision', 'matplotlib'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


TRAINED = """
[data]
source = "photos"
split = "4,0,2"
[[training]]
name = "one"
network = "own_net"
"""


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "recipe = { random_state = 7 }", "recipe random_state does nothing: the key 'random_state' of "),
        ("", "weights = 'x.pth'", "weights = 'x.pth' is of a 'backbone', and this trains a 'network'"),
        ("", "unfreeze = 'none'", "unfreeze = 'none' is of a 'backbone'"),
        ('network = "own_net"', "backbone = 'minivgg'\nunfreeze = 'rubbish'", "unfreeze = 'rubbish'|"),
        ('network = "own_net"', "backbone = 'minivgg'\nparams = { a = 1 }", "params = {'a': 1} are of a"),
        ("", "recipe = { patience = 2 }", "recipe patience = 2 stops by validation images, and the split "),
    ],
)
def test_faults_of_a_training_are_those_of_the_file(tmp_path, old, new, fault):
    file = tmp_path / "trained.toml"
    file.write_text(TRAINED)
    load_study(file)
    file.write_text(TRAINED.replace(old, new) if old else f"{TRAINED}{new}\n")
    with pytest.raises(InvalidInputError) as caught:
        load_study(file)
    assert "has 1 fault: training 'one': " in str(caught.value)
    assert fault.partition("|")[0].partition(" = ")[0] in str(caught.value)
    assert fault.endswith("|") or fault in str(caught.value)


def test_finding_a_study(small, monkeypatch):
    assert find_study(small) == small
    assert find_study("mini_digits").name == "mini_digits.toml"
    assert find_study("mini_digits.toml").is_file()
    (small.parent / "pipelines").mkdir()
    (small.parent / "pipelines" / "mine.toml").write_text(small.read_text())
    assert load_study("mine").title == "Three colours"
    assert "mine" in study_names()
    with pytest.raises(MissingDataError) as caught:
        find_study("mini_digit")
    assert str(caught.value).startswith("no study 'mini_digit'; give a TOML file, or one of 'mini_digits', ")


def test_every_shipped_file_is_read():
    names = study_names()
    assert len([one for one in names if one.startswith("mini_")]) == 11
    for name in names:
        study = load_study(name)
        assert study.figures or study.claims
        assert study.differs
        taken = [*study.experiments, *study.trainings]
        assert all(one.data.how or one.data.source == "digits" for one in taken)


#: The figures of the reports, once more: a slip of the pen in a file would go unseen for ever.
PUBLISHED = {
    "caltech256_fc7": [0.9004, 0.7227, 0.7554],
    "caltech256_depth": [
        0.2876, 0.5322, 0.7129, 0.7554, 0.2822, 0.5166, 0.7129, 0.71, 1.0, 1.0, 0.9993, 0.95,
    ],
    "caltech256_samples": [0.65],
    "caltech256_pools": [],
    "caltech256_temperature": [1.81, 0.45, 1.49, 1.22],
    "urban_tribes": [0.60, 0.30, 0.09],
    "food101_frozen": [0.6888, 0.6742],
    "backbones_mnist": [0.9916, 1.0, 0.9923, 0.9999, 0.9923, 0.9999],
    "backbones_cifar10": [0.7878, 0.9810, 0.8141, 0.9881, 0.8081, 0.9899],
    "backbones_tiny_imagenet": [0.2458, 0.4829, 0.3669, 0.6201, 0.2906, 0.5557],
    "cifar10_mobilenet": [0.734, 0.615, 0.690],
    "cifar10_own_net": [0.974, 0.95, 0.941, 0.962],
    "cifar10_alexnet": [0.985],
    "cifar10_googlenet": [0.992, 0.985, 0.974],
    "cifar10_imp": [0.607, 0.873, 0.884, 0.305, 0.545, 0.585, 0.47, 0.76, 0.79],
    "food101_custom": [0.4622, 0.42, 0.43, 0.43, 0.4228, 0.4462, 0.501, 0.474, 0.5556],
    "partial_unfreezing": [0.6888, 0.47, 0.674, 0.6634],
    "mobilenet_tail": [0.734, 0.812, 0.750, 0.755],
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_figures(name):
    assert [one.value for one in load_study(name).figures] == PUBLISHED[name]


def test_a_study_for_each_published_table():
    assert {name for name in study_names() if not name.startswith("mini_")} == set(PUBLISHED)


def test_the_depth_recipe_of_the_report():
    block3, block4, block5, baseline = load_study("caltech256_depth").experiments
    params = [one.sweep.head_params["mlp"] for one in (block3, block4, block5)]
    assert [one["lr"] for one in params] == [1e-4, 5e-4, 5e-4]
    assert {(one["hidden_units"], one["lr_schedule_epochs"]) for one in params} == {(1000, 50)}
    assert baseline.sweep.head_params == {
        "softmax": {
            "solver": "adam", "lr": 1e-3, "lr_schedule": "inverse-time", "lr_schedule_epochs": 10,
            "batch_size": 32, "patience": 10,
        }
    }  # fmt: skip
