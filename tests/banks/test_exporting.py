"""A bank in the formats of others: the same numbers, ids, labels and splits, read by their own readers."""

from __future__ import annotations

import itertools
import json
import sys

import numpy as np
import pytest

from featbank.banks import export_bank, exporting, open_archive, pack
from featbank.errors import CacheWriteError, InvalidInputError, MissingPackageError, UnknownNameError
from featbank.manifest import SPLITS


@pytest.fixture
def full(bank, kit):
    """A bank with an image that could not be read."""
    bank.set_manifest(kit.make_manifest([*(f"image {i}" for i in range(20)), "new"]))
    kit.extract(bank, quarantined=frozenset([kit.digest_of("new")]))
    return bank


def read(path, to):
    """Return cuts, ids, labels, splits, digests and facts, by the reader of each format."""
    if to == "npy":
        get = lambda name: np.load(path / f"{name}.npy", allow_pickle=False)  # noqa: E731
        features = {one.stem: get(one.stem) for one in path.glob("*.npy")}
        splits, facts = get("splits").tolist(), json.loads((path / "bank.json").read_text())
        return features, get("ids").tolist(), get("labels"), splits, get("sha256"), facts
    if to == "zarr":
        group = pytest.importorskip("zarr").open_group(str(path), mode="r")
        features = {name: one[:] for name, one in group["features"].arrays()}
        splits = [SPLITS[code] for code in group["splits"][:]]
        return (
            features,
            group["ids"][:].tolist(),
            group["labels"][:],
            splits,
            group["sha256"][:],
            dict(group.attrs),
        )
    if to == "parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        facts = json.loads(table.schema.metadata[b"featbank"])
        features = {
            cut: np.array(table[cut].to_pylist(), np.float32).reshape(-1, *one["shape"])
            for cut, one in facts["cuts"].items()
        }
        ids = [one.encode() for one in table["id"].to_pylist()]
        named = [-1 if one is None else facts["classes"].index(one) for one in table["label"].to_pylist()]
        assert named == table["label_index"].to_pylist()
        digests = np.array([[*one] for one in table["sha256"].to_pylist()])
        return features, ids, np.array(named), table["split"].to_pylist(), digests, facts
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        facts = json.loads(file.metadata()["featbank"])
    features = {name.removeprefix("features/"): one for name, one in found.items() if "/" in name}
    ends = found["id_offsets"].tolist()
    ids = [found["ids"].tobytes()[a:b] for a, b in itertools.pairwise(ends)]
    splits = [SPLITS[code] for code in found["splits"]]
    return features, ids, found["labels"], splits, found["sha256"], facts


@pytest.mark.parametrize("to", ["npy", "safetensors", "parquet", "zarr"])
def test_what_leaves_is_what_the_bank_holds(full, tmp_path, monkeypatch, caplog, to):
    if to in ("parquet", "zarr"):
        pytest.importorskip({"parquet": "pyarrow"}.get(to, to))
    monkeypatch.setattr(exporting, "_BLOCK_BYTES", 4000)  # some rows at once
    path = export_bank(full, tmp_path / f"out/x.{to}", to=to)
    features, ids, labels, splits, digests, facts = read(path, to)
    rows = full.rows_ok("fc7")
    assert (len(full), rows.sum()) == (21, 20)
    manifest = full.manifest
    assert ids == [one for one, ok in zip(manifest.ids, rows, strict=True) if ok]
    assert labels.tolist() == manifest.labels[rows].tolist()
    assert splits == [SPLITS[code] for code in manifest.splits[rows]]
    assert (digests == manifest.digests[rows]).all()
    assert facts["classes"] == list(full.classes)
    assert facts["key_digest"] == full.key.digest()
    assert set(features) >= set(full.cuts)
    for cut in full.cuts:
        assert features[cut].dtype == (np.float32 if to == "parquet" else full[cut].dtype)
        np.testing.assert_array_equal(features[cut], full[cut][rows])
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert caplog.messages == [f"left out 1 of 21 rows of {full.name}, whose images could not be read"]
    again = export_bank(full, tmp_path / f"out/y.{to}", to=to, cuts=["fc7"])
    assert set(read(again, to)[0]) & set(full.cuts) == {"fc7"}


def test_what_is_derived_when_it_is_read_leaves_too(store, manifest, kit, tmp_path):
    bank = store.create_or_open("shapes", kit.KEY, kit.PROVENANCE)
    bank.set_manifest(manifest)
    kit.extract(bank, ["logits"], limit=1, finish=False)
    with pytest.raises(InvalidInputError, match="has 'softmax' in part only; it has none"):
        export_bank(bank, tmp_path / "x", to="safetensors", cuts=["softmax"])
    kit.extract(bank, ["logits", "block1_pool"], facts={"axes": "CHW"})
    derived = ["block1_pool:gap", "softmax"]
    features = read(export_bank(bank, tmp_path / "x", to="safetensors", cuts=derived), "safetensors")[0]
    assert set(features) == set(derived)
    for cut in derived:
        np.testing.assert_array_equal(features[cut], bank[cut].read())


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(full, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidInputError, match="to='csv' is unknown; known: 'parquet', 'npy'"):
        export_bank(full, tmp_path / "out/x", to="csv")
    with pytest.raises(UnknownNameError, match="holds no cut 'fc8', it holds 'fc7'"):
        export_bank(full, tmp_path / "out/x", to="npy", cuts=["fc8"])
    with pytest.raises(InvalidInputError, match="exists; give another --output"):
        export_bank(full, tmp_path / "out", to="npy")
    for package, to in (("pyarrow", "parquet"), ("zarr", "zarr")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingPackageError, match=rf"pip install 'featbank\[{to}\]'"):
            export_bank(full, tmp_path / "out/x", to=to)

    def full_disk(part, cut, step=1):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting._Part, "blocks", full_disk)
    for to in ("npy", "safetensors"):
        with pytest.raises(CacheWriteError, match=r"No space left on device.*nothing is left of it"):
            export_bank(full, tmp_path / "out/x", to=to)
    assert not [*(tmp_path / "out").iterdir()]


def test_groups_of_several_parts_have_one_name_everywhere(store, kit, tmp_path):
    import h5py

    bank = store.create_or_open("shapes", kit.KEY, {})
    manifest = kit.make_manifest(["a", "b"])
    bank.set_manifest(manifest.replaced(groups=np.array([1, 0], np.int32), group_names=(b"1", b"2\0x")))
    kit.extract(bank, ["fc7"])
    names = [bank.manifest.group(row) for row in range(2)]
    assert "2, x" in names
    facts = read(export_bank(bank, tmp_path / "plain", to="npy"), "npy")[-1]
    assert sorted(facts["groups"]) == sorted(names)
    with h5py.File(pack(bank, tmp_path / "bank.h5")) as file:
        assert [one.decode() for one in file["group"][:]] == names
    with open_archive(tmp_path / "bank.h5") as archive:
        assert archive.manifest.group_names == bank.manifest.group_names
