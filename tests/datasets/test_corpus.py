"""Seventy-one odd images, names and things that are no files: each becomes what is declared for it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from featbank.backbones import Preprocessing
from featbank.datasets import DECODE_REASONS, build_manifest, decode_image, open_dataset
from featbank.datasets.building import row_indices
from featbank.datasets.decode_pool import DecodePool, DecodeRequest
from featbank.errors import ImageDecodeError
from featbank.manifest import RowStatus

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import corpus  # noqa: E402 - found beside this file

CONTENTS = corpus.contents()
#: Little more than the largest image of the corpus needs: memory for a bomb's pixels would not be given.
TIGHT_BYTES = 64 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "images"
    return path, corpus.write_folder(path)


@pytest.mark.parametrize("specimen", CONTENTS, ids=[one.name.decode() for one in CONTENTS])
def test_each_file_becomes_what_is_declared(specimen) -> None:
    data = specimen.make()
    if specimen.reason is not None:
        assert specimen.reason in DECODE_REASONS
        with pytest.raises(ImageDecodeError) as caught:
            decode_image(data)
        assert caught.value.reason == specimen.reason
        return
    image = decode_image(data)
    assert image.mode == "RGB"
    difference = np.abs(np.asarray(image).astype(int) - specimen.pixels())
    assert difference.max() <= specimen.tolerance


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len({one.name for one in CONTENTS}) == len(CONTENTS) == 71
    assert all((one.pixels is None) != (one.reason is None) for one in CONTENTS)
    # Two kinds of each, or the corpus would prove little.
    assert sum(one.reason is None for one in CONTENTS) > 30
    assert sum(one.bomb for one in CONTENTS) == 9


@pytest.mark.slow
def test_the_folder_lists_files_and_nothing_else(folder, caplog) -> None:
    path, wanted = folder
    with caplog.at_level(logging.DEBUG, logger="featbank"):
        dataset = open_dataset(path)
        manifest = build_manifest(dataset)
    assert set(dataset.ids) == set(wanted)
    assert len(dataset.ids) == len(wanted) == 86
    assert set(manifest.statuses.tolist()) == {RowStatus.OK}
    assert "skipped 5 entries" in caplog.text
    for record in caplog.records:
        assert record.getMessage().isprintable()
    for index, one in enumerate(dataset.ids):
        assert dataset.read(index) == wanted[one].make()


def test_the_processes_agree_in_little_memory(folder) -> None:
    path, wanted = folder
    dataset = open_dataset(path)
    manifest = build_manifest(dataset)
    to_pixels = Preprocessing(16, 18).apply_geometry
    request = DecodeRequest(row_indices(dataset, manifest).tolist(), manifest.digests)
    with DecodePool(
        dataset,
        to_pixels,
        shape=(16, 16, 3),
        batch_size=len(wanted),
        workers=2,
        max_memory_bytes=TIGHT_BYTES,
    ) as pool:
        (batch,) = pool.batches([request])
    reasons = {manifest.ids[one.position]: one.reason for one in batch.failures}
    assert reasons == {one: specimen.reason for one, specimen in wanted.items() if specimen.reason}
    for position, one in enumerate(manifest.ids):
        if wanted[one].reason is None:
            np.testing.assert_array_equal(batch.images[position], to_pixels(decode_image(wanted[one].make())))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says how much memory was taken")
def test_bombs_take_neither_memory_nor_time() -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "corpus.py"), "--peak"], capture_output=True, text=True, check=True
    )
    bombs = {name: one for name, one in json.loads(done.stdout).items() if one["bomb"]}
    assert len(bombs) == 9
    for name, one in bombs.items():
        assert one["peak_bytes"] < 16 << 20, name
        assert one["duration_s"] < 1, name


DECODE_ALL = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from featbank.datasets import decode_image
from featbank.errors import ImageDecodeError
files = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
started = []
sys.addaudithook(
    lambda event, _: started.append(event)
    if event.startswith(("subprocess", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system"))
    else None
)
for data in files:
    try:
        decode_image(data)
    except ImageDecodeError:
        pass
print(len(files), started)
"""


def test_no_process_is_ever_started(folder, tmp_path) -> None:
    path, _ = folder
    command = [sys.executable, "-c", textwrap.dedent(DECODE_ALL.format(here=str(HERE))), str(path / "a")]
    calls = tmp_path / "calls"
    strace = shutil.which("strace")
    if strace:
        traced = "execve,execveat,fork,vfork,clone,clone3"
        command = [strace, "-f", "-qq", "-e", f"trace={traced}", "-o", str(calls), *command]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.stdout.split() == ["71", "[]"], done.stderr
    if strace:
        # the interpreter's own start, and no other
        assert sum("execve" in line for line in calls.read_text().splitlines()) == 1
