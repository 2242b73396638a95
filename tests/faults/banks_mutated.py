"""Banks changed at random, twenty thousand of them: none may bring the reader down, none may pass as whole.

Some changes are those of a failing disk (flipped bits, holes, splices, cuts), most those of somebody who
knows the format: fields of HDF5 headers are changed and the checksums repaired, hashes and names as well.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import byte_changes
import headers
import made_bank

#: Mutants of one process; if it dies, the rest of its mutants go to the next.
_RUN = 1000
_WHOLE = 20_000


class Bench:
    """A good pack and folder, and room for the mutants (in memory where the system has such a place).

    Parameters
    ----------
    place : pathlib.Path
        A folder of one's own.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        bank = made_bank.make(place / "good")
        self.folder = bank.path
        self.wanted = made_bank.content(bank.path)
        self.pack = made_bank.packed(bank, place / "good.h5").read_bytes()
        # gzip: what compresses is a part of Python itself
        self.archive = made_bank.packed(bank, place / "good-gzip.h5", "gzip").read_bytes()
        self.manifest = (bank.path / "manifest.h5").read_bytes()
        self.shards = sorted(bank.path.rglob("0*.h5"))
        self.ways: list[tuple[str, Callable[[np.random.Generator], Path]]] = [
            ("pack: bytes", self.pack_damaged),
            ("pack: header, checksums repaired", self.pack_forged),
            ("pack: header, checksums repaired", self.pack_forged),
            ("compressed pack: bytes", self.archive_damaged),
            ("compressed pack: header, checksums repaired", self.archive_forged),
            ("folder: bytes", self.folder_damaged),
            ("folder: shard header, checksums and name repaired", self.shard_forged),
            ("folder: manifest, checksums repaired", self.manifest_forged),
            ("folder: JSON, seal repaired", self.json_forged),
        ]

    def _fresh(self) -> Path:
        target = self.place / "mutant"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder, target)
        return target

    def _as_pack(self, data: bytes) -> Path:
        target = self.place / "mutant.h5"
        target.write_bytes(data)
        return target

    def pack_damaged(self, random: np.random.Generator) -> Path:
        return self._as_pack(byte_changes.mutate_bytes(self.pack, random))

    def pack_forged(self, random: np.random.Generator) -> Path:
        return self._as_pack(byte_changes.mutate_header(self.pack, random))

    def archive_damaged(self, random: np.random.Generator) -> Path:
        return self._as_pack(byte_changes.mutate_bytes(self.archive, random))

    def archive_forged(self, random: np.random.Generator) -> Path:
        return self._as_pack(byte_changes.mutate_header(self.archive, random))

    def folder_damaged(self, random: np.random.Generator) -> Path:
        target = self._fresh()
        files = sorted(path for path in target.rglob("*") if path.is_file() and path.name[0] != ".")
        path = files[int(random.integers(len(files)))]
        path.write_bytes(byte_changes.mutate_bytes(path.read_bytes(), random))
        return target

    def shard_forged(self, random: np.random.Generator) -> Path:
        target = self._fresh()
        original = self.shards[int(random.integers(len(self.shards)))]
        data = byte_changes.mutate_header(original.read_bytes(), random)
        path = target / original.relative_to(self.folder)
        path.unlink()
        digest = hashlib.sha256(data).hexdigest()
        path.with_name(f"{path.name[:5]}-{digest[:16]}.h5").write_bytes(data)
        return target

    def manifest_forged(self, random: np.random.Generator) -> Path:
        target = self._fresh()
        if random.integers(2):
            data = byte_changes.mutate_header(self.manifest, random)
        else:
            names = sorted(headers.header_of(self.manifest)["arrays"])
            name = names[int(random.integers(len(names)))]
            data = headers.with_array(
                self.manifest, name, lambda one: byte_changes.mutate_values(one, random)
            )
        (target / "manifest.h5").write_bytes(data)
        return target

    def json_forged(self, random: np.random.Generator) -> Path:
        """Another value of another kind somewhere in what decides the numbers, never in what is only told."""
        target = self._fresh()
        name = ["bank.json", "block5_pool/cut.json", "logits/cut.json"][int(random.integers(3))]
        document = json.loads((target / name).read_bytes())
        for told in ("provenance", "facts"):
            document.pop(told, None)
        names = [one for one in document if one not in ("sha256", "dataset")]  # any name will do
        values: list[Any] = [
            None,
            -1,
            0,
            2**70,
            1.5,
            "",
            "../../x",
            "\x1b[2J",
            [],
            [[0, 10**15]],
            {},
            True,
            "O",
            [0],
            [2**40] * 9,
        ]
        document[names[int(random.integers(len(names)))]] = values[int(random.integers(len(values)))]
        kept = json.loads((self.folder / name).read_bytes())
        document |= {told: kept[told] for told in ("provenance", "facts") if told in kept}
        (target / name).write_bytes(made_bank.resealed(document))
        return target


