"""Runs and studies changed at random: no command that reads them may end in a traceback, hang, or stray.

A changed run may name anything: heads, banks, weights and folders that lie outside of the cache, where files
that would do are waiting. Which of them was opened, renamed or removed is seen by an audit hook.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import byte_changes

_WHOLE, _HANG_S, _LONGEST = 1000, 60, 4000
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.truncate",
    "os.link",
    "os.symlink",
    "os.mkdir",
    "shutil.rmtree",
)
_STUDY = """
title = "Three colours"
question = "Can it tell colours apart?"
differs = ["colours, not photographs"]
[data]
source = "photos"
how = "paint some"
name = "colours"
split = "4,2,2"
n_classes_published = 3
[backbone]
name = "minivgg"
weights = "random"
precision = "float32"
[sweep]
samples_per_class = "1,2,4"
repeats = 2
random_state = 3
temperatures = [0.5, 1.0]
[heads.softmax]
lr = 0.01
max_epochs = 5
solver = "adam"
rotate = "auto"
[heads.ncm]
standardize = true
[[experiment]]
name = "deep"
sweep.cuts = ["block5_pool", "softmax"]
sweep.heads = ["ncm", "softmax"]
[[experiment]]
name = "warm"
sweep.cuts = ["softmax"]
sweep.heads = ["ncm"]
heads.ncm.standardize = false
[published]
report = "a report on colours"
[[published.figures]]
label = "test"
value = 0.75
experiment = "deep"
cut = "block5_pool"
head = "ncm"
n_per_class = 4
[[published.claims]]
text = "gains shrink"
check = "gains-shrink"
experiments = ["deep"]
metric = "top1"
"""


class Hang(BaseException):
    """A command that does not come to its end."""


class Bench:
    """A cache with two runs of a small bank, and a place outside of it that nothing may touch."""

    def __init__(self, place: Path) -> None:
        from PIL import Image

        from featbank.extraction import extract
        from featbank.fitting import fit_heads

        self.place, self.cache, self.outside = place, place / "cache", place / "outside"
        for code, name in enumerate(("blue", "green", "red")):
            (place / "photos" / name).mkdir(parents=True)
            for number in range(8):
                pixels = np.random.default_rng([code, number]).integers(0, 120, (36, 40, 3), dtype=np.uint8)
                pixels[..., code] += 120
                Image.fromarray(pixels).save(place / "photos" / name / f"{number}.png")
        os.chdir(place)
        options: dict[str, Any] = {"backbone": "minivgg", "weights": "random", "precision": "float32"}
        bank = extract(
            "photos", cuts=("block5_pool", "logits"), split="4,2,2", cache_dir=self.cache, **options
        ).bank
        self.asked: dict[str, Any] = {
            "cuts": ("block5_pool", "softmax"),
            "heads": ("softmax", "knn"),
            "samples_per_class": "1,2",
            "repeats": 2,
            "temperatures": (1.0, 2.0),
            "head_params": {"softmax": {"max_epochs": 4}, "knn": {}},  # as the command gives them
            "cache_dir": self.cache,
        }
        runs = [fit_heads(bank, name=name, **self.asked).run.path for name in ("good", "model")]
        self.good, self.bank = runs[0], bank
        # outside of the cache: what a run might load, if it went there
        self.outside.mkdir()
        shutil.copytree(bank, self.outside / "banks" / "photos" / bank.name)
        self.head = next((runs[1] / "heads").glob("*softmax*.json")).with_suffix("")
        for suffix in (".json", ".safetensors"):
            shutil.copy(f"{self.head}{suffix}", self.outside / f"head{suffix}")
        shutil.copy(f"{self.head}.safetensors", self.outside / "weights.safetensors")
        (self.outside / "run.json").write_text("{}")
        self.model = place / "model"
        runs[1].rename(self.model)
        (self.model / "study.json").write_text(json.dumps(self._study()))
        shutil.rmtree(self.model / "figures", ignore_errors=True)
        self.before = self.tree()
        self.watched = False
        self.strayed: list[str] = []
        sys.addaudithook(self._watch)

    def _study(self) -> dict[str, Any]:
        number = {"label": "a", "metric": "top1", "unit": "share", "source": "b"}
        number |= {"value": 0.5, "low": 0.4, "high": 0.6}
        return {
            "title": "T",
            "question": "Q",
            "published": [number],
            "measured": [number],
            "claims": [{"text": "c", "holds": True, "said": "d"}],
            "differs": ["e"],
            "experiment": "f",
            "experiments": {"f": "x"},
            "data": {"source": "photos", "data_root": str(self.outside)},
            "fingerprint": "0",
        }

    def _watch(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.watched or not (event == "open" or event in _CHANGES):
            return
        for one in args[:2]:
            if not isinstance(one, (str, bytes, os.PathLike)):
                continue
            path = os.path.realpath(os.fsdecode(one))
            inside = path.startswith(str(self.outside))
            removed = event in ("os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree")
            if (
                inside
                or "/etc/" in path
                or (removed and not path.startswith((str(self.place), "/tmp", "/dev/shm")))
            ):
                self.strayed.append(f"{event} {path}")

    def tree(self) -> str:
        """Digest of everything outside of the cache."""
        found = hashlib.sha256()
        for path in sorted([*self.outside.rglob("*"), *(self.place / "photos").rglob("*")]):
            found.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
        return found.hexdigest()

    # changing --------------------------------------------------------------------------------------

    def odd(self, random: np.random.Generator) -> Any:
        """A value of another kind, of another size, or one that leads elsewhere."""
        out = str(self.outside)
        values: list[Any] = [
            None, True, False, 0, -1, 1, 2, 7,
            0.5, -0.0, 1.5, -7.5e300, 1e308, 5e-324, 10**9, 2**63, int("9" * 400),
            "", " ", "x", "last", "..", ".", "/",
            "a\0b", "\x1b[2J", "\udce9", "x" * 300, "x" * 5000, "float16", "test",
            f"{out}/head", "../../../outside/head", "../../outside/head", out, "../outside", "/etc/passwd",
            f"{out}/banks/photos/{self.bank.name}",
            f"{out}/weights.safetensors", "../outside/weights.safetensors",
            [], [None], [[]], [1, "a"], ["x"] * 50, {}, {"a": 1}, {"": None}, [{}], {"a": {"b": [1]}},
        ]  # fmt: skip
        if random.integers(20) == 0:
            deep: Any = 1
            for _ in range(int(random.choice([20, 900]))):
                deep = [deep]
            return deep
        return values[int(random.integers(len(values)))]

    def value(self, document: Any, random: np.random.Generator) -> Any:
        """Change one value somewhere in a JSON document, a few times."""
        for _ in range(int(random.choice([1, 1, 1, 2, 5]))):
            at, way = document, []
            while isinstance(at, (dict, list)) and len(at) and (not way or random.integers(4)):
                keys = list(at) if isinstance(at, dict) else list(range(len(at)))
                key = keys[int(random.integers(len(keys)))]
                way.append((at, key))
                at = at[key]
            if not way:
                return self.odd(random)
            holder, key = way[-1]
            what = int(random.integers(6))
            if what == 0:
                del holder[key]
            elif what == 1 and isinstance(holder, list):
                holder.append(holder[key])
            elif what == 2 and isinstance(holder, dict):
                holder[["x", "", "..", "name", "1"][int(random.integers(5))]] = self.odd(random)
            else:
                holder[key] = self.odd(random)
        return document

    def mutant(self, random: np.random.Generator) -> Path:
        """A changed copy of the model, the newest of the cache."""
        path = self.cache / "runs" / "20990101-000000-mutant"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.model, path)
        if random.integers(3) == 0:  # one that a fit would go on with
            text = (path / "run.json").read_text().replace('"finished"', '"running"')
            (path / "run.json").write_text(text)
        files = sorted(one for one in path.rglob("*") if one.is_file() and one.name[0] != ".")
        file = path / "run.json" if random.integers(2) else files[int(random.integers(len(files)))]
        what = int(random.integers(12))
        if what == 0:
            file.write_bytes(byte_changes.mutate_bytes(file.read_bytes() or b"x", random))
        elif what == 1:
            self._replaced(file if random.integers(2) or file.parent == path else file.parent, random)
        elif what == 2:
            texts = ["[" * 200_000, '{"a":' * 50_000, "9" * 5000, "null", "[]", "", "\0", '"' + "x" * 10**6]
            file.write_text(texts[int(random.integers(len(texts)))])
        elif file.suffix == ".json":
            document = self.value(json.loads(file.read_text()), random)
            file.write_bytes(json.dumps(document).encode("utf-8", "surrogateescape"))
        elif file.suffix == ".csv":
            lines = [line.split(",") for line in file.read_text().splitlines()]
            line = lines[int(random.integers(len(lines)))]
            cell = str(self.odd(random)).replace("\0", "")
            line[int(random.integers(len(line)))] = cell if random.integers(2) else f'"{cell}\n'
            file.write_bytes("\n".join(map(",".join, lines)).encode("utf-8", "surrogateescape"))
        else:
            file.write_bytes(byte_changes.mutate_bytes(file.read_bytes(), random))
        return path

    def _replaced(self, path: Path, random: np.random.Generator) -> None:
        """Put a link, a pipe or a folder where a file or a folder is."""
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        what = int(random.integers(4))
        if what == 0:
            os.mkfifo(path)
        elif what == 1:
            path.mkdir()
        else:
            target = self.outside / f"head{path.suffix}"
            path.symlink_to(target if target.exists() and what == 2 else self.outside)

    def study(self, random: np.random.Generator) -> str:
        """A changed study's text."""
        lines = _STUDY.strip().splitlines()
        texts = [
            "true", "0", "-1", "1", "2", "1.5", "nan",
            "-inf", "1e400", "1_000_000_000", "9" * 400, "9" * 5000, '""', '"x"',
            '".."', '"/etc/passwd"', '"../outside"', '"' + "x" * 90_000 + '"',
            '"\\u0000"', "[]", '["x"]', "[[]]", "{}",
            "{a = 1}", "[" * 50_000, "[" * 300 + "]" * 300,
            "{a." + "a." * 200 + "a = 1}", "1979-05-27", '"all"',
            '"1..1000000000:1"', '"auto"', '"test"', '"ncm"',
            '"vgg16"', "[1.0, 2.0]", '"4,2,2"', '["blue", "red"]', "open",
        ]  # fmt: skip
        for _ in range(int(random.choice([1, 1, 1, 2, 4]))):
            at = int(random.integers(len(lines)))
            what, odd = int(random.integers(6)), texts[int(random.integers(len(texts)))]
            key = lines[at].partition("=")[0].strip()
            if what == 0:
                del lines[at]
            elif what == 1:
                lines.insert(at, lines[int(random.integers(len(lines)))])
            elif what == 2:
                names = [
                    "x",
                    "sweep.repeats",
                    "heads.mlp.lr",
                    "a.b.c",
                    ".".join("a" * 100_000),
                    "x" * 90_000,
                    '""',
                ]
                lines.insert(at, f"{names[int(random.integers(len(names)))]} = {odd}")
            elif "=" in lines[at]:
                lines[at] = f"{key} = {odd}"
            lines = lines or [""]
        text = "\n".join(lines) + "\n"
        if random.integers(10) == 0:
            text = byte_changes.mutate_bytes(text.encode(), random).decode("utf-8", "replace")
        return text

    # running ---------------------------------------------------------------------------------------

    def call(self, *arguments: str) -> tuple[str, str]:
        """Run a command in this process; returns what came of it, and what is wrong with that."""
        from featbank.cli import main

        said, told = io.StringIO(), io.StringIO()
        self.strayed.clear()
        signal.alarm(_HANG_S)
        try:
            self.watched = True
            with (
                contextlib.redirect_stdout(said),
                contextlib.redirect_stderr(told),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                main(list(arguments))
        except SystemExit as end:
            code = end.code or 0
            lines = told.getvalue().splitlines()
            if code not in (0, 1, 2, 3):
                return "wrong exit code", f"exit code {code}"
            if code in (2, 3) and not (lines and lines[-1].startswith("featbank: ")):
                return "wrong line", f"last line: {lines[-1:]}"
            if max(map(len, lines), default=0) > _LONGEST:
                return "wrong line", f"a line of {max(map(len, lines))} characters: {lines[-1][:300]}"
            return ("done" if code in (0, 1) else "refused"), ""
        except Hang:
            return "hang", "it did not end"
        except BaseException:  # noqa: BLE001 - whatever it is, it is a traceback
            return "traceback", traceback.format_exc()[-1500:]
        finally:
            signal.alarm(0)
            self.watched, self.told = False, told.getvalue()
        return "traceback", "it did not leave by an exit"

    def clean(self) -> None:
        """Remove all runs but the good one; fits made some."""
        for other in (self.cache / "runs").iterdir():
            if other != self.good:
                shutil.rmtree(other) if other.is_dir() and not other.is_symlink() else other.unlink()

    def commands(self, run: str) -> list[list[str]]:
        """Every command that reads a run."""
        fit = [
            "fit-head",
            "photos",
            "--cut",
            "block5_pool,softmax",
            "--head",
            "softmax",
            "--head",
            "knn",
            "-n",
            "1,2",
        ]
        fit += ["--repeats", "2", "--temperature", "1,2", "--max-epochs", "4", "--name", "model"]
        kinds = ("curve", "history", "cuts", "temperature", "confusion", "times")
        return [
            ["runs", "ls"],
            ["runs", "ls", "photos"],
            ["runs", "info", run],
            ["report", run, "--out", "page.html"],
            ["compare", run, self.good.name],
            ["compare", "photos"],
            *[["plot", kind, run, "--output", "figure.png"] for kind in kinds],
            ["predict", run, "photos/red/1.png"],
            ["show", "mistakes", run, "--out", "figure.png"],
            [
                "show",
                "occlusion",
                run,
                "photos/red/1.png",
                "--patch",
                "24",
                "--stride",
                "24",
                "--out",
                "figure.png",
            ],
            ["report", "last", "--out", "page.html"],
            fit,
        ]


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A bench in a folder of its own, in memory where there is room."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="featbank-runs-", dir=memory) as folder:
        os.environ["FEATBANK_CACHE"] = f"{folder}/cache"
        os.environ["FEATBANK_DATA"] = folder

        def hang(number: int, frame: object) -> None:
            raise Hang

        signal.signal(signal.SIGALRM, hang)
        try:
            yield Bench(Path(folder))
        finally:
            os.chdir(before)


def run(scale: float) -> dict[str, Any]:
    """Change runs and studies, and give each to commands that read it."""
    started = time.monotonic()
    n = max(40, round(_WHOLE * scale))
    outcomes: collections.Counter[str] = collections.Counter()
    spent: collections.Counter[str] = collections.Counter()
    bad: list[str] = []
    slowest = 0.0

    def note(what: str, number: int, one: Bench, arguments: list[str]) -> None:
        nonlocal slowest
        begun = time.monotonic()
        came, wrong = one.call(*arguments)
        slowest = max(slowest, time.monotonic() - begun)
        outcomes[came] += 1
        spent[" ".join(arguments[:2])] += time.monotonic() - begun
        if wrong:
            bad.append(f"{what} {number}: {' '.join(arguments)}: {wrong}")
        if one.strayed:
            outcomes["files read or removed outside the cache"] += len(one.strayed)
            bad.append(f"{what} {number}: {' '.join(arguments)}: {one.strayed[0]}")

    with bench() as one:
        # what is not changed is read, or the commands would say nothing of what is
        shutil.copytree(one.model, one.cache / "runs" / "20990101-000000-model")
        for command in one.commands("20990101-000000-model"):
            came, wrong = one.call(*command)
            if came != "done" or one.strayed:
                bad.append(
                    f"unchanged: {' '.join(command)}: {came} {wrong} {one.told[-300:]} {one.strayed[:1]}"
                )
        one.clean()
        for number in range(n):
            random = np.random.default_rng([1, number])
            path = one.mutant(random)
            commands = one.commands(path.name)
            # two of the commands in turn, and each of the runs is removed by the last one
            for command in (commands[number % len(commands)], commands[int(random.integers(len(commands)))]):
                note("run", number, one, command)
            note("run", number, one, ["runs", "rm", path.name, "--yes"])
            one.clean()
        for number in range(n):
            random = np.random.default_rng([2, number])
            Path("study.toml").write_text(one.study(random), encoding="utf-8")
            note("study", number, one, ["run", "study.toml", "--dry-run"])
        if one.tree() != one.before:
            outcomes["files read or removed outside the cache"] += 1
            bad.append("files outside of the cache have changed")
        if not one.good.is_dir() or not one.bank.is_dir():
            bad.append("the run or the bank beside the changed ones is gone")
    figures = {
        "mutated runs": n,
        "mutated studies": n,
        "tracebacks": outcomes["traceback"],
        "hangs": outcomes["hang"],
        "files read or removed outside the cache": outcomes["files read or removed outside the cache"],
        "commands done": outcomes["done"],
        "refused in one line": outcomes["refused"],
        "slowest command, s": round(slowest),
        "seconds": round(time.monotonic() - started),
    }
    seconds = {what: round(used, 1) for what, used in spent.most_common()}
    return {"figures": figures, "bad": bad, "ok": not bad, "seconds": seconds}


def main() -> int:
    """Run the scenario alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    standard = sys.stdout
    result = run(parser.parse_args().scale)
    standard.write(json.dumps(result, indent=1) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
