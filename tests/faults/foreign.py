"""A folder of a stranger: files named as modules and programs beside the images, and none of them runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any

from world import World, make_images

#: Of the standard library, of what featbank needs, of what Python or a library looks for by itself.
_MODULES = [
    "json", "types", "enum", "random", "struct", "pickle", "socket", "tempfile", "logging",
    "dataclasses", "hashlib", "warnings", "numpy", "PIL", "featbank", "torch", "torchvision",
    "sklearn", "scipy", "joblib", "h5py", "cloudpickle", "sitecustomize", "usercustomize",
    "olefile", "defusedxml", "pillow_avif", "cffi",
]  # fmt: skip
_PROGRAMS = ("python", "python3", "python3.11", "gs", "ffmpeg", "g++", "djpeg", "uname", "ldconfig")
#: Says that it ran, and then is the module it pretends to be.
_FOREIGN = """import os, sys
with open({told!r}, "a") as file: file.write(__name__ + " " + str(os.getpid()) + "\\n")
here, path = {here!r}, sys.path[:]
sys.path[:] = [one for one in path if os.path.abspath(one or ".") != here]
del sys.modules[__name__]
import importlib
sys.modules[__name__] = importlib.import_module(__name__)
sys.path[:] = path
"""
_COMMANDS = (
    "run",
    "extract . --backbone minivgg --cut fc7 --workers 2 --skip-empty-classes",
    "fit-head here --head knn --head ncm -n 2 --repeats 2 -j 2",
    "banks pack here stranger.fbk",
    "banks import stranger.fbk --cache-dir ../other",
    "predict last red",
)
#: As a notebook does: the folder is on the path, everything is imported before that.
_NOTEBOOK = """
import os, sys
import h5py, joblib, numpy, sklearn.svm, torch
import featbank, featbank.banks, featbank.extraction, featbank.heads, featbank.sweep
sys.path.insert(0, "")
result = featbank.extract(".", backbone="minivgg", cuts=["fc7"], cache_dir={cache!r}, name="here",
                          skip_empty_classes=True)
featbank.run_sweep(featbank.Bank.open(result.bank), heads=["ncm", "knn"], samples_per_class="2", repeats=2,
                   n_jobs=2)
with open({told!r}, "a") as file: file.write("notebook " + str(os.getpid()) + "\\n")
"""


def foreign_modules(world: World, *, short: bool) -> dict[str, Any]:
    """Run a notebook whose path holds the folder, and commands in it; count what ran of the folder.

    In short, the notebook starts the processes that decode and fit, and commands only those that torch is not
    needed for: importing it is most of what a command costs.
    """
    place = world.fresh(on_disk=True)
    here, told = place / "here", place / "told"
    make_images(here, 12)
    for name in _MODULES:
        text = _FOREIGN.format(told=str(told), here=str(here))
        if len(name) % 2:
            (here / f"{name}.py").write_text(text)
        else:
            (here / name).mkdir()
            (here / name / "__init__.py").write_text(text)
    for name in _PROGRAMS:
        (here / name).write_text(f'#!/bin/sh\necho "program {name}" >> "{told}"\nexit 1\n')
        (here / name).chmod(0o755)
    (here / "pipelines").mkdir()
    (here / "pipelines" / "strange.toml").write_text('title = "Strange"\n[sweep]\nheads = ["olefile:Head"]\n')
    environment = {**os.environ, "FEATBANK_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, "-P", "-c", "from featbank.cli import main; main()"]
    cache = place / ("cache" if short else "own")
    commands = [[sys.executable, "-P", "-c", _NOTEBOOK.format(cache=str(cache), told=str(told))]]
    commands += [
        [*script, *words.split()] for words in _COMMANDS if not short or words.startswith(("banks", "run"))
    ]
    bad = []
    for command in commands:
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            bad.append(f"{command[4:]} ended with {done.returncode}: {done.stderr[-500:]}")
    lines = told.read_text().split("\n")[:-1] if told.exists() else []
    notebooks = {line.split()[1] for line in lines if line.startswith("notebook ")}
    # What the notebook itself imports from its own folder is its own affair.
    ran = [line for line in lines if line.split()[1] not in notebooks]
    shutil.rmtree(place)
    return {
        "figures": {
            "commands": len(commands),
            "modules and programs there": len(_MODULES) + len(_PROGRAMS),
            "programs and modules of a stranger's folder": len(ran),
        },
        "bad": [*bad, *sorted(set(ran))[:5]],
        "ok": not bad and not ran and len(notebooks) == 1,
    }