def same_numbers(found: dict[str, bytes], wanted: dict[str, bytes]) -> bool:
    """Whether what was let in is what was packed, file by file (JSON by its content)."""
    if set(found) != set(wanted):
        return False
    for name, data in found.items():
        if name.endswith(".json"):
            if json.loads(data) != json.loads(wanted[name]):
                return False
        elif data != wanted[name]:
            return False
    return True


def worker(place: Path, seed: int, first: int, last: int) -> None:
    """Take in mutants `first` to `last`; one line of JSON for each before it, and one at the end."""
    from featbank.banks import BankStore, import_bank
    from featbank.errors import FeatbankError

    bench = Bench(place)
    counts: collections.Counter[str] = collections.Counter()
    notes: list[str] = []
    for number in range(first, last):
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        random = np.random.default_rng([seed, number])
        way, mutate = bench.ways[number % len(bench.ways)]
        path = mutate(random)
        counts[way] += 1
        store = BankStore(place / "store")
        started = time.monotonic()
        try:
            bank = import_bank(path, store)
        except FeatbankError:
            counts["refused"] += 1
            if store.root.exists() and any(store.root.rglob("*")):
                notes.append(f"{number} ({way}) left something behind")
                counts["left_behind"] += 1
        except Exception as error:  # noqa: BLE001 - a traceback is what this looks for
            counts["tracebacks"] += 1
            notes.append(f"{number} ({way}): {error!r}")
        else:
            counts["accepted"] += 1
            found, wanted = made_bank.content(bank.path), bench.wanted
            told = {"folder: manifest, checksums repaired": "manifest.h5"}.get(way, "quarantine.jsonl")
            if "checksums repaired" in way and not same_numbers(found, wanted):
                # with its checksums forged too it is another whole manifest (other labels, say) of the same
                # features, or no list of what could not be read, which nobody can tell from a true one
                found, wanted = ({**one, told: b""} for one in (found, wanted))
                counts["forged_whole"] += same_numbers(found, wanted)
            if not same_numbers(found, wanted):
                counts["wrong"] += 1
                notes.append(f"{number} ({way}): other numbers were let in")
        if time.monotonic() - started > 20:
            counts["slow"] += 1
            notes.append(f"{number} ({way}) took {time.monotonic() - started:.0f} s")
        shutil.rmtree(place / "store", ignore_errors=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps({"counts": counts, "notes": notes, "peak": peak}) + "\n")


def run(scale: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """Take in 20,000 mutants at scale 1.

    Returns
    -------
    dict
        ``ok``, ``figures`` and, for what went wrong, ``bad``: the number of the mutant gives it again.
    """
    total = max(70, round(_WHOLE * scale))
    counts: collections.Counter[str] = collections.Counter()
    bad: list[str] = []
    peak = crashes = 0
    shm = Path("/dev/shm")
    root = shm if shm.is_dir() and os.access(shm, os.W_OK) else None
    number = 0
    while number < total:
        last = min(number + _RUN, total)
        with tempfile.TemporaryDirectory(prefix="featbank-mutants-", dir=root) as place:
            command = [sys.executable, str(Path(__file__).absolute()), place, *map(str, (seed, number, last))]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        if done.returncode == 0 and lines and lines[-1].startswith("{"):
            said = json.loads(lines[-1])
            counts.update(said["counts"])
            bad += said["notes"]
            peak = max(peak, said["peak"])
            number = last
        else:
            crashes += 1
            reached = int(lines[-1]) if lines else number
            bad.append(f"the reader died of mutant {reached}: {done.returncode} {done.stderr[-500:]}")
            number = reached + 1
    return {
        "ok": not (
            crashes or counts["tracebacks"] or counts["wrong"] or counts["left_behind"] or counts["slow"]
        ),
        "figures": {
            "mutants": total,
            "refused": counts["refused"],
            "harmless": counts["accepted"] - counts["wrong"] - counts["forged_whole"],
            "wrong_data_accepted": counts["wrong"],
            "forged_whole": counts["forged_whole"],
            "crashes": crashes + counts["tracebacks"],
            "peak_MB": round(peak / 1e6),
        },
        "bad": bad[:20],
    }


if __name__ == "__main__":
    if len(sys.argv) == 5:
        worker(Path(sys.argv[1]), *map(int, sys.argv[2:]))
    else:
        sys.stdout.write(json.dumps(run(float(sys.argv[1]) if len(sys.argv) > 1 else 0.05), indent=1) + "\n")
