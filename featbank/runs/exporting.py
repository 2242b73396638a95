"""A run as a folder for others: what it found, what it was made from, and how to make it again."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from featbank._atomic import beside, make_folder, publish, write_json
from featbank._cache import user_path
from featbank._cuts import LOGITS, SOFTMAX, CutName
from featbank.banks.documents import MANIFEST_FILE
from featbank.errors import CacheWriteError, InvalidInputError
from featbank.manifest import SPLITS, Manifest, printable
from featbank.runs.folder import HISTORIES_FILE, RUN_FILE, STUDY_FILE, Run
from featbank.sweep.records import HITS_FILE, RESULTS_FILE

__all__ = ["export_run_folder"]

_FILES = (RESULTS_FILE, HITS_FILE, HISTORIES_FILE, STUDY_FILE, MANIFEST_FILE)
_FOLDERS = ("heads", "predictions", "figures")
_ROWS_FILE = "rows.csv"


def export_run_folder(run: Run, path: str | os.PathLike[str] | None = None) -> Path:
    """Copy a run to a folder that can be given away, opened and made again elsewhere.

    It holds ``results.csv``, the kept heads, their predictions, the figures, ``run.json`` (settings, key of
    the bank, versions; without the paths of this machine), ``rows.csv`` (path, label, split and SHA-256 of
    every image, which ``extract`` opens beside the images), ``requirements.txt`` and a ``README.md`` that
    says how to open it and to make it again. ``Run.open`` opens it.

    Parameters
    ----------
    run : Run
        The run, finished.
    path : path, optional
        The folder, which must not exist; default: the name of the run's folder, in the current one.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InvalidInputError
        If the folder exists, or the run is not finished.
    RunError
        If the run is damaged.
    CacheWriteError
        If it cannot be written; nothing is left of it then.

    Examples
    --------
    >>> from featbank.runs import open_run
    >>> folder = export_run_folder(open_run(), "for-the-paper")
    >>> (folder / "results.csv").exists()
    True
    """
    if not run.finished:
        raise InvalidInputError(
            f"run {printable(run.name)!r} is not finished; repeat its command, which goes on with it, and "
            "then export it"
        )
    target = (Path(run.path.name) if path is None else user_path(path)).absolute()
    if target.exists() or target.is_symlink():
        shown = printable(str(target))
        raise InvalidInputError(f"{shown!r} exists; give another --output (path=...), or remove it")
    manifest = run.manifest
    facts = _without_paths({**run.facts, "command": _command(run.facts.get("command", ""))})
    source = facts["source"]
    source["bank"] = "/".join(Path(run.source["bank"]).parts[-2:])
    source["weights_path"] = None
    make_folder(target.parent)
    try:
        with beside(target) as temporary:
            temporary.mkdir()
            for name in _FILES:
                if (run.path / name).is_file():
                    shutil.copyfile(run.path / name, temporary / name)
            for folder in _FOLDERS:
                for file in sorted((run.path / folder).glob("*")):
                    if file.is_file() and not file.is_symlink() and not file.name.startswith("."):
                        (temporary / folder).mkdir(exist_ok=True)
                        shutil.copyfile(file, temporary / folder / file.name)
            write_json(temporary / RUN_FILE, facts)
            (temporary / _ROWS_FILE).write_bytes(_rows(manifest))
            pins = [
                f"{package}=={version.partition('+')[0]}"
                for package, version in run.facts.get("versions", {}).items()
                if package != "python" and version[:1].isdigit()
            ]
            (temporary / "requirements.txt").write_text("\n".join([*pins, ""]))
            (temporary / "README.md").write_text(
                _readme(run, facts, manifest), "utf-8", errors="backslashreplace"
            )
            publish(temporary, target)
    except OSError as error:
        if isinstance(error, CacheWriteError):
            raise
        raise CacheWriteError(
            f"cannot write {printable(str(target))!r} ({error.strerror or error}); nothing is left of it"
        ) from error
    return target


def _without_paths(value: Any) -> Any:
    """Return JSON values in which of an absolute path only the last part is left."""
    if isinstance(value, Mapping):
        return {key: _without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    if isinstance(value, str):
        scheme, colon, rest = value.rpartition(":")
        return scheme + colon + Path(rest).name if rest.startswith("/") else value
    return value


def _command(said: str) -> str:
    """Return a command without the paths of this machine.

    Examples
    --------
    >>> _command("/opt/bin/featbank fit-head pets --cut fc7 --cache-dir /home/me/cache")
    'featbank fit-head pets --cut fc7'
    """
    try:
        words = shlex.split(said)
    except ValueError:
        return ""
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word != "--cache-dir" and not word.startswith("--cache-dir="):
            kept.append(_without_paths(word))
        skip = word == "--cache-dir" and not skip
    return shlex.join([Path(kept[0]).name, *kept[1:]]) if kept else ""


def _rows(manifest: Manifest) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    grouped = manifest.groups is not None
    writer.writerow(("path", "label", "split", "sha256", *(("group",) if grouped else ())))
    rows = zip(
        manifest.ids, manifest.labels.tolist(), manifest.splits.tolist(), manifest.digests, strict=True
    )
    for at, (one, label, split, digest) in enumerate(rows):
        if label >= 0:
            group = (manifest.group(at),) if grouped else ()
            name = manifest.classes[label]
            writer.writerow((os.fsdecode(one), name, SPLITS[split], digest.tobytes().hex(), *group))
    return text.getvalue().encode("utf-8", "surrogateescape")


def _readme(run: Run, facts: Mapping[str, Any], manifest: Manifest) -> str:
    source = facts["source"]
    precision, _, compiled = source["precision"].partition("+")
    dtype, _, clipped = source["dtype"].partition("-")
    asked = source["provenance"].get("asked") or {}
    options = {
        "name": source["dataset"],
        "backbone": source["backbone"],
        "weights": source["weights"],
        "image-size": asked.get("image_size", source["image_size"]),
        "transform": asked.get("transform"),
        **{one: asked[one] and ",".join(map(str, asked[one])) for one in ("mean", "std") if one in asked},
        "interpolation": asked.get("interpolation"),
        "random-state": asked.get("random_state"),
        "precision": precision,
        "compile": "on" if compiled else None,
        "dtype": dtype,
        "on-overflow": clipped or None,
        "batch-size": source["batch_size"],
    }
    came = str(source["provenance"].get("location") or "")
    # paths of an archive, a table or the web are no files beside which the list could lie
    in_files = not re.match(r"[a-z]{2,}:", came) and Path(came).suffix.lower() in ("", ".csv")
    extract = ["featbank", "extract", _ROWS_FILE if in_files else came]
    cuts = [CutName.parse(cut) for cut in facts["cuts"]]
    for cut in dict.fromkeys(str(replace(one, base=LOGITS) if one.base == SOFTMAX else one) for one in cuts):
        extract += ["--cut", cut]
    for view in facts["parameters"].get("views") or ():
        extract += ["--view", view]
    if manifest.groups is not None and in_files:
        options["group"] = "group"
    for option, value in options.items():
        extract += [] if value is None else [f"--{option}", str(value)]
    best = run.best_head() if any(one["saved"] for one in run.heads()) else None
    counts = ", ".join(f"{n} {split}" for split, n in facts.get("rows", {}).items())
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    lines = [
        f"# {printable(run.name)}",
        "",
        f"{printable(source['dataset'])} ({len(manifest)} images of {len(facts['classes'])} classes; "
        f"{counts}), features of {printable(source['backbone'])}, made {facts['created']} by featbank.",
        "",
        "| file | what |",
        "|---|---|",
        "| `results.csv` | one line for each fit |",
        "| `rows.csv` | path, label, split and SHA-256 of every image |",
        "| `run.json` | settings, key of the features, versions, kept heads |",
        "| `heads/`, `predictions/` | fitted heads (safetensors and JSON), what each answered |",
        "| `figures/` | the figures |",
        "| `requirements.txt` | the versions it was made with |",
        "",
        "## Open it",
        "```python",
        "import pandas",
        'results = pandas.read_csv("results.csv")',
        "",
        "from featbank.runs import Run",
        'run = Run.open(".")',
        *([f"head = run.load_head({best['name']!r})"] if best is not None else []),
        "```",
        "`featbank predict . photo.jpg --weights FILE` classifies photographs, `featbank report .` makes a "
        "page.",
        "",
        "## Make it again",
        f"Weights: {printable(str(source['weights']))}, SHA-256 `{source['weights_sha256']}`. "
        f"Versions: {versions}.",
        "",
        f"Copy `{_ROWS_FILE}` to the folder of the images (its paths are relative to that), and there:"
        if in_files
        else f"With the images (`{printable(came)}`; `{_ROWS_FILE}` has the split of each):",
        "```",
        shlex.join(extract),
        facts["command"] or "featbank fit-head  # with the parameters in run.json",
        "```",
        "The features are those of the run if the key is the same: "
        f"`featbank banks info` must say `{source['key_digest'][:8]}` behind the name of the bank.",
        "",
    ]
    return "\n".join(lines)
