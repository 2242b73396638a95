"""Ten thousand file names of random bytes: through a folder, a manifest and a bank, and back."""

from __future__ import annotations

import os
import random
import shutil
from typing import Any

from world import World

_ALLOWED = bytes(byte for byte in range(1, 256) if byte != ord("/"))


def names(world: World, n_names: int, seed: int = 5) -> dict[str, Any]:
    """Make files with random names, list and hash them, store the manifest, read everything back."""
    from featbank.banks import Bank, BankKey, BankStore
    from featbank.datasets import build_manifest, open_dataset

    rng = random.Random(seed)
    wanted = _random_names(rng, n_names)
    folder = os.fsencode(world.fresh() / "names")
    classes = [b"a", bytes(rng.sample(_ALLOWED[32:], 40))]
    content: dict[bytes, bytes] = {}
    for index, name in enumerate(sorted(wanted)):
        identity = classes[index % 2] + b"/" + name
        os.makedirs(os.path.dirname(os.path.join(folder, identity)), exist_ok=True)  # noqa: PTH103, PTH118, PTH120
        descriptor = os.open(os.path.join(folder, identity), os.O_WRONLY | os.O_CREAT | os.O_EXCL)  # noqa: PTH118
        content[identity] = rng.randbytes(8)
        os.write(descriptor, content[identity])
        os.close(descriptor)
    dataset = open_dataset(os.fsdecode(folder))
    manifest = build_manifest(dataset)
    key = BankKey(
        backbone="minivgg", weights_sha256="ab" * 32, transform={}, image_size=32, precision="float32",
        dtype="float16", batch_size=4, decoder="none",
    )  # fmt: skip
    made = BankStore(world.fresh()).create_or_open("names", key, {})
    made.set_manifest(manifest)
    bank = Bank.open(made.path)
    back = {
        identity: bank.classes[label]
        for identity, label in zip(bank.manifest.ids, bank.manifest.labels.tolist(), strict=True)
    }
    read = {identity: dataset.read(index) for index, identity in enumerate(dataset.ids)}
    right = sum(
        os.fsencode(back.get(identity, "")) == identity.split(b"/")[0] and read.get(identity) == data
        for identity, data in content.items()
    )
    shutil.rmtree(folder)
    too_much = len(set(back) - set(content))
    return {
        "figures": {
            "names": len(content),
            "round trips": right,
            "not UTF-8": sum(not _is_text(name) for name in wanted),
            "with a line break": sum(b"\n" in name for name in wanted),
            "of 255 bytes": sum(len(name) == 255 for name in wanted),
        },
        "bad": [repr(one) for one in content if one not in back][:3],
        "ok": right == len(content) == n_names and not too_much,
    }


def _random_names(rng: random.Random, n_names: int) -> set[bytes]:
    """Draw names of 1 to 255 bytes in all, which end as a picture's does and do not start with a dot."""
    found: set[bytes] = set()
    while len(found) < n_names:
        length = rng.choice([1, 2, 251, rng.randint(1, 251)])
        name = bytes(rng.choices(_ALLOWED, k=length)) + b".png"
        if not name.startswith(b"."):
            found.add(name)
    return found


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
