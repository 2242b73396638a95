from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from featbank.errors import InvalidInputError, RunError, RunNotFoundError
from featbank.heads import FeatureSpace, fit_stack, load_head, make, save_head

SETTINGS = {
    "softmax": {"max_epochs": 5},
    "mlp": {"max_epochs": 5, "hidden_units": 30},
    "logreg": {},
    "ncm": {},
    "knn": {"n_neighbors": 3},
    "svm": {"C": 0.01},
    "ridge": {},
}


@pytest.fixture
def saved(tmp_path: Path, blobs) -> Path:
    save_head(tmp_path / "fc7-0.5", make("softmax", max_epochs=2, random_state=0).fit(*blobs))
    return tmp_path / "fc7-0.5"


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_head_comes_back_as_it_was(tmp_path: Path, blobs, sparse, name: str, wide: bool) -> None:
    X, y = sparse(5, 8, 700, seed=0, noise=3.0) if wide else blobs
    labels = np.array(["ant", "bee", "caf\udce9", "dog", "elk", "fox"])[y]
    head = make(name, random_state=0, **SETTINGS[name]).fit(X, labels)
    facts = {"cut": "fc7", "n_per_class": 8, "odd": "caf\udce9"}
    save_head(tmp_path / "head", head, facts=facts)
    again, known = load_head(tmp_path / "head")
    assert known == facts
    assert type(again) is type(head)
    assert again.get_params() == head.get_params()
    assert again.classes_.tolist() == head.classes_.tolist()
    other = X[::-1] + np.float16(0.25)
    np.testing.assert_array_equal(again.predict(other), head.predict(other))
    np.testing.assert_allclose(
        again.decision_function(other), head.decision_function(other), atol=1e-5, rtol=1e-5
    )
    if hasattr(head, "predict_proba"):
        np.testing.assert_allclose(again.predict_proba(other), head.predict_proba(other), atol=1e-6)
    for key in ("n_epochs_", "best_epoch_", "converged_", "stop_reason_", "failed_", "lr_"):
        assert getattr(again, key, None) == getattr(head, key, None)
    for key, values in getattr(head, "history_", {}).items():
        np.testing.assert_array_equal(again.history_[key], values)


@pytest.mark.parametrize(
    "y",
    [
        np.array([3, 7, 3, 7]),
        np.array([True, False, True, False]),
        np.array([2.0, 1.0, 2.0, 1.0]),
        np.array(["a", "b", "a", "b"], dtype=object),
    ],
)
def test_labels_keep_their_type(tmp_path: Path, y: np.ndarray) -> None:
    head = make("ncm").fit([[0.0, 1.0], [5.0, 5.0], [0.1, 1.0], [5.0, 5.1]], y)
    save_head(tmp_path / "head", head)
    again, _ = load_head(tmp_path / "head")
    assert again.classes_.dtype == head.classes_.dtype
    assert again.classes_.tolist() == head.classes_.tolist()


@pytest.mark.parametrize("hidden_units", [5, 200])
def test_the_smaller_of_basis_and_first_layer_is_stored(tmp_path: Path, sparse, hidden_units: int) -> None:
    X, y = sparse(4, 6, 20_000, seed=0)
    head = make("mlp", hidden_units=hidden_units, max_epochs=2, random_state=0).fit(X, y)
    path, _ = save_head(tmp_path / "head", head)
    assert path.stat().st_size < 20_000 * (4 * min(hidden_units, 23) + 2 * 8) * 1.1
    again, _ = load_head(tmp_path / "head")
    np.testing.assert_allclose(again.predict_proba(X), head.predict_proba(X), atol=1e-6)


