"""``featbank doctor``."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from featbank import __version__
from featbank._bucket import BucketPath
from featbank._process import package_versions
from featbank.cli._terminal import CacheDir, Json, counted, human_bytes, print_json
from featbank.errors import FeatbankError, one_line
from featbank.manifest import printable

__all__ = ["doctor"]

#: What decides numbers, or is asked for first when something is odd.
_TOLD = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "h5py", "pillow", "safetensors")
_REQUIREMENT = re.compile(r"([\w.-]+).*?;.*extra == ['\"]([\w-]+)['\"]")
#: For those who change featbank; nothing of a user's is missing without them.
_OF_DEVELOPERS = ("dev", "docs")
_MOST_SHOWN = 6


def doctor(cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """Say what there is on this machine, and the line that brings what is not.

    Versions, devices, cores and quota, the cache and its disk, weights at hand, optional packages. It changes
    nothing, downloads nothing, and does not fail because something is missing.

    Example: featbank doctor

    Example: featbank doctor --json
    """
    facts = {
        "featbank": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(_TOLD),
        **_devices(),
        **_cores(),
        "cache": _cache(cache_dir),
        "weights": _weights(),
        "extras": _extras(),
    }
    if as_json:
        print_json(facts)
        return
    for heading, text in _lines(facts):
        typer.echo(f"{heading:<12} {text}".rstrip())


def _devices() -> dict[str, Any]:
    """Ask torch, which takes a second to import; that it cannot be imported is what is to be told."""
    try:
        import torch

        from featbank.extraction.forward import native_precisions

        names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        devices = [torch.device(one) for one in [*names, "cpu"]]
        return {
            "devices": [
                {
                    "device": str(one),
                    "precision": native_precisions(one)[0],
                    "name": torch.cuda.get_device_name(one) if one.type == "cuda" else platform.machine(),
                    "memory_bytes": torch.cuda.get_device_properties(one).total_memory
                    if one.type == "cuda"
                    else None,
                }
                for one in devices
            ],
            "torch_threads": torch.get_num_threads(),
            "torch_error": None,
        }
    except Exception as error:  # noqa: BLE001 - a broken driver or half an installation raises anything
        said = one_line(error)
        return {"devices": [], "torch_threads": None, "torch_error": said}


def _cores() -> dict[str, Any]:
    from featbank._process import usable_cores

    return {
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }


def _cache(cache_dir: str | None) -> dict[str, Any]:
    from featbank._cache import banks_folder, cache_folder, runs_folder

    try:
        folder, banks = cache_folder(cache_dir), banks_folder(cache_dir)
    except FeatbankError as error:  # an address of no bucket, a name that no file can have
        asked = cache_dir or os.environ.get("FEATBANK_CACHE") or ""
        nothing = {"exists": False, "writable": False, "free_bytes": 0, "banks": 0, "runs": 0}
        return {"path": asked, **nothing, "bucket": None, "error": str(error)}
    there = folder.absolute()
    while not there.is_dir() and there != there.parent:
        there = there.parent
    fault, n_banks = None, 0
    try:
        n_banks = len(list(banks.glob("*/*/bank.json"))) if banks.is_dir() else 0
    except FeatbankError as error:  # a bucket that cannot be reached, or not without obstore
        fault = str(error)
    runs = runs_folder(cache_dir)
    return {
        "path": str(folder),
        "exists": folder.is_dir(),
        "writable": os.access(there, os.W_OK),
        "free_bytes": shutil.disk_usage(there).free,
        "banks": n_banks,
        "runs": len(list(runs.glob("*/run.json"))) if runs.is_dir() else 0,
        "bucket": str(banks) if isinstance(banks, BucketPath) else None,
        "error": fault,
    }


def _weights() -> dict[str, Any]:
    """Name the files of weights that need no network, without opening one."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    checkpoints = Path(os.environ.get("TORCH_HOME") or caches / "torch").expanduser() / "hub" / "checkpoints"
    home = Path(os.environ.get("HF_HOME") or caches / "huggingface").expanduser()
    models = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    return {
        "bundled": ["minivgg"],
        "torchvision": {
            "path": str(checkpoints),
            "files": sorted(one.name for one in checkpoints.glob("*.pth")) if checkpoints.is_dir() else [],
        },
        "hub": {
            "path": str(models),
            "models": sorted(
                one.name.removeprefix("models--").replace("--", "/") for one in models.glob("models--*")
            ),
        },
    }


