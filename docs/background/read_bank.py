"""Read a bank with numpy alone: python read_bank.py cache/banks/DATASET/BACKBONE-DIGEST CUT."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np


def open_file(path, kind):
    """Check the header of a file of featbank; return its facts, and its arrays by name, memory-mapped."""
    with path.open("rb") as file:
        word, version, length, digest = file.readline().decode().split()
        header = file.read(int(length))
    document = json.loads(header)
    if (word, version, document["kind"], document["size"]) != ("featbank", "2", kind, path.stat().st_size):
        raise ValueError(f"{path} is no whole {kind} of format 2")
    if hashlib.sha256(header).hexdigest() != digest:
        raise ValueError(f"the header of {path} is damaged")
    data, arrays = np.memmap(path, np.uint8, "r"), {}
    for name, (dtype, shape, offset) in document["arrays"].items():
        n_bytes = np.dtype(dtype).itemsize * int(np.prod(shape))
        arrays[name] = data[offset : offset + n_bytes].view(dtype).reshape(shape)
    return document["facts"], arrays


def read(bank, cut):
    """Return X, y, ids and class names of the rows that have features at this cut."""
    _, rows = open_file(Path(bank) / "manifest.h5", "manifest")
    layout = json.loads((Path(bank) / cut / "cut.json").read_text())
    X = np.zeros((len(rows["slot_digests"]), *layout["shape"]), layout["dtype"])
    status = np.full(len(X), 2, np.uint8)  # absent, until a shard says otherwise
    for path in (Path(bank) / cut).glob("*-*.h5"):
        if hashlib.sha256(path.read_bytes()).hexdigest()[:16] != path.stem.split("-")[1]:
            raise ValueError(f"{path} is damaged")
        facts, shard = open_file(path, "shard")
        slots = slice(facts["start"], facts["stop"])
        X[slots], status[slots] = shard["features"], shard["statuses"]
    good = np.flatnonzero((rows["statuses"] == 0) & (status[rows["row_slots"]] == 0))
    ids = np.split(rows["ids"], rows["id_offsets"][1:-1])
    names = np.split(rows["class_names"], rows["class_offsets"][1:-1])
    return X[rows["row_slots"][good]], rows["labels"][good], [ids[row].tobytes() for row in good], names


if __name__ == "__main__":
    X, y, ids, names = read(sys.argv[1], sys.argv[2])
    print(X.shape, X.dtype, ids[0], names[y[0]].tobytes().decode())