def test_a_head_of_a_stack_can_be_saved_and_goes_on_working(tmp_path: Path, sparse) -> None:
    X, y = sparse(4, 8, 2000, seed=0, noise=3.0)
    space = FeatureSpace()
    Z = space.fit_transform(X)
    rows = np.arange(0, 32, 2)
    for name in ("softmax", "mlp", "knn"):
        head = make(name, random_state=0)
        fit_stack([head], Z, y, [rows], space=space)
        save_head(tmp_path / name, head)
        again, _ = load_head(tmp_path / name)
        np.testing.assert_allclose(again.predict_proba(X), head.predict_proba(X), atol=1e-6)
        np.testing.assert_allclose(head.predict_proba_columns(Z), head.predict_proba(X), atol=1e-5)


def test_either_file_name_loads_and_dots_in_a_name_stay(saved: Path) -> None:
    names = sorted(path.name for path in saved.parent.iterdir())
    assert names == ["fc7-0.5.json", "fc7-0.5.safetensors"]
    for path in (saved, f"{saved}.json", f"{saved}.safetensors"):
        load_head(path)


def test_a_missing_file(saved: Path) -> None:
    with pytest.raises(RunNotFoundError, match=r"^there is no head at '.*none\.json'; fit one and save it"):
        load_head(saved.with_name("none"))
    Path(f"{saved}.safetensors").unlink()
    with pytest.raises(RunNotFoundError, match=r"^there is no head at '.*\.safetensors'"):
        load_head(saved)


def test_a_damaged_byte(saved: Path) -> None:
    path = Path(f"{saved}.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"is not the file 'fc7-0\.5\.json' was written with \(its SHA"):
        load_head(saved)


def test_a_description_that_is_none(saved: Path) -> None:
    path = Path(f"{saved}.json")
    record = json.loads(path.read_text())
    path.write_text("{")
    with pytest.raises(RunError, match=r"is not JSON \("):
        load_head(saved)
    path.write_text("[1]")
    with pytest.raises(RunError, match=r"is not the description of a head: it must be a table, got \[1\]"):
        load_head(saved)
    path.write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(RunError, match=r"is of head format 99; this version reads 2; use the version"):
        load_head(saved)
    path.write_text(json.dumps({**record, "class": "Pipeline"}))
    with pytest.raises(RunError, match=r"class = 'Pipeline' is unknown; known: .*'RidgeClassifier'"):
        load_head(saved)
    path.write_text(json.dumps({**record, "class": "NeighborsClassifier", "params": {}}))
    with pytest.raises(RunError, match=r"do not make a head \(KeyError: 'rows'\); fit it again$"):
        load_head(saved)
    path.write_text(json.dumps({**record, "params": {"nonsense": 1}}))
    with pytest.raises(RunError, match=r"do not make a head \(TypeError: "):
        load_head(saved)


def test_what_cannot_be_saved(tmp_path: Path, blobs) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot be saved; give a fitted head of featbank.heads$"):
        save_head(tmp_path / "head", make("ncm"))
    assert list(tmp_path.iterdir()) == []
    head = make("ncm").fit(*blobs)
    with pytest.raises(InvalidInputError, match=r"^facts cannot be written to JSON"):
        save_head(tmp_path / "head", head, facts={"path": tmp_path})
    assert list(tmp_path.iterdir()) == []


def test_a_save_killed_between_its_two_files_leaves_the_new_head(
    saved: Path, blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = blobs
    new = make("ncm").fit(X[:40], y[:40])

    def killed(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("featbank.heads.head.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        save_head(saved, new, facts={"which": "new"})
    monkeypatch.undo()
    again, facts = load_head(saved)
    assert facts == {"which": "new"}
    np.testing.assert_allclose(again.decision_function(X), new.decision_function(X), atol=1e-5)
    save_head(saved, new, facts={"which": "newer"})
    assert load_head(saved)[1] == {"which": "newer"}


def test_the_weights_of_another_head_are_no_killed_save(saved: Path, blobs) -> None:
    other, _ = save_head(saved.with_name("other"), make("ncm").fit(*blobs))
    Path(f"{saved}.safetensors").write_bytes(other.read_bytes())
    with pytest.raises(RunError, match="is not the file"):
        load_head(saved)