def _extras() -> list[dict[str, Any]] | None:
    """Return each optional group with what of it is missing, by featbank's own metadata; None without it."""
    from importlib import metadata

    try:
        required = metadata.requires("featbank") or ()
    except metadata.PackageNotFoundError:
        return None
    needs: dict[str, list[str]] = {}
    for line in required:
        if (match := _REQUIREMENT.match(line)) and match[2] not in _OF_DEVELOPERS:
            if "python_version < " in line and sys.version_info >= (3, 14):
                continue  # what newer Pythons bring themselves
            needs.setdefault(match[2], []).append(match[1])
    return [
        {
            "extra": extra,
            "missing": [one for one, version in package_versions(packages).items() if version is None],
            "install": f"pip install 'featbank[{extra}]'",
        }
        for extra, packages in sorted(needs.items())
    ]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(names[:_MOST_SHOWN]) + more


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the facts for people, each with its heading."""
    yield "featbank", f"{facts['featbank']}, Python {facts['python']}, {facts['platform']}"
    yield "packages", ", ".join(f"{name} {one or 'MISSING'}" for name, one in facts["packages"].items())
    if facts["torch_error"]:
        yield "torch", f"cannot be used: {facts['torch_error']}"
        yield "", "pip install --force-reinstall torchvision brings it anew"
    heading = "devices"
    for one in facts["devices"]:
        memory = f", {human_bytes(one['memory_bytes'])}" if one["memory_bytes"] else ""
        yield heading, f"{one['device']} ({one['name']}{memory}), fastest in {one['precision']}"
        heading = ""
    asked = facts["omp_num_threads"]
    told = f", OMP_NUM_THREADS={printable(asked)}" if asked else ""
    yield "cores", f"{facts['usable_cores']} usable (affinity and quota) of {facts['cores']}{told}"
    cache = facts["cache"]
    banks = "" if cache["bucket"] else f"{counted(cache['banks'], 'bank')}, "
    state = f"{banks}{counted(cache['runs'], 'run')}" if cache["exists"] else "not there yet"
    if cache["error"] and not cache["bucket"]:
        yield "cache", f"cannot be used: {printable(cache['error'])}"
    else:
        yield "cache", f"{printable(cache['path'])}: {state}, {human_bytes(cache['free_bytes'])} free"
    if cache["bucket"]:
        state = (
            f"cannot be used: {printable(cache['error'])}" if cache["error"] else f"{cache['banks']} banks"
        )
        yield "", f"{printable(cache['bucket'])}: {state}"
    if not cache["writable"] and (cache["bucket"] or not cache["error"]):
        yield "", "no permission to write there: --cache-dir or FEATBANK_CACHE names another place"
    weights = facts["weights"]
    yield "weights", "minivgg comes with featbank"
    for name, found, way in (
        ("torchvision", weights["torchvision"]["files"], "--weights FILE"),
        ("hub", weights["hub"]["models"], "--backbone hf:FOLDER"),
    ):
        none = f"none; fetched when first asked for, without a network give {way}"
        yield "", f"{name}, {printable(weights[name]['path'])}: {_some(found) or none}"
    extras = facts["extras"]
    if extras is None:
        yield "extras", "not known: this featbank was not installed by pip"
        return
    there = ", ".join(one["extra"] for one in extras if not one["missing"])
    yield "extras", f"there: {there or 'none'}"
    for one in extras:
        if one["missing"]:
            yield "", f"{one['extra']}: {', '.join(one['missing'])} missing; {one['install']}"
