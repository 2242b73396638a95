"""What compresses features best, and how fast archives are read; by hand (`make bench`).

The first table is what the codecs of `--compression` were chosen by: ratio, and MB of features compressed and
decompressed per second of one core (processor time, so that neighbours do not count), through HDF5's filters
and in chunks of whole rows of about 1 MiB. The second compares random rows read by `open_archive` with h5py's
list index on the same file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from featbank.banks import Archive, Bank, pack
from featbank.banks._format import chunk_rows
from featbank.extraction import extract

_SAMPLE_BYTES = 12_000_000
_REPEATS = 3
#: Photographs pushed through the real network.
_LIMIT = 320
_RANDOM_ROWS = 200


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    cuts = ["block1_pool", "block3_pool", "fc7", "logits"]
    cache = tmp_path_factory.mktemp("digits")
    return Bank.open(extract("digits", backbone="minivgg", cuts=cuts, cache_dir=cache).bank)


@pytest.fixture(scope="module")
def photographs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    extracted = extract(
        str(shared / "data" / "caltech101-32"),
        backbone="mobilenet_v2",
        cuts=["features.3", "features.6", "features", "avgpool", "logits"],
        weights=str(shared / "weights" / "mobilenet_v2-imagenet1k.safetensors"),
        limit=_LIMIT,
        precision="float32",
        cache_dir=tmp_path_factory.mktemp("photographs"),
    )
    return Bank.open(extracted.bank)


def candidates() -> dict[str, dict[str, Any]]:
    """What h5py's `create_dataset` is given."""
    plugins = pytest.importorskip("hdf5plugin")
    byte, bit = plugins.Blosc2.SHUFFLE, plugins.Blosc2.BITSHUFFLE
    return {
        "gzip 1": {"compression": "gzip", "compression_opts": 1},
        "shuffle + gzip 1": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
        "shuffle + gzip 4": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
        "lz4": dict(plugins.LZ4()),
        "shuffle + lz4": {"shuffle": True, **plugins.LZ4()},
        "zstd 1": dict(plugins.Zstd(clevel=1)),
        "shuffle + zstd 1": {"shuffle": True, **plugins.Zstd(clevel=1)},
        "shuffle + zstd 3": {"shuffle": True, **plugins.Zstd(clevel=3)},
        "shuffle + zstd 9": {"shuffle": True, **plugins.Zstd(clevel=9)},
        "bitshuffle + lz4": dict(plugins.Bitshuffle(cname="lz4")),
        "bitshuffle + zstd 1": dict(plugins.Bitshuffle(cname="zstd", clevel=1)),
        "blosc zstd 1, byte": dict(plugins.Blosc(cname="zstd", clevel=1, shuffle=plugins.Blosc.SHUFFLE)),
        "blosc2 lz4 5, bit": dict(plugins.Blosc2(cname="lz4", clevel=5, filters=bit)),
        "blosc2 zstd 1, byte": dict(plugins.Blosc2(cname="zstd", clevel=1, filters=byte)),
    }


def seconds(work: Callable[[], object]) -> float:
    """Processor time of the fastest of several calls."""
    found = []
    for _ in range(_REPEATS):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return max(min(found), 1e-9)


def through_hdf5(features: NDArray[Any], options: dict[str, Any]) -> tuple[float, float, float]:
    """Ratio, and MB/s written and read."""
    step = chunk_rows(features[:1].nbytes, len(features))
    images: list[bytes] = []

    def write() -> None:
        with h5py.File("x", "w", driver="core", backing_store=False, libver="v110") as file:
            chunks = (step, *features.shape[1:])
            dataset = file.create_dataset("x", features.shape, features.dtype, chunks=chunks, **options)
            for start in range(0, len(features), step):
                dataset[start : start + step] = features[start : start + step]
            file.flush()
            images[:] = [file.id.get_file_image(), dataset.id.get_storage_size()]

    written = seconds(write)
    image, stored = images
    out = np.zeros((step, *features.shape[1:]), features.dtype)

    def read() -> None:
        with h5py.File(h5py.h5f.open_file_image(image)) as file:
            for start in range(0, len(features), step):
                n_rows = min(step, len(features) - start)
                file["x"].read_direct(out, np.s_[start : start + n_rows], np.s_[:n_rows])
                if start + step >= len(features):  # the same bytes, signs of zeros too
                    assert out[:n_rows].tobytes() == features[start:].tobytes()

    return (
        features.nbytes / int(stored),
        features.nbytes / written / 1e6,
        features.nbytes / seconds(read) / 1e6,
    )


@pytest.mark.shared
@pytest.mark.parametrize("name", ["digits", "photographs"])
def test_codecs(name: str, request: pytest.FixtureRequest) -> None:
    bank: Bank = request.getfixturevalue(name)
    for cut in bank.cuts:
        array = bank[cut]
        n_rows = min(len(array), max(1, _SAMPLE_BYTES * len(array) // array.nbytes))
        features = array.read(slice(0, n_rows))
        sign = "no value is negative" if features.min() >= 0 else "signed"
        print(  # noqa: T201
            f"\n\n{bank.key.backbone} {cut}: {features.dtype} {features.shape}, {sign}, "
            f"{np.mean(features == 0):.0%} zeros"
        )
        print(f"{'':22}{'ratio':>8}{'write MB/s':>12}{'read MB/s':>12}")  # noqa: T201
        ratios = {}
        for codec, options in candidates().items():
            ratios[codec], written, read = through_hdf5(features, options)
            print(f"{codec:22}{ratios[codec]:8.2f}{written:12.0f}{read:12.0f}")  # noqa: T201
        # what was chosen is still near the best of what is as fast; zeros in runs are better off unshuffled
        assert ratios["shuffle + zstd 1"] >= 0.85 * max(ratios.values())


@pytest.mark.parametrize("name", ["digits", pytest.param("photographs", marks=pytest.mark.shared)])
@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_random_rows_of_an_archive(
    name: str, compression: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pytest.importorskip("hdf5plugin")
    bank: Bank = request.getfixturevalue(name)
    path = pack(bank, tmp_path / "bank.h5", compression=compression)
    print(f"\n\n{bank.key.backbone}, {compression}: {_RANDOM_ROWS} random rows, MB/s")  # noqa: T201
    print(f"{'':16}{'archive':>10}{'h5py list':>12}{'ratio':>8}{'all, in order':>16}")  # noqa: T201
    opening = seconds(lambda: Archive(path).close())
    for cut in bank.cuts:
        rows = np.sort(np.random.default_rng(0).choice(len(bank), _RANDOM_ROWS, replace=False))
        row_bytes = bank[cut].nbytes // len(bank)

        def ours(rows: Any, cut: str = cut) -> NDArray[Any]:
            with Archive(path) as archive:  # opened anew: no chunk is kept from before
                return archive[cut][rows]

        def by_list(rows: Any, cut: str = cut) -> NDArray[Any]:
            with h5py.File(path) as file:
                found: NDArray[Any] = file["features"][cut][rows]
                return found

        np.testing.assert_array_equal(ours(rows), by_list(rows))
        ours_s = max(seconds(partial(ours, rows)) - opening, 1e-4)
        list_s = seconds(partial(by_list, rows))
        whole_s = max(seconds(partial(ours, slice(None))) - opening, 1e-4)
        megabytes = len(rows) * row_bytes / 1e6
        print(  # noqa: T201
            f"{cut:16}{megabytes / ours_s:10.0f}{megabytes / list_s:12.0f}{list_s / ours_s:8.1f}"
            f"{len(bank) * row_bytes / whole_s / 1e6:16.0f}"
        )
